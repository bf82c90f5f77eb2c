"""The server: the way of every request over a real socket, through latency, through faults, to its answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import anyio
import attrs
from aiohttp import hdrs, web

from kie_async.testing.answers import FakeResponse, apply_fault
from kie_async.testing.faults import Call, Fault, FaultPlace, FaultScript
from kie_async.testing.wire import FailingConnection, RawResponse, send, send_broken

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from kie_async.testing.truth import LoggedRequest, Truth

__all__ = ["FakeServer", "IncomingRequest", "Latency"]

#: Seconds each way over the network: drawn evenly between the two, or by a function of the generator.
Latency: TypeAlias = tuple[float, float] | Callable[[Random], float]

#: As many connections may wait to be accepted as the kernel allows: a batch opens hundreds in one instant.
_BACKLOG = 4096

#: The largest request: an upload of a hundred megabytes, in base64.
_MAX_BODY = 150 * 2**20

#: Where redirects lead; nothing is found there.
_STRAY = "/redirected"

_LOWEST_ERROR = 400

#: What lies behind these only reads: whatever goes wrong, there is a true answer.
_READS = frozenset({"poll", "download", "credit", "download_url"})


#: What spoils an answer so far that no code can be read in it.
_CUTS = frozenset({"truncated_json", "half_body", "half_status_line", "garbage", "reset", "close"})


@attrs.frozen(kw_only=True)
class IncomingRequest:
    """
    One request that has arrived.

    Attributes:
        request: The request.

        body: Its body.

        at: When it arrived, by the loop's clock.

        origin: Scheme, host and port under which the client reached the service.

        acts: Whether the service does what it is asked for, whatever becomes of the answer.

        fault: What strikes it, or None.
    """

    request: web.Request
    body: bytes
    at: float
    origin: str
    acts: bool
    fault: Fault | None


#: What a place does: it acts, if it is to, and gives what is to be noted in the truth, and the true answer.
Handler: TypeAlias = Callable[[IncomingRequest], Awaitable[tuple["LoggedRequest", FakeResponse]]]


class FakeServer:
    """
    Listens, reads requests, and sends answers.

    Args:
        host: The address to listen on.

        port: The port; 0 for any.

        truth: Where connections and strays are noted.

        script: The faults.

        latency: See ``Latency``.

        http_statuses: Whether refusals have the HTTP status of their code instead of 200.

        seed: Seeds the latency.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        truth: Truth,
        script: FaultScript,
        latency: Latency,
        http_statuses: bool,
        seed: int,
    ) -> None:
        self.host = host
        self.port: int = port
        self.latency = latency
        self._truth = truth
        self._script = script
        self._http_statuses = http_statuses
        self._rng = Random(f"{seed} latency")
        self._rays = Random(f"{seed} rays")
        self._counts: Counter[tuple[FaultPlace, bool]] = Counter()
        self._started_at = 0.0
        self._listener: asyncio.Server | None = None
        self._protocols: Callable[[], asyncio.Protocol] = asyncio.Protocol
        self._connections: set[asyncio.Task[None]] = set()
        self._doors: set[FailingConnection] = set()

    @asynccontextmanager
    async def run(self, routes: list[tuple[str, str, FaultPlace, Handler]]) -> AsyncGenerator[None, None]:
        """
        Serve *routes* (method, path, place, handler) until left.

        Raises:
            OSError: If the port cannot be had.
        """
        application = web.Application(client_max_size=_MAX_BODY)
        for method, path, place, handler in routes:
            application.router.add_route(method, path, self._serving(place, handler))
        application.router.add_route("*", _STRAY, self._wander)
        # Handlers run on when a client goes away, as they do at the service: what was sent has arrived.
        runner = web.AppRunner(application, access_log=None, handler_cancellation=False, shutdown_timeout=0.1)
        await runner.setup()
        self._protocols = runner.server or self._protocols
        self._started_at = anyio.current_time()
        try:
            await self.listen()
            yield
        finally:
            self.refuse()
            for door in list(self._doors):
                door.shut()
            for connection in self._connections:
                connection.cancel()
            if self._connections:
                await asyncio.wait(self._connections)
            await runner.cleanup()

    async def listen(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._door, self.host, self.port, backlog=_BACKLOG)
        self.port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse connections; those that there are stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def strike(
        self,
        place: FaultPlace,
        *,
        path: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        early: bool = False,
    ) -> Fault | None:
        """Count a call at *place*, and ask the script what strikes it; *early* ones are counted apart."""
        self._counts[place, early] += 1
        at = asyncio.get_running_loop().time() - self._started_at
        nth = self._counts[place, early]
        return self._script.pick(
            Call(place=place, nth=nth, at=at, path=path, headers=headers or {}, body=body, early=early)
        )

    def _door(self) -> asyncio.Protocol:
        """What a new connection speaks to."""
        self._truth.connections += 1
        fault = self.strike("connect")
        return self._protocols() if fault is None else FailingConnection(fault, self._doors)

    def _serving(self, place: FaultPlace, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            if (connection := request.task) not in self._connections:
                self._connections.add(connection)
                connection.add_done_callback(self._connections.discard)
            try:
                body = await request.read()
            except (ConnectionError, web.RequestPayloadError):
                return RawResponse(b"", "close")
            await self._travel()
            fault = self.strike(place, path=request.path, headers=request.headers, body=body)
            return await self._exchange(request, body, place, fault, handler)

        return serve

    async def _exchange(
        self, request: web.Request, body: bytes, place: FaultPlace, fault: Fault | None, handler: Handler
    ) -> web.StreamResponse:
        what = None if fault is None else fault.kind
        seconds = (fault.seconds if fault is not None and what == "slow" else None) or 0.0
        after = fault is None or fault.after
        if not after:
            await anyio.sleep(seconds)
        exchange = IncomingRequest(
            request=request,
            body=body,
            at=anyio.current_time(),
            origin=f"{request.scheme}://{request.headers.get(hdrs.HOST) or f'{self.host}:{self.port}'}",
            acts=after or place in _READS or what in ("slow", "slow_body"),
            fault=fault,
        )
        entry, answer = await handler(exchange)
        entry.fault = fault
        if what == "silence":
            await anyio.sleep_forever()
        if fault is not None:
            answer = apply_fault(answer, fault, stray=exchange.origin + _STRAY)
        if self._http_statuses and answer.code is not None and answer.code >= _LOWEST_ERROR:
            answer = attrs.evolve(answer, status=answer.code)
        if after:
            await anyio.sleep(seconds)
        await self._travel()
        entry.answered_at = anyio.current_time()
        if what not in _CUTS:
            entry.code, entry.status = answer.code, answer.status
        answer = attrs.evolve(answer, headers={**self._edge(request), **answer.headers})
        return await (send(request, answer) if fault is None else send_broken(request, answer, fault))

    async def _travel(self) -> None:
        """One way over the network."""
        if callable(self.latency):
            await anyio.sleep(self.latency(self._rng))
        elif self.latency != (0.0, 0.0):
            await anyio.sleep(self._rng.uniform(*self.latency))

    def _edge(self, request: web.Request) -> dict[str, str]:
        """The headers that have nothing to do with the question."""
        headers = {
            "Server": "cloudflare",
            "CF-RAY": f"{self._rays.getrandbits(64):016x}-FRA",
            "CF-Cache-Status": "DYNAMIC",
        }
        if request.path.startswith("/api/v1/") and "JSESSIONID" not in request.cookies:
            headers["Set-Cookie"] = f"JSESSIONID={self._rays.getrandbits(128):032X}; Path=/; HttpOnly"
        return headers

    async def _wander(self, request: web.Request) -> web.Response:
        """Note who has followed a redirect."""
        self._truth.followed_redirects.append(request.path)
        return web.Response(status=404)
