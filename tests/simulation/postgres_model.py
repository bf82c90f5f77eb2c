"""
A model of a PostgreSQL server in virtual time: the journal's real store and session run on it.

Only the server and psycopg's connection are modeled: the rows are in SQLite, which runs the journal's own statements;
see ``postgres_dialect``. The contract of the journals and the same sequences of calls hold the model to the real
server; see ``tests/postgres/test_model.py``. What it lacks: transactions run one after another, so none waits for
another's lock, and none is cancelled; a connection never is silent; a number that was not used is given again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast
from uuid import UUID

import attrs
import psycopg
from psycopg.pq import ExecStatus

from kie_async._core.lifecycle import Intent
from kie_async._io.journals.journal import AccountChange
from kie_async._io.journals.postgres import PostgresStore
from kie_async._io.journals.postgres_account import AccountWriter
from kie_async._io.journals.postgres_schema import schema_ddl
from kie_async._io.journals.postgres_session import Action
from kie_async._io.journals.rows import COLUMNS, to_row
from tests.simulation import postgres_dialect
from tests.simulation.postgres_dialect import Converted, Row

__all__ = ["ModelServer", "ModelStore"]

_T = TypeVar("_T")

SCHEMA = "kie_async"
#: What the store believes to connect to.
DSN = "postgresql://app:canary@model.invalid/app"
#: What libpq says.
_CLOSED = "server closed the connection unexpectedly"
_CATALOG = f"""
CREATE VIEW pg_namespace AS SELECT 1 AS oid, '{SCHEMA}' AS nspname;
CREATE VIEW pg_class AS SELECT name AS relname, 1 AS relnamespace FROM sqlite_master WHERE type = 'table';
"""


class ModelServer:
    """
    A server, and all that may happen to it.

    Args:
        path: The file of its rows; by default they are in memory.

        now: Returns the time by which its clock runs, in seconds since the epoch.

        seed: Seeds the id of the journal.

    Attributes:
        deaf: True while nothing is told to those who listen.

        pooler: True while it is behind a pooler that gives each transaction another of its connections.

        read_only: True while it refuses writes, as a primary that has become a standby.
    """

    def __init__(self, path: str | Path = ":memory:", *, now: Callable[[], float], seed: int = 0) -> None:
        self.deaf = self.pooler = self.read_only = False
        self._now = now
        self._steps = 0.0
        self._runs = True
        self._refused = 0
        #: The commits to lose: True if they are done, and what one of their statements has in its text.
        self._losses: list[tuple[bool, str]] = []
        self._pids = count(1)
        #: Those that are open.
        self.connections: list[ModelConnection] = []
        # Held by the transaction that runs: the others wait for its end.
        self._turn = threading.RLock()
        self._current: ModelConnection | None = None
        self._rows = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=1024)
        self._rows.execute("PRAGMA synchronous = OFF")
        journal_id = str(UUID(int=Random(seed).getrandbits(128)))
        for name, arguments, function in (
            ("server_clock", 0, self.clock),
            ("pg_notify", 2, self._notify),
            ("pg_backend_pid", 0, self._backend_pid),
            ("pg_is_in_recovery", 0, lambda: False),
            ("current_setting", 1, lambda _: "on"),
            ("set_config", 3, lambda _name, value, _local: value),
            ("hashtext", 1, lambda _: 0),
            ("pg_advisory_xact_lock", 2, lambda _one, _two: ""),
            ("gen_random_uuid", 0, lambda: journal_id),
            ("chr", 1, chr),
            ("repeat", 2, lambda text, times: text * times),
            ("starts_with", 2, lambda text, prefix: text.startswith(prefix)),
            ("greatest", 2, lambda one, two: one if two is None else max(one, two)),
        ):
            self._rows.create_function(name, arguments, function)
        self._rows.executescript(_CATALOG)
        for statement in schema_ddl(SCHEMA).split(";\n")[1:]:
            postgres_dialect.execute(self._rows, postgres_dialect.convert(statement.strip(" \n;")), ())

    def close(self) -> None:
        """Close the file."""
        self.stop()
        self._rows.close()

    # -- what may happen to it --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End all connections, and refuse new ones until ``start``."""
        with self._turn:
            self._runs = False
            self._end_connections()

    def start(self) -> None:
        """End the outage."""
        self._runs = True

    def demote(self) -> None:
        """Become a standby: new connections wait for the new primary, those that there are stay read-only."""
        with self._turn:
            self.read_only = True
            for connection in self.connections:
                connection.is_demoted = True

    def refuse_connections(self, number: int) -> None:
        """Refuse the next connections."""
        self._refused = number

    def lose_answers(self, number: int = 1, *, of: str = "") -> None:
        """Do the next commits (with *of* in a statement), and end their connections before they are answered."""
        self._losses += [(True, of)] * number

    def lose_commits(self, number: int = 1, *, of: str = "") -> None:
        """End the connections of the next commits (with *of* in a statement) before they are done."""
        self._losses += [(False, of)] * number

    def snapshot(self) -> bytes:
        """Return a copy of all rows, for ``fail_over``."""
        with self._turn:
            return self._rows.serialize()

    def fail_over(self, snapshot: bytes, *, disconnect: bool = True) -> None:
        """Go back to a snapshot; without *disconnect*, behind a pooler that does not show it."""
        with self._turn, closing(sqlite3.connect(":memory:")) as copy:
            copy.deserialize(snapshot)
            copy.backup(self._rows)
            if disconnect:
                self._end_connections()

    def step_clock(self, seconds: float) -> None:
        """Step the server's clock."""
        self._steps += seconds

    def set_clock(self, seconds: float) -> None:
        """Set the server's clock to so many seconds after the time that it was given."""
        self._steps = seconds

    def clock(self) -> float:
        """Return the server's time, in seconds since the epoch."""
        return self._now() + self._steps

    # -- what its rows say ------------------------------------------------------------------------------------------

    def read(self, query: str) -> list[Row]:
        """Return the rows of a query of SQLite."""
        with self._turn:
            return self._rows.execute(query).fetchall()

    def rows(self) -> list[Intent]:
        """Return the rows of all intents, oldest first."""
        return [to_row(row) for row in self.read(f"SELECT {', '.join(COLUMNS)} FROM intents ORDER BY number")]

    # -- for its connections ----------------------------------------------------------------------------------------

    def connect(self, host: _Host) -> ModelConnection:
        """
        Return a new connection.

        Raises:
            psycopg.OperationalError: If it is refused.
        """
        reason = "session is read-only" if self.read_only else "Connection refused"
        if self._refused or self.read_only or not self._runs or host.is_dead:
            self._refused = max(0, self._refused - 1)
            msg = f'connection failed: connection to server at "model.invalid" failed: {reason}'
            raise psycopg.OperationalError(msg)
        host.connection = ModelConnection(self, host, next(self._pids))
        self.connections.append(host.connection)
        return host.connection

    def _end_connections(self) -> None:
        for connection in list(self.connections):
            connection.end()

    def _backend_pid(self) -> int:
        pid = 0 if self._current is None else self._current.info.backend_pid
        return -pid if self.pooler else pid

    def _notify(self, channel: str, payload: str) -> str:
        if self._current is not None:
            self._current.notes[channel, payload] = None
        return ""

    def begin(self, connection: ModelConnection) -> None:
        """Begin a transaction, after the others."""
        self._turn.acquire()
        self._current = connection
        self._rows.execute("BEGIN")

    def finish(self, connection: ModelConnection, *, commit: bool) -> None:
        """Commit a transaction, or roll it back."""
        try:
            self._rows.execute("COMMIT" if commit else "ROLLBACK")
            notes, connection.notes = connection.notes, {}
            for channel, payload in notes if commit and not self.deaf else ():
                for listener in [each for each in self.connections if channel in each.channels]:
                    listener.tell(_Notify(channel.encode(), payload.encode(), connection.info.backend_pid))
        finally:
            self._current = None
            self._turn.release()

    def loses(self, texts: Sequence[str]) -> bool | None:
        """Return None if a commit of these statements is answered, else True if it is done."""
        for number, (done, of) in enumerate(self._losses):
            if any(of in text for text in texts):
                del self._losses[number]
                return done
        return None

    def run(self, statement: Converted, values: Mapping[str, Any] | Sequence[Any]) -> list[Row]:
        """
        Run a statement in the current transaction.

        Raises:
            psycopg.Error: If it fails.
        """
        if statement.changes and (self.read_only or (self._current is not None and self._current.is_demoted)):
            msg = "cannot execute INSERT in a read-only transaction"
            raise psycopg.errors.ReadOnlySqlTransaction(msg)
        _refuse_nul(values.values() if isinstance(values, Mapping) else values)
        try:
            return postgres_dialect.execute(self._rows, statement, values)
        except sqlite3.IntegrityError as error:
            raise psycopg.errors.UniqueViolation(str(error)) from error


