"""Test what is written again after the journal has gone back in time: nothing acknowledged is lost, or sent twice."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core import acknowledged
from kie_async._core.acknowledged import KEPT_FOR, AcknowledgedRows, Repair, Restoration, repair
from kie_async._core.lifecycle import ENDED, Intent
from kie_async.budget import BudgetInfo
from kie_async.states import JobState
from tests.io.intents import make_intent

S = JobState

#: The life of a job, as its owner was told it.
ADDED = make_intent(1, key="order-7", owner="a")
SENDING = attrs.evolve(ADDED, state=S.SENDING, attempts=1, sending_at=2.0, updated_at=2.0, version=1)
SUBMITTED = attrs.evolve(SENDING, state=S.SUBMITTED, task_id="a-task", accepted_at=3.0, updated_at=3.0, version=2)
SUCCEEDED = attrs.evolve(SUBMITTED, state=S.SUCCEEDED, record="{}", credits=80.0, updated_at=4.0, version=3)
LIFE = (ADDED, SENDING, SUBMITTED, SUCCEEDED)
EARLIER = [(told, present) for number, told in enumerate(LIFE) for present in (None, *LIFE[:number])]


def repaired(told: Intent, present: Intent | None, *, forgotten_until: float = 0.0) -> Intent | None:
    """Return the row that the journal has after a comparison."""
    found = repair(told, present, forgotten_until=forgotten_until)
    return present if found is None else found.row


# -- what is written again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("told", "present"), EARLIER)
def test_row_that_went_back_is_written_as_acknowledged(told: Intent, present: Intent | None) -> None:
    assert repair(told, present, forgotten_until=0.0) == Repair(present=present, row=told)


@pytest.mark.parametrize(("present", "told"), [(row, row) for row in LIFE] + list(pairwise((*LIFE[::-1],))))
def test_row_that_is_as_told_or_later_stays(present: Intent, told: Intent) -> None:
    assert repair(told, present, forgotten_until=0.0) is None


@pytest.mark.parametrize(
    ("state", "until", "stays_away"), [(S.SUCCEEDED, 4.0, True), (S.SUCCEEDED, 3.9, False), (S.SUBMITTED, 9.0, False)]
)
def test_forgotten_row_is_not_written_again(*, state: JobState, until: float, stays_away: bool) -> None:
    """Only an ended row can have been forgotten, and only up to the latest change of a row that was."""
    told = attrs.evolve(SUCCEEDED, state=state)

    assert (repaired(told, None, forgotten_until=until) is None) is stays_away


def test_later_version_without_the_task_gets_it_back() -> None:
    """Callbacks were noted in the row that had gone back: it has more changes, and still knows less."""
    present = attrs.evolve(SENDING, callback_task_ids=("x",), duplicate_task_ids=("y",), version=7, number=3)
    row = repaired(SUBMITTED, present)

    assert row == attrs.evolve(SUBMITTED, duplicate_task_ids=("y",), version=8)
    assert row is not None
    assert row.number == 3


def test_task_of_a_job_that_was_sent_again_becomes_a_duplicate() -> None:
    """Another process has believed the journal: its attempt continues, and both tasks are known."""
    sent_again = attrs.evolve(SENDING, attempts=2, version=5, owner="b")
    bound = attrs.evolve(SUBMITTED, task_id="its-task", version=6, owner="b")

    assert repaired(SUBMITTED, sent_again) == attrs.evolve(sent_again, duplicate_task_ids=("a-task",), version=6)
    assert repaired(SUBMITTED, bound) == attrs.evolve(bound, duplicate_task_ids=("a-task",), version=7)


def test_attempt_without_a_task_adds_nothing_to_a_later_attempt() -> None:
    """Only its version rises: a process takes no row for news that is older than the one it knows."""
    sent_again = attrs.evolve(SENDING, attempts=2, version=0, owner="b")

    assert repaired(SENDING, sent_again) == attrs.evolve(sent_again, version=1)


_rows = st.builds(
    lambda state, attempts, task_id, duplicates, version, owner: attrs.evolve(
        ADDED,
        state=state,
        attempts=attempts,
        task_id=task_id,
        duplicate_task_ids=tuple(duplicates),
        version=version,
        owner=owner,
    ),
    st.sampled_from(S),
    st.integers(0, 3),
    st.none() | st.sampled_from("xyz"),
    st.lists(st.sampled_from("xyz"), unique=True),
    st.integers(0, 5),
    st.sampled_from("ab"),
)


def tasks_of(row: Intent | None) -> set[str]:
    """Return all tasks that a row knows."""
    return set() if row is None else {row.task_id, *row.duplicate_task_ids} - {None}  # type: ignore[return-value]  # None is not in it


@given(told=_rows, present=st.none() | _rows, forgotten_until=st.floats(0.0, 5.0))
def test_nothing_acknowledged_is_missing_after_a_repair(
    told: Intent, present: Intent | None, forgotten_until: float
) -> None:
    """No task and no attempt: these cost money. What the journal knew itself stays known, too."""
    row = repaired(told, present, forgotten_until=forgotten_until)
    if row is None:
        assert told.state in ENDED
        assert told.updated_at <= forgotten_until
        return
    assert tasks_of(row) == tasks_of(told) | tasks_of(present)
    assert row.attempts >= max(told.attempts, 0 if present is None else present.attempts)
    assert row.version >= told.version
    assert present is None or row == present or row.version > present.version
    assert repair(told, row, forgotten_until=0.0) is None


@given(told=st.lists(_rows, min_size=2, max_size=3), present=st.none() | _rows, order=st.randoms(use_true_random=False))
def test_processes_that_were_told_different_things_agree(
    told: list[Intent], present: Intent | None, order: Random
) -> None:
    """Each repairs by what it was told, in any order and repeatedly; then none of them repairs anything."""
    row = present
    for _ in range(2):
        for one in order.sample(told, len(told)):
            row = repaired(one, row)

    assert [None] * len(told) == [repair(one, row, forgotten_until=0.0) for one in told]


# -- what is remembered ------------------------------------------------------------------------------------------------


def test_latest_version_of_each_row_is_remembered() -> None:
    rows = AcknowledgedRows()
    for row in (ADDED, SUBMITTED, SENDING, make_intent(2)):
        rows.add(row, 0.0)

    assert [SUBMITTED, make_intent(2)] == rows.rows()
    assert 2 == len(rows)
    assert SUBMITTED == rows.get(ADDED.id)
    assert SUBMITTED == rows.by_key("order-7")
    assert rows.get(make_intent(3).id) is None
    assert rows.by_key("order-8") is None


def test_rows_are_forgotten_after_ten_minutes() -> None:
    rows = AcknowledgedRows()
    rows.add(SUBMITTED, 0.0)
    rows.add(make_intent(2), 1.0)
    rows.add(make_intent(3), KEPT_FOR)
    assert 3 == len(rows)

    rows.add(make_intent(4), KEPT_FOR + 1.0)
    assert [make_intent(number) for number in (2, 3, 4)] == rows.rows()
    assert rows.by_key("order-7") is None


def test_discarded_row_is_not_remembered() -> None:
    rows = AcknowledgedRows()
    for row in (SUBMITTED, make_intent(2)):
        rows.add(row, 0.0)
        rows.discard(row.id)

    assert not rows.rows()


def test_only_rows_that_were_never_sent_give_way_to_others() -> None:
    """A table of a million rows does not fill the memory, and displaces nothing that has cost money."""
    rows = AcknowledgedRows()
    rows.add(SUBMITTED, 0.0)
    for number in range(2, acknowledged.MAX_UNSENT + 4):
        rows.add(make_intent(number), 0.0)

    assert acknowledged.MAX_UNSENT + 1 == len(rows)
    assert SUBMITTED == rows.get(SUBMITTED.id)
    assert rows.get(make_intent(2).id) is None
    assert rows.get(make_intent(4).id) is not None


# -- a transaction -----------------------------------------------------------------------------------------------------


def acknowledging(*results: object) -> Restoration:
    """Return what a journal has acknowledged with the results of some calls."""
    restoration = Restoration()
    restoration.commit(results)
    return restoration


def test_results_of_writes_are_acknowledged() -> None:
    """Rows, lists of rows and budgets; other results are none of these."""
    budget = BudgetInfo(name="shop", credits=9.0, spent=0.0, running=0.0, held=0.0)
    restoration = acknowledging(ADDED, [make_intent(2)], budget, 7, None)

    assert [ADDED, make_intent(2)] == restoration.rows()
    assert [budget] == restoration.budgets()
    assert ADDED == restoration.known_by_key("order-7")
    assert [None, None] == [restoration.known_by_key(key) for key in ("order-8", None)]


def test_version_of_a_row_is_at_least_the_latest_known_one() -> None:
    restoration = acknowledging(SENDING)

    assert [1, 1, 2] == [restoration.least_version(ADDED.id, seen) for seen in (None, ADDED, SUBMITTED)]
    assert [0, 2] == [restoration.least_version("?", seen) for seen in (None, SUBMITTED)]


@pytest.mark.parametrize(
    ("present", "seen", "older"),
    [
        (SENDING, None, False),
        (SUBMITTED, None, False),
        (ADDED, None, True),
        (None, None, True),
        (SENDING, SUBMITTED, True),  # it was read, and is older now
        (SENDING, SENDING, False),
    ],
)
def test_older_row_is_found(present: Intent | None, seen: Intent | None, *, older: bool) -> None:
    assert older is acknowledging(SENDING).is_older(present, ADDED.id, seen)


def test_row_that_was_only_read_may_be_gone() -> None:
    """Another process may have forgotten it since; only a row that is there can be older."""
    restoration = acknowledging()

    assert not restoration.is_older(None, ADDED.id, SUBMITTED)
    assert not restoration.is_older(SUBMITTED, ADDED.id, SUBMITTED)
    assert restoration.is_older(SENDING, ADDED.id, SUBMITTED)
    assert [SUBMITTED] == restoration.rows()


def test_repairs_count_once_they_are_committed() -> None:
    """A transaction that is rolled back makes none; rows that are gone are written in their order."""
    others = [attrs.evolve(make_intent(number), number=number) for number in (3, 2)]
    restoration = acknowledging(SUBMITTED, *others)
    expected = [Repair(present=SENDING, row=SUBMITTED), *(Repair(present=None, row=row) for row in reversed(others))]

    assert expected == restoration.compare({ADDED.id: SENDING}, forgotten_until=0.0)
    restoration.begin()
    restoration.commit(())
    assert [] == restoration.take_repairs()

    restoration.begin()
    assert expected == restoration.compare({ADDED.id: SENDING}, forgotten_until=0.0)
    restoration.commit(())
    assert expected == restoration.take_repairs()
    assert [] == restoration.take_repairs()
    present = {row.id: row for row in restoration.rows()}
    assert [] == restoration.compare(present, forgotten_until=0.0)
