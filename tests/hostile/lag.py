"""
The lag of the client's event loop, in real time, while large bodies are posted with genuine tokens.

The service is one process, the attackers are another one, and the client with its receiver is this one.
"""

# ruff: noqa: T201  # a child prints its port
from __future__ import annotations

import asyncio
import json
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import count, cycle, product
from pathlib import Path
from random import Random
from statistics import quantiles

import attrs
from aiohttp import web

from kie_async import Job, KieClient, Limits
from kie_async._core.callback_token import callback_secret
from kie_async.testing import FakeKie, Fault
from tests.helpers import KEY, make_request
from tests.hostile.attacks import CAP, LARGE, Attack, Scene, Target, make_attack_request
from tests.hostile.posting import make_head

__all__ = ["LagReport", "measure_lag"]

#: Posts a second, the connections that they come over, and the seconds of an attack.
RATE, CONNECTIONS, SECONDS = 200, 8, 15.0
#: The time that a task takes, and the one between two jobs, in seconds.
DURATION, EVERY = 3.0, 0.5
#: The largest lag in 99 of 100 measurements, and the most that 95 of 100 results may be late, in seconds.
MAX_LAG, MAX_LATE = 0.020, 0.1
WEBHOOK_KEY = "canary-of-the-webhook-key"


@attrs.frozen(kw_only=True)
class LagReport:
    """
    The results of one attack.

    Attributes:
        before: The lags of the loop before the attack, in seconds.

        during: The lags during the attack.

        own: The same without waits for the processor.

        late: The times from the ends of tasks to the results of their jobs, in seconds.

        answers: The number of answers with each status.
    """

    before: Sequence[float]
    during: Sequence[float]
    own: Sequence[float]
    late: Sequence[float]
    answers: Counter[int]

    @property
    def problems(self) -> list[str]:
        """The descriptions of all failed checks."""
        lag, late, answers = _percentile(self.during), quantiles(self.late, n=20)[18], sum(self.answers.values())
        bounds = {
            f"the loop's lag is {1e3 * lag:.1f} ms": lag > MAX_LAG,
            f"results are {1e3 * late:.0f} ms late": late > MAX_LATE,
            f"only {answers} posts were answered": answers < 0.9 * RATE * SECONDS,
        }
        return [problem for problem, broken in bounds.items() if broken]

    def __str__(self) -> str:
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(self.answers.items()))
        p99, most, own, quiet, before, late, latest = (
            f"{1e3 * seconds:.0f}"
            for seconds in (
                *(_percentile(self.during), max(self.during), _percentile(self.own)),
                *(_percentile(self.before), max(self.before)),
                *(quantiles(self.late, n=20)[18], max(self.late)),
            )
        )
        return (
            f"lag of the loop: p99 {p99} ms, most {most} ms (without waits for the processor p99 {own} ms;"
            f" before the attack: {quiet} and {before} ms)\n"
            f"{len(self.late)} results: p95 {late} ms late, most {latest} ms; answers: {answers}"
        )


def _percentile(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98]


# -- the other processes -------------------------------------------------------------------------------------------


@contextmanager
def _child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.hostile.lag", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def _serve(webhook_key: str) -> None:
    """Run the service, and print its URL."""
    nth, lost = count(), Fault("create", "reset", after=True, nth=1)
    async with FakeKie(
        # The first job stays in doubt: its task does not end, and so it has no callback.
        duration=lambda *_: DURATION if next(nth) else 1e5,
        faults=[lost],
        credits=1e9,
        limit=1000,
        queries_per_second=100.0,
        webhook_key=webhook_key or None,
    ) as fake:
        print(fake.url, flush=True)
        await asyncio.Event().wait()


