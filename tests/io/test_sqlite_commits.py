"""Group commit: concurrent calls share a transaction, errors affect one call only, and cancellation undoes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import JournalError
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.journal import WorkerReport
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import virtual_time
from kie_async.testing.clock import VirtualLoop
from tests.full_disk import limit_file_size
from tests.io.intents import bring_to_state, make_intent, open_store

if TYPE_CHECKING:
    from kie_async._io.journals.process_locks import ProcessLocks

S = JobState


class TracedStore(SqliteStore):
    """A store that records its SQL statements."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.statements: list[str] = []

    def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
        connection = super()._connect(owners)
        connection.set_trace_callback(self.statements.append)
        return connection


async def add_concurrently(journal: SqliteStore, rows: list[Intent]) -> dict[int, JournalError]:
    """Add rows concurrently, and return the errors by index."""
    wrong: dict[int, JournalError] = {}

    async def add(place: int) -> None:
        try:
            await journal.add(rows[place])
        except JournalError as error:
            wrong[place] = error

    async with anyio.create_task_group() as group:
        for place in range(len(rows)):
            group.start_soon(add, place)
    return wrong


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- group commit ------------------------------------------------------------------------------------------------------


async def test_100_concurrent_writes_take_two_transactions(tmp_path: Path) -> None:
    """The first write runs alone, and the others are committed together: two flushes instead of a hundred."""
    journal = TracedStore(tmp_path / "kie.db")
    await journal.open()
    rows = [await journal.add(make_intent(number)) for number in range(100)]
    journal.statements.clear()
    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(bring_to_state, journal, row, S.SENDING)

    assert 2 == journal.statements.count("COMMIT")
    assert 100 == len(await journal.rows({S.SENDING}))
    await journal.close()


async def test_reads_take_no_transaction(tmp_path: Path) -> None:
    """So a read never waits for another process."""
    journal = TracedStore(tmp_path / "kie.db")
    await journal.open()
    journal.statements.clear()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(journal.rows)
            group.start_soon(journal.workers)
            group.start_soon(journal.count_orphans)

    assert [] == [text for text in journal.statements if text.startswith(("BEGIN", "COMMIT"))]
    await journal.close()


async def test_heartbeat_alone_causes_no_flush(tmp_path: Path) -> None:
    """A transition in the same transaction does, and every later one."""
    journal = TracedStore(tmp_path / "kie.db")
    await journal.open()
    row = await journal.add(make_intent(1))
    journal.statements.clear()

    await journal.heartbeat(WorkerReport())
    pragmas = [text for text in journal.statements if text.startswith(("PRAGMA", "COMMIT"))]
    assert ["PRAGMA synchronous = NORMAL", "COMMIT", "PRAGMA synchronous = FULL"] == pragmas
    journal.statements.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.workers())  # the thread is busy
        group.create_task(journal.heartbeat(WorkerReport()))
        group.create_task(journal.transition(row, S.SENDING, at=2.0, attempts=1))
    assert ["COMMIT"] == [text for text in journal.statements if text.startswith(("PRAGMA", "COMMIT"))]
    await journal.close()


async def test_calls_run_in_order(tmp_path: Path) -> None:
    """Also within one transaction: a transition finds the row that was added just before."""
    async with open_store(tmp_path / "kie.db") as journal:
        row = make_intent(1, owner=journal.worker)
        async with asyncio.TaskGroup() as group:
            group.create_task(journal.workers())  # the thread is busy
            group.create_task(journal.add(row))
            sending = group.create_task(journal.transition(row, S.SENDING, at=2.0, attempts=1))
            found = group.create_task(journal.get(row.id))
            late = group.create_task(journal.transition(row, S.SENDING, at=3.0, attempts=1))

        assert found.result() == sending.result() is not None
        assert late.result() is None


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_invalid_row_fails_alone(tmp_path: Path) -> None:
    """A used id and an unencodable string fail among fifty good rows in one transaction."""
    async with open_store(tmp_path / "kie.db") as journal:
        rows = [make_intent(number) for number in range(50)]
        rows[7] = make_intent(7, model="\ud800")
        rows[23] = make_intent(22)
        wrong = await add_concurrently(journal, rows)

        assert {7, 23} == set(wrong)
        assert isinstance(wrong[7].__cause__, UnicodeEncodeError)
        assert isinstance(wrong[23].__cause__, sqlite3.IntegrityError)
        assert [row.id for place, row in enumerate(rows) if place not in wrong] == [
            row.id for row in await journal.rows()
        ]


async def test_full_disk_changes_nothing(tmp_path: Path) -> None:
    """Written rows stay and others are absent; once there is space again, all writes succeed."""
    path = tmp_path / "kie.db"
    async with open_store(path) as journal:
        before = [await journal.add(make_intent(number)) for number in range(5)]
        with limit_file_size((tmp_path / "kie.db-wal").stat().st_size):
            wrong = await add_concurrently(journal, [make_intent(number) for number in range(5, 30)])
            with pytest.raises(JournalError, match="cannot be used"):
                await bring_to_state(journal, before[0], S.SENDING)
            assert before == list(await journal.rows())
        assert 25 == len(wrong) == len({id(error) for error in wrong.values()})
        assert {} == await add_concurrently(journal, [make_intent(number) for number in range(5, 30)])
        assert 30 == len(await journal.rows())
    async with open_store(path) as journal:
        assert 30 == len(await journal.rows())


