"""The journal's file: permissions, foreign or broken files, and other processes."""

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
from kie_async._io.journals.journal import Service, WorkerReport
from kie_async._io.journals.sqlite import SqliteStore
from kie_async._io.journals.tables import APPLICATION_ID, VERSION, prepare_file
from kie_async.states import JobState
from tests.io.intents import bring_to_state, make_intent, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from kie_async._io.journals.process_locks import ProcessLocks

UNPRIVILEGED_USER = 65534


class ImpatientStore(SqliteStore):
    """A store with a tiny busy timeout that records its SQL statements."""

    busy_timeout = 0.01

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.statements: list[str] = []

    def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
        connection = super()._connect(owners)
        connection.set_trace_callback(self.statements.append)
        return connection


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def refused(path: Path, match: str) -> JournalError:
    """Return the error of opening a journal; a second attempt has the same one."""
    journal = ImpatientStore(path)
    with pytest.raises(JournalError, match=match):
        await journal.open()
    with pytest.raises(JournalError, match="not open"):
        await journal.add(make_intent(1))
    with pytest.raises(JournalError, match=match) as raised:
        await journal.open()
    return raised.value


# -- a new file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_only_the_user_can_read_the_journal(tmp_path: Path, umask: int) -> None:
    """All four files, with any umask; prompts are in the database and the write-ahead log."""
    before = os.umask(umask)
    try:
        async with open_store(tmp_path / "kie.db") as journal:
            await journal.add(make_intent(1))

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
async def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    """SQLite receives the name as part of a URI, in which no character may have a special meaning."""
    async with open_store(f"{tmp_path}/{name}") as journal:  # type: ignore[arg-type]  # a path may be text
        row = await journal.add(make_intent(1))
    assert sorted([name.rstrip("/"), name.rstrip("/") + ".owners"]) == names_in(tmp_path)
    async with open_store(tmp_path / name) as journal:
        assert make_intent(1).id == row.id == (await journal.rows())[0].id


async def test_rows_outlive_the_store(tmp_path: Path) -> None:
    """Rows of every state are unchanged; open rows have no owner."""
    async with open_store(tmp_path / "kie.db") as journal:
        for number, state in enumerate(JobState):
            await bring_to_state(journal, await journal.add(make_intent(number, key=f"order-{number}")), state)
        rows = list(await journal.rows())
    async with open_store(tmp_path / "kie.db") as journal:
        assert rows == list(await journal.rows())
        assert not any(journal.owns(row) for row in rows)
        assert dict.fromkeys(sorted(OPEN), 1) == dict(sorted((await journal.count_orphans()).items()))


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["no file", "no bytes", "a database without tables"])
async def test_empty_file_becomes_a_journal(tmp_path: Path, empty: str) -> None:
    """An empty file has version 0 and nothing to lose."""
    path = tmp_path / "kie.db"
    if empty == "no bytes":
        path.touch()
    elif empty == "a database without tables":
        with sqlite3.connect(path) as connection:
            connection.executescript("CREATE TABLE t (x); DROP TABLE t;")
        connection.close()
        assert path.stat().st_size > 0
    async with open_store(path) as journal:
        await journal.add(make_intent(1))
    connection = sqlite3.connect(path)
    marks = [
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "journal_mode")
    ]
    connection.close()

    assert [APPLICATION_ID, VERSION, "wal"] == marks


def test_failed_creation_changes_nothing(tmp_path: Path) -> None:
    """The tables are created in one transaction, which fails if another process created one of them meanwhile."""
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


