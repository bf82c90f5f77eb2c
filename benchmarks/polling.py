"""
The lag of polling when all tasks in flight share a budget of polls.

In this closed system another task begins as soon as the end of one is found, so that the number in flight is constant.
The real poller polls a scripted service that answers within 4 ms and refuses an eleventh poll in any second; time is
virtual. (The pacer loses a round trip in every second; the network is omitted, so that the figures are the policy's.)
A lag is the time from the end of a task at the service to the moment at which the client knows it.

The bound of every policy is the optimum for one task, found by dynamic programming (``optimum.py``), under each task's
share of the budget; and Little's law, since each end takes a poll.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from statistics import fmean, quantiles
from typing import cast

import anyio
import attrs

from benchmarks.fixed_interval import FixedInterval
from benchmarks.optimum import bound, frontier, least_lag
from benchmarks.report import Report
from kie_async._core.durations import PRIOR_MEDIAN, DurationsByKind
from kie_async._core.lifecycle import Intent
from kie_async._core.poll_results import PollResult
from kie_async._core.polling import LagPolicy, PolledTask, PollingPolicy
from kie_async._io.http.transport import HttpResponse, Transport
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.polling.poller import Poller
from kie_async._io.polling.watchlist import Watchlist
from kie_async._io.runtime import Supervisor
from kie_async._io.timers import Timers
from kie_async.states import JobState
from kie_async.testing import VirtualLoop, virtual_time

BUDGET = 10
LATENCY = (0.001, 0.002)
SEEDS = (1, 2, 3)
#: The number of first ends that are ignored while the client learns.
LEARNING = 100
#: The same for each task in flight, while the system settles.
SETTLING = 3

Draw = Callable[[random.Random], float]
Make = Callable[[random.Random], PollingPolicy]


@attrs.frozen
class Tasks:
    """
    A distribution of durations.

    Attributes:
        name: Its name.

        parts: Shares, with the median and the sigma of the lognormal distribution that each has.
    """

    name: str
    parts: Sequence[tuple[float, float, float]]

    @property
    def mean(self) -> float:
        """The mean duration, in seconds."""
        return sum(share * median * math.exp(sigma**2 / 2.0) for share, median, sigma in self.parts)

    def survival(self, age: float) -> float:
        """Return the share of tasks that last longer."""
        if age <= 0.0:
            return 1.0
        return sum(
            share * 0.5 * math.erfc(math.log(age / median) / sigma / math.sqrt(2.0))
            for share, median, sigma in self.parts
        )

    def draw(self, rng: random.Random) -> float:
        """Draw one duration."""
        (_, median, sigma) = rng.choices(self.parts, [share for share, _, _ in self.parts])[0]
        return rng.lognormvariate(math.log(median), sigma)


LOGNORMAL = Tasks("60 s, sigma .35", [(1.0, 60.0, 0.35)])
BIMODAL = Tasks("70 % 15 s, 30 % 120 s", [(0.7, 15.0, 0.3), (0.3, 120.0, 0.3)])


@attrs.frozen
class Case:
    """
    One case to measure.

    Attributes:
        name: Its name.

        tasks: The distribution of durations.

        in_flight: The number of tasks in flight.

        skipped: The number of first ends that are ignored.

        ends: The number of ends that count.
    """

    name: str
    tasks: Tasks
    in_flight: int
    skipped: int
    ends: int

    @classmethod
    def settled(cls, tasks: Tasks, in_flight: int) -> Case:
        """Make a case that measures the settled system."""
        skipped = max(LEARNING, SETTLING * in_flight)
        return cls(f"{in_flight}", tasks, in_flight, skipped, max(700, 4 * in_flight))


class Exponential:
    """Poll after 2 s, then 4, 8, 16, and every 30, as waiters of cloud SDKs do."""

    def next_poll_at(self, task: PolledTask, now: float, in_flight: int) -> float:  # noqa: ARG002  # the protocol's
        """Return the next poll: each interval is the age at the last poll plus two seconds, which doubles it."""
        return max(now, task.running_at + min(30.0, task.running_at - task.accepted_at + 2.0))

    def choose_next(self, due: Sequence[PolledTask], now: float) -> int:
        """Choose the poll that has been due for longest."""
        since = [self.next_poll_at(task, -math.inf, len(due)) - now for task in due]
        return since.index(min(since))


@attrs.frozen
class Contender:
    """
    A policy to compare.

    Attributes:
        name: Its name.

        make: Makes the policy.

        prior: The median of its prior of durations, in seconds.
    """

    name: str
    make: Make
    prior: float = PRIOR_MEDIAN


def learned(rng: random.Random) -> PollingPolicy:
    """Make the client's own policy."""
    return LagPolicy(randrange=rng.randrange)


def every(seconds: float) -> Contender:
    """Return a fixed interval, as most programs have, but with the pacer, so that nothing is refused."""
    return Contender(f"every {seconds:g} s", lambda _: FixedInterval(seconds))


OURS = Contender("kie_async", learned)
BASELINES = [*map(every, (1.0, 2.0, 5.0, 10.0)), Contender("2 s, doubled up to 30 s", lambda _: Exponential())]
WRONG = [
    Contender("kie_async, prior of 12 s", learned, prior=12.0),
    Contender("kie_async, prior of 300 s", learned, prior=300.0),
]


