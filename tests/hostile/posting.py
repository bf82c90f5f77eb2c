"""Post requests as raw ASGI messages and raw HTTP, so that both can be invalid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing, suppress
from itertools import repeat
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

import anyio

if TYPE_CHECKING:
    from tests.hostile.attacks import Request

__all__ = ["App", "make_head", "over_a_socket", "through_asgi"]

_Message: TypeAlias = MutableMapping[str, object]
#: An ASGI application.
App: TypeAlias = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]
]

#: The number of announced bytes that are never sent, for deliveries that announce too much.
_MISSING = 1000
#: A chunk of an endless body.
_BLANKS = b" " * 16_384


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of the body; an incomplete body waits without an end, or ends when its sender disconnects."""
    body, delivery = request.body, request.attack.delivery
    match delivery:
        case "pieces":
            step = max(1, len(body) // 7, request.attack.number % 3000)
            for at in range(0, len(body), step):
                yield body[at : at + step]
                await anyio.sleep(0.01)
        case "stalls" | "goes":
            yield body[: len(body) // 2]
            if delivery == "stalls":
                await anyio.sleep_forever()
        case "dribbles":
            for at in range(min(len(body), 60)):
                yield body[at : at + 1]
                await anyio.sleep(1.0)
            await anyio.sleep_forever()
        case "endless":
            for piece in repeat(_BLANKS):
                yield piece
                await anyio.sleep(0.01)
        case _:
            yield body


async def through_asgi(app: App, request: Request) -> int | None:
    """
    Call an application as a server does.

    Returns:
        The status of the answer, or None if there was none.

    Raises:
        AssertionError: If the application violates the protocol.
    """
    raw, _, query = request.path.partition("?")
    attack, sent = request.attack, list[_Message]()
    scope: _Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2" if attack.number % 5 == 0 else "1.1",
        "method": attack.method,
        "scheme": "https",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers],
        "client": ("203.0.113.7", 4242),
        "server": ("127.0.0.1", 443),
    }

    async def send(message: _Message) -> None:
        sent.append(message)

    async with aclosing(_pieces(request)) as pieces:

        async def receive() -> _Message:
            if (piece := await anext(pieces, None)) is not None:
                return {"type": "http.request", "body": piece, "more_body": attack.delivery != "whole"}
            return {"type": "http.disconnect" if attack.delivery == "goes" else "http.request"}

        await app(scope, receive, send)
    if not sent:
        return None
    start, body = sent
    assert ("http.response.start", "http.response.body") == (start["type"], body["type"])
    status, headers, content = start["status"], start["headers"], body["body"]
    assert isinstance(status, int)
    assert isinstance(headers, list)
    assert isinstance(content, bytes)
    assert str(len(content)).encode() == dict(headers)[b"content-length"]
    return status


async def over_a_socket(port: int, request: Request) -> int | None:
    """
    Send a request over a new connection.

    Returns:
        The status of the answer, or None if the connection was closed without one.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(make_head(request))
        if request.attack.delivery == "goes":
            await _send_body(writer, request)
            return None
        status = None
        async with anyio.create_task_group() as group:
            group.start_soon(_send_body, writer, request)
            with suppress(OSError, asyncio.IncompleteReadError):
                status = await _read_status(reader)
            group.cancel_scope.cancel()
        return status
    finally:
        writer.close()
        with suppress(OSError):  # the peer has closed it already
            await writer.wait_closed()


def _chunked(request: Request) -> bool:
    return request.attack.delivery == "endless" or (
        request.attack.delivery == "pieces" and request.attack.number % 2 == 0
    )


def make_head(request: Request) -> bytes:
    """Make the head of a request, as on the wire."""
    attack = request.attack
    announces_more = attack.delivery in ("stalls", "goes", "dribbles")
    length = len(request.body) + (_MISSING if announces_more else 0)
    lines = [
        f"{attack.method} {request.path} HTTP/1.1".encode(),
        b"Host: app.example.com",
        *(name + b": " + value for name, value in request.headers),
        b"Transfer-Encoding: chunked" if _chunked(request) else b"Content-Length: %d" % length,
    ]
    return b"\r\n".join([*lines, b"", b""])


async def _send_body(writer: asyncio.StreamWriter, request: Request) -> None:
    chunked = _chunked(request)
    with suppress(OSError):  # refused and closed: the answer tells why
        async with aclosing(_pieces(request)) as pieces:
            async for piece in pieces:
                if piece:
                    writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
                    await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")


async def _read_status(reader: asyncio.StreamReader) -> int:
    """Read the status of the answer, and ignore the rest."""
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1])
