"""
What the receiver of callbacks costs beside a handler that reads the body and answers, under the same server.

Two questions. (1) A few connections post as fast as they are answered: how many callbacks a second does the receiver
take, as a share of what the bare handler takes, and how much CPU does the server use for one? (2) Callbacks arrive on a
schedule, 200 a second, while 1,000 jobs are in flight: how long after it was due is each of them answered?

Every callback is genuine: of a job that is in the client's journal and in flight, with its token, signed, and with the
body that the service posts. It is taken for the first time, which begins a confirmation, or again, as in a flood. Each
server is a process of its own, the service that is asked how tasks have ended is another, and the load comes from this
one. Servers take turns, a slice of the load each, and a share of the bare handler's is the median over the turns: what
the machine does meanwhile concerns both alike. Where load and server have to share the machine's cores, requests per
second say something of both, and the CPU that the server uses for one request says what the receiver costs.

Beside the bare handler is what people write: one that decodes the body and checks the service's signature, and leaves
the rest (whose the task is, what is noted, what is confirmed) for later.
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
#: Callbacks in one turn.
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

#: Servers: aiohttp's own, and uvicorn with and without what ``uvicorn[standard]`` brings.
SERVERS = ("aiohttp", "uvicorn (httptools, uvloop)", "uvicorn (h11, asyncio)")
#: What is behind them.
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
    """The id of a job."""
    return f"kj_{number:032x}"


def a_task(number: int) -> FakeTask:
    """What the service has of a job: a task that has just ended."""
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


def a_row(number: int) -> Intent:
    """What the journal has of it."""
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


def posts(numbers: Sequence[int]) -> list[bytes]:
    """The callbacks for jobs, as they are on the wire, signed now."""
    return [a_post(a_task(number)) for number in numbers]


def a_post(task: FakeTask) -> bytes:
    """A task's callback."""
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
    """A process of ours: where it listens, and how to ask it for its CPU time."""

    port: int
    make_request: Callable[[], float]


