"""
``SqliteJournal``: the journal on disk, shared by all processes of a host.

Every move is a compare-and-set in a transaction that is on the disk before the caller hears of it (WAL with
``synchronous=FULL``: measured, ``NORMAL`` loses acknowledged moves in a power cut). One thread does all the work; what
is asked for while it is busy goes into its next transaction together, so that a hundred moves at once cost one flush.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack

import attrs

from kie_async._core.lifecycle import ENDED, OPEN, Intent, IntentState, may_move
from kie_async._io.clock import Surroundings
from kie_async._io.journal import Changes, illegal_move
from kie_async._io.owners import Owners
from kie_async._io.schema import COLUMNS, migrate, read_row, written
from kie_async.errors import ConfigurationError, JournalError

__all__ = ["SqliteJournal"]

_T = TypeVar("_T")

#: How long, in seconds, a transaction waits for another process's.
BUSY_TIMEOUT = 10.0

_ALL = ", ".join(COLUMNS)
_INSERT = f"INSERT INTO intents ({_ALL}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 (columns of ours)
_SELECT = f"SELECT {_ALL} FROM intents"  # noqa: S608


@attrs.define(eq=False)
class _Work:
    """Something for the thread to do, and who waits for it; both speak of the same type."""

    action: Callable[[sqlite3.Connection], object]
    writes: bool
    done: asyncio.Future[Any]
    result: object = None


class SqliteJournal:
    """
    Rows in an SQLite file, which is made if it is not there; only its user may read it.

    The file may be shared by any number of processes of one host, but not over a network. Beside it lies a folder
    (``….owners``) that says which of them are alive.

    Args:
        path: The file.

        store_inputs: ``"full"``, or ``"hash"`` to keep prompts and image URLs out of the file. Then a job that was not
            sent before its process ended cannot be sent by another one: it becomes WITHDRAWN.

    Raises:
        ConfigurationError: If *store_inputs* is neither.

        JournalError: From every method, if the file cannot be used. Nothing is ever recreated in silence.
    """

    #: Whether rows outlive the process.
    durable = True

    def __init__(self, path: str | os.PathLike[str], *, store_inputs: Literal["full", "hash"] = "full") -> None:
        if store_inputs not in ("full", "hash"):
            msg = f"store_inputs={store_inputs!r} is not possible: it must be 'full' or 'hash'."
            raise ConfigurationError(msg)
        self._path = Path(path)
        self._full = store_inputs == "full"
        self._users = 0
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._owners: Owners | None = None
        self._waiting: list[_Work] = []
        self._busy = False

    def __repr__(self) -> str:
        return f"SqliteJournal({str(self._path)!r})"

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file, or make it; several clients may share one journal object."""
        self._users += 1
        if self._users > 1:
            return
        loop = asyncio.get_running_loop()
        name = Surroundings(loop).new_id().removeprefix("kj_")
        self._owners = owners = Owners(self._path.with_name(f"{self._path.name}.owners"), name)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kie_async journal")
        try:
            self._connection = await loop.run_in_executor(self._thread, self._connect, owners)
        except BaseException:
            self._users = 0
            self._thread.shutdown(wait=False)
            raise

    async def close(self) -> None:
        """Close the file when its last user has; what is on its way is written first."""
        self._users -= 1
        if self._users or self._thread is None:
            return
        thread, self._thread = self._thread, None
        await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
        thread.shutdown(wait=False)

    def _connect(self, owners: Owners) -> sqlite3.Connection:
        path = str(self._path)
        try:
            # sqlite3 would make the file with the rights that the umask leaves.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from error
        try:
            _make_safe(connection, path)
            migrate(connection, path)
            owners.enter()
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise _unusable(path, error) from error
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._owners is not None:
            self._owners.leave()

    # -- rows -------------------------------------------------------------------------------------------------------

    async def add(self, intent: Intent) -> Intent:
        """Write a new row down, or return the one that has its key; see ``Journal.add``."""
        row = attrs.evolve(intent, owner=self._owner, input=intent.input if self._full else "")
        return await self._write(partial(_add, row))

    async def move(self, seen: Intent, state: IntentState, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        """Move a row by compare-and-set; see ``Journal.move``."""
        if not may_move(seen.state, state):
            raise illegal_move(seen, state)
        fields: dict[str, object] = {"state": state, "updated_at": at, **changes}
        if state is IntentState.INTENT:
            fields["owner"] = self._owner  # whoever brings it back is the one who sends it
        return await self._write(partial(_move, seen, self._kept(fields)))

    async def note(self, intent_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        """Change a row without moving it; see ``Journal.note``."""
        return await self._write(partial(_note, intent_id, self._kept({"updated_at": at, **changes})))

    async def get(self, intent_id: str) -> Intent | None:
        """The row of an id."""
        return await self._read(partial(_one, "id = ?", (intent_id,)))

    async def by_key(self, key: str) -> Intent | None:
        """The row of a caller's key."""
        return await self._read(partial(_one, "key = ?", (key,)))

    async def by_task(self, task_id: str) -> Intent | None:
        """The row of a taskId."""
        where = "task_id = ? OR id = (SELECT intent_id FROM duplicates WHERE duplicates.task_id = ?)"
        return await self._read(partial(_one, where, (task_id, task_id)))

    async def rows(self, states: Collection[IntentState] | None = None) -> Sequence[Intent]:
        """The rows in one of *states* (all, if None), oldest first."""
        return await self._read(partial(_many, states))

    async def forget(self, *, before: float) -> int:
        """Delete old rows that have ended; see ``Journal.forget``."""
        return await self._write(partial(_forget, before))

    # -- owners -----------------------------------------------------------------------------------------------------

    @property
    def _owner(self) -> str | None:
        return None if self._owners is None else self._owners.name

    def owns(self, row: Intent) -> bool:
        """Whether a row is this process's to work on."""
        return row.owner == self._owner

    async def claim(self, intent_ids: Collection[str] | None = None) -> Sequence[Intent]:
        """Take over what dead owners have left; see ``Journal.claim``."""
        return await self._write(partial(self._claim, intent_ids))

    async def orphans(self) -> Mapping[IntentState, int]:
        """How many open rows have no owner that is alive, by state."""
        return await self._read(self._orphans)

    async def version(self) -> int:
        """A number that changes when another process has written."""
        return await self._read(lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0]))

    def _dead_owners(self, connection: sqlite3.Connection) -> list[str | None]:
        found = connection.execute(f"SELECT DISTINCT owner FROM intents WHERE {_in(OPEN)}")  # noqa: S608 (states of ours)
        owners = self._owners
        return [name for (name,) in found if owners is not None and not owners.alive(name)]

    def _orphans(self, connection: sqlite3.Connection) -> dict[IntentState, int]:
        counts: dict[IntentState, int] = {}
        for name in self._dead_owners(connection):
            query = f"SELECT state, count(*) FROM intents WHERE owner IS ? AND {_in(OPEN)} GROUP BY state"  # noqa: S608
            for state, count in connection.execute(query, (name,)):
                counts[IntentState(state)] = counts.get(IntentState(state), 0) + count
        return counts

    def _claim(self, intent_ids: Collection[str] | None, connection: sqlite3.Connection) -> list[Intent]:
        owners = self._owners
        if owners is None:
            return []
        for name in self._dead_owners(connection):
            update = f"UPDATE intents SET owner = ? WHERE owner IS ? AND {_in(OPEN)}"  # noqa: S608
            if intent_ids is None:
                connection.execute(update, (owners.name, name))
                if name is not None:
                    owners.bury(name)
            else:
                connection.executemany(f"{update} AND id = ?", [(owners.name, name, one) for one in intent_ids])
        found = connection.execute(f"{_SELECT} WHERE owner = ? AND {_in(OPEN)} ORDER BY created_at", (owners.name,))
        rows = [read_row(values) for values in found]
        return rows if intent_ids is None else [row for row in rows if row.id in intent_ids]

    # -- the thread -------------------------------------------------------------------------------------------------

    def _kept(self, fields: dict[str, object]) -> dict[str, object]:
        """What is written of *fields*: with hashes only, no input."""
        if not self._full and "input" in fields:
            fields["input"] = ""
        return written(fields)

    async def _write(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._do(action, writes=True)

    async def _read(self, action: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._do(action, writes=False)

    async def _do(self, action: Callable[[sqlite3.Connection], _T], *, writes: bool) -> _T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()
        self._waiting.append(_Work(action, writes, done))
        if not self._busy:
            self._start(loop)
        return await done

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting, []
        if self._thread is None:
            for work in batch:
                work.done.set_exception(JournalError(f"{self._path} is closed. Use the client within `async with`."))
            return
        self._busy = True
        # Through the loop's own executor call, so that virtual time stands still while the disk works.
        running = loop.run_in_executor(self._thread, self._run, batch)
        running.add_done_callback(partial(self._finish, loop, batch))

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: list[_Work], _: object) -> None:
        self._busy = False
        for work in batch:
            if work.done.done():
                continue
            if isinstance(work.result, BaseException):
                work.done.set_exception(work.result)
            else:
                work.done.set_result(work.result)
        if self._waiting:
            self._start(loop)

    def _run(self, batch: list[_Work]) -> None:
        """In the thread: do a batch in one transaction, and if that fails, each part in one of its own."""
        if not self._transact(batch) and len(batch) > 1:
            for work in batch:
                self._transact([work])

    def _transact(self, batch: list[_Work]) -> bool:
        connection = self._connection
        if connection is None:
            return False
        writes = any(work.writes for work in batch)
        try:
            if writes:
                connection.execute("BEGIN IMMEDIATE")
            for work in batch:
                work.result = work.action(connection)
            if writes:
                connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 (it goes to whoever waits)
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            told = _unusable(str(self._path), error) if isinstance(error, sqlite3.Error) else error
            for work in batch:
                work.result = told
            return False
        return True


def _make_safe(connection: sqlite3.Connection, path: str) -> None:
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        msg = f"{path} cannot be used safely (no WAL: a network drive?). Put the journal on a local disk."
        raise JournalError(msg)
    connection.execute("PRAGMA synchronous = FULL")


# -- what is done in the thread ---------------------------------------------------------------------------------------


def _add(intent: Intent, connection: sqlite3.Connection) -> Intent:
    if intent.key is not None and (known := _one("key = ?", (intent.key,), connection)) is not None:
        return known
    fields = written({name: getattr(intent, name) for name in COLUMNS})
    connection.execute(_INSERT, [fields[name] for name in COLUMNS])
    return intent


def _move(seen: Intent, fields: dict[str, object], connection: sqlite3.Connection) -> Intent | None:
    assignments = ", ".join(f"{name} = ?" for name in fields)
    moved = connection.execute(
        f"UPDATE intents SET {assignments} WHERE id = ? AND state = ? AND attempts = ?",  # noqa: S608 (fields of ours)
        (*fields.values(), seen.id, str(seen.state), seen.attempts),
    )
    return _one("id = ?", (seen.id,), connection) if moved.rowcount else None


def _note(intent_id: str, fields: dict[str, object], connection: sqlite3.Connection) -> Intent | None:
    assignments = ", ".join(f"{name} = ?" for name in fields)
    connection.execute(f"UPDATE intents SET {assignments} WHERE id = ?", (*fields.values(), intent_id))  # noqa: S608
    row = _one("id = ?", (intent_id,), connection)
    if row is not None:
        pairs = [(task_id, intent_id) for task_id in row.duplicates]
        connection.executemany("INSERT OR IGNORE INTO duplicates (task_id, intent_id) VALUES (?, ?)", pairs)
    return row


def _one(where: str, values: tuple[object, ...], connection: sqlite3.Connection) -> Intent | None:
    found = connection.execute(f"{_SELECT} WHERE {where} LIMIT 1", values).fetchone()
    return None if found is None else read_row(found)


def _many(states: Collection[IntentState] | None, connection: sqlite3.Connection) -> list[Intent]:
    where = "" if states is None else f" WHERE {_in(states)}"
    return [read_row(values) for values in connection.execute(f"{_SELECT}{where} ORDER BY created_at, rowid")]


def _forget(before: float, connection: sqlite3.Connection) -> int:
    old = f"{_in(ENDED)} AND updated_at < ?"
    connection.execute(
        f"DELETE FROM duplicates WHERE intent_id IN (SELECT id FROM intents WHERE {old})",  # noqa: S608 (states of ours)
        (before,),
    )
    return connection.execute(f"DELETE FROM intents WHERE {old}", (before,)).rowcount  # noqa: S608


def _in(states: Collection[IntentState]) -> str:
    names = ", ".join(f"'{state}'" for state in sorted(states))
    return f"state IN ({names})"


def _unusable(path: str, error: Exception) -> JournalError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return JournalError(f"{path} cannot be used: {said}. Nothing was changed: mend that, or give another journal.")
