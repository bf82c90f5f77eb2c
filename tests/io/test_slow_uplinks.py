"""Uploads over slow and broken uplinks: progress is waited for, silence is not."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest

from kie_async import KieClient, UploadError
from kie_async._io.files.uploads import ATTEMPTS, SLOWEST, TIMEOUT
from tests.helpers import KEY
from tests.io.peer import response_bytes, run_peer
from tests.requests.samples import png_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.io.peer import Peer

    Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

MEGABYTE = 1_000_000
#: The pauses between the attempts of an upload, at most.
PAUSES = 15.0
UPLOADED = response_bytes(b'{"success":true,"code":200,"data":{"downloadUrl":"https://files.example.com/1.png"}}')


def narrow(address: Any) -> socket.socket:
    """Make a socket whose buffer in the system is small, as that of a slow uplink."""
    found = socket.socket(*address[:3])
    found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    return found


def narrow_session(**kwargs: Any) -> aiohttp.ClientSession:
    """Make a session with such sockets."""
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(socket_factory=narrow)})


async def answer_at_once(writer: asyncio.StreamWriter) -> None:
    """Write the response."""
    writer.write(UPLOADED)


async def answer_slowly(writer: asyncio.StreamWriter) -> None:
    """Write a byte of the response every ten seconds."""
    for number in range(len(UPLOADED)):
        writer.write(UPLOADED[number : number + 1])
        await anyio.sleep(10.0)


async def never_answer(_: asyncio.StreamWriter) -> None:
    """Write nothing."""
    await anyio.sleep_forever()


def take(
    rate: float, *, stalls_after: float = float("inf"), answer: Answer = answer_at_once
) -> Callable[..., Awaitable[None]]:
    """Return a handler that takes *rate* bytes a second, but nothing after *stalls_after* bytes, and then answers."""

    async def act(_: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        taken = 0
        while taken < length:
            if taken >= stalls_after:
                await never_answer(writer)
            part = await reader.read(min(length - taken, 16 * 1024))
            if not part:
                return
            taken += len(part)
            await anyio.sleep(len(part) / rate)
        await answer(writer)

    return act


@pytest.mark.parametrize(
    ("size", "rate"),
    [(9.5 * MEGABYTE, 64_000.0), (9.5 * MEGABYTE, 16_000.0), (2 * MEGABYTE, 8_000.0), (MEGABYTE, 1.2 * SLOWEST)],
    ids=["512 kbit/s", "four share 512 kbit/s", "64 kbit/s", "almost the slowest"],
)
async def test_large_image_passes_a_slow_uplink(size: float, rate: float) -> None:
    async with run_peer(take(rate)) as peer:
        async with KieClient(KEY, base_url=peer.url, session_factory=narrow_session) as kie:
            assert "https://files.example.com/1.png" == await kie.upload(png_of(int(size)))

        assert 1 == len(peer.received)


@pytest.mark.parametrize(
    ("act", "seconds"),
    [
        (take(1e9, stalls_after=0.0), TIMEOUT),
        (take(1e9, stalls_after=MEGABYTE), TIMEOUT),
        (take(64_000.0, stalls_after=MEGABYTE), TIMEOUT + MEGABYTE / 64_000.0),
        (take(1e9, answer=never_answer), TIMEOUT),
        (take(1e9, answer=answer_slowly), TIMEOUT),
        (take(100.0), TIMEOUT),
        (take(0.7 * SLOWEST), TIMEOUT + 2 * MEGABYTE / SLOWEST),
    ],
    ids=["at once", "after a megabyte", "slow, then still", "no answer", "slow answer", "drops", "too slow"],
)
async def test_stalled_upload_ends_soon(act: Callable[..., Awaitable[None]], seconds: float) -> None:
    """Each attempt ends two minutes after its last progress."""
    async with run_peer(act) as peer:
        async with KieClient(KEY, base_url=peer.url, session_factory=narrow_session) as kie:
            with pytest.raises(UploadError, match="Nothing was paid"):
                await kie.upload(png_of(2 * MEGABYTE))

        assert ATTEMPTS == len(peer.received)
        assert anyio.current_time() <= ATTEMPTS * (seconds + 10.0) + PAUSES
