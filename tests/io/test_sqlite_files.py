"""The journal's file: who may read it, which files are taken for a journal, and what happens to those that are not."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest

from kie_async import JournalError
from kie_async._core.lifecycle import OPEN
from kie_async._io.journals.sqlite import SqliteStore
from kie_async._io.journals.tables import APPLICATION_ID, VERSION, prepare_file
from kie_async.states import JobState
from tests.io.intents import an_intent, moved, opened

if TYPE_CHECKING:
    from collections.abc import Generator

    from kie_async._io.journals.process_locks import ProcessLocks

NOBODY = 65534


class Impatient(SqliteStore):
    """A journal that gives another process hardly any time, and whose statements are listened to."""

    busy_timeout = 0.01

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.statements: list[str] = []

    def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
        connection = super()._connect(owners)
        connection.set_trace_callback(self.statements.append)
        return connection


def files_of(folder: Path) -> dict[str, bytes]:
    """What lies in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def refused(path: Path, match: str) -> JournalError:
    """The error with which a journal cannot be opened; a second try has the same one."""
    journal = Impatient(path)
    with pytest.raises(JournalError, match=match):
        await journal.open()
    with pytest.raises(JournalError, match="not open"):
        await journal.add(an_intent(1))
    with pytest.raises(JournalError, match=match) as raised:
        await journal.open()
    return raised.value


# -- a new file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_only_its_user_may_read_the_journal(tmp_path: Path, umask: int) -> None:
    """Database, write-ahead log, index and owner, whatever the umask; prompts are in the first two."""
    before = os.umask(umask)
    try:
        async with opened(tmp_path / "kie.db") as journal:
            await journal.add(an_intent(1))

            files = {"kie.db": 0o600, "kie.db-wal": 0o600, "kie.db-shm": 0o600, "kie.db.owners": 0o700}
            assert files == modes_in(tmp_path)
            assert [0o600] == list(modes_in(tmp_path / "kie.db.owners").values())
    finally:
        os.umask(before)
    assert ["kie.db", "kie.db.owners"] == names_in(tmp_path)
    assert [] == names_in(tmp_path / "kie.db.owners")


@pytest.mark.parametrize(
    "name", ["plain.db", "with space.db", "?mode=ro", "50% #1&x=y;.db", "'\"ü✓.db", "a:b.db", "x.db/"]
)
async def test_any_name_is_a_name(tmp_path: Path, name: str) -> None:
    """The name goes to SQLite as part of a URI, and nothing in it may be taken for more than a name."""
    async with opened(f"{tmp_path}/{name}") as journal:  # type: ignore[arg-type]  # a path may be text
        row = await journal.add(an_intent(1))
    assert sorted([name.rstrip("/"), name.rstrip("/") + ".owners"]) == names_in(tmp_path)
    async with opened(tmp_path / name) as journal:
        assert an_intent(1).id == row.id == (await journal.rows())[0].id


async def test_rows_outlive_the_journal(tmp_path: Path) -> None:
    """Every state, as it was; open rows have no owner then."""
    async with opened(tmp_path / "kie.db") as journal:
        for number, state in enumerate(JobState):
            await moved(journal, await journal.add(an_intent(number, key=f"order-{number}")), state)
        rows = list(await journal.rows())
    async with opened(tmp_path / "kie.db") as journal:
        assert rows == list(await journal.rows())
        assert not any(journal.owns(row) for row in rows)
        assert dict.fromkeys(sorted(OPEN), 1) == dict(sorted((await journal.count_orphans()).items()))


async def test_what_the_dead_have_sent_and_nobody_has_seen_the_end_of(tmp_path: Path) -> None:
    """After an instant, and by those who are not alive; an intent was not sent, or was refused."""
    ways = {JobState.SENDING: 5.0, JobState.SUBMITTED: 6.0, JobState.STALLED: 2.0, JobState.FAILED: 7.0}
    async with opened(tmp_path / "kie.db") as journal:
        for number, (state, sending_at) in enumerate(ways.items()):
            row = await moved(journal, await journal.add(an_intent(number)), state)
            await journal.update_fields(row.id, at=sending_at, sending_at=sending_at)
        sending = await moved(journal, await journal.add(an_intent(9)), JobState.SENDING, sending_at=8.0)
        await journal.transition(sending, JobState.INTENT, at=8.1)
        assert [] == list(await journal.orphaned_send_times(since=0.0))
    async with opened(tmp_path / "kie.db") as journal:
        await moved(journal, await journal.add(an_intent(8)), JobState.SENDING, sending_at=9.0)

        assert [2.0, 5.0, 6.0] == sorted(await journal.orphaned_send_times(since=0.0))
        assert [6.0] == list(await journal.orphaned_send_times(since=5.0))


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["no file", "no bytes", "a database without tables"])
async def test_an_empty_file_becomes_a_journal(tmp_path: Path, empty: str) -> None:
    """Version 0: there is nothing in it that could be lost."""
    path = tmp_path / "kie.db"
    if empty == "no bytes":
        path.touch()
    elif empty == "a database without tables":
        with sqlite3.connect(path) as connection:
            connection.executescript("CREATE TABLE t (x); DROP TABLE t;")
        connection.close()
        assert path.stat().st_size > 0
    async with opened(path) as journal:
        await journal.add(an_intent(1))
    connection = sqlite3.connect(path)
    marks = [
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "journal_mode")
    ]
    connection.close()

    assert [APPLICATION_ID, VERSION, "wal"] == marks


