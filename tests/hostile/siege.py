"""
The siege: a working client with jobs in every state, while attackers post to both of its adapters.

Time is virtual; sockets are real, for the service's answers and for half of the attacks. The client's results and
journal are compared with the service's records.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import anyio
import attrs
from aiohttp import web

from kie_async import Generation, KieClient, KieError, Limits, RetryPolicy, Statistics, TaskFailedError
from kie_async._core.callback_candidates import MAX_CALLBACK_TASK_IDS
from kie_async._core.callback_token import CallbackToken, callback_secret, find_token
from kie_async._core.lifecycle import Intent, load_record
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from kie_async.testing.truth import busiest_window
from tests.helpers import KEY, JournalClient, create_foreign_task, make_request
from tests.hostile.attacks import Attack, Request, Scene, Target, Way, make_attack_request
from tests.hostile.posting import App, over_a_socket, through_asgi

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from kie_async import Job
    from kie_async._io.journals.journal import Journal
    from kie_async.testing.tasks import FakeTask

__all__ = ["OLD_KEY", "WEBHOOK_KEY", "Siege", "running_siege"]

S = JobState

#: The service signs with the new key; the old one is still valid.
WEBHOOK_KEY = "canary-of-the-webhook-key"
OLD_KEY = "canary-of-the-old-webhook-key"

LIMITS = Limits(creates=5, polls_per_second=5.0)
#: Short deadlines, so that jobs stall and become unresolved during the siege.
RETRY = RetryPolicy(max_age=300.0, in_doubt_timeout=60.0)
#: The rate of hostile requests, per second.
RATE = 100.0
#: The time that the client works before the siege, in seconds.
PRELUDE = 600.0
#: The time after the siege in which all jobs must end, in seconds.
AFTERMATH = 7200.0
#: The delay of late callbacks, in seconds.
LATE = 60.0
#: The age in seconds at which ended rows are deleted, and the number of unresolved jobs that are kept.
KEPT = 60.0
MAX_UNRESOLVED = 6


def _duration(_: str, rng: Random) -> float:
    """Return a duration; one task in ten takes longer than ``max_age``."""
    return 450.0 if rng.random() < 0.1 else rng.lognormvariate(4.0, 0.4)


def _faults() -> list[Fault]:
    """Return the faults without attacks, which bring jobs into every state."""
    return [
        Fault("create", "reset", after=True, probability=0.06),
        Fault("create", "reset", probability=0.04),
        Fault("create", "code", code=500, after=True, probability=0.05),
        Fault("create", "code", code=422, probability=0.04),
        Fault("create", "slow", seconds=40.0, after=True, probability=0.08),
        Fault("poll", "html", probability=0.02),
        Fault("callback", "lost", probability=0.5),
        Fault("callback", "copies", copies=3, probability=0.2),
        Fault("callback", "slow", seconds=LATE, probability=0.1),
    ]


@attrs.define(eq=False, kw_only=True)
class Siege:
    """
    One service, one client, and the observations of both.

    Attributes:
        answers: The number of answers with each status; None is no answer.

        problems: Descriptions of all violations.

        results: The results of callers, by kind.

        seen: The number of batches, and of ten seconds, in which a job was in each state.

        busiest_second: The most polls in any second, as counted by the service.

        planned_polls: The planned polls in each ten seconds during which some were always due.

        left: The client's statistics at the end, without the totals.
    """

    fake: FakeKie
    kie: KieClient
    journal: Journal
    port: int
    keys: Sequence[str]
    answers: Counter[int | None] = attrs.field(factory=Counter)
    problems: list[str] = attrs.field(factory=list)
    results: Counter[str] = attrs.field(factory=Counter)
    seen: Counter[JobState] = attrs.field(factory=Counter)
    busiest_second: int = 0
    planned_polls: list[int] = attrs.field(factory=list)
    left: Statistics = attrs.field(factory=Statistics)
    _foreign_tasks: list[str] = attrs.field(factory=list)
    _secret: bytes = attrs.field(factory=lambda: callback_secret(KEY))
    _instants: deque[float] = attrs.field(factory=deque)
    _number: int = 0

    # -- the client's jobs -----------------------------------------------------------------------------------------

    async def prepare(self, life: TaskGroup, waits: TaskGroup) -> None:
        """Create foreign tasks, and let the client work until jobs are in every state."""
        for nth in range(6):
            other_url = "https://app.example.com/kie/kj_" + "0" * 32 + ".1.AAAAAAAAAAAAAAAAAAAAAA"
            self._foreign_tasks.append(
                await create_foreign_task(self.fake.url, f"foreign task {nth}", other_url if nth % 2 else None)
            )
        self.fake.inject(*_faults())
        life.start_soon(self._submit_jobs, waits)
        life.start_soon(self._sample)
        await anyio.sleep(PRELUDE)
        await self.audit()

    async def _submit_jobs(self, waits: TaskGroup) -> None:
        """Submit slightly more jobs than the limit allows, so that some always wait to be sent."""
        while True:
            if self.kie.statistics().waiting_for_token < 4:
                self._number += 1
                if self._number % 9 == 0:
                    waits.start_soon(self._cancel_submit)
                else:
                    job = await self.kie.submit(make_request(self._number), wait=False)
                    waits.start_soon(self._wait, job)
            await anyio.sleep(0.5)

    async def _cancel_submit(self) -> None:
        with anyio.move_on_after(0.2):
            await self.kie.submit(make_request(self._number))

    async def _wait(self, job: Job) -> None:
        """Wait for a job as a caller does, and compare the result with the truth."""
        try:
            result: Generation | KieError = await job
        except KieError as error:
            result = error
        self.results[type(result).__name__] += 1
        if isinstance(result, (Generation, TaskFailedError)):
            task = self._task_of(job.id, result.task_id)
            failed, urls = isinstance(result, TaskFailedError), result.urls if isinstance(result, Generation) else ()
            if task is None or not task.ended(anyio.current_time()) or _end_of(task) != (failed, urls):
                self.problems.append(f"a caller of {job.id} got {result!r}, and the truth is {task}")

    async def _sample(self) -> None:
        """Note states of jobs, and count planned polls in each ten seconds during which some were always due."""
        engine = await self.kie._binding.engine()  # noqa: SLF001 (due polls are not public)
        while True:
            before, always_due = self.kie.statistics(), True
            for _ in range(10):
                await anyio.sleep(1.0)
                always_due = always_due and len(engine.watchlist.due) > 0
            now = self.kie.statistics()
            self.seen.update({row.state for row in await self.journal.rows()})
            if always_due:
                self.planned_polls.append(now.polls - now.confirmations - before.polls + before.confirmations)

    # -- the attackers ---------------------------------------------------------------------------------------------

    async def post(self, attacks: Sequence[tuple[Attack, Way]]) -> None:
        """Post a batch at ``RATE``, each attack to its adapter; then audit."""
        app, scene = self.kie.callbacks.asgi_app(), await self._scene()
        async with anyio.create_task_group() as group:
            for attack, way in attacks:
                group.start_soon(self._post, app, way, make_attack_request(attack, scene))
                await anyio.sleep(1 / RATE)
        await self.audit()

    async def _post(self, app: App, way: Way, request: Request) -> None:
        status = await (through_asgi(app, request) if way == "asgi" else over_a_socket(self.port, request))
        self.answers[status] += 1
        if status not in request.expected[way]:
            self.problems.append(f"{way} answers {status} to {request.attack}, and not {set(request.expected[way])}")

    async def _scene(self) -> Scene:
        tasks = {token.job_id: task for task, token in self._tokens()}
        return Scene(
            targets=[
                Target(row.id, max(1, row.attempts), tasks[row.id].task_id if row.id in tasks else row.id[3:])
                for row in await self.journal.rows()
            ],
            foreign_tasks=self._foreign_tasks,
            secret=self._secret,
            keys=self.keys,
            wall=self._wall(),
        )

    # -- the truth -------------------------------------------------------------------------------------------------

    async def audit(self) -> None:
        """Compare the journal with the service's truth, and delete old records from both."""
        rows, truth, now = await self.journal.rows(), self.fake.truth, anyio.current_time()
        self.seen.update({row.state for row in rows})
        self.problems += [problem for row in rows if (problem := self._find_problem(row))]
        self._instants.extend(poll.at for poll in truth.polls)
        self.busiest_second = max(self.busiest_second, busiest_window(self._instants, 1.0))
        while self._instants and self._instants[0] < now - 2.0:
            self._instants.popleft()
        await self.kie.forget(before=self._wall() - KEPT)
        for row in [row for row in rows if row.state is S.UNRESOLVED][:-MAX_UNRESOLVED]:
            await self.kie.job(row.id).abandon()
        for entries in (truth.polls, truth.create_requests, truth.callbacks):
            entries.clear()
        # The callback of a second paid task brings the row of a forgotten job back, with all its tasks.
        tokens = self._tokens()
        kept = {row.id for row in await self.journal.rows()}
        kept |= {token.job_id for task, token in tokens if not task.ended(now - KEPT - LATE)}
        for task, token in tokens:
            if token.job_id not in kept:
                del truth.tasks[task.task_id]

    def _find_problem(self, row: Intent) -> str | None:
        """Return a description of a violation, or None."""
        if len(row.callback_task_ids) > MAX_CALLBACK_TASK_IDS:
            return f"{row.id} has {len(row.callback_task_ids)} unproved task ids"
        for task_id in (row.task_id, *row.duplicate_task_ids):
            if task_id is not None and self._task_of(row.id, task_id) is None:
                return f"{row.id} is bound to {task_id}, which it has not created"
        if row.state not in (S.SUCCEEDED, S.FAILED):
            return None if row.record is None or row.state in (S.SUBMITTED, S.STALLED) else f"{row} has an end"
        task, record = self._task_of(row.id, row.task_id), load_record(row.record or "{}")
        if task is None or _end_of(task) != (row.state is S.FAILED, record.result_urls):
            return f"{row.id} is {row.state} with {record.result_urls}, and the truth is {task}"
        if row.updated_at < task.ended_ms / 1000 - 0.01:
            return f"{row.id} has ended before its task"
        return None

    def _task_of(self, job_id: str, task_id: str | None) -> FakeTask | None:
        """Return a task if it was created by the job, else None."""
        task = self.fake.truth.tasks.get(task_id or "")
        token = None if task is None else find_token(self._secret, task.callback_url or "")
        return task if token is not None and token.job_id == job_id else None

    def _tokens(self) -> list[tuple[FakeTask, CallbackToken]]:
        """Return the tasks of jobs, with the tokens of their creates."""
        found = [(task, find_token(self._secret, task.callback_url or "")) for task in self.fake.truth.created]
        return [(task, token) for task, token in found if token is not None]

    def _wall(self) -> float:
        loop = asyncio.get_running_loop()
        return float(loop.wall_time())  # type: ignore[attr-defined]  # a virtual loop


