"""Callbacks for jobs of another process are confirmed here, and count as received at both."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from kie_async import InsufficientCreditsError, JobState, KieClient
from kie_async.testing import FakeKie, Fault
from tests.client.backend import running_backend
from tests.helpers import KEY, make_request


@asynccontextmanager
async def running_receiver(receivers: list[KieClient]) -> AsyncIterator[str]:
    """Pass every callback to the only client in *receivers*; yield the URL."""

    async def receive(request: web.Request) -> web.Response:
        (kie,) = receivers
        status, body = await kie.callbacks.handle(request.path, request.headers, await request.read())
        return web.Response(status=status, body=body)

    application = web.Application()
    application.router.add_post("/kie/{token}", receive)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site.port}/kie"
    finally:
        await runner.cleanup()


async def test_a_callback_for_another_process_is_not_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    One process receives all callbacks, and has jobs of its own; polls stay few.

    The end of another process's job is found here after its callback: it must not count as a lost callback, or this
    process would poll as if no callbacks arrived.
    """
    receivers: list[KieClient] = []
    async with (
        FakeKie(duration=60.0, limit=100) as fake,
        running_receiver(receivers) as callback_url,
        KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", callback_url=callback_url) as owner,
        KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", callback_url=callback_url) as receiver,
    ):
        receivers.append(receiver)
        for kie in (owner, receiver):
            kie.callbacks.asgi_app()  # callbacks are expected
        theirs = [await owner.submit(make_request(number)) for number in range(5)]
        for job in theirs:
            await job
        await anyio.sleep(60.0)  # longer than the grace period of callbacks
        ours = [await receiver.submit(make_request(number)) for number in range(5, 10)]
        for job in ours:
            await job

    polls = Counter(poll.task_id for poll in fake.truth.polls)
    assert fake.truth.tasks.keys() == polls.keys()
    assert 10 <= polls.total() <= 50
    assert [] == [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("owner", ["gave it up here", "gave it up elsewhere", "has ended"])
async def test_task_of_an_early_callback_is_polled_by_its_receiver(tmp_path: Path, owner: str) -> None:
    """An ambiguous create was accepted, the account refused the next one, and no process works on the job."""
    faults = [
        Fault("create", "code", code=500, after=True, nth=1),
        Fault("create", "code", code=402, nth=2),
        Fault("callback", "early", seconds=290.0),
    ]
    path = tmp_path / "kie.db"
    async with running_backend() as backend, FakeKie(duration=300.0, faults=faults) as fake:
        options: Any = {"base_url": fake.url, "journal": path, "callback_url": backend.url}
        async with KieClient(KEY, **options) as first, KieClient(KEY, **options) as second:
            backend.serve(first if owner == "gave it up here" else second)
            with pytest.raises(InsufficientCreditsError):
                await first.generate(make_request(), key="order-7")
            if owner == "has ended":
                await first.aclose()
            await anyio.sleep(600.0)
            (info,) = await second.jobs()
        assert (JobState.SUCCEEDED, [*fake.truth.tasks]) == (info.state, [info.task_id])
        assert 1 == len(backend.answers)
