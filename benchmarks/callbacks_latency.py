"""
The time from a callback to its result, in real time on the loopback interface.

Forty tasks at a service in another process end half a second apart, so that no callback waits for another one. The
clock starts when a callback has reached the web server, and stops when the waiter of the job continues. In between,
this package verifies token and signature, polls ``recordInfo`` and journals the end.

A handler that asks ``recordInfo`` needs at least one exchange with the service: that is the bare handler, which does
nothing else. A handler that trusts the body is faster, and trusts every forgery.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import TypeAlias

import aiohttp
import anyio
from aiohttp import web

from benchmarks.processes import service
from benchmarks.report import Report
from kie_async import KieClient, Limits, Wan22TurboImageToVideo

JOBS = 40
APART = 0.5
BOUND_MS = 50.0
WEBHOOK_KEY = "a-webhook-key"

#: Seconds from callback to result, for each job; and the number of polls for each job.
Figures: TypeAlias = tuple[list[float], float]
#: Takes the URL of the service, and the receiver; runs all jobs.
Contender: TypeAlias = Callable[[str, "Receiver"], Awaitable[Figures]]

SERVICE = f"""
import asyncio
from itertools import count
from kie_async.testing import FakeKie

async def main():
    numbers = count()
    how = dict(limit=10**6, queries_per_second=1e6, credits=1e9, webhook_key={WEBHOOK_KEY!r})
    async with FakeKie(duration=lambda *_: 2.0 + {APART} * next(numbers), **how) as fake:
        print(fake.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, input)

asyncio.run(main())
"""


class Receiver:
    """A web server that records when the callback of each task arrived."""

    def __init__(self) -> None:
        self.url = ""
        self.arrived_at: dict[str, float] = {}
        self.handler: Callable[[web.Request], Awaitable[web.StreamResponse]]

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """Handle one callback."""
        arrived_at = time.perf_counter()
        # aiohttp keeps the body, so that the handler reads it at no cost.
        self.arrived_at.setdefault(json.loads(await request.read())["data"]["taskId"], arrived_at)
        return await self.handler(request)


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    """Yield a running receiver."""
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/kie/{token}", receiver.receive)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{site.port}/kie"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def with_journal(path: Path | None) -> Contender:
    """Return the contender that is this package."""

    async def run_jobs(url: str, receiver: Receiver) -> Figures:
        limits = Limits(creates=10**6)
        client = KieClient(
            "a-key",
            base_url=url,
            journal=path,
            limits=limits,
            callback_url=receiver.url,
            webhook_key=WEBHOOK_KEY,
        )

        async def handle(request: web.Request) -> web.StreamResponse:
            status, body = await kie.callbacks.handle(request.path, request.headers, await request.read())
            return web.Response(status=status, body=body)

        lags: list[float] = []
        async with client as kie:
            kie.callbacks.aiohttp_routes()  # callbacks are expected from the first job on
            receiver.handler = handle

            async def job(number: int) -> None:
                image = "https://example.com/cat.png"
                video = await kie.generate(Wan22TurboImageToVideo(image=image, prompt=f"Take {number}"))
                lags.append(time.perf_counter() - receiver.arrived_at[video.task_id])

            async with anyio.create_task_group() as group:
                for number in range(JOBS):
                    group.start_soon(job, number)
            return lags, kie.statistics().polls / JOBS

    return run_jobs


def bare(*, asks: bool) -> Contender:
    """Return the usual handler, which resolves a future by the callback's task id."""

    async def run_jobs(url: str, receiver: Receiver) -> Figures:
        futures: dict[str, asyncio.Future[object]] = {}
        lags: list[float] = []
        polls = 0
        headers = {"Authorization": "Bearer a-key"}
        body = {
            "model": "wan/2-2-a14b-image-to-video-turbo",
            "input": {"image_url": "https://example.com/cat.png", "prompt": "Take one"},
            "callBackUrl": f"{receiver.url}/a-job",
        }

        async def handle(request: web.Request) -> web.StreamResponse:
            nonlocal polls
            data = (await request.json())["data"]
            if asks:
                polls += 1
                path = f"{url}/api/v1/jobs/recordInfo"
                async with session.get(path, params={"taskId": data["taskId"]}, headers=headers) as answer:
                    data = (await answer.json())["data"]
            futures[data["taskId"]].set_result(data)
            return web.Response()

        receiver.handler = handle
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

            async def job() -> None:
                async with session.post(f"{url}/api/v1/jobs/createTask", json=body, headers=headers) as answer:
                    task_id = (await answer.json())["data"]["taskId"]
                done = futures[task_id] = asyncio.get_running_loop().create_future()
                await done
                lags.append(time.perf_counter() - receiver.arrived_at[task_id])

            async with anyio.create_task_group() as group:
                for _ in range(JOBS):
                    group.start_soon(job)
        return lags, polls / JOBS

    return run_jobs


async def measure(contender: Contender) -> Figures:
    """Run a contender's jobs with its own service."""
    with service("-c", SERVICE) as url:
        async with running_receiver() as receiver:
            return await contender(url, receiver)


def run() -> Report:
    """Measure each contender once."""
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    rows: list[list[str | float]] = []
    with TemporaryDirectory() as folder:
        contenders: dict[str, Contender] = {
            "kie_async, journal on disk": with_journal(Path(folder) / "kie.db"),
            "kie_async, journal in memory": with_journal(None),
            "a bare handler that asks recordInfo": bare(asks=True),
            "a bare handler that trusts the body": bare(asks=False),
        }
        for name, contender in contenders.items():
            lags, polls = asyncio.run(measure(contender))
            milliseconds = [lag * 1e3 for lag in lags]
            rows.append([name, median(milliseconds), quantiles(milliseconds, n=20)[-1], max(milliseconds), polls])
    return Report(
        name="callbacks_latency",
        question=f"{JOBS} tasks that end {APART:g} s apart: how long from callback to result?",
        bound=f"chosen: a median of {BOUND_MS:g} ms; a handler that asks cannot be faster than the bare one that asks",
        columns=["with", "median ms", "95 % ms", "longest ms", "polls per job"],
        rows=rows,
    )
