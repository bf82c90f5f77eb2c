"""
The cost of a job beyond its HTTP requests, and its cost with other SDKs.

All jobs start at the same time. (1) 1,000 jobs of 2 to 4 seconds, polled every 2 s by all contenders, without effective
limits: the CPU time per job of the client in its own process. The bound is bare aiohttp: a hand-written coroutine that
makes the same requests and checks nothing. (2) 5,000 jobs: sockets, memory, and the cost of a request compared with 500
jobs. (3) 100 jobs with a median duration of a minute, all contenders with their defaults, in virtual time: requests per
job, and the lag of the end.

More polls give less lag, so both figures must be compared together. A client polls a task of age t at a rate r(t); the
duration has the density f and exceeds t with probability S. The client makes ∫ S r polls with a lag of ∫ f / 2r. By the
Cauchy-Schwarz inequality the product is at least (∫ √(f S))² / 2 for every client and every knowledge of the durations:
18.3 s here. That is the curve beside the figures. A fixed interval reaches 31.9 s. So no client with the same lag can
make fewer than 0.57 of its polls, and a third is impossible (except with callbacks).

The load of the machine varies, so contenders take turns, and ratios are computed within a round.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from statistics import NormalDist, fmean, median, quantiles
from typing import TypeAlias

import attrs

from benchmarks.clients.ours import LIMITS
from benchmarks.clients.stub import StubService, served
from benchmarks.processes import service
from benchmarks.report import Report
from kie_async.testing import virtual_time

JOBS = 1_000
MANY = 5_000
FEW = 500
INTERVAL = 2.0
DURATION = (2.0, 4.0)
ROUNDS = 5
#: The module of each contender, and its name in the table.
CONTENDERS = {"ours": "kie_async", "bare": "bare aiohttp", "runway": "runwayml", "fal": "fal-client"}

DEFAULT_JOBS = 100
MEDIAN, SIGMA = 60.0, 0.35

Row: TypeAlias = list[str | float]


@attrs.frozen
class Run:
    """
    The figures of one run.

    Attributes:
        cpu: The client's CPU time per job in ms.

        requests: The requests per job.

        sockets: The largest number of simultaneous connections.

        memory: The growth of the peak in KiB per job.

        lag: The mean seconds from a job's end to the return of its result.

        p95: The 95th percentile of the lag.
    """

    cpu: float
    requests: float
    sockets: float
    memory: float
    lag: float
    p95: float


def measure(contender: str, jobs: int) -> Run:
    """Measure one run of one contender against its own stub."""
    with service("-m", "benchmarks.clients.stub", *map(str, DURATION)) as url:
        command = [sys.executable, "-m", "benchmarks.clients", contender, url, str(jobs), str(INTERVAL)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603  # ours
        with urllib.request.urlopen(f"{url}/counts") as answer:  # noqa: S310  # ours
            counts = json.load(answer)
    spent = json.loads(said)
    return Run(
        cpu=spent["cpu"] / jobs * 1e3,
        requests=spent["requests"] / jobs,
        sockets=counts["sockets"],
        memory=spent["memory"] / jobs / 1024,
        lag=fmean(spent["lags"]),
        p95=quantiles(spent["lags"], n=20)[-1],
    )


def middle(runs: list[Run]) -> Run:
    """Return the median of each figure."""
    return Run(*(median(values) for values in zip(*(attrs.astuple(run) for run in runs), strict=True)))


# -- 1: a job ----------------------------------------------------------------------------------------------------------


def a_job() -> Iterator[Row]:
    """Return the rows of the first question; fal-client has one round, since it takes a minute."""
    runs: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    for nth in range(ROUNDS):
        for name, found in runs.items():
            if name != "fal" or nth == 0:
                found.append(measure(name, JOBS))
    case = f"{JOBS:,} jobs, a poll every {INTERVAL:g} s"
    for name, found in runs.items():
        run = middle(found)
        times = median(one.cpu / bare.cpu for one, bare in zip(found, runs["bare"], strict=False))
        shown = CONTENDERS[name]
        yield [case, shown, "CPU ms a job", run.cpu, "-"]
        yield [case, shown, "times the CPU of bare aiohttp", times, 1.25 if name == "ours" else "-"]
        yield [case, shown, "requests a job", run.requests, "-"]
        yield [case, shown, "mean lag s", run.lag, 1.1 if name == "ours" else "-"]
        yield [case, shown, "95 % lag s", run.p95, 2.0 if name == "ours" else "-"]
    best = min((median(run.cpu for run in runs[name]), name) for name in ("runway", "fal"))[1]
    times = median(one.cpu / peer.cpu for one, peer in zip(runs["ours"], runs[best], strict=False))
    yield [case, CONTENDERS["ours"], f"times the CPU of the best peer, {CONTENDERS[best]}", times, 1 / 3]


# -- 2: many at once ---------------------------------------------------------------------------------------------------


def many() -> Iterator[Row]:
    """Return the rows of the second question."""
    case = f"{MANY:,} jobs"
    for name in ("ours", "bare"):
        few, lot = list[Run](), list[Run]()
        for _ in range(3):
            few.append(measure(name, FEW))
            lot.append(measure(name, MANY))
        run = middle(lot)
        times = median((b.cpu / b.requests) / (a.cpu / a.requests) for a, b in zip(few, lot, strict=True))
        ours = name == "ours"
        shown = CONTENDERS[name]
        yield [case, shown, "sockets", run.sockets, 100 if ours else "-"]
        yield [case, shown, "KiB a job at the peak", run.memory, 15 if ours else "-"]
        yield [case, shown, f"times the CPU of a request with {FEW}", times, 1.2 if ours else "-"]
        yield [case, shown, "mean lag s", run.lag, 1.1 if ours else "-"]
        yield [case, shown, "95 % lag s", run.p95, 2.0 if ours else "-"]


# -- 3: with the defaults of each --------------------------------------------------------------------------------------


def a_minute(number: int) -> float:
    """Return the duration of a task: lognormal, each quantile once, in a fixed order."""
    place = random.Random(0).sample(range(DEFAULT_JOBS), DEFAULT_JOBS)[number % DEFAULT_JOBS]
    return MEDIAN * math.exp(SIGMA * NormalDist().inv_cdf((place + 0.5) / DEFAULT_JOBS))


async def with_defaults(contender: str) -> tuple[float, float]:
    """Return the requests per job and the mean lag in seconds."""
    loop = asyncio.get_running_loop()
    stub = StubService(a_minute, loop.time)

    async def lag(number: int) -> float:
        url = await generate(number)
        return loop.time() - float(url.rpartition("/")[2].removesuffix(".mp4"))

    async with served(stub) as url, import_module(f"benchmarks.clients.{contender}").connect(url, None) as generate:
        lags = await asyncio.gather(*(lag(number) for number in range(DEFAULT_JOBS)))
        return stub.requests / DEFAULT_JOBS, fmean(lags)


def least_requests(lag: float) -> float:
    """Return the create and the fewest polls with which a mean of *lag* is possible."""
    normal, step = NormalDist(), 0.01

    def root(age: float) -> float:
        place = math.log(age / MEDIAN) / SIGMA
        return math.sqrt(normal.pdf(place) / (age * SIGMA) * normal.cdf(-place))

    return 1 + (step * sum(root(step * nth) for nth in range(1, 60_000))) ** 2 / 2 / lag


def defaults() -> Iterator[Row]:
    """Return the rows of the third question."""
    case = f"{DEFAULT_JOBS} jobs of a minute, defaults"
    found = {name: virtual_time(with_defaults, name, seed=0) for name in CONTENDERS}
    for name, (requests, lag) in found.items():
        shown = CONTENDERS[name]
        yield [case, shown, "requests a job", requests, "-"]
        yield [case, shown, "mean lag s", lag, "-"]
        yield [case, shown, "the fewest requests at that lag", least_requests(lag), "-"]
        if name != "ours":
            times = found["ours"][0] / requests
            yield [case, CONTENDERS["ours"], f"times the requests of {shown}", times, 1 / 3 if name != "bare" else "-"]


def run() -> Report:
    """Measure all three questions."""
    rows = [*a_job(), *many(), *defaults()]
    return Report(
        name="overhead",
        question=f"What does a job cost beyond its requests? Ours with {LIMITS}, with a poll every {INTERVAL:g} s",
        bound="bare aiohttp; the bounds beside the figures are our own",
        columns=["case", "contender", "figure", "value", "bound"],
        rows=rows,
    )
