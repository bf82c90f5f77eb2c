"""
The fake service without sockets: ``SimService`` answers requests of simulated processes, ``SimTransport`` sends them.

The routes, the account, the tasks, the faults and the callbacks are those of ``FakeKie``; only HTTP is left out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import attrs
from multidict import CIMultiDict
from yarl import URL

from kie_async._core.job_errors import closed_error
from kie_async._io.http.transport import CREATE_TIMEOUT, Exchange, HttpResponse, Transport
from kie_async.testing import FakeKie
from kie_async.testing.responses import FakeResponse, apply_fault, encode
from kie_async.testing.server import IncomingRequest
from kie_async.testing.truth import LoggedCreate

if TYPE_CHECKING:
    from typing import Self

    from kie_async.testing.faults import Fault, FaultPlace
    from kie_async.testing.server import Handler
    from kie_async.testing.truth import LoggedRequest
    from tests.simulation.loop import SimLoop
    from tests.simulation.world import Process

__all__ = ["CALLBACK_URL", "URL_OF_SERVICE", "Deliver", "Reply", "SimService", "SimTransport"]

_OK = 200
URL_OF_SERVICE = "http://127.0.0.1:9"
#: The receiver of all callbacks: a load balancer in front of the workers.
CALLBACK_URL = "http://127.0.0.1:10/kie"
#: Passes a callback to a worker, and returns the status of its answer; raises ``ConnectionError`` if there is none.
Deliver = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]

#: The faults after which nothing of the answer arrives.
_NOTHING = frozenset({"reset", "close", "half_status_line", "garbage"})
_READS = frozenset({"poll", "download", "credit", "download_url"})


@attrs.frozen
class Reply:
    """
    The outcome of a request, as its process learns it.

    Attributes:
        response: The response, or None.

        error: The reason why there is no response.

        partial: The bytes of a response that broke off.
    """

    response: FakeResponse | None = None
    error: str = ""
    partial: bytes = b""


@attrs.frozen
class _Request:
    """The part of aiohttp's request that the routes use."""

    path: str
    headers: CIMultiDict[str]
    query: Mapping[str, str]
    scheme: str = "http"


