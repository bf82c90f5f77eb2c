"""
What it takes to hold ten thousand jobs in one client.

All have been accepted, and their ends are far away; the service is a stand-in that answers each look at once, with
nothing. (1) Memory of a job in flight, as Python counts it: nobody awaits it, or a task does, whose own memory is
counted. Its row in the journal is not counted; it was there before. (2) CPU of an event of the scheduler: the look at a
job falls due, has its turn, and the next one is planned; the look itself is left out. (3) With the looks: the CPU of
one, with its task and what it makes of the answer, and how late the event loop is for others meanwhile. As many looks a
second are wanted whatever the number of jobs, and Python's garbage collection is off, so that it is the scheduling that
is measured.

The baseline is what people write: a coroutine for each job, which sleeps between its looks.
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
#: As many as in the study that the bounds are from; what wakes the loop up is shared by all that fall due together.
LOOKS_PER_SECOND = 10_000
#: For how long it is measured, after a first round of looks, which spreads them.
SECONDS = 4.0
ROUNDS = 3
TICK = 0.01

UNAWAITED_BOUND = 700
AWAITED_BOUND = 1_500
EVENT_BOUND = 15.0
GROWTH_BOUND = 1.3
LAG_BOUND = 5.0

Row: TypeAlias = list[str | float]
#: Holds so many jobs, which are looked at after so many seconds on average, says when it begins, and gives a way to
#: wait for the job of a number.
Contender: TypeAlias = Callable[
    [int, float, Callable[[], None]], AbstractAsyncContextManager[Callable[[int], Coroutine[object, object, object]]]
]


@attrs.frozen
class Spread:
    """Looks at a job at random distances, so that the events of many are spread evenly."""

    mean: float

    def next_poll_at(self, task: PolledTask, now: float) -> float:  # noqa: ARG002  # the protocol's
        """The instant of the next look."""
        return now + self.mean * random.uniform(0.2, 1.8)

    def choose_next(self, due: Sequence[PolledTask], now: float) -> int:  # noqa: ARG002  # the protocol's
        """Any of them."""
        return len(due) - 1


class _Mute(Transport):
    polls = 0

    async def poll(self, task_id: str, *, timeout: float = POLL_TIMEOUT) -> HttpResponse:  # noqa: ARG002  # as it is
        """Nothing, and at once."""
        _Mute.polls += 1
        return HttpResponse(200, b"{}")


class _Client(KieClient):
    def __init__(self, journal: MemoryJournal, limits: Limits) -> None:
        super().__init__("a-key", base_url="http://127.0.0.1", limits=limits)
        self._binding.make_journal = lambda: journal
        self._binding.make_transport = lambda: _Mute(
            api_key="a-key",
            base_url="http://127.0.0.1",
            upload_url="http://127.0.0.1",
            session_factory=_no_session,  # type: ignore[arg-type]  # it is never opened
            trust_env=False,
            known_hosts=frozenset(),
        )


class _no_session:  # noqa: N801  # in the place of a function
    closed = False

    def __init__(self, **kwargs: object) -> None:
        self.trace_configs = kwargs.get("trace_configs", [])

    async def close(self) -> None:
        """Nothing is open."""


def a_row(number: int) -> Intent:
    """The row of a job that was accepted."""
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
    """As ours, but a look is over in the instant in which it would go on the wire: what is left is the scheduling."""

    def over_at_once(engine: Engine) -> Callable[..., None]:
        poller, now = engine.poller, engine.loop.time

        def start(_: object, watch: Watch) -> None:
            watch.running_at = now()
            poller.finish_poll(answered_at=watch.running_at)
            poller.plan_next_poll(watch)
            _Mute.polls += 1

        return start

    async with ours(jobs, mean, began, starts=over_at_once) as wait:
        yield wait


@asynccontextmanager
async def ours(
    jobs: int, mean: float, began: Callable[[], None], *, starts: Callable[[Engine], Callable[..., None]] | None = None
) -> AsyncIterator[Callable[[int], Coroutine[object, object, object]]]:
    """One client, whose journal has the jobs; *starts* makes what starts the looks, if given."""
    journal = MemoryJournal()
    for number in range(jobs):
        await journal.add(a_row(number))
    limits = Limits(in_flight=jobs, polls_per_second=10**6)
    kie = _Client(journal, limits)
    kie._binding.polling = Spread(mean)  # noqa: SLF001  # for benchmarks
    async with kie:
        engine = await kie._binding.engine()  # noqa: SLF001  # kie.recover(), without a list of handles
        began()
        await engine.recover()
        if starts is not None:
            setattr(engine.supervisor, "start", starts(engine))  # noqa: B010  # mypy minds the assignment, and it is meant
        ids = [job.id for job in engine.registry]
        yield lambda number: kie.job(ids[number]).wait()


@asynccontextmanager
async def coroutines(
    jobs: int, mean: float, began: Callable[[], None]
) -> AsyncIterator[Callable[[int], Coroutine[object, object, object]]]:
    """A task for each job; whoever waits, waits for that task."""

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
    """Bytes of a job that nobody awaits, and of one that a task awaits."""
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


async def looks_of(contender: Contender, jobs: int) -> tuple[float, float]:
    """µs of CPU for a look, and the 99th percentile of the event loop's lag in ms."""
    mean = jobs / LOOKS_PER_SECOND
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


def median_looks(contender: Contender) -> tuple[float, float, float]:
    """µs of CPU for a look with all jobs, as a multiple of that with few, and the lag of the loop with all, in ms."""
    few, many = list[tuple[float, float]](), list[tuple[float, float]]()
    for _ in range(ROUNDS):
        few.append(asyncio.run(looks_of(contender, FEW)))
        many.append(asyncio.run(looks_of(contender, JOBS)))
    growth = median(b / a for (a, _), (b, _) in zip(few, many, strict=True))
    return median(cpu for cpu, _ in many), growth, median(lag for _, lag in many)


def run() -> Report:
    """Measure all of it."""
    logging.getLogger("kie_async").setLevel(logging.CRITICAL)
    rows: list[Row] = []
    for name, contender in CONTENDERS.items():
        unawaited, awaited = asyncio.run(memory_of(contender))
        rows.append(["bytes of a job", name, unawaited, UNAWAITED_BOUND])
        rows.append(["bytes of a job with a task that awaits it", name, awaited, AWAITED_BOUND])
        if contender is ours:
            event, growth, _ = median_looks(without_tasks)
            rows.append([f"µs of CPU for an event at {JOBS:,}", name, event, EVENT_BOUND])
            rows.append([f"times that at {FEW:,}", name, growth, GROWTH_BOUND])
        poll, growth, lag = median_looks(contender)
        rows.append([f"µs of CPU for a look at {JOBS:,}", name, poll, "-"])
        rows.append([f"times that at {FEW:,}", name, growth, GROWTH_BOUND])
        rows.append([f"ms of lag of the loop at {JOBS:,}, 99 %", name, lag, LAG_BOUND])
    return Report(
        name="waiters",
        question=f"What does it take to hold {JOBS:,} jobs, with {LOOKS_PER_SECOND:,} looks a second?",
        bound="set by ourselves, beside the figures",
        columns=["figure", "contender", "value", "bound"],
        rows=rows,
    )
