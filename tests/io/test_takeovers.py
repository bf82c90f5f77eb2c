"""Takeovers: what workers leave that end is taken over once, and what was given up stays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from kie_async._io.journals.journal import Journal
from kie_async.states import JobState
from tests.io.intents import bring_to_state, make_intent, open_store

S = JobState

#: Opens one more journal of the same rows.
Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Journal]]


@pytest.fixture
def open_journal(tmp_path: Path) -> Open:
    """Return a function that opens one more worker's journal."""
    return partial(open_store, tmp_path / "kie.db")


async def test_take_over_returns_what_this_call_has_taken(open_journal: Open) -> None:
    """In pages, the oldest first; rows that were given up, and those of living workers, stay as they are."""
    async with open_journal() as heir, open_journal() as other:
        own = await heir.add(make_intent(0))
        async with open_journal() as ended:
            rows = [await ended.add(make_intent(number)) for number in (1, 2, 3, 4)]
            await bring_to_state(ended, rows[2], S.SUBMITTED)
            await ended.transition(rows[3], S.INTENT, at=2.0, owner=None, error="why")
            assert [] == list(await heir.take_over(limit=2))

        taken = await heir.take_over(limit=2)
        assert [row.id for row in rows[:2]] == [row.id for row in taken]
        assert {(S.INTENT, heir.worker)} == {(row.state, row.owner) for row in taken}
        (last,) = await other.take_over(limit=2)
        assert (rows[2].id, S.SUBMITTED, other.worker) == (last.id, last.state, last.owner)
        assert [] == list(await heir.take_over(limit=2))
        assert {S.INTENT: 1} == dict(await heir.count_orphans())
        assert own == await heir.get(own.id)
        assert not await heir.has_expired_owners()
