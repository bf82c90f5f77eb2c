"""The processes of these tests: the service, and a backend under its real server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import attrs
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.real_time.examples.service import Told

__all__ = ["CALLBACK", "WORKER", "Backend", "Server", "Service", "free_port", "serving", "the_service"]

#: How one of several workers tells of itself: the header that names it, the first word of its line about a callback.
WORKER = "X-Worker"
CALLBACK = "callback"

ROOT = Path(__file__).parents[3]
_LONGEST_LINE = 1 << 20


@attrs.frozen
class Backend:
    """
    A backend, as its documentation starts it.

    Attributes:
        arguments: What python is given, but for the port.

        ready: What each of its workers says when it serves.

        workers: How many there are.
    """

    arguments: tuple[str, ...]
    ready: str
    workers: int = 1


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what concerns the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KIE_")} | more


@contextmanager
def free_port() -> Iterator[int]:
    """A port for a server that is started later; until then nobody is given it, since it is bound already."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@asynccontextmanager
async def started(*arguments: str, cwd: Path, env: Mapping[str, str]) -> AsyncIterator[Process]:
    """A python that does not outlive the test; its standard output has its messages, too."""
    process = await anyio.open_process([sys.executable, "-u", *arguments], cwd=cwd, env=env, stderr=subprocess.STDOUT)
    async with process:
        try:
            yield process
        except BaseException:
            if process.returncode is None:
                process.kill()
            raise


def lines_of(process: Process) -> BufferedByteReceiveStream:
    """What a process says."""
    assert process.stdout is not None
    return BufferedByteReceiveStream(process.stdout)


@attrs.define
class Service:
    """
    A fake service in another process.

    Attributes:
        url: Where it is.
    """

    url: str
    _process: Process
    _said: BufferedByteReceiveStream

    async def end(self) -> Told:
        """End it, and hear what it has seen."""
        self._process.send_signal(signal.SIGTERM)
        told: Told = json.loads(await self._said.receive_until(b"\n", _LONGEST_LINE))
        return told


@asynccontextmanager
async def the_service(webhook_key: str) -> AsyncIterator[Service]:
    """The service of the program ``service``."""
    program = ("-m", "tests.real_time.examples.service", webhook_key)
    async with started(*program, cwd=ROOT, env=clean_environment()) as process:
        said = lines_of(process)
        url = (await said.receive_until(b"\n", _LONGEST_LINE)).decode()
        yield Service(url, process, said)


async def reachable(port: int) -> None:
    """Return when a port is listened at: uvicorn says that it serves a moment before it does."""
    while True:
        try:
            await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
        except OSError:
            await anyio.sleep(0.01)
        else:
            return


@attrs.define
class Server:
    """
    A backend that serves.

    Attributes:
        url: Where it is.

        said: Its lines so far; all of them, when it has ended.
    """

    url: str
    said: list[str]


@asynccontextmanager
async def serving(backend: Backend, port: int, **settings: str) -> AsyncIterator[Server]:
    """
    A backend under its real server, from when all workers serve; ended by SIGTERM, as a supervisor does.

    Args:
        backend: The backend.

        port: Where it listens.

        **settings: Its environment.
    """
    env = clean_environment(PYTHONPATH=str(ROOT), WEB_CONCURRENCY=str(backend.workers), PORT=str(port), **settings)
    server = Server(f"http://127.0.0.1:{port}", [])
    all_serve = anyio.Event()

    async def listen(process: Process) -> None:
        assert process.stdout is not None
        rest = ""
        async for chunk in process.stdout:
            *lines, rest = (rest + chunk.decode()).split("\n")
            server.said.extend(lines)
            if backend.workers == sum(backend.ready in line for line in server.said):
                all_serve.set()
        all_serve.set()  # or never will

    async with (
        started(*backend.arguments, cwd=ROOT / "examples", env=env) as process,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listen, process)
        await all_serve.wait()
        await reachable(port)
        yield server
        process.terminate()