def _end_of(task: FakeTask) -> tuple[bool, tuple[str, ...]]:
    """Return True if a task fails, and its result URLs."""
    return (True, ()) if task.failure is not None else (False, (task.result_url,))


@asynccontextmanager
async def running_siege(*, journal: Journal, signed: bool) -> AsyncIterator[Siege]:
    """
    Yield a client with both adapters and jobs in every state; at the end every wait must return.

    Args:
        journal: The client's journal.

        signed: True if the service signs callbacks, and the client has the keys.
    """
    keys = (OLD_KEY, WEBHOOK_KEY) if signed else ()
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        port = int(listener.getsockname()[1])
        fake = await stack.enter_async_context(
            FakeKie(duration=_duration, fail_rate=0.2, webhook_key=keys[-1] if keys else None, credits=1e9)
        )
        kie = await stack.enter_async_context(
            JournalClient(
                KEY,
                base_url=fake.url,
                limits=LIMITS,
                retry=RETRY,
                journal=journal,
                callback_url=f"http://127.0.0.1:{port}/kie",
                webhook_key=keys,
            )
        )
        application = web.Application()
        application.add_routes(kie.callbacks.aiohttp_routes())
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener, backlog=1024).start()
        siege = Siege(fake=fake, kie=kie, journal=journal, port=port, keys=keys)
        async with anyio.create_task_group() as waits, anyio.create_task_group() as life:
            await siege.prepare(life, waits)
            yield siege
            life.cancel_scope.cancel()
        await anyio.sleep(AFTERMATH)
        await siege.audit()
        siege.left = attrs.evolve(kie.statistics(), polls=0, callbacks=0, confirmations=0, duplicate_records=0)
