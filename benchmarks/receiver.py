"""
The cost of the callback receiver, compared with a bare handler under the same server.

Two questions. (1) A few connections post as fast as they are answered: how many callbacks a second does the receiver
accept, relative to the bare handler, and how much CPU does the server use for each? (2) Callbacks arrive on a schedule,
200 a second, while 1,000 jobs are in flight: how long after its due time is each of them answered?

Every callback is genuine: for a job in the client's journal and in flight, with its token, signed, and with the body of
the service. It is accepted for the first time, which starts a confirmation, or again, as in a flood. Each server is a
process, the service is another one, and the load comes from this one. Servers take turns with slices of the load, and
the ratio to the bare handler is the median over the turns, so that other load of the machine affects both. If load and
server share the machine's cores, requests per second depend on both; the server's CPU for each request is the
receiver's cost.

A second baseline decodes the body and checks the service's signature, and leaves out the rest (the job, the journal,
the confirmation).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import uvicorn
import uvloop
from aiohttp import web

from benchmarks.report import Report
from kie_async import JSON, KieClient, Limits
from kie_async._core.callback_token import callback_secret, make_callback_url
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie, responses
from kie_async.testing.callbacks import sign
from kie_async.testing.tasks import FakeTask

if TYPE_CHECKING:
    from kie_async._io.callbacks.adapters import ASGIApp
    from kie_async._io.journals.journal import Journal

TURNS = 9
#: The number of callbacks in one turn.
SLICE = 1_000
CONNECTIONS = 16

IN_FLIGHT = 1_000
PER_SECOND = 200
ROUNDS = 2

SHARE_BOUND = 0.6
P99_BOUND = 10.0

API_KEY = "a-key"
WEBHOOK_KEY = "a-webhook-key"
CALLBACK_URL = "https://app.example.com/kie"
MODEL = "wan/2-2-a14b-image-to-video-turbo"
INPUT: dict[str, JSON] = {
    "image_url": "https://tempfile.example.com/uploads/cat.png",
    "prompt": "The cat turns its head, and the camera follows it slowly. " * 15,
    "resolution": "720p",
    "aspect_ratio": "auto",
    "enable_prompt_expansion": False,
    "seed": 0,
    "acceleration": "none",
}
ANSWER = b'{"code":200,"msg":"success"}'

#: The servers: aiohttp's own, and uvicorn with and without the extras of ``uvicorn[standard]``.
SERVERS = ("aiohttp", "uvicorn (httptools, uvloop)", "uvicorn (h11, asyncio)")
#: The handlers.
BARE = "bare"
BY_HAND = "signature by hand"
MEMORY = "kie_async"
DISK = "kie_async, journal on disk"
BESIDE = "kie_async, job of the worker beside"
AGAIN = ", again"
HANDLERS = (BY_HAND, MEMORY, MEMORY + AGAIN, DISK, BESIDE, BESIDE + AGAIN)

Row: TypeAlias = list[str | float]


# -- jobs, and the callbacks for them ----------------------------------------------------------------------------------


def job_id(number: int) -> str:
    """Return the id of a job."""
    return f"kj_{number:032x}"


def make_task(number: int) -> FakeTask:
    """Make the service's task of a job, which has just ended."""
    return FakeTask(
        task_id=f"{number:032x}",
        model=MODEL,
        input=INPUT,
        callback_url=make_callback_url(CALLBACK_URL, callback_secret(API_KEY), job_id(number), 1),
        output="video",
        created_at=0.0,
        created_ms=round((time.time() - 60.0) * 1000),
        ends_at=60.0,
        stages=((0.0, "waiting"), (0.1, "generating")),
        charged=8.0,
        failure=None,
        origin="https://tempfile.example.com",
    )


def make_row(number: int) -> Intent:
    """Make the journal's row of a job."""
    now = time.time()
    return Intent(
        id=job_id(number),
        model=MODEL,
        input=json.dumps(INPUT),
        fingerprint=f"{number:064x}",
        created_at=now,
        updated_at=now,
        callback_url=CALLBACK_URL,
        state=JobState.SUBMITTED,
        attempts=1,
        sending_at=now,
        task_id=f"{number:032x}",
        accepted_at=now,
    )


