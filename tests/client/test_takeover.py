"""Workers of one journal that end, or that others take for ended: who sends, polls and binds what they leave."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import Generation, KieClient, RetryPolicy, TransportError
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie
from tests import profile
from tests.helpers import KEY, JournalClient, assert_ledger, assert_settled, make_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kie_async import WorkerInfo
    from kie_async._core.lifecycle import Intent
    from kie_async._io.journals.journal import WorkerReport

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
            await anyio.sleep(3.0)
            assert (0, JOBS) == (lost.statistics().submitting, other.statistics().submitting)
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


# -- jobs of workers that end later ------------------------------------------------------------------------------------


async def end_worker(kie: KieClient) -> None:
    """End a worker, whose jobs stay as they are, as after kill -9: the journal gives up its lock."""
    engine = kie._binding.current  # noqa: SLF001
    assert engine is not None
    engine.abandon()


@pytest.mark.parametrize("recovers", [True, False])
async def test_recover_takes_over_from_workers_that_end_later(tmp_path: Path, *, recovers: bool) -> None:
    """It does so within 3 s, sends what was not sent, and polls the rest; a client that has not called it does not."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=60.0) as fake:
        ended = make_worker(fake, path)
        async with make_worker(fake, path) as other:
            found = await other.recover() if recovers else []
            running = await ended.submit(make_request(0))
            fake.maintenance = True
            unsent = await ended.submit(make_request(1), wait=False)
            await anyio.sleep(1.0)
            await end_worker(ended)
            fake.maintenance = False
            await anyio.sleep(3.0)

            assert [] == found
            assert (2 if recovers else 0) == other.statistics().jobs
            await anyio.sleep(300.0)
            states = {row.id: row.state for row in await read_rows(path)}
            ended_as = [JobState.SUCCEEDED] * 2 if recovers else [JobState.SUBMITTED, JobState.INTENT]
            assert ended_as == [states[running.id], states[unsent.id]]
            assert (2 if recovers else 1) == len(fake.truth.created)


async def test_create_of_a_worker_that_ends_later_becomes_in_doubt(tmp_path: Path) -> None:
    path = tmp_path / "kie.db"
    async with FakeKie(duration=60.0, create_seconds=20.0) as fake:
        ended = make_worker(fake, path)
        async with make_worker(fake, path) as other:
            await other.recover()
            await ended.submit(make_request(), wait=False)
            await anyio.sleep(1.0)
            await end_worker(ended)
            await anyio.sleep(3.0)

            assert [JobState.IN_DOUBT] == [row.state for row in await read_rows(path)]
            assert 1 == len(fake.truth.create_requests)


@pytest.mark.parametrize("recovers", ["before", "after", "another"])
async def test_wait_for_an_unsent_job_outlasts_its_owner(tmp_path: Path, recovers: str) -> None:
    """It ends with the result, whichever worker recovers the job, and whenever."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=30.0) as fake:
        ended = make_worker(fake, path)
        async with make_worker(fake, path) as waiting, make_worker(fake, path) as another:
            if recovers == "before":
                await waiting.recover()
            fake.maintenance = True
            jobs = [await ended.submit(make_request(n), wait=False) for n in range(JOBS)]
            results: list[Generation] = []

            async def wait(job_id: str) -> None:
                results.append(await waiting.job(job_id).wait())

            with anyio.fail_after(600.0):
                async with anyio.create_task_group() as group:
                    for job in jobs:
                        group.start_soon(wait, job.id)
                    await anyio.sleep(1.0)
                    await end_worker(ended)
                    fake.maintenance = False
                    await anyio.sleep(20.0)
                    if recovers != "before":
                        await (waiting if recovers == "after" else another).recover()

            assert JOBS == len(fake.truth.created) == len({result.task_id for result in results})


async def test_wait_for_an_unsent_job_ends_if_no_worker_recovers_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kie.db"
    async with FakeKie() as fake:
        ended = make_worker(fake, path)
        fake.maintenance = True
        job = await ended.submit(make_request(), wait=False)
        await anyio.sleep(1.0)  # the create that finds the maintenance has been answered
        async with make_worker(fake, path, retry=RetryPolicy(unsent_timeout=50.0)) as waiting:
            await end_worker(ended)
            began_at = anyio.current_time()
            with pytest.raises(TransportError, match=r"Call recover\(\)"):
                await waiting.job(job.id).wait()

            assert 50.0 <= anyio.current_time() - began_at <= 60.0
            assert 1 == caplog.text.count("once a client calls recover()")
            assert [] == fake.truth.created


async def test_caller_with_the_key_sends_the_job_of_a_worker_that_ends(tmp_path: Path) -> None:
    """It has submitted the request itself, so nothing needs to be recovered."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=30.0) as fake:
        ended = make_worker(fake, path)
        async with make_worker(fake, path) as other:
            fake.maintenance = True
            await ended.submit(make_request(), key="order-7", wait=False)
            await anyio.sleep(1.0)
            async with anyio.create_task_group() as group:
                group.start_soon(partial(other.generate, make_request(), key="order-7", timeout=120.0))
                await anyio.sleep(1.0)
                await end_worker(ended)
                fake.maintenance = False

            assert 1 == len(fake.truth.created)


