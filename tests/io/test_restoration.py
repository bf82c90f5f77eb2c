"""A journal on disk that goes back in time while it is used: what it had acknowledged is restored before it is used."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from kie_async import BudgetExceededError, JournalError
from kie_async._core.acknowledged import Repair
from kie_async._core.lifecycle import Intent
from kie_async.states import JobState
from tests.io.intents import bring_to_state, make_intent, open_store

S = JobState


class GoingBack:
    """
    An open journal that can be set back to what it was.

    Args:
        store: The journal.

        copy: Copies the database; returns what writes the copy back into it.

        open_other: Opens the journal a second time, as another process does.
    """

    def __init__(
        self,
        store: Any,
        copy: Callable[[], Callable[[], object]],
        open_other: Callable[[], AbstractAsyncContextManager[Any]],
    ) -> None:
        self.store = store
        self.copy = copy
        self.open_other = open_other
        self.repairs: list[Repair] = []
        store.on_restored = self.repairs.extend


def copy_file(path: Path) -> Callable[[], None]:
    """Copy a file; return what writes the copy back into it, as ``.restore`` of SQLite's shell does."""
    kept = sqlite3.connect(":memory:")
    with closing(sqlite3.connect(path)) as connection:
        connection.backup(kept)

    def go_back() -> None:
        with closing(sqlite3.connect(path)) as connection, closing(kept):
            kept.backup(connection)

    return go_back


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[GoingBack]:
    """Yield an open journal."""
    path = tmp_path / "kie.db"
    async with open_store(path) as store:
        yield GoingBack(store, partial(copy_file, path), partial(open_store, path))


async def test_lost_rows_are_restored_before_a_transition_is_refused(journal: GoingBack) -> None:
    """Each lost row is restored: one that is gone, one that was not sent yet, and one that has ended."""
    store = journal.store
    waiting, early = [await store.add(make_intent(number)) for number in (1, 2)]
    go_back = journal.copy()
    sending = await bring_to_state(store, waiting, S.SENDING)
    ended = await bring_to_state(store, early, S.SUCCEEDED, credits=80.0, duplicate_task_ids=("b",))
    new = await bring_to_state(store, await store.add(make_intent(3, key="order-7")), S.SUBMITTED)
    go_back()

    submitted = await store.transition(sending, S.SUBMITTED, at=9.0, task_id="x")
    assert submitted == attrs.evolve(sending, state=S.SUBMITTED, updated_at=9.0, task_id="x", version=2)
    assert [submitted, ended, new] == await store.rows()
    assert ended == await store.by_task("b")
    assert [(waiting, sending), (early, ended), (None, new)] == [(one.present, one.row) for one in journal.repairs]


@pytest.mark.parametrize("state", [S.SUCCEEDED, S.IN_DOUBT, S.SENDING])
async def test_job_is_not_sent_again_by_its_older_row(journal: GoingBack, state: JobState) -> None:
    """The row as read says that nothing was sent, and compares equal: what was acknowledged refuses it."""
    added = await journal.store.add(make_intent(1))
    go_back = journal.copy()
    row = await bring_to_state(journal.store, added, state)
    go_back()
    older = await journal.store.get(added.id)

    assert older == added
    assert await journal.store.transition(older, S.SENDING, at=9.0, attempts=1) is None
    assert row == await journal.store.get(added.id)


async def test_key_of_a_lost_row_is_not_added_again(journal: GoingBack) -> None:
    go_back = journal.copy()
    row = await bring_to_state(journal.store, await journal.store.add(make_intent(1, key="order-7")), S.SUCCEEDED)
    go_back()

    assert row == await journal.store.add(make_intent(2, key="order-7"))
    assert [row] == await journal.store.rows()


async def test_fields_are_changed_in_the_restored_row(journal: GoingBack) -> None:
    added = await journal.store.add(make_intent(1))
    go_back = journal.copy()
    row = await bring_to_state(journal.store, added, S.SUBMITTED)
    go_back()
    changed = await journal.store.update_fields(added.id, at=9.0, credits=1.0)

    assert changed == attrs.evolve(row, updated_at=9.0, credits=1.0, version=row.version + 1)
    assert changed == await journal.store.get(added.id)


async def test_row_that_was_only_read_is_restored_if_it_is_older_now(journal: GoingBack) -> None:
    """Another process has written it, which may have ended since."""
    async with journal.open_other() as other:
        added = await other.add(make_intent(1))
        go_back = journal.copy()
        row = await bring_to_state(other, added, S.SUBMITTED)
    seen = await journal.store.get(added.id)
    assert seen == row
    go_back()

    assert await journal.store.transition(seen, S.SUCCEEDED, at=9.0, credits=80.0) is not None
    assert [Repair(present=added, row=row)] == journal.repairs


async def test_budget_pays_for_restored_rows(journal: GoingBack) -> None:
    """Its sums are those of its rows, and its limit is the highest that was acknowledged."""
    store = journal.store
    await store.open_budget("shop", 100.0)
    first = await store.add(make_intent(1, budget="shop", price=40.0))
    go_back = journal.copy()
    await store.raise_budget("shop", 300.0)
    await store.open_budget("other", 50.0)
    sending = await bring_to_state(store, first, S.SENDING)
    await bring_to_state(store, await store.add(make_intent(2, budget="other", price=20.0)), S.SENDING)
    budgets = await store.budgets()
    go_back()
    assert budgets != await store.budgets()

    await store.update_fields(sending.id, at=9.0)
    assert budgets == await store.budgets()


