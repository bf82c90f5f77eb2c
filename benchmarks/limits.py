"""
How much of the account's 20 creates per 10 s is used, and how many creates are refused.

Time is virtual, the contenders and the service talk over real sockets, and what the service has seen is counted. How
Kie counts is not known, so this service counts in three ways: by a sliding log, by fixed windows, by a token bucket.
This package meets each of them in every case, the others where they differ.

In the first cases 400 creates are wanted at once. Each way over the network takes 20 to 200 ms, evenly distributed,
and: nothing else; a connection takes 250 to 500 ms to be made; the way is lognormal (60 ms, sigma 0.8); the loop stands
still for a second, now and then; 3 % of the answers are lost; a third of the callers leaves; the service thinks for 0.3
to 2 s before it answers a create. What is used is the rate from the 20th create on, since the first burst is free.

In the others there are 1,500 creates, for ten minutes, at an account that does not take what it documents: 12 in 10 s;
8 from 150 to 350 s; or the 20 are used by three clients that know nothing of each other. What is used is the share of
what the account would have taken.

A client cannot know when a create arrived, only when its answer came back; to be safe it must assume the latter, so
that a place is used once in a window and a round trip: W / (W + E[RTT]), for 20 to 200 ms 10 / 10.22 = 97.8 %.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace
from typing import Literal, TypeAlias, cast, get_args

import aiohttp
import anyio
import attrs

from benchmarks.contenders import Contender, Service, aiolimiter_bucket, ours, pyrate_log, semaphore, tenacity_alone
from benchmarks.report import Report
from kie_async.testing import FakeKie, Fault, Truth, virtual_time

LIMIT = 20
WINDOW = 10.0
SEEDS = range(3)
#: Creates that are wanted at once; and those that keep a backlog for ten minutes.
JOBS, BACKLOG = 400, 1500
MINUTES = 600.0

#: When the loop stands still for a second: at the first burst, in the second, and later on.
STALLS = (0.05, 10.2, 51.3, 92.5, 133.7)

Counting: TypeAlias = Literal["sliding", "fixed", "bucket"]
Way: TypeAlias = Callable[[random.Random], float]

CONTENDERS = cast("list[Contender]", [ours, semaphore, aiolimiter_bucket, pyrate_log, tenacity_alone])


def evenly(rng: random.Random) -> float:
    """20 to 200 ms."""
    return rng.uniform(0.02, 0.2)


def heavily(rng: random.Random) -> float:
    """60 ms as a rule, and a second now and then."""
    return rng.lognormvariate(math.log(0.06), 0.8)


def with_stalls(rng: random.Random) -> float:
    """Whatever is on its way while the client's loop stands still comes through when that is over."""
    now, way = asyncio.get_running_loop().time(), evenly(rng)
    for at in STALLS:
        if at <= now < at + 1.0:
            return at + 1.0 - now + way
        if at <= now + way < at + 1.0:
            return at + 1.0 - now
    return way


@attrs.frozen(kw_only=True)
class Case:
    """
    One set of circumstances.

    Attributes:
        name: Its name.

        way: Seconds each way.

        round_trip: What a round trip takes on average, for the bound.

        create_seconds: What the service takes for a create after it was counted.

        cold: Seconds that a connection takes to be made.

        lost: The share of answers that are lost.

        leaving: The share of callers that leave.

        clients: How many clients share the account.

        limits: What the account takes, from each instant on; None for what it documents, and the first kind of case.
    """

    name: str
    way: Way = evenly
    round_trip: float = 0.22
    create_seconds: tuple[float, float] = (0.0, 0.0)
    cold: tuple[float, float] | None = None
    lost: float = 0.0
    leaving: float = 0.0
    clients: int = 1
    limits: tuple[tuple[float, int], ...] | None = None

    @property
    def bound(self) -> float:
        """The share, in percent, that a client can use which cannot see when its creates arrive."""
        return 100 * WINDOW / (WINDOW + self.round_trip)

    def available(self) -> float:
        """What the account takes in the time of the second kind of case."""
        steps = [*(self.limits or ()), (MINUTES, 0)]
        return sum(limit * (end - at) / WINDOW for (at, limit), (end, _) in pairwise(steps))


CASES = [
    Case(name="400 at once"),
    Case(name="cold connections", cold=(0.25, 0.5)),
    Case(name="heavy tail", way=heavily, round_trip=2 * 0.06 * math.exp(0.8**2 / 2)),
    Case(name="loop stalled for 1 s", way=with_stalls),
    Case(name="3 % of answers lost", lost=0.03),
    Case(name="callers leave", leaving=1 / 3),
    Case(name="slow creates, 0.3-2 s", create_seconds=(0.3, 2.0)),
]
#: Ten minutes each; how the service counts makes no difference to what is learned.
LEARNING = [
    Case(name="12 where 20 are configured", limits=((0.0, 12),)),
    Case(name="20, then 8, then 20", limits=((0.0, 20), (150.0, 8), (350.0, 20))),
    Case(name="three clients, one account", limits=((0.0, 20),), clients=3),
]


