"""One of several processes that share a journal and a list of jobs, in real time."""

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
from tests.real_time.crash.journals import PerilousJournal
from tests.real_time.crash.perils import Diary, Perils, Point, read_diary
from tests.real_time.crash.programs import KEY, complain, prompt, wait_for

__all__ = ["EACH", "JOBS", "MEMBERS", "SHARED", "Share", "member"]

MEMBERS = 4
#: The jobs of all.
JOBS = 400
#: How many jobs each submits: its hundred, and the first of the next one's.
EACH, SHARED = JOBS // MEMBERS, 10
#: For how many jobs of the next one each waits by their ids.
ATTACHED = 5


@attrs.frozen(kw_only=True)
class Share:
    """
    What a member is told when it is started.

    Attributes:
        url: The service.

        folder: Where the journal and all diaries are.

        number: Which member it is, from 0.

        kill_at: Where it is killed, or None.

        recovers: Whether it recovers, as soon as there is a file of the name ``recover``.
    """

    url: str
    folder: Path
    number: int
    kill_at: Point | None = None
    recovers: bool = False

    def diary(self, number: int) -> Path:
        """The diary of a member."""
        return self.folder / f"member-{number % MEMBERS}"


def member(share: Share) -> None:
    """Submit a share of the jobs and wait for them, and for a few jobs of the next member."""
    diary = Diary(share.diary(share.number))
    complain(diary)
    asyncio.run(_main(share, diary))
    diary.write(told="done")


async def _main(share: Share, diary: Diary) -> None:
    journal = PerilousJournal(SqliteStore(share.folder / "kie.db"), Perils(share.kill_at, signal.SIGKILL, diary))
    limits = Limits(creates=200 // MEMBERS, window=1.0, polls_per_second=100.0)
    async with (
        JournalClient(KEY, base_url=share.url, limits=limits, journal=journal) as kie,
        anyio.create_task_group() as group,
    ):
        for number in range(share.number * EACH, (share.number + 1) * EACH + SHARED):
            group.start_soon(_submit, kie, number % JOBS, diary)
        group.start_soon(_attach, share, kie, diary)
        if share.recovers:
            group.start_soon(_recover, share, kie, diary)


async def _submit(kie: KieClient, number: int, diary: Diary) -> None:
    request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=prompt(number))
    job = await kie.submit(request, key=f"shot-{number}", wait=False)
    diary.write(told="journaled", job=job.id)
    await wait_for(job, diary, shot=number)


async def _attach(share: Share, kie: KieClient, diary: Diary) -> None:
    ids: list[str] = []
    while len(ids) < ATTACHED:
        await anyio.sleep(0.05)
        ids = [str(entry["job"]) for entry in read_diary(share.diary(share.number + 1)) if entry["told"] == "journaled"]
    async with anyio.create_task_group() as group:
        for job_id in ids[:ATTACHED]:
            group.start_soon(wait_for, kie.job(job_id), diary)


async def _recover(share: Share, kie: KieClient, diary: Diary) -> None:
    while not await anyio.Path(share.folder / "recover").exists():
        await anyio.sleep(0.05)
    began_at = time.monotonic()
    jobs = await kie.recover()
    diary.write(told="recovered", jobs=[job.id for job in jobs], seconds=time.monotonic() - began_at)
    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(wait_for, job, diary)