async def test_budget_of_another_process_is_restored_by_that_one(journal: GoingBack) -> None:
    """Until then it has no room, and the jobs that it pays for go on."""
    store = journal.store
    async with journal.open_other() as other:
        go_back = journal.copy()
        await other.open_budget("shop", 100.0)
        row = await bring_to_state(store, await store.add(make_intent(1, budget="shop", price=40.0)), S.SENDING)
        theirs = await bring_to_state(other, await other.add(make_intent(2)), S.SENDING)
        before = await store.budgets()
        go_back()
        submitted = await store.transition(row, S.SUBMITTED, at=9.0, task_id="x")
        assert submitted is not None
        assert 0.0 == (await store.budgets())[0].credits
        await other.update_fields(theirs.id, at=9.0)

    assert before == await store.budgets()


async def test_forgotten_rows_are_not_restored(journal: GoingBack) -> None:
    """Another process has forgotten the ended row; a lost transition restores the other one only."""
    store = journal.store
    ended = await bring_to_state(store, await store.add(make_intent(1, key="order-7")), S.SUCCEEDED)
    async with journal.open_other() as other:
        assert 1 == await other.forget(before=ended.updated_at + 1.0)

    assert await store.transition(attrs.evolve(ended, state=S.SUBMITTED), S.FAILED, at=9.0) is None
    assert [] == await store.rows()
    assert make_intent(2).id == (await store.add(make_intent(2, key="order-7"))).id
    assert not journal.repairs


async def test_job_that_others_have_ended_and_forgotten_is_not_restored(journal: GoingBack) -> None:
    """This process has written that it was submitted, and has read that it has ended."""
    store = journal.store
    row = await bring_to_state(store, await store.add(make_intent(1, key="order-7")), S.SUBMITTED)
    async with journal.open_other() as other:
        ended = await other.transition(row, S.SUCCEEDED, at=9.0)
        assert {row.id: ended} == await store.find_changed([row])
        assert 1 == await other.forget(before=ended.updated_at + 1.0)

    assert make_intent(2).id == (await store.add(make_intent(2, key="order-7"))).id
    assert not journal.repairs


async def test_key_that_another_job_has_got_stays_with_it(journal: GoingBack) -> None:
    """The lost row is restored without it: its task is paid, and nothing may be lost of it."""
    store = journal.store
    added = await store.add(make_intent(1))
    go_back = journal.copy()
    row = await bring_to_state(store, await store.add(make_intent(2, key="order-7")), S.SUBMITTED)
    go_back()
    async with journal.open_other() as other:
        again = await other.add(make_intent(3, key="order-7"))
    await bring_to_state(store, await bring_to_state(store, added, S.SENDING), S.INTENT)
    assert await store.transition(row, S.SUCCEEDED, at=9.0) is not None

    assert again == await store.by_key("order-7")
    found = await store.by_task(row.task_id or "")
    assert (row.id, None) == (None if found is None else (found.id, found.key))


async def test_file_that_was_replaced_is_not_used(journal: GoingBack, tmp_path: Path) -> None:
    """Its rows would be lost with it, and paid again by the processes that use the new file."""
    row = await journal.store.add(make_intent(1))
    async with open_store(tmp_path / "other.db"):
        pass
    (tmp_path / "other.db").replace(tmp_path / "kie.db")

    with pytest.raises(JournalError, match=r"was replaced while it was in use"):
        await journal.store.transition(row, S.SENDING, at=9.0)
    (tmp_path / "kie.db").unlink()
    with pytest.raises(JournalError, match=r"was replaced while it was in use"):
        await journal.store.add(make_intent(2))


async def test_repairs_of_a_transaction_that_fails_are_made_once(journal: GoingBack) -> None:
    """A call fails after the repairs in the same transaction, so that all calls are repeated one by one."""
    store = journal.store
    await store.open_budget("shop", 100.0)
    added, dear = await store.add(make_intent(1)), await store.add(make_intent(2, budget="shop", price=200.0))
    go_back = journal.copy()
    row = await bring_to_state(store, added, S.SENDING)
    go_back()
    results: dict[str, object] = {}

    async def change(name: str, seen: Intent, state: JobState, **changes: Any) -> None:
        try:
            results[name] = await store.transition(seen, state, at=9.0, **changes)
        except BudgetExceededError as error:
            results[name] = error

    async with anyio.create_task_group() as group:
        group.start_soon(store.get, row.id)  # the others wait for it, and share a transaction
        group.start_soon(partial(change, "lost", row, S.SUBMITTED, task_id="x"))
        group.start_soon(partial(change, "dear", dear, S.SENDING, attempts=1))

    assert isinstance(results["dear"], BudgetExceededError)
    assert isinstance(results["lost"], Intent)
    assert [Repair(present=added, row=row)] == journal.repairs
