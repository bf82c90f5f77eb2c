"""How an answer goes over the wire: as the service sends it, or cut, reset, drawn out as a fault wants it."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from typing import TYPE_CHECKING, Literal, cast

import anyio
from aiohttp import hdrs, web

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from kie_async.testing.answers import FakeResponse
    from kie_async.testing.faults import Fault

__all__ = ["FailingConnection", "RawResponse", "hang_up", "send", "send_broken"]

#: Something that is no HTTP.
_GARBAGE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"


def hang_up(transport: asyncio.BaseTransport | None, how: Literal["close", "reset"]) -> None:
    """
    End a connection.

    Args:
        transport: The connection, or None if it is gone already.

        how: ``"close"`` sends what was written, then FIN; ``"reset"`` sends RST at once.
    """
    if transport is None:
        return
    if how == "close" or not (sock := transport.get_extra_info("socket")):
        transport.close()
        return
    # Lingering for no time at all makes the kernel send RST instead of FIN.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    getattr(transport, "abort", transport.close)()


class RawResponse(web.StreamResponse):
    """
    A response that is written to the connection as it stands, after which the connection ends.

    Args:
        raw: The bytes; none if the connection is to end without a word.

        how: See ``hang_up``.
    """

    def __init__(self, raw: bytes, how: Literal["close", "reset"]) -> None:
        super().__init__()
        self._raw = raw
        self._how: Literal["close", "reset"] = how

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write, and hang up."""
        transport = request.transport
        if transport is not None and self._raw:
            transport.write(self._raw)
        hang_up(transport, self._how)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing more is written."""


class FailingConnection(asyncio.Protocol):
    """
    A connection on which nothing is ever said.

    Args:
        fault: Whether it is closed, reset or left alone, and after how many bytes.

        doors: Where it stands as long as it is open.
    """

    def __init__(self, fault: Fault, doors: set[FailingConnection]) -> None:
        self._fault = fault
        self._doors = doors
        self._received = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # A cast, since the transports of other loops need not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._doors.add(self)
        self._poll()

    def data_received(self, data: bytes) -> None:
        """Count what arrives."""
        self._received += len(data)
        self._poll()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (as the loop calls it)
        """End."""
        self._transport = None
        self._doors.discard(self)

    def shut(self) -> None:
        """Reset the connection."""
        hang_up(self._transport, "reset")

    def _poll(self) -> None:
        if self._transport is None or self._received < self._fault.after_bytes:
            return
        if self._fault.kind == "silence":
            # The rest stays in the kernel, as with a peer that never reads.
            self._transport.pause_reading()
        else:
            hang_up(self._transport, "reset" if self._fault.kind == "reset" else "close")


async def send(request: web.Request, answer: FakeResponse) -> web.StreamResponse:
    """The response that carries *answer*: chunked, and compressed if the client takes gzip and the answer is text."""
    headers = {hdrs.CONTENT_TYPE: answer.content_type, **answer.headers}
    body = answer.body
    textual = answer.content_type.startswith(("application/json", "text/"))
    response = web.Response(status=answer.status)
    if textual and body and hdrs.CONTENT_ENCODING not in headers:
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            headers[hdrs.CONTENT_ENCODING] = "gzip"
            # Done here since aiohttp would hand larger bodies to a thread; the time stamp in the header is left out.
            body = gzip.compress(body, compresslevel=1, mtime=0)
        response.enable_chunked_encoding()
    response.headers.update(headers)
    response.body = body
    return response


async def send_broken(request: web.Request, answer: FakeResponse, fault: Fault) -> web.StreamResponse:
    """The response that carries *answer*, broken on the wire as *fault* says."""
    match fault.kind:
        case "close" | "reset" as how:
            return RawResponse(b"", how)
        case "half_status_line":
            return RawResponse(b"HTTP/1.1 2", fault.disconnect)
        case "garbage":
            body = fault.body.encode() if isinstance(fault.body, str) else fault.body
            return RawResponse(body or _GARBAGE, fault.disconnect)
        case "half_body":
            response = await _announce(request, answer)
            await response.write(answer.body[: len(answer.body) // 2])
            hang_up(request.transport, fault.disconnect)
            return response
        case "slow_body":
            response = await _announce(request, answer)
            for byte in answer.body:
                await response.write(bytes((byte,)))
                await anyio.sleep(fault.seconds or 0.0)
            return response
        case _:
            return await send(request, answer)


async def _announce(request: web.Request, answer: FakeResponse) -> web.StreamResponse:
    """Send the head of *answer*, with the length of its whole body."""
    headers = {
        hdrs.CONTENT_TYPE: answer.content_type,
        hdrs.CONTENT_LENGTH: str(len(answer.body)),
        **answer.headers,
    }
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    return response
