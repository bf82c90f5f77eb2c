"""The command ``listen``: a receiver of callbacks for development, and the log of what it receives."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import anyio
import attrs
import typer

from kie_async import JSON, Event, EventName, JobState, KieError
from kie_async._display import shown
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.fake import wait_for_signal
from kie_async.cli.options import JournalOption, JsonOption, ProxyOption
from kie_async.cli.resume_info import EVENT_MESSAGES
from kie_async.cli.running import run_with_journal
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from aiohttp import web

    from kie_async import KieClient

__all__ = ["MAX_JOBS", "CallbackLog", "CallbackLogEntry", "ListenAddress", "listen", "run_listen"]

#: The seconds between two reads of the journal for jobs that another process may have finished.
CHECK_INTERVAL = 1.0
#: The number of jobs whose ends are awaited; beyond it, the ends of the oldest are not reported.
MAX_JOBS = 100
#: The number of events that wait to be written; beyond it they are counted, and the ends of their jobs are reported.
MAX_QUEUED = 1000

_PATH = re.compile(r"/[\w./~-]*", re.ASCII)
_TOKEN = re.compile(r"kj_\S*")
_UNAUTHORIZED = 401
_NOT_FOUND = 404
_NOT_ALLOWED = 405


@attrs.frozen(kw_only=True)
class CallbackLogEntry:
    """
    A line of the callback log; its attributes are the fields of the JSON.

    Attributes:
        event: ``"listening"``, ``"callback"``, ``"refused"``, ``"ended"`` or ``"omitted"``.

        job_id: The job that the callback token belongs to.

        task_id: The task that the callback names; for ``"ended"``, the job's own task.

        attempt: The create attempt that the token belongs to.

        state: The job's state in the journal: on arrival of the callback, or at the end.

        credits: The task's cost.

        status: The HTTP status with which a callback was refused.

        reason: The reason of the refusal; for ``"omitted"``, the number of requests that came too fast to be written.

        url: The URL that receives callbacks.
    """

    event: str
    job_id: str | None = None
    task_id: JSON = None
    attempt: JSON = None
    state: JSON = None
    credits: float | None = None
    status: JSON = None
    reason: JSON = None
    url: str | None = None

    def __str__(self) -> str:
        match self.event:
            case "callback":
                return f"callback  {self.job_id} attempt {self.attempt} names task {self.task_id}, job {self.state}"
            case "refused":
                job = "" if self.job_id is None else f"{self.job_id} "
                return f"refused   {job}{self.status}: {self.reason}"
            case "ended":
                cost = "" if self.credits is None else f", {self.credits:g} credits"
                return f"ended     {self.job_id} task {self.task_id}: {self.state}{cost}"
            case "omitted":
                return f"omitted   {self.reason}"
            case _:
                return str(self.url)


class CallbackLog:
    """
    A writer of callback events and of the ends of their jobs.

    Args:
        session: The command's session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue: deque[Event | CallbackLogEntry] = deque()
        self._queued = anyio.Event()
        self._omitted = 0
        self._running_jobs: dict[str, None] = {}
        self._printed_hints: set[str] = set()

    def enqueue(self, event: Event | CallbackLogEntry) -> None:
        """Queue an event for writing, so that its sender does not wait; count it if too many wait."""
        if isinstance(event, Event) and event.name is EventName.CALLBACK:
            self._running_jobs[event.job_id or ""] = None
            if len(self._running_jobs) > MAX_JOBS:
                del self._running_jobs[next(iter(self._running_jobs))]
        if len(self._queue) < MAX_QUEUED:
            self._queue.append(event)
        else:
            self._omitted += 1
        self._queued.set()

    def enqueue_refusal(self, status: int, reason: str) -> None:
        """Queue a request that was refused before it reached the client."""
        self.enqueue(CallbackLogEntry(event="refused", status=status, reason=reason))

    async def write_all(self, kie: KieClient) -> None:
        """
        Write entries until the reader of the results has gone.

        Args:
            kie: The client, whose journal says how a job has ended.
        """
        check_at = math.inf
        while True:
            self._queued = anyio.Event()
            for _ in range(len(self._queue)):
                await self._write_event(self._queue.popleft(), kie)
            if self._omitted:
                reason = f"{self._omitted} further events, which came too fast to be written"
                self._omitted = 0
                self.write_entry(CallbackLogEntry(event="omitted", reason=reason))
            if isinstance(self._session.output.broken, BrokenPipeError):
                return
            if anyio.current_time() >= check_at:
                check_at = math.inf
                for job_id in list(self._running_jobs):
                    await self._write_end(job_id, kie)
            check_at = min(check_at, anyio.current_time() + CHECK_INTERVAL) if self._running_jobs else math.inf
            with anyio.move_on_at(check_at):
                await self._queued.wait()

    async def _write_event(self, event: Event | CallbackLogEntry, kie: KieClient) -> None:
        if isinstance(event, CallbackLogEntry):
            self.write_entry(event)
            return
        detail = event.detail
        if event.name is EventName.CALLBACK:
            attempt, state = detail["attempt"], detail["state"]
            self.write_entry(
                CallbackLogEntry(
                    event="callback", job_id=event.job_id, task_id=detail["named_task_id"], attempt=attempt, state=state
                )
            )
        elif event.name is EventName.CALLBACK_REFUSED:
            status, reason = detail["status"], detail["reason"]
            self.write_entry(
                CallbackLogEntry(
                    event="refused",
                    job_id=event.job_id,
                    task_id=detail.get("named_task_id"),
                    status=status,
                    reason=reason,
                )
            )
            self._print_hint(status, event.job_id)
        elif event.name is EventName.DUPLICATE:
            self._session.output.warn(f"{event.job_id}: {EVENT_MESSAGES[event.name]}")
        if event.job_id is not None:
            await self._write_end(event.job_id, kie)

    async def _write_end(self, job_id: str, kie: KieClient) -> None:
        """Write the end of a job once, if it has ended, in this process or in another."""
        if job_id not in self._running_jobs:
            return
        try:
            info = await kie.job(job_id).info()
        except KieError:
            return  # the journal cannot be read at present
        if info is None:
            del self._running_jobs[job_id]
        elif info.state in (JobState.SUCCEEDED, JobState.FAILED):
            del self._running_jobs[job_id]
            self.write_entry(
                CallbackLogEntry(
                    event="ended", job_id=job_id, task_id=info.task_id, state=info.state, credits=info.credits
                )
            )

    def write_entry(self, entry: CallbackLogEntry) -> None:
        """Write an entry at once."""
        self._session.output.result(str(entry), attrs.asdict(entry))

    def _print_hint(self, status: JSON, job_id: str | None) -> None:
        """Print what to do about a refusal, once for each kind."""
        journal = self._session.journal
        if status == _NOT_FOUND and job_id is None:
            hint = (
                "Either the request does not come from Kie, or the job was submitted with another API key than"
                " KIE_API_KEY here: callback tokens are derived from the key."
            )
        elif status == _NOT_FOUND and journal is None:
            hint = f"The token is valid, but without a journal no job is known. The callback was for {job_id}."
        elif status == _NOT_FOUND and journal is not None:
            hint = (
                f"The token is valid, but {job_id} is not in the journal {journal}. Use the journal of the program"
                " that has submitted the job: --journal FILE."
            )
        elif status == _UNAUTHORIZED:
            hint = (
                "Compare --webhook-key (KIE_WEBHOOK_KEY) with the webhookHmacKey at kie.ai/settings, and check this"
                " machine's clock."
            )
        else:
            return
        if hint not in self._printed_hints and len(self._printed_hints) < MAX_JOBS:
            self._printed_hints.add(hint)
            self._session.output.info(f"  {hint}")


