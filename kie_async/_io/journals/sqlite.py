"""
``SqliteStore``: the journal on disk, shared by all processes of a host.

Every move is a compare-and-set in a transaction that is on the disk before the caller hears of it: WAL with
``synchronous=FULL``. (Measured: with ``NORMAL``, a power cut loses moves that were acknowledged.)
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, Unpack

import attrs

from kie_async._core.lifecycle import OPEN, Intent, can_follow, dump_record, load_record
from kie_async._io.journals import queries
from kie_async._io.journals.group_commit import GroupCommit
from kie_async._io.journals.journal import Changes, illegal_move
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async._io.journals.schema import prepare_file
from kie_async._io.runtime import Runtime
from kie_async.errors import JournalError, KieError
from kie_async.states import JobState

__all__ = ["SqliteStore"]


class SqliteStore:
    """
    Rows in an SQLite file, which is made if it is not there, for its user alone to read.

    The file may be shared by any number of processes of one host, but not over a network. Beside it lies a folder
    (``….owners``) that says which of them are alive.

    Args:
        path: The file.

        store_inputs: ``"full"``, or ``"hash"`` to keep prompts and image URLs out of the file. Then a job that was not
            sent before its process ended cannot be sent by another one: it becomes CANCELLED.

    Raises:
        JournalError: From every method, if the file cannot be used. Nothing is ever recreated in silence.
    """

    #: Whether rows outlive the process.
    durable = True
    #: How long, in seconds, a transaction waits for another process's.
    busy_timeout: float = 10.0

    def __init__(self, path: str | os.PathLike[str], *, store_inputs: Literal["full", "hash"] = "full") -> None:
        self._path = Path(path)
        self._full = store_inputs == "full"
        self._commits: GroupCommit | None = None
        self._owners: ProcessLocks | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file, or make it."""
        name = Runtime(asyncio.get_running_loop()).new_id().removeprefix("kj_")
        owners = ProcessLocks(self._path.with_name(f"{self._path.name}.owners"), name)
        commits = GroupCommit(
            connect=partial(self._connect, owners), disconnect=owners.leave, unusable=partial(_unusable, self._path)
        )
        self._commits, self._owners = commits, owners
        try:
            await commits.open()
        except BaseException:
            self._commits = None
            raise

    async def close(self) -> None:
        """Close the file; what is on its way is written first."""
        commits, self._commits = self._commits, None
        if commits is not None:
            await commits.close()

    def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
        # sqlite3 would make it with the rights that the umask leaves. One that is there is opened by sqlite3 alone: to
        # close any other descriptor of it would drop all locks that this process has on it.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=self.busy_timeout, isolation_level=None)
        try:
            prepare_file(connection, self._path)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # Apple's fsync alone leaves it to the drive when to write
            owners.enter()
        except BaseException:
            connection.close()
            raise
        return connection

    # -- rows -------------------------------------------------------------------------------------------------------

    async def add(self, intent: Intent) -> Intent:
        """Write a new row down, or return the one that has its key; see ``Journal.add``."""
        kept = self._kept({"input": intent.input, "sources": intent.sources})
        row = attrs.evolve(intent, owner=self._owner.name, **kept)
        return await self._open.do(partial(queries.add, row), writes=True)

    async def move(self, seen: Intent, state: JobState, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        """Move a row by compare-and-set; see ``Journal.move``."""
        if not can_follow(seen.state, state):
            raise illegal_move(seen, state)
        fields = {"state": state, "updated_at": at, **self._kept(changes)}
        if state is JobState.INTENT or seen.state not in OPEN:
            fields["owner"] = self._owner.name  # whoever brings it back is the one who goes on with it
        return await self._open.do(partial(queries.move, seen, fields), writes=True)

    async def note(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        """Change a row without moving it; see ``Journal.note``."""
        return await self._open.do(
            partial(queries.note, job_id, {"updated_at": at, **self._kept(changes)}), writes=True
        )

    async def get(self, job_id: str) -> Intent | None:
        """The row of an id."""
        return await self._open.do(partial(queries.one, "id = ?", (job_id,)), writes=False)

    async def by_key(self, key: str) -> Intent | None:
        """The row of a caller's key."""
        return await self._open.do(partial(queries.one, "key = ?", (key,)), writes=False)

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        """The rows of callers' keys, of those that have one."""
        return await self._open.do(partial(queries.by_keys, keys), writes=False)

    async def has_keys(self) -> bool:
        """Whether any row has a caller's key."""
        return await self._open.do(queries.has_keys, writes=False)

    async def let_go(self, keys: Collection[str]) -> Sequence[str]:  # noqa: ARG002 (none ever is)
        """Which of these callers' keys were let go: none."""
        return ()

    async def by_task(self, task_id: str) -> Intent | None:
        """The row of a taskId."""
        return await self._open.do(partial(queries.by_task, task_id), writes=False)

    async def rows(self, states: Collection[JobState] | None = None) -> Sequence[Intent]:
        """The rows in one of *states* (all, if None), oldest first."""
        return await self._open.do(partial(queries.many, states), writes=False)

    async def rows_named_by_callbacks(self) -> Sequence[Intent]:
        """The rows for which callbacks have named tasks that are not proved yet, oldest first."""
        return await self._open.do(queries.rows_named_by_callbacks, writes=False)

    async def changed(self, seen: Collection[Intent]) -> Mapping[str, Intent | None]:
        """Which rows no longer stand as they were seen; see ``Journal.changed``."""
        return await self._open.do(partial(queries.changed, seen), writes=False)

    async def forget(self, *, before: float) -> int:
        """Delete old rows that have ended; see ``Journal.forget``."""
        return await self._open.do(partial(queries.forget, before), writes=True)

    async def release(self, job_id: str) -> None:
        """Do nothing: rows cost space on a disk, and no memory."""

    async def paid(self, model: str, most: int) -> Sequence[Intent]:
        """Some of the latest rows of a model that have succeeded; see ``Journal.paid``."""
        return await self._open.do(partial(queries.paid, model, most), writes=False)

    # -- owners -----------------------------------------------------------------------------------------------------

    def owns(self, row: Intent) -> bool:
        """Whether a row is this process's to work on."""
        return row.owner == self._owner.name

    async def alive(self, row: Intent) -> bool:
        """Whether the owner of a row is alive; see ``Journal.alive``."""
        owners = self._owner
        return await self._open.do(lambda _: owners.alive(row.owner), writes=False)

    async def claim(self, job_ids: Collection[str] | None = None) -> Sequence[Intent]:
        """Take over what dead owners have left; see ``Journal.claim``."""
        return await self._open.do(partial(queries.claim, self._owner, job_ids), writes=True)

    async def orphans(self) -> Mapping[JobState, int]:
        """How many open rows have no owner that is alive, by state."""
        return await self._open.do(partial(queries.orphans, self._owner), writes=False)

    async def sent_by_the_dead(self, *, since: float) -> Sequence[float]:
        """When dead owners have sent what is unfinished; see ``Journal.sent_by_the_dead``."""
        return await self._open.do(partial(queries.sent_by_the_dead, self._owner, since), writes=False)

    async def version(self) -> int:
        """A number that changes when another process has written."""
        return await self._open.do(queries.version, writes=False)

    # -- the work ---------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> GroupCommit:
        if self._commits is None:
            raise self._closed()
        return self._commits

    @property
    def _owner(self) -> ProcessLocks:
        if self._owners is None:
            raise self._closed()
        return self._owners

    def _closed(self) -> JournalError:
        return JournalError(f"{self._path} is not open. Use the client within `async with`.")

    def _kept(self, changes: Changes) -> Changes:
        return changes if self._full else _without_inputs(changes)


def _without_inputs(changes: Changes) -> Changes:
    """What may be kept of a change where prompts and image URLs may not; the service's record echoes the request."""
    kept = changes.copy()
    if "input" in kept:
        kept["input"] = ""
    if "sources" in kept:
        kept["sources"] = tuple(attrs.evolve(source, origin=None, url="") for source in kept["sources"])
    if (dumped := kept.get("record")) is not None:
        record = load_record(dumped)
        echoless = {name: value for name, value in record.raw.items() if name != "param"}
        kept["record"] = dump_record(attrs.evolve(record, raw=echoless))
    return kept


def _unusable(path: Path, error: Exception) -> KieError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    wrong = JournalError(f"{path} cannot be used: {said}. Mend that, or give another journal.")
    wrong.__cause__ = error
    return wrong
