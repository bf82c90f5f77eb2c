"""A web backend in the test's loop that passes the service's callbacks to a client."""

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
    "callback_body",
    "client_with_callbacks",
    "post",
    "reported_duplicates",
    "running_backend",
    "use_aiohttp",
    "use_asgi",
    "use_handle",
]

#: Handles a request of aiohttp's server, with any adapter behind it.
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Adapter: TypeAlias = Callable[[KieClient], Handler]


def use_handle(kie: KieClient) -> Handler:
    """Call ``handle()``, as any other framework would; callbacks are expected from the first one on."""

    async def take(request: web.Request) -> web.StreamResponse:
        status, body = await kie.callbacks.handle(request.path, request.headers, await request.read())
        return web.Response(status=status, body=body, content_type="application/json")

    return take


def use_aiohttp(kie: KieClient) -> Handler:
    """Return the handler of ``aiohttp_routes()``."""
    (route,) = kie.callbacks.aiohttp_routes()
    return route.handler


def use_asgi(kie: KieClient) -> Handler:
    """Call ``asgi_app()``, as ASGI servers do."""
    application = kie.callbacks.asgi_app()

    async def take(request: web.Request) -> web.StreamResponse:
        return await _call_asgi(application, request)

    return take


ADAPTERS: Mapping[str, Adapter] = {"handle": use_handle, "aiohttp": use_aiohttp, "ASGI": use_asgi}


async def _call_asgi(application: ASGIApp, request: web.Request) -> web.StreamResponse:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, object]:
        chunk = await request.content.readany()
        return {"type": "http.request", "body": chunk, "more_body": not request.content.at_eof()}

    async def send(message: MutableMapping[str, object]) -> None:
        sent.append(message)

    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()]
    scope: dict[str, object] = {"type": "http", "method": request.method, "path": request.path, "headers": headers}
    await application(scope, receive, send)
    start, body = sent
    return web.Response(status=start["status"], body=body["body"], content_type="application/json")


@attrs.define(eq=False)
class Backend:
    """
    A user's web server.

    Attributes:
        url: The ``callback_url`` of clients.

        handler: Handles requests; while it is None, a proxy answers 502.

        answers: The statuses of its answers, in order.
    """

    url: str
    handler: Handler | None = None
    answers: list[int] = attrs.field(factory=list)

    def serve(self, kie: KieClient, adapter: Adapter = use_aiohttp) -> None:
        """Pass further requests to a client."""
        self.handler = adapter(kie)

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """Handle one request."""
        answer = web.Response(status=502) if self.handler is None else await self.handler(request)
        self.answers.append(answer.status)
        return answer


@asynccontextmanager
async def running_backend() -> AsyncIterator[Backend]:
    """Yield a web server that has no client yet."""
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
async def client_with_callbacks(
    adapter: Adapter = use_aiohttp, *, client: Mapping[str, Any] | None = None, **service: Any
) -> AsyncIterator[tuple[Setup, Backend]]:
    """Yield a client, a fake that posts to its backend, and the backend; check the ledger at the end."""
    async with (
        running_backend() as backend,
        client_and_fake(client={"callback_url": backend.url, **(client or {})}, **service) as setup,
    ):
        backend.serve(setup.kie, adapter)
        yield setup, backend


def callback_body(task_id: str, /, **data: Any) -> bytes:
    """Make the body of a callback that names a task."""
    return json.dumps({"code": 200, "data": {"taskId": task_id, "state": "success", **data}}).encode()


async def post(url: str | None, body: bytes, headers: Mapping[str, str] | None = None) -> int:
    """Post to a callback URL, as anyone may; return the status of the answer."""
    cookies = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(cookie_jar=cookies) as session,
        session.post(str(url), data=body, headers=headers) as answer,
    ):
        return answer.status


def reported_duplicates(events: list[Event]) -> list[Any]:
    """Return the tasks that were reported as paid twice."""
    return [event.detail["duplicate_task_id"] for event in events if event.name is EventName.DUPLICATE]
