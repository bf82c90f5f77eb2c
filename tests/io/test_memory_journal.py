"""The journal in memory: compare-and-set transitions, permanent keys, and bounded memory."""

from __future__ import annotations

import itertools

import pytest

from kie_async import JournalError
from kie_async._core.lifecycle import ENDED, OPEN, TRANSITIONS, Intent
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from tests.io.intents import bring_to_state, make_intent

S = JobState


async def add_in_state(journal: MemoryJournal, row: Intent, state: JobState) -> Intent:
    """Add a row and change it to a state."""
    return await bring_to_state(journal, await journal.add(row), state)


async def test_stale_transition_is_refused() -> None:
    """State and attempts are compared: of two concurrent transitions, one returns None."""
    journal = MemoryJournal()
    seen = await journal.add(make_intent())
    first = await journal.transition(seen, S.SENDING, at=2.0, attempts=1, sending_at=2.0)
    second = await journal.transition(seen, S.SENDING, at=3.0, attempts=1, sending_at=3.0)

    assert first is not None
    assert second is None
    assert first == await journal.get(seen.id)
    assert (S.SENDING, 1, 2.0, 2.0) == (first.state, first.attempts, first.sending_at, first.updated_at)


async def test_later_attempt_refuses_earlier_responses() -> None:
    """The state is the same but the attempt is not: a late response to the first must not change the second."""
    journal = MemoryJournal()
    row = await journal.add(make_intent())
    first = await journal.transition(row, S.SENDING, at=2.0, attempts=1)
    assert first is not None
    back = await journal.transition(first, S.INTENT, at=3.0)
    assert back is not None
    second = await journal.transition(back, S.SENDING, at=4.0, attempts=2)

    assert None is await journal.transition(first, S.SUBMITTED, at=5.0, task_id="late")
    assert second == await journal.get(row.id)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
async def test_illegal_transition_is_refused(old: S, new: S) -> None:
    """It is a bug of ours: it raises, and changes nothing."""
    journal = MemoryJournal()
    row = await add_in_state(journal, make_intent(), old)
    if new in TRANSITIONS[old]:
        after = await journal.transition(row, new, at=9.0)
        assert after is not None
        assert (new, 9.0) == (after.state, after.updated_at)
    else:
        with pytest.raises(JournalError):
            await journal.transition(row, new, at=9.0)
        assert row == await journal.get(row.id)


async def test_key_has_one_row() -> None:
    """The second caller gets the row of the first, and its own is not added."""
    journal = MemoryJournal()
    first = await journal.add(make_intent(1, key="order 7"))
    second = await journal.add(make_intent(2, key="order 7"))

    assert first == second == await journal.by_key("order 7")
    assert [first] == list(await journal.rows())
    assert None is await journal.by_key("order 8")
    assert None is await journal.get(make_intent(2).id)


async def test_id_is_added_once() -> None:
    journal = MemoryJournal()
    await journal.add(make_intent())
    with pytest.raises(JournalError):
        await journal.add(make_intent(fingerprint="f" * 64))


async def test_row_is_found_by_all_its_tasks() -> None:
    journal = MemoryJournal()
    row = await add_in_state(journal, make_intent(), S.SUBMITTED)
    noted = await journal.update_fields(row.id, at=5.0, duplicate_task_ids=("twin",))

    assert noted is not None
    assert ("a-task", ("twin",), S.SUBMITTED) == (noted.task_id, noted.duplicate_task_ids, noted.state)
    assert noted == await journal.by_task("a-task") == await journal.by_task("twin")
    assert None is await journal.by_task("another")
    assert None is await journal.update_fields("kj_unknown", at=5.0, error="x")


async def test_rows_are_ordered_by_insertion() -> None:
    journal = MemoryJournal()
    for number, state in enumerate((S.SUCCEEDED, S.INTENT, S.IN_DOUBT, S.INTENT)):
        await add_in_state(journal, make_intent(number), state)

    assert [make_intent(number).id for number in range(4)] == [row.id for row in await journal.rows()]
    assert [make_intent(number).id for number in (1, 3)] == [row.id for row in await journal.rows([S.INTENT])]
    assert [] == list(await journal.rows([]))


async def test_forget_deletes_old_ended_rows() -> None:
    """With their keys and tasks; open rows stay, however old they are."""
    journal = MemoryJournal()
    for number, state in enumerate(S):
        row = await add_in_state(journal, make_intent(number, key=str(number)), state)
        await journal.update_fields(row.id, at=10.0 + number)
    assert 0 == await journal.forget(before=10.0)
    ended = [state for state in S if state in ENDED]
    assert len(ended) == await journal.forget(before=1000.0)

    left = [row.state for row in await journal.rows()]
    assert [state for state in S if state not in ENDED] == left
    for number, state in enumerate(S):
        assert (state in ENDED) == (await journal.by_key(str(number)) is None)
    assert set(OPEN) <= set(left)


async def test_ended_rows_without_key_are_limited() -> None:
    """The first to have ended are dropped first; rows with a key stay, or they could be paid again."""
    journal = MemoryJournal(keep_ended=3)
    await add_in_state(journal, make_intent(100, key="order 7"), S.SUCCEEDED)
    await add_in_state(journal, make_intent(101), S.IN_DOUBT)
    for number in range(10):
        await add_in_state(journal, make_intent(number), S.CANCELLED)

    kept = [row.id for row in await journal.rows()]
    assert [make_intent(number).id for number in (100, 101, 7, 8, 9)] == kept


async def test_resubmitted_row_is_not_dropped() -> None:
    """A cancelled job that is sent again counts as running."""
    journal = MemoryJournal(keep_ended=1)
    row = await add_in_state(journal, make_intent(0), S.CANCELLED)
    assert await journal.transition(row, S.INTENT, at=5.0) is not None
    for number in range(1, 5):
        await add_in_state(journal, make_intent(number), S.CANCELLED)

    assert S.INTENT == getattr(await journal.get(row.id), "state", None)


async def test_close_keeps_the_rows() -> None:
    """The next event loop of the client continues with them."""
    journal = MemoryJournal()
    row = await journal.add(make_intent())
    await journal.close()

    assert row == await journal.get(row.id)
    assert not journal.durable
    assert journal.owns(row)
    assert [row] == list(await journal.claim())
    assert [] == list(await journal.claim(["kj_another"]))