@contextmanager
def process(*arguments: str | int) -> Iterator[Process]:
    """This module in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.receiver", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603  # ours
        if child.stdin is None or child.stdout is None:
            raise AssertionError
        given, says = child.stdin, child.stdout

        def make_request() -> float:
            print(file=given, flush=True)
            return float(says.readline())

        try:
            yield Process(int(says.readline()), make_request)
        finally:
            child.kill()


def answer_questions() -> None:
    """Tell whoever has started this process how much CPU it has used."""
    for _ in sys.stdin:
        print(time.process_time(), flush=True)


def child(what: str, *arguments: str) -> None:
    """What a process of ours does."""
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    fast = "uvloop" in what
    main = serve_tasks(*arguments) if what == "service" else serve(what, *arguments)
    Thread(target=answer_questions, daemon=True).start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if fast else None) as runner:
        runner.run(main)


async def serve_tasks(jobs: str) -> None:
    """The service that knows how tasks have ended."""
    async with FakeKie(queries_per_second=1e6, credits=1e9) as fake:
        fake.truth.tasks.update((task.task_id, task) for task in map(a_task, range(int(jobs))))
        print(fake.url.rpartition(":")[2], flush=True)
        await asyncio.Event().wait()


class _Client(KieClient):
    """A client of a journal that has jobs already."""

    def __init__(self, journal: Journal, base_url: str) -> None:
        limits = Limits(in_flight=10**6)
        super().__init__(API_KEY, base_url=base_url, limits=limits, callback_url=CALLBACK_URL, webhook_key=WEBHOOK_KEY)
        self._binding.make_journal = lambda: journal


async def serve(server: str, handler: str, jobs: str, service: str) -> None:
    """A server with a handler behind it; says where it is when it takes requests."""
    with TemporaryDirectory() as folder:
        if handler in (BARE, BY_HAND):
            answer = bare if handler == BARE else by_hand
            await (serve_aiohttp(routes(answer)) if server == "aiohttp" else serve_asgi(app(answer), server))
            return
        journal = await filled(handler, Path(folder) / "kie.db", int(jobs))
        kie = _Client(journal, f"http://127.0.0.1:{service}")
        async with kie:
            await kie.recover()
            if kie.statistics().jobs != (0 if handler == BESIDE else int(jobs)):
                raise AssertionError(kie)
            if server == "aiohttp":
                await serve_aiohttp(kie.callbacks.aiohttp_routes())
            else:
                await serve_asgi(kie.callbacks.asgi_app(), server)


async def filled(handler: str, path: Path, jobs: int) -> Journal:
    """A journal that has the jobs; the worker beside is one that holds on to them."""
    journal: Journal = MemoryJournal() if handler == MEMORY else SqliteStore(path)
    await journal.open()
    await asyncio.gather(*[journal.add(a_row(number)) for number in range(jobs)])
    if handler == BESIDE:
        return SqliteStore(path)
    await journal.close()
    return journal


async def serve_asgi(app: ASGIApp, server: str) -> None:
    """Serve under uvicorn, by the parser that its name says."""
    http = "h11" if "h11" in server else "httptools"
    config = uvicorn.Config(
        app, http=http, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=3600
    )
    # Of the kind whose answers asyncio does not hold back: for the sockets that uvicorn itself makes, it cannot tell.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        print(listening.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve([listening])


async def serve_aiohttp(routes: Sequence[web.RouteDef]) -> None:
    """Serve under aiohttp."""
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


def bare(headers: Mapping[str, str], body: bytes) -> int:  # noqa: ARG001 (what is read is not looked at)
    """Any callback is a good one."""
    return 200


def by_hand(headers: Mapping[str, str], body: bytes) -> int:
    """One that is signed is."""
    task_id, stamp = json.loads(body)["data"]["taskId"], headers["x-webhook-timestamp"]
    digest = hmac.new(WEBHOOK_KEY.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256).digest()
    fits = hmac.compare_digest(base64.b64encode(digest).decode(), headers["x-webhook-signature"])
    return 200 if fits and abs(time.time() - int(stamp)) < 300 else 401


def app(answer: Answer) -> ASGIApp:
    """Read the body and answer, in ASGI."""

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
    """The same in aiohttp."""

    async def serve_one(request: web.Request) -> web.Response:
        status = answer(request.headers, await request.read())
        return web.Response(status=status, body=ANSWER, content_type="application/json")

    return [web.post("/kie/{token}", serve_one)]


# -- the load ----------------------------------------------------------------------------------------------------------

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class Load:
    """
    Posts over connections that stay: what is due goes out as soon as a connection is free.

    Attributes:
        latencies: Seconds from the instant that each post was due until it was answered.
    """

    def __init__(self) -> None:
        self._due: deque[tuple[float, bytes]] = deque()
        self._free: list[Connection] = []
        self._left = 0
        self._done = asyncio.Event()
        self.latencies: list[float] = []

    async def run(self, requests: Sequence[bytes], instants: Iterable[float] | None = None) -> list[float]:
        """Post all at once, or each at its instant in seconds from now; returns the latencies."""
        loop = asyncio.get_running_loop()
        self._left, self.latencies = len(requests), []
        self._done.clear()
        began = loop.time()
        if instants is None:
            self._due.extend((began, request) for request in requests)
            for _ in range(len(self._free)):
                self.free(self._free.pop())
        else:
            for instant, request in zip(instants, requests, strict=True):
                loop.call_at(began + instant, self._is_due, began + instant, request)
        await self._done.wait()
        return self.latencies

    def _is_due(self, instant: float, request: bytes) -> None:
        self._due.append((instant, request))
        if self._free:
            self.free(self._free.pop())

    def free(self, connection: Connection) -> None:
        """Use a connection for what is due next."""
        if self._due:
            connection.post(*self._due.popleft())
        else:
            self._free.append(connection)

    def answered(self, connection: Connection, latency: float) -> None:
        """A post was answered."""
        self.latencies.append(latency)
        self._left -= 1
        if not self._left:
            self._done.set()
        self.free(connection)


async def connect(server: Process) -> Load:
    """Open the connections to a server."""
    loop, load = asyncio.get_running_loop(), Load()
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(partial(Connection, load), "127.0.0.1", server.port)
        load.free(connection)
    return load


class Connection(asyncio.Protocol):
    """One connection: a post at a time; any answer but 200 ends it all."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._got = b""
        self._due_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Post over it from now on."""
        self._transport = transport  # type: ignore[assignment]  # of a stream, always

    def post(self, due_at: float, request: bytes) -> None:
        """Post."""
        if self._transport is None:
            raise AssertionError
        self._due_at = due_at
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer, and tell when it is whole."""
        self._got += data
        head = self._got.find(b"\r\n\r\n") + 4
        if head < 4:
            return
        length = _LENGTH.search(self._got, 0, head)
        if length is None or not self._got.startswith(b"HTTP/1.1 200 "):
            sys.stderr.write(self._got.decode())
            os.abort()
        if len(self._got) == head + int(length[1]):
            self._got = b""
            self._load.answered(self, self._loop.time() - self._due_at)


