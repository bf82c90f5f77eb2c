"""The receiver of callbacks as an ASGI application: pure ASGI 3, with nothing from any framework."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kie_async._core.callback_validation import MAX_BODY, MAX_BODY_SECONDS, SIGNATURE_HEADERS

if TYPE_CHECKING:
    from kie_async._io.callbacks.handler import CallbackHandler

__all__ = ["ASGIApp", "CallbackApp"]

_NOT_ALLOWED = 405
_SIGNATURE_HEADERS = frozenset(name.encode() for name in SIGNATURE_HEADERS)

_Message: TypeAlias = MutableMapping[str, object]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]


class ASGIApp(Protocol):
    """What a server or a framework calls for each connection."""

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Serve one connection."""
        ...


class _GoneError(Exception):
    """The client has gone before its request was complete."""


class CallbackApp:
    """
    The application.

    Args:
        door: Where callbacks are handed in.
    """

    def __init__(self, door: CallbackHandler) -> None:
        self._door = door

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Serve one connection."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await _live(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        whole = False
        if scope["method"] != "POST":
            status, body = self._door.refuse("it is no POST", status=_NOT_ALLOWED)
        elif (token := self._door.find(str(scope["path"]))) is None:
            status, body = self._door.refuse("its URL has no token of ours", status=404)
        else:
            try:
                async with asyncio.timeout(MAX_BODY_SECONDS):
                    given = await _read(receive)
            except TimeoutError:
                status, body = self._door.refuse("its body was too slow", status=408)
            except _GoneError:
                self._door.refuse("its body did not come to an end", status=400)
                return
            else:
                whole = len(given) <= MAX_BODY
                status, body = await self._door.take(token, _headers(scope), given)
        # What has not been read is not worth the time: the connection ends with the answer. (HTTP/2 has no such word.)
        over = not whole and str(scope.get("http_version", "1.1")).startswith("1")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *([(b"allow", b"POST")] if status == _NOT_ALLOWED else []),
            *([(b"connection", b"close")] if over else []),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _read(receive: _Receive) -> bytes:
    """The body, or of one that is too large as much as shows that it is."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _GoneError
        chunk = message.get("body", b"")
        if isinstance(chunk, bytes):
            body += chunk
        if len(body) > MAX_BODY or not message.get("more_body", False):
            return bytes(body)


def _headers(scope: _Message) -> dict[str, str]:
    pairs = scope["headers"]
    return {name.decode(): value.decode("latin-1") for name, value in pairs if name in _SIGNATURE_HEADERS}  # type: ignore[attr-defined]  # ASGI: pairs of bytes


async def _live(receive: _Receive, send: _Send) -> None:
    """Answer a server that runs this application alone; the client belongs to whoever made it."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