@attrs.frozen
class ListenAddress:
    """
    The address that receives callbacks.

    Attributes:
        host: The address to listen on.

        port: The port; 0 for any free port.

        path: The path of the callback URLs, without the token: ``"/kie"``, or ``""``.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    path: str = "/kie"

    def url(self, port: int) -> str:
        """
        Return the callback URL for programs on this machine.

        >>> ListenAddress("::1", path="/hooks/kie").url(8000)
        'http://[::1]:8000/hooks/kie'
        """
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}{self.path}"


async def run_listen(
    session: Session, address: ListenAddress, *, webhook_keys: Sequence[str], until: Callable[[], Awaitable[None]]
) -> ExitCode:
    """
    Receive callbacks and log them.

    Args:
        session: The command's session.

        address: The address that receives them.

        webhook_keys: The account's keys for signatures; empty if signatures are not checked.

        until: A coroutine function that returns when the command shall end.

    Raises:
        KieError: If there is no API key, or the journal cannot be used.

        OSError: If the port is not available.
    """
    log = CallbackLog(session)
    async with (
        session.client(webhook_keys=webhook_keys, on_event=log.enqueue) as kie,
        kie,
        _serve(kie, address, log) as port,
        anyio.create_task_group() as group,
    ):
        output, journal, url = session.output, session.journal, address.url(port)
        log.write_entry(CallbackLogEntry(event="listening", url=url))
        output.info(
            f"This URL receives callbacks. For programs on this machine: callback_url={url!r}. Behind a tunnel to port"
            f" {port}: callback_url='https://YOUR-TUNNEL{address.path}'. Ctrl-C ends the command."
        )
        known = "There is no journal: no job is known" if journal is None else f"Jobs are read from {journal}"
        signed = "are checked" if webhook_keys else "are not checked: no webhook key is set"
        output.info(f"{known}. Signatures {signed}.")

        async def wait_until_end() -> None:
            await until()
            group.cancel_scope.cancel()

        group.start_soon(wait_until_end)
        await log.write_all(kie)
        group.cancel_scope.cancel()
    return ExitCode.DONE


@asynccontextmanager
async def _serve(kie: KieClient, address: ListenAddress, log: CallbackLog) -> AsyncGenerator[int]:
    """Listen while the context is open; yield the port."""
    from aiohttp import web

    async def refuse(request: web.Request) -> web.Response:
        """Refuse a request to any other path; aiohttp tries the routes of callbacks first."""
        status = _NOT_FOUND if request.method == "POST" else _NOT_ALLOWED
        log.enqueue_refusal(status, _refusal_reason(request, address, genuine=kie.callbacks.admits(request.path)))
        response = web.json_response({"code": status, "msg": "refused"}, status=status)
        response.force_close()  # the request's body is not read
        return response

    application = web.Application()
    application.add_routes([*kie.callbacks.aiohttp_routes(address.path), web.route("*", r"/{other:[\s\S]*}", refuse)])
    # No access log: it would contain callback tokens.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port)
        await site.start()
        yield site.port
    finally:
        await runner.cleanup()


def _refusal_reason(request: web.Request, address: ListenAddress, *, genuine: bool) -> str:
    # The path stays percent-encoded, so that it cannot control the terminal, and loses its token, which is a secret.
    path = _TOKEN.sub("kj_…", request.rel_url.raw_path)[:80]
    if request.method != "POST":
        return f"{request.method} {path} is not a POST request"
    if genuine:
        return f"its token is valid, but it arrived at {path}, not at {address.path}/kj_…: see --path"
    return f"POST {path} is not below {address.path}/"


def listen(
    context: typer.Context,
    *,
    host: Annotated[
        str, typer.Option(help="The address to listen on; default: this machine only.")
    ] = ListenAddress().host,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any free port.")] = ListenAddress().port,
    path: Annotated[str, typer.Option(metavar="PATH", help="The path at which callbacks arrive here.")] = (
        ListenAddress().path
    ),
    webhook_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            envvar="KIE_WEBHOOK_KEY",
            help="The account's webhookHmacKey: refuse callbacks without its signature. Repeatable.",
        ),
    ] = None,
    proxy: ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    journal: JournalOption = None,
    no_journal: Annotated[
        bool, typer.Option("--no-journal", help="Know no job: print each callback's job id, and refuse it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Receive callbacks until Ctrl-C; print those received, those refused, and how their jobs end."""
    path = f"/{path.strip('/')}"
    if not _PATH.fullmatch(path):
        msg = f"expected letters, digits and _ . ~ - /, got {shown(path)}."
        raise typer.BadParameter(msg, param_hint="--path")
    address = ListenAddress(host, port, path.rstrip("/"))
    run_with_journal(
        context,
        lambda session: run_listen(session, address, webhook_keys=webhook_key or (), until=wait_for_signal),
        as_json=as_json,
        journal=journal,
        no_journal=no_journal,
    )
