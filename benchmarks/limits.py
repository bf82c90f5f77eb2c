"""
Measure the use of the account's 20 creates per 10 s, and the number of refused creates.

Time is virtual, the contenders and the service use real sockets, and the requests that the service sees are counted.
Kie's way of counting is not known, so this service counts in three ways: by a sliding log, by fixed windows, by a token
bucket. This package is measured with each of them in all cases of the first kind, the other contenders in the first.

In cases of the first kind 400 creates are submitted at once. Each way over the network takes 20 to 200 ms, evenly
distributed. The cases add: nothing; 250 to 500 ms to make a connection; a lognormal travel time (60 ms, sigma 0.8); a
client loop that stalls for a second in the first burst; 3 % of lost answers; a third of cancelled callers; 0.3 to 2 s
before the service answers a create; a client that ends after 30 creates and is replaced at once by another with the
same journal; a network that stalls for a second, five times. The use is the rate between the 20th create and the last
full twenty: the first burst is free, and a last burst that is not full proves nothing.

In cases of the second kind creates are submitted without end for ten minutes, and the account takes less than it
documents: 12 in 10 s; 8 from 150 to 350 s; or three independent clients use the 20. The use is the share of the creates
that the account would have taken.

A client cannot know when a create arrived, only when its answer came back. To be safe it must assume the latter, so
that a token is used once in a window and a round trip: W / (W + E[RTT]), for 20 to 200 ms 10 / 10.22 = 97.8 %.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import cast, get_args

import anyio
import attrs

from benchmarks.contenders import Contender, Service, aiolimiter_bucket, ours, pyrate_log, semaphore, tenacity_alone
from benchmarks.contenders.circumstances import (
    CASES,
    LEARNING,
    LIMIT,
    MINUTES,
    WINDOW,
    Case,
    Counting,
    account,
    sessions,
)
from benchmarks.report import Report
from kie_async.testing import Truth, virtual_time

SEEDS = range(3)
#: The creates that are submitted at once, and those that keep a backlog for ten minutes, for each client.
JOBS, BACKLOG = 400, 1300

CONTENDERS = cast("list[Contender]", [ours, semaphore, aiolimiter_bucket, pyrate_log, tenacity_alone])


@attrs.frozen
class RunFigures:
    """The service's view of one run."""

    refused: int
    refused_at_once: int
    requests_per_create: float
    used: float
    busiest: int

    @classmethod
    def of(cls, truth: Truth, case: Case, began_at: float) -> RunFigures:
        """Count the requests of a run."""
        created_at = [post.at for post in truth.create_requests if post.task_id is not None]
        if case.limits is None:
            whole = len(created_at) // LIMIT * LIMIT
            used = (whole - LIMIT) / (created_at[whole - 1] - created_at[LIMIT - 1]) / (LIMIT / WINDOW)
        else:
            used = len(created_at) / case.available()
        return cls(
            refused=len(truth.rate_limited),
            refused_at_once=sum(post.at < began_at + WINDOW for post in truth.rate_limited),
            requests_per_create=len(truth.create_requests) / len(created_at),
            used=100 * used,
            busiest=truth.busiest_window(WINDOW),
        )


async def measure(contender: Contender, case: Case, counting: Counting, seed: int) -> RunFigures:
    """Let *contender* make its creates at its own service."""
    random.seed(seed)  # tenacity's jitter
    rng = random.Random(f"{seed} leaving")
    with TemporaryDirectory() as directory:
        async with account(case, counting, seed) as fake:
            directory_or_none = None if case.restarts_after is None else Path(directory)
            services = [
                Service(fake.url, f"key-{client}", LIMIT, WINDOW, sessions(case, seed), directory_or_none)
                for client in range(case.clients)
            ]
            began_at = anyio.current_time()
            with anyio.move_on_after(math.inf if case.limits is None else MINUTES):
                for numbers in process_ranges(case):
                    await run_process(contender, services, case, numbers, rng)
            return RunFigures.of(fake.truth, case, began_at)


def process_ranges(case: Case) -> Iterator[range]:
    """Return the numbers of the creates that each process makes."""
    jobs = JOBS if case.limits is None else BACKLOG * case.clients
    ends = [0, *([] if case.restarts_after is None else [case.restarts_after]), jobs]
    return (range(*pair) for pair in pairwise(ends))


async def run_process(
    contender: Contender, services: Sequence[Service], case: Case, numbers: range, rng: random.Random
) -> None:
    """Make creates with one client or several, all at once."""
    async with AsyncExitStack() as stack:
        creates = [await stack.enter_async_context(contender.connect(service)) for service in services]

        async def job(number: int, timeout: float) -> None:
            with anyio.move_on_after(timeout):
                await creates[number % len(creates)](number)

        async with anyio.create_task_group() as group:
            for number in numbers:
                timeout = rng.uniform(0.0, 150.0) if rng.random() < case.leaving else math.inf
                group.start_soon(job, number, timeout)


def measure_row(contender: Contender, case: Case, counting: Counting) -> list[str | float]:
    """Return the figures of one contender in one case: mean and worst of all seeds."""
    # A contender with thousands of refused creates has them with any seed, and takes long.
    seeds = SEEDS if contender.NAME == ours.NAME or case in CASES else SEEDS[:1]
    runs = [virtual_time(measure, contender, case, counting, seed, seed=seed) for seed in seeds]
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


def measure_rows() -> Iterator[list[str | float]]:
    """Measure every contender in every case with the sliding log, and this package with the other services, too."""
    for case in (*CASES, *LEARNING):
        for counting in get_args(Counting):
            for contender in CONTENDERS:
                at_all_services = case is CASES[0] or (contender.NAME == ours.NAME and case in CASES)
                if counting == "sliding" or at_all_services:
                    yield measure_row(contender, case, counting)


def run() -> Report:
    """Run the benchmark."""
    # Each run ends with unfinished tasks, and the client logs each of them.
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
        rows=list(measure_rows()),
    )