class SimService:
    """
    The service in its own loop.

    Args:
        loop: The loop of the service.

        fake: The fake, which is not started.

        deliver: Passes callbacks to workers.

        on_created: Called with the name of a process when its create has made a task, before the answer is sent.
    """

    def __init__(self, loop: SimLoop, fake: FakeKie, deliver: Deliver, on_created: Callable[[str], None]) -> None:
        self.loop = loop
        self.fake = fake
        self._deliver = deliver
        self._on_created = on_created
        #: The tasks whose create was answered without a fault, and the processes that have got the answer.
        self.answered: list[tuple[str, str]] = []
        #: The same of the creates whose odd answer names the task.
        self.named: list[tuple[str, str]] = []
        self._server = fake._server
        self._routes: dict[tuple[str, str], tuple[FaultPlace, Handler]] = {
            (method, path): (place, handler) for method, path, place, handler in fake._routes.table()
        }
        self._tasks: dict[asyncio.Task[None], None] = {}
        fake._sender.open_session = lambda **_: _CallbackSession(deliver)  # type: ignore[assignment]
        self._start(fake._sender.run())

    def receive(
        self,
        process: str,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes,
        reply: Callable[[Reply], None],
    ) -> None:
        """Take a request that a process has sent; *reply* is called when the process learns the outcome."""
        self._start(self._serve(process, method, url, headers, body, reply))

    def fails_to_connect(self) -> bool:
        """Return True if a connection to the service fails now."""
        return self._server.pick_fault("connect") is not None

    async def open_receiver(self, process: Process) -> None:
        """Let a process expect callbacks, which are passed to its receiver."""
        process.kie.callbacks.asgi_app()

    async def close_receiver(self, process: Process) -> None:
        """Do nothing: there is no server."""

    async def deliver(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Pass a callback to a worker; return the status of the answer."""
        return await self._deliver(url, headers, body)

    async def read_results(self, _: object) -> dict[str, bytes]:
        """Return nothing: there are no files."""
        return {}

    async def stop(self) -> None:
        """Do nothing: there is no server."""

    def free(self) -> None:
        """Do nothing: there are no sessions."""

    def _start(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _serve(
        self,
        process: str,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes,
        reply: Callable[[Reply], None],
    ) -> None:
        await self._server._travel()
        place, handler = self._routes[method, url.path]
        fault = self._server.pick_fault(place, path=url.path, headers=headers, body=body)
        kind = None if fault is None else fault.kind
        after = fault is None or fault.after
        seconds = (fault.seconds if fault is not None and kind == "slow" else None) or 0.0
        if not after:
            await anyio.sleep(seconds)
        incoming = IncomingRequest(
            request=_Request(url.path, CIMultiDict(headers), url.query),  # type: ignore[arg-type]
            body=body,
            at=self.loop.time(),
            origin=URL_OF_SERVICE,
            performed=after or place in _READS or kind in ("slow", "slow_body"),
            fault=fault,
        )
        entry, response = await handler(incoming)
        entry.fault = fault
        if getattr(entry, "task_id", None) and place == "create":
            self._on_created(process)
        if kind == "silence":
            return
        if fault is not None:
            response = apply_fault(response, fault, redirect_to=f"{URL_OF_SERVICE}/redirected")
            response = _name_elsewhere(entry, kind, response)
        if after:
            await anyio.sleep(seconds)
        await self._server._travel()
        self._log(entry, kind, response)
        if kind in _NOTHING:
            reply(Reply(error="ConnectionResetError"))
        elif kind == "half_body":
            reply(Reply(error="ClientPayloadError", partial=response.body[: len(response.body) // 2]))
        else:
            if isinstance(entry, LoggedCreate) and entry.task_id is not None:
                self._note_answered(process, entry.task_id, fault, response)
            reply(Reply(response))

    def _note_answered(self, process: str, task_id: str, fault: Fault | None, response: FakeResponse) -> None:
        if fault is None:
            self.answered.append((process, task_id))
        elif fault.kind != "slow" and f'"{task_id}"'.encode() in response.body:  # slower than its timeout
            self.named.append((process, task_id))

    def _log(self, entry: LoggedRequest, kind: str | None, response: FakeResponse) -> None:
        entry.answered_at = self.loop.time()
        if kind not in _NOTHING:
            entry.code, entry.status = response.code, response.status


def _name_elsewhere(entry: LoggedRequest, kind: str | None, response: FakeResponse) -> FakeResponse:
    """Return the answer to a create with the id of its task under another name, if that is its fault."""
    if kind != "alter" or not isinstance(entry, LoggedCreate) or entry.task_id is None:
        return response
    return attrs.evolve(response, body=encode({"code": _OK, "recordId": entry.task_id}).encode())


class _CallbackSession:
    """The part of aiohttp's session that the sender of callbacks uses."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""

    def post(self, url: str, *, data: bytes, headers: Mapping[str, str], **_: object) -> _CallbackPost:
        return _CallbackPost(self._deliver, url, headers, data)


class _CallbackPost:
    """One delivery, and its answer."""

    def __init__(self, deliver: Deliver, url: str, headers: Mapping[str, str], body: bytes) -> None:
        self._deliver = deliver
        self._url = url
        self._headers = headers
        self._body = body
        self.status = 0

    async def __aenter__(self) -> Self:
        try:
            self.status = await self._deliver(self._url, self._headers, self._body)
        except ConnectionError as error:
            raise aiohttp.ClientConnectionError from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing."""


def _no_session(**_: object) -> aiohttp.ClientSession:
    msg = "This transport has no sessions."
    raise AssertionError(msg)


class SimTransport(Transport):
    """
    A transport whose requests go to a ``SimService`` without HTTP.

    Args:
        service: The service.

        process: The name of the process.

        loop: The loop of the process.

        api_key: Returns the bearer token.
    """

    def __init__(self, service: SimService, process: str, loop: SimLoop, api_key: Callable[[], str]) -> None:
        super().__init__(
            api_key=api_key,
            base_url=URL_OF_SERVICE,
            upload_url=URL_OF_SERVICE,
            session_factory=_no_session,
            trust_env=False,
        )
        self._service = service
        self._process = process
        self._loop = loop
        self._is_open = False

    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    def abandon(self) -> None:
        self._is_open = False

    async def create(self, body: bytes, *, before_first_byte: Callable[[], Awaitable[None]]) -> Exchange:
        if not self._is_open:
            raise closed_error()
        sent = False
        reply: Reply | None = None
        with anyio.CancelScope() as scope:
            try:
                await self._connect()
                await before_first_byte()
                scope.deadline = anyio.current_time() + CREATE_TIMEOUT
                sent = True
                reply = await self._ask("POST", URL(f"{self._base_url}/api/v1/jobs/createTask"), body)
            except Exception as error:  # noqa: BLE001 (as the real one: no exception hides that a request was sent)
                return Exchange(sent=sent, error=error.with_traceback(None))
        if reply is None:
            return Exchange(sent=sent, error=TimeoutError("no response in time"))
        if reply.response is None:
            return Exchange(sent=True, error=OSError(reply.error), partial=reply.partial)
        return Exchange(sent=True, response=_to_http(reply.response))

    async def _exchange(
        self, method: str, url: URL, timeout: aiohttp.ClientTimeout, data: bytes | aiohttp.FormData | None = None
    ) -> HttpResponse | str:
        if not self._is_open:
            raise closed_error()
        with anyio.move_on_after(timeout.total or math.inf):
            try:
                await self._connect()
            except OSError as error:
                return type(error).__name__
            reply = await self._ask(method, url, data if isinstance(data, bytes) else b"")
            return reply.error if reply.response is None else _to_http(reply.response)
        return "timed out"

    async def _connect(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self._service.fails_to_connect():
            raise ConnectionRefusedError

    async def _ask(self, method: str, url: URL, body: bytes) -> Reply:
        waiter: asyncio.Future[Reply] = self._loop.create_future()

        def settle(reply: Reply) -> None:
            if not waiter.done():
                waiter.set_result(reply)

        def reply_later(reply: Reply) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon(settle, reply)

        self._service.receive(self._process, method, url, self._headers(body), body, reply_later)
        return await waiter


def _to_http(response: FakeResponse) -> HttpResponse:
    retry_after = response.headers.get("Retry-After")
    return HttpResponse(response.status, response.body, None if retry_after is None else float(retry_after))