def test_failed_creation_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """The tables are created in one transaction; it fails if another process has created one of them meanwhile."""
    path = tmp_path / "kie.db"
    connection = sqlite3.connect(path, isolation_level=None)

    def another_process_is_faster(statement: str) -> None:
        if statement.startswith("BEGIN"):
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("CREATE TABLE duplicate_tasks (x)")
            other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            other.close()
            connection.set_trace_callback(None)

    connection.set_trace_callback(another_process_is_faster)
    with pytest.raises(sqlite3.OperationalError, match="duplicate_tasks already exists"):
        prepare_file(connection, path)

    assert ["duplicate_tasks"] == [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    assert 0 == connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()


def test_a_database_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    """SQLite says so by staying in another mode; one in memory is the easiest to have."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with pytest.raises(JournalError, match="no WAL: a network drive"):
            prepare_file(connection, tmp_path / "kie.db")

        assert 0 == connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


async def test_a_newer_journal_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "kie.db"
    async with opened(path) as journal:
        await journal.add(an_intent(1))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = files_of(tmp_path)
    await refused(path, f"newer kie_async .schema {VERSION + 1}; this knows {VERSION}.. Upgrade")

    assert before == files_of(tmp_path)


@pytest.mark.parametrize(
    "script",
    ["CREATE TABLE customers (name)", "PRAGMA user_version = 1", "PRAGMA application_id = 7; CREATE TABLE t (x)"],
)
async def test_the_database_of_something_else_is_not_touched(tmp_path: Path, script: str) -> None:
    """Its journal mode is part of it, and stays, too."""
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    before = files_of(tmp_path)
    await refused(path, "not a journal but another database. Use another file name")

    assert before == files_of(tmp_path)


# -- what is no database, or none any more -----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"shot,prompt\n1,The cat\n" * 500, b"SQLite format 3\x00" + bytes(4096), b"xy"])
async def test_a_file_that_is_no_database_is_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kie.db").write_bytes(content)
    await refused(tmp_path / "kie.db", "cannot be used: (file is not a database|database disk image is malformed)")

    assert {"kie.db": content} == files_of(tmp_path)


async def test_a_journal_whose_beginning_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """Zeros over the first page are what some crashes of a disk leave."""
    path = tmp_path / "kie.db"
    async with opened(path) as journal:
        await journal.add(an_intent(1))
    with path.open("r+b") as file:
        file.write(bytes(100))
    before = files_of(tmp_path)
    await refused(path, "file is not a database")

    assert before == files_of(tmp_path)


async def test_a_broken_page_is_told_and_nothing_is_paid_for_it(tmp_path: Path) -> None:
    """Rows in other pages can still be read; what the broken one may hold is neither invented nor written over."""
    path = tmp_path / "kie.db"
    async with opened(path) as journal:
        rows = [await journal.add(an_intent(number, key=f"order-{number}")) for number in range(200)]
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(size // 2 // 4096, size // 4096 - 4):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    broken = path.read_bytes()
    async with opened(path) as journal:
        found, lost = [], []
        for row in rows:
            try:
                found.append(await journal.get(row.id))
            except JournalError as error:
                lost.append(error)
        with pytest.raises(JournalError, match="malformed"):
            await journal.rows()
        with pytest.raises(JournalError, match="malformed"):
            await journal.claim()
    assert found
    assert lost
    assert all(row in rows for row in found), "what is read is right, and no row is taken for absent"
    assert all("malformed. Fix this" in str(error) for error in lost)
    assert broken == path.read_bytes()


@pytest.mark.parametrize("column", ["state = 'later'", "sources = 'no JSON'", "duplicate_task_ids = '7'"])
async def test_a_row_that_makes_no_sense_is_told(tmp_path: Path, column: str) -> None:
    path = tmp_path / "kie.db"
    async with opened(path) as journal:
        row = await journal.add(an_intent(1))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"UPDATE intents SET {column}")
    connection.close()
    async with opened(path) as journal:
        with pytest.raises(JournalError, match="cannot be used"):
            await journal.get(row.id)


# -- where nothing can be written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["no/such/folder/kie.db", "file/kie.db", "nul\0.db"])
async def test_a_place_that_is_none(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"a file")
    await refused(tmp_path / place, "No such file or directory|Not a directory|null byte|null character")

    assert {"file": b"a file"} == files_of(tmp_path)


async def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "kie.db").mkdir()
    await refused(tmp_path / "kie.db", "unable to open database file")

    assert ["kie.db"] == names_in(tmp_path)


@contextmanager
def without_privileges() -> Generator[None]:
    """Act as somebody who may not write everywhere; root may."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@pytest.fixture
def read_only() -> Generator[Path]:
    """A folder that can be looked into, with a journal in it that can be read, and written by nobody."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        journal = SqliteStore(folder / "kie.db")

        async def fill() -> None:
            await journal.open()
            await journal.add(an_intent(1))
            await journal.close()

        asyncio.run(fill())
        (folder / "kie.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("name", ["kie.db", "new.db"])
async def test_a_folder_that_is_read_only(read_only: Path, name: str) -> None:
    """A journal that cannot be written is no journal: it is refused at once, and not at the first task that is paid."""
    before = files_of(read_only)
    with without_privileges():
        await refused(read_only / name, "Permission denied|readonly database")

    assert before == files_of(read_only)


async def test_a_file_that_is_read_only_in_a_folder_that_is_not(read_only: Path) -> None:
    os.chmod(read_only, 0o777)  # noqa: PTH101 (nothing waits)
    before = (read_only / "kie.db").read_bytes()
    with without_privileges():
        await refused(read_only / "kie.db", "readonly database")

    assert before == (read_only / "kie.db").read_bytes()


# -- other processes ---------------------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("CREATE TABLE IF NOT EXISTS held (x)")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextmanager
def held(path: Path, how: str = "BEGIN IMMEDIATE") -> Generator[None]:
    """Another process is in a transaction that does not end."""
    command = [sys.executable, "-c", HOLD, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
        yield
        process.communicate()


async def test_a_file_that_another_process_keeps_locked_is_told(tmp_path: Path) -> None:
    """What is asked for at once waits at once, not one after another; reading goes on; afterwards all is as before."""
    path = tmp_path / "kie.db"
    journal = Impatient(path)
    await journal.open()
    row = await journal.add(an_intent(0))
    told: list[JournalError] = []

    async def add(number: int) -> None:
        try:
            await journal.add(an_intent(number))
        except JournalError as error:
            told.append(error)

    with held(path):
        async with anyio.create_task_group() as group:
            for number in range(1, 100):
                group.start_soon(add, number)
        assert journal.statements.count("BEGIN IMMEDIATE") <= 3
        assert 99 == len(told) == len({id(error) for error in told})
        assert "database is locked" in str(told[0])
        assert row == await journal.get(row.id)
    assert [row] == list(await journal.rows())
    await journal.add(an_intent(1))
    await journal.close()


async def test_a_new_file_that_another_process_keeps_locked_is_told(tmp_path: Path) -> None:
    path = tmp_path / "kie.db"
    with held(path, "BEGIN EXCLUSIVE"):
        await refused(path, "database is locked")
    async with opened(path) as journal:
        await journal.add(an_intent(1))


LOOK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM intents").fetchone()[0])
connection.close()
"""


async def test_opening_the_file_again_drops_no_lock_on_it(tmp_path: Path) -> None:
    """
    A process loses its locks on a file with the first descriptor that it closes.

    Whoever closed the file next would take himself for the last one, and remove the log under all others.
    """
    path = tmp_path / "kie.db"

    def poll() -> int:
        command = [sys.executable, "-c", LOOK, str(path)]
        return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    async with opened(path) as journal:
        await journal.add(an_intent(1))
        async with opened(path) as another:
            await another.add(an_intent(2))
            assert 2 == poll()
            assert "kie.db-wal" in names_in(tmp_path)
            await another.add(an_intent(3))
        assert 3 == poll()
        await journal.add(an_intent(4))
        assert 4 == poll()


LATER = """
import asyncio, sys
from kie_async._io.journals.sqlite import SqliteStore

async def main():
    journal = SqliteStore(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await journal.open()
    print(dict(await journal.count_orphans()), await journal.rows())
    await journal.close()

asyncio.run(main())
"""


def test_processes_that_make_the_file_at_once_all_get_it(tmp_path: Path) -> None:
    """As the workers of a web server do that was never started before."""
    path = tmp_path / "kie.db"
    command = [sys.executable, "-c", LATER, str(path)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert "ready\n" == worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()

    assert [("{} []\n", "")] * 4 == [worker.communicate() for worker in workers]
    assert ["kie.db", "kie.db.owners"] == names_in(tmp_path)


async def test_two_journals_on_one_file_know_of_each_others_rows(tmp_path: Path) -> None:
    """Keys hold for all of them, a move is seen by all, and the version tells that there is something to see."""
    async with opened(tmp_path / "kie.db") as one, opened(tmp_path / "kie.db") as other:
        version = await other.change_counter()
        row = await one.add(an_intent(1, key="order-7"))

        assert version != await other.change_counter()
        assert row == await other.add(an_intent(2, key="order-7"))
        assert (True, False) == (one.owns(row), other.owns(row))
        assert (True, True) == (await one.is_owner_alive(row), await other.is_owner_alive(row))
        assert ([], [row], {}) == (
            list(await other.claim()),
            list(await one.claim()),
            dict(await other.count_orphans()),
        )
        assert await other.transition(row, JobState.SENDING, at=2.0, attempts=1) is not None
        assert await one.transition(row, JobState.SENDING, at=2.0, attempts=1) is None


async def test_several_writers_wait_for_each_other(tmp_path: Path) -> None:
    """None of four fails because another one has written in between; each key has one row, whoever was first."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        journals = [await stack.enter_async_context(opened(tmp_path / "kie.db")) for _ in range(4)]
        adding = [
            group.create_task(journal.add(an_intent(number * 4 + place, key=f"order-{number}")))
            for number in range(100)
            for place, journal in enumerate(journals)
        ]
        await asyncio.wait(adding)
        rows = list(await journals[0].rows())

    assert {f"order-{number}" for number in range(100)} == {row.key for row in rows}
    assert 100 == len(rows)
    assert {row.id for row in rows} == {task.result().id for task in adding}


async def test_whoever_brings_a_row_back_owns_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "kie.db") as one, opened(tmp_path / "kie.db") as other:
        row = await moved(one, await one.add(an_intent(1)), JobState.UNRESOLVED)
        back = await other.transition(row, JobState.INTENT, at=2.0)
        assert back is not None

        assert (False, True) == (one.owns(back), other.owns(back))


@pytest.mark.parametrize("some", [False, True])
async def test_what_a_closed_journal_has_left_is_taken_over_once(tmp_path: Path, *, some: bool) -> None:
    """Open rows only; with ids, those only."""
    async with opened(tmp_path / "kie.db") as gone:
        for number, state in enumerate(JobState):
            await moved(gone, await gone.add(an_intent(number)), state)
        left = [row for row in await gone.rows() if row.state in OPEN]
    async with opened(tmp_path / "kie.db") as one, opened(tmp_path / "kie.db") as other:
        assert not any([await one.is_owner_alive(row) for row in left])
        ids = [row.id for row in left[:2]] if some else None
        taken = list(await one.claim(ids))

        assert [row.id for row in (left[:2] if some else left)] == [row.id for row in taken]
        assert all(one.owns(row) for row in taken)
        assert [attrs.evolve(row, owner=None) for row in taken] == [
            attrs.evolve(row, owner=None) for row in left[: len(taken)]
        ]
        rest = list(await other.claim())
        assert {row.id for row in left} == {row.id for row in (*taken, *rest)}
        assert len(left) == len(taken) + len(rest)


# -- prompts stay out --------------------------------------------------------------------------------------------------


async def test_hashes_only_means_that_no_prompt_and_no_url_reaches_the_disk(tmp_path: Path) -> None:
    """Neither as input, nor in what is known of its image, nor in the service's echo of the request."""
    echo = '{"task_id":"t","state":"success","result_urls":["https://r.example.com/r.mp4"],"raw":{"param":"canary"}}'
    async with opened(tmp_path / "kie.db", store_inputs="hash") as journal:
        row = await journal.add(an_intent(1))
        row = await moved(journal, row, JobState.SUBMITTED, input="canary")
        await journal.update_fields(row.id, at=3.0, input="canary", sources=an_intent(1).sources)
        done = await journal.transition(row, JobState.SUCCEEDED, at=4.0, record=echo)
        assert done is not None
        assert ("", "a" * 64) == (done.input, done.sources[0].sha256)
        assert "https://r.example.com/r.mp4" in str(done.record)
        written = b"".join(files_of(tmp_path).values())

    assert row.id.encode() in written
    assert b"canary" not in written.lower()
    async with opened(tmp_path / "full.db") as journal:
        await journal.add(an_intent(1))
    assert b"canary" in (tmp_path / "full.db").read_bytes(), "the canary can be found where it is"
