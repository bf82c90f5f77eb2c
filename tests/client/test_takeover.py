"""Workers of one journal that end, or that others take for ended: who sends, polls and binds what they leave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

from kie_async import KieClient
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie
from tests.helpers import KEY, JournalClient, make_request

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async._core.lifecycle import Intent

JOBS = 4


def make_worker(fake: FakeKie, path: Path, **options: Any) -> KieClient:
    return JournalClient(KEY, base_url=fake.url, journal=path, **options)


def remove_locks(path: Path) -> None:
    """Remove the lock files of all workers: workers that come take those that are there for ended."""
    for lock in path.with_name(f"{path.name}.owners").glob("*.lock"):
        lock.unlink()


async def read_rows(path: Path) -> list[Intent]:
    journal = SqliteStore(path)
    await journal.open()
    rows = list(await journal.rows())
    await journal.close()
    return rows


async def test_a_worker_that_lost_its_jobs_sends_none_of_them(tmp_path: Path) -> None:
    """Its callers get the results of the worker that has taken over."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=30.0) as fake, make_worker(fake, path) as lost:
        fake.maintenance = True
        jobs = [await lost.submit(make_request(n), key=f"order-{n}", wait=False) for n in range(JOBS)]
        await anyio.sleep(1.0)
        remove_locks(path)
        async with make_worker(fake, path) as other:
            await other.recover()
            fake.maintenance = False
            with anyio.fail_after(600.0):
                results = await asyncio.gather(*(job.wait() for job in jobs))

            assert JOBS == len(fake.truth.created) == len({result.task_id for result in results})


async def test_late_answer_at_a_worker_that_lost_the_job_binds_the_task(tmp_path: Path) -> None:
    path = tmp_path / "kie.db"
    async with FakeKie(duration=30.0, create_seconds=20.0) as fake, make_worker(fake, path) as lost:
        job = await lost.submit(make_request(), wait=False)
        await anyio.sleep(1.0)
        remove_locks(path)
        async with make_worker(fake, path) as other:
            await other.recover()
            assert [JobState.IN_DOUBT] == [row.state for row in await read_rows(path)]
            with anyio.fail_after(600.0):
                result = await job.wait()

            assert [result.task_id] == list(fake.truth.tasks)
            assert [result.task_id] == [row.task_id for row in await read_rows(path)]
            assert result.task_id == (await other.job(job.id).wait()).task_id


async def test_result_found_by_a_worker_that_lost_the_job_is_recorded(tmp_path: Path) -> None:
    """The service's word is true, also if another worker owns the row."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=60.0) as fake, make_worker(fake, path) as lost:
        job = await lost.submit(make_request())
        remove_locks(path)
        async with make_worker(fake, path) as other:
            await other.recover()
        await job.wait()

        assert 0 == lost.statistics().duplicate_records
        assert [JobState.SUCCEEDED] == [row.state for row in await read_rows(path)]