def make_posts(numbers: Sequence[int]) -> list[bytes]:
    """Make the callbacks of jobs as raw requests, signed now."""
    return [make_post(make_task(number)) for number in numbers]


def make_post(task: FakeTask) -> bytes:
    """Make a task's callback as a raw request."""
    body = responses.encode(responses.callback_body(task)).encode()
    headers = {
        "Host": "app.example.com",
        "User-Agent": "Apache-HttpClient/4.5.14",
        "Accept-Encoding": "gzip, deflate",
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Proto": "https",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **sign(WEBHOOK_KEY, task.task_id, int(time.time())),
    }
    path = (task.callback_url or "").removeprefix("https://app.example.com")
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


# -- processes ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Process:
    """A child process: its port, and a function that returns its CPU time."""

    port: int
    cpu_time: Callable[[], float]


@contextmanager
def process(*arguments: str | int) -> Iterator[Process]:
    """Run this module in a child process."""
    command = [sys.executable, "-m", "benchmarks.receiver", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603  # ours
        if child.stdin is None or child.stdout is None:
            raise AssertionError
        stdin, stdout = child.stdin, child.stdout

        def cpu_time() -> float:
            print(file=stdin, flush=True)
            return float(stdout.readline())

        try:
            yield Process(int(stdout.readline()), cpu_time)
        finally:
            child.kill()


def print_cpu_times() -> None:
    """Print this process's CPU time for each line of standard input."""
    for _ in sys.stdin:
        print(time.process_time(), flush=True)


def child(what: str, *arguments: str) -> None:
    """Run a child process."""
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    fast = "uvloop" in what
    main = serve_tasks(*arguments) if what == "service" else serve(what, *arguments)
    Thread(target=print_cpu_times, daemon=True).start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if fast else None) as runner:
        runner.run(main)


async def serve_tasks(jobs: str) -> None:
    """Run the service."""
    async with FakeKie(queries_per_second=1e6, credits=1e9) as fake:
        fake.truth.tasks.update((task.task_id, task) for task in map(make_task, range(int(jobs))))
        print(fake.url.rpartition(":")[2], flush=True)
        await asyncio.Event().wait()


class _Client(KieClient):
    """A client with a given journal."""

    def __init__(self, journal: Journal, base_url: str) -> None:
        limits = Limits(in_flight=10**6)
        super().__init__(API_KEY, base_url=base_url, limits=limits, callback_url=CALLBACK_URL, webhook_key=WEBHOOK_KEY)
        self._binding.make_journal = lambda: journal


async def serve(server: str, handler: str, jobs: str, service: str) -> None:
    """Run a server with a handler; print its port when it is ready."""
    with TemporaryDirectory() as folder:
        if handler in (BARE, BY_HAND):
            answer = bare if handler == BARE else by_hand
            await (serve_aiohttp(routes(answer)) if server == "aiohttp" else serve_asgi(app(answer), server))
            return
        journal = await make_filled_journal(handler, Path(folder) / "kie.db", int(jobs))
        kie = _Client(journal, f"http://127.0.0.1:{service}")
        async with kie:
            await kie.recover()
            if kie.statistics().jobs != (0 if handler == BESIDE else int(jobs)):
                raise AssertionError(kie)
            if server == "aiohttp":
                await serve_aiohttp(kie.callbacks.aiohttp_routes())
            else:
                await serve_asgi(kie.callbacks.asgi_app(), server)


async def make_filled_journal(handler: str, path: Path, jobs: int) -> Journal:
    """Make a journal with the jobs; with ``BESIDE`` another worker owns them."""
    journal: Journal = MemoryJournal() if handler == MEMORY else SqliteStore(path)
    await journal.open()
    await asyncio.gather(*[journal.add(make_row(number)) for number in range(jobs)])
    if handler == BESIDE:
        return SqliteStore(path)
    await journal.close()
    return journal


async def serve_asgi(app: ASGIApp, server: str) -> None:
    """Run uvicorn with the parser of its name."""
    http = "h11" if "h11" in server else "httptools"
    config = uvicorn.Config(
        app, http=http, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=3600
    )
    # A TCP socket, for which asyncio sets TCP_NODELAY: it cannot tell for the sockets that uvicorn makes itself.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        print(listening.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve([listening])


