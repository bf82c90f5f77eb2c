"""
The journal on disk: an SQLite file that all processes of a host share.

A write is on the disk before its caller continues: WAL with ``synchronous=FULL`` (measured: with ``NORMAL``, a power
cut loses transitions that were acknowledged). One thread does all work on the file. Calls that arrive while it is busy
form its next transaction, so that a hundred transitions at once cost one flush (group commit).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sqlite3
import stat
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar, Unpack

import anyio
import anyio.to_thread
import attrs

from kie_async._core.budget_ledger import SeenPrices, opened_budget, raised_budget
from kie_async._core.durations import Kind
from kie_async._core.lifecycle import OPEN, Intent, can_follow, dump_record, load_record
from kie_async._io.journals import budget_tables, tables
from kie_async._io.journals.journal import PAGE, Changes, Service, illegal_transition
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async._io.runtime import OwnThread, Runtime
from kie_async.budget import BudgetInfo
from kie_async.errors import JournalError, KieError
from kie_async.states import JobState

__all__ = ["SqliteStore"]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Query: TypeAlias = Callable[Concatenate[sqlite3.Connection, _P], _T]

#: The rows that one transaction deletes: each is in other pages of the indices.
_DELETED_TOGETHER = 50
#: The pause in seconds after such a transaction: without it, another process would seldom get the lock.
PAUSE = 0.01
#: The members of the service's record that echo the request.
_ECHOES = frozenset({"param", "paramJson"})
#: The pages of the WAL after which a commit copies them into the file: few, because its caller waits for that.
_CHECKPOINT_PAGES = 200
#: The part of an SQLite error code that all its variants share.
_PRIMARY_CODE = 0xFF


class SqliteStore:
    """
    A journal whose rows are in an SQLite file. See ``Journal`` for the methods.

    Args:
        path: The file.

        store_inputs: ``"full"`` or ``"hash"``.

        service: The service of the client that uses the journal; the file may have rows of other services.

    Raises:
        JournalError: From every method, if the file cannot be used. A broken file is never silently recreated.
    """

    durable = True
    #: The time in seconds that a transaction waits for another process's.
    busy_timeout: float = 10.0

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        store_inputs: Literal["full", "hash"] = "full",
        service: Service | None = None,
    ) -> None:
        self.service: Service = service or Service()
        self._path = Path(path)
        self._stores_inputs = store_inputs == "full"
        self._commits: _GroupCommit | None = None
        self._locks: ProcessLocks | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        name = f"{self.service.account}-{Runtime(asyncio.get_running_loop()).new_id().removeprefix('kj_')}"
        locks = ProcessLocks(self._path, name)
        writer = _Writer(self._path, disconnect=locks.unlock_own)
        commits = _GroupCommit(writer, to_error=self._unusable)
        self._commits, self._locks = commits, locks
        await commits.open(partial(self._connect, locks))

    async def close(self) -> None:
        if self._commits is not None:
            await self._commits.close()

    def release(self) -> None:
        if self._commits is not None:
            self._commits.release()

    def _connect(self, locks: ProcessLocks) -> sqlite3.Connection:
        # SQLite and the lock files go by the real file, whichever symbolic link is used.
        path = os.path.realpath(self._path)
        for writer in _writers():
            if writer.ending and os.path.realpath(writer.path) == path:
                writer.join(self.busy_timeout)  # of an abandoned event loop, whose jobs can be claimed then
        # sqlite3 would create the file with the permissions that the umask leaves. An existing file is opened by
        # sqlite3 only: closing any other descriptor of it would drop all locks that this process has on it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            msg = f"{path} is a folder. Name a file in it: {Path(path) / 'kie.db'}."
            raise JournalError(msg)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            # SQLite's log and the locks are found by the name: two names would be two journals in one file.
            msg = f"{path} has {status.st_nlink} names (hard links). Remove the others, or use symbolic links."
            raise JournalError(msg)
        connection = sqlite3.connect(path, timeout=self.busy_timeout, isolation_level=None)
        try:
            tables.prepare_file(connection, self._path)
            tables.bind_service(connection, self.service)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # Apple's fsync alone lets the drive delay the write
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute("BEGIN IMMEDIATE")
            locks.lock_own()
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    # -- rows -------------------------------------------------------------------------------------------------------

    async def add(self, intent: Intent) -> Intent:
        owner = self._opened(self._locks).name
        kept = self._without_secrets({"input": intent.input, "sources": intent.sources, "owner": owner})
        row = attrs.evolve(intent, origin=self.service.origin, account=self.service.account, **kept)
        return await self._write(tables.insert_row, row)

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, **changes: Unpack[Changes]
    ) -> Intent | None:
        if not can_follow(seen.state, state):
            raise illegal_transition(seen, state)
        fields = {"state": state, "updated_at": at, **self._without_secrets(changes)}
        if state is JobState.INTENT or seen.state not in OPEN:
            # The process that reopens a row works on it, with its API key.
            fields = {"owner": self._opened(self._locks).name, "account": self.service.account} | fields
        return await self._write(tables.update_row, seen.id, fields, seen)

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        return await self._write(tables.update_row, job_id, {"updated_at": at, **self._without_secrets(changes)})

    async def get(self, job_id: str) -> Intent | None:
        return await self._read(tables.select_one, "id = ?", job_id)

    async def by_key(self, key: str) -> Intent | None:
        return await self._read(tables.select_by_key, key)

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        return [row for part in _parts(keys) for row in await self._read(tables.select_by_keys, part)]

    async def identity(self) -> str:
        return await self._read(tables.read_identity)

    async def has_keys(self) -> bool:
        return await self._read(tables.has_keys)

    async def keys(self, prefix: str, *, after: str = "", limit: int) -> Sequence[tuple[str, JobState]]:
        return await self._read(tables.select_keys, prefix, after, limit)

    async def dropped_keys(self, keys: Collection[str]) -> Sequence[str]:  # noqa: ARG002
        """Return nothing: rows are dropped by ``forget`` only."""
        return ()

    async def by_task(self, task_id: str) -> Intent | None:
        return await self._read(tables.select_by_task, task_id)

    async def rows(
        self, states: Collection[JobState] | None = None, *, after: int = 0, limit: int | None = None
    ) -> Sequence[Intent]:
        return await self._read(tables.select_rows, states, after, limit)

    async def rows_named_by_callbacks(self, *, after: int = 0, limit: int | None = None) -> Sequence[Intent]:
        return await self._read(tables.select_named_by_callbacks, after, limit)

    async def find_changed(self, seen: Collection[Intent]) -> Mapping[str, Intent | None]:
        changed: dict[str, Intent | None] = {}
        for part in _parts(seen):
            changed |= await self._read(tables.find_changed, part)
        return changed

    async def forget(self, *, before: float) -> int:
        deleted = 0
        after: int | None = 0
        while after is not None:
            old, after = await self._read(tables.find_old, before, after, PAGE)
            for first in range(0, len(old), _DELETED_TOGETHER):
                together = old[first : first + _DELETED_TOGETHER]
                deleted += await self._write(tables.delete_ended, before, together)
                await anyio.sleep(PAUSE)
        return deleted

    async def mark_delivered(self, job_id: str) -> None:
        """Do nothing: rows take disk space, and no memory."""

    async def recent_durations(self, limit: int) -> Sequence[tuple[Kind, float]]:
        return await self._read(tables.select_recent_durations, limit)

    async def open_budget(self, name: str, credits: float) -> BudgetInfo:
        return await self._write(budget_tables.write_budget, opened_budget, name, credits)

    async def raise_budget(self, name: str, credits: float) -> BudgetInfo:
        return await self._write(budget_tables.write_budget, raised_budget, name, credits)

    async def budgets(self) -> Sequence[BudgetInfo]:
        return await self._read(budget_tables.select_budgets)

    async def uncharged_rows(self, budget: str) -> Sequence[Intent]:
        return await self._read(tables.select_uncharged, budget)

    async def seen_prices(self, model: str, price_class: str) -> SeenPrices:
        return await self._read(tables.select_seen_prices, model, price_class)

    # -- owners -----------------------------------------------------------------------------------------------------

    def owns(self, row: Intent) -> bool:
        return row.owner == self._opened(self._locks).name

    async def is_owner_alive(self, row: Intent) -> bool:
        locks = self._opened(self._locks)
        return await self._read(lambda _: locks.is_alive(row.owner))

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        if job_ids is not None and len(job_ids) > PAGE:
            claimed = [
                row for part in _parts(job_ids) for row in await self.claim(part, adopt_key=adopt_key, after=after)
            ]
            return sorted(claimed, key=lambda row: row.number)[:limit]
        locks = self._opened(self._locks)
        own: Sequence[Intent] = ()
        found = True
        # An empty page ends a recovery, so search on if another process has taken all rows that were found.
        while found and not own:
            # Found outside the transaction, so that it is short; each row is taken by compare-and-set.
            orphans = await self._read(tables.find_orphans, locks, job_ids, after, limit, adopt_key=adopt_key)
            if found := bool(orphans):
                await self._write(tables.take_over, locks, orphans)
            own = await self._read(tables.select_own, locks.name, job_ids, after, limit)
        return own

    async def count_orphans(self) -> Mapping[JobState, int]:
        return await self._read(tables.count_orphans, self._opened(self._locks))

    async def orphaned_send_times(self, *, since: float) -> Sequence[float]:
        return await self._read(tables.select_orphaned_send_times, self._opened(self._locks), since)

    async def count_unsent_of_other_keys(self) -> int:
        return await self._read(tables.count_unsent_of_other_keys, self._opened(self._locks))

    async def older_callback_secrets(self) -> Sequence[bytes]:
        return await self._read(tables.select_older_callback_secrets)

    async def change_counter(self) -> int:
        return await self._read(tables.read_change_counter)

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _read(self, query: _Query[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(lambda file: query(file, *args, **kwargs), writes=False)

    async def _write(self, query: _Query[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(lambda file: query(file, *args, **kwargs), writes=True)

    async def _run(self, action: Callable[[sqlite3.Connection], _T], *, writes: bool) -> _T:
        commits = self._commits
        return await self._opened(None if commits is None or commits.closed else commits).run(action, writes=writes)

    def _opened(self, part: _T | None) -> _T:
        if part is None:
            msg = f"{self._path} is not open. Use the client within `async with`."
            raise JournalError(msg)
        return part

    def _without_secrets(self, changes: Changes) -> Changes:
        """Leave out prompts and image URLs unless they are stored; the service's record echoes the request."""
        if self._stores_inputs:
            return changes
        kept = changes.copy()
        if "input" in kept:
            kept["input"] = ""
        if "sources" in kept:
            kept["sources"] = tuple(attrs.evolve(source, origin=None, url="") for source in kept["sources"])
        if (dumped := kept.get("record")) is not None:
            record = load_record(dumped)
            echoless = {name: value for name, value in record.raw.items() if name not in _ECHOES}
            kept["record"] = dump_record(attrs.evolve(record, raw=echoless))
        return kept

    def _unusable(self, error: Exception) -> KieError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        wrong = JournalError(f"{self._path} cannot be used: {reason}. Fix this, or use another journal.")
        wrong.__cause__ = error
        return wrong


