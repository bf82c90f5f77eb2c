"""The states of an intent: the design's picture and nothing else, and no way round the promises."""

from __future__ import annotations

import re

import pytest

from kie_async._core import lifecycle
from kie_async._core.lifecycle import BINDABLE, ENDED, OPEN, TRANSITIONS, Intent, can_follow
from kie_async.states import JobState

S = JobState

#: The arrows of the picture in the design.
PICTURE = {
    (S.INTENT, S.SENDING),
    (S.INTENT, S.CANCELLED),
    (S.SENDING, S.INTENT),
    (S.SENDING, S.SUBMITTED),
    (S.SENDING, S.REJECTED),
    (S.SENDING, S.IN_DOUBT),
    (S.SUBMITTED, S.SUCCEEDED),
    (S.SUBMITTED, S.FAILED),
    (S.SUBMITTED, S.STALLED),
    (S.STALLED, S.SUCCEEDED),
    (S.STALLED, S.FAILED),
    (S.IN_DOUBT, S.SUBMITTED),
    (S.IN_DOUBT, S.UNRESOLVED),
    (S.UNRESOLVED, S.SUBMITTED),
    (S.UNRESOLVED, S.INTENT),
    (S.UNRESOLVED, S.ABANDONED),
}

#: The moves that the design's text adds, with its reason.
TEXT = {
    (S.IN_DOUBT, S.INTENT): "resubmit is legal in doubt, too",
    (S.IN_DOUBT, S.ABANDONED): "so is abandon",
    (S.CANCELLED, S.INTENT): "the same key again is sent anew",
    (S.REJECTED, S.INTENT): "the same key again, where no attempt was suspect",
    (S.REJECTED, S.SUBMITTED): "an authentic late callback, where one was",
    (S.INTENT, S.REJECTED): "withdrawn, where an attempt was suspect",
    (S.INTENT, S.SUBMITTED): "an authentic callback of a suspect attempt, before the next one",
}


def after(*states: JobState) -> set[JobState]:
    """All that may become of *states*."""
    found, left = set[JobState](), list(states)
    while left:
        new = TRANSITIONS[left.pop()] - found
        found |= new
        left += new
    return found


def test_the_moves_are_those_of_the_design() -> None:
    transitions = {(old, new) for old in S for new in S if can_follow(old, new)}

    assert PICTURE | set(TEXT) == transitions


def test_every_state_has_its_line_in_the_table() -> None:
    assert set(S) == set(TRANSITIONS)


def test_every_state_is_reached_and_every_open_one_can_end() -> None:
    assert set(S) == after(S.INTENT) | {S.INTENT}
    assert {state for state in S if after(state) & ENDED} >= OPEN | {S.UNRESOLVED}


def test_the_services_last_word_and_the_callers_are_final() -> None:
    assert {S.SUCCEEDED, S.FAILED, S.ABANDONED} == {state for state in S if not TRANSITIONS[state]}


def test_what_was_accepted_is_never_sent_again_and_never_given_up() -> None:
    assert {S.SUCCEEDED, S.FAILED, S.STALLED} == after(S.SUBMITTED)


def test_what_was_refused_or_withdrawn_comes_back_only_by_a_key_or_by_proof() -> None:
    assert {S.INTENT} == TRANSITIONS[S.CANCELLED]
    assert {S.INTENT, S.SUBMITTED} == TRANSITIONS[S.REJECTED]


def test_what_may_have_been_paid_is_withdrawn_only_by_way_of_intent() -> None:
    """There it is proved that nothing was accepted, or the caller has asked for a duplicate."""
    assert {S.INTENT} == {state for state in S if can_follow(state, S.CANCELLED)}


def test_a_job_is_open_or_ended_or_waits_for_its_callers_word() -> None:
    assert not OPEN & ENDED
    assert {S.UNRESOLVED} == set(S) - OPEN - ENDED


def test_a_task_can_be_bound_where_the_journal_lets_it() -> None:
    assert {state for state in S if can_follow(state, S.SUBMITTED)} == BINDABLE


def test_the_picture_in_the_source_knows_every_state_and_no_other() -> None:
    _, picture = (lifecycle.__doc__ or "").split("::\n", 1)

    assert {state.name for state in S} == set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", picture))


@pytest.mark.parametrize("state", S)
def test_states_are_written_down_under_their_names(state: JobState) -> None:
    """Journals outlive versions: a state that was renamed could not be read any more."""
    assert state.name.lower() == state.value


def test_an_intent_begins_with_nothing_sent() -> None:
    intent = Intent(id="kj_1", model="m", input="{}", fingerprint="f", created_at=1.0, updated_at=1.0)

    assert (S.INTENT, 0, 0) == (intent.state, intent.attempts, intent.ambiguous_attempts)
    assert (None, None, ()) == (intent.task_id, intent.sending_at, intent.duplicate_task_ids)
