"""
The fake service behind HTTP over pipes: ``FakeKie``, aiohttp's server and clients, and the receivers, all unchanged.

It takes the place of ``SimService``: the sessions of the clients, the sender of callbacks and the receivers of all
workers are the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cache, partial
from random import Random
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp import web
from yarl import URL

from kie_async.testing import FakeKie
from kie_async.testing.media import make_clip
from tests.simulation.service import CALLBACK_URL

if TYPE_CHECKING:
    from kie_async.testing.responses import FakeResponse
    from kie_async.testing.routes import Routes
    from kie_async.testing.server import Handler, IncomingRequest
    from kie_async.testing.truth import LoggedCreate, LoggedRequest
    from tests.simulation.loop import SimLoop
    from tests.simulation.world import Process

__all__ = ["HttpService"]


class _NotedRoutes:
    """
    The routes of a fake, with a note of each create that has made a task.

    Args:
        routes: The routes.

        on_created: Called with the name of the client's process, before the answer is sent.

        answered: Gets the process and the task of each create that is answered without a fault.
    """

    def __init__(self, routes: Routes, on_created: Callable[[str], None], answered: list[tuple[str, str]]) -> None:
        self._routes = routes
        self._on_created = on_created
        self._answered = answered

    def table(self) -> list[tuple[str, str, Any, Handler]]:
        """Return the routes."""
        return [
            (method, path, place, partial(self._create, handler) if place == "create" else handler)
            for method, path, place, handler in self._routes.table()
        ]

    async def _create(self, handler: Handler, incoming: IncomingRequest) -> tuple[LoggedRequest, FakeResponse]:
        transport = incoming.request.transport
        name = "" if transport is None else str(transport.get_extra_info("peername")[0])
        entry, response = await handler(incoming)
        task_id = cast("LoggedCreate", entry).task_id
        if task_id:
            self._on_created(name)
            if incoming.fault is None:
                self._answered.append((name, task_id))
        return entry, response


@cache
def _make_clip(height: int) -> bytes:
    return make_clip(None, height, "")


class HttpService:
    """
    The service in its own loop, and the receivers of callbacks.

    Args:
        loop: The loop of the service.

        fake: The fake, which is started here.

        on_created: Called with the name of a process when its create has made a task, before the answer is sent.

        on_callback: Called with a process, the status of its answer to a callback, and the URL.

        random: Decides if connections are kept.

    Attributes:
        started: Has ended when the service accepts connections.
    """

    def __init__(
        self,
        loop: SimLoop,
        fake: FakeKie,
        on_created: Callable[[str], None],
        on_callback: Callable[[Process, int, str], None],
        random: Random,
    ) -> None:
        self.loop = loop
        self.fake = fake
        #: The processes and tasks of creates that were answered without a fault of the service.
        self.answered: list[tuple[str, str]] = []
        self.named: list[tuple[str, str]] = []
        self._on_callback = on_callback
        # A kept connection does not expire: aiohttp measures its age by the real clock.
        self._keeping: dict[str, Any] = random.choice(({"force_close": True}, {"keepalive_timeout": None}))
        self._sessions: list[aiohttp.ClientSession] = []
        self._receivers: dict[SimLoop, web.AppRunner] = {}
        self._files = fake._routes.file_host.files
        self._files.make_clip = lambda _, height, __: _make_clip(height)
        fake._routes = cast("Routes", _NotedRoutes(fake._routes, on_created, self.answered))
        fake._sender.open_session = self.open_session
        self.started: asyncio.Task[FakeKie] = loop.create_task(fake.__aenter__())

    def open_session(self, **given: Any) -> aiohttp.ClientSession:
        """Open a session, whose connections are kept or not."""
        resolver = None if "connector" not in given else given["connector"].resolver
        given["connector"] = aiohttp.TCPConnector(limit=0, resolver=resolver, **self._keeping)
        session = aiohttp.ClientSession(**given)
        self._sessions.append(session)
        return session

    async def open_receiver(self, process: Process) -> None:
        """Receive callbacks in the loop of a process: each of them accepts a part of the connections."""
        application = web.Application(middlewares=[self._noting(process)])
        application.add_routes(process.kie.callbacks.aiohttp_routes())
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._receivers[process.loop] = runner
        url = URL(CALLBACK_URL)
        await web.TCPSite(runner, url.host, url.port, reuse_port=True).start()

    async def close_receiver(self, process: Process) -> None:
        """Stop to receive callbacks."""
        if runner := self._receivers.pop(process.loop, None):
            await runner.cleanup()

    async def deliver(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Post a callback of a stranger; return the status of the answer."""
        async with self.open_session() as session, session.post(url, data=body, headers=headers) as answer:
            return answer.status

    async def read_results(self, task_ids: Collection[str]) -> dict[str, bytes]:
        """Return the results of tasks."""
        tasks = self.fake.truth.tasks
        return {task_id: await self._files.result_of(tasks[task_id], self.loop.time()) for task_id in task_ids}

    async def stop(self) -> None:
        """End the service."""
        await self.fake.__aexit__(None, None, None)

    def free(self) -> None:
        """Free the sessions of processes that are over, which could not close them."""
        for session in self._sessions:
            if not session.closed and session.connector is not None:
                session.connector._conns.clear()
                session.detach()

    def _noting(self, process: Process) -> Any:
        @web.middleware
        async def note(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            response = await handler(request)
            self._on_callback(process, response.status, str(request.url))
            return response

        return note
