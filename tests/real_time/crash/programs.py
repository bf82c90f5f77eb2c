"""The programs of the processes that are killed, and of the processes that replace them."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio._backends._asyncio
import attrs

# Imported here, with anyio's backend above, since each process would import them again on first use.
from kie_async import (
    JSON,
    Job,
    KieClient,
    KieError,
    Limits,
    Request,
    RetryPolicy,
    SubmitInDoubtError,
    Wan22TurboImageToVideo,
)
from kie_async._io.journals.sqlite import SqliteStore
from tests.helpers import JournalClient
from tests.real_time.crash.accelerated_loop import AcceleratedLoop
from tests.real_time.crash.instrumented_wire import InstrumentedSessions
from tests.real_time.crash.journals import BUGS, InstrumentedJournal
from tests.real_time.crash.kill_points import EventLog, KillPoint, KillPoints

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kie_async._io.journals.journal import Journal

__all__ = [
    "KEY",
    "SHOTS",
    "SHOTS_WITH_IMAGE",
    "ProgramOptions",
    "log_errors",
    "prompt",
    "recover_all",
    "submit_all",
    "wait_for",
]

KEY = "any-key-is-good"
#: The number of jobs of a run.
SHOTS = 20
#: The number of jobs that upload an image.
SHOTS_WITH_IMAGE = 2


@attrs.frozen(kw_only=True)
class ProgramOptions:
    """
    The options of a process.

    Attributes:
        url: The URL of the service.

        journal: The file of the journal, or its DSN.

        schema: The schema of a journal in PostgreSQL.

        log: The file of its event log.

        images: The folder with the images to upload.

        kill_at: The point at which it is killed, or None.

        by: The signal that kills it.

        bug: The name of its journal's bug, or None.

        retry: The client's retry policy.

        speed: See ``AcceleratedLoop``.

        epoch: See ``AcceleratedLoop``.
    """

    url: str
    journal: Path | str
    log: Path
    images: Path
    kill_at: KillPoint | None = None
    by: signal.Signals = signal.SIGKILL
    bug: str | None = None
    schema: str = ""
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    speed: float = 20.0
    epoch: float = attrs.field(factory=time.time)


def prompt(number: int) -> str:
    """Return the prompt of a shot, which identifies its task at the service."""
    return f"The cat turns its head, take {number}."


def make_shot(options: ProgramOptions, number: int) -> Request:
    """Return the request of a shot; the first shots upload an image."""
    image = options.images / f"{number}.png" if number < SHOTS_WITH_IMAGE else "https://example.com/cat.png"
    return Wan22TurboImageToVideo(image=image, prompt=prompt(number))


def key(number: int) -> str | None:
    """Return the key of a shot, or None: every other shot has a key."""
    return None if number % 2 else f"shot-{number}"


def submit_all(options: ProgramOptions) -> None:
    """Submit all shots at once and wait for them."""
    _run(options, _submit_shots)


def recover_all(options: ProgramOptions) -> None:
    """Recover and wait for the unfinished jobs, and submit all keys again, as a restarted script does."""
    _run(options, _recover_and_submit)


class _ErrorHandler(logging.Handler):
    """A handler that writes errors of the client into the event log; a correct client logs none."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.ERROR)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(event="log", message=self.format(record))


def log_errors(log: EventLog) -> None:
    """Write errors that the client logs into the event log, and drop its other messages."""
    logger = logging.getLogger("kie_async")
    logger.addHandler(_ErrorHandler(log))
    logger.propagate = False


def _run(options: ProgramOptions, program: Callable[[ProgramOptions, KieClient, EventLog], Awaitable[None]]) -> None:
    log = EventLog(options.log)
    kill_points = KillPoints(options.kill_at, options.by, log)
    log_errors(log)
    with asyncio.Runner(loop_factory=partial(AcceleratedLoop, options.speed, options.epoch)) as runner:
        try:
            runner.run(_with_client(options, kill_points, log, program))
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            log.write(event="left", by=type(error).__name__, at=time.monotonic())
        else:
            log.write(event="done", passed=[str(point) for point in kill_points.passed])


def _open_journal(options: ProgramOptions) -> Journal:
    if isinstance(options.journal, Path):
        return SqliteStore(options.journal)
    from kie_async._io.journals.postgres import PostgresStore  # the other processes need no psycopg

    dsn = options.journal
    return PostgresStore(lambda: dsn, schema=options.schema)


async def _with_client(
    options: ProgramOptions,
    kill_points: KillPoints,
    log: EventLog,
    program: Callable[[ProgramOptions, KieClient, EventLog], Awaitable[None]],
) -> None:
    journal = _open_journal(options)
    if options.bug is not None:
        journal = BUGS[options.bug](journal)
    limits = Limits(creates=2 * SHOTS, window=1.0, polls_per_second=100.0)
    async with JournalClient(
        KEY,
        base_url=options.url,
        limits=limits,
        retry=options.retry,
        journal=InstrumentedJournal(journal, kill_points),
        session_factory=InstrumentedSessions(kill_points),
    ) as kie:
        if options.by is signal.SIGTERM:
            kie.drain_on_sigterm()
        await program(options, kie, log)


async def _submit_shots(options: ProgramOptions, kie: KieClient, log: EventLog) -> None:
    async with anyio.create_task_group() as group:
        for number in range(SHOTS):
            group.start_soon(_submit_shot, options, kie, log, number)


async def _submit_shot(options: ProgramOptions, kie: KieClient, log: EventLog, number: int) -> None:
    try:
        # Half of the callers wait for the task id, the others only for the journal.
        job = await kie.submit(make_shot(options, number), key=key(number), wait=number % 4 < 2)
    except SubmitInDoubtError as error:
        log.write(event=type(error).__name__, shot=number, job=error.job_id)
    except KieError as error:
        log.write(event=type(error).__name__, shot=number, job=error.job_id, message=str(error))
    else:
        log.write(event="journaled", shot=number, job=job.id, task=job.task_id)
        await wait_for(job, log, shot=number)


async def wait_for(job: Job, log: EventLog, **about: JSON) -> None:
    """Wait for a job and log the outcome."""
    try:
        video = await job
    except KieError as error:
        log.write(event=type(error).__name__, job=job.id, task=error.task_id, message=str(error), **about)
    else:
        log.write(event="Generation", job=job.id, task=video.task_id, **about)


async def _recover_and_submit(options: ProgramOptions, kie: KieClient, log: EventLog) -> None:
    async with anyio.create_task_group() as group:
        for number in range(SHOTS):
            if key(number) is not None:
                group.start_soon(_submit_shot, options, kie, log, number)
        jobs = await kie.recover()
        log.write(event="recovered", jobs=[job.id for job in jobs])
        for job in jobs:
            group.start_soon(wait_for, job, log)
