"""The life of a client on real loops, asyncio's and uvloop's, and after a fork."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import uvloop

from kie_async import KieClient, Statistics
from kie_async.testing import FakeKie
from tests.helpers import KEY, assert_settled, make_request

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("entered", [False, True], ids=["without async with", "async with"])
@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_client_works_in_three_event_loops(
    make_loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture, *, entered: bool
) -> None:
    """Three creates, three results, no warning, nothing left open."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kie = KieClient(KEY, base_url=f"http://127.0.0.1:{port}")
    posts, results = [], []

    async def main(number: int) -> None:
        async with FakeKie(port=port, seed=number, duration=0.0) as fake, AsyncExitStack() as stack:
            if entered:
                await stack.enter_async_context(kie)
            job = await kie.submit(make_request(number))
            await job.status()  # the first automatic poll comes seconds later
            results.append((await job).task_id)
            posts.extend(fake.truth.create_requests)
            await assert_settled(kie)

    for number in range(3):
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(main(number))
        gc.collect()

    assert 3 == len(posts)
    assert [post.task_id for post in posts] == results
    assert [] == [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert Statistics() == kie.statistics()


FORK = f"""
import asyncio, os, sys
from kie_async import KieClient, KieError, Wan22TurboImageToVideo
from kie_async.testing import FakeKie

async def use(kie):
    await kie.generate(Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt="The cat turns its head"))

async def main():
    async with FakeKie() as fake, KieClient({KEY!r}, base_url=fake.url) as kie:
        await kie.credits()
        if (child := os.fork()) == 0:
            try:
                asyncio.run(use(kie))
            except KieError as error:
                print(type(error).__name__, error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print("credits", await kie.credits(), "posts", len(fake.truth.create_requests))

asyncio.run(main())
"""


def test_use_after_a_fork_is_an_error() -> None:
    """The child must not use its parent's connections, nor pay for its parent's jobs."""
    ran = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", FORK],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert "" == ran.stderr
    child, parent = ran.stdout.splitlines()
    assert child.startswith("ConfigurationError The client is used after a fork.")
    assert "credits 10000.0 posts 0" == parent