async def _attack(port: int, requests: Sequence[bytes]) -> Counter[int]:
    """Post requests at a steady rate over a few connections, and count the answers."""
    answers, posts = Counter[int](), iter(cycle(requests))
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def post_all(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(first, round(RATE * SECONDS), CONNECTIONS):
            await asyncio.sleep(began + number / RATE - loop.time())
            writer.write(next(posts))
            answer = await reader.readuntil(b"\r\n\r\n")
            length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            answers[int(answer.split(b" ", 2)[1])] += 1
            if loop.time() - began > 2 * SECONDS:
                break
        writer.close()

    async with asyncio.TaskGroup() as group:
        for first in range(CONNECTIONS):
            group.create_task(post_all(first))
    return answers


# -- the client ----------------------------------------------------------------------------------------------------


async def _sample_lag(lags: list[float], own: list[float]) -> None:
    """Collect lags, and how much of each this thread has kept the processor."""
    loop, used = asyncio.get_running_loop(), time.thread_time()
    while True:
        due = loop.time() + 0.005
        await asyncio.sleep(0.005)
        lags.append(loop.time() - due)
        before, used = used, time.thread_time()
        own.append(min(lags[-1], used - before))


async def _wait(job: Job, late: list[float]) -> None:
    record = (await job).record
    late.append(time.time() - (record.completed_at or 0.0))


async def _submit_jobs(kie: KieClient, late: list[float], waits: set[asyncio.Task[None]]) -> None:
    for number in range(10_000):
        waits.add(asyncio.create_task(_wait(await kie.submit(make_request(number)), late)))
        await asyncio.sleep(EVERY)


async def measure_lag(*, signed: bool) -> LagReport:
    """
    Let a client work, attack its receiver with tokens of running and of ended jobs, and measure.

    Args:
        signed: True if the client has a ``webhook_key``: half of the posts have a genuine signature then.
    """
    key, late, before, during = WEBHOOK_KEY if signed else "", list[float](), list[float](), list[float]()
    own = list[float]()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(_child("service", key))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = int(listener.getsockname()[1])
        kie = KieClient(
            KEY,
            base_url=await _read_line(service),
            journal=folder / "kie.db",
            callback_url=f"http://127.0.0.1:{port}/kie",
            limits=Limits(creates=100, window=10.0),
            webhook_key=key or None,
        )
        await stack.enter_async_context(kie)
        await _serve_callbacks(kie, listener, stack)
        jobs = [await kie.submit(make_request(number), wait=False) for number in range(6)]
        for job in jobs[1:3]:
            await job  # they have ended; the first one is in doubt, and the rest end soon
        lags = asyncio.create_task(_sample_lag(before, []))
        waits = set[asyncio.Task[None]]()
        creating = asyncio.create_task(_submit_jobs(kie, late, waits))
        await asyncio.sleep(DURATION + 2.0)
        late.clear()
        lags.cancel()
        lags = asyncio.create_task(_sample_lag(during, own))
        posts = folder / "posts"
        await asyncio.to_thread(posts.write_bytes, pickle.dumps(_make_posts(jobs, key)))
        attackers = stack.enter_context(_child("attack", str(port), str(posts)))
        answers = json.loads(await _read_line(attackers))
        lags.cancel()
        creating.cancel()
        for wait in waits:
            wait.cancel()
        await asyncio.wait([lags, creating, *waits])
        await jobs[0].abandon()
    return LagReport(
        before=before, during=during, own=own, late=late, answers=Counter({int(each): n for each, n in answers.items()})
    )


async def _read_line(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        raise AssertionError
    return (await asyncio.to_thread(process.stdout.readline)).strip()


async def _serve_callbacks(kie: KieClient, listener: socket.socket, stack: AsyncExitStack) -> None:
    application = web.Application()
    application.add_routes(kie.callbacks.aiohttp_routes())
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener).start()


def _make_posts(jobs: Sequence[Job], key: str) -> list[bytes]:
    """Make each large body for each of some jobs, with a genuine signature and without one."""
    targets = [Target(job.id, 1, job.task_id or job.id[3:]) for job in jobs]
    scene = Scene(
        targets=targets, foreign_tasks=[], secret=callback_secret(KEY), keys=[key] if key else [], wall=time.time()
    )
    requests = [
        make_attack_request(Attack(body=body, signature=signature, number=number), scene)
        for body, signature, number in product(sorted(LARGE), ["right", "missing"], range(len(targets)))
    ]
    posts = [make_head(request) + request.body for request in requests if len(request.body) <= CAP]
    Random(0).shuffle(posts)
    return posts


def main(role: str, *arguments: str) -> None:
    """Play a role in a process of its own."""
    if role == "service":
        asyncio.run(_serve(*arguments))
    else:
        port, posts = arguments
        print(json.dumps(asyncio.run(_attack(int(port), pickle.loads(Path(posts).read_bytes())))))


if __name__ == "__main__":
    main(*sys.argv[1:])
