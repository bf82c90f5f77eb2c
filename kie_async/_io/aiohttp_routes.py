"""The receiver of callbacks as a route of an aiohttp application."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from kie_async._core.callbacks import MAX_BODY, MAX_SECONDS, SIGNATURE_HEADERS

if TYPE_CHECKING:
    from kie_async._io.door import Door

__all__ = ["callback_routes"]


def callback_routes(door: Door, path: str) -> list[web.RouteDef]:
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
            else:
                whole = len(given) <= MAX_BODY
                status, body = await door.take(token, _headers(request), given)
        response = web.Response(status=status, body=body, content_type="application/json")
        if not whole:
            response.force_close()  # what has not been read is not worth the time
        return response

    return [web.post(f"{path.rstrip('/')}/{{token}}", receive)]


async def _read_in_time(request: web.Request) -> bytes:
    if request.content.is_eof():
        return await _read(request)  # it came with the headers, as nearly always: that waits for nothing
    async with asyncio.timeout(MAX_SECONDS):
        return await _read(request)


async def _read(request: web.Request) -> bytes:
    """The body, or of one that is too large as much as shows that it is."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BODY:
            break
    return b"".join(chunks)


def _headers(request: web.Request) -> dict[str, str]:
    headers = request.headers
    return {name: headers[name] for name in SIGNATURE_HEADERS if name in headers}
