"""The journal's thread: what comes at once is one transaction, what fails fails alone, and leaving undoes nothing."""

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
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import virtual_time
from kie_async.testing.clock import VirtualLoop
from tests.full_disk import files_of_at_most
from tests.io.intents import an_intent, moved, opened

if TYPE_CHECKING:
    from kie_async._io.journals.process_locks import ProcessLocks

S = JobState


class Traced(SqliteStore):
    """A journal whose statements are listened to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.statements: list[str] = []

    def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
        connection = super()._connect(owners)
        connection.set_trace_callback(self.statements.append)
        return connection


async def all_at_once(journal: SqliteStore, rows: list[Intent]) -> dict[int, JournalError]:
    """Add rows at the same time, and return what went wrong, by place."""
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


async def test_a_hundred_moves_at_once_are_two_transactions(tmp_path: Path) -> None:
    """The first goes by itself, and what has come meanwhile goes together: two flushes instead of a hundred."""
    journal = Traced(tmp_path / "kie.db")
    await journal.open()
    rows = [await journal.add(an_intent(number)) for number in range(100)]
    journal.statements.clear()
    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(moved, journal, row, S.SENDING)

    assert 2 == journal.statements.count("COMMIT")
    assert 100 == len(await journal.rows({S.SENDING}))
    await journal.close()


async def test_reading_alone_takes_no_transaction(tmp_path: Path) -> None:
    """So it never waits for another process."""
    journal = Traced(tmp_path / "kie.db")
    await journal.open()
    journal.statements.clear()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(journal.rows)
            group.start_soon(journal.change_counter)
            group.start_soon(journal.count_orphans)

    assert [] == [text for text in journal.statements if text.startswith(("BEGIN", "COMMIT"))]
    await journal.close()


async def test_what_is_asked_for_in_order_is_done_in_order(tmp_path: Path) -> None:
    """Within one transaction, too: a move sees the row that was added just before it."""
    async with opened(tmp_path / "kie.db") as journal:
        row = an_intent(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(journal.change_counter())  # the thread is busy
            group.create_task(journal.add(row))
            sending = group.create_task(journal.transition(row, S.SENDING, at=2.0, attempts=1))
            found = group.create_task(journal.get(row.id))
            late = group.create_task(journal.transition(row, S.SENDING, at=3.0, attempts=1))

        assert found.result() == sending.result() is not None
        assert late.result() is None


# -- what fails --------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    """An id that is taken and a text that is none, among fifty good ones in one transaction."""
    async with opened(tmp_path / "kie.db") as journal:
        rows = [an_intent(number) for number in range(50)]
        rows[7] = an_intent(7, model="\ud800")
        rows[23] = an_intent(22)
        wrong = await all_at_once(journal, rows)

        assert {7, 23} == set(wrong)
        assert isinstance(wrong[7].__cause__, UnicodeEncodeError)
        assert isinstance(wrong[23].__cause__, sqlite3.IntegrityError)
        assert [row.id for place, row in enumerate(rows) if place not in wrong] == [
            row.id for row in await journal.rows()
        ]


async def test_a_full_disk_is_told_and_changes_nothing(tmp_path: Path) -> None:
    """What was written stays, what was not is not there, and when there is room again all goes on."""
    path = tmp_path / "kie.db"
    async with opened(path) as journal:
        before = [await journal.add(an_intent(number)) for number in range(5)]
        with files_of_at_most((tmp_path / "kie.db-wal").stat().st_size):
            wrong = await all_at_once(journal, [an_intent(number) for number in range(5, 30)])
            with pytest.raises(JournalError, match="cannot be used"):
                await moved(journal, before[0], S.SENDING)
            assert before == list(await journal.rows())
        assert 25 == len(wrong) == len({id(error) for error in wrong.values()})
        assert {} == await all_at_once(journal, [an_intent(number) for number in range(5, 30)])
        assert 30 == len(await journal.rows())
    async with opened(path) as journal:
        assert 30 == len(await journal.rows())


async def test_a_disk_that_is_full_from_the_beginning_is_told(tmp_path: Path) -> None:
    """Then it is as if the file had been empty."""
    path = tmp_path / "kie.db"
    with files_of_at_most(0), pytest.raises(JournalError, match="cannot be used"):
        await SqliteStore(path).open()
    async with opened(path) as journal:
        assert [] == list(await journal.rows())


async def test_a_database_that_may_not_grow_says_that_it_is_full(tmp_path: Path) -> None:
    class Small(SqliteStore):
        def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
            connection = super()._connect(owners)
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
            return connection

    journal = Small(tmp_path / "kie.db")
    await journal.open()
    wrong = await all_at_once(journal, [an_intent(number) for number in range(50)])
    written = [row.id for row in await journal.rows()]
    await journal.close()

    assert wrong
    assert all("database or disk is full" in str(error) for error in wrong.values())
    assert written == [an_intent(number).id for number in range(50) if number not in wrong]


# -- leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
def test_leaving_a_write_at_any_turn_neither_loses_nor_undoes_it(tmp_path: Path, *, busy: bool) -> None:
    """Whether the thread is at it already, or still busy with something else."""
    left = []

    async def main(path: Path, turn: int) -> bool:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with opened(path) as journal:
            others = [loop.create_task(journal.add(an_intent(number))) for number in range(3)] if busy else []
            await asyncio.sleep(0)
            task = loop.create_task(journal.add(an_intent(9)))
            loop.at_turn(loop.turns + turn, task.cancel)
            await asyncio.wait([task, *others])
            await journal.change_counter()  # the thread does one thing after another
            assert await journal.get(an_intent(9).id) is not None
            assert len(others) + 1 == len(await journal.rows())
            return task.cancelled()

    for turn in range(1, 30):
        left.append(virtual_time(main, tmp_path / f"{turn}.db", turn))
        if not left[-1]:
            break
    assert left[0]
    assert not left[-1], "the last one was not left any more"
    assert left.count(True) >= 2


async def test_closing_writes_what_still_waits(tmp_path: Path) -> None:
    """And takes nothing more."""
    journal = SqliteStore(tmp_path / "kie.db")
    await journal.open()
    async with asyncio.TaskGroup() as group:
        adding = [group.create_task(journal.add(an_intent(number))) for number in range(50)]
        await asyncio.sleep(0)
        await journal.close()
    with pytest.raises(JournalError, match="not open"):
        await journal.add(an_intent(99))

    assert [an_intent(number).id for number in range(50)] == [task.result().id for task in adding]
    async with opened(tmp_path / "kie.db") as again:
        assert [task.result() for task in adding] == list(await again.rows())


def test_leaving_the_opening_at_any_turn_leaves_nothing_open(tmp_path: Path) -> None:
    """Neither a connection nor an owner; and it can be opened again."""

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
        await journal.add(an_intent(1))
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
        assert "delete" == connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0], "nobody has it open"
        connection.close()
        assert [] == names_in(Path(f"{path}.owners"))
    assert left[0]
    assert not left[-1]


async def test_what_is_asked_while_the_opening_fails_fails(tmp_path: Path) -> None:
    """With the reason, and not with an empty answer."""
    (tmp_path / "kie.db").write_text("no database")
    journal = SqliteStore(tmp_path / "kie.db")
    opening = asyncio.create_task(journal.open())
    await asyncio.sleep(0)
    with pytest.raises(JournalError, match="could not be opened"):
        await journal.rows()
    with pytest.raises(JournalError, match="not a database"):
        await opening


# -- event loops -------------------------------------------------------------------------------------------------------


def test_a_journal_serves_one_loop_after_another(tmp_path: Path) -> None:
    journal = SqliteStore(tmp_path / "kie.db")

    async def main(number: int) -> list[bool]:
        await journal.open()
        await journal.add(an_intent(number))
        rows = await journal.rows()
        await journal.close()
        return [journal.owns(row) for row in rows]

    assert [[True], [False, True], [False, False, True]] == [virtual_time(main, n, seed=n) for n in range(3)]