def _refuse_nul(values: Any) -> None:
    for value in values:
        if isinstance(value, list):
            _refuse_nul(value)
        elif isinstance(value, str) and "\0" in value:
            msg = "PostgreSQL text fields cannot contain NUL (0x00) bytes"
            raise psycopg.DataError(msg)


@attrs.frozen
class _Notify:
    """A notification."""

    relname: bytes
    extra: bytes
    be_pid: int


@attrs.frozen
class _Info:
    """The backend of a connection."""

    backend_pid: int


@attrs.frozen
class _Result:
    """The status of a result."""

    status: ExecStatus


class _Cursor:
    """The rows of a statement."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self.pgresult = _Result(ExecStatus.TUPLES_OK)

    def fetchall(self) -> list[Row]:
        return self._rows

    def fetchone(self) -> Row | None:
        return self._rows[0] if self._rows else None


class ModelConnection:
    """
    A connection, as far as the journal's session uses psycopg's.

    Args:
        server: The server.

        host: The worker's side of it.

        pid: The id of its backend.
    """

    def __init__(self, server: ModelServer, host: _Host, pid: int) -> None:
        self.info = _Info(pid)
        #: The names of the channels that it listens on.
        self.channels: set[str] = set()
        #: What its transaction tells others when it commits, in order and once.
        self.notes: dict[tuple[str, str], None] = {}
        self.closed = False
        #: True if its server has become a standby.
        self.is_demoted = False
        self._server = server
        self._host = host
        self._ended = False
        self._handlers: list[Callable[[psycopg.Notify], None]] = []
        self._told: list[_Notify] = []
        self._texts: list[str] | None = None  # of the transaction; None if there is none
        self._changes = False
        self._is_piped = self._is_explicit = False

    # -- the server's side ------------------------------------------------------------------------------------------

    def tell(self, note: _Notify) -> None:
        """Send a notification."""
        self._told.append(note)
        self._host.wake()

    def end(self) -> None:
        """End it, as the server does; its transaction is rolled back."""
        self._ended = True
        self._leave()
        self._host.wake()

    # -- psycopg's side ---------------------------------------------------------------------------------------------

    @property
    def pgconn(self) -> ModelConnection:
        return self

    @property
    def is_readable(self) -> bool:
        """True if the worker's event loop is to be woken."""
        return not self.closed and (self._ended or bool(self._told))

    def fileno(self) -> int:
        """Return that of no file: ``ModelStore`` is woken by ``_Host``."""
        return -1

    def add_notify_handler(self, handler: Callable[[psycopg.Notify], None]) -> None:
        self._handlers.append(handler)

    def consume_input(self) -> None:
        if self._ended:
            self.closed = True
            raise psycopg.OperationalError(_CLOSED)

    def notifies(self) -> _Notify | None:
        return self._told.pop(0) if self._told else None

    def close(self) -> None:
        self.closed = True
        self._leave()

    def _leave(self) -> None:
        if self in self._server.connections:
            self._server.connections.remove(self)
        self.rollback()

    def execute(self, text: str | bytes, values: Mapping[str, Any] | Sequence[Any] = ()) -> _Cursor:
        """Execute a statement, in a transaction of its own if there is none."""
        self.consume_input()
        text = text.decode() if isinstance(text, bytes) else text
        if text.startswith("LISTEN"):
            self.channels.add(text.partition('"')[2].rstrip('"'))
            return _Cursor([])
        if text == "COMMIT":
            self._commit()
            return _Cursor([])
        if self._texts is None:
            self._server.begin(self)
            self._texts, self._changes, self._is_explicit = [], False, text == "BEGIN"
        if text == "BEGIN":
            return _Cursor([])
        statement = postgres_dialect.convert(text)
        self._texts.append(text)
        self._changes |= statement.changes
        with self._implicit(unless=self._is_piped):
            rows = self._server.run(statement, values)
        return _Cursor(rows)

    @contextmanager
    def pipeline(self) -> Generator[None]:
        """Execute statements in one transaction."""
        self._is_piped = True
        try:
            with self._implicit(unless=False):
                yield
        finally:
            self._is_piped = False

    @contextmanager
    def _implicit(self, *, unless: bool) -> Generator[None]:
        """End a transaction that was not begun by its own statement."""
        try:
            yield
        except BaseException:
            if not unless and not self._is_explicit:
                self.rollback()
            raise
        if not unless and not self._is_explicit and self._texts is not None:
            self._commit()

    def rollback(self) -> None:
        if self._texts is not None:
            self._texts, self.notes = None, {}
            self._server.finish(self, commit=False)

    def _commit(self) -> None:
        texts, self._texts = self._texts or (), None
        done = self._server.loses(texts) if self._changes else None
        self._server.finish(self, commit=done is not False)
        if done is not None:
            self.end()
            self.consume_input()
        while (note := self.notifies()) is not None:
            for handler in self._handlers:
                handler(psycopg.Notify(note.relname.decode(), note.extra.decode(), note.be_pid))


