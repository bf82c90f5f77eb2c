"""The processes of the example tests: the service, and a backend under its real server."""

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

from tests.real_time.examples.service import ServiceLog

__all__ = ["CALLBACK", "WORKER", "Backend", "Server", "Service", "free_port", "running_backend", "running_service"]

#: The header that names a worker, and the first word of a worker's line about a callback.
WORKER = "X-Worker"
CALLBACK = "callback"

ROOT = Path(__file__).parents[3]
_LONGEST_LINE = 1 << 20


@attrs.frozen
class Backend:
    """
    A backend, as its documentation starts it.

    Attributes:
        arguments: The arguments of the interpreter.

        ready: The text that each worker prints when it serves.

        workers: The number of workers.
    """

    arguments: tuple[str, ...]
    ready: str
    workers: int = 1


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without the package's variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KIE_")} | more


@contextmanager
def free_port() -> Iterator[int]:
    """Reserve a port for a server that is started later."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@asynccontextmanager
async def started(*arguments: str, cwd: Path, env: Mapping[str, str]) -> AsyncIterator[Process]:
    """Run Python in a process that ends with the test; its standard output includes its standard error."""
    process = await anyio.open_process([sys.executable, "-u", *arguments], cwd=cwd, env=env, stderr=subprocess.STDOUT)
    async with process:
        try:
            yield process
        except BaseException:
            if process.returncode is None:
                process.kill()
            raise


def lines_of(process: Process) -> BufferedByteReceiveStream:
    """Return the output of a process."""
    assert process.stdout is not None
    return BufferedByteReceiveStream(process.stdout)


@attrs.define
class Service:
    """
    A fake service in another process.

    Attributes:
        url: The URL.
    """

    url: str
    _process: Process
    _output: BufferedByteReceiveStream

    async def end(self) -> ServiceLog:
        """End the service and return its log."""
        self._process.send_signal(signal.SIGTERM)
        log: ServiceLog = json.loads(await self._output.receive_until(b"\n", _LONGEST_LINE))
        return log


@asynccontextmanager
async def running_service(webhook_key: str, *, seconds: tuple[float, float] = (1.0, 3.0)) -> AsyncIterator[Service]:
    """Run the fake service in another process; its tasks take between two numbers of *seconds*."""
    program = ("-m", "tests.real_time.examples.service", webhook_key, *map(str, seconds))
    async with started(*program, cwd=ROOT, env=clean_environment()) as process:
        output = lines_of(process)
        url = (await output.receive_until(b"\n", _LONGEST_LINE)).decode()
        yield Service(url, process, output)


async def wait_until_reachable(port: int) -> None:
    """Wait until a port accepts connections: uvicorn prints that it serves a moment too early."""
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
    A running backend.

    Attributes:
        url: The URL.

        pid: The process that runs it, or that runs its workers.

        output: The lines printed so far; all lines after its end.
    """

    url: str
    pid: int
    output: list[str]


@asynccontextmanager
async def running_backend(backend: Backend, port: int, **settings: str) -> AsyncIterator[Server]:
    """
    Run a backend under its real server until SIGTERM; return when all workers serve.

    Args:
        backend: The backend.

        port: The port of the server.

        **settings: Its environment variables.
    """
    env = clean_environment(PYTHONPATH=str(ROOT), WEB_CONCURRENCY=str(backend.workers), PORT=str(port), **settings)
    output: list[str] = []
    ready = anyio.Event()

    async def read_output(process: Process) -> None:
        assert process.stdout is not None
        rest = ""
        async for chunk in process.stdout:
            *lines, rest = (rest + chunk.decode()).split("\n")
            output.extend(lines)
            if backend.workers == sum(backend.ready in line for line in output):
                ready.set()
        ready.set()  # the process has ended

    async with (
        started(*backend.arguments, cwd=ROOT / "examples", env=env) as process,
        anyio.create_task_group() as group,
    ):
        group.start_soon(read_output, process)
        await ready.wait()
        await wait_until_reachable(port)
        yield Server(f"http://127.0.0.1:{port}", process.pid, output)
        process.terminate()
