"""The journal in memory: rows move by compare-and-set only, keys are kept, and it does not grow without bound."""

from __future__ import annotations

import itertools

import pytest

from kie_async import JournalError
from kie_async._core.lifecycle import ENDED, OPEN, TRANSITIONS, Intent
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from tests.io.intents import an_intent, moved

S = JobState


async def placed(journal: MemoryJournal, row: Intent, state: JobState) -> Intent:
    """Write a row down and move it to a state."""
    return await moved(journal, await journal.add(row), state)


async def test_a_row_moves_only_if_it_stands_as_it_was_seen() -> None:
    """State and attempts: of two who move at once, one is told that he was not the one."""
    journal = MemoryJournal()
    seen = await journal.add(an_intent())
    first = await journal.transition(seen, S.SENDING, at=2.0, attempts=1, sending_at=2.0)
    second = await journal.transition(seen, S.SENDING, at=3.0, attempts=1, sending_at=3.0)

    assert first is not None
    assert second is None
    assert first == await journal.get(seen.id)
    assert (S.SENDING, 1, 2.0, 2.0) == (first.state, first.attempts, first.sending_at, first.updated_at)


async def test_a_row_that_was_sent_again_in_between_is_another_row() -> None:
    """The same state, but another attempt: a late answer to the first must not move the second."""
    journal = MemoryJournal()
    row = await journal.add(an_intent())
    first = await journal.transition(row, S.SENDING, at=2.0, attempts=1)
    assert first is not None
    back = await journal.transition(first, S.INTENT, at=3.0)
    assert back is not None
    second = await journal.transition(back, S.SENDING, at=4.0, attempts=2)

    assert None is await journal.transition(first, S.SUBMITTED, at=5.0, task_id="late")
    assert second == await journal.get(row.id)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
async def test_only_the_moves_of_the_table_are_made(old: S, new: S) -> None:
    """A move that is not there is a bug of ours: it raises, and changes nothing."""
    journal = MemoryJournal()
    row = await placed(journal, an_intent(), old)
    if new in TRANSITIONS[old]:
        after = await journal.transition(row, new, at=9.0)
        assert after is not None
        assert (new, 9.0) == (after.state, after.updated_at)
    else:
        with pytest.raises(JournalError):
            await journal.transition(row, new, at=9.0)
        assert row == await journal.get(row.id)


async def test_one_key_has_one_row() -> None:
    """Whoever comes second is handed the first one's row, and his own is not written."""
    journal = MemoryJournal()
    first = await journal.add(an_intent(1, key="order 7"))
    second = await journal.add(an_intent(2, key="order 7"))

    assert first == second == await journal.by_key("order 7")
    assert [first] == list(await journal.rows())
    assert None is await journal.by_key("order 8")
    assert None is await journal.get(an_intent(2).id)


async def test_an_id_is_written_once() -> None:
    journal = MemoryJournal()
    await journal.add(an_intent())
    with pytest.raises(JournalError):
        await journal.add(an_intent(fingerprint="f" * 64))


async def test_a_row_is_found_by_every_task_of_its() -> None:
    journal = MemoryJournal()
    row = await placed(journal, an_intent(), S.SUBMITTED)
    noted = await journal.update_fields(row.id, at=5.0, duplicate_task_ids=("twin",))

    assert noted is not None
    assert ("a-task", ("twin",), S.SUBMITTED) == (noted.task_id, noted.duplicate_task_ids, noted.state)
    assert noted == await journal.by_task("a-task") == await journal.by_task("twin")
    assert None is await journal.by_task("another")
    assert None is await journal.update_fields("kj_nobody", at=5.0, error="x")


async def test_rows_come_oldest_first_and_by_state() -> None:
    journal = MemoryJournal()
    for number, state in enumerate((S.SUCCEEDED, S.INTENT, S.IN_DOUBT, S.INTENT)):
        await placed(journal, an_intent(number), state)

    assert [an_intent(number).id for number in range(4)] == [row.id for row in await journal.rows()]
    assert [an_intent(number).id for number in (1, 3)] == [row.id for row in await journal.rows([S.INTENT])]
    assert [] == list(await journal.rows([]))


async def test_forget_deletes_what_has_ended_before_an_instant() -> None:
    """With its key and its tasks; what may still happen stays, however old it is."""
    journal = MemoryJournal()
    for number, state in enumerate(S):
        row = await placed(journal, an_intent(number, key=str(number)), state)
        await journal.update_fields(row.id, at=10.0 + number)
    assert 0 == await journal.forget(before=10.0)
    ended = [state for state in S if state in ENDED]
    assert len(ended) == await journal.forget(before=1000.0)

    left = [row.state for row in await journal.rows()]
    assert [state for state in S if state not in ENDED] == left
    for number, state in enumerate(S):
        assert (state in ENDED) == (await journal.by_key(str(number)) is None)
    assert set(OPEN) <= set(left)


async def test_ended_rows_without_a_key_are_kept_up_to_a_number() -> None:
    """The first to have ended go first; rows with a key stay, since forgetting one would pay it again."""
    journal = MemoryJournal(keep_ended=3)
    await placed(journal, an_intent(100, key="order 7"), S.SUCCEEDED)
    await placed(journal, an_intent(101), S.IN_DOUBT)
    for number in range(10):
        await placed(journal, an_intent(number), S.CANCELLED)

    kept = [row.id for row in await journal.rows()]
    assert [an_intent(number).id for number in (100, 101, 7, 8, 9)] == kept


async def test_a_row_that_goes_on_is_not_forgotten() -> None:
    """A withdrawn job that is sent anew counts as running again."""
    journal = MemoryJournal(keep_ended=1)
    row = await placed(journal, an_intent(0), S.CANCELLED)
    assert await journal.transition(row, S.INTENT, at=5.0) is not None
    for number in range(1, 5):
        await placed(journal, an_intent(number), S.CANCELLED)

    assert S.INTENT == getattr(await journal.get(row.id), "state", None)


async def test_closing_keeps_the_rows() -> None:
    """The next event loop of the same client goes on with them."""
    journal = MemoryJournal()
    row = await journal.add(an_intent())
    await journal.close()

    assert row == await journal.get(row.id)
    assert not journal.durable
    assert journal.owns(row)
    assert [row] == list(await journal.claim())
    assert [] == list(await journal.claim(["kj_another"]))
