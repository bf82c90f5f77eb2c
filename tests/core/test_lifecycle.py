"""Test the transitions of a job: those of the design, and no others."""

from __future__ import annotations

import re

import pytest

from kie_async._core import lifecycle
from kie_async._core.lifecycle import BINDABLE, ENDED, OPEN, TRANSITIONS, Intent, can_follow
from kie_async.states import JobState

S = JobState

#: The transitions in the design's picture.
DESIGN_PICTURE = {
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

#: The transitions that the design's text adds, with their reasons.
DESIGN_TEXT = {
    (S.IN_DOUBT, S.INTENT): "resubmit is legal in doubt, too",
    (S.IN_DOUBT, S.ABANDONED): "abandon, too",
    (S.CANCELLED, S.INTENT): "the same key again is sent anew",
    (S.REJECTED, S.INTENT): "the same key again, without an ambiguous attempt",
    (S.REJECTED, S.SUBMITTED): "an authentic late callback, with an ambiguous attempt",
    (S.INTENT, S.REJECTED): "cancelled, with an ambiguous attempt",
    (S.INTENT, S.SUBMITTED): "an authentic callback of an ambiguous attempt, before the next attempt",
    (S.INTENT, S.INTENT): "its owner gives it up, and any process may send it",
}


def reachable_from(*states: JobState) -> set[JobState]:
    """Return all states that can be reached from *states*."""
    found, left = set[JobState](), list(states)
    while left:
        new = TRANSITIONS[left.pop()] - found
        found |= new
        left += new
    return found


def test_transitions_are_those_of_the_design() -> None:
    transitions = {(old, new) for old in S for new in S if can_follow(old, new)}

    assert DESIGN_PICTURE | set(DESIGN_TEXT) == transitions


def test_every_state_is_in_the_table() -> None:
    assert set(S) == set(TRANSITIONS)


def test_all_states_are_reachable_and_open_ones_can_end() -> None:
    assert set(S) == reachable_from(S.INTENT) | {S.INTENT}
    assert {state for state in S if reachable_from(state) & ENDED} >= OPEN | {S.UNRESOLVED}


def test_final_states() -> None:
    assert {S.SUCCEEDED, S.FAILED, S.ABANDONED} == {state for state in S if not TRANSITIONS[state]}


def test_accepted_jobs_are_never_sent_again() -> None:
    assert {S.SUCCEEDED, S.FAILED, S.STALLED} == reachable_from(S.SUBMITTED)


def test_rejected_and_cancelled_jobs_can_restart() -> None:
    assert {S.INTENT} == TRANSITIONS[S.CANCELLED]
    assert {S.INTENT, S.SUBMITTED} == TRANSITIONS[S.REJECTED]


def test_only_intents_can_be_cancelled() -> None:
    """In INTENT it is proved that nothing was accepted, or the caller has asked for a duplicate."""
    assert {S.INTENT} == {state for state in S if can_follow(state, S.CANCELLED)}


def test_states_are_open_ended_or_unresolved() -> None:
    assert not OPEN & ENDED
    assert {S.UNRESOLVED} == set(S) - OPEN - ENDED


def test_bindable_states_can_become_submitted() -> None:
    assert {state for state in S if can_follow(state, S.SUBMITTED)} == BINDABLE


def test_the_module_docstring_shows_every_state() -> None:
    _, picture = (lifecycle.__doc__ or "").split("::\n", 1)

    assert {state.name for state in S} == set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", picture))


@pytest.mark.parametrize("state", S)
def test_state_values_are_their_names(state: JobState) -> None:
    """A journal that was written with an old name could not be read."""
    assert state.name.lower() == state.value


def test_a_new_intent_has_no_attempts() -> None:
    intent = Intent(id="kj_1", model="m", input="{}", fingerprint="f", created_at=1.0, updated_at=1.0)

    assert (S.INTENT, 0, 0) == (intent.state, intent.attempts, intent.ambiguous_attempts)
    assert (None, None, ()) == (intent.task_id, intent.sending_at, intent.duplicate_task_ids)