def test_unshareable_database_is_refused(tmp_path: Path) -> None:
    """SQLite then stays in another journal mode, as it does for a database in memory."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with pytest.raises(JournalError, match="no WAL: a network drive"):
            prepare_file(connection, tmp_path / "kie.db")

        assert 0 == connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


async def test_newer_journal_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "kie.db"
    async with open_store(path) as journal:
        await journal.add(make_intent(1))
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
async def test_foreign_database_is_not_changed(tmp_path: Path, script: str) -> None:
    """Its journal mode stays the same, too."""
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    before = files_of(tmp_path)
    await refused(path, "not a journal but another database. Use another file name")

    assert before == files_of(tmp_path)


# -- files that are not databases, or broken ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"shot,prompt\n1,The cat\n" * 500, b"SQLite format 3\x00" + bytes(4096), b"xy"])
async def test_file_that_is_not_a_database_is_not_changed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kie.db").write_bytes(content)
    await refused(tmp_path / "kie.db", "cannot be used: (file is not a database|database disk image is malformed)")

    assert {"kie.db": content} == files_of(tmp_path)


async def test_zeroed_journal_is_not_recreated(tmp_path: Path) -> None:
    """Some disk crashes leave zeros in the first page."""
    path = tmp_path / "kie.db"
    async with open_store(path) as journal:
        await journal.add(make_intent(1))
    with path.open("r+b") as file:
        file.write(bytes(100))
    before = files_of(tmp_path)
    await refused(path, "file is not a database")

    assert before == files_of(tmp_path)


async def test_broken_page_is_reported(tmp_path: Path) -> None:
    """Rows in other pages are readable; rows in the broken page are neither invented nor overwritten."""
    path = tmp_path / "kie.db"
    async with open_store(path) as journal:
        rows = [await journal.add(make_intent(number, key=f"order-{number}")) for number in range(200)]
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(size // 2 // 4096, size // 4096 - 4):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    broken = path.read_bytes()
    async with open_store(path) as journal:
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
    assert all(row in rows for row in found), "rows are right, and none is considered absent"
    assert all("malformed. Fix this" in str(error) for error in lost)
    assert broken == path.read_bytes()


@pytest.mark.parametrize("column", ["state = 'later'", "sources = 'no JSON'", "duplicate_task_ids = '7'"])
async def test_invalid_row_is_reported(tmp_path: Path, column: str) -> None:
    path = tmp_path / "kie.db"
    async with open_store(path) as journal:
        row = await journal.add(make_intent(1))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"UPDATE intents SET {column}")
    connection.close()
    async with open_store(path) as journal:
        with pytest.raises(JournalError, match="cannot be used"):
            await journal.get(row.id)


# -- unwritable files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["no/such/folder/kie.db", "file/kie.db", "nul\0.db"])
async def test_invalid_path_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"a file")
    await refused(tmp_path / place, "No such file or directory|Not a directory|null byte|null character")

    assert {"file": b"a file"} == files_of(tmp_path)


async def test_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kie.db").mkdir()
    await refused(tmp_path / "kie.db", r"is a folder. Name a file in it: .*kie\.db/kie\.db\.")

    assert ["kie.db"] == names_in(tmp_path)


@contextmanager
def without_privileges() -> Generator[None]:
    """Run as a user without write permission; root would have it."""
    if os.geteuid() == 0:
        os.seteuid(UNPRIVILEGED_USER)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@pytest.fixture
def read_only() -> Generator[Path]:
    """Yield a read-only folder with a read-only journal."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        journal = SqliteStore(folder / "kie.db")

        async def fill() -> None:
            await journal.open()
            await journal.add(make_intent(1))
            await journal.close()

        asyncio.run(fill())
        (folder / "kie.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("name", ["kie.db", "new.db"])
async def test_read_only_folder_is_refused(read_only: Path, name: str) -> None:
    """It is refused when it is opened, and not at the first paid task."""
    before = files_of(read_only)
    with without_privileges():
        await refused(read_only / name, "Permission denied|readonly database")

    assert before == files_of(read_only)


async def test_read_only_file_is_refused(read_only: Path) -> None:
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
def locked_by_another_process(path: Path, how: str = "BEGIN IMMEDIATE") -> Generator[None]:
    """Let another process hold an unfinished transaction."""
    command = [sys.executable, "-c", HOLD, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
        yield
        process.communicate()


async def test_locked_file_is_reported(tmp_path: Path) -> None:
    """Concurrent writes wait together, not one after another; reads work; afterwards writes work again."""
    path = tmp_path / "kie.db"
    journal = ImpatientStore(path)
    await journal.open()
    row = await journal.add(make_intent(0))
    told: list[JournalError] = []

    async def add(number: int) -> None:
        try:
            await journal.add(make_intent(number))
        except JournalError as error:
            told.append(error)

    with locked_by_another_process(path):
        async with anyio.create_task_group() as group:
            for number in range(1, 100):
                group.start_soon(add, number)
        assert journal.statements.count("BEGIN IMMEDIATE") <= 3
        assert 99 == len(told) == len({id(error) for error in told})
        assert "database is locked" in str(told[0])
        assert row == await journal.get(row.id)
    assert [row] == list(await journal.rows())
    await journal.add(make_intent(1))
    await journal.close()


async def test_locked_new_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "kie.db"
    with locked_by_another_process(path, "BEGIN EXCLUSIVE"):
        await refused(path, "database is locked")
    async with open_store(path) as journal:
        await journal.add(make_intent(1))


COUNT_ROWS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM intents").fetchone()[0])
connection.close()
"""


async def test_second_store_keeps_the_locks(tmp_path: Path) -> None:
    """
    A process loses its locks on a file with the first descriptor that it closes.

    The next process to close the file would then consider itself the last one, and remove the log under the others.
    """
    path = tmp_path / "kie.db"

    def count_rows_in_another_process() -> int:
        command = [sys.executable, "-c", COUNT_ROWS, str(path)]
        return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    async with open_store(path) as journal:
        await journal.add(make_intent(1))
        async with open_store(path) as another:
            await another.add(make_intent(2))
            assert 2 == count_rows_in_another_process()
            assert "kie.db-wal" in names_in(tmp_path)
            await another.add(make_intent(3))
        assert 3 == count_rows_in_another_process()
        await journal.add(make_intent(4))
        assert 4 == count_rows_in_another_process()


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


def test_processes_create_the_file_concurrently(tmp_path: Path) -> None:
    """The workers of a web server do so on the first start."""
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


async def test_two_stores_share_one_file(tmp_path: Path) -> None:
    """Keys are unique for both, transitions are visible to both, and a wait for changes ends with them."""
    async with open_store(tmp_path / "kie.db") as one, open_store(tmp_path / "kie.db") as other:
        row = await one.add(make_intent(1, key="order-7"))

        assert await other.wait_for_change() is None
        with anyio.move_on_after(3600.0) as waited:
            await one.wait_for_change()
        assert waited.cancelled_caught
        assert row == await other.add(make_intent(2, key="order-7"))
        assert (True, False) == (one.owns(row), other.owns(row))
        assert (True, True) == (await one.is_owner_alive(row), await other.is_owner_alive(row))
        assert ([], [row], {}) == (
            list(await other.claim()),
            list(await one.claim()),
            dict(await other.count_orphans()),
        )
        assert await other.transition(row, JobState.SENDING, at=2.0, attempts=1) is None
        assert await one.transition(row, JobState.SENDING, at=2.0, attempts=1) is not None
        assert await one.transition(row, JobState.SENDING, at=2.0, attempts=1) is None


async def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    """None of four fails because of another's write, and each key has one row."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        journals = [await stack.enter_async_context(open_store(tmp_path / "kie.db")) for _ in range(4)]
        adding = [
            group.create_task(journal.add(make_intent(number * 4 + place, key=f"order-{number}")))
            for number in range(100)
            for place, journal in enumerate(journals)
        ]
        await asyncio.wait(adding)
        rows = list(await journals[0].rows())

    assert {f"order-{number}" for number in range(100)} == {row.key for row in rows}
    assert 100 == len(rows)
    assert {row.id for row in rows} == {task.result().id for task in adding}


async def test_store_that_reopens_a_row_owns_it(tmp_path: Path) -> None:
    async with open_store(tmp_path / "kie.db") as one, open_store(tmp_path / "kie.db") as other:
        row = await bring_to_state(one, await one.add(make_intent(1)), JobState.UNRESOLVED)
        back = await other.transition(row, JobState.INTENT, at=2.0)
        assert back is not None

        assert (False, True) == (one.owns(back), other.owns(back))


@pytest.mark.parametrize("some", [False, True])
async def test_rows_of_a_closed_store_are_claimed_once(tmp_path: Path, *, some: bool) -> None:
    """Only open rows are claimed; with ids, only those rows."""
    async with open_store(tmp_path / "kie.db") as gone:
        for number, state in enumerate(JobState):
            await bring_to_state(gone, await gone.add(make_intent(number)), state)
        left = [row for row in await gone.rows() if row.state in OPEN]
    async with open_store(tmp_path / "kie.db") as one, open_store(tmp_path / "kie.db") as other:
        assert not any([await one.is_owner_alive(row) for row in left])
        ids = [row.id for row in left[:2]] if some else None
        taken = list(await one.claim(ids))

        assert [row.id for row in (left[:2] if some else left)] == [row.id for row in taken]
        assert all(one.owns(row) for row in taken)
        assert [attrs.evolve(row, owner=None) for row in taken] == [
            attrs.evolve(row, owner=None, version=row.version + 1) for row in left[: len(taken)]
        ]
        rest = list(await other.claim())
        assert {row.id for row in left} == {row.id for row in (*taken, *rest)}
        assert len(left) == len(taken) + len(rest)


# -- hashes ------------------------------------------------------------------------------------------------------------


async def test_hash_mode_keeps_secrets_off_the_disk(tmp_path: Path) -> None:
    """Neither the input, nor the images' fields, nor the service's echo of the request is written."""
    echo = '{"task_id":"t","state":"success","result_urls":["https://r.example.com/r.mp4"],"raw":{"param":"canary"}}'
    async with open_store(tmp_path / "kie.db", store_inputs="hash") as journal:
        row = await journal.add(make_intent(1))
        row = await bring_to_state(journal, row, JobState.SUBMITTED, input="canary")
        await journal.update_fields(row.id, at=3.0, input="canary", sources=make_intent(1).sources)
        done = await journal.transition(row, JobState.SUCCEEDED, at=4.0, record=echo)
        assert done is not None
        assert ("", "a" * 64) == (done.input, done.sources[0].sha256)
        assert "https://r.example.com/r.mp4" in str(done.record)
        written = b"".join(files_of(tmp_path).values())

    assert row.id.encode() in written
    assert b"canary" not in written.lower()
    async with open_store(tmp_path / "full.db") as journal:
        await journal.add(make_intent(1))
    assert b"canary" in (tmp_path / "full.db").read_bytes(), "the search finds the canary"


# -- names -------------------------------------------------------------------------------------------------------------


def link_to_file(folder: Path) -> list[Path]:
    """Return the file, and a symbolic link to it in another folder."""
    (folder / "elsewhere").mkdir()
    link = folder / "elsewhere" / "link.db"
    link.symlink_to(folder / "kie.db")
    return [folder / "kie.db", link]


def link_to_folder(folder: Path) -> list[Path]:
    """Return two paths of the file, one by way of a link to its folder."""
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    return [folder / "real" / "kie.db", folder / "link" / "kie.db"]


def link_to_link(folder: Path) -> list[Path]:
    """Return a link, and a link to it; the file does not exist yet."""
    (folder / "one.db").symlink_to("kie.db")
    (folder / "two.db").symlink_to(folder / "one.db")
    return [folder / "two.db", folder / "one.db"]


def path_with_dots(folder: Path) -> list[Path]:
    """Return two spellings of a path."""
    (folder / "a").mkdir()
    return [folder / "a" / ".." / "kie.db", folder / "kie.db"]


def name_of_descriptor(folder: Path) -> list[Path]:
    """Return the file, and its name as an open descriptor of the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return [folder / "kie.db", Path(f"/proc/self/fd/{descriptor}/kie.db")]


@pytest.mark.parametrize("names", [link_to_file, link_to_folder, link_to_link, path_with_dots, name_of_descriptor])
async def test_owners_by_different_names_see_each_other(tmp_path: Path, names: Callable[[Path], list[Path]]) -> None:
    """Otherwise each takes the other for dead, claims its jobs and sends them again."""
    first, second = names(tmp_path)
    async with open_store(first) as one, open_store(second) as other:
        mine, theirs = await one.add(make_intent(1)), await other.add(make_intent(2))

        assert [True] * 2 == [await other.is_owner_alive(mine), await one.is_owner_alive(theirs)]
        assert ([mine], [theirs]) == (list(await one.claim()), list(await other.claim()))
        assert 2 == len(await one.rows())
        assert 2 == len(lock_files(tmp_path))
    assert [] == lock_files(tmp_path)


def lock_files(folder: Path) -> list[str]:
    """Return the names of all lock files below a folder."""
    return [path.name for path in folder.rglob("*.lock")]


async def test_link_to_a_new_file_keeps_it_private(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("kie.db")
    async with open_store(tmp_path / "link.db") as journal:
        await journal.add(make_intent(1))

        assert {0o600, 0o700, 0o777} >= set(modes_in(tmp_path).values())
        assert 0o600 == (tmp_path / "kie.db").stat().st_mode & 0o777


async def test_file_with_two_hard_links_is_refused(tmp_path: Path) -> None:
    """SQLite would keep a log for each name, and lose what the other has written."""
    async with open_store(tmp_path / "kie.db") as journal:
        await journal.add(make_intent(1))
    (tmp_path / "other.db").hardlink_to(tmp_path / "kie.db")
    for name in ("kie.db", "other.db"):
        await refused(tmp_path / name, r"has 2 names \(hard links\)\. Remove the others, or use symbolic links")
    (tmp_path / "other.db").unlink()
    async with open_store(tmp_path / "kie.db") as journal:
        assert 1 == len(await journal.rows())


async def test_lock_files_of_dead_owners_are_removed(tmp_path: Path) -> None:
    """Also of owners without jobs; those of live owners and other files stay."""
    async with open_store(tmp_path / "kie.db") as journal:
        folder = tmp_path / "kie.db.owners"
        (live,) = names_in(folder)
        for name in ("dead.lock", "notes.txt"):
            (folder / name).touch()
        async with open_store(tmp_path / "kie.db") as other:
            assert "dead.lock" not in names_in(folder)
            assert {live, "notes.txt"} < set(names_in(folder))
            assert 3 == len(names_in(folder))
            row = await journal.add(make_intent(1))
            assert await other.is_owner_alive(row)
    assert ["notes.txt"] == names_in(folder)


KILLED = """
import asyncio, os, sys
from kie_async._io.journals.sqlite import SqliteStore

async def main():
    await SqliteStore(sys.argv[1]).open()
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_killed_processes_leave_one_lock_file(tmp_path: Path) -> None:
    """While several open and close the journal, none takes another for dead."""
    path = tmp_path / "kie.db"
    for _ in range(3):
        workers = [subprocess.Popen([sys.executable, "-c", KILLED, str(path)]) for _ in range(3)]
        assert [-9] * 3 == [worker.wait() for worker in workers]
    asyncio.run(_open_and_close(path))

    assert [] == names_in(tmp_path / "kie.db.owners")


async def _open_and_close(path: Path) -> None:
    async with open_store(path):
        pass


async def test_heartbeat_lists_the_living_workers_of_an_account(tmp_path: Path) -> None:
    """A worker that has ended is not listed, and the next heartbeat of any other removes its row."""
    path = tmp_path / "kie.db"
    other_account = Service(account_name="another")
    async with open_store(path) as one, open_store(path, service=other_account) as stranger:
        async with open_store(path) as ended:
            name = ended.worker
            await stranger.heartbeat(WorkerReport())
            await ended.heartbeat(WorkerReport(watched=2))
            workers = await one.heartbeat(WorkerReport(watched=1))

            assert {(one.worker, 1), (name, 2)} == {(each.name, each.watched) for each in workers}
        assert [one.worker] == [each.name for each in await one.workers()]
        await stranger.heartbeat(WorkerReport())
        with closing(sqlite3.connect(path)) as connection:
            left = connection.execute("SELECT name FROM workers").fetchall()
        assert {one.worker, stranger.worker} == {found for (found,) in left}
