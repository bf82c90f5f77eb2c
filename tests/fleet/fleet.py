"""Workers in processes of their own, with one journal and one account at a service that runs here."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import attrs

from kie_async import Limits, RetryPolicy
from kie_async._urls import service_origin
from kie_async.testing import FakeKie, Fault
from tests.fleet.figures import Arrival, Figures, SenderLog, read_rows, unfinished
from tests.fleet.worker import Link, WorkerOptions, run_worker
from tests.real_time.crash.processes import start, wait

__all__ = ["FULL", "SCALED", "Fleet", "Scale", "Worker", "run_fleet", "told"]

#: The seconds between two looks at a condition that no message of a worker announces.
_EVERY = 0.02
#: The creates that a window allows.
LIMIT = 20


@attrs.frozen
class Scale:
    """
    The durations of a fleet, all of them scaled by one factor.

    Attributes:
        factor: The factor; 1.0 for the durations of the real service.
    """

    factor: float

    @property
    def window(self) -> float:
        """The seconds of a window."""
        return 10.0 * self.factor

    @property
    def lease(self) -> float:
        """The seconds of a worker's lease."""
        return 10.0 * self.factor

    @property
    def heartbeat(self) -> float:
        """The seconds between two heartbeats."""
        return 3.0 * self.factor

    @property
    def latency(self) -> tuple[float, float]:
        """The seconds over the network each way."""
        return 0.02 * self.factor, 0.2 * self.factor

    @property
    def duration(self) -> float:
        """The seconds that a task takes."""
        return 20.0 * self.factor

    @property
    def timeout(self) -> float:
        """The seconds after which a wait is a hang."""
        return 60.0 + 600.0 * self.factor

    def __str__(self) -> str:
        return f"{self.factor:g}"

    def limits(self, creates: int = LIMIT) -> Limits:
        """Return the limits of a client."""
        return Limits(creates=creates, window=self.window, polls_per_second=5.0 / self.factor)


FULL, SCALED = Scale(1.0), Scale(0.1)


@attrs.define(eq=False)
class Worker:
    """
    A worker, seen from outside.

    Attributes:
        name: Its name at the service.

        process: Its process.

        link: The connection to it.

        jobs: The keys of the jobs that it was told to submit.

        messages: What it has reported.
    """

    name: str
    process: ForkServerProcess
    link: Link
    jobs: list[str] = attrs.field(factory=list)
    messages: list[dict[str, Any]] = attrs.field(factory=list)

    def reported(self, event: str) -> list[dict[str, Any]]:
        """Return the reports of one kind."""
        return [message for message in self.messages if message["event"] == event]

    @property
    def logged(self) -> list[str]:
        """The lines of its log, from WARNING on."""
        return [message["message"] for message in self.reported("log")]

    @property
    def lives(self) -> bool:
        """True until the process has ended."""
        try:
            return self.process.is_alive()
        except ValueError:  # it has been waited for
            return False

    async def close(self) -> None:
        """Kill the process if it has not ended."""
        if self.lives:
            with suppress(ProcessLookupError):  # it has ended just now
                self.signal(signal.SIGKILL)
            await wait(self.process)
        self.link.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        if self.process.pid is not None:
            os.kill(self.process.pid, number)


