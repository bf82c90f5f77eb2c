"""
The cost of 10,000 jobs in flight in one client: the design load.

All jobs have been accepted and do not end; a stub answers each poll at once, with an empty body. (1) Memory of a job in
flight, as counted by tracemalloc: without a waiter, and with a task that awaits it (included). Its row in the journal
existed before and is not counted. (2) CPU of a scheduler event: a poll becomes due, is chosen, and the next one is
planned, without the poll itself. (3) With the polls: the CPU of one, with its task and the handling of the answer, and
the lag of the event loop meanwhile. The poll rate does not depend on the number of jobs. Python's garbage collection is
off, so that the scheduling is measured.

The baseline is a coroutine for each job that sleeps between its polls.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median, quantiles
from typing import TypeAlias

import attrs

from benchmarks.report import Report
from kie_async import KieClient, Limits
from kie_async._core.lifecycle import Intent
from kie_async._core.polling import PolledTask
from kie_async._io.engine import Engine
from kie_async._io.http.transport import POLL_TIMEOUT, HttpResponse, Transport
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.polling.watchlist import Watch
from kie_async.states import JobState

JOBS = 10_000
FEW = 1_000
#: The rate of events; one wake-up of the loop is shared by all polls that become due together.
POLLS_PER_SECOND = 10_000
#: The time of a measurement in seconds, after a first round of polls, which spreads them.
SECONDS = 4.0
ROUNDS = 3
TICK = 0.01

UNAWAITED_BOUND = 700
AWAITED_BOUND = 2_500
EVENT_BOUND = 15.0
LAG_BOUND = 5.0

Row: TypeAlias = list[str | float]
#: Takes the number of jobs, the mean interval of polls in seconds, and a function to call before the jobs are loaded;
#: yields a function that waits for the job of a number.
Contender: TypeAlias = Callable[
    [int, float, Callable[[], None]], AbstractAsyncContextManager[Callable[[int], Coroutine[object, object, object]]]
]


@attrs.frozen
class Spread:
    """A policy with random intervals, so that events are spread evenly."""

    mean: float

    def next_poll_at(self, task: PolledTask, now: float, in_flight: int) -> float:  # noqa: ARG002  # the protocol's
        """Return the instant of the next poll."""
        return now + self.mean * random.uniform(0.2, 1.8)

    def choose_next(self, due: Sequence[PolledTask], now: float) -> int:  # noqa: ARG002  # the protocol's
        """Choose the last one."""
        return len(due) - 1


class _Mute(Transport):
    polls = 0

    async def poll(self, task_id: str, *, timeout: float = POLL_TIMEOUT) -> HttpResponse:  # noqa: ARG002  # as it is
        """Return an empty answer at once."""
        _Mute.polls += 1
        return HttpResponse(200, b"{}")


class _Client(KieClient):
    def __init__(self, journal: MemoryJournal, limits: Limits) -> None:
        super().__init__("a-key", base_url="http://127.0.0.1", limits=limits)
        self._binding.make_journal = lambda: journal
        self._binding.make_transport = lambda: _Mute(
            api_key=lambda: "a-key",
            base_url="http://127.0.0.1",
            upload_url="http://127.0.0.1",
            session_factory=_no_session,  # type: ignore[arg-type]  # it is never used
            trust_env=False,
        )


class _no_session:  # noqa: N801  # in the place of a function
    closed = False

    def __init__(self, **kwargs: object) -> None:
        self.trace_configs = kwargs.get("trace_configs", [])

    async def close(self) -> None:
        """Do nothing."""


def make_row(number: int) -> Intent:
    """Make the row of an accepted job."""
    now = time.time()
    return Intent(
        id=f"kj_{number:032x}",
        model="wan/2-2-a14b-image-to-video-turbo",
        input="{}",
        fingerprint=f"{number:064x}",
        created_at=now,
        updated_at=now,
        state=JobState.SUBMITTED,
        attempts=1,
        sending_at=now,
        task_id=f"{number:032x}",
        accepted_at=now,
    )


# -- the contenders ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def without_tasks(
    jobs: int, mean: float, began: Callable[[], None]
) -> AsyncIterator[Callable[[int], Coroutine[object, object, object]]]:
    """Run our client with polls that end at once, so that only the scheduling is left."""

    def make_start(engine: Engine) -> Callable[..., None]:
        poller, now = engine.poller, engine.loop.time

        def start(_: object, watch: Watch) -> None:
            watch.running_at = now()
            poller.finish_poll(answered_at=watch.running_at)
            poller.plan_next_poll(watch)
            _Mute.polls += 1

        return start

    async with ours(jobs, mean, began, starts=make_start) as wait:
        yield wait


@asynccontextmanager
async def ours(
    jobs: int, mean: float, began: Callable[[], None], *, starts: Callable[[Engine], Callable[..., None]] | None = None
) -> AsyncIterator[Callable[[int], Coroutine[object, object, object]]]:
    """Run one client whose journal has the jobs; *starts* makes a replacement of the function that starts polls."""
    journal = MemoryJournal()
    for number in range(jobs):
        await journal.add(make_row(number))
    limits = Limits(in_flight=jobs, polls_per_second=10**6)
    kie = _Client(journal, limits)
    kie._binding.polling = Spread(mean)  # noqa: SLF001  # for benchmarks
    async with kie:
        engine = await kie._binding.engine()  # noqa: SLF001  # kie.recover() without a list of handles
        began()
        await engine.recover(lambda _: None)
        if starts is not None:
            setattr(engine.supervisor, "start", starts(engine))  # noqa: B010  # mypy rejects the assignment, which is intended
        ids = [job.id for job in engine.registry]
        yield lambda number: kie.job(ids[number]).wait()


@asynccontextmanager
async def coroutines(
    jobs: int, mean: float, began: Callable[[], None]
) -> AsyncIterator[Callable[[int], Coroutine[object, object, object]]]:
    """Run a task for each job; waiters wait for that task."""

    async def follow(task_id: str) -> None:
        while task_id:
            await asyncio.sleep(mean * random.uniform(0.2, 1.8))
            _Mute.polls += 1

    ids = [f"{number:032x}" for number in range(jobs)]
    began()
    tasks = [asyncio.create_task(follow(task_id)) for task_id in ids]
    await asyncio.sleep(0)

    async def wait(number: int) -> None:
        await asyncio.shield(tasks[number])

    yield wait
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


CONTENDERS: dict[str, Contender] = {"kie_async": ours, "a coroutine each": coroutines}


# -- 1: memory ---------------------------------------------------------------------------------------------------------


async def memory_of(contender: Contender) -> tuple[float, float]:
    """Return the bytes of a job without waiters, and of one that a task awaits."""
    at_first = 0

    def began() -> None:
        nonlocal at_first
        gc.collect()
        tracemalloc.start()
        at_first = tracemalloc.get_traced_memory()[0]

    async with contender(JOBS, 1e6, began) as wait:
        gc.collect()
        unawaited = tracemalloc.get_traced_memory()[0] - at_first

        tasks = [asyncio.create_task(wait(number)) for number in range(JOBS)]
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
        awaited = tracemalloc.get_traced_memory()[0] - at_first
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return unawaited / JOBS, awaited / JOBS


# -- 2 and 3: events ---------------------------------------------------------------------------------------------------


async def measure_polls(contender: Contender, jobs: int) -> tuple[float, float]:
    """Return µs of CPU for a poll, and the 99th percentile of the event loop's lag in ms."""
    mean = jobs / POLLS_PER_SECOND
    async with contender(jobs, mean, lambda: None):
        await asyncio.sleep(1.8 * mean)
        gc.collect()
        gc.disable()
        lags = list[float]()
        polls, cpu, until = _Mute.polls, time.process_time(), time.monotonic() + SECONDS
        while (now := time.monotonic()) < until:
            await asyncio.sleep(TICK)
            lags.append(time.monotonic() - now - TICK)
        spent = (time.process_time() - cpu) / (_Mute.polls - polls)
        gc.enable()
    return spent * 1e6, quantiles(lags, n=100)[-1] * 1e3


