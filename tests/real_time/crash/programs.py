"""What runs in the processes that are killed, and in those that come after them."""

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

# Else these two, and anyio's backend above, would be imported on first use, in each process anew.
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
from tests.real_time.crash.hurry import HurriedLoop
from tests.real_time.crash.journals import PLANTS, PerilousJournal
from tests.real_time.crash.perilous_wire import PerilousSessions
from tests.real_time.crash.perils import Diary, Perils, Point

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kie_async._io.journals.journal import Journal

__all__ = ["KEY", "SHOTS", "WITH_IMAGE", "Orders", "complain", "first", "prompt", "second", "wait_for"]

KEY = "any-key-is-good"
#: The jobs of a run.
SHOTS = 20
#: How many of them have an image of their own.
WITH_IMAGE = 2


@attrs.frozen(kw_only=True)
class Orders:
    """
    What a process is told when it is started.

    Attributes:
        url: The service.

        journal: The journal's file.

        diary: Where it writes what it is told.

        images: The folder with the images that have to be uploaded.

        kill_at: Where a signal strikes it, or None.

        by: The signal.

        plant: The bug that its journal has, or None.

        retry: How long it waits for what.

        speed: See ``HurriedLoop``.

        epoch: See ``HurriedLoop``.
    """

    url: str
    journal: Path
    diary: Path
    images: Path
    kill_at: Point | None = None
    by: signal.Signals = signal.SIGKILL
    plant: str | None = None
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    speed: float = 20.0
    epoch: float = attrs.field(factory=time.time)


def prompt(number: int) -> str:
    """The prompt of a shot, by which its task is found at the service."""
    return f"The cat turns its head, take {number}."


def shot(orders: Orders, number: int) -> Request:
    """A request; the first of a run have an image that must be uploaded first."""
    image = orders.images / f"{number}.png" if number < WITH_IMAGE else "https://example.com/cat.png"
    return Wan22TurboImageToVideo(image=image, prompt=prompt(number))


def key(number: int) -> str | None:
    """The key of a shot; every other shot has one."""
    return None if number % 2 else f"shot-{number}"


def first(orders: Orders) -> None:
    """Submit all shots at once and wait for them; one process of those that are killed."""
    _run(orders, _shoot_all)


def second(orders: Orders) -> None:
    """Recover and wait for what is unfinished, and at once start the script again: the same keys, the same requests."""
    _run(orders, _recover)


class _Complaints(logging.Handler):
    """Writes what the client logs as an error into the diary; nothing is to be."""

    def __init__(self, diary: Diary) -> None:
        super().__init__(logging.ERROR)
        self._diary = diary

    def emit(self, record: logging.LogRecord) -> None:
        self._diary.write(told="log", message=self.format(record))


def complain(diary: Diary) -> None:
    """Let what the client logs as an error go into the diary, and the rest nowhere."""
    log = logging.getLogger("kie_async")
    log.addHandler(_Complaints(diary))
    log.propagate = False


def _run(orders: Orders, program: Callable[[Orders, KieClient, Diary], Awaitable[None]]) -> None:
    diary = Diary(orders.diary)
    perils = Perils(orders.kill_at, orders.by, diary)
    complain(diary)
    with asyncio.Runner(loop_factory=partial(HurriedLoop, orders.speed, orders.epoch)) as runner:
        try:
            runner.run(_with_client(orders, perils, diary, program))
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            diary.write(told="left", by=type(error).__name__, at=time.monotonic())
        else:
            diary.write(told="done", trail=[str(point) for point in perils.trail])


async def _with_client(
    orders: Orders, perils: Perils, diary: Diary, program: Callable[[Orders, KieClient, Diary], Awaitable[None]]
) -> None:
    journal: Journal = SqliteStore(orders.journal)
    if orders.plant is not None:
        journal = PLANTS[orders.plant](journal)
    limits = Limits(creates=2 * SHOTS, window=1.0, polls_per_second=100.0)
    async with JournalClient(
        KEY,
        base_url=orders.url,
        limits=limits,
        retry=orders.retry,
        journal=PerilousJournal(journal, perils),
        session_factory=PerilousSessions(perils),
    ) as kie:
        if orders.by is signal.SIGTERM:
            kie.drain_on_sigterm()
        await program(orders, kie, diary)


async def _shoot_all(orders: Orders, kie: KieClient, diary: Diary) -> None:
    async with anyio.create_task_group() as group:
        for number in range(SHOTS):
            group.start_soon(_shoot, orders, kie, diary, number)


async def _shoot(orders: Orders, kie: KieClient, diary: Diary, number: int) -> None:
    try:
        # Half of the callers wait for the taskId, half of them only until the job is in the journal.
        job = await kie.submit(shot(orders, number), key=key(number), wait=number % 4 < 2)
    except SubmitInDoubtError as error:
        diary.write(told=type(error).__name__, shot=number, job=error.job_id)
    except KieError as error:
        diary.write(told=type(error).__name__, shot=number, job=error.job_id, message=str(error))
    else:
        diary.write(told="journaled", shot=number, job=job.id, task=job.task_id)
        await wait_for(job, diary, shot=number)


async def wait_for(job: Job, diary: Diary, **about: JSON) -> None:
    """Wait for a job, and write down what was told."""
    try:
        video = await job
    except KieError as error:
        diary.write(told=type(error).__name__, job=job.id, task=error.task_id, message=str(error), **about)
    else:
        diary.write(told="Generation", job=job.id, task=video.task_id, **about)


async def _recover(orders: Orders, kie: KieClient, diary: Diary) -> None:
    async with anyio.create_task_group() as group:
        for number in range(SHOTS):
            if key(number) is not None:
                group.start_soon(_shoot, orders, kie, diary, number)
        jobs = await kie.recover()
        diary.write(told="recovered", jobs=[job.id for job in jobs])
        for job in jobs:
            group.start_soon(wait_for, job, diary)
