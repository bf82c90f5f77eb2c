"""Sessions, contexts and ``on_event`` of callers cannot harm the client."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import anyio.to_thread
import pytest

from kie_async import (
    Event,
    KieClient,
    SubmitInDoubtError,
)
from kie_async.testing import FakeKie, Fault
from tests.helpers import KEY, assert_settled, client_and_fake, make_request
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from pathlib import Path


def logged_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_failing_session_factory_raises() -> None:
    """The error is raised unchanged; the client works once the factory does."""
    broken = True

    def factory(**kwargs: Any) -> aiohttp.ClientSession:
        if broken:
            msg = "no proxy"
            raise RuntimeError(msg)
        return aiohttp.ClientSession(**kwargs)

    async with FakeKie() as fake:
        kie = KieClient(KEY, base_url=fake.url, session_factory=factory)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no proxy"):
                await kie.generate(make_request())
        broken = False
        await kie.generate(make_request())
        await kie.aclose()


async def test_the_session_factory_is_called_twice() -> None:
    calls: list[dict[str, object]] = []

    def factory(**kwargs: Any) -> aiohttp.ClientSession:
        calls.append(kwargs)
        return aiohttp.ClientSession(**{**kwargs, "headers": {**kwargs["headers"], "X-Mine": "1"}})

    async with client_and_fake(client={"session_factory": factory}) as setup:
        await setup.kie.generate(make_request(image=PNG))
        await setup.kie.generate(make_request(1))

        assert 2 == len(calls)
        assert KEY not in str(calls)


async def test_background_tasks_do_not_inherit_a_context() -> None:
    """A web framework's context of one request must not appear in later ones."""
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
    seen: list[str] = []

    def on_event(_: Event) -> None:
        seen.append(request_id.get())

    def factory(**kwargs: Any) -> aiohttp.ClientSession:
        seen.append(request_id.get())
        return aiohttp.ClientSession(**kwargs)

    async with FakeKie() as fake:
        request_id.set("the first request")
        kie = KieClient(KEY, base_url=fake.url, session_factory=factory, on_event=on_event)
        await kie.generate(make_request())
        await kie.aclose()

    assert ["none"] * 4 == seen


async def test_a_failing_on_event_is_logged_only(caplog: pytest.LogCaptureFixture) -> None:
    def on_event(event: Event) -> None:
        msg = f"cannot take {event.name}"
        raise ValueError(msg)

    faults = [Fault("create", "code", code=429, nth=1), Fault("create", "reset", after=True, nth=3)]
    async with client_and_fake(client={"on_event": on_event}, faults=faults) as setup:
        await setup.kie.generate(make_request(0))
        with pytest.raises(SubmitInDoubtError):
            await setup.kie.generate(make_request(1))
        await anyio.sleep(700.0)
        await assert_settled(setup.kie)

        failures = [record for record in caplog.records if record.message == "on_event has failed."]
        assert len(failures) >= 4
        assert all(record.levelname == "ERROR" and record.exc_info for record in failures)


async def test_an_on_event_that_returns_a_coroutine_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A lambda or a decorator hides an async function from the check of the options; the coroutine is closed."""

    async def wait(seconds: float, _: Event) -> None:
        await anyio.sleep(seconds)

    faults = [Fault("create", "code", code=429, nth=1)]
    async with client_and_fake(client={"on_event": lambda event: wait(0, event)}, faults=faults) as setup:
        await setup.kie.generate(make_request())
        gc.collect()

        failures = [record for record in caplog.records if record.message == "on_event has failed."]
        assert failures
        assert "returned a coroutine, which nothing awaits" in str(failures[0].exc_info)


async def test_an_on_event_may_start_a_task() -> None:
    """A task runs without being awaited, so it is no mistake to return one."""
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    tasks: list[asyncio.Task[None]] = []

    def on_event(event: Event) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(handle(event)))
        return tasks[-1]

    faults = [Fault("create", "code", code=429, nth=1)]
    async with client_and_fake(client={"on_event": on_event}, faults=faults) as setup:
        await setup.kie.generate(make_request())
        await asyncio.gather(*tasks)

    assert seen
    assert len(seen) == len(tasks)


async def test_a_result_can_be_saved_after_closing(tmp_path: Path) -> None:
    async with client_and_fake() as setup:
        video = await setup.kie.generate(make_request())
        await setup.kie.aclose()
        (file,) = await video.save(tmp_path / "cat.mp4")

        assert b"ftyp" == file.read_bytes()[4:8]
        assert [False] == [download.authorized for download in setup.truth.downloads]


async def test_a_failed_job_without_waiters_logs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is in the journal."""
    async with client_and_fake(fail_rate=1.0, faults=[Fault("create", "code", code=422, nth=1)]) as setup:
        for number in range(3):
            await setup.kie.submit(make_request(number), wait=False)
        await anyio.sleep(600.0)

        assert {"rejected": 1, "failed": 2} == await setup.states()
        assert [] == logged_warnings(caplog)
        await assert_settled(setup.kie)
        gc.collect()
