"""
The world of one simulation: processes with a client each, the journal they share, the service, and all accidents.

First calls begin and accidents happen; then everything heals, and every job has to end. ``checks`` compares the rest.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import math
import random as global_random
import re
import sqlite3
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

import aiohttp
import anyio
import attrs

from kie_async import Event, JournalError, KieClient, KieError, Limits, RetryPolicy
from kie_async._core.lifecycle import OPEN, UNFINISHED, Intent
from kie_async._io.files.part_files import PartFile
from kie_async._io.journals.group_commit import GroupCommit
from kie_async._io.journals.journal import Changes, Journal, Service
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from kie_async.testing.clock import START
from tests.helpers import KEY, PROMPT
from tests.simulation.calls import FUNCTIONS, Call
from tests.simulation.http_service import HttpService
from tests.simulation.loop import Scheduler, SimLoop, StuckError
from tests.simulation.pipes import Network
from tests.simulation.plan import CLOSING, PIPE_ACCIDENTS, Accident, Plan, Step
from tests.simulation.postgres_model import DSN, ModelServer, ModelStore
from tests.simulation.service import CALLBACK_URL, URL_OF_SERVICE, SimService, SimTransport

if TYPE_CHECKING:
    from kie_async._io.http.transport import Transport
    from tests.simulation.pipes import NetworkTrouble

__all__ = ["CANARIES", "POLICY", "SECRETS", "Process", "World"]

T = TypeVar("T")

POLICY = RetryPolicy(
    server_error_attempts=3, unsent_timeout=30.0, maintenance_timeout=60.0, in_doubt_timeout=60.0, max_age=300.0
)
#: The time in seconds within which every job has to end after everything has healed.
HEALING = 1500.0
WEBHOOK_KEY = "canary-of-the-webhook-key"
#: None of these may be shown by anything; the first ones not even by a variable, or a journal.
SECRETS = (KEY, WEBHOOK_KEY, DSN)
CANARIES = (*SECRETS, PROMPT)
#: The events that are kept to be shown.
_SHOWN_EVENTS = 200
_RECEIVER_TIMEOUT = 15.0
#: The status of the answer to a callback that was taken.
_TAKEN = 200
_HUNG = 0.02
#: The seconds within which callbacks are confirmed after all jobs have ended.
_CONFIRMED = 120.0
#: The seconds after which all that was left has a living owner.
_TAKEN_OVER = 40.0
#: The seconds after a freeze in which other workers may take a process for ended.
_AWAY = 20.0
#: What aiohttp's server raises if a connection is lost just before a request's first step: it counts on the order of
#: steps, which this loop permutes.
_OUT_OF_ORDER = "RuntimeError: Connection closed."


_JOB_ID = re.compile("kj_[0-9a-f]{32}")
#: The folder of the project, which has no place in what is kept of a fault.
_FOLDER = f"{Path(__file__).parents[2]}/"
#: What the value of an accident selects. If a journal fails before a create, the process is killed soon after that for
#: small values; for large ones it fails after the create, with the answer in flight. For small values, a kill after a
#: callback waits for one of a job whose task is not known yet. For large ones, commits are lost that precede a create.
_KILLS_BEFORE, _FAILS_LATER, _AT_UNKNOWN_TASKS, _AT_CREATES = 0.5, 0.75, 0.5, 0.5
#: What only the statement of a transition to SENDING has.
_SENDING = "sending_at = "
_UNANSWERED = (JobState.SENDING, JobState.IN_DOUBT)


class SimSqlite(SqliteStore):
    """The journal in an SQLite file, on a disk that may be full."""

    world: World

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        if state is JobState.SENDING:
            self.world.note_sending(self)
        row = await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)
        self.world.note_transition(seen, row)
        return row

    async def _run(self, action: Callable[[sqlite3.Connection], T], *, writes: bool, flush: bool = True) -> T:
        return await super()._run(partial(self._use_disk, action) if writes else action, writes=writes, flush=flush)

    def _use_disk(self, action: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
        if self.world.disk_is_full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        self.world.watch_owners(connection)
        return action(connection)

    @property
    def is_ended(self) -> bool:
        """True if it is not open."""
        return self._commits is None or self._commits.closed

    async def close(self) -> None:
        _end_writer(self._commits, self.world)
        await super().close()

    def release(self) -> None:
        if not _end_writer(self._commits, self.world):
            super().release()

    def bury(self) -> None:
        """Leave everything as a kill does: nothing is finished, and the lock is free."""
        if self._commits is None or self._locks is None:
            return
        writer = self._commits._writer
        self._commits._end.detach()
        if writer._database is not None:
            writer._database._connection.close()  # type: ignore[attr-defined]
        self._locks.close_descriptor()
        writer.shutdown()


class SimPostgres(ModelStore):
    """The journal in the modeled PostgreSQL."""

    world: World

    @property
    def is_ended(self) -> bool:
        """True if it is not open."""
        return self._commits is None or self._commits.closed

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        if state is JobState.SENDING:
            self.world.note_sending(self)
        row = await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)
        self.world.note_transition(seen, row)
        return row

    async def close(self) -> None:
        _end_writer(self._commits, self.world)
        await super().close()

    def release(self) -> None:
        self._stop_listening()
        if not _end_writer(self._commits, self.world):
            super().release()


def _end_writer(commits: GroupCommit[Any] | None, world: World) -> bool:
    """Let a journal of a loop that is over do what waits, and disconnect: its thread would do so in real time."""
    if commits is None or commits.closed or commits._loop in world.scheduler.loops:
        return False
    commits._end.detach()
    writer = commits._writer
    last, writer.waiting = writer.waiting, []
    writer.disconnect(last)
    writer.shutdown()
    return True


class SimMemory(MemoryJournal):
    """The journal in memory."""

    world: World

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        row = await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)
        self.world.note_transition(seen, row)
        return row


@attrs.define(eq=False)
class Process:
    """
    One life of a worker.

    Attributes:
        number: The number of the worker.

        name: Its name, with the number of its life.

        loop: Its present loop.

        kie: Its client.

        stores: Its journals on disk.

        memory: Its journal in memory.

        closed: True while the client is closed.

        alive: False once it was killed.

        recovers: True once it has called ``recover()``, so that it takes over what others leave.
    """

    number: int
    name: str
    loop: SimLoop
    kie: KieClient = attrs.field(init=False)
    stores: list[SimSqlite | SimPostgres] = attrs.field(factory=list)
    memory: SimMemory | None = None
    closed: bool = False
    alive: bool = True
    recovers: bool = False


class _Log(logging.Handler):
    """A handler that keeps what the package logs."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._world.texts.append(text)
        is_error = record.name.startswith("aiohttp") and record.levelno >= logging.ERROR
        if "This is a bug" in text or (is_error and _OUT_OF_ORDER not in text):
            self._world.violations.append(f"logged: {text.replace(_FOLDER, '')[-600:]}")