class Service:
    """A service that answers polls, and refuses the eleventh in a second."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self._asked_at: deque[float] = deque(maxlen=BUDGET)
        self.ends_at: dict[str, float] = {}
        self.created_at: dict[str, float] = {}
        self.refused = 0

    async def poll(self, task_id: str, *, timeout: float) -> HttpResponse:
        """Return a task's record, as ``Transport.poll`` does."""
        with anyio.fail_after(timeout):
            await anyio.sleep(self._rng.uniform(*LATENCY))
            answer = self._answer(task_id, self._loop.time())
            await anyio.sleep(self._rng.uniform(*LATENCY))
        return answer

    def _answer(self, task_id: str, now: float) -> HttpResponse:
        if len(self._asked_at) == BUDGET and now - self._asked_at[0] < 1.0:
            self.refused += 1
            return HttpResponse(200, b'{"code":429,"msg":"slow down"}')
        self._asked_at.append(now)
        data: dict[str, object] = {
            "taskId": task_id,
            "state": "waiting",
            "createTime": self._ms(self.created_at[task_id]),
        }
        if now >= self.ends_at[task_id]:
            data |= {"state": "success", "completeTime": self._ms(self.ends_at[task_id])}
        return HttpResponse(200, json.dumps({"code": 200, "msg": "success", "data": data}).encode())

    def _ms(self, at: float) -> int:
        return round((self._loop.wall_time() - self._loop.time() + at) * 1000)


@attrs.frozen
class Figures:
    """
    The figures of one run.

    Attributes:
        lags: The lags, in seconds.

        polls: The number of polls while these ends were waited for.

        refused: The number of refused polls.
    """

    lags: Sequence[float]
    polls: int
    refused: int

    @classmethod
    def of(cls, runs: Sequence[Figures]) -> Figures:
        """Combine several runs."""
        return cls(
            [lag for run in runs for lag in run.lags], sum(run.polls for run in runs), sum(run.refused for run in runs)
        )

    @property
    def polls_each(self) -> float:
        """The number of polls for each task."""
        return self.polls / len(self.lags)

    @property
    def row(self) -> list[float]:
        """The polls for each task; mean, 95th percentile and largest lag; refused polls."""
        return [self.polls_each, fmean(self.lags), quantiles(self.lags, n=20)[-1], max(self.lags), self.refused]


async def measure(contender: Contender, case: Case, seed: int) -> Figures:
    """Run a contender until enough ends are found."""
    tasks, in_flight, skipped, ends = case.tasks, case.in_flight, case.skipped, case.ends
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise TypeError
    # Separate generators, so that all contenders get the same tasks.
    chance, durations = random.Random(seed), random.Random(1000 + seed)
    timers = Timers(loop)
    service = Service(loop, random.Random(2000 + seed))
    lags: list[float] = []
    done = asyncio.Event()
    polls_at_first = 0

    async def do_nothing() -> None:
        pass

    supervisor = Supervisor(loop, enter=do_nothing, ending=timers.close, leave=do_nothing, abandon=timers.close)

    def begin(number: int) -> None:
        now, task_id = loop.time(), f"{number:032x}"
        row = Intent(
            id=f"kj_{task_id}",
            model="m",
            input="{}",
            fingerprint="",
            created_at=0.0,
            updated_at=0.0,
            state=JobState.SUBMITTED,
            task_id=task_id,
        )
        service.created_at[task_id], service.ends_at[task_id] = now, now + tasks.draw(durations)
        # Each has a waiter.
        watchlist.watch(LiveJob(id=row.id, row=row, accepted_at=now, waiters=1))

    async def on_poll(job: LiveJob, poll: PollResult) -> None:
        nonlocal polls_at_first
        if (record := poll.record) is None:
            return
        if not record.ended:
            watchlist.record_running(job, record)
            return
        lags.append(loop.time() - service.ends_at[record.task_id])
        watchlist.record_end(job, record)
        watchlist.unwatch(job)
        begin(in_flight + len(lags))
        if len(lags) == skipped:
            polls_at_first = poller.polls
        elif len(lags) == skipped + ends:
            done.set()

    watchlist = Watchlist(
        policy=contender.make(chance),
        durations=DurationsByKind(contender.prior),
        timers=timers,
        loss_of=lambda _: 1.0,
    )
    poller = Poller(
        transport=cast("Transport", service),
        polls_per_second=float(BUDGET),
        watchlist=watchlist,
        loop=loop,
        timers=timers,
        supervisor=supervisor,
        on_poll=on_poll,
        on_round_trip=lambda _: None,
    )
    await supervisor.wait_ready()
    for number in range(in_flight):
        # Spread the starts over the duration of a task, as in a settled system.
        timers.at(tasks.mean * number / in_flight, begin, number)
    await done.wait()
    await supervisor.end_all()
    return Figures(lags[skipped : skipped + ends], poller.polls - polls_at_first, service.refused)


def run() -> Report:
    """Measure every contender in every case."""
    rows: list[list[str | float]] = []
    for tasks in (LOGNORMAL, BIMODAL):
        points = frontier(tasks.survival)
        cases = [Case.settled(tasks, in_flight) for in_flight in (1, 100, 300, 600)]
        early = Case("100, from the 101st end on", tasks, 100, LEARNING, 1000)
        tried = [(case, contender) for case in cases for contender in (OURS, *BASELINES)]
        for case, contender in [*tried, *((early, contender) for contender in (OURS, *WRONG))]:
            figures = Figures.of([virtual_time(measure, contender, case, seed, seed=seed) for seed in SEEDS])
            if case.in_flight == 1:
                least = least_lag(points, figures.polls_each)
            else:
                least = bound(points, tasks.mean, case.in_flight, BUDGET)
            rows.append([contender.name, tasks.name, case.name, *figures.row, least])
    return Report(
        name="polling",
        question=f"How late is the end of a task found, with {BUDGET} polls a second for all tasks in flight?",
        bound=(
            "column 'least': for one task, the optimum (dynamic programming) with as many polls; for many, the optimum"
            " under each one's share of the budget, or Little's law"
        ),
        columns=["contender", "durations", "in flight", "polls", "mean lag", "p95", "largest", "refused", "least"],
        rows=rows,
    )
