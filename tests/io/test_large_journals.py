"""Work on a journal of any size: in pages, by indices, and without the write lock while rows are read."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_async import JobState, KieClient
from kie_async._core.acknowledged import Restoration
from kie_async._core.lifecycle import ENDED, OPEN, UNFINISHED, Intent
from kie_async._io.journals import tables
from kie_async._io.journals.journal import PAGE, Journal, Service, read_job_infos, read_pages
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.budget import BudgetInfo
from kie_async.testing import virtual_time
from tests.io.intents import make_intent, open_store
from tests.profile import examples

if TYPE_CHECKING:
    from collections.abc import Sequence

S = JobState

#: More than two pages, and not a multiple of one.
MANY = 2 * PAGE + 50


def fill(path: Path, rows: Sequence[Intent]) -> None:
    """Write rows to a new journal in one transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables.prepare_file(connection, path)
        tables.bind_service(connection, Service())
        connection.execute("BEGIN")
        for row in rows:
            tables.insert_row(connection, Restoration(), row)
        connection.execute("COMMIT")


async def fill_off_the_loop(path: Path, rows: Sequence[Intent]) -> None:
    """Do the same in a thread."""
    await anyio.to_thread.run_sync(fill, path, rows)


def as_it_is(row: Intent) -> Intent:
    """Return the row itself: nothing about it is unwritten."""
    return row


def row_in(state: JobState, number: int, **fields: Any) -> Intent:
    """Return a row in any state."""
    task = {"task_id": f"task-{number}"} if state in (S.SUBMITTED, S.SUCCEEDED, S.FAILED, S.STALLED) else {}
    return make_intent(number, state=state, **{**task, **fields})