def median_polls(contender: Contender) -> tuple[float, float, float]:
    """Return µs of CPU for a poll with all jobs, the ratio to that with few, and the lag of the loop with all in ms."""
    few, many = list[tuple[float, float]](), list[tuple[float, float]]()
    for _ in range(ROUNDS):
        few.append(asyncio.run(measure_polls(contender, FEW)))
        many.append(asyncio.run(measure_polls(contender, JOBS)))
    growth = median(b / a for (a, _), (b, _) in zip(few, many, strict=True))
    return median(cpu for cpu, _ in many), growth, median(lag for _, lag in many)


def run() -> Report:
    """Run all measurements."""
    logging.getLogger("kie_async").setLevel(logging.CRITICAL)
    rows: list[Row] = []
    for name, contender in CONTENDERS.items():
        unawaited, awaited = asyncio.run(memory_of(contender))
        rows.append(["bytes of a job without waiters", name, unawaited, UNAWAITED_BOUND])
        rows.append(["bytes of a job with a task that awaits it", name, awaited, AWAITED_BOUND])
        if contender is ours:
            event, growth, _ = median_polls(without_tasks)
            rows.append([f"µs of CPU for an event with {JOBS:,}", name, event, EVENT_BOUND])
            rows.append([f"ratio to that with {FEW:,}", name, growth, "-"])
        poll, growth, lag = median_polls(contender)
        rows.append([f"µs of CPU for a poll with {JOBS:,}", name, poll, "-"])
        rows.append([f"ratio to that with {FEW:,}", name, growth, "-"])
        rows.append([f"ms of lag of the loop with {JOBS:,}, p99", name, lag, LAG_BOUND])
    return Report(
        name="waiters",
        question=f"What is the cost of {JOBS:,} jobs in flight, with {POLLS_PER_SECOND:,} polls a second?",
        bound="set by ourselves, beside the figures",
        columns=["figure", "contender", "value", "bound"],
        rows=rows,
    )
