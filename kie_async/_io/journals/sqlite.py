"""
The journal on disk: an SQLite file that all processes of a host share.

A write is on the disk before its caller continues: WAL with ``synchronous=FULL`` (measured: with ``NORMAL``, a power
cut loses transitions that were acknowledged). One thread does all work on the file; see ``group_commit``.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sqlite3
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeAlias, TypeVar, Unpack

import anyio
import attrs

from kie_async._core.account_state import AccountState
from kie_async._core.acknowledged import Repair, Restoration
from kie_async._core.budget_ledger import SeenPrices, opened_budget, raised_budget
from kie_async._core.durations import Kind
from kie_async._core.lifecycle import OPEN, Intent, can_follow
from kie_async._io.journals import budget_tables, share_tables, tables, worker_tables
from kie_async._io.journals.group_commit import GroupCommit, JournalCall, Writer, ending_writers
from kie_async._io.journals.journal import (
    PAGE,
    AccountChange,
    Changes,
    Service,
    WorkerReport,
    illegal_transition,
    in_pages,
)
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async._io.journals.rows import without_secrets
from kie_async._io.runtime import Runtime
from kie_async.budget import BudgetInfo
from kie_async.errors import JournalError, KieError
from kie_async.states import JobState
from kie_async.statistics import WorkerInfo

__all__ = ["SqliteStore"]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Query: TypeAlias = Callable[Concatenate[sqlite3.Connection, _P], _T]

#: The interval between two checks of the file's change counter, in seconds.
CHECK_INTERVAL = 0.5
#: The rows that one transaction deletes: each is in other pages of the indices.
_DELETED_TOGETHER = 50
#: The pause in seconds after such a transaction: without it, another process would seldom get the lock.
PAUSE = 0.01
#: The pages of the WAL after which a commit copies them into the file: few, because its caller waits for that.
_CHECKPOINT_PAGES = 200
#: The part of an SQLite error code that all its variants share.
_PRIMARY_CODE = 0xFF
_BUSY = sqlite3.SQLITE_BUSY


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
    #: Liveness is a file lock: a heartbeat only finds what workers have left that have ended, within 3 s.
    heartbeat_interval: float = 2.5
    lease: float | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        store_inputs: Literal["full", "hash"] = "full",
        service: Service | None = None,
    ) -> None:
        self.service: Service = service or Service()
        self.account_state: AccountState | None = None
        self._path = Path(path)
        self._stores_inputs = store_inputs == "full"
        self._commits: GroupCommit[sqlite3.Connection] | None = None
        self._locks: ProcessLocks | None = None
        self._opened_at = 0.0
        self._restoration = Restoration()
        self.on_restored: Callable[[Sequence[Repair]], None] | None = None
        #: The change counter that ``wait_for_change`` has seen.
        self._change_counter = 0

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        runtime = Runtime(asyncio.get_running_loop())
        locks = ProcessLocks(self._path, self._new_name())
        self._restoration = Restoration()  # another file may have the name by now
        writer = Writer[sqlite3.Connection](
            str(self._path), restoration=self._restoration, disconnected=locks.unlock_own
        )
        commits = GroupCommit(writer, to_error=self._unusable, on_restored=self._report_restored)
        self._commits, self._locks, self._opened_at = commits, locks, runtime.wall()
        await commits.open(lambda: _File(self._connect(locks), self._path))

    async def close(self) -> None:
        if self._commits is not None:
            await self._commits.close()

    def release(self) -> None:
        if self._commits is not None:
            self._commits.release()

    def _connect(self, locks: ProcessLocks) -> sqlite3.Connection:
        # SQLite and the lock files go by the real file, whichever symbolic link is used.
        path = os.path.realpath(self._path)
        for writer in ending_writers():
            if os.path.realpath(writer.place) == path:
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
            self._change_counter = tables.read_change_counter(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    # -- rows -------------------------------------------------------------------------------------------------------

    async def add(self, intent: Intent) -> Intent:
        owner = self._opened(self._locks).name
        kept = self._kept({"input": intent.input, "sources": intent.sources, "owner": owner})
        row = attrs.evolve(intent, origin=self.service.origin, account=self.service.account, **kept)
        return await self._write(tables.insert_row, self._restoration, row)

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        if not can_follow(seen.state, state):
            raise illegal_transition(seen, state)
        if state is JobState.SENDING and not self.owns(seen):
            return None
        fields = {"state": state, "updated_at": at, **self._kept(changes)}
        if state is JobState.INTENT or seen.state not in OPEN:
            # The process that reopens a row works on it, with its API key.
            fields = {"owner": self._opened(self._locks).name, "account": self.service.account} | fields
        return await self._write(tables.update_row, self._restoration, seen.id, fields, seen, account_epoch)

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        fields = {"updated_at": at, **self._kept(changes)}
        return await self._write(tables.update_row, self._restoration, job_id, fields)

    async def get(self, job_id: str) -> Intent | None:
        return await self._read(tables.select_one, "id = ?", job_id)

    async def by_key(self, key: str) -> Intent | None:
        return await self._read(tables.select_by_key, key)

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        return [row for part in in_pages(keys) for row in await self._read(tables.select_by_keys, part)]

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
        for part in in_pages(seen):
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

    async def forgotten_until(self) -> float:
        return await self._read(tables.read_forgotten_until)

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
                row for part in in_pages(job_ids) for row in await self.claim(part, adopt_key=adopt_key, after=after)
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

    async def hold(self, job_ids: Collection[str]) -> Sequence[Intent]:
        locks = self._opened(self._locks)
        rows: list[Intent] = []
        for part in in_pages(job_ids):
            # Found outside the transaction, as in ``claim``.
            if free := await self._read(share_tables.find_unheld, locks, part):
                await self._write(share_tables.take_holds, locks.name, free)
            rows += await self._read(share_tables.select_by_ids, part)
        return rows

    async def end_hold(self, job_id: str, yielded: JobState | None) -> None:
        await self._write(share_tables.end_hold, self.worker, job_id, yielded)

    async def take_over(self, *, adopt_key: bool = False, limit: int) -> Sequence[Intent]:
        locks = self._opened(self._locks)
        taken: Sequence[Intent] = ()
        while not taken and (orphans := await self._read(tables.find_left, locks, limit, adopt_key=adopt_key)):
            taken = await self._write(tables.take_over, locks, orphans)
        return taken

    async def has_expired_owners(self) -> bool:
        """Return False: a lock file tells at any time which workers are alive."""
        return False

    async def count_orphans(self) -> Mapping[JobState, int]:
        return await self._read(tables.count_orphans, self._opened(self._locks))

    async def count_unsent_of_other_keys(self) -> int:
        return await self._read(tables.count_unsent_of_other_keys, self._opened(self._locks))

    async def older_callback_secrets(self) -> Sequence[bytes]:
        return await self._read(tables.select_older_callback_secrets)

    @property
    def worker(self) -> str:
        return self._opened(self._locks).name

    async def change_account(
        self, change: Callable[[str | None, float], tuple[str | None, int, _T]]
    ) -> AccountChange[_T]:
        runtime = Runtime(asyncio.get_running_loop())
        return await self._write_soon(
            worker_tables.change_account, change=change, shared=runtime.shared, loop_time=runtime.now
        )

    async def heartbeat(self, report: WorkerReport) -> Sequence[WorkerInfo]:
        locks = self._opened(self._locks)
        return await self._write_soon(
            worker_tables.write_heartbeat,
            locks,
            new_name=self._new_name(),
            host=platform.node(),
            pid=os.getpid(),
            started_at=self._opened_at,
            at=Runtime(asyncio.get_running_loop()).wall(),
            report=report.dump(),
        )

    async def workers(self) -> Sequence[WorkerInfo]:
        return await self._read(worker_tables.select_workers, self._opened(self._locks))

    async def wait_for_change(self) -> Collection[str] | None:
        read = tables.read_change_counter
        while (counter := await self._read(read)) == self._change_counter:  # noqa: ASYNC110 (no event tells)
            await anyio.sleep(CHECK_INTERVAL)
        self._change_counter = counter
        return None

    def _new_name(self) -> str:
        return f"{self.service.account}-{Runtime(asyncio.get_running_loop()).new_id().removeprefix('kj_')}"

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _read(self, query: _Query[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(lambda file: query(file, *args, **kwargs), writes=False)

    async def _write(self, query: _Query[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(lambda file: query(file, *args, **kwargs), writes=True)

    async def _write_soon(self, query: _Query[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Write what a power cut may lose: no flush is needed for it."""
        return await self._run(lambda file: query(file, *args, **kwargs), writes=True, flush=False)

    async def _run(self, action: Callable[[sqlite3.Connection], _T], *, writes: bool, flush: bool = True) -> _T:
        commits = self._opened(None if self._commits is None or self._commits.closed else self._commits)
        return await commits.run(action, writes=writes, flush=flush)

    def _opened(self, part: _T | None) -> _T:
        if part is None:
            msg = f"{self._path} is not open. Use the client within `async with`."
            raise JournalError(msg)
        return part

    def _kept(self, changes: Changes) -> Changes:
        return changes if self._stores_inputs else without_secrets(changes)

    def _report_restored(self, repairs: Sequence[Repair]) -> None:
        if self.on_restored is not None:
            self.on_restored(repairs)

    def _unusable(self, error: Exception) -> KieError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        wrong = JournalError(f"{self._path} cannot be used: {reason}. Fix this, or use another journal.")
        wrong.__cause__ = error
        return wrong


class _File:
    """
    The open file, for the writer thread.

    Args:
        connection: The connection.

        path: The file.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._identity = _identity(path)

    def run(self, calls: Sequence[JournalCall[sqlite3.Connection]], *, writes: bool) -> None:
        """Do writes in one transaction, or reads."""
        connection, flush = self._connection, any(call.flush for call in calls)
        if writes and _identity(self._path) != self._identity:
            msg = f"{self._path} was replaced while it was in use. Restart all processes that use it."
            raise JournalError(msg)
        try:
            if not flush:
                connection.execute("PRAGMA synchronous = NORMAL")
            if writes:
                # A deferred transaction would fail at once if another process has written in between.
                connection.execute("BEGIN IMMEDIATE")
            for call in calls:
                call.result = call.action(connection)
            if writes:
                connection.execute("COMMIT")
        except Exception:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        finally:
            if not flush:
                connection.execute("PRAGMA synchronous = FULL")

    def fails_all(self, error: Exception) -> bool:
        """Return True if another process has held the file for too long; a second try would wait as long again."""
        return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & _PRIMARY_CODE == _BUSY

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from another one of its name; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