@pytest.fixture(params=["memory", "disk"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    """Yield an open journal of each kind."""
    kept: Journal = MemoryJournal() if request.param == "memory" else SqliteStore(tmp_path / "kie.db")
    await kept.open()
    yield kept
    await kept.close()


# -- pages -------------------------------------------------------------------------------------------------------------

QUERIES: dict[str, Callable[[Journal, int, int | None], Awaitable[Sequence[Intent]]]] = {
    "all rows": lambda journal, after, limit: journal.rows(after=after, limit=limit),
    "unfinished rows": lambda journal, after, limit: journal.rows(UNFINISHED, after=after, limit=limit),
    "open and ended rows": lambda journal, after, limit: journal.rows(
        {S.INTENT, S.CANCELLED}, after=after, limit=limit
    ),
    "claimed rows": lambda journal, after, limit: journal.claim(after=after, limit=limit),
    "rows named by callbacks": lambda journal, after, limit: journal.rows_named_by_callbacks(after=after, limit=limit),
}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("kind", ["memory", "disk"])
@settings(max_examples=examples(15))
@given(data=st.data())
def test_pages_together_are_the_whole_result(kind: str, query: str, data: st.DataObject) -> None:
    """Whatever was deleted before, in pages of any size."""
    steps = data.draw(st.lists(st.sampled_from(["add", "name", "cancel", "forget"]), max_size=25))
    size = data.draw(st.integers(1, 7))

    async def main(folder: str) -> None:
        journal: Journal = MemoryJournal() if kind == "memory" else SqliteStore(Path(folder) / "kie.db")
        await journal.open()
        for number, step in enumerate(steps):
            if step == "forget":
                await journal.forget(before=1e9)
                continue
            row = await journal.add(make_intent(number))
            if step == "name":
                await journal.update_fields(row.id, at=1.0, callback_task_ids=("a-task",))
            elif step == "cancel":
                await journal.transition(row, S.CANCELLED, at=1.0)
        whole = list(await QUERIES[query](journal, 0, None))
        pages = [page async for page in read_pages(lambda after: QUERIES[query](journal, after, size))]

        assert whole == [row for page in pages for row in page]
        assert all(len(page) == size for page in pages[:-1])
        assert sorted({row.number for row in whole}) == [row.number for row in whole]
        await journal.close()

    with TemporaryDirectory() as folder:
        virtual_time(main, folder)


async def test_many_ids_and_rows_are_asked_for_in_parts(tmp_path: Path) -> None:
    rows = [row_in(S.SUBMITTED, number, key=f"key-{number}") for number in range(MANY)]
    await fill_off_the_loop(tmp_path / "kie.db", rows)
    async with open_store(tmp_path / "kie.db") as journal:
        ids = [row.id for row in rows]

        claimed = await journal.claim(ids[::-1])
        assert ids == [row.id for row in claimed]
        assert {f"key-{number}" for number in range(MANY)} == {
            row.key for row in await journal.by_keys([f"key-{number}" for number in range(MANY)])
        }
        assert {} == await journal.find_changed(claimed)
        changed = [await journal.update_fields(ids[place], at=9.0, credits=1.0) for place in (0, PAGE, MANY - 1)]
        assert {row.id: row for row in changed if row is not None} == await journal.find_changed(claimed)


async def test_jobs_are_a_sequence_that_makes_each_item_when_it_is_read(journal: Journal) -> None:
    """It compares and prints like a list."""
    rows = [await journal.add(make_intent(number, key=f"key-{number}")) for number in range(MANY)]
    await journal.transition(rows[1], S.CANCELLED, at=5.0, error='["TransportError","Gone.",null,""]')
    await journal.update_fields(rows[2].id, at=6.0, duplicate_task_ids=("b", "c"))
    infos = await read_job_infos(journal, unfinished=False, latest=as_it_is)

    assert MANY == len(infos)
    assert [row.id for row in rows] == [info.job_id for info in infos]
    assert ("Gone.", S.CANCELLED, 5.0) == (infos[1].error, infos[1].state, infos[1].updated_at)
    assert ("b", "c") == infos[2].duplicates
    assert infos[-1].job_id == rows[-1].id
    assert infos == list(infos)
    assert list(infos) == infos
    assert infos[1:3] == [infos[1], infos[2]]
    assert infos[1:3] != [infos[1]]
    assert repr(infos[:2]) == repr([infos[0], infos[1]])
    assert infos[5] in infos
    with pytest.raises(IndexError):
        infos[MANY]
    with pytest.raises(TypeError):
        hash(infos)
    unfinished = await read_job_infos(journal, unfinished=True, latest=as_it_is)
    assert [row.id for row in rows if row is not rows[1]] == [info.job_id for info in unfinished]


# -- who waits ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def holding_the_lock(path: Path) -> AsyncIterator[None]:
    """Hold the write lock of a journal, as a process that stands still within its transaction."""
    run = anyio.to_thread.run_sync
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    await run(other.execute, "BEGIN IMMEDIATE")
    try:
        yield
    finally:
        await run(other.close)


@pytest.mark.parametrize("call", ["jobs", "jobs(unfinished=True)", "recover", "claim of ids"])
async def test_reading_needs_no_write_lock(call: str, tmp_path: Path) -> None:
    """Another process may hold it for as long as it takes: no read runs within a transaction of writes."""
    path = tmp_path / "kie.db"
    await fill_off_the_loop(path, [row_in(S.SUCCEEDED, number) for number in range(MANY)])
    async with open_store(path) as journal:
        await journal.add(make_intent(MANY))
        calls: dict[str, Callable[[], Awaitable[Sequence[Any]]]] = {
            "jobs": lambda: read_job_infos(journal, unfinished=False, latest=as_it_is),
            "jobs(unfinished=True)": lambda: read_job_infos(journal, unfinished=True, latest=as_it_is),
            "recover": lambda: journal.claim(limit=PAGE),
            "claim of ids": lambda: journal.claim([make_intent(MANY).id]),
        }
        async with holding_the_lock(path):
            assert (MANY + 1 if call == "jobs" else 1) == len(await calls[call]())


@pytest.mark.parametrize("call", ["recover", "forget"])
async def test_other_processes_write_between_the_steps_of_a_long_change(call: str, tmp_path: Path) -> None:
    """One transaction for all rows would let them wait for its end."""
    path = tmp_path / "kie.db"
    await fill_off_the_loop(
        path, [row_in(S.SUBMITTED if call == "recover" else S.SUCCEEDED, number) for number in range(MANY)]
    )
    added = changed = 0

    async def change() -> None:
        nonlocal changed
        if call == "forget":
            changed = await journal.forget(before=1e9)
        else:
            async for page in read_pages(lambda after: journal.claim(after=after, limit=PAGE)):
                changed += len(page)
                await anyio.sleep(0.01)
        scope.cancel()

    async with open_store(path) as journal, open_store(path) as other, anyio.create_task_group() as group:
        scope = group.cancel_scope
        group.start_soon(change)
        while True:
            await other.add(make_intent(10_000 + added))
            added += 1
            await anyio.sleep(0.001)

    assert MANY == changed
    assert added > MANY / PAGE


async def test_reads_run_after_the_transaction_of_the_writes_beside_them(tmp_path: Path) -> None:
    """They see what it has written, and an error of a read undoes no write."""
    seen: list[tuple[bool, int]] = []

    def look(connection: sqlite3.Connection) -> None:
        seen.append((connection.in_transaction, connection.execute("SELECT count(*) FROM intents").fetchone()[0]))

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT no_such_column FROM intents")

    async with open_store(tmp_path / "kie.db") as journal:

        async def fails() -> None:
            with suppress(Exception):
                await journal._read(fail)  # noqa: SLF001  # any statement

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(fails)
                group.start_soon(journal._read, look)  # noqa: SLF001
                group.start_soon(journal.add, make_intent(number))
        assert 10 == len(await journal.rows())

    assert {False} == {in_transaction for in_transaction, _ in seen}
    assert 10 == seen[-1][1]


async def test_cancelled_forget_leaves_a_journal_that_forgets_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "kie.db"
    await fill_off_the_loop(
        path, [row_in(S.SUCCEEDED, number, duplicate_task_ids=(f"d-{number}",)) for number in range(MANY)]
    )
    async with open_store(path) as journal:
        with anyio.move_on_after(0.03):
            await journal.forget(before=1e9)
        left = len(await journal.rows())
        assert 0 < left < MANY

        assert left == await journal.forget(before=1e9)
        assert [] == list(await journal.rows())
        assert await journal.by_task("d-7") is None


async def test_forget_spares_a_row_that_changes_while_it_is_at_work(tmp_path: Path) -> None:
    """It is found to be old, and is deleted only if it is still old then."""
    path = tmp_path / "kie.db"
    await fill_off_the_loop(path, [row_in(S.CANCELLED, number) for number in range(MANY)])
    async with open_store(path) as journal, anyio.create_task_group() as group:
        last = (await journal.rows())[-1]
        group.start_soon(lambda: journal.forget(before=5.0))
        await anyio.sleep(0.015)
        assert await journal.transition(last, S.INTENT, at=2.0) is not None

    async with open_store(path) as journal:
        assert [last.id] == [row.id for row in await journal.rows()]


async def test_two_processes_share_the_rows_of_a_dead_one(tmp_path: Path) -> None:
    """Each row has one owner afterwards."""
    path = tmp_path / "kie.db"
    await fill_off_the_loop(path, [row_in(S.SUBMITTED, number) for number in range(MANY)])
    owned: list[list[str]] = [[], []]

    async def recover(journal: SqliteStore, place: int) -> None:
        async for page in read_pages(lambda after: journal.claim(after=after, limit=50)):
            owned[place] += [row.id for row in page]
            assert all(map(journal.owns, page))

    async with open_store(path) as one, open_store(path) as other:
        async with anyio.create_task_group() as group:
            group.start_soon(recover, one, 0)
            group.start_soon(recover, other, 1)

        assert sorted(make_intent(number).id for number in range(MANY)) == sorted(owned[0] + owned[1])
        assert [owned[0], owned[1]] == [[row.id for row in await journal.claim()] for journal in (one, other)]


async def test_client_recovers_more_than_a_page(tmp_path: Path) -> None:
    """With rows of several dead processes, all of which are watched then, oldest first."""
    path = tmp_path / "kie.db"
    async with KieClient("a-key", base_url="http://127.0.0.1:9", journal=path) as kie:
        engine = await kie._binding.engine()  # noqa: SLF001
        service = engine.journal.service
    rows = [
        row_in(
            S.SUBMITTED if number % 3 else S.UNRESOLVED,
            number,
            owner=f"gone-{number % 5}",
            origin=service.origin,
            account=service.account,
        )
        for number in range(MANY)
    ]
    await fill_off_the_loop(path, rows)
    async with KieClient("a-key", base_url="http://127.0.0.1:9", journal=path) as kie:
        jobs = await kie.recover()

        assert [make_intent(number).id for number in range(MANY) if number % 3] == [job.id for job in jobs]
        assert {S.SUBMITTED} == {job.state for job in jobs}
        assert len(jobs) == kie.statistics().watched
        assert MANY == len(await kie.jobs(unfinished=True))


# -- the file ----------------------------------------------------------------------------------------------------------


def _acknowledged() -> Restoration:
    """Return what a file has acknowledged that has lost two rows and a budget since."""
    restoration = Restoration()
    lost = make_intent(98, key="key-98", callback_url="https://app.example.com", budget="campaign-8")
    budget = BudgetInfo(name="campaign-8", credits=9.0, spent=0.0, running=0.0, held=0.0)
    restoration.commit([lost, attrs.evolve(_ROW, version=99, duplicate_task_ids=("b",)), budget])
    return restoration


#: A call of each query of the module, on a journal with a row of each kind.
_ROW = make_intent(1, key="key-1")
_STATEMENTS: dict[str, Callable[[sqlite3.Connection, ProcessLocks], object]] = {
    "count_orphans": tables.count_orphans,
    "count_unsent_of_other_keys": tables.count_unsent_of_other_keys,
    "delete_ended": lambda file, _: tables.delete_ended(file, 1e9, [_ROW.id]),
    "find_changed": lambda file, _: tables.find_changed(file, [_ROW]),
    "find_old": lambda file, _: tables.find_old(file, 1e9, 0, 10),
    "find_orphans": lambda file, locks: tables.find_orphans(file, locks, None, 0, 10, adopt_key=True),
    "find_orphans, of this key": lambda file, locks: tables.find_orphans(file, locks, None, 0, 10, adopt_key=False),
    "find_left": lambda file, locks: tables.find_left(file, locks, 10, adopt_key=True),
    "find_left, of this key": lambda file, locks: tables.find_left(file, locks, 10, adopt_key=False),
    "find_orphans, of ids": lambda file, locks: tables.find_orphans(file, locks, [_ROW.id], 0, None, adopt_key=False),
    "has_keys": lambda file, _: tables.has_keys(file),
    "insert_row": lambda file, _: tables.insert_row(file, Restoration(), make_intent(99, key="key-2")),
    "select_by_key": lambda file, _: tables.select_by_key(file, "key-1"),
    "select_by_keys": lambda file, _: tables.select_by_keys(file, ["key-1"]),
    "select_by_task": lambda file, _: tables.select_by_task(file, "task-1"),
    "read_forgotten_until": lambda file, _: tables.read_forgotten_until(file),
    "read_identity": lambda file, _: tables.read_identity(file),
    "select_keys": lambda file, _: tables.select_keys(file, "key-", "", 10),
    "select_named_by_callbacks": lambda file, _: tables.select_named_by_callbacks(file, 0, 10),
    "select_one": lambda file, _: tables.select_one(file, "id = ?", _ROW.id),
    "select_own": lambda file, locks: tables.select_own(file, locks.name, None, 0, 10),
    "select_own, of ids": lambda file, locks: tables.select_own(file, locks.name, [_ROW.id], 0, 10),
    "select_recent_durations": lambda file, _: tables.select_recent_durations(file, 10),
    "select_rows": lambda file, _: tables.select_rows(file, None, 0, 10),
    "select_rows, unfinished": lambda file, _: tables.select_rows(file, UNFINISHED, 0, 10),
    "select_rows, open": lambda file, _: tables.select_rows(file, OPEN, 0, 10),
    "select_seen_prices": lambda file, _: tables.select_seen_prices(file, "a-model", "a-class"),
    "select_uncharged": lambda file, _: tables.select_uncharged(file, "campaign-7"),
    "take_over": lambda file, locks: tables.take_over(file, locks, [(1, "gone")]),
    "update_row, of a lost row": lambda file, _: tables.update_row(
        file, _acknowledged(), make_intent(98).id, {"error": "x"}
    ),
    "update_row": lambda file, _: tables.update_row(file, Restoration(), _ROW.id, {"duplicate_task_ids": ("a",)}, _ROW),
}


@pytest.mark.parametrize("name", _STATEMENTS)
def test_no_statement_reads_the_whole_table(name: str, tmp_path: Path) -> None:
    """Each has an index for what it looks for, and for its order."""
    path = tmp_path / "kie.db"
    fill(path, [attrs.evolve(row_in(state, number), owner="gone") for number, state in enumerate(JobState)])
    statements: list[str] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables.bind_service(connection, Service())
        connection.set_trace_callback(statements.append)
        _STATEMENTS[name](connection, ProcessLocks(tmp_path / "owners", "me"))
        connection.set_trace_callback(None)
        plans = [(sql, connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()) for sql in dict.fromkeys(statements)]

    assert statements
    for sql, plan in plans:
        for *_, step in plan:
            # The first entry of an index is its smallest name.
            whole = (
                step.startswith("SCAN") and not sql.endswith("ORDER BY owner LIMIT 1") and "CONSTANT ROW" not in step
            )
            assert not whole, (sql, step)
            # The largest key is the last entry of a service in the index of keys.
            of_service = step.endswith("(origin=?)") and "callback_secrets" not in step and "max(key)" not in sql
            assert not of_service, ("all rows of a service", sql, step)
            assert "TEMP B-TREE FOR ORDER BY" not in step or "task_id = " in sql, (sql, step)


def test_every_query_of_rows_has_a_plan_above() -> None:
    others = {
        "bind_service",
        "prepare_file",
        "read_change_counter",
        "select_older_callback_secrets",
        "VERSION",
        "APPLICATION_ID",
    }

    assert {name.partition(",")[0] for name in _STATEMENTS} >= set(tables.__all__) - others


async def test_log_of_the_file_stays_small(tmp_path: Path) -> None:
    """Each checkpoint copies a few pages, and the log is used again from its beginning."""
    path = tmp_path / "kie.db"
    await fill_off_the_loop(path, [row_in(S.SUCCEEDED, number, record="x" * 2000) for number in range(4 * MANY)])
    async with open_store(path) as journal:
        assert 4 * MANY == await journal.forget(before=1e9)

        assert (await anyio.Path(f"{path}-wal").stat()).st_size < 4_000_000


def test_states_are_ended_or_unfinished() -> None:
    assert set(JobState) == ENDED | UNFINISHED
    assert OPEN < UNFINISHED
