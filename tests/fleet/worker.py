"""The program of a worker: a client on a journal, which submits and waits as its commands say, and reports events."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import anyio._backends._asyncio
import attrs
from aiohttp import web

# Imported here, with anyio's backend above, since each process would import them again on first use.
from kie_async import (
    Budget,
    Job,
    KieClient,
    KieError,
    Limits,
    MarketRequest,
    Request,
    RetryPolicy,
    Wan22TurboImageToVideo,
)
from kie_async._core.acknowledged import Repair, Restoration
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.postgres import PostgresStore
from kie_async._io.journals.sqlite import SqliteStore
from tests.helpers import KEY, JournalClient

if TYPE_CHECKING:
    from kie_async import JSON
    from kie_async._io.journals.journal import Journal

__all__ = ["SENDER", "Link", "WorkerOptions", "prompt", "run_worker"]

#: The header in which a worker gives its name to the service.
SENDER = "X-Worker"
_IMAGE = "https://example.com/cat.png"


@attrs.frozen(kw_only=True)
class WorkerOptions:
    """
    The options of a worker.

    Attributes:
        name: Its name at the service.

        url: The URL of the service.

        journal: The path of the journal, or its DSN.

        limits: The client's limits.

        retry: The client's retry policy.

        lease: The seconds after which the other workers take over, where the journal has leases; None for its default.

        heartbeat: The seconds between two heartbeats; None for the journal's default.

        believes: True for a journal that believes what it reads, also after it has gone back in time: a bug.

        callback_url: The URL to which the service posts; None to poll.

        callback_port: The port at which the worker receives callbacks, or None.
    """

    name: str
    url: str
    journal: str
    limits: Limits
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    lease: float | None = None
    heartbeat: float | None = None
    believes: bool = False
    callback_url: str | None = None
    callback_port: int | None = None


class Link:
    """
    One end of the connection between a fleet and a worker; a message is one JSON object.

    Args:
        connection: The end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, **message: JSON) -> None:
        """Send a message; a worker that has ended receives nothing."""
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except (BrokenPipeError, ConnectionResetError):
            return

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the messages of the other end until it is closed."""
        while True:
            await anyio.wait_readable(self._connection.fileno())
            try:
                message: dict[str, Any] = json.loads(self._connection.recv_bytes())
            except (EOFError, ConnectionResetError):
                return
            yield message

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


def prompt(job: str) -> str:
    """Return the prompt of a job, which identifies its task at the service."""
    return f"The cat turns its head, {job}."


def run_worker(options: WorkerOptions, connection: Connection) -> None:
    """
    Run a worker until it is told to end.

    Its commands are ``submit`` (``jobs``: the keys), ``wait`` (``ids``), ``map`` and ``end``. It reports ``ready``,
    then ``journaled`` and ``told`` for each job, ``row`` for each outcome of a table and ``mapped`` at the end of its
    run, each line of its log from WARNING on, and ``ended``.
    """
    link = Link(connection)
    logging.getLogger("kie_async").addHandler(_LinkHandler(link))
    asyncio.run(_main(options, link))
    link.send(event="ended")


async def _main(options: WorkerOptions, link: Link) -> None:
    async with (
        JournalClient(
            KEY,
            base_url=options.url,
            limits=options.limits,
            retry=options.retry,
            journal=_make_journal(options),
            callback_url=options.callback_url,
            session_factory=_NamedSessions(options.name),
        ) as kie,
        AsyncExitStack() as stack,
        anyio.create_task_group() as group,
    ):
        if options.callback_port is not None:
            await stack.enter_async_context(_receive_callbacks(kie, options.callback_port))
        await kie.recover()
        link.send(event="ready")
        async for command in link.messages():
            match command["do"]:
                case "submit":
                    for key in command["jobs"]:
                        group.start_soon(_submit, kie, key, link)
                case "wait":
                    for job_id in command["ids"]:
                        group.start_soon(_wait, kie.job(job_id), link)
                case "map":
                    group.start_soon(_map, kie, command, link)
                case _:
                    break
        group.cancel_scope.cancel()


async def _submit(kie: KieClient, key: str, link: Link) -> None:
    request = Wan22TurboImageToVideo(image=_IMAGE, prompt=prompt(key))
    try:
        job = await kie.submit(request, key=key, wait=False)
    except KieError as error:
        link.send(event="told", key=key, outcome=type(error).__name__, message=str(error), at=time.monotonic())
        return
    link.send(event="journaled", key=key, job=job.id, at=time.monotonic())
    await _wait(job, link)


async def _map(kie: KieClient, command: dict[str, Any], link: Link) -> None:
    """Run a table (``jobs``: the keys) of a ``model``, with ``options`` of ``map()``, within a named ``budget``."""
    model: str = command["model"]
    rows: list[tuple[str, Request]] = [
        (key, MarketRequest(model=model, input={"prompt": prompt(key), "image_url": _IMAGE})) for key in command["jobs"]
    ]
    budget = None if command["budget"] is None else Budget(credits=command["budget"], name="fleet")
    async with kie.map(rows, budget=budget, **command["options"]) as run:
        async for outcome in run:
            link.send(event="row", key=outcome.key, outcome=type(outcome).__name__)
    link.send(event="mapped", **attrs.asdict(run.summary()))


async def _wait(job: Job, link: Link) -> None:
    try:
        outcome, message = type(await job.wait()).__name__, ""
    except KieError as error:
        outcome, message = type(error).__name__, str(error)
    link.send(event="told", job=job.id, outcome=outcome, message=message, at=time.monotonic())


def _make_journal(options: WorkerOptions) -> Journal | str:
    """Return the journal: one with another heartbeat than its own is made here, since that is no option of users."""
    if options.heartbeat is None:
        return options.journal
    if "://" not in options.journal:
        journal = SqliteStore(Path(options.journal))
        journal.heartbeat_interval = options.heartbeat
        return journal
    postgres = PostgresStore(lambda: options.journal)
    postgres.lease, postgres.heartbeat_interval = options.lease or postgres.lease, options.heartbeat
    if options.believes:
        postgres._restoration = _Believing()  # noqa: SLF001 (a planted bug)
    return postgres


class _Believing(Restoration):
    """A bug: nothing was acknowledged."""

    def rows(self) -> Sequence[Intent]:
        return ()

    def least_version(self, job_id: str, seen: Intent | None = None) -> int:  # noqa: ARG002 (the same)
        return 0

    def is_older(self, present: Intent | None, job_id: str, seen: Intent | None = None) -> bool:  # noqa: ARG002
        return False

    def compare(self, present: Mapping[str, Intent], *, forgotten_until: float) -> Sequence[Repair]:  # noqa: ARG002
        return ()


@asynccontextmanager
async def _receive_callbacks(kie: KieClient, port: int) -> AsyncIterator[None]:
    """Serve the client's receiver of callbacks."""
    application = web.Application()
    application.add_routes(kie.callbacks.aiohttp_routes())
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


@attrs.frozen
class _NamedSessions:
    """A ``session_factory`` whose requests have the worker's name."""

    name: str

    def __call__(self, **kwargs: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(**{**kwargs, "headers": {**(kwargs.get("headers") or {}), SENDER: self.name}})


class _LinkHandler(logging.Handler):
    """Reports the log."""

    def __init__(self, link: Link) -> None:
        super().__init__(logging.WARNING)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        self._link.send(event="log", level=record.levelname, message=record.getMessage(), pid=os.getpid())
