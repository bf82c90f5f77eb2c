"""Callbacks for the jobs of another process: taken and looked into here, and nobody's trust in callbacks suffers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from kie_async import KieClient
from kie_async.testing import FakeKie
from tests.helpers import KEY, make_request


@asynccontextmanager
async def a_receiver(takers: list[KieClient]) -> AsyncIterator[str]:
    """A server that hands every callback to the one client that has been put there; yields its URL."""

    async def take(request: web.Request) -> web.Response:
        (kie,) = takers
        status, body = await kie.callbacks.handle(request.path, request.headers, await request.read())
        return web.Response(status=status, body=body)

    application = web.Application()
    application.router.add_post("/kie/{token}", take)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site.port}/kie"
    finally:
        await runner.cleanup()


async def test_a_callback_for_another_process_is_not_one_that_was_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    One process takes all callbacks, and has jobs of its own; each job is looked at once, when its callback has come.

    The end of another process's job was seen here, its callback had come here: that must not count as an end of which
    no callback has told, or else a worker among several polls as if there were no callbacks.
    """
    takers: list[KieClient] = []
    async with (
        FakeKie(duration=60.0, limit=100) as fake,
        a_receiver(takers) as callback_url,
        KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", callback_url=callback_url) as owner,
        KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", callback_url=callback_url) as taker,
    ):
        takers.append(taker)
        for kie in (owner, taker):
            kie.callbacks.asgi_app()  # callbacks are expected
        theirs = [await owner.submit(make_request(number)) for number in range(5)]
        for job in theirs:
            await job
        await anyio.sleep(60.0)  # as long as whoever waits for callbacks may wait
        ours = [await taker.submit(make_request(number)) for number in range(5, 10)]
        for job in ours:
            await job

    assert dict.fromkeys(fake.truth.tasks, 1) == Counter(poll.task_id for poll in fake.truth.polls)
    assert [] == [record.message for record in caplog.records if record.levelno >= logging.WARNING]
