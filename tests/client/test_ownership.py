"""One job, one truth: calls that meet at a job that was not sent, and rows that are read before another call acts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.lowlevel
import pytest

from kie_async import KieClient, SqliteJournal
from kie_async._io.journals.memory import MemoryJournal
from kie_async.testing import FakeKie
from tests.helpers import KEY, JournalClient, assert_settled, make_request
from tests.profile import sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kie_async._io.journals.journal import Journal

JOBS = 6


async def leave_unsent(fake: FakeKie, journal: Path | Journal, jobs: int = JOBS) -> list[str]:
    """Journal jobs with the keys order-0, order-1 …, close the client before they are sent, and return their ids."""
    fake.maintenance = True
    async with JournalClient(KEY, base_url=fake.url, journal=journal) as kie:
        ids = [(await kie.submit(make_request(n), key=f"order-{n}", wait=False)).id for n in range(jobs)]
        await anyio.sleep(1.0)
    fake.maintenance = False
    assert [] == fake.truth.created
    return ids


@pytest.mark.parametrize("place", [0, JOBS // 2, JOBS], ids=["recover first", "recover between", "recover last"])
@pytest.mark.parametrize("disk", [True, False], ids=["disk", "memory"])
async def test_waits_beside_recover_get_the_results(tmp_path: Path, place: int, *, disk: bool) -> None:
    journal: Path | Journal = tmp_path / "kie.db" if disk else MemoryJournal()
    async with FakeKie(duration=30.0) as fake:
        ids = await leave_unsent(fake, journal)
        async with JournalClient(KEY, base_url=fake.url, journal=journal) as kie:
            calls: list[Awaitable[Any]] = [kie.job(job_id).wait() for job_id in ids]
            calls.insert(place, kie.recover())
            with anyio.fail_after(600.0):
                results = await asyncio.gather(*calls)

            del results[place]
            assert JOBS == len(fake.truth.created) == len({video.task_id for video in results})
            await assert_settled(kie)


@pytest.mark.parametrize("waits_first", [True, False])
@pytest.mark.parametrize("inputs", ["full", "hash", "memory"])
async def test_same_key_beside_a_wait_gives_both_the_result(
    tmp_path: Path, inputs: Literal["full", "hash", "memory"], *, waits_first: bool
) -> None:
    journal: Any = MemoryJournal() if inputs == "memory" else SqliteJournal(tmp_path / "kie.db", store_inputs=inputs)
    async with FakeKie(duration=30.0) as fake:
        (job_id,) = await leave_unsent(fake, journal, jobs=1)
        async with JournalClient(KEY, base_url=fake.url, journal=journal) as kie:
            calls = [kie.generate(make_request(0), key="order-0"), kie.job(job_id).wait()]
            with anyio.fail_after(600.0):
                results = await asyncio.gather(*(reversed(calls) if waits_first else calls))
            (task,) = fake.truth.created
            assert [task.task_id] * 2 == [video.task_id for video in results]
            await assert_settled(kie)


async def _last_update(kie: KieClient, job_id: str) -> object:
    return [record async for record in kie.job(job_id).updates()][-1]


#: Calls of another client, or of the same one, that meet recover() at an unsent job; each gets the result.
MEETING: dict[str, Callable[[KieClient, str], Awaitable[object]]] = {
    "wait": lambda kie, job_id: kie.job(job_id).wait(),
    "status": lambda kie, job_id: kie.job(job_id).status(),
    "updates": _last_update,
    "generate": lambda kie, _: kie.generate(make_request(0), key="order-0"),
    "submit": lambda kie, _: kie.submit(make_request(0), key="order-0"),
    "recover": lambda kie, _: kie.recover(),
}


@pytest.mark.parametrize("turns", sample(range(40), check=0.2))
async def test_any_call_may_meet_recover_at_an_unsent_job(tmp_path: Path, turns: int) -> None:
    """All calls at once, *turns* turns of the loop after recover() has begun."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=30.0) as fake:
        (job_id,) = await leave_unsent(fake, path, jobs=1)
        async with KieClient(KEY, base_url=fake.url, journal=path) as kie, anyio.create_task_group() as group:
            group.start_soon(kie.recover)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(600.0):
                await asyncio.gather(*(call(kie, job_id) for call in MEETING.values()))
            (task,) = fake.truth.created
            assert task.task_id == (await kie.job(job_id)).task_id
            await assert_settled(kie)