@attrs.frozen
class Figures:
    """What the service saw of one run."""

    refused: int
    refused_at_once: int
    requests_per_create: float
    used: float
    busiest: int

    @classmethod
    def of(cls, truth: Truth, case: Case, began_at: float) -> Figures:
        """Count."""
        created_at = [post.at for post in truth.posts if post.task_id is not None]
        if case.limits is None:
            used = (len(created_at) - LIMIT) / (created_at[-1] - created_at[LIMIT - 1]) / (LIMIT / WINDOW)
        else:
            used = len(created_at) / case.available()
        return cls(
            refused=len(truth.refused),
            refused_at_once=sum(post.at < began_at + WINDOW for post in truth.refused),
            requests_per_create=len(truth.posts) / len(created_at),
            used=100 * used,
            busiest=truth.busiest_window(WINDOW),
        )


def sessions(case: Case, seed: int) -> Callable[..., aiohttp.ClientSession]:
    """What makes sessions, whose connections take as long to be made as the case says."""
    rng = random.Random(f"{seed} connections")

    async def wait(
        _session: aiohttp.ClientSession, _context: SimpleNamespace, _: aiohttp.TraceConnectionCreateStartParams
    ) -> None:
        await asyncio.sleep(rng.uniform(*case.cold) if case.cold is not None else 0.0)

    def make(**kwargs: object) -> aiohttp.ClientSession:
        slow = aiohttp.TraceConfig()
        slow.on_connection_create_start.append(wait)
        traces = [*cast("list[aiohttp.TraceConfig]", kwargs.pop("trace_configs", [])), *([slow] if case.cold else [])]
        return aiohttp.ClientSession(**kwargs, trace_configs=traces)  # type: ignore[arg-type]  # passed on as they are

    return make


@asynccontextmanager
async def account(case: Case, counting: Counting, seed: int) -> AsyncGenerator[FakeKie]:
    """The service, as the case has it."""
    # Half of them are reset, half are never answered.
    faults = [
        Fault("create", "reset", after=True, chance=case.lost / 2),
        Fault("create", "silence", after=True, chance=case.lost / 2 / (1 - case.lost / 2)),
    ]
    async with (
        FakeKie(
            seed=seed,
            limit=LIMIT,
            window=WINDOW,
            limiter=counting,
            latency=case.way,
            create_seconds=case.create_seconds,
            credits=1e9,
            faults=faults if case.lost else [],
        ) as fake,
        anyio.create_task_group() as group,
    ):

        async def change() -> None:
            began_at = anyio.current_time()
            for at, limit in case.limits or ():
                await anyio.sleep_until(began_at + at)
                fake.limit = limit

        group.start_soon(change)
        yield fake
        group.cancel_scope.cancel()


async def measure(contender: Contender, case: Case, counting: Counting, seed: int) -> Figures:
    """Let *contender* make its creates at a service of its own."""
    random.seed(seed)  # tenacity's jitter
    rng = random.Random(f"{seed} leaving")
    jobs = JOBS if case.limits is None else BACKLOG

    async with account(case, counting, seed) as fake, AsyncExitStack() as stack:
        creates = [
            await stack.enter_async_context(
                contender.connect(Service(fake.url, f"key-{client}", LIMIT, WINDOW, sessions(case, seed)))
            )
            for client in range(case.clients)
        ]

        async def job(number: int, patience: float) -> None:
            with anyio.move_on_after(patience):
                await creates[number % case.clients](number)

        began_at = anyio.current_time()
        with anyio.move_on_after(math.inf if case.limits is None else MINUTES):
            async with anyio.create_task_group() as group:
                for number in range(jobs):
                    patience = rng.uniform(0.0, 150.0) if rng.random() < case.leaving else math.inf
                    group.start_soon(job, number, patience)
        return Figures.of(fake.truth, case, began_at)


def row(contender: Contender, case: Case, counting: Counting) -> list[str | float]:
    """The figures of one contender in one case: of all seeds, on average and at worst."""
    runs = [virtual_time(measure, contender, case, counting, seed, seed=seed) for seed in SEEDS]
    return [
        case.name,
        counting,
        contender.NAME,
        fmean(figures.refused for figures in runs),
        max(figures.refused for figures in runs),
        max(figures.refused_at_once for figures in runs),
        fmean(figures.requests_per_create for figures in runs),
        fmean(figures.used for figures in runs),
        min(figures.used for figures in runs),
        case.bound,
        max(figures.busiest for figures in runs),
    ]


def rows() -> Iterator[list[str | float]]:
    """Every contender in every case at the sliding log; at the other services this package always, the others once."""
    for case in (*CASES, *LEARNING):
        for counting in get_args(Counting):
            for contender in CONTENDERS:
                everywhere = case is CASES[0] or (contender.NAME == ours.NAME and case in CASES)
                if counting == "sliding" or everywhere:
                    yield row(contender, case, counting)


def run() -> Report:
    """Measure, under three seeds each."""
    # Each run ends with its tasks unfinished, which the client says at length.
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    return Report(
        name="limits",
        question=f"How much of {LIMIT} creates per {WINDOW:g} s is used, how many are refused?",
        bound="no refusal, and W / (W + E[RTT]) of what there is, for a client that cannot see when its creates arrive",
        columns=[
            "case",
            "service counts by",
            "contender",
            "refused",
            "at worst",
            "in the first 10 s",
            "requests per create",
            "used %",
            "at worst %",
            "bound %",
            "busiest 10 s",
        ],
        rows=list(rows()),
    )
