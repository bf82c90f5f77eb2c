"""Adapters of the callback receiver: a pure ASGI 3 application, and routes for aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

from kie_async._core.callback_validation import MAX_BODY, MAX_BODY_SECONDS, SIGNATURE_HEADERS

if TYPE_CHECKING:
    from aiohttp import web

    from kie_async._core.callback_token import CallbackToken

__all__ = ["ASGIApp", "CallbackApp", "CallbackHandler", "callback_routes"]

_METHOD_NOT_ALLOWED = 405
_BAD_TOKEN = "its URL has no token of ours"  # noqa: S105 (a reason)
_SLOW_BODY = "its body was too slow"
_INCOMPLETE_BODY = "its body was incomplete"


class _Refuse(Protocol):
    def __call__(self, reason: str, *, status: int) -> tuple[int, bytes]: ...


@attrs.frozen(kw_only=True)
class CallbackHandler:
    """
    The functions that an adapter calls.

    Attributes:
        find_token: Return our token at the end of a path, or None; called before a body is read.

        accept: Accept a callback with its token, its ``SIGNATURE_HEADERS`` with names in lower case, and its body;
            return status and body of the answer.

        refuse: Report a refused callback, and return status and body of the answer.
    """

    find_token: Callable[[str], CallbackToken | None]
    accept: Callable[[CallbackToken, Mapping[str, str], bytes], Awaitable[tuple[int, bytes]]]
    refuse: _Refuse


# -- ASGI -------------------------------------------------------------------------------------------------------------

_HEADER_NAMES = frozenset(name.encode() for name in SIGNATURE_HEADERS)

_Message: TypeAlias = MutableMapping[str, object]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]


class ASGIApp(Protocol):
    """An ASGI application, which a server or a framework calls for each connection."""

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Serve one connection."""
        ...


class _DisconnectedError(Exception):
    """The peer has disconnected before its request was complete."""


class CallbackApp:
    """
    The ASGI application that receives callbacks.

    Args:
        handler: Accepts and refuses callbacks.
    """

    def __init__(self, handler: CallbackHandler) -> None:
        self._handler = handler

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Serve one connection."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await _serve_lifespan(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        handler, complete = self._handler, False
        if scope["method"] != "POST":
            status, body = handler.refuse("it is not a POST", status=_METHOD_NOT_ALLOWED)
        elif (token := handler.find_token(str(scope["path"]))) is None:
            status, body = handler.refuse(_BAD_TOKEN, status=404)
        else:
            try:
                async with asyncio.timeout(MAX_BODY_SECONDS):
                    posted = await _read_messages(receive)
            except TimeoutError:
                status, body = handler.refuse(_SLOW_BODY, status=408)
            except _DisconnectedError:
                handler.refuse(_INCOMPLETE_BODY, status=400)
                return
            else:
                complete = len(posted) <= MAX_BODY
                status, body = await handler.accept(token, _asgi_headers(scope), posted)
        # Close the connection rather than read the rest of the body. (HTTP/2 has no such header.)
        close = not complete and str(scope.get("http_version", "1.1")).startswith("1")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *([(b"allow", b"POST")] if status == _METHOD_NOT_ALLOWED else []),
            *([(b"connection", b"close")] if close else []),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _read_messages(receive: _Receive) -> bytes:
    """Return the body; of one that is too large, enough to show that it is."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _DisconnectedError
        chunk = message.get("body", b"")
        if isinstance(chunk, bytes):
            body += chunk
        if len(body) > MAX_BODY or not message.get("more_body", False):
            return bytes(body)


def _asgi_headers(scope: _Message) -> dict[str, str]:
    pairs = scope["headers"]
    return {name.decode(): value.decode("latin-1") for name, value in pairs if name in _HEADER_NAMES}  # type: ignore[attr-defined]  # ASGI: pairs of bytes


async def _serve_lifespan(receive: _Receive, send: _Send) -> None:
    """Answer a server that runs this application alone; the client's own lifespan is its owner's business."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


# -- aiohttp ----------------------------------------------------------------------------------------------------------


def callback_routes(handler: CallbackHandler, path: str) -> list[web.RouteDef]:
    """
    Return the routes for all that is below *path*; aiohttp itself answers 405 to anything but a POST.

    As in the other adapter, the token is the last segment of the decoded path, and slashes may follow.

    Args:
        handler: Accepts and refuses callbacks.

        path: The path of the callback URLs, without the token.
    """
    from aiohttp import web

    async def serve(request: web.Request) -> web.Response:
        complete = False
        if (token := handler.find_token(request.path)) is None:
            status, body = handler.refuse(_BAD_TOKEN, status=404)
        else:
            try:
                posted = await _read_stream(request)
            except TimeoutError:
                status, body = handler.refuse(_SLOW_BODY, status=408)
            except (ConnectionError, web.RequestPayloadError):
                status, body = handler.refuse(_INCOMPLETE_BODY, status=400)
            else:
                complete = len(posted) <= MAX_BODY
                status, body = await handler.accept(token, _aiohttp_headers(request), posted)
        response = web.Response(status=status, body=body, content_type="application/json")
        if not complete:
            await _answer_and_close(request, response)
        return response

    return [web.post(f"{path.rstrip('/')}/{{tail:[\\s\\S]*}}", serve)]


async def _read_stream(request: web.Request) -> bytes:
    """Return the body; of one that is too large, enough to show that it is."""
    body = bytearray()
    # Nearly always the body came with the headers: no need for a timeout.
    async with asyncio.timeout(None if request.content.is_eof() else MAX_BODY_SECONDS):
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY:
                break
    return bytes(body)


async def _answer_and_close(request: web.Request, response: web.Response) -> None:
    """
    Answer a request whose body was not read completely, and close the connection.

    aiohttp would otherwise read on for 10 s, and log an error if the rest is invalid.
    """
    response.force_close()
    if not request.content.is_eof():
        with suppress(ConnectionError):  # the peer has already disconnected
            await response.prepare(request)
            await response.write_eof()
        request.protocol.force_close()


def _aiohttp_headers(request: web.Request) -> dict[str, str]:
    headers = request.headers
    # Of a repeated header the last one counts, as in the other adapters.
    return {name: headers.getall(name)[-1] for name in SIGNATURE_HEADERS if name in headers}
