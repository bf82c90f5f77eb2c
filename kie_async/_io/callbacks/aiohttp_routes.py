"""The receiver of callbacks as a route of an aiohttp application."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from kie_async._core.callback_validation import MAX_BODY, MAX_BODY_SECONDS, SIGNATURE_HEADERS

if TYPE_CHECKING:
    from kie_async._io.callbacks.handler import CallbackHandler

__all__ = ["callback_routes"]


def callback_routes(door: CallbackHandler, path: str) -> list[web.RouteDef]:
    """
    The routes below *path*; aiohttp itself answers 405 to anything but a POST.

    Args:
        door: Where callbacks are handed in.

        path: The path of the callback URLs, without the token.
    """

    async def receive(request: web.Request) -> web.Response:
        whole = False
        if (token := door.find(request.match_info["token"])) is None:
            status, body = door.refuse("its URL has no token of ours", status=404)
        else:
            try:
                given = await _read_in_time(request)
            except TimeoutError:
                status, body = door.refuse("its body was too slow", status=408)
            except (ConnectionError, web.RequestPayloadError):
                status, body = door.refuse("its body did not come to an end", status=400)
            else:
                whole = len(given) <= MAX_BODY
                status, body = await door.take(token, _headers(request), given)
        response = web.Response(status=status, body=body, content_type="application/json")
        if not whole:
            await _send_off(request, response)
        return response

    return [web.post(f"{path.rstrip('/')}/{{token}}", receive)]


async def _read_in_time(request: web.Request) -> bytes:
    if request.content.is_eof():
        return await _read(request)  # it came with the headers, as nearly always: that waits for nothing
    async with asyncio.timeout(MAX_BODY_SECONDS):
        return await _read(request)


async def _read(request: web.Request) -> bytes:
    """The body, or of one that is too large as much as shows that it is."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            break
    return bytes(body)


async def _send_off(request: web.Request, response: web.Response) -> None:
    """
    Answer a request that was not read to its end, which is not worth the time.

    Left to itself, aiohttp would go on reading for 10 s, and log an error if what it reads there is broken.
    """
    response.force_close()
    if not request.content.is_eof():
        with suppress(ConnectionError):  # gone already
            await response.prepare(request)
            await response.write_eof()
        request.protocol.force_close()


def _headers(request: web.Request) -> dict[str, str]:
    headers = request.headers
    # Of one that comes twice the last counts, as everywhere else.
    return {name: headers.getall(name)[-1] for name in SIGNATURE_HEADERS if name in headers}
