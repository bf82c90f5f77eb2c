"""Uploads: once for the same bytes, a few at a time, and repeated after an error."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from kie_async import TransportError, UploadError
from kie_async._io.files.uploads import ATTEMPTS, MAX_CONCURRENT_UPLOADS, Uploads
from kie_async._io.http.transport import HttpResponse, Transport
from kie_async._io.runtime import Runtime
from kie_async.requests.media import MediaSource
from tests.requests.samples import PNG, png_of

if TYPE_CHECKING:
    from collections.abc import Callable


class ScriptedTransport:
    """A transport that responds with a new URL after a second, unless scripted otherwise."""

    def __init__(self, say: Callable[[int], HttpResponse | Exception | None] = lambda _: None) -> None:
        self.asked: list[str] = []
        self.running = self.most = 0
        self._say = say

    async def request(self, method: str, path: str, **_: Any) -> HttpResponse:
        self.asked.append(f"{method} {path}")
        number = len(self.asked)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(1.0)
        finally:
            self.running -= 1
        said = self._say(number)
        if isinstance(said, Exception):
            raise said
        url = f"https://files.example.com/{number}.png"
        return said or HttpResponse(
            200, json.dumps({"success": True, "code": 200, "data": {"downloadUrl": url}}).encode()
        )


def uploads(host: ScriptedTransport) -> Uploads:
    return Uploads(cast("Transport", host), Runtime(asyncio.get_running_loop()))


async def test_same_bytes_are_uploaded_once() -> None:
    host = ScriptedTransport()
    putting = uploads(host)
    urls: list[str] = []

    async def one() -> None:
        urls.append((await putting.upload(MediaSource(PNG))).url)

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(one)
    there = await putting.upload(MediaSource(PNG))

    assert 1 == len(host.asked)
    assert {there.url} == set(urls)
    assert hashlib.sha256(PNG).hexdigest() == there.sha256


async def test_cancelled_upload_is_continued_by_a_waiter() -> None:
    """The uploading task is cancelled; the next waiter uploads for all others."""
    host = ScriptedTransport()
    putting = uploads(host)
    urls: list[str] = []

    async def one(timeout: float) -> None:
        with anyio.move_on_after(timeout):
            urls.append((await putting.upload(MediaSource(PNG))).url)

    async with anyio.create_task_group() as group:
        group.start_soon(one, 0.5)
        await anyio.sleep(0.1)  # bytes are hashed in threads: it must be the first by time, and not by luck
        for _ in range(3):
            group.start_soon(one, 100.0)
    assert 2 == len(host.asked)
    assert 3 * ["https://files.example.com/2.png"] == urls


async def test_uploads_are_limited() -> None:
    host = ScriptedTransport()
    putting = uploads(host)
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(putting.upload, MediaSource(png_of(100 + number)))

    assert (20, MAX_CONCURRENT_UPLOADS) == (len(host.asked), host.most)


async def test_waiters_hold_no_upload_slot() -> None:
    host = ScriptedTransport()
    putting = uploads(host)
    done: list[tuple[int, float]] = []

    async def one(number: int) -> None:
        await putting.upload(MediaSource(png_of(100 + number)))
        done.append((number, anyio.current_time()))

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        for number in [0] * 50 + [1, 2, 3]:
            group.start_soon(one, number)

    assert (4, 4) == (len(host.asked), host.most)
    assert all(at - began < 1.1 for _, at in done)


async def test_upload_is_forgotten_in_time() -> None:
    host = ScriptedTransport()
    putting = uploads(host)
    first = await putting.upload(MediaSource(PNG))
    await anyio.sleep(20 * 3600.0 - 10.0)
    assert first == await putting.upload(MediaSource(PNG))
    await anyio.sleep(20.0)
    second = await putting.upload(MediaSource(PNG))

    assert first.url != second.url
    assert second.usable_until - first.usable_until >= 20 * 3600.0
    assert second == await putting.upload(MediaSource(PNG))


async def test_upload_is_attempted_three_times() -> None:
    host = ScriptedTransport(lambda _: TransportError("no answer"))
    with pytest.raises(UploadError, match="Nothing was paid"):
        await uploads(host).upload(MediaSource(PNG))

    assert 3 == len(host.asked)
    assert 3.0 <= anyio.current_time() <= 3.0 + 0.5 + 1.0 + 0.1


async def test_failed_upload_does_not_affect_the_next() -> None:
    host = ScriptedTransport(lambda number: TransportError("no answer") if number <= 3 else None)
    putting = uploads(host)
    with pytest.raises(UploadError):
        await putting.upload(MediaSource(PNG))
    assert "https://files.example.com/4.png" == (await putting.upload(MediaSource(PNG))).url


async def test_each_waiter_retries_a_failed_upload() -> None:
    """A waiter does not get the error of another task while its own attempt may succeed."""
    host = ScriptedTransport(lambda number: TransportError("no answer") if number <= 3 else None)
    putting = uploads(host)
    outcomes: list[str] = []

    async def one() -> None:
        try:
            outcomes.append((await putting.upload(MediaSource(PNG))).url)
        except UploadError:
            outcomes.append("failed")

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
    assert ["failed", "https://files.example.com/4.png", "https://files.example.com/4.png"] == outcomes


@pytest.mark.parametrize(("status", "asked", "least"), [(503, 30.0, 30.0), (429, 0.25, 0.25), (500, None, 0.0)])
async def test_upload_waits_as_long_as_retry_after_asks(status: int, asked: float | None, least: float) -> None:
    host = ScriptedTransport(lambda number: HttpResponse(status, b"busy", asked) if number < ATTEMPTS else None)
    started = anyio.current_time()
    await uploads(host).upload(MediaSource(PNG))
    waited = anyio.current_time() - started - ATTEMPTS

    assert ATTEMPTS == len(host.asked)
    assert 2 * least <= waited <= 2 * (least + 1.0)
