"""
``PostgresSession``: the one connection to PostgreSQL, as the journal's writer thread uses it.

The first statements of all calls that arrive together form one pipeline: one round trip, one transaction, one commit.
After a lost connection, whatever may have been committed is read back before anything else.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import attrs
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ExecStatus

from kie_async._dsn import shown_dsn
from kie_async._io.journals.postgres_restoration import restore_rows
from kie_async._io.journals.postgres_schema import check_server, prepare_schema, quoted, retryable
from kie_async._io.journals.postgres_tables import NOT_DONE, NotDone, Query, Rows, Statement
from kie_async._io.journals.postgres_workers import delete_worker
from kie_async.errors import JournalError

if TYPE_CHECKING:
    from kie_async._core.acknowledged import Restoration
    from kie_async._io.journals.group_commit import JournalCall

__all__ = ["Action", "News", "PostgresSession"]

_T = TypeVar("_T")
_Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
#: A call, its query, and the statement to execute.
_Started: TypeAlias = "tuple[JournalCall[PostgresSession], Query[object], Statement]"
_log = logging.getLogger("kie_async")

#: What a DSN may say otherwise. A network that swallows packets is noticed within four seconds; the server itself may
#: take any time, because a commit may wait for a standby.
_DEFAULTS: Mapping[str, str | int] = {
    "application_name": "kie_async",
    "connect_timeout": 5,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 2000,
    "target_session_attrs": "read-write",
}
#: The time in seconds that an answer may take.
_LONGEST_TIMEOUT = 30.0
#: What psycopg puts before libpq's text, which names the host itself.
_PREFIX = re.compile(r"^(- .*?)?connection (failed|is bad): ")
#: What libpq says of servers that cannot be written.
_STANDBY = ("session is read-only", "hot standby")
#: The server cannot be written (any more), or ends the connection.
_LOST = ("25006", "57P", "08")
_FLUSH = b"SELECT set_config('synchronous_commit', 'on', true)"
#: A worker that stops in the middle of a transaction must not stop the others, who wait for its locks.
_LIMITS = (
    b"SELECT set_config('idle_in_transaction_session_timeout', '5s', true), set_config('lock_timeout', '10s', true)"
)


@attrs.frozen(eq=False)
class Action(Generic[_T]):
    """
    A query to run.

    Attributes:
        query: Makes the query; called again if its transaction was not committed.

        writes: True if it changes rows.

        read_back: Makes a query for the result of one whose connection was lost, or ``NOT_DONE``; None if the query may
            be run twice.

        undo: Makes a query that reverts it, because its caller has got the error that it was not done.

        timeout: The time in seconds after which the connection is given up if there is no answer. It is long, because
            a commit may wait for a standby.
    """

    query: Callable[[], Query[_T]]
    writes: bool
    read_back: Callable[[], Query[_T | NotDone]] | None = None
    undo: Callable[[], Query[object]] | None = None
    timeout: float = _LONGEST_TIMEOUT

    def __call__(self, _session: PostgresSession) -> Query[_T]:
        """Return the query."""
        return self.query()


class News:
    """
    The rows that other workers have changed, by the server's notifications.

    The thread adds to it; the event loop takes them.
    """

    def __init__(self) -> None:
        #: The ids of changed rows, in the order of their first change.
        self.ids: dict[str, None] = {}
        #: True if any row may have changed.
        self.is_any = False
        #: True once this worker's heartbeat was heard.
        self.heard_own = False

    def take(self) -> Collection[str] | None:
        """Return the ids of changed rows, or None if any may have changed, and forget them."""
        found, self.ids = self.ids, {}
        was_any, self.is_any = self.is_any, False
        return None if was_any else found.keys()


class PostgresSession:
    """
    The connection of one worker, for its writer thread; see ``Database``.

    Args:
        dsn: Returns the connection string.

        schema: The name of the schema.

        own: The values that each statement may use: the worker's name, its service and its account.

        news: Learns what other workers change.

        enter: Makes the query that writes this worker's row, with its latest figures.

        restoration: What the journal has acknowledged.

        connect: Opens a connection; see ``psycopg.connect``.
    """

    def __init__(
        self,
        dsn: Callable[[], str],
        schema: str,
        own: Mapping[str, object],
        *,
        news: News,
        enter: Callable[[], Query[object]],
        restoration: Restoration,
        connect: Callable[..., _Connection],
    ) -> None:
        self.enter = enter
        self._open_connection = connect
        self._restoration = restoration
        #: The id that the journal got when it was made.
        self.journal_id = ""
        #: The descriptor of the connection; -1 while there is none.
        self.fileno = -1
        #: True if notifications do not arrive, so that changes must be asked for.
        self.asks = False
        self._dsn = dsn
        self._schema = schema
        self._own = {**own, "own_channel": schema}
        self._news = news
        self._connection: _Connection | None = None
        #: True if the server flushes commits without our asking for it.
        self._flushes = True
        self._deaf_before = False
        self._undo: list[Callable[[], Query[object]]] = []
        self._texts: dict[str, bytes] = {}
        #: The number of what is asked now, and the time in seconds that its answer may take; None while nothing is.
        self.question: tuple[int, float] | None = None
        self._questions = 0
        # Held to close the connection, and to give it up in another thread.
        self._closing = threading.Lock()

    # -- life -------------------------------------------------------------------------------------------------------

    def open(self) -> PostgresSession:
        """Connect, and create the tables if they do not exist."""
        self._reconnect()
        return self

    def close(self) -> None:
        """Let other workers claim this one's jobs, and disconnect."""
        if self._connection is not None:
            with suppress(psycopg.Error):  # then the lease runs out
                self._execute(delete_worker(), self._connection)
        self._disconnect()

    def _disconnect(self) -> None:
        with self._closing:
            connection, self._connection, self.fileno = self._connection, None, -1
            if connection is not None:
                connection.close()

    def give_up(self, question: tuple[int, float]) -> None:
        """Shut the connection down if it still has no answer to *question*; called while the thread waits for that."""
        with self._closing:
            if self.question == question and self.fileno >= 0:
                with suppress(OSError), socket.socket(fileno=os.dup(self.fileno)) as same:
                    same.shutdown(socket.SHUT_RDWR)

    def _ask_for(self, timeout: float) -> None:
        self._questions += 1
        self.question = self._questions, timeout

    def _reconnect(self) -> _Connection:
        """
        Connect, restore what the journal lacks of what it had acknowledged, and revert what was left.

        Raises:
            JournalError: If the server has another journal than before, or cannot keep one.
        """
        connection = self._connect()
        self.fileno = connection.fileno()
        self._ask_for(_LONGEST_TIMEOUT)
        try:
            self._flushes = check_server(connection)
            self._check_journal(journal_id := prepare_schema(connection, self._schema, create=not self.journal_id))
            self._listen(connection)
            self._execute(self.enter(), connection)
            if self.journal_id:
                self._restore(connection)
            while self._undo:
                self._execute(self._undo[0](), connection)
                del self._undo[0]
        except BaseException:
            with self._closing:
                self.fileno = -1
                connection.close()
            raise
        self._news.is_any = bool(self.journal_id)  # notifications of the meantime are lost
        self.journal_id, self._connection = journal_id, connection
        return connection

    def _restore(self, connection: _Connection) -> None:
        """Write again what the journal has lost: this server may be a standby that lagged."""
        self._restoration.begin()
        self._begin(connection)
        self._execute(restore_rows(self._restoration), connection)
        connection.execute(b"COMMIT")
        self._restoration.commit(())

    def _connect(self) -> _Connection:
        try:
            return self._open_connection(
                **{**_DEFAULTS, **conninfo_to_dict(self._dsn())}, autocommit=True, prepare_threshold=None
            )
        except psycopg.Error as error:
            reason = _reason(error)  # names host, port, user and database, but not the password
        # Raised here, so that it refers to no frame that has the password; this one has it in no variable.
        advice = "Check the DSN and the server."
        if any(text in reason for text in _STANDBY):
            advice = "That is a standby, or read-only. Name the primary in the DSN, or all hosts."
        msg = f"The journal {shown_dsn(self._dsn())} cannot be used: {reason}. {advice}"
        raise retryable(JournalError(msg))

    def _check_journal(self, journal_id: str) -> None:
        if self.journal_id not in ("", journal_id):
            msg = (
                f"The schema {self._schema!r} has another journal than before ({journal_id or 'none'}, not"
                f" {self.journal_id})."
                " Nothing is written to it. Restore the first one, or close the client and open this one."
            )
            raise JournalError(msg)

    # -- notifications ----------------------------------------------------------------------------------------------

    def _listen(self, connection: _Connection) -> None:
        if not self.asks and connection.execute("SELECT pg_backend_pid()").fetchone() != (connection.info.backend_pid,):
            self._ask("The journal's server is behind a connection pooler")
        if not self.asks:
            connection.add_notify_handler(self._handle)
            for channel in (self._own["own_channel"], self._own["own_name"]):
                connection.execute(f"LISTEN {quoted(str(channel))}".encode())

    def _ask(self, why: str) -> None:
        self.asks = True
        _log.warning("%s, so notifications do not arrive: this worker asks for changes every second.", why)

    def _handle(self, notification: psycopg.Notify) -> None:
        if notification.channel == self._own["own_name"]:
            self._news.heard_own = True
        elif self._connection is not None and notification.pid != self._connection.info.backend_pid:
            self._news.ids[notification.payload] = None

    def hear(self) -> None:
        """Take the server's notifications; a connection that it has closed is made again."""
        connection = self._connection or self._reconnect()
        try:
            connection.pgconn.consume_input()
        except psycopg.OperationalError:
            self._disconnect()
            connection = self._reconnect()
        self._take_notifications(connection)

    def _take_notifications(self, connection: _Connection) -> None:
        """Take what has come with the answer to a statement: the socket is not readable any more."""
        while (notification := connection.pgconn.notifies()) is not None:
            self._handle(
                psycopg.Notify(notification.relname.decode(), notification.extra.decode(), notification.be_pid)
            )

    def listen_again(self) -> None:
        """Connect again after a heartbeat that was not heard; after a second one, ask for changes instead."""
        if self._deaf_before:
            self._ask("The journal's server does not tell this worker of its own heartbeat")
        else:
            self._deaf_before = True
            self._disconnect()
            self._reconnect()

    # -- calls ------------------------------------------------------------------------------------------------------

    def run(self, calls: Sequence[JournalCall[PostgresSession]], *, writes: bool) -> None:
        """Do calls, the first statements of writes in one transaction."""
        unfinished = list(calls)
        connection = self._connection or self._reconnect()
        actions = [call.action for call in calls if isinstance(call.action, Action)]
        self._ask_for(max((action.timeout for action in actions), default=_LONGEST_TIMEOUT))
        try:
            self._run(connection, unfinished, writes=writes)
        except psycopg.Error as error:
            if not self._is_lost(error):
                raise
            _log.info("The connection to the journal's server was lost (%s).", " ".join(str(error).split()))
            self._disconnect()
            self._recover(unfinished)
        finally:
            self.question = None
        if self._connection is not None:
            self._take_notifications(self._connection)

    def fails_all(self, error: Exception) -> bool:  # noqa: ARG002
        """Return True if there is no connection."""
        return self._connection is None

    def _is_lost(self, error: Exception) -> bool:
        closed = self._connection is None or self._connection.closed
        return closed or (isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_LOST))

    def _recover(self, unfinished: list[JournalCall[PostgresSession]]) -> None:
        """Finish calls after the connection was lost: some of them may have been committed."""
        try:
            connection = self._reconnect()
            for call in list(unfinished):
                read_back = call.action.read_back if isinstance(call.action, Action) else None
                result = NOT_DONE if read_back is None else self._execute(read_back(), connection)
                if isinstance(result, NotDone):
                    self._run_alone(connection, call)
                else:
                    call.result = result
                unfinished.remove(call)
        except Exception as error:  # noqa: BLE001 (it is delivered to the callers)
            self._disconnect()
            for call in unfinished:
                call.error = error
                if isinstance(call.action, Action) and call.action.undo is not None:
                    self._undo.append(call.action.undo)

    def _run_alone(self, connection: _Connection, call: JournalCall[PostgresSession]) -> None:
        """Do one call; store its error, unless the connection is lost."""
        try:
            self._run(connection, [call], writes=call.writes)
        except Exception as error:
            if self._is_lost(error):
                raise
            call.error = error

    def _run(self, connection: _Connection, calls: list[JournalCall[PostgresSession]], *, writes: bool) -> None:
        """
        Do calls, and remove those from the list that are done or have failed alone.

        Raises:
            Exception: If the rest of the calls is not done; if the connection was lost, it may be.
        """
        queries: list[_Started] = []
        for call in list(calls):
            made = call.action(self)
            if isinstance(made, Generator):
                queries.append((call, made, next(made)))
            else:
                calls.remove(call)  # it has used the connection itself
        if not queries:
            return
        rest: list[_Started] = []
        for (call, query, _), rows in zip(queries, self._send(connection, queries, writes=writes), strict=True):
            try:
                rest.append((call, query, query.send(rows)))
            except StopIteration as end:
                call.result = end.value
                calls.remove(call)
        if writes and rest:
            self._finish_together(connection, rest)
            for call, _, _ in rest:
                calls.remove(call)
        elif not writes:
            for started in rest:
                self._finish_alone(connection, started)
                calls.remove(started[0])

    def _send(
        self,
        connection: _Connection,
        queries: Sequence[_Started],
        *,
        writes: bool,
    ) -> list[Rows]:
        """Execute the first statements of queries in one round trip, and return their rows."""
        flush = writes and not self._flushes
        if len(queries) == 1 and not flush:
            return [_rows(self._start(connection, queries[0][2]))]
        try:
            with connection.pipeline():
                # With an explicit transaction, an error of ours between two statements commits nothing.
                if whole := writes and len(queries) > 1:
                    connection.execute(b"BEGIN")
                    connection.execute(_LIMITS)
                if flush:
                    connection.execute(_FLUSH)
                cursors = [self._start(connection, statement) for _, _, statement in queries]
                if whole:
                    connection.execute(b"COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        return [_rows(cursor) for cursor in cursors]

    def _finish_together(self, connection: _Connection, queries: Sequence[_Started]) -> None:
        """Do the rest of queries in one transaction; store their results and errors."""
        try:
            self._begin(connection)
            results = [self._drive(query, statement, connection) for _, query, statement in queries]
            connection.execute(b"COMMIT")
        except Exception as error:
            _roll_back(connection)
            self._restoration.begin()
            if self._is_lost(error):
                raise
            if len(queries) == 1:
                queries[0][0].error = error
                return
            for call, _, _ in queries:
                self._run_alone(connection, call)
            return
        self._restoration.commit(())
        for (call, _, _), result in zip(queries, results, strict=True):
            call.result = result

    def _finish_alone(self, connection: _Connection, started: _Started) -> None:
        """Do the rest of a query, each statement in a transaction of its own; store its result or its error."""
        call, query, statement = started
        try:
            call.result = self._drive(query, statement, connection)
        except Exception as error:
            if self._is_lost(error):
                raise
            call.error = error

    def _begin(self, connection: _Connection) -> None:
        with connection.pipeline():
            connection.execute(b"BEGIN")
            connection.execute(_LIMITS)
            if not self._flushes:
                connection.execute(_FLUSH)

    def _execute(self, query: Query[_T], connection: _Connection) -> _T:
        """Run a query to its end, each of its statements in a transaction of its own."""
        try:
            statement = next(query)
        except StopIteration as end:
            return cast("_T", end.value)
        return self._drive(query, statement, connection)

    def _drive(self, query: Query[_T], statement: Statement, connection: _Connection) -> _T:
        try:
            while True:
                statement = query.send(_rows(self._start(connection, statement)))
        except StopIteration as end:
            return cast("_T", end.value)

    def _start(self, connection: _Connection, statement: Statement) -> psycopg.Cursor[tuple[Any, ...]]:
        text, values = statement
        known = self._texts.get(text)
        if known is None:
            known = self._texts[text] = text.replace("kie.", f"{quoted(self._schema)}.").encode()
        return connection.execute(known, {**self._own, **values})


def _rows(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Rows:
    result = cursor.pgresult
    return cursor.fetchall() if result is not None and result.status == ExecStatus.TUPLES_OK else []


def _roll_back(connection: _Connection) -> None:
    with suppress(psycopg.Error):
        if not connection.closed:
            connection.rollback()


def _reason(error: psycopg.Error) -> str:
    """Return the reasons of each host in one line, without libpq's questions."""
    lines = [line.strip() for line in str(error).splitlines()]
    each = [line for line in lines if line.startswith("- ")] or [line for line in lines if not line.endswith("?")]
    return "; ".join(" ".join(_PREFIX.sub("", line).split()).rstrip(".") for line in each if line)
