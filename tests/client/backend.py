"""A web backend on the test's own loop: takes what the service posts, and hands it to a client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
import attrs
from aiohttp import web

from kie_async import Event, EventName, KieClient
from tests.helpers import Setup, client_and_fake

if TYPE_CHECKING:
    from kie_async._io.callbacks.adapters import ASGIApp

__all__ = [
    "ADAPTERS",
    "Backend",
    "a_backend",
    "a_called_world",
    "body_of",
    "by_aiohttp",
    "by_asgi",
    "by_hand",
    "duplicates",
    "post",
]

#: Takes a request of aiohttp's server, whatever adapter stands behind it.
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Adapter: TypeAlias = Callable[[KieClient], Handler]


def by_hand(kie: KieClient) -> Handler:
    """``handle()``, as any other framework would call it; callbacks are expected from the first one on."""

    async def take(request: web.Request) -> web.StreamResponse:
        status, body = await kie.callbacks.handle(request.path, request.headers, await request.read())
        return web.Response(status=status, body=body, content_type="application/json")

    return take


def by_aiohttp(kie: KieClient) -> Handler:
    """The handler of ``aiohttp_routes()``."""
    (route,) = kie.callbacks.aiohttp_routes()
    return route.handler


def by_asgi(kie: KieClient) -> Handler:
    """``asgi_app()``, spoken to as ASGI servers do."""
    application = kie.callbacks.asgi_app()

    async def take(request: web.Request) -> web.StreamResponse:
        return await _speak_asgi(application, request)

    return take


ADAPTERS: Mapping[str, Adapter] = {"handle": by_hand, "aiohttp": by_aiohttp, "ASGI": by_asgi}


async def _speak_asgi(application: ASGIApp, request: web.Request) -> web.StreamResponse:
    said: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, object]:
        chunk = await request.content.readany()
        return {"type": "http.request", "body": chunk, "more_body": not request.content.at_eof()}

    async def send(message: MutableMapping[str, object]) -> None:
        said.append(message)

    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()]
    scope: dict[str, object] = {"type": "http", "method": request.method, "path": request.path, "headers": headers}
    await application(scope, receive, send)
    start, body = said
    return web.Response(status=start["status"], body=body["body"], content_type="application/json")


@attrs.define(eq=False)
class Backend:
    """
    A web server of the user's.

    Attributes:
        url: What is given to clients as ``callback_url``.

        take: Takes requests; while it is None there is only a proxy, which says 502.

        answers: The statuses that were answered, in order.
    """

    url: str
    take: Handler | None = None
    answers: list[int] = attrs.field(factory=list)

    def serve(self, kie: KieClient, adapter: Adapter = by_aiohttp) -> None:
        """Hand what comes from now on to a client."""
        self.take = adapter(kie)

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """Take one request."""
        answer = web.Response(status=502) if self.take is None else await self.take(request)
        self.answers.append(answer.status)
        return answer


@asynccontextmanager
async def a_backend() -> AsyncIterator[Backend]:
    """A web server that hands requests to nobody yet."""
    backend = Backend("")
    application = web.Application()
    application.router.add_route("*", "/kie/{token}", backend.receive)
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    backend.url = f"http://127.0.0.1:{site.port}/kie"
    try:
        yield backend
    finally:
        await runner.cleanup()


@asynccontextmanager
async def a_called_world(
    adapter: Adapter = by_aiohttp, *, client: Mapping[str, Any] | None = None, **service: Any
) -> AsyncIterator[tuple[Setup, Backend]]:
    """A world whose service posts to a backend of the client's; when it is left, the ledger must be right."""
    async with (
        a_backend() as backend,
        client_and_fake(client={"callback_url": backend.url, **(client or {})}, **service) as setup,
    ):
        backend.serve(setup.kie, adapter)
        yield setup, backend


def body_of(task_id: str, /, **data: Any) -> bytes:
    """The body of a callback that names a task, and says what it is told to."""
    return json.dumps({"code": 200, "data": {"taskId": task_id, "state": "success", **data}}).encode()


async def post(url: str | None, body: bytes, headers: Mapping[str, str] | None = None) -> int:
    """Post something to a callback URL, as anybody may; returns the status of the answer."""
    cookies = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(cookie_jar=cookies) as session,
        session.post(str(url), data=body, headers=headers) as answer,
    ):
        return answer.status


def duplicates(events: list[Event]) -> list[Any]:
    """The tasks that were reported as paid twice."""
    return [event.detail["duplicate_task_id"] for event in events if event.name is EventName.DUPLICATE]
