"""The program of several processes that share a journal and a list of jobs, in real time."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import anyio
import attrs

from kie_async import KieClient, Limits, Wan22TurboImageToVideo
from kie_async._io.journals.sqlite import SqliteStore
from tests.helpers import JournalClient
from tests.real_time.crash.journals import InstrumentedJournal
from tests.real_time.crash.kill_points import EventLog, KillPoint, KillPoints, read_log
from tests.real_time.crash.programs import KEY, log_errors, prompt, wait_for

__all__ = ["EACH", "JOBS", "MEMBERS", "SHARED", "MemberOptions", "run_member"]

MEMBERS = 4
#: The number of all jobs.
JOBS = 400
#: The number of jobs of each member, and the number of the next member's jobs that it submits too.
EACH, SHARED = JOBS // MEMBERS, 10
#: The number of jobs of the next member for which each waits by id.
WAITED_BY_ID = 5


@attrs.frozen(kw_only=True)
class MemberOptions:
    """
    The options of a member.

    Attributes:
        url: The URL of the service.

        folder: The folder of the journal and of all logs.

        number: The number of the member, from 0.

        kill_at: The point at which it is killed, or None.

        recovers: True if it recovers as soon as a file called ``recover`` exists.
    """

    url: str
    folder: Path
    number: int
    kill_at: KillPoint | None = None
    recovers: bool = False

    def log_path(self, number: int) -> Path:
        """Return the log file of a member."""
        return self.folder / f"member-{number % MEMBERS}"


def run_member(options: MemberOptions) -> None:
    """Submit some of the jobs and wait for them, and for a few jobs of the next member."""
    log = EventLog(options.log_path(options.number))
    log_errors(log)
    asyncio.run(_main(options, log))
    log.write(event="done")


async def _main(options: MemberOptions, log: EventLog) -> None:
    journal = InstrumentedJournal(
        SqliteStore(options.folder / "kie.db"), KillPoints(options.kill_at, signal.SIGKILL, log)
    )
    limits = Limits(creates=200 // MEMBERS, window=1.0, polls_per_second=100.0)
    async with (
        JournalClient(KEY, base_url=options.url, limits=limits, journal=journal) as kie,
        anyio.create_task_group() as group,
    ):
        for number in range(options.number * EACH, (options.number + 1) * EACH + SHARED):
            group.start_soon(_submit, kie, number % JOBS, log)
        group.start_soon(_wait_by_id, options, kie, log)
        if options.recovers:
            group.start_soon(_recover, options, kie, log)


async def _submit(kie: KieClient, number: int, log: EventLog) -> None:
    request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=prompt(number))
    job = await kie.submit(request, key=f"shot-{number}", wait=False)
    log.write(event="journaled", job=job.id)
    await wait_for(job, log, shot=number)


async def _wait_by_id(options: MemberOptions, kie: KieClient, log: EventLog) -> None:
    ids: list[str] = []
    while len(ids) < WAITED_BY_ID:
        await anyio.sleep(0.05)
        ids = [
            str(entry["job"])
            for entry in read_log(options.log_path(options.number + 1))
            if entry["event"] == "journaled"
        ]
    async with anyio.create_task_group() as group:
        for job_id in ids[:WAITED_BY_ID]:
            group.start_soon(wait_for, kie.job(job_id), log)


async def _recover(options: MemberOptions, kie: KieClient, log: EventLog) -> None:
    while not await anyio.Path(options.folder / "recover").exists():
        await anyio.sleep(0.05)
    began_at = time.monotonic()
    jobs = await kie.recover()
    log.write(event="recovered", jobs=[job.id for job in jobs], seconds=time.monotonic() - began_at)
    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(wait_for, job, log)
