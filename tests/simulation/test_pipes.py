"""The connections of a simulation behave as sockets do, and their troubles are seen at both ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from tests.simulation.loop import Scheduler, SimLoop
from tests.simulation.pipes import Network

Log = list[str]
Ends = tuple["Recorder", "Recorder"]

#: More than any buffer of a system holds.
_MUCH = 16 * 1024 * 1024


class Recorder(asyncio.Protocol):
    """A protocol that notes what its transport tells it."""

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.log: Log = []
        self.received = 0
        self._keeps_open = keeps_open
        self.lost = asyncio.Event()
        self.made = asyncio.Event()
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def eof_received(self) -> bool:
        self.log.append(f"end after {self.received}")
        self.ended.set()
        return self._keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.append(f"lost {type(exc).__name__} after {self.received}")
        self.lost.set()

    def pause_writing(self) -> None:
        self.log.append("pause")

    def resume_writing(self) -> None:
        self.log.append("resume")


def _reset(one: Recorder) -> None:
    sock = one.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.transport.abort()


async def _settle(*ends: Recorder) -> None:
    for end in ends:
        await end.lost.wait()


async def close_after_bytes(client: Recorder, server: Recorder) -> None:
    client.transport.write(b"x" * 1000)
    client.transport.close()
    await _settle(client, server)


async def reset_after_bytes(client: Recorder, server: Recorder) -> None:
    client.transport.write(b"x" * 1000)
    while server.received < 1000:
        await asyncio.sleep(0.001)
    _reset(client)
    await _settle(client, server)


async def half_close(client: Recorder, server: Recorder) -> None:
    client.transport.write(b"x" * 10)
    client.transport.write_eof()
    await server.ended.wait()
    server.transport.write(b"y" * 20)
    server.transport.close()
    await _settle(client, server)


async def flow_control(client: Recorder, server: Recorder) -> None:
    server.transport.pause_reading()
    client.transport.write(b"x" * _MUCH)
    client.transport.write(b"x")
    await asyncio.sleep(0.01)
    server.transport.resume_reading()
    while "resume" not in client.log:
        await asyncio.sleep(0.001)
    client.transport.close()
    await _settle(client, server)


PROGRAMS = (close_after_bytes, reset_after_bytes, half_close, flow_control)


async def _run(program: Callable[[Recorder, Recorder], Awaitable[None]]) -> tuple[Log, Log]:
    """Run a program over a connection of the running loop; return what both ends have noted."""
    loop = asyncio.get_running_loop()
    client, server = Recorder(), Recorder(keeps_open=program is half_close)
    listener = await loop.create_server(lambda: server, "127.0.0.1", 0)
    sock = socket.socket()
    sock.setblocking(False)  # noqa: FBT003 (positional only)
    await loop.sock_connect(sock, listener.sockets[0].getsockname())
    await loop.create_connection(lambda: client, sock=sock)
    await server.made.wait()
    await program(client, server)
    listener.close()
    return client.log, server.log


def _simulate(program: Callable[[Recorder, Recorder], Awaitable[None]], seed: int) -> tuple[Log, Log]:
    scheduler = Scheduler(str(seed))
    loop = SimLoop(scheduler, "one", str(seed))
    loop.network = Network(str(seed), delay=0.05)
    scheduler.loops.append(loop)
    task = loop.create_task(_run(program))
    scheduler.run(task.done)
    assert not loop.network.open_ends()
    loop.bury()
    return task.result()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_connections_behave_as_sockets_do(program: Callable[[Recorder, Recorder], Awaitable[None]]) -> None:
    real = asyncio.run(_run(program))
    for seed in range(10):
        assert _simulate(program, seed) == real
