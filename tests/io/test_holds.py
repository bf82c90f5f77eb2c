"""Holds of shared runs: a row has one holder, who keeps it until it ends or leaves the row; see ``Journal.hold``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest

from kie_async._core.lifecycle import Intent
from kie_async._io.journals.journal import PAGE, Journal
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from tests.io.intents import bring_to_state, make_intent, open_store

#: Opens one more journal of the same rows.
Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Journal]]


@pytest.fixture
def open_journal(tmp_path: Path) -> Open:
    """Return a function that opens one more worker's journal."""
    return partial(open_store, tmp_path / "kie.db")


async def hold(journal: Journal, row: Intent) -> tuple[str | None, str | None]:
    """Ask for the hold of a row; return its holder and what was yielded of it."""
    ((holder, yielded),) = [(held.holder, held.yielded) for held in await journal.hold([row.id, "kj_unknown"])]
    return holder, yielded


async def test_hold_stays_with_a_living_worker(open_journal: Open) -> None:
    async with open_journal() as first, open_journal() as second:
        row = await first.add(make_intent())

        assert (first.worker, None) == await hold(first, row)
        assert (first.worker, None) == await hold(second, row)
        await second.end_hold(row.id, None)  # which it does not have
        assert (first.worker, None) == await hold(second, row)
        await first.end_hold(row.id, None)
        assert (second.worker, None) == await hold(second, row)


async def test_hold_of_a_worker_that_has_ended_is_taken_by_one(open_journal: Open) -> None:
    async with open_journal() as ended:
        rows = [await ended.add(attrs.evolve(make_intent(number), holder=ended.worker)) for number in range(PAGE + 1)]
    async with open_journal() as first, open_journal() as second:
        held = [await store.hold([row.id for row in rows]) for store in (first, second)]

    assert [{first.worker}] * 2 == [{row.holder for row in taken} for taken in held]
    assert [PAGE + 1] * 2 == [len(taken) for taken in held]


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.REJECTED])
async def test_yielded_row_is_not_held_again_unless_it_may_be_sent_anew(open_journal: Open, state: JobState) -> None:
    async with open_journal() as journal:
        await check_yielded(journal, state)


async def test_row_is_held_again_once_its_state_has_changed(open_journal: Open) -> None:
    async with open_journal() as journal:
        await check_changed(journal)


async def test_yield_is_recorded_also_after_the_hold_was_lost(open_journal: Open) -> None:
    """The other workers have taken this one for ended, and it has yielded the row all the same."""
    async with open_journal() as first, open_journal() as second:
        row = await bring_to_state(first, await first.add(make_intent()), JobState.SUCCEEDED)
        await hold(second, row)
        await first.end_hold(row.id, JobState.SUCCEEDED)

        assert (first.worker, "succeeded") == await hold(second, row)


async def test_journal_in_memory_holds_alike() -> None:
    for state in (JobState.FAILED, JobState.REJECTED):
        await check_yielded(MemoryJournal(), state)
    await check_changed(MemoryJournal())


async def check_yielded(journal: Journal, state: JobState) -> None:
    """Check that a row whose outcome was yielded is held again only if it may be sent anew."""
    row = await bring_to_state(journal, await journal.add(make_intent()), state)
    await journal.end_hold(row.id, state)
    await journal.end_hold("kj_unknown", state)

    yielded = None if state is JobState.REJECTED else state
    assert (journal.worker, yielded) == await hold(journal, row)


async def check_changed(journal: Journal) -> None:
    """Check that a row is held again that was yielded as stalled, and has succeeded since."""
    row = await bring_to_state(journal, await journal.add(make_intent()), JobState.STALLED)
    await journal.end_hold(row.id, JobState.STALLED)
    seen = await journal.get(row.id)
    assert seen is not None
    await journal.transition(seen, JobState.SUCCEEDED, at=9.0)

    assert (journal.worker, None) == await hold(journal, row)
