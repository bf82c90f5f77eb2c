"""
The journal in PostgreSQL: a schema that the workers of many machines share.

One connection does everything, in the journal's own thread; see ``group_commit`` and ``postgres_session``. A worker
lives by a lease in the table ``workers``, which its heartbeats extend by the server's clock.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, cast

import anyio
import attrs
import psycopg

from kie_async._core.account_state import AccountState
from kie_async._core.acknowledged import Repair, Restoration
from kie_async._core.budget_ledger import SeenPrices, opened_budget, raised_budget
from kie_async._core.durations import Kind
from kie_async._core.lifecycle import OPEN, Intent, can_follow
from kie_async._core.shared_clock import SharedClock
from kie_async._dsn import shown_dsn
from kie_async._io.journals import postgres_restoration as restoration
from kie_async._io.journals import postgres_share
from kie_async._io.journals import postgres_tables as tables
from kie_async._io.journals import postgres_workers as leases
from kie_async._io.journals.group_commit import GroupCommit, Writer
from kie_async._io.journals.journal import (
    AccountChange,
    Changes,
    Service,
    WorkerReport,
    illegal_transition,
    in_pages,
)
from kie_async._io.journals.postgres_account import AccountWriter
from kie_async._io.journals.postgres_schema import retryable
from kie_async._io.journals.postgres_session import Action, News, PostgresSession
from kie_async._io.journals.postgres_tables import Query
from kie_async._io.journals.rows import without_secrets
from kie_async._io.runtime import Runtime
from kie_async.budget import BudgetInfo
from kie_async.errors import JournalError, KieError
from kie_async.states import JobState
from kie_async.statistics import WorkerInfo

__all__ = ["PostgresStore"]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_log = logging.getLogger("kie_async")

#: The rows that one statement looks through for old ones.
_EXAMINED_TOGETHER = 500
#: The rows that one transaction deletes: each is in other pages of the indices.
_DELETED_TOGETHER = 50
#: The pause in seconds after such a transaction.
PAUSE = 0.01
#: The time in seconds in which a worker that waits for notifications expects an answer when it asks for nothing: a
#: connection that is silent for ever is noticed within four seconds.
_PING_TIMEOUT = 1.8
#: The interval between two checks of an overdue answer, in seconds.
_CHECK_INTERVAL = 0.2


class PostgresStore:
    """
    A journal whose rows are in a schema of a PostgreSQL database. See ``Journal`` for the methods.

    Args:
        dsn: Returns the connection string, which may have a password.

        schema: The name of the schema.

        store_inputs: ``"full"`` or ``"hash"``.

        service: The service of the client that uses the journal; the schema may have rows of other services.

    Raises:
        JournalError: From every method, if the server cannot be used; its ``retryable`` is True if it is away.
    """

    durable = True
    #: The time in seconds without a heartbeat after which other workers take over this one's jobs.
    lease: float = 10.0
    heartbeat_interval: float = 3.0
    #: The interval in seconds between two questions for changes, where the server's notifications do not arrive.
    ask_interval: float = 1.0
    #: The interval in seconds between two checks of the connection while it waits for notifications.
    ping_interval: float = 2.0
    #: The interval in seconds between two readings of all watched rows: no notification is relied on for longer.
    reading_interval: float = 60.0
    #: Opens a connection.
    _connect: Callable[..., psycopg.Connection[tuple[Any, ...]]] = staticmethod(psycopg.connect)

    def __init__(
        self,
        dsn: Callable[[], str],
        *,
        schema: str = "kie_async",
        store_inputs: Literal["full", "hash"] = "full",
        service: Service | None = None,
    ) -> None:
        self.service: Service = service or Service()
        self._dsn = dsn
        self._schema = schema
        self._stores_inputs = store_inputs == "full"
        self._commits: GroupCommit[PostgresSession] | None = None
        self._session: PostgresSession | None = None
        self._name: str | None = None
        self._opened_at = 0.0
        self._restoration = Restoration()
        self._clock = SharedClock()
        self.account_state: AccountState | None = None
        self.on_restored: Callable[[Sequence[Repair]], None] | None = None
        self._news = News()
        self._changed = asyncio.Event()
        self._read_all_at = 0.0
        self._listened = -1
        self._check: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        runtime = Runtime(self._loop)
        self._name = f"{self.service.account}-{runtime.new_id().removeprefix('kj_')}"
        self._opened_at, self._news, self._changed = runtime.wall(), News(), asyncio.Event()
        self._read_all_at = runtime.now() + self.reading_interval
        self._restoration = type(self._restoration)()  # the schema may be another by now
        own = {f"own_{name}": value for name, value in attrs.asdict(self.service).items()}
        session = PostgresSession(
            self._dsn,
            self._schema,
            {**own, "own_name": self._name, "own_heartbeat": self.heartbeat_interval},
            news=self._news,
            enter=self._heartbeat(None),
            restoration=self._restoration,
            connect=self._connect,
        )
        writer = Writer[PostgresSession](self._schema, restoration=self._restoration, disconnected=session.close)
        commits = GroupCommit(
            writer,
            to_error=self._unusable,
            on_restored=self._report_restored,
            on_busy=self._watch_answer,
            on_idle=self._listen,
        )
        self._commits, self._session = commits, session
        await commits.open(session.open)

    async def close(self) -> None:
        if self._commits is not None:
            self._stop_listening()
            await self._commits.close()

    def release(self) -> None:
        if self._commits is not None:
            self._stop_listening()
            self._commits.release()

    # -- rows -------------------------------------------------------------------------------------------------------

    async def add(self, intent: Intent) -> Intent:
        kept = self._kept({"input": intent.input, "sources": intent.sources, "owner": self.worker})
        row = attrs.evolve(intent, origin=self.service.origin, account=self.service.account, **kept)
        return await self._run(
            Action(
                partial(restoration.add_row, self._restoration, row),
                writes=True,
                read_back=partial(tables.read_back_row, row.id),
                undo=partial(tables.delete_unsent, row.id),
            )
        )

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        if not can_follow(seen.state, state):
            raise illegal_transition(seen, state)
        fields: dict[str, object] = {"state": state, "updated_at": at, **self._kept(changes)}
        if state is JobState.INTENT or seen.state not in OPEN:
            # The worker that reopens a row works on it, with its API key.
            fields = {"owner": self.worker, "account": self.service.account} | fields
        written = attrs.evolve(seen, **fields)  # type: ignore[arg-type]  # the fields of a row
        undo = None
        if state is JobState.SENDING:
            # Its caller sends nothing, and sends it later as another attempt.
            before = {name: getattr(seen, name) for name in fields}
            undo = partial(restoration.change_row, self._restoration, seen.id, before, written)
        return await self._run(
            Action(
                partial(restoration.change_row, self._restoration, seen.id, fields, seen, account_epoch),
                writes=True,
                read_back=partial(tables.read_back_transition, written),
                undo=undo,
            )
        )

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        fields = {"updated_at": at, **self._kept(changes)}
        return await self._write(restoration.change_row, self._restoration, job_id, fields)

    async def get(self, job_id: str) -> Intent | None:
        return await self._read(tables.select_one, job_id)

    async def by_key(self, key: str) -> Intent | None:
        return await self._read(tables.select_by_key, key)

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        return [row for part in in_pages(keys) for row in await self._read(tables.select_by_keys, part)]

    async def identity(self) -> str:
        return self._opened(self._session).journal_id

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
            old, after = await self._read(tables.find_old, before, after, _EXAMINED_TOGETHER)
            for first in range(0, len(old), _DELETED_TOGETHER):
                deleted += await self._write(tables.delete_ended, before, old[first : first + _DELETED_TOGETHER])
                await anyio.sleep(PAUSE)
        return deleted

    async def forgotten_until(self) -> float:
        return await self._read(restoration.read_forgotten_until)

    async def mark_delivered(self, job_id: str) -> None:
        """Do nothing: rows take disk space, and no memory."""

    async def recent_durations(self, limit: int) -> Sequence[tuple[Kind, float]]:
        return await self._read(tables.select_recent_durations, limit)

    async def open_budget(self, name: str, credits: float) -> BudgetInfo:
        return await self._write(tables.write_budget, opened_budget, name, credits)

    async def raise_budget(self, name: str, credits: float) -> BudgetInfo:
        return await self._write(tables.write_budget, raised_budget, name, credits)

    async def budgets(self) -> Sequence[BudgetInfo]:
        return await self._read(tables.select_budgets)

    async def uncharged_rows(self, budget: str) -> Sequence[Intent]:
        return await self._read(tables.select_uncharged, budget)

    async def seen_prices(self, model: str, price_class: str) -> SeenPrices:
        return await self._read(tables.select_seen_prices, model, price_class)

    async def change_account(
        self, change: Callable[[str | None, float], tuple[str | None, int, _T]]
    ) -> AccountChange[_T]:
        runtime = Runtime(asyncio.get_running_loop())
        # In virtual time, the shared time is that of the loop: the server's clock does not know of it.
        clock = None if hasattr(asyncio.get_running_loop(), "wall_time") else self._clock
        writer = AccountWriter(change, clock=clock, own_time=runtime.shared, loop_time=runtime.now)
        return await self._run(Action(writer.run, writes=False))

    # -- workers ----------------------------------------------------------------------------------------------------

    @property
    def worker(self) -> str:
        return self._opened(self._name)

    def owns(self, row: Intent) -> bool:
        return row.owner == self.worker

    async def is_owner_alive(self, row: Intent) -> bool:
        return await self._read(leases.is_alive, row.owner)

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        if job_ids is None:
            await self._write(leases.take_over, None, after, limit, adopt_key=adopt_key)
            return await self._read(leases.select_own, None, after, limit)
        claimed: list[Intent] = []
        for part in in_pages(job_ids):
            await self._write(leases.take_over, part, after, limit, adopt_key=adopt_key)
            claimed += await self._read(leases.select_own, part, after, limit)
        return sorted(claimed, key=lambda row: row.number)[:limit]

    async def hold(self, job_ids: Collection[str]) -> Sequence[Intent]:
        held: list[Intent] = []
        for part in in_pages(job_ids):
            if free := await self._read(postgres_share.find_unheld, part):
                await self._write(postgres_share.take_holds, free)
            held += await self._read(postgres_share.select_by_ids, part)
        return held

    async def end_hold(self, job_id: str, yielded: JobState | None) -> None:
        await self._write(postgres_share.end_hold, job_id, yielded)

    async def take_over(self, *, adopt_key: bool = False, limit: int) -> Sequence[Intent]:
        return await self._write(leases.take_over, None, 0, limit, adopt_key=adopt_key, left_only=True)

    async def has_expired_owners(self) -> bool:
        return await self._read(leases.has_expired_owners)

    async def count_orphans(self) -> Mapping[JobState, int]:
        return await self._read(leases.count_orphans)

    async def orphaned_send_times(self, *, since: float) -> Sequence[float]:
        return await self._read(leases.select_orphaned_send_times, since)

    async def count_unsent_of_other_keys(self) -> int:
        return await self._read(leases.count_unsent_of_other_keys)

    async def older_callback_secrets(self) -> Sequence[bytes]:
        return await self._read(leases.select_older_callback_secrets)

    async def heartbeat(self, report: WorkerReport) -> Sequence[WorkerInfo]:
        session = self._opened(self._session)
        session.enter = enter = self._heartbeat(report.dump())
        self._news.heard_own = False
        workers = await self._run(Action(enter, writes=False))  # a commit of its own, which does not wait for the disk
        if not self._news.heard_own and not session.asks:
            # The server sends a session its own notifications before it has answered: this one gets none.
            await self._opened(self._commits).run(PostgresSession.listen_again, writes=False)
        # A step of the server's clock is seen by comparing readings: a worker that has none would believe the clock.
        await self.change_account(_read_only)
        return workers

    async def workers(self) -> Sequence[WorkerInfo]:
        return await self._read(leases.select_workers)

    def _heartbeat(self, report: str | None) -> Callable[[], Query[list[WorkerInfo]]]:
        return partial(leases.write_heartbeat, platform.node(), os.getpid(), self._opened_at, self.lease, report)

    # -- notifications ----------------------------------------------------------------------------------------------

    async def wait_for_change(self) -> Collection[str] | None:
        session, loop = self._opened(self._session), asyncio.get_running_loop()
        while not self._news.is_any and not self._news.ids and loop.time() < self._read_all_at:
            self._changed.clear()
            with anyio.move_on_after(self.ask_interval if session.asks else self.ping_interval) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                if session.asks:
                    return None
                await self._run(Action(leases.ping, writes=False, timeout=_PING_TIMEOUT))
        if self._news.is_any or loop.time() >= self._read_all_at:
            self._news.is_any, self._read_all_at = True, loop.time() + self.reading_interval
        return self._news.take()

    def _watch_answer(self) -> None:
        """Watch for an overdue answer while the thread uses the connection, and not for notifications."""
        self._stop_listening()
        loop = asyncio.get_running_loop()
        self._check = loop.call_later(_CHECK_INTERVAL, self._check_answer, None, loop.time())

    def _check_answer(self, question: tuple[int, float] | None, since: float) -> None:
        session, loop = self._session, asyncio.get_running_loop()
        if session is None:
            return
        if question is None or session.question != question:
            question, since = session.question, loop.time()
        elif loop.time() - since >= question[1]:
            session.give_up(question)
        self._check = loop.call_later(_CHECK_INTERVAL, self._check_answer, question, since)

    def _listen(self) -> None:
        """Watch the connection while the thread does not use it."""
        self._stop_listening()
        if self._news.is_any or self._news.ids:
            self._changed.set()
        if self._session is not None and self._session.fileno >= 0:
            self._listened = self._session.fileno
            asyncio.get_running_loop().add_reader(self._listened, self._hear)

    def _stop_listening(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None
        if self._listened >= 0:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._listened)
            self._listened = -1

    def _hear(self) -> None:
        self._stop_listening()
        if self._commits is not None and not self._commits.closed:
            hearing = self._commits.start(PostgresSession.hear, writes=False)
            hearing.add_done_callback(_retrieve_error)

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _read(self, query: Callable[_P, Query[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(Action(partial(query, *args, **kwargs), writes=False))

    async def _write(self, query: Callable[_P, Query[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(Action(partial(query, *args, **kwargs), writes=True))

    async def _run(self, action: Action[_T]) -> _T:
        commits = self._opened(None if self._commits is None or self._commits.closed else self._commits)
        # The session runs the query that the action makes.
        return cast("_T", await commits.run(action, writes=action.writes))

    def _opened(self, part: _T | None) -> _T:
        if part is None:
            msg = f"The journal in the schema {self._schema} is not open. Use the client within `async with`."
            raise JournalError(msg)
        return part

    def _kept(self, changes: Changes) -> Changes:
        return changes if self._stores_inputs else without_secrets(changes)

    def _report_restored(self, repairs: Sequence[Repair]) -> None:
        if self.on_restored is not None:
            self.on_restored(repairs)

    def _unusable(self, error: Exception) -> KieError:
        reason = " ".join(str(error).split())
        journal = f"The journal {shown_dsn(self._dsn())} (schema {self._schema})"
        advice = "Fix this, or use another journal."
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            advice = "Grant this role what is at the end of what `kie-async journal schema` prints."
        wrong = JournalError(f"{journal} cannot be used: {reason.rstrip('.')}. {advice}")
        wrong.__cause__ = error
        return retryable(wrong) if isinstance(error, psycopg.OperationalError) else wrong


def _read_only(_text: str | None, _now: float) -> tuple[None, int, None]:
    return None, 0, None


def _retrieve_error(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