async def test_disk_full_at_opening(tmp_path: Path) -> None:
    """Afterwards the file is like an empty one."""
    path = tmp_path / "kie.db"
    with limit_file_size(0), pytest.raises(JournalError, match="cannot be used"):
        await SqliteStore(path).open()
    async with open_store(path) as journal:
        assert [] == list(await journal.rows())


async def test_database_at_its_size_limit_is_full(tmp_path: Path) -> None:
    class Small(SqliteStore):
        def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
            connection = super()._connect(owners)
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
            return connection

    journal = Small(tmp_path / "kie.db")
    await journal.open()
    wrong = await add_concurrently(journal, [make_intent(number) for number in range(50)])
    written = [row.id for row in await journal.rows()]
    await journal.close()

    assert wrong
    assert all("database or disk is full" in str(error) for error in wrong.values())
    assert written == [make_intent(number).id for number in range(50) if number not in wrong]


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
def test_cancelled_write_is_completed(tmp_path: Path, *, busy: bool) -> None:
    """The thread may run it already or still be busy with another call."""
    left = []

    async def main(path: Path, turn: int) -> bool:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with open_store(path) as journal:
            others = [loop.create_task(journal.add(make_intent(number))) for number in range(3)] if busy else []
            await asyncio.sleep(0)
            task = loop.create_task(journal.add(make_intent(9)))
            loop.at_turn(loop.turns + turn, task.cancel)
            await asyncio.wait([task, *others])
            await journal.workers()  # the thread does one thing after another
            assert await journal.get(make_intent(9).id) is not None
            assert len(others) + 1 == len(await journal.rows())
            return task.cancelled()

    for turn in range(1, 30):
        left.append(virtual_time(main, tmp_path / f"{turn}.db", turn))
        if not left[-1]:
            break
    assert left[0]
    assert not left[-1], "the last write was not cancelled"
    assert left.count(True) >= 2


async def test_close_completes_waiting_writes(tmp_path: Path) -> None:
    """Later calls are refused."""
    journal = SqliteStore(tmp_path / "kie.db")
    await journal.open()
    async with asyncio.TaskGroup() as group:
        adding = [group.create_task(journal.add(make_intent(number))) for number in range(50)]
        await asyncio.sleep(0)
        await journal.close()
    with pytest.raises(JournalError, match="not open"):
        await journal.add(make_intent(99))

    assert [make_intent(number).id for number in range(50)] == [task.result().id for task in adding]
    async with open_store(tmp_path / "kie.db") as again:
        assert [task.result() for task in adding] == list(await again.rows())


def test_cancelled_opening_leaves_nothing_open(tmp_path: Path) -> None:
    """Neither a connection nor a lock stays open, and the store can be opened again."""

    async def main(path: Path, turn: int) -> bool:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        journal = SqliteStore(path)
        task = loop.create_task(journal.open())
        loop.at_turn(loop.turns + turn, task.cancel)
        await asyncio.wait([task])
        if not task.cancelled():
            await journal.close()
            return False
        with pytest.raises(JournalError, match="not open"):
            await journal.rows()
        await journal.open()
        await journal.add(make_intent(1))
        await journal.close()
        return True

    left = []
    for turn in range(1, 30):
        path = tmp_path / f"{turn}.db"
        left.append(virtual_time(main, path, turn))
        if not left[-1]:
            break
        for thread in threading.enumerate():
            if thread.name.startswith("kie_async journal"):
                thread.join()
        connection = sqlite3.connect(path)
        assert "delete" == connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0], "no process has it open"
        connection.close()
        assert [] == names_in(Path(f"{path}.owners"))
    assert left[0]
    assert not left[-1]


async def test_calls_during_a_failing_opening_fail(tmp_path: Path) -> None:
    """With the reason, and not with an empty result."""
    (tmp_path / "kie.db").write_text("no database")
    journal = SqliteStore(tmp_path / "kie.db")
    opening = asyncio.create_task(journal.open())
    await asyncio.sleep(0)
    with pytest.raises(JournalError, match="could not be opened"):
        await journal.rows()
    with pytest.raises(JournalError, match="not a database"):
        await opening


# -- event loops -------------------------------------------------------------------------------------------------------


def test_store_serves_consecutive_loops(tmp_path: Path) -> None:
    journal = SqliteStore(tmp_path / "kie.db")

    async def main(number: int) -> list[bool]:
        await journal.open()
        await journal.add(make_intent(number))
        rows = await journal.rows()
        await journal.close()
        return [journal.owns(row) for row in rows]

    assert [[True], [False, True], [False, False, True]] == [virtual_time(main, n, seed=n) for n in range(3)]
