"""The start and the end of a fake: one port, any task, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import aiohttp
import anyio
import pytest

import kie_async.testing
from kie_async.testing import FakeKie, Fault, virtual_time

if TYPE_CHECKING:
    from tests.contract.conftest import Serve


async def test_used_port_is_an_error_at_start(serve: Serve) -> None:
    async with serve() as api:
        port = int(api.fake.url.rpartition(":")[2])
        with pytest.raises(OSError, match="address already in use"):
            async with FakeKie(port=port):
                raise AssertionError


async def test_a_fake_is_started_once(serve: Serve) -> None:
    async with serve() as api:
        pass
    with pytest.raises(RuntimeError, match="create another one"):
        async with api.fake:
            raise AssertionError


async def test_fake_may_exit_in_another_task() -> None:
    fake = FakeKie()
    await asyncio.create_task(fake.__aenter__())
    async with aiohttp.ClientSession() as session, session.get(fake.url) as answer:
        assert 404 == answer.status
    await asyncio.create_task(fake.__aexit__(None, None, None))


async def test_cancelled_block_still_ends_the_fake(serve: Serve) -> None:
    """Two clients are connected when the block is cancelled; the fake disconnects them before the block ends."""
    silent = b"POST /api/v1/jobs/createTask HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    with anyio.move_on_after(5) as scope:
        async with serve(faults=[Fault("create", "silence")]) as api:
            port = int(api.fake.url.rpartition(":")[2])
            connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            connections[0][1].write(silent)
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    async with asyncio.timeout(1):
        for reader, writer in connections:
            assert b"" == await reader.read()
            writer.close()
            await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_fake_ends_despite_waiting_clients() -> None:
    """One client waits for a missing response, one for a slow one, one is silent, one has a failing connection."""
    loop = asyncio.get_running_loop()
    faults = [
        Fault("create", "silence"),
        Fault("poll", "slow", seconds=100.0),
        Fault("connect", "silence", nth=4),
    ]
    async with FakeKie(faults=faults) as fake:
        port = int(fake.url.rpartition(":")[2])
        writers = []
        for request in (
            b"POST /api/v1/jobs/createTask HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            b"GET /api/v1/jobs/recordInfo HTTP/1.1\r\nHost: a\r\n\r\n",
            b"",
            b"POST",
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            writers.append(writer)
        await asyncio.sleep(1)
        writers[1].close()
        await asyncio.sleep(1)
        left_at = loop.time()

    assert 0.0 == pytest.approx(loop.time() - left_at, abs=0.01)
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_cancelled_start_leaves_nothing_behind() -> None:
    for turns in range(6):
        fake = FakeKie()
        entering = asyncio.create_task(fake.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await entering
            await fake.__aexit__(None, None, None)
        if turns:
            with pytest.raises(RuntimeError, match="create another one"):
                await fake.__aenter__()


async def test_refused_connections_resume_on_the_same_port(serve: Serve) -> None:
    async with serve() as api:
        url = api.fake.url
        await api.fake.refuse_connections()
        with pytest.raises(aiohttp.ClientConnectorError):
            await api.create()
        await api.fake.accept_connections()

        assert 200 == (await api.create()).json["code"]
        assert (url, 1) == (api.fake.url, len(api.fake.truth.create_requests))


async def test_urls_have_the_host_of_the_request(serve: Serve) -> None:
    async with serve(duration=0.0, host="0.0.0.0") as api:
        assert api.fake.url.startswith("http://127.0.0.1:")
        headers = {"Host": "fake.test:1234"}
        body = {"model": "z-image", "input": {"prompt": "A cat"}}
        await api.request("POST", "/api/v1/jobs/createTask", json=body, headers=headers)
        (task,) = api.fake.truth.created

        assert task.result_url == f"http://fake.test:1234/results/{task.task_id}/image.png"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
        ("fake", "http://fake:8080"),
    ],
)
def test_url_is_reachable_from_this_machine(host: str, url: str) -> None:
    assert url == FakeKie(host=host, port=8080).url


def test_a_fake_lives_on_virtual_time() -> None:
    async def main() -> float:
        async with FakeKie() as fake, aiohttp.ClientSession() as session, session.get(fake.url):
            await asyncio.sleep(900)
        return asyncio.get_running_loop().time()

    assert 900 == pytest.approx(virtual_time(main), abs=0.1)


def test_importing_the_fake_is_cheap() -> None:
    """``av`` is slow to import and optional; importing the package imports nothing else."""
    program = (
        "import sys, kie_async.testing; assert 'aiohttp' not in sys.modules, 'aiohttp';"
        "kie_async.testing.FakeKie; assert 'av' not in sys.modules, 'av';"
        "assert not [name for name in sys.modules if name.startswith(('kie_async._io', 'kie_async._core'))]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_package_exports_its_names_only() -> None:
    assert kie_async.testing.__all__ == dir(kie_async.testing) == sorted(kie_async.testing.__all__)
    assert all(getattr(kie_async.testing, name).__doc__ for name in kie_async.testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Fake'"):
        _ = kie_async.testing.Fake
