"""
How much of the account's 20 creates per 10 s is used, and how many creates are refused.

400 creates are wanted at once; each way over the network takes 20 to 200 ms, evenly distributed. Time is virtual, the
client and the service talk over real sockets, and what the service has seen is counted. How Kie counts is not known, so
this service counts in three ways: by a sliding window, by fixed windows, by a token bucket.

A client cannot know when a create arrived, only when its answer came back; to be safe it must assume the latter, so
that a place is used once in a window and a round trip: W / (W + E[RTT]) = 10 / 10.22 = 97.8 %.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import fmean
from typing import Literal, TypeAlias, get_args

import aiohttp
import anyio
import attrs
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from benchmarks.report import Report
from kie_async import KieClient, Wan22TurboImageToVideo
from kie_async.testing import FakeKie, Truth, virtual_time

JOBS = 400
LIMIT = 20
WINDOW = 10.0
LATENCY = (0.02, 0.2)
SEEDS = range(5)

Service: TypeAlias = Literal["sliding", "fixed", "bucket"]
Contender: TypeAlias = Callable[[str], Awaitable[None]]
Create: TypeAlias = Callable[[], Awaitable[None]]


class RefusedError(Exception):
    """The service has answered 429."""


async def kie_async(url: str) -> None:
    """This package, with its defaults."""
    async with KieClient("a-key-for-the-fake", base_url=url) as kie, anyio.create_task_group() as group:
        for number in range(JOBS):
            request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=f"Take {number}")
            group.start_soon(kie.submit, request)


@asynccontextmanager
async def plain_client(url: str) -> AsyncIterator[Create]:
    """What the baselines create with: one POST, which raises ``RefusedError`` when the service says so."""
    wish = {
        "model": "wan/2-2-a14b-image-to-video-turbo",
        "input": {"image_url": "https://example.com/cat.png", "prompt": "Take one"},
    }

    async def create() -> None:
        async with session.post(f"{url}/api/v1/jobs/createTask", json=wish) as response:
            if (await response.json())["code"] != 200:
                raise RefusedError

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer a-key"}, connector=connector) as session:
        yield create


async def all_with_retries(create: Create) -> None:
    """Do all jobs; a refused one waits for a while of its own, by tenacity's full jitter, and tries again."""

    async def job() -> None:
        waits = wait_random_exponential(multiplier=1, max=60)
        await AsyncRetrying(wait=waits, retry=retry_if_exception_type(RefusedError), sleep=asyncio.sleep)(create)

    async with anyio.create_task_group() as group:
        for _ in range(JOBS):
            group.start_soon(job)


async def tenacity_alone(url: str) -> None:
    """No limiter: send, and back off when refused."""
    async with plain_client(url) as create:
        await all_with_retries(create)


async def token_bucket(url: str) -> None:
    """A burst of 20, refilled at 2/s: what most limiter libraries do with "20 per 10 s"."""
    turn = asyncio.Lock()
    full_at = 0.0

    async def admitted() -> None:
        nonlocal full_at
        async with turn:
            now = anyio.current_time()
            ready_at = max(now, full_at - (LIMIT - 1) * WINDOW / LIMIT)
            await anyio.sleep_until(ready_at)
            full_at = max(full_at, ready_at) + WINDOW / LIMIT
        await create()

    async with plain_client(url) as create:
        await all_with_retries(admitted)


async def held_semaphore(url: str) -> None:
    """A semaphore of 20, each place held until 10 s after the response."""
    places = asyncio.Semaphore(LIMIT)

    async def admitted() -> None:
        async with places:
            await create()
            await asyncio.sleep(WINDOW)

    async with plain_client(url) as create:
        await all_with_retries(admitted)


CONTENDERS: dict[str, Contender] = {
    "kie_async": kie_async,
    "semaphore held until 10 s after the response": held_semaphore,
    "token bucket, burst 20, 2/s": token_bucket,
    "tenacity alone": tenacity_alone,
}


@attrs.frozen
class Figures:
    """What the service saw of one run: refusals, requests per create, share of the limit used, busiest window."""

    refused: int
    requests_per_create: float
    utilisation: float
    busiest: int

    @classmethod
    def of(cls, truth: Truth) -> Figures:
        """Utilisation is the rate from the 20th create on, in percent of the allowed 2/s: the first burst is free."""
        created_at = [post.at for post in truth.posts if post.task_id is not None]
        rate = (len(created_at) - LIMIT) / (created_at[-1] - created_at[LIMIT - 1])
        return cls(
            refused=len(truth.refused),
            requests_per_create=len(truth.posts) / len(created_at),
            utilisation=100 * rate * WINDOW / LIMIT,
            busiest=truth.busiest_window(WINDOW),
        )


async def measure(contender: Contender, service: Service, seed: int) -> Figures:
    """Let *contender* make its creates at a service of its own."""
    random.seed(seed)  # tenacity's jitter
    fake = FakeKie(seed=seed, limit=LIMIT, window=WINDOW, limiter=service, latency=LATENCY, credits=1e9)
    async with fake:
        await contender(fake.url)
        return Figures.of(fake.truth)


def run() -> Report:
    """Measure every contender at every service, under five seeds."""
    # Each run ends with its tasks unfinished, which the client says at length.
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    rows: list[list[str | float]] = []
    for name, contender in CONTENDERS.items():
        for service in get_args(Service):
            runs = [virtual_time(measure, contender, service, seed, seed=seed) for seed in SEEDS]
            rows.append(
                [
                    name,
                    service,
                    fmean(figures.refused for figures in runs),
                    fmean(figures.requests_per_create for figures in runs),
                    fmean(figures.utilisation for figures in runs),
                    max(figures.busiest for figures in runs),
                ]
            )
    return Report(
        name="utilisation",
        question=f"{JOBS} creates at once: how much of {LIMIT} per {WINDOW:g} s is used, how many are refused?",
        bound="97.8 % with no refusal, for a client that cannot see when its creates arrive",
        columns=["contender", "service counts by", "refused", "requests per create", "used %", "busiest 10 s"],
        rows=rows,
    )
