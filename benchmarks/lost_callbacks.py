"""
The lag of results whose callback is lost, and the polls that this takes.

The real poller, watchlist and loss estimate run against a scripted service in virtual time, so that the figures are
exact. 20 jobs are created at a time, every 10 s. The end of a task is posted as a callback, which causes a poll; a lost
callback is not posted. A lag is the time from the end of a task at the service to the moment at which the client knows
it. A *fallback poll* is one that no callback has caused.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Sequence
from statistics import fmean, quantiles
from typing import cast

import attrs

from benchmarks.polling import LOGNORMAL, Figures, Service, Tasks
from benchmarks.polling import OURS as POLLING
from benchmarks.polling import SEEDS as POLLING_SEEDS
from benchmarks.polling import Case as PollingCase
from benchmarks.polling import measure as measure_polling
from benchmarks.report import Report
from kie_async._core.durations import DurationsByKind
from kie_async._core.lifecycle import Intent
from kie_async._core.poll_results import PollResult
from kie_async._core.polling import LagPolicy, PolledTask, PollingPolicy
from kie_async._io.http.transport import Transport
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.polling.poller import Poller
from kie_async._io.polling.watchlist import CallbackWeight, Watchlist
from kie_async._io.runtime import Supervisor
from kie_async._io.timers import Timers
from kie_async.states import JobState
from kie_async.testing import VirtualLoop, virtual_time

SEEDS = range(1, 21)
#: The seeds of further cases.
FEW_SEEDS = range(1, 6)
#: Creates at a time, and the seconds between two times.
CREATES, WINDOW = 20, 10.0

SHORT = Tasks("3 s, sigma .35", [(1.0, 3.0, 0.35)])
LONG = Tasks("15 min, sigma .35", [(1.0, 900.0, 0.35)])
MANY = [Tasks(f"{median} s, sigma .3", [(1.0, float(median), 0.3)]) for median in range(10, 190, 6)]


@attrs.frozen(kw_only=True)
class Case:
    """
    One case to measure.

    Attributes:
        name: Its name.

        lost: Returns True if the callback of a job, by its number from 0, is lost.

        models: The distributions of durations; job by job, the next one.

        jobs: The number of jobs.

        measured: The numbers of the jobs that count.

        rate: The client's limit of polls per second.

        delay: The time from an end to its callback, in seconds.
    """

    name: str
    lost: Callable[[int, random.Random], bool]
    models: Sequence[Tasks] = (LOGNORMAL,)
    jobs: int = 300
    measured: range = range(1_000_000)
    rate: float = 5.0
    delay: float = 0.0


@attrs.define
class Outcome:
    """
    One job.

    Attributes:
        lost: True if its callback was lost.

        lag: The lag of its end, in seconds.

        polls: The number of its fallback polls.
    """

    lost: bool
    lag: float = math.nan
    polls: int = 0


@attrs.frozen
class Contender:
    """
    A way to poll while callbacks are expected.

    Attributes:
        name: Its name.

        make: Makes the policy.

        callbacks: False to send no ``callback_url``.
    """

    name: str
    make: Callable[[random.Random], PollingPolicy]
    callbacks: bool = True


class Stretched(LagPolicy):
    """Stretch the interval of a task without callbacks by the loss rate, 2 %, up to 600 s."""

    def next_poll_at(self, task: PolledTask, now: float, in_flight: int) -> float:
        """Return the instant of the next poll."""
        task.loss = 1.0
        gap = super().next_poll_at(task, task.running_at, in_flight) - task.running_at
        return max(now, task.running_at + max(gap, min(gap / 0.02, 600.0)))


OURS = Contender("kie_async", lambda rng: LagPolicy(randrange=rng.randrange))
STRETCHED = Contender("interval / loss rate", lambda rng: Stretched(randrange=rng.randrange))
WITHOUT = Contender("no callback_url", lambda rng: LagPolicy(randrange=rng.randrange), callbacks=False)


def share(rate: float, first: int = 0) -> Callable[[int, random.Random], bool]:
    """Lose a share of the callbacks, from a job on."""
    return lambda number, rng: rng.random() < rate and number >= first


def burst(number: int, _: random.Random) -> bool:
    """Lose 20 of each 200 callbacks, one after the other."""
    return number % 200 >= 180


FIRST, LATER = range(20), range(20, 200)
CASES = [
    Case(name="10 % lost", lost=share(0.1)),
    Case(name="2 % lost", lost=share(0.02)),
    Case(name="10 % lost", lost=share(0.1), models=(SHORT,)),
    Case(name="2 % lost", lost=share(0.02), models=(SHORT,)),
    Case(name="all lost, the first 20", lost=share(1.0), jobs=200, measured=FIRST),
    Case(name="all lost, from the 21st on", lost=share(1.0), jobs=200, measured=LATER),
    Case(name="all lost, the first 20", lost=share(1.0), jobs=200, measured=FIRST, models=(SHORT,)),
    Case(name="all lost, from the 21st on", lost=share(1.0), jobs=200, measured=LATER, models=(SHORT,)),
    Case(name="none lost", lost=share(0.0)),
    Case(name="none lost, after 300", lost=share(0.0), jobs=900, measured=range(420, 900)),
    Case(name="none lost, after 300, 2.5 polls/s", lost=share(0.0), jobs=900, measured=range(420, 900), rate=2.5),
]
#: Cases that nothing was tuned for.
FURTHER = [
    Case(name="10 % lost from the 1,001st on", lost=share(0.1, 1000), jobs=1400, measured=range(1000, 1400)),
    Case(name="all lost from the 1,001st on", lost=share(1.0, 1000), jobs=1400, measured=range(1000, 1400)),
    Case(name="bursts of 20 in 200", lost=burst, jobs=800),
    Case(name="10 % lost, and a model of 3 s", lost=share(0.1), models=(LOGNORMAL, SHORT)),
    Case(name="10 % lost", lost=share(0.1), models=(LONG,)),
    Case(name="none lost", lost=share(0.0), models=(LONG,)),
    Case(name="none lost, 30 models of 10 jobs", lost=share(0.0), models=MANY),
    Case(name="20 s late", lost=share(0.0), delay=20.0),
]


class _Run:
    """
    One run of a case.

    Args:
        contender: The way to poll.

        case: The case.

        seed: The seed.
    """

    def __init__(self, contender: Contender, case: Case, seed: int) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise TypeError
        self._contender, self._case, self._loop = contender, case, loop
        self._durations, self._losses = random.Random(1000 + seed), random.Random(3000 + seed)
        self._service = Service(loop, random.Random(2000 + seed))
        self._live: dict[str, LiveJob] = {}
        self._done = asyncio.Event()
        self.outcomes: list[Outcome] = []
        self._timers = timers = Timers(loop)
        self._supervisor = Supervisor(
            loop, enter=_do_nothing, ending=timers.close, leave=_do_nothing, abandon=timers.close
        )
        self._loss = CallbackWeight(timers=timers, on_change=self._reweigh)
        self._watchlist = Watchlist(
            policy=contender.make(random.Random(seed)),
            durations=DurationsByKind(),
            timers=timers,
            loss_of=self._loss.loss_of,
        )
        self._poller = Poller(
            transport=cast("Transport", self._service),
            polls_per_second=case.rate,
            watchlist=self._watchlist,
            loop=loop,
            timers=timers,
            supervisor=self._supervisor,
            on_poll=self._on_poll,
            on_round_trip=lambda _: None,
        )

    def _reweigh(self) -> None:
        self._watchlist.reweigh_all()

    def _begin(self) -> None:
        number, now, case, service = len(self.outcomes), self._loop.time(), self._case, self._service
        task_id, tasks = f"{number:032x}", case.models[number % len(case.models)]
        row = Intent(
            id=f"kj_{task_id}",
            model=tasks.name,
            input="{}",
            fingerprint="",
            created_at=0.0,
            updated_at=0.0,
            state=JobState.SUBMITTED,
            task_id=task_id,
            callback_url="https://example.com/" if self._contender.callbacks else None,
        )
        job = self._live[row.id] = LiveJob(id=row.id, row=row, accepted_at=now, waiters=1)
        outcome = Outcome(case.lost(number, self._losses))
        self.outcomes.append(outcome)
        service.created_at[task_id], service.ends_at[task_id] = now, now + tasks.draw(self._durations)
        if self._contender.callbacks and not outcome.lost:
            self._timers.at(service.ends_at[task_id] + case.delay, self._supervisor.start, self._confirm, job)
        self._watchlist.watch(job)

    async def _confirm(self, job: LiveJob) -> None:
        self._loss.record_callback(job.id, self._live.get(job.id))
        if job.id in self._live:
            self._apply(job, await self._poller.poll_now(job.task_id or ""))

    async def _on_poll(self, job: LiveJob, poll: PollResult) -> None:
        self.outcomes[int(job.task_id or "", 16)].polls += 1
        self._apply(job, poll)

    def _apply(self, job: LiveJob, poll: PollResult) -> None:
        if (record := poll.record) is None or job.id not in self._live:
            return
        if not record.ended:
            self._watchlist.record_running(job, record)
            return
        job.record = record
        self.outcomes[int(record.task_id, 16)].lag = self._loop.time() - self._service.ends_at[record.task_id]
        self._loss.expect_callback(job)
        self._watchlist.record_end(job, record)
        self._watchlist.unwatch(job)
        del self._live[job.id]
        if len(self.outcomes) == self._case.jobs and not self._live:
            self._done.set()

    async def run(self) -> None:
        """Run until all jobs have ended."""
        if self._contender.callbacks:
            self._loss.expect_callbacks()
        await self._supervisor.wait_ready()
        for number in range(self._case.jobs):
            self._timers.at(WINDOW * (number // CREATES), self._begin)
        await self._done.wait()
        await self._supervisor.end_all()


async def _do_nothing() -> None:
    pass


async def measure(contender: Contender, case: Case, seed: int) -> list[Outcome]:
    """Run a case, and return the jobs that count."""
    one = _Run(contender, case, seed)
    await one.run()
    return [outcome for number, outcome in enumerate(one.outcomes) if number in case.measured]


def few_in_flight() -> list[list[str | float]]:
    """Return the rows of few tasks in flight without callbacks: the lag, and the polls of each task."""
    rows: list[list[str | float]] = []
    for in_flight in (1, 10, 50):
        figures = Figures.of(
            [
                virtual_time(measure_polling, POLLING, PollingCase.settled(LOGNORMAL, in_flight), seed, seed=seed)
                for seed in POLLING_SEEDS
            ]
        )
        polls, mean, p95, largest, _ = figures.row
        rows.append(
            [f"{in_flight} in flight", LOGNORMAL.name, WITHOUT.name, len(figures.lags), mean, p95, largest, mean, polls]
        )
    return rows


def run() -> Report:
    """Measure every contender in every case."""
    logging.getLogger("kie_async").addFilter(lambda _: False)  # in some cases no callbacks arrive
    rows: list[list[str | float]] = []
    tried = [(case, contender, SEEDS) for case in CASES for contender in (OURS, STRETCHED)]
    tried += [(case, WITHOUT, SEEDS) for case in CASES if case.name.startswith("all")]
    for case, contender, seeds in [*tried, *((case, OURS, FEW_SEEDS) for case in FURTHER)]:
        runs = [virtual_time(measure, contender, case, seed, seed=seed) for seed in seeds]
        outcomes = [outcome for jobs in runs for outcome in jobs]
        lags = [outcome.lag for outcome in outcomes if outcome.lost or not contender.callbacks]
        figures = [fmean(lags), quantiles(lags, n=20)[-1], max(lags)] if lags else [0.0, 0.0, 0.0]
        everyone, polls = fmean(outcome.lag for outcome in outcomes), fmean(outcome.polls for outcome in outcomes)
        rows.append([case.name, case.models[0].name, contender.name, len(lags), *figures, everyone, polls])
    return Report(
        name="lost_callbacks",
        question="How late are results whose callback is lost, and how many polls without a callback does a job take?",
        bound=(
            "our own: tasks of a minute: mean 15 s, p95 30 s; of 3 s: p95 10 s; all lost: 1.5 x the mean without"
            " callback_url from the 21st job on, 60 s for each before; none lost: 1.0 poll, 0.25 after 300 callbacks in"
            " a row; one task in flight: 1.3 s, ten: 2.0 s"
        ),
        columns=[
            "case",
            "durations",
            "contender",
            "lost",
            "mean lag",
            "p95",
            "largest",
            "mean of all",
            "fallback polls",
        ],
        rows=[*rows, *few_in_flight()],
    )