# -- 1: as fast as they are answered -----------------------------------------------------------------------------------


@attrs.frozen
class Turn:
    """What one slice of the load took, in seconds."""

    wall: float
    cpu: float
    ours: float


async def turn(server: Process, load: Load, requests: Sequence[bytes]) -> Turn:
    """Give a server a slice of the load."""
    wall, cpu, ours = time.perf_counter(), server.make_request(), time.process_time()
    await load.run(requests)
    return Turn(time.perf_counter() - wall, server.make_request() - cpu, time.process_time() - ours)


async def take_turns(name: str, service: Process) -> dict[str, list[tuple[Turn, Turn]]]:
    """The turns of each handler, each with the bare handler's turn just before."""
    jobs = (TURNS + 1) * SLICE
    turns: dict[str, list[tuple[Turn, Turn]]] = {}
    async with AsyncExitStack() as stack:
        servers: dict[str, tuple[Process, Load]] = {}
        for handler in (BARE, BY_HAND, MEMORY, DISK, BESIDE):
            server = stack.enter_context(process(name, handler, jobs, service.port))
            servers[handler] = server, await connect(server)
        for nth in range(TURNS + 1):
            requests = posts(range(nth * SLICE, (nth + 1) * SLICE))
            for handler in HANDLERS:
                plain = await turn(*servers[BARE], requests)
                pair = plain, await turn(*servers[handler.removesuffix(AGAIN)], requests)
                if nth:  # the first turn is for warming up
                    turns.setdefault(handler, []).append(pair)
    turns[BARE] = [(plain, plain) for pairs in turns.values() for plain, _ in pairs]
    return turns


# -- 2: on a schedule --------------------------------------------------------------------------------------------------


async def keep_schedule(name: str, service: Process) -> dict[str, list[float]]:
    """The latencies of each handler."""
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
                        latencies.setdefault(key, []).extend(await load.run(posts(numbers), instants))
    return latencies


# -- the report --------------------------------------------------------------------------------------------------------


async def rows_of(name: str) -> list[Row]:
    """The rows of one server."""
    with process("service", TURNS * SLICE + SLICE) as service:
        turns = await take_turns(name, service)
        latencies = await keep_schedule(name, service)
    rows: list[Row] = []
    for handler in (BARE, *HANDLERS):
        pairs = turns[handler]
        own = [mine for _, mine in pairs]
        percent = quantiles(latencies[handler], n=100)
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
                1e3 * percent[49],
                1e3 * percent[98],
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
        question="What does the receiver of callbacks cost beside a handler that reads the body and answers?",
        bound=f"ours: {SHARE_BOUND} of the bare handler's requests/s at least, p99 of {P99_BOUND:g} ms at most",
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