class World:
    """
    A world, made from a plan; ``run`` lets it happen.

    Args:
        plan: The plan.

        folder: A new folder for the journal.

    Attributes:
        violations: What must not be.

        counts: What has happened, by name.

        calls: All calls that have begun.

        files: The folder of saved results.

        saved: The files that calls have saved, each with the tasks whose results they may be.

        lost_parts: The parts of files that processes have left behind.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:  # noqa: PLR0915 (each a part of the state)
        self.plan = plan
        self.folder = folder
        self.files = folder / "files"
        self.files.mkdir()
        self.saved: dict[Path, list[str]] = {}
        self.lost_parts: set[str] = set()
        self.lost_tasks: dict[str, float] = {}
        self.sent_in: defaultdict[str, set[str]] = defaultdict(set)
        self.random = Random(f"{plan.seed} world")
        self.scheduler = Scheduler(str(plan.seed))
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.calls: list[Call] = []
        self.texts: list[str] = []
        self.shown: deque[str] = deque(maxlen=_SHOWN_EVENTS)
        self.disk_is_full = False
        self.processes: dict[int, Process] = {}
        self.graves: list[SimLoop] = []
        self.job_ids: list[str] = []
        self.resubmitted: Counter[str] = Counter()
        self.forgotten: dict[str, Intent] = {}
        self.pairs: set[tuple[str, str]] = set()
        #: The last known state of each job; the jobs that forget() has deleted.
        self.states: dict[str, JobState] = {}
        #: How often each job has got into each state, by the number of its attempts.
        self.reached: Counter[tuple[str, JobState, int]] = Counter()
        self.deleted: set[str] = set()
        #: The processes whose shared runs have yielded each task.
        self.yields: defaultdict[str, set[str]] = defaultdict(set)
        self.healed_at = math.inf
        #: When aimed accidents have happened: from, and until.
        self.disturbed: list[tuple[float, float]] = []
        #: True if something has happened after which the service may see more creates than configured.
        self.may_exceed_limit = False
        self._hash = hashlib.sha256()
        self._makers: dict[str, SimSqlite | SimPostgres] = {}
        self._lives: Counter[int] = Counter()
        self._aims: dict[int, Accident] = {}
        self._stalls: dict[int, float] = {}
        self._failures: dict[int, Accident] = {}
        self._slow_until = -math.inf
        self._disk = Random(f"{plan.seed} disk")
        pipes = Random(f"{plan.seed} pipes")
        self.network = Network(str(plan.seed), delay=pipes.choice((0.0, 0.005, 0.1)))
        self.own = self._new_loop("world")
        is_postgres = plan.journal == "postgres"
        self.server = ModelServer(now=lambda: START + self.scheduler.now, seed=plan.seed) if is_postgres else None
        self._kinds = {_to_fault(trouble.fault()): trouble.kind for trouble in plan.troubles}
        service_loop = self._new_loop("service")
        with service_loop.running():
            self.fake = FakeKie(
                seed=plan.seed,
                limit=plan.limit,
                latency=plan.latency,
                create_seconds=(0.0, 0.8),
                duration=self._draw_duration,
                credits=1e6,
                fail_rate=plan.fail_rate,
                webhook_key=WEBHOOK_KEY if plan.signed else None,
                callback_delay=0.5,
                faults=list(self._kinds),
            )
        self.service: SimService | HttpService
        if plan.tier == "A":
            self.service = SimService(service_loop, self.fake, self._deliver, self._on_created)
        else:
            self.service = HttpService(service_loop, self.fake, self._on_created, self._on_callback, pipes)
            self.scheduler.run(self.service.started.done)

    # -- building ---------------------------------------------------------------------------------------------------

    def _new_loop(self, name: str, *, wall_offset: float = 0.0) -> SimLoop:
        loop = SimLoop(self.scheduler, name, f"{self.plan.seed} {name}", wall_offset=wall_offset)
        loop.network = self.network
        self.scheduler.loops.append(loop)
        return loop

    def _draw_duration(self, _model: str, random: Random) -> float:
        if random.random() < _HUNG:
            return random.choice((math.inf, random.uniform(1.0, 2.0) * POLICY.max_age))
        median, sigma = self.plan.durations
        return random.lognormvariate(math.log(median), sigma)

    def start(self, number: int) -> None:
        """Start a worker, which recovers what others have left."""
        self._lives[number] += 1
        name = f"worker {number}.{self._lives[number]}"
        loop = self._new_loop(name, wall_offset=self.random.choice((0.0, 0.0, 1.5, -2.0)))
        process = Process(number, name, loop)
        self._prepare_loop(process)
        plan = self.plan
        process.kie = KieClient(
            KEY,
            base_url=URL_OF_SERVICE,
            limits=Limits(creates=plan.creates, in_flight=plan.in_flight, polls_per_second=plan.polls_per_second),
            retry=POLICY,
            callback_url=CALLBACK_URL if plan.callbacks else None,
            webhook_key=WEBHOOK_KEY if plan.signed else None,
            on_event=self._note_event,
            session_factory=self.service.open_session if isinstance(self.service, HttpService) else None,
        )
        binding = process.kie._binding
        binding.make_journal = partial(self._make_journal, process)
        if isinstance(self.service, SimService):
            binding.make_transport = partial(self._make_transport, self.service, process)
        self.processes[number] = process
        self.trace(f"{name} starts")
        loop.create_task(self._begin_life(process))

    def _prepare_loop(self, process: Process) -> None:
        process.loop.disk_delays = partial(self._draw_disk_delays, process.number)

    async def _begin_life(self, process: Process) -> None:
        if self.plan.callbacks:
            await self.service.open_receiver(process)
        with suppress(KieError):  # the journal may be away; each call opens it again
            await process.kie.__aenter__()
            if self.server is not None:
                self.watch_owners(self.server._rows)
            await process.kie.recover()
            process.recovers = True

    def _make_journal(self, process: Process) -> Journal:
        plan = self.plan
        service = Service.of(URL_OF_SERVICE, KEY)
        if plan.journal == "memory":
            if process.memory is None:
                process.memory = SimMemory(service=service)
                process.memory.world = self
            return process.memory
        store: SimSqlite | SimPostgres
        if self.server is None:
            store = SimSqlite(self.folder / "kie.db", store_inputs=plan.store_inputs, service=service)
        else:
            store = SimPostgres(self.server, store_inputs=plan.store_inputs, service=service)
        store.world = self
        process.stores.append(store)
        return store

    def _make_transport(self, service: SimService, process: Process) -> Transport:
        return SimTransport(service, process.name, process.loop, lambda: KEY)

    def _draw_disk_delays(self, number: int) -> tuple[float, float]:
        before = self._stalls.pop(number, 0.0)
        usual = self.plan.disk
        if self.scheduler.now < self._slow_until:
            usual = 5.0
        if usual:
            return before + self._disk.uniform(0.0, usual), self._disk.uniform(0.0, usual)
        return before, 0.0

    # -- what happens -----------------------------------------------------------------------------------------------

    def trace(self, text: str) -> None:
        """Note an event."""
        line = f"{self.scheduler.now:10.4f} {text}"
        self.shown.append(line)
        self._hash.update(line.encode())

    def trace_hash(self) -> str:
        """Return the hash of all events so far."""
        return f"{self._hash.hexdigest()[:16]} after {self.scheduler.turns} turns"

    def run(self) -> None:
        """Let everything happen, heal, and wait until everything has ended."""
        state = global_random.getstate()
        global_random.seed(self.plan.seed)
        handler = _Log(self)
        logs = {log: log.level for log in (logging.getLogger("kie_async"), logging.getLogger("aiohttp"))}
        for log in logs:
            log.addHandler(handler)
            log.setLevel(logging.DEBUG)
        try:
            self._schedule()
            self.scheduler.run(lambda: False, until=self.plan.seconds)
            self._heal()
            done = self.own.create_task(self._end_everything())
            self.scheduler.run(done.done, until=self.plan.seconds + HEALING)
            if done.done():
                done.result()
            else:
                self._note_stuck()
        except StuckError as error:
            self.violations.append(str(error))
        finally:
            for fault, times in self.fake._server.script.fired.items():
                self.counts[f"trouble {self._kinds[fault]}"] += times
            for log, level in logs.items():
                log.removeHandler(handler)
                log.setLevel(level)
            global_random.setstate(state)

    def _schedule(self) -> None:
        for number in range(self.plan.workers):
            self.start(number)
        for step in self.plan.steps:
            self.own.call_at(step.at, self._begin_step, step)
        for accident in self.plan.accidents:
            self.own.call_at(accident.at, self._happen, accident)

    def _begin_step(self, step: Step) -> None:
        process = self.processes.get(step.worker)
        if process is None or not process.alive:
            return
        self.begin_call(process, step)

    def begin_call(self, process: Process, step: Step, job_id: str = "") -> Call:
        """Begin a call of a program."""
        call = Call(step, process, self.scheduler.now, job_id=job_id)
        for other in self.calls:
            if other.ended is None and other.process.alive:
                self.pairs.add((min(step.call, other.step.call), max(step.call, other.step.call)))
        self.calls.append(call)
        self.counts[f"call {step.call}"] += 1
        self.trace(f"{process.name} begins {step.call} {step.number} {'with a key' if step.key else ''}")
        call.task = process.loop.create_task(self._make_call(call))
        call.task.add_done_callback(partial(self._end_call, call))
        if step.cancel_after is not None:
            self.own.call_later(step.cancel_after, self._cancel, call)
        return call

    def _cancel(self, call: Call) -> None:
        if call.process.alive and not call.loop.is_closed() and call.ended is None:
            call.loop.create_task(self._cancel_after(call))

    async def _cancel_after(self, call: Call) -> None:
        for _ in range(call.step.turns):
            await anyio.lowlevel.checkpoint()
        if call.ended is None and call.task is not None:
            call.was_cancelled = True
            self.counts["cancel"] += 1
            self.trace(f"{call.process.name} cancels {call.step.call} {call.step.number}")
            call.task.cancel()

    async def _make_call(self, call: Call) -> None:
        try:
            await FUNCTIONS[call.step.call](self, call)
        except KieError as error:
            call.error = error
            self.counts[f"error {type(error).__name__}"] += 1
        except asyncio.CancelledError:
            if not call.was_cancelled and call.loop in self.scheduler.loops:
                self.violations.append(f"{call.step.call} was cancelled without a reason")
        except Exception as error:  # noqa: BLE001 (it is a finding)
            if call.loop in self.scheduler.loops:  # else it was ended with its loop
                self.violations.append(f"{call.step.call} raised {error!r}")

    def _end_call(self, call: Call, _: object) -> None:
        # Not in the task: it may be cancelled before its first step.
        call.ended = self.scheduler.now
        self.trace(f"{call.process.name} ends {call.step.call} {call.step.number}: {type(call.error).__name__}")

    def note_told(self, call: Call, job_id: str, task_id: str, state: str) -> None:
        """Note that a caller has learned a task's end."""
        call.told.append((self.scheduler.now, job_id, task_id, state))
        self.trace(f"told: {task_id} {state}")

    def note_job(self, job_id: str) -> None:
        """Note a job that calls can be about."""
        if job_id not in self.job_ids:
            self.job_ids.append(job_id)

    def note_saved(self, paths: Sequence[Path], task_id: str) -> None:
        """Note that a caller was told of files."""
        for path in paths:
            self.counts["saved"] += 1
            self.saved.setdefault(path, []).append(task_id)
            self.trace(f"saved: {path.name} of {task_id}")

    def note_transition(self, seen: Intent, row: Intent | None) -> None:
        """Note that a row has changed."""
        if row is not None:
            self.counts[f"transition {seen.state} -> {row.state}"] += 1
            self.states[row.id] = row.state
            self.reached[row.id, row.state, row.attempts] += 1
            if row.budget is not None and row.state is JobState.SENDING:
                self.sent_in[row.budget].add(row.id)

    def note_sending(self, store: SimSqlite | SimPostgres) -> None:
        """Let the journal fail before a create, and its process perhaps be killed soon after that."""
        process = next((one for one in self.processes.values() if store in one.stores), None)
        accident = None if process is None else self._failures.get(process.number)
        if process is None or accident is None or accident.value >= _FAILS_LATER:
            return
        self.trace(f"the journal of {process.name} fails before a create")
        self._fail_journal(process, accident)

    def _fail_journal(self, process: Process, accident: Accident) -> None:
        """Let the journal fail for a while."""
        del self._failures[process.number]
        self.disturbed.append((self.scheduler.now, self.scheduler.now + accident.seconds))
        if self.server is None:
            self._switch("disk full", on=True)
            self.own.call_later(accident.seconds, partial(self._switch, "disk full", on=False))
        else:
            self.server.stop()
            self.own.call_later(accident.seconds, self.server.start)
        if accident.value < _KILLS_BEFORE:
            self.own.call_later(min(2.0, accident.seconds / 2), self.kill, process, accident.seconds)

    def watch_owners(self, connection: sqlite3.Connection) -> None:
        """Let each change of the owner of a row, and of nothing else, through a connection be noted."""
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'intents'").fetchone():
            return
        connection.create_function("note_owner", 3, self._note_owner)
        connection.execute(
            "CREATE TEMP TRIGGER IF NOT EXISTS owners AFTER UPDATE OF owner ON main.intents"
            " WHEN OLD.owner IS NOT NULL AND NEW.owner IS NOT NULL AND OLD.owner <> NEW.owner"
            " AND OLD.state = NEW.state"
            " BEGIN SELECT note_owner(OLD.owner, NEW.owner, NEW.id); END"
        )

    def _note_owner(self, before: str, after: str, job_id: str) -> None:
        """Check that a worker that is alive, and was not away, keeps its jobs."""
        self.counts["take-over"] += 1
        for process in self.processes.values():
            store = process.stores[-1] if process.stores else None
            if store is None or store.is_ended or store.worker != before or not process.alive or process.closed:
                continue
            slow = any(one.kind in ("disk slow", "disk stalls before a create") for one in self.plan.accidents)
            away = process.loop.frozen_until > self.scheduler.now - _AWAY or (slow and self.server is not None)
            if process.loop in self.scheduler.loops and not away:
                self.violations.append(f"{job_id} was taken from {process.name}, which is alive, by {after[-6:]}")

    def _note_event(self, event: Event) -> None:
        self.counts[f"event {event.name}"] += 1
        self.texts.append(repr(event))
        self.trace(f"event {event.name} {event.task_id}")

    # -- the service's side -----------------------------------------------------------------------------------------

    def _on_created(self, name: str) -> None:
        self.trace(f"task {len(self.fake.truth.tasks)} for {name}")
        for number, process in self.processes.items():
            accident = self._aims.get(number)
            is_it = process.name == name.rstrip("'") and process.alive
            if is_it and process.stores:
                self._makers[self.fake.truth.created[-1].task_id] = process.stores[-1]
            if accident is not None and accident.kind.endswith("flight") and is_it:
                del self._aims[number]
                self.disturbed.append((self.scheduler.now, self.scheduler.now + accident.seconds))
                if accident.kind.startswith("kill"):
                    self.kill(process, accident.seconds)
                else:
                    process.loop.frozen_until = self.scheduler.now + accident.seconds
            failure = self._failures.get(number)
            if failure is not None and failure.value >= _FAILS_LATER and is_it:
                self.trace(f"the journal of {process.name} fails with an answer in flight")
                self._fail_journal(process, failure)

    async def _deliver(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Pass a callback to any process, as a load balancer does."""
        alive = [process for process in self.processes.values() if process.alive]
        if not alive:
            raise ConnectionRefusedError
        process = self.random.choice(alive)
        answer: asyncio.Future[int] = self.service.loop.create_future()
        process.loop.create_task(self._handle(process, url, headers, body, answer))
        async with asyncio.timeout(_RECEIVER_TIMEOUT):  # Python 3.11's wait_for() takes another turn of the loop
            return await answer

    async def _handle(
        self, process: Process, url: str, headers: Mapping[str, str], body: bytes, answer: asyncio.Future[int]
    ) -> None:
        status, _ = await process.kie.callbacks.handle(url, headers, body)
        self._on_callback(process, status, url)
        self.service.loop.call_soon(lambda: None if answer.done() else answer.set_result(status))

    def _on_callback(self, process: Process, status: int, url: str) -> None:
        self.trace(f"{process.name} answers a callback with {status}")
        self.counts[f"callback {status}"] += 1
        accident = self._aims.get(process.number)
        if accident is None or not accident.kind.endswith("callback") or status != _TAKEN:
            return
        job_id = _JOB_ID.search(url)
        if accident.value < _AT_UNKNOWN_TASKS and job_id is not None and self.states.get(job_id[0]) not in _UNANSWERED:
            return  # the next one may be of a job whose task is not known yet
        del self._aims[process.number]
        self.kill(process, accident.seconds)

    # -- accidents --------------------------------------------------------------------------------------------------

    def _happen(self, accident: Accident) -> None:
        process = self.processes[accident.worker]
        self.counts[f"accident {accident.kind}"] += 1
        self.trace(f"accident {accident.kind} {accident.worker} {accident.seconds:g}")
        if self._happen_to_processes(accident, process) or self._happen_to_pipes(accident):
            return
        if accident.kind == "wall clock":
            process.loop.wall_offset += (accident.value - 0.5) * 2 * 86_400
        elif accident.kind == "disk slow":
            self._slow_until = self.scheduler.now + accident.seconds
        elif accident.kind == "disk stalls before a create":
            self._stalls[accident.worker] = accident.seconds
        elif accident.kind == "journal fails before a create":
            self._failures[accident.worker] = accident
        elif accident.kind == "forged callback":
            self.own.create_task(self._forge(accident))
        elif accident.kind in ("disk full", "lower limit", "no credits", "maintenance"):
            self._switch(accident.kind, on=True)
            self.own.call_later(accident.seconds, partial(self._switch, accident.kind, on=False))
        elif self.server is not None:
            self._happen_to_database(self.server, accident)

    def _happen_to_processes(self, accident: Accident, process: Process) -> bool:
        if accident.kind.endswith(("with an answer in flight", "after a callback")):
            self._aims[accident.worker] = accident
        elif accident.kind in ("kill", "kill all"):
            for one in [process] if accident.kind == "kill" else list(self.processes.values()):
                self.kill(one, accident.seconds)
        elif accident.kind == "freeze":
            process.loop.frozen_until = max(process.loop.frozen_until, self.scheduler.now + accident.seconds)
        else:
            return False
        return True

    def _happen_to_pipes(self, accident: Accident) -> bool:
        if accident.kind not in PIPE_ACCIDENTS:
            return False
        what, how = accident.kind.split()
        host = f"worker {accident.worker}"
        if what == "connections":
            self.network.break_all(host, "reset" if how == "reset" else "end")
        else:
            self.network.begin(cast("NetworkTrouble", how), host)
            self.own.call_later(accident.seconds, self.network.end, host)
        return True

    def _switch(self, kind: str, *, on: bool) -> None:
        """Begin or end an accident that lasts."""
        if kind == "disk full":
            self.disk_is_full = on
        elif kind == "lower limit":
            self.fake.limit = max(1, self.plan.limit // 2) if on else self.plan.limit
        elif kind == "no credits":
            self.fake.credits = 0.0 if on else 1e6
        else:
            self.fake.maintenance = on

    def _happen_to_database(self, server: ModelServer, accident: Accident) -> None:
        later = partial(self.own.call_later, accident.seconds)
        number, of = 1 + int(accident.value * 3), _SENDING if accident.value >= _AT_CREATES else ""
        if accident.kind == "database away":
            server.stop()
            later(server.start)
        elif accident.kind == "answers of commits lost":
            server.lose_answers(number, of=of)
        elif accident.kind == "commits lost":
            server.lose_commits(number, of=of)
        elif accident.kind == "failover":
            seconds = min(accident.seconds, 15.0)
            self.own.call_later(seconds, self._fail_over, server, server.snapshot(), self.scheduler.now)
        elif accident.kind == "database clock":
            server.step_clock((accident.value - 0.5) * 20_000)
        elif accident.kind == "deaf":
            server.deaf = True
            later(setattr, server, "deaf", False)  # noqa: FBT003
        elif accident.kind == "read-only":
            server.demote()
            later(setattr, server, "read_only", False)  # noqa: FBT003

    def _fail_over(self, server: ModelServer, snapshot: bytes, taken_at: float) -> None:
        self.trace("failover")
        now = self.scheduler.now
        remembering = [
            process.stores[-1]
            for process in self.processes.values()
            if process.alive and not process.closed and process.loop.frozen_until <= now
        ]
        # What one worker alone had seen acknowledged is lost with the primary if that worker is dead, or stands still
        # until others have taken its jobs over; only a synchronous standby has it.
        lost = (
            task.task_id
            for task in self.fake.truth.created
            if task.created_at >= taken_at and self._makers.get(task.task_id) not in remembering
        )
        self.lost_tasks |= dict.fromkeys(lost, now)
        self.may_exceed_limit = True  # the standby knows less of the leases
        server.fail_over(snapshot)

    async def _forge(self, accident: Accident) -> None:
        """Post a callback whose token is wrong, or one with a leaked token and another task, or a wrong end."""
        urls = [url for post in self.fake.truth.create_requests if (url := post.callback_url)]
        tasks = list(self.fake.truth.tasks)
        if not urls or not tasks:
            return
        random = Random(accident.value)
        url, task_id = random.choice(urls), random.choice([*tasks, "f" * 32])
        if random.random() < 0.3:
            url = url[:-22] + "A" * 22
        body = b'{"code":200,"msg":"","data":{"taskId":"%s","state":"fail","failCode":"500","failMsg":"a lie"}}'
        with suppress(ConnectionError, TimeoutError, aiohttp.ClientError):
            await self.service.deliver(url, self.fake.sign(task_id), body % task_id.encode())

    def kill(self, process: Process, seconds: float) -> None:
        """Kill a process; it starts again after *seconds*."""
        if not process.alive:
            return
        self.trace(f"{process.name} is killed")
        self.counts["kill"] += 1
        self._end_process(process)
        self.own.call_later(seconds, self._restart, process.number)

    def _end_process(self, process: Process) -> None:
        process.alive = False
        self._bury(process)

    def _bury(self, process: Process) -> None:
        """End the present loop of a process, and its journals, without a word."""
        self._lose(process.loop, ends=True)
        for store in process.stores:
            store.bury()

    def close_loop(self, process: Process, *, close: bool) -> None:
        """Give a process a new loop: the old one was closed, or only stopped, with all that ran on it."""
        old = process.loop
        self._lose(old, ends=False)
        old.finish_threads()
        old._thread_id = None
        if close:
            old.close()
        process.loop, process.recovers = self._new_loop(f"{old.name}'", wall_offset=old.wall_offset), False
        self._prepare_loop(process)

    def _lose(self, loop: SimLoop, *, ends: bool) -> None:
        """Never step a loop again; if its process *ends*, the system closes its files, and with them their locks."""
        self.scheduler.loops.remove(loop)
        self.graves.append(loop)
        warnings.simplefilter("ignore", ResourceWarning)  # the dead leave their connections open
        self.network.lose(loop)
        for part in _parts(loop):
            self.lost_parts.add(part._path.stem)
            if ends:
                part._close()

    def _restart(self, number: int) -> None:
        if not self.processes[number].alive:
            self.start(number)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """End all troubles and accidents, and start and open all workers."""
        self.trace("everything heals")
        self.healed_at = self.scheduler.now
        with self.own.running():
            self.fake.faults.clear()
            self.fake.credits, self.fake.limit, self.fake.maintenance = 1e6, self.plan.limit, False
        self.disk_is_full, self._slow_until = False, -math.inf
        self._aims.clear()
        self._failures.clear()
        self._stalls.clear()
        self.network.heal()
        if self.server is not None:
            self.server.start()
            self.server.deaf = self.server.read_only = False
            self.server._losses.clear()
        for process in list(self.processes.values()):
            process.loop.frozen_until = min(process.loop.frozen_until, self.scheduler.now)
            if not process.alive:
                self.start(process.number)

    async def run_in(self, process: Process, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in a process, and wait for it in the world's own loop."""
        return await self.run_on(process.loop, action)

    async def run_on(self, loop: SimLoop, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on a loop, and wait for it in the world's own loop."""
        done: asyncio.Future[T] = self.own.create_future()

        async def act() -> None:
            try:
                result = await action()
            except Exception as error:  # noqa: BLE001 (it is for the caller)
                self.own.call_soon(done.set_exception, error)
            else:
                self.own.call_soon(done.set_result, result)

        loop.create_task(act())
        return await done

    async def _end_everything(self) -> None:
        """Wait for all jobs, and then close all clients."""
        from tests.simulation import checks

        while any(call.ended is None for call in self._living_calls() if call.step.call in CLOSING):
            await asyncio.sleep(1.0)
        for process in self.processes.values():
            await self._open(process)
        await asyncio.sleep(_TAKEN_OVER)
        await checks.check_owners(self)
        for round_number in range(3):  # what was given up for the account's sake is resumed
            for process in self.processes.values():
                await self.run_in(process, process.kie.recover)
            if round_number == 1:
                await self._decide()
            calls = [self._call_of("wait for id", row.id) for row in await self.rows() if row.state in UNFINISHED]
            while any(call.ended is None for call in [*calls, *self._living_calls()]):
                await asyncio.sleep(1.0)
            while await self._undecided():
                await asyncio.sleep(5.0)
        if self.plan.tier == "B":
            await self._save_some()
        await self._await_confirmations()
        rows = await self.rows()
        await checks.check_clients(self)
        for process in self.processes.values():
            await self.run_in(process, process.kie.aclose)
            await self.run_in(process, partial(self.service.close_receiver, process))
        saved = {task_id for task_ids in self.saved.values() for task_id in task_ids}
        results = await self.run_on(self.service.loop, partial(self.service.read_results, saved))
        await self.run_on(self.service.loop, self.service.stop)
        await asyncio.sleep(1.0)
        checks.check_world(self, rows)
        checks.check_files(self, results)

    async def _await_confirmations(self) -> None:
        """Wait for the polls of tasks that callbacks have named."""
        end = self.scheduler.now + _CONFIRMED
        await asyncio.sleep(5.0)
        while self.scheduler.now < end and any(
            process.kie.statistics().confirming for process in self.processes.values()
        ):
            await asyncio.sleep(5.0)

    async def _open(self, process: Process) -> None:
        """Open a client, again and again: a failover that had begun may end an attempt."""
        while True:
            with suppress(JournalError):
                await self.run_in(process, process.kie.__aenter__)
                process.closed = False
                return
            await asyncio.sleep(1.0)

    async def _save_some(self) -> None:
        """Save results in each process: nothing hinders it any more."""
        done = [row.id for row in await self.rows() if row.state is JobState.SUCCEEDED]
        for process in self.processes.values():
            step = Step(worker=process.number, at=self.scheduler.now, call="save", number=process.number, choice=1)
            for job_id in self.random.sample(done, min(2, len(done))):
                call = self.begin_call(process, step)
                call.job_id = job_id
        while any(call.ended is None for call in self._living_calls()):
            await asyncio.sleep(1.0)

    def _living_calls(self) -> list[Call]:
        return [call for call in self.calls if call.process.alive and call.loop in self.scheduler.loops]

    def _call_of(self, name: str, job_id: str) -> Call:
        """Begin a call that is about a job, at any worker."""
        process = self.random.choice(list(self.processes.values()))
        choice = self.random.randrange(1000)
        step = Step(worker=process.number, at=self.scheduler.now, call=name, number=0, choice=choice)
        return self.begin_call(process, step, job_id)

    async def _decide(self) -> None:
        """Decide for some jobs that are in doubt, as callers do."""
        for row in await self.rows():
            if row.state is JobState.UNRESOLVED:
                decision = self.random.choice(("resolve", "resubmit", "abandon", ""))
                if decision:
                    self._call_of(decision, row.id)

    async def _undecided(self) -> bool:
        """Return True while rows may change without a decision of a caller."""
        for row in await self.rows():
            task = self.fake.truth.tasks.get(row.task_id or "")
            hangs = task is not None and task.ends_at == math.inf
            if row.state in OPEN - {JobState.INTENT} and not (row.state is JobState.STALLED and hangs):
                return True
        return False

    async def rows(self) -> Sequence[Intent]:
        """Return all rows of the journal."""
        process = next(iter(self.processes.values()))
        engine = await self.run_in(process, process.kie._binding.engine)
        return await self.run_in(process, engine.journal.rows)

    def stored_bytes(self) -> bytes:
        """Return what the journal has on the disk, or in the database."""
        if self.server is not None:
            return self.server.snapshot()
        return b"".join(path.read_bytes() for path in sorted(self.folder.iterdir()) if path.is_file())

    def _note_stuck(self) -> None:
        waiting = [
            f"{call.process.name}: {call.step.call} {call.job_id} since {call.began:.1f}"
            for call in self._living_calls()
            if call.ended is None
        ]
        self.violations.append(f"not ended {HEALING:g} s after everything has healed: {waiting[:10]}")

    def close(self) -> None:
        """Free everything; what the coroutines of the dead still do counts no more."""
        logging.disable()
        try:
            self._free()
            if self.graves and self.plan.tier == "B":
                gc.collect()  # the connections of the dead warn when they are collected
        finally:
            logging.disable(logging.NOTSET)

    def _free(self) -> None:
        for process in self.processes.values():
            if process.alive:
                self._end_process(process)
        for loop in (*self.graves, *self.scheduler.loops):
            for part in _parts(loop):
                part._close()
            loop.bury()
        self.network.close()
        self.service.free()
        if self.server is not None:
            self.server.close()


def _parts(loop: SimLoop) -> list[PartFile]:
    """Return the part files that tasks of a loop have open."""
    found: dict[PartFile, None] = {}
    for task in asyncio.all_tasks(loop):
        coroutine: Any = task.get_coro()
        while (frame := getattr(coroutine, "cr_frame", None)) is not None:
            found.update((one, None) for one in frame.f_locals.values() if isinstance(one, PartFile))
            coroutine = coroutine.cr_await
    return [part for part in found if part._descriptor >= 0]


def _to_fault(given: tuple[str, dict[str, Any]]) -> Fault:
    place, arguments = given
    return Fault(place, **arguments)  # type: ignore[arg-type]
