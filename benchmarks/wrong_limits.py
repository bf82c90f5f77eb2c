"""
Measure the refused creates of a client whose ``Limits(creates=…)`` is far above what the account takes.

The account takes 20 creates in 10 s, and 400 are submitted at once. Each way over the network takes 50 to 150 ms. Time
is virtual, the service uses real sockets, and its log is counted. The first window is the time in which the client can
learn the limit; after it, a probe now and then is refused.

The bound of the first window: a client that knows nothing has as many creates on the wire as it ever has (48), and may
send one more for each of the 20 that are accepted before it reads the first refusal. None of these 68 but the 20 can be
accepted.

``BEFORE`` has the figures of this package at commit 6c40ace, when a refusal expired one token and nothing else.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from statistics import fmean
from typing import cast, get_args

import anyio
import attrs

from benchmarks.contenders import Contender, Service, aiolimiter_bucket, ours, tenacity_alone
from benchmarks.contenders.circumstances import LIMIT, WINDOW, Case, Counting, account, sessions
from benchmarks.limits import JOBS, SEEDS, RunFigures, run_process
from benchmarks.report import Report
from kie_async.testing import Truth, virtual_time

CONFIGURED = (20, 21, 25, 40, 60, 100, 300, 1_000, 10_000, 100_000)
OURS = cast("Contender", ours)
BASELINES = cast("list[Contender]", [aiolimiter_bucket, tenacity_alone])
BEFORE: dict[int, list[float]] = {
    100: [85.333, 80, 0.310, 100, 93.451, 93.390],
    1_000: [984.0, 910, 4.089, 256, 93.475, 93.372],
    100_000: [43_408.0, 2_367, 2_274.218, 256, 99.810, 99.810],
}


def travel(rng: random.Random) -> float:
    """Draw a travel time of 50 to 150 ms."""
    return rng.uniform(0.05, 0.15)


CASE = Case(name="a limit that is set too high", way=travel, round_trip=0.2)


@attrs.frozen
class WrongFigures:
    """The service's view of one run."""

    refused: int
    refused_first: int
    refused_later: float
    busiest_second: int
    used: float

    @classmethod
    def of(cls, truth: Truth, began_at: float) -> WrongFigures:
        """Count the requests of a run."""
        figures = RunFigures.of(truth, CASE, began_at)
        later = max(post.at for post in truth.create_requests) - began_at - WINDOW
        return cls(
            refused=figures.refused,
            refused_first=figures.refused_at_once,
            refused_later=(figures.refused - figures.refused_at_once) / later * WINDOW,
            busiest_second=truth.busiest_window(1.0),
            used=figures.used,
        )


async def measure(contender: Contender, configured: int, counting: Counting, seed: int) -> WrongFigures:
    """Let *contender* make its creates with a configured limit at a service that takes 20 in 10 s."""
    random.seed(seed)  # tenacity's jitter
    async with account(CASE, counting, seed) as fake:
        service = Service(fake.url, "key", configured, WINDOW, sessions(CASE, seed), None)
        began_at = anyio.current_time()
        await run_process(contender, [service], CASE, range(JOBS), random.Random(seed))
        return WrongFigures.of(fake.truth, began_at)


def measure_row(contender: Contender, configured: int, counting: Counting) -> list[str | float]:
    """Return the figures of one contender with one setting: mean and worst of all seeds."""
    seeds = SEEDS if contender.NAME == OURS.NAME else SEEDS[:1]
    runs = [virtual_time(measure, contender, configured, counting, seed, seed=seed) for seed in seeds]
    return [
        f"{configured:,}",
        counting,
        contender.NAME,
        fmean(figures.refused for figures in runs),
        max(figures.refused_first for figures in runs),
        max(figures.refused_later for figures in runs),
        max(figures.busiest_second for figures in runs),
        fmean(figures.used for figures in runs),
        min(figures.used for figures in runs),
    ]


def measure_rows() -> Iterator[list[str | float]]:
    """Measure this package with every setting and way of counting, and the others with some."""
    for configured in CONFIGURED:
        for counting in get_args(Counting):
            yield measure_row(OURS, configured, counting)
        if configured in BEFORE:
            yield [f"{configured:,}", "sliding", "a token for each refusal", *BEFORE[configured]]
            yield from (measure_row(contender, configured, "sliding") for contender in BASELINES)


def run() -> Report:
    """Run the benchmark."""
    # Each run ends with unfinished tasks, and the client logs each of them.
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    return Report(
        name="wrong_limits",
        question=f"How many creates are refused if more than the account's {LIMIT} per {WINDOW:g} s are configured?",
        bound="48 + 20 in the first 10 s (what can be on the wire before the first refusal is read), then 1 per 10 s;"
        " 93 % used",
        columns=[
            "configured",
            "service counts by",
            "contender",
            "refused",
            "in the first 10 s",
            "per 10 s after it",
            "busiest second",
            "used %",
            "at worst %",
        ],
        rows=list(measure_rows()),
    )
