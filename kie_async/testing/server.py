"""The HTTP server of the fake: reads requests over real sockets, applies latency and faults, and sends responses."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import anyio
import attrs
from aiohttp import hdrs, web

from kie_async.testing.faults import Call, Fault, FaultPlace, FaultScript
from kie_async.testing.responses import FakeResponse, apply_fault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp.abc import AbstractStreamWriter

    from kie_async.testing.truth import LoggedRequest, Truth

__all__ = ["FakeServer", "Handler", "IncomingRequest", "Latency"]

#: Seconds over the network each way: drawn evenly between two numbers, or by a function of the random generator.
Latency: TypeAlias = tuple[float, float] | Callable[[Random], float]

#: The length of the accept queue, as long as the kernel allows: a batch opens hundreds of connections at once.
_BACKLOG = 4096

#: The largest request: an upload of a hundred megabytes in base64.
_MAX_BODY = 150 * 2**20

#: The path of redirects, which does not exist.
_REDIRECT_PATH = "/redirected"

_LOWEST_ERROR = 400

#: Places that only read: they have a real response whatever the fault.
_READS = frozenset({"poll", "download", "credit", "download_url", "models"})

#: Faults after which no code can be read in the response.
_UNREADABLE = frozenset({"truncated_json", "half_body", "half_status_line", "garbage", "reset", "close"})

#: Bytes that are not HTTP.
_GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"


@attrs.frozen(kw_only=True)
class IncomingRequest:
    """
    A request that has arrived.

    Attributes:
        request: The request.

        body: Its body.

        at: Its arrival by the loop's clock.

        origin: Scheme, host and port under which the client reached the service.

        performed: True if the service performs the request, whatever happens to the response.

        fault: The fault that affects it, or None.
    """

    request: web.Request
    body: bytes
    at: float
    origin: str
    performed: bool
    fault: Fault | None


#: An endpoint: performs the request unless a fault prevents it, and returns the log entry and the real response.
Handler: TypeAlias = Callable[[IncomingRequest], Awaitable[tuple["LoggedRequest", FakeResponse]]]


@attrs.define(kw_only=True, eq=False)
class FakeServer:
    """
    The HTTP server of a fake.

    Attributes:
        host: The address to listen on.

        port: The port; 0 for any free one.

        truth: The log of connections and followed redirects.

        script: The faults.

        latency: See ``Latency``.

        http_statuses: True if refusals have the HTTP status of their code instead of 200.

        latency_rng: The random generator of the latency.

        headers_rng: The random generator of the headers.
    """

    host: str
    port: int
    truth: Truth
    script: FaultScript
    latency: Latency
    http_statuses: bool
    latency_rng: Random
    headers_rng: Random
    _counts: Counter[tuple[FaultPlace, bool]] = attrs.field(factory=Counter, init=False)
    _started_at: float = attrs.field(default=0.0, init=False)
    _listener: asyncio.Server | None = attrs.field(default=None, init=False)
    _protocols: Callable[[], asyncio.Protocol] = attrs.field(default=asyncio.Protocol, init=False)
    _connections: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    _failing: set[_FailingConnection] = attrs.field(factory=set, init=False)

    @asynccontextmanager
    async def run(self, routes: list[tuple[str, str, FaultPlace, Handler]]) -> AsyncGenerator[None, None]:
        """
        Serve *routes* (method, path, place, handler) until the context ends.

        Raises:
            OSError: If the port is not available.
        """
        application = web.Application(client_max_size=_MAX_BODY)
        for method, path, place, handler in routes:
            application.router.add_route(method, path, self._serving(place, handler))
        application.router.add_route("*", _REDIRECT_PATH, self._log_followed_redirect)
        # Handlers continue when a client disconnects, as at the real service: the request has arrived.
        runner = web.AppRunner(application, access_log=None, handler_cancellation=False, shutdown_timeout=0.1)
        await runner.setup()
        self._protocols = runner.server or self._protocols
        self._started_at = anyio.current_time()
        try:
            await self.listen()
            yield
        finally:
            self.stop_listening()
            for failing in list(self._failing):
                failing.reset()
            for connection in self._connections:
                connection.cancel()
            if self._connections:
                await asyncio.wait(self._connections)
            await runner.cleanup()

    async def listen(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._new_connection, self.host, self.port, backlog=_BACKLOG)
        self.port = self._listener.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """Refuse new connections; existing connections stay open."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def pick_fault(
        self,
        place: FaultPlace,
        *,
        path: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        early: bool = False,
    ) -> Fault | None:
        """Count a call at *place* and return the fault that affects it; *early* calls are counted separately."""
        self._counts[place, early] += 1
        at = asyncio.get_running_loop().time() - self._started_at
        nth = self._counts[place, early]
        return self.script.pick(
            Call(place=place, nth=nth, at=at, path=path, headers=headers or {}, body=body, early=early)
        )

    def _new_connection(self) -> asyncio.Protocol:
        self.truth.connections += 1
        fault = self.pick_fault("connect")
        return self._protocols() if fault is None else _FailingConnection(fault, self._failing)

    def _serving(self, place: FaultPlace, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            if (connection := request.task) not in self._connections:
                self._connections.add(connection)
                connection.add_done_callback(self._connections.discard)
            try:
                body = await request.read()
            except (ConnectionError, web.RequestPayloadError):
                return _RawResponse(b"", "close")
            await self._travel()
            fault = self.pick_fault(place, path=request.path, headers=request.headers, body=body)
            return await self._respond(request, body, place, fault, handler)

        return serve

    async def _respond(
        self, request: web.Request, body: bytes, place: FaultPlace, fault: Fault | None, handler: Handler
    ) -> web.StreamResponse:
        kind = None if fault is None else fault.kind
        seconds = (fault.seconds if fault is not None and kind == "slow" else None) or 0.0
        after = fault is None or fault.after
        if not after:
            await anyio.sleep(seconds)
        incoming = IncomingRequest(
            request=request,
            body=body,
            at=anyio.current_time(),
            origin=f"{request.scheme}://{request.headers.get(hdrs.HOST) or f'{self.host}:{self.port}'}",
            performed=after or place in _READS or kind in ("slow", "slow_body"),
            fault=fault,
        )
        entry, response = await handler(incoming)
        entry.fault = fault
        if kind == "silence":
            await anyio.sleep_forever()
        if fault is not None:
            response = apply_fault(response, fault, redirect_to=incoming.origin + _REDIRECT_PATH)
        if self.http_statuses and response.code is not None and response.code >= _LOWEST_ERROR:
            response = attrs.evolve(response, status=response.code)
        if after:
            await anyio.sleep(seconds)
        await self._travel()
        entry.answered_at = anyio.current_time()
        if kind not in _UNREADABLE:
            entry.code, entry.status = response.code, response.status
        response = attrs.evolve(response, headers={**self._proxy_headers(request), **response.headers})
        try:
            return await (_send(request, response) if fault is None else _send_with_fault(request, response, fault))
        except ConnectionError:  # the client has left meanwhile
            return _RawResponse(b"", "close")

    async def _travel(self) -> None:
        """Wait for the latency of one way over the network."""
        if callable(self.latency):
            await anyio.sleep(self.latency(self.latency_rng))
        elif self.latency != (0.0, 0.0):
            await anyio.sleep(self.latency_rng.uniform(*self.latency))

    def _proxy_headers(self, request: web.Request) -> dict[str, str]:
        """Return the headers that do not depend on the endpoint."""
        headers = {
            "Server": "cloudflare",
            "CF-RAY": f"{self.headers_rng.getrandbits(64):016x}-FRA",
            "CF-Cache-Status": "DYNAMIC",
        }
        if request.path.startswith("/api/v1/") and "JSESSIONID" not in request.cookies:
            headers["Set-Cookie"] = f"JSESSIONID={self.headers_rng.getrandbits(128):032X}; Path=/; HttpOnly"
        return headers

    async def _log_followed_redirect(self, request: web.Request) -> web.Response:
        self.truth.followed_redirects.append(request.path)
        return web.Response(status=404)


def _disconnect(transport: asyncio.BaseTransport | None, how: Literal["close", "reset"]) -> None:
    """
    End a connection.

    Args:
        transport: The connection, or None if it has ended already.

        how: ``"close"`` sends the written bytes, then FIN; ``"reset"`` sends RST at once.
    """
    if transport is None:
        return
    if how == "close" or not (sock := transport.get_extra_info("socket")):
        transport.close()
        return
    # A linger time of zero makes the kernel send RST instead of FIN.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    getattr(transport, "abort", transport.close)()


class _RawResponse(web.StreamResponse):
    """A response whose bytes are written unchanged to the connection, which then ends; see ``_disconnect()``."""

    def __init__(self, raw: bytes, how: Literal["close", "reset"]) -> None:
        super().__init__()
        self._raw = raw
        self._how: Literal["close", "reset"] = how

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the bytes, and end the connection."""
        transport = request.transport
        if transport is not None and self._raw:
            transport.write(self._raw)
        _disconnect(transport, self._how)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing more."""


class _FailingConnection(asyncio.Protocol):
    """
    A connection that never sends anything.

    Args:
        fault: Tells whether it is closed, reset or left open, and after how many bytes.

        open_ones: Contains the connection while it is open.
    """

    def __init__(self, fault: Fault, open_ones: set[_FailingConnection]) -> None:
        self._fault = fault
        self._open_ones = open_ones
        self._received = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        # A cast, since the transports of other loops need not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._open_ones.add(self)
        self._fail_if_due()

    def data_received(self, data: bytes) -> None:
        """Count the received bytes."""
        self._received += len(data)
        self._fail_if_due()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (as the loop calls it)
        """End."""
        self._transport = None
        self._open_ones.discard(self)

    def reset(self) -> None:
        """Reset the connection."""
        _disconnect(self._transport, "reset")

    def _fail_if_due(self) -> None:
        if self._transport is None or self._received < self._fault.after_bytes:
            return
        if self._fault.kind == "silence":
            # The remaining bytes stay in the kernel, as with a peer that never reads.
            self._transport.pause_reading()
        else:
            _disconnect(self._transport, "reset" if self._fault.kind == "reset" else "close")


async def _send(request: web.Request, response: FakeResponse) -> web.StreamResponse:
    """Return *response* for aiohttp: text is chunked, and compressed if the client accepts gzip."""
    headers = {hdrs.CONTENT_TYPE: response.content_type, **response.headers}
    body = response.body
    is_text = response.content_type.startswith(("application/json", "text/"))
    sent = web.Response(status=response.status)
    if is_text and body and hdrs.CONTENT_ENCODING not in headers:
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            headers[hdrs.CONTENT_ENCODING] = "gzip"
            # Compressed here because aiohttp compresses larger bodies in a thread; without a timestamp in the header.
            body = gzip.compress(body, compresslevel=1, mtime=0)
        sent.enable_chunked_encoding()
    sent.headers.update(headers)
    sent.body = body
    return sent


async def _send_with_fault(request: web.Request, response: FakeResponse, fault: Fault) -> web.StreamResponse:
    """Send *response* with the connection fault *fault*."""
    match fault.kind:
        case "close" | "reset" as how:
            return _RawResponse(b"", how)
        case "half_status_line":
            return _RawResponse(b"HTTP/1.1 2", fault.disconnect)
        case "garbage":
            body = fault.body.encode() if isinstance(fault.body, str) else fault.body
            return _RawResponse(body or _GARBAGE, fault.disconnect)
        case "half_body":
            sent = await _send_head(request, response)
            await sent.write(response.body[: len(response.body) // 2])
            _disconnect(request.transport, fault.disconnect)
            return sent
        case "slow_body":
            sent = await _send_head(request, response)
            for byte in response.body:
                await sent.write(bytes((byte,)))
                await anyio.sleep(fault.seconds or 0.0)
            return sent
        case _:
            return await _send(request, response)


async def _send_head(request: web.Request, response: FakeResponse) -> web.StreamResponse:
    """Send the head of *response* with the length of its whole body."""
    length = str(len(response.body))
    headers: dict[str, str] = {hdrs.CONTENT_TYPE: response.content_type, hdrs.CONTENT_LENGTH: length}
    sent = web.StreamResponse(status=response.status, headers={**headers, **response.headers})
    await sent.prepare(request)
    return sent