@attrs.define(eq=False)
class Fleet:
    """
    Workers and what is known of them; ``run_fleet()`` makes one.

    Attributes:
        fake: The service.

        journal: The path of the journal, or its DSN.

        scale: The durations.

        senders: The senders of create requests.

        workers: The workers, also those that have ended.
    """

    fake: FakeKie
    journal: str
    scale: Scale
    senders: SenderLog
    workers: list[Worker]
    _group: anyio.abc.TaskGroup = attrs.field(kw_only=True)
    _news: anyio.Event = attrs.field(factory=anyio.Event)

    async def start(self, count: int, **options: Any) -> list[Worker]:
        """
        Start workers, and wait until all of them are ready.

        Args:
            count: Their number.

            **options: Options other than the usual ones; see ``WorkerOptions``.
        """
        started = [self._start(options) for _ in range(count)]
        await self.until(lambda: all(worker.reported("ready") for worker in started))
        return started

    def submit(self, worker: Worker, count: int) -> None:
        """Let a worker submit jobs of its own."""
        jobs = [f"{worker.name}-{number}" for number in range(len(worker.jobs), len(worker.jobs) + count)]
        worker.jobs += jobs
        worker.link.send(do="submit", jobs=list(jobs))

    async def until(self, condition: Callable[[], bool]) -> float:
        """
        Wait until a condition holds.

        Args:
            condition: The condition.

        Returns:
            The instant by the monotonic clock.

        Raises:
            TimeoutError: If the condition does not hold in time.
        """
        with anyio.fail_after(self.scale.timeout):
            while not condition():
                with anyio.move_on_after(_EVERY):
                    await self._news.wait()
        return time.monotonic()

    async def until_rows(self, condition: Callable[[dict[str, dict[str, Any]]], bool]) -> float:
        """Wait until a condition of the journal's rows (by key) holds; see ``until``."""
        with anyio.fail_after(self.scale.timeout):
            while not condition(await self.rows()):
                await anyio.sleep(2 * _EVERY)
        return time.monotonic()

    async def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the journal by key."""
        return await anyio.to_thread.run_sync(read_rows, self.journal, service_origin(self.fake.url))

    async def all_ended(self) -> float:
        """Wait until each job of each worker is in the journal and has ended; see ``until``."""
        jobs = {job for worker in self.workers for job in worker.jobs}
        return await self.until_rows(lambda rows: jobs <= rows.keys() and not unfinished(rows.values()))

    async def all_told(self, workers: Collection[Worker] | None = None) -> float:
        """Wait until the callers of all jobs of *workers* (by default all) were told an outcome; see ``until``."""
        chosen = self.workers if workers is None else workers
        return await self.until(lambda: all(len(worker.reported("told")) >= len(worker.jobs) for worker in chosen))

    async def owner(self, worker: Worker) -> str:
        """Return the name under which a worker owns its rows."""
        rows = await self.rows()
        (owner,) = {row["owner"] for key, row in rows.items() if key in worker.jobs and row["owner"]}
        return str(owner)

    async def kill(self, worker: Worker) -> float:
        """Kill a worker, and return the instant by the monotonic clock."""
        worker.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        await wait(worker.process)
        return killed_at

    async def end(self) -> None:
        """Let all workers close their clients and end."""
        for worker in self.workers:
            worker.link.send(do="end")
        await self.until(lambda: all(worker.reported("ended") or not worker.lives for worker in self.workers))

    def arrivals(self) -> list[Arrival]:
        """Return all create requests that the service has received."""
        return self.senders.arrivals(self.fake.truth)

    def created(self, worker: Worker) -> int:
        """Return the number of tasks that a worker's requests have created."""
        return sum(one.worker == worker.name and one.task_id is not None for one in self.arrivals())

    def figures(self) -> Figures:
        """Return the use of the account."""
        return Figures.of(self.arrivals(), self.fake.truth, limit=LIMIT, window=self.scale.window)

    def logged(self) -> list[str]:
        """Return the lines of the workers' logs, from WARNING on."""
        return [line for worker in self.workers for line in worker.logged]

    def _start(self, options: dict[str, Any]) -> Worker:
        name = f"w{len(self.workers)}"
        usual = {
            "name": name,
            "url": self.fake.url,
            "journal": self.journal,
            "limits": self.scale.limits(),
            "retry": RetryPolicy(in_doubt_timeout=30.0 * self.scale.factor),
            "lease": self.scale.lease,
            "heartbeat": self.scale.heartbeat,
        }
        ours, theirs = Pipe()
        process = start(run_worker, WorkerOptions(**{**usual, **options}), theirs)
        theirs.close()
        worker = Worker(name, process, Link(ours))
        self.workers.append(worker)
        self._group.start_soon(self._listen, worker)
        return worker

    async def _listen(self, worker: Worker) -> None:
        async for message in worker.link.messages():
            worker.messages.append(message)
            self._news.set()
            self._news = anyio.Event()


def told(*workers: Worker) -> Counter[str]:
    """Count the outcomes that the callers in *workers* were told."""
    return Counter(message["outcome"] for worker in workers for message in worker.reported("told"))


@asynccontextmanager
async def run_fleet(
    journal: str | Path, scale: Scale = FULL, *, seed: int = 0, **service: Any
) -> AsyncGenerator[Fleet]:
    """
    Run the service, and then the workers that are started; end them all at the end.

    Args:
        journal: The path of the journal, or its DSN.

        scale: The durations.

        seed: The seed of the service.

        **service: Other arguments of the service; see ``FakeKie``.
    """
    senders = SenderLog()
    usual = {
        "limit": LIMIT,
        "window": scale.window,
        "latency": scale.latency,
        "duration": scale.duration,
        "queries_per_second": 1e6,
        "credits": 1e9,
    }
    faults = [Fault("create", "code", code=429, when=senders), *service.pop("faults", ())]
    async with FakeKie(**{**usual, **service}, seed=seed, faults=faults) as fake:
        workers = list[Worker]()
        try:
            async with anyio.create_task_group() as group:
                yield Fleet(fake, str(journal), scale, senders, workers, group=group)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                for worker in workers:
                    await worker.close()