def _parts(items: Collection[_T]) -> Iterator[list[_T]]:
    """Yield the parts of a collection that one call of the thread may take."""
    remaining = iter(items)
    while part := list(islice(remaining, PAGE)):
        yield part


# -- group commit ------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Work:
    """A call for the thread, and its result."""

    action: Callable[[sqlite3.Connection], object]
    writes: bool
    result: Any = None
    error: Exception | None = None


class _Writer(OwnThread):
    """
    The thread that has the connection, as an executor for the event loop.

    It refers to nothing of an event loop, so that an abandoned journal is garbage.

    Args:
        path: The journal file.

        disconnect: Called in the thread after the connection is closed, or if it could not be opened.
    """

    def __init__(self, path: Path, *, disconnect: Callable[[], None]) -> None:
        self.path = path
        #: The calls of the next batch.
        self.waiting: list[_Work] = []
        self._disconnect = disconnect
        self._connection: sqlite3.Connection | None = None
        super().__init__("kie_async journal")

    def end(self) -> None:
        """Let the thread do the waiting calls, disconnect and end; no call may follow."""
        self.submit(self.disconnect, self.waiting)
        self.shutdown()

    # -- in the thread ----------------------------------------------------------------------------------------------

    def connect(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Open the database."""
        self._connection = connect()

    def disconnect(self, last: list[_Work]) -> None:
        """Do the last calls, and close the database."""
        try:
            if last:
                self.run_batch(last)
            if self._connection is not None:
                self._connection.close()
        finally:
            self._connection = None
            self._disconnect()

    def run_batch(self, batch: list[_Work]) -> None:
        """Do calls, the writes in one transaction, and store their results."""
        # First the writes, so that the lock is held for no read.
        self._run_together([work for work in batch if work.writes])
        for work in batch:
            if not work.writes:
                self._run_together([work])

    def _run_together(self, batch: list[_Work]) -> None:
        error = self._transact(batch)
        if error is None:
            return
        if len(batch) > 1 and not _is_busy(error):
            # One at a time, so that the error of one call does not affect the others.
            for work in batch:
                self._run_together([work])
            return
        for work in batch:
            work.error = error

    def _transact(self, batch: list[_Work]) -> Exception | None:
        """Run a batch of writes in one transaction, or a read; return the error, after which nothing of it is done."""
        connection = self._connection
        if connection is None:
            return sqlite3.ProgrammingError("it could not be opened")
        writes = any(work.writes for work in batch)
        try:
            if writes:
                # A deferred transaction would fail at once if another process has written in between.
                connection.execute("BEGIN IMMEDIATE")
            for work in batch:
                work.result = work.action(connection)
            if writes:
                connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 (it is delivered to the callers)
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return error
        return None


class _GroupCommit:
    """
    The calls of one event loop to a writer: those that arrive while it is busy form its next transaction.

    Args:
        writer: The thread.

        to_error: Converts an error that is not a ``KieError`` into one.
    """

    def __init__(self, writer: _Writer, *, to_error: Callable[[Exception], KieError]) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._to_error = to_error
        self._futures: dict[_Work, asyncio.Future[Any]] = {}
        self._busy = False
        self._ending: asyncio.Future[None] | None = None
        # Without it, a journal that is never closed would keep its lock, and its jobs, for as long as the process.
        self._end = weakref.finalize(self, writer.end)
        self._end.atexit = False  # see _end_writers()

    async def open(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """
        Connect; after an error nothing stays open.

        Args:
            connect: Opens the database; called in the thread.
        """
        try:
            await self._loop.run_in_executor(self._writer, self._writer.connect, connect)
        except BaseException as error:
            self._end()
            if isinstance(error, (sqlite3.Error, OSError, ValueError)):
                raise self._to_error(error) from error
            raise

    @property
    def closed(self) -> bool:
        """True once no call may follow."""
        return self._writer.ending

    async def close(self) -> None:
        """Do the waiting calls, then disconnect; in another event loop, too, if this one is over."""
        self.release()
        if self._ending is not None and self._loop is asyncio.get_running_loop():
            await asyncio.wait([self._ending])
        else:
            await anyio.to_thread.run_sync(self._writer.join)

    def release(self) -> None:
        """Begin to close: let the thread do the waiting calls and disconnect."""
        if self.closed:
            return
        if self._loop.is_closed():
            self._end()
            return
        self._end.detach()
        last, self._writer.waiting = self._writer.waiting, []
        self._ending = self._loop.run_in_executor(self._writer, self._writer.disconnect, last)
        self._ending.add_done_callback(partial(self._deliver, last))
        self._writer.shutdown()

    async def run(self, action: Callable[[sqlite3.Connection], _T], *, writes: bool) -> _T:
        """
        Run *action* in the thread, in one transaction with the other waiting calls.

        Args:
            action: Called with the connection, and a second time if its transaction has failed and was rolled back.

            writes: True if it writes; its result is returned once it is on the disk.
        """
        done: asyncio.Future[_T] = self._loop.create_future()
        work = _Work(action, writes)
        self._futures[work] = done
        self._writer.waiting.append(work)
        if not self._busy:
            self._start_batch()
        return await done

    def _start_batch(self) -> None:
        batch, self._writer.waiting = self._writer.waiting, []
        self._busy = True
        # The loop's executor, because virtual time stands still until it is done.
        running = self._loop.run_in_executor(self._writer, self._writer.run_batch, batch)
        running.add_done_callback(partial(self._deliver, batch))

    def _deliver(self, batch: list[_Work], _: object = None) -> None:
        for work in batch:
            done = self._futures.pop(work)
            if done.done():
                continue  # its caller was cancelled
            if work.error is not None:
                done.set_exception(work.error if isinstance(work.error, KieError) else self._to_error(work.error))
            else:
                done.set_result(work.result)
        self._busy = False
        if self._writer.waiting:
            self._start_batch()


#: The time in seconds that the end of the process waits for the writer of a journal that was not closed.
_END_TIMEOUT = 15.0


def _writers() -> list[_Writer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, _Writer)]


def _end_writers() -> None:
    """End all writers: a transition that waits in one is written, such as the taskId of a paid task."""
    writers = _writers()
    for writer in writers:
        writer.end()
    for writer in writers:
        writer.join(_END_TIMEOUT)


atexit.register(_end_writers)


def _is_busy(error: Exception) -> bool:
    """Return True if another process has held the file for too long; a second try would wait as long again."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