class _Host:
    """
    The worker's side of its connections.

    It refers to no event loop, as the writer's thread refers to it.

    Args:
        server: The server.
    """

    def __init__(self, server: ModelServer) -> None:
        #: True once the worker was killed.
        self.is_dead = False
        self.connection: ModelConnection | None = None
        #: The store while its event loop waits for the connection.
        self.listener: weakref.ref[ModelStore] | None = None
        self._server = server

    def connect(self, **_settings: object) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect; see ``ModelServer.connect``."""
        return cast("psycopg.Connection[tuple[Any, ...]]", self._server.connect(self))

    def wake(self) -> None:
        """Let the event loop take what has come, if it waits for that."""
        store = None if self.listener is None else self.listener()
        if store is not None and self.connection is not None and self.connection.is_readable:
            self.listener = None
            store.wake()


class ModelStore(PostgresStore):
    """
    The journal's store of one worker on a model's server.

    Args:
        server: The server.

        **options: Those of ``PostgresStore``.
    """

    def __init__(self, server: ModelServer, **options: Any) -> None:
        super().__init__(lambda: DSN, **options)
        self._host = _Host(server)
        self._connect = self._host.connect

    def bury(self) -> None:
        """Do what a kill does: the connection ends, the lease stays, and nothing more is done or told."""
        self._host.is_dead = True
        self._stop_listening()
        if self._host.connection is not None:
            self._host.connection.end()
        if self._commits is not None:
            self._commits._writer.shutdown()

    def wake(self) -> None:
        """Let the event loop hear the connection, in whichever thread that has become readable."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hear)

    async def change_account(
        self, change: Callable[[str | None, float], tuple[str | None, int, _T]]
    ) -> AccountChange[_T]:
        # The server's clock is that of virtual time, too.
        time = asyncio.get_running_loop().time
        return await self._run(
            Action(AccountWriter(change, clock=self._clock, own_time=time, loop_time=time).run, writes=False)
        )

    def _listen(self) -> None:
        super()._listen()
        self._host.listener = weakref.ref(self)
        self._host.wake()

    def _stop_listening(self) -> None:
        super()._stop_listening()
        self._host.listener = None