async def serve_aiohttp(routes: Sequence[web.RouteDef]) -> None:
    """Run aiohttp's server."""
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=3600.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site.port, flush=True)
    await asyncio.Event().wait()


# -- the baselines -----------------------------------------------------------------------------------------------------

Answer: TypeAlias = Callable[[Mapping[str, str], bytes], int]


def bare(headers: Mapping[str, str], body: bytes) -> int:  # noqa: ARG001 (it ignores the request)
    """Accept any callback."""
    return 200


def by_hand(headers: Mapping[str, str], body: bytes) -> int:
    """Accept a signed callback."""
    task_id, stamp = json.loads(body)["data"]["taskId"], headers["x-webhook-timestamp"]
    digest = hmac.new(WEBHOOK_KEY.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256).digest()
    valid = hmac.compare_digest(base64.b64encode(digest).decode(), headers["x-webhook-signature"])
    return 200 if valid and abs(time.time() - int(stamp)) < 300 else 401


def app(answer: Answer) -> ASGIApp:
    """Return an ASGI application that reads the body and answers."""

    async def serve_one(
        scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {} if answer is bare else {name.decode(): value.decode() for name, value in scope["headers"]}
        status = answer(headers, body)
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": ANSWER})

    return serve_one


def routes(answer: Answer) -> list[web.RouteDef]:
    """Return the same as routes of aiohttp."""

    async def serve_one(request: web.Request) -> web.Response:
        status = answer(request.headers, await request.read())
        return web.Response(status=status, body=ANSWER, content_type="application/json")

    return [web.post("/kie/{token}", serve_one)]


# -- the load ----------------------------------------------------------------------------------------------------------

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class Load:
    """
    A load generator with persistent connections; a due post is sent as soon as a connection is free.

    Attributes:
        latencies: The seconds from the due time of each post to its answer.
    """

    def __init__(self) -> None:
        self._due: deque[tuple[float, bytes]] = deque()
        self._free: list[Connection] = []
        self._left = 0
        self._done = asyncio.Event()
        self.latencies: list[float] = []

    async def run(self, requests: Sequence[bytes], instants: Iterable[float] | None = None) -> list[float]:
        """Post all at once, or each at its instant in seconds from now; return the latencies."""
        loop = asyncio.get_running_loop()
        self._left, self.latencies = len(requests), []
        self._done.clear()
        began = loop.time()
        if instants is None:
            self._due.extend((began, request) for request in requests)
            for _ in range(len(self._free)):
                self.reuse(self._free.pop())
        else:
            for instant, request in zip(instants, requests, strict=True):
                loop.call_at(began + instant, self._is_due, began + instant, request)
        await self._done.wait()
        return self.latencies

    def _is_due(self, instant: float, request: bytes) -> None:
        self._due.append((instant, request))
        if self._free:
            self.reuse(self._free.pop())

    def reuse(self, connection: Connection) -> None:
        """Send the next due post over a connection."""
        if self._due:
            connection.post(*self._due.popleft())
        else:
            self._free.append(connection)

    def record_answer(self, connection: Connection, latency: float) -> None:
        """Record an answer."""
        self.latencies.append(latency)
        self._left -= 1
        if not self._left:
            self._done.set()
        self.reuse(connection)


async def connect(server: Process) -> Load:
    """Open the connections to a server."""
    loop, load = asyncio.get_running_loop(), Load()
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(partial(Connection, load), "127.0.0.1", server.port)
        load.reuse(connection)
    return load


class Connection(asyncio.Protocol):
    """One connection with one post at a time; any answer but 200 aborts the benchmark."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._due_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]  # of a stream, always

    def post(self, due_at: float, request: bytes) -> None:
        """Send one post."""
        if self._transport is None:
            raise AssertionError
        self._due_at = due_at
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect an answer, and record it when it is complete."""
        self._received += data
        head = self._received.find(b"\r\n\r\n") + 4
        if head < 4:
            return
        length = _LENGTH.search(self._received, 0, head)
        if length is None or not self._received.startswith(b"HTTP/1.1 200 "):
            sys.stderr.write(self._received.decode())
            os.abort()
        if len(self._received) == head + int(length[1]):
            self._received = b""
            self._load.record_answer(self, self._loop.time() - self._due_at)


# -- 1: as fast as they are answered -----------------------------------------------------------------------------------


@attrs.frozen
class Turn:
    """The times of one slice of the load, in seconds."""

    wall: float
    cpu: float
    ours: float


async def turn(server: Process, load: Load, requests: Sequence[bytes]) -> Turn:
    """Send a server one slice of the load."""
    wall, cpu, ours = time.perf_counter(), server.cpu_time(), time.process_time()
    await load.run(requests)
    return Turn(time.perf_counter() - wall, server.cpu_time() - cpu, time.process_time() - ours)


async def take_turns(name: str, service: Process) -> dict[str, list[tuple[Turn, Turn]]]:
    """Return the turns of each handler, each with the bare handler's turn just before."""
    jobs = (TURNS + 1) * SLICE
    turns: dict[str, list[tuple[Turn, Turn]]] = {}
    async with AsyncExitStack() as stack:
        servers: dict[str, tuple[Process, Load]] = {}
        for handler in (BARE, BY_HAND, MEMORY, DISK, BESIDE):
            server = stack.enter_context(process(name, handler, jobs, service.port))
            servers[handler] = server, await connect(server)
        for nth in range(TURNS + 1):
            requests = make_posts(range(nth * SLICE, (nth + 1) * SLICE))
            for handler in HANDLERS:
                plain = await turn(*servers[BARE], requests)
                pair = plain, await turn(*servers[handler.removesuffix(AGAIN)], requests)
                if nth:  # the first turn is for warming up
                    turns.setdefault(handler, []).append(pair)
    turns[BARE] = [(plain, plain) for pairs in turns.values() for plain, _ in pairs]
    return turns


# -- 2: on a schedule --------------------------------------------------------------------------------------------------


async def keep_schedule(name: str, service: Process) -> dict[str, list[float]]:
    """Return the latencies of each handler."""
    random = Random(0)
    latencies: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for handler in (BARE, BY_HAND, MEMORY, DISK, BESIDE):
            with process(name, handler, IN_FLIGHT, service.port) as server:
                load = await connect(server)
                for key in (handler, handler + AGAIN):
                    if key in (BARE, *HANDLERS):
                        numbers = random.sample(range(IN_FLIGHT), IN_FLIGHT)
                        instants = accumulate(random.expovariate(PER_SECOND) for _ in numbers)
                        latencies.setdefault(key, []).extend(await load.run(make_posts(numbers), instants))
    return latencies


# -- the report --------------------------------------------------------------------------------------------------------


async def rows_of(name: str) -> list[Row]:
    """Return the rows of one server."""
    with process("service", TURNS * SLICE + SLICE) as service:
        turns = await take_turns(name, service)
        latencies = await keep_schedule(name, service)
    rows: list[Row] = []
    for handler in (BARE, *HANDLERS):
        pairs = turns[handler]
        own = [mine for _, mine in pairs]
        percentiles = quantiles(latencies[handler], n=100)
        rows.append(
            [
                name,
                handler,
                SLICE / median(one.wall for one in own),
                median(plain.wall / mine.wall for plain, mine in pairs),
                1e6 / SLICE * median(one.cpu for one in own),
                median(plain.cpu / mine.cpu for plain, mine in pairs),
                100 * median(one.cpu / one.wall for one in own),
                100 * median(one.ours / one.wall for one in own),
                1e3 * percentiles[49],
                1e3 * percentiles[98],
            ]
        )
    return rows


def run() -> Report:
    """Measure every server."""
    rows: list[Row] = []
    for name in SERVERS:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows += runner.run(rows_of(name))
    return Report(
        name="receiver",
        question="What does the callback receiver cost, compared with a handler that reads the body and answers?",
        bound=f"ours: at least {SHARE_BOUND} of the bare handler's requests/s, p99 at most {P99_BOUND:g} ms",
        columns=[
            "server",
            "handler",
            "requests/s",
            "of bare",
            "CPU: µs",
            "CPU of bare",
            "server busy: %",
            "load busy: %",
            f"p50 at {PER_SECOND}/s: ms",
            "p99: ms",
        ],
        rows=rows,
    )


if __name__ == "__main__":
    child(*sys.argv[1:])