async def test_worker_enters_anew_and_keeps_jobs_that_no_other_took(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lock file was removed; at its next heartbeat it continues under another name."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=60.0) as fake, make_worker(fake, path) as kie:
        running = await kie.submit(make_request(0))
        fake.maintenance = True
        unsent = await kie.submit(make_request(1), wait=False)
        await anyio.sleep(1.0)
        (before,) = {row.owner for row in await read_rows(path)}
        remove_locks(path)
        await anyio.sleep(5.0)
        (after,) = {row.owner for row in await read_rows(path)}
        fake.maintenance = False
        await running.wait()
        await unsent.wait()

        assert before != after
        assert 1 == caplog.text.count("This worker was away")
        assert 2 == len(fake.truth.created)


class SlowToOpen(SqliteStore):
    """A journal that takes several heartbeats to answer the questions of a client that opens it."""

    heartbeats = 0

    async def count_orphans(self) -> Mapping[JobState, int]:
        await anyio.sleep(4.0 * self.heartbeat_interval)
        return await super().count_orphans()

    async def heartbeat(self, report: WorkerReport) -> Sequence[WorkerInfo]:
        self.heartbeats += 1
        return await super().heartbeat(report)


async def test_worker_that_opens_slowly_sends_heartbeats(tmp_path: Path) -> None:
    """Others would take its jobs over, and it would wait for ever until it may take over theirs."""
    store = SlowToOpen(tmp_path / "kie.db")
    async with FakeKie() as fake, JournalClient(KEY, base_url=fake.url, journal=store):
        begun = store.heartbeats
        await anyio.sleep(4.0 * store.heartbeat_interval)

    assert begun + 3 <= store.heartbeats <= begun + 5


async def test_crashes_in_a_row_add_no_attempts(tmp_path: Path) -> None:
    """Each worker ends within two seconds, in the middle of its work; the next one recovers, and submits more."""
    rng, path = random.Random(profile.seed()), tmp_path / "kie.db"
    lives = profile.scaled(quick=20, check=40, nightly=100)
    async with FakeKie(latency=(0.02, 0.2), duration=20.0) as fake:
        for life in range(lives):
            kie = make_worker(fake, path)
            await kie.recover()
            if life % 2:
                await kie.submit(make_request(life), key=f"order-{life}", wait=False)
            await anyio.sleep(rng.uniform(0.0, 2.0))
            await end_worker(kie)
        async with make_worker(fake, path) as last:
            await last.recover()
            await anyio.sleep(700.0)
            await assert_settled(last)
        rows = await read_rows(path)

        assert [1] * (lives // 2) == [row.attempts for row in rows]
        assert {"succeeded", "unresolved"} == {row.state for row in rows}
        assert len(fake.truth.create_requests) <= lives // 2
        assert_ledger(rows, fake.truth, lives=lives)
