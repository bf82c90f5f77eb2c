"""Jobs that their owner has given up unsent: any worker sends them when they are asked for again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal

import anyio
import pytest

from kie_async import (
    AuthenticationError,
    InsufficientCreditsError,
    JournalError,
    KeyLimitError,
    KieClient,
    KieError,
    MaintenanceError,
    RetryPolicy,
    SqliteJournal,
    TransportError,
    Wan22TurboImageToVideo,
)
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from tests.helpers import KEY, PROMPT, JournalClient, assert_ledger, assert_settled, make_request
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kie_async._core.lifecycle import Intent

S = JobState
WORKERS = 4
ORDER = "order-7"
#: The refusals by the account, and their errors.
ACCOUNT = {401: AuthenticationError, 402: InsufficientCreditsError, 433: KeyLimitError}


async def start_workers(stack: AsyncExitStack, fake: FakeKie, journal: Any, **options: Any) -> list[KieClient]:
    """Enter workers that share a journal."""
    return [
        await stack.enter_async_context(KieClient(KEY, base_url=fake.url, journal=journal, **options))
        for _ in range(WORKERS)
    ]


async def rows_of(path: Path) -> list[Intent]:
    store = SqliteStore(path)
    await store.open()
    rows = await store.rows()
    await store.close()
    return list(rows)


async def _submit_and_wait(kie: KieClient) -> object:
    return await (await kie.submit(make_request(), key=ORDER, wait=False))


async def _map(kie: KieClient) -> object:
    async with kie.map([(ORDER, make_request())]) as run:
        return [outcome async for outcome in run]


#: The ways in which a customer returns.
RETURNS: dict[str, Callable[[KieClient], Awaitable[object]]] = {
    "generate": lambda kie: kie.generate(make_request(), key=ORDER),
    "submit": lambda kie: kie.submit(make_request(), key=ORDER),
    "submit and wait later": _submit_and_wait,
    "map": _map,
}


@pytest.mark.parametrize("inputs", ["full", "hash"])
@pytest.mark.parametrize("code", ACCOUNT)
async def test_any_worker_tries_what_the_account_has_refused(
    tmp_path: Path, code: int, inputs: Literal["full", "hash"]
) -> None:
    """The first attempt is refused; then each worker is asked in turn until the account can pay."""
    journal = SqliteJournal(tmp_path / "kie.db", store_inputs=inputs)
    async with (
        FakeKie(faults=[Fault("create", "code", code=code, times=WORKERS + 1)]) as fake,
        AsyncExitStack() as stack,
    ):
        workers = await start_workers(stack, fake, journal)
        for turn, kie in enumerate([*workers, workers[1]], 1):
            with pytest.raises(ACCOUNT[code]), anyio.fail_after(60.0):
                await kie.generate(make_request(), key=ORDER)
            assert turn == len(fake.truth.create_requests)
        with anyio.fail_after(600.0):
            video = await workers[2].generate(make_request(), key=ORDER)
        assert [*fake.truth.tasks] == [video.task_id]
        for kie in workers:
            assert video.task_id == (await kie.generate(make_request(), key=ORDER)).task_id
        (row,) = await rows_of(journal.path)
        assert (S.SUCCEEDED, video.task_id, None) == (row.state, row.task_id, row.error)
        for kie in workers:
            await assert_settled(kie)


@pytest.mark.parametrize("way", RETURNS)
@pytest.mark.parametrize("dies", [False, True], ids=["the first worker lives", "the first worker ends"])
async def test_customer_may_return_in_any_way_to_any_worker(tmp_path: Path, way: str, *, dies: bool) -> None:
    async with FakeKie(credits=0.0, duration=30.0) as fake, AsyncExitStack() as stack:
        workers = await start_workers(stack, fake, tmp_path / "kie.db")
        with pytest.raises(InsufficientCreditsError):
            await workers[0].submit(make_request(), key=ORDER)
        fake.credits = 1000.0
        if dies:
            await workers[0].aclose()
        with anyio.fail_after(600.0):
            await RETURNS[way](workers[3])
            await workers[2].job((await rows_of(tmp_path / "kie.db"))[0].id)
        assert 1 == len(fake.truth.created)
        assert_ledger(await rows_of(tmp_path / "kie.db"), fake.truth, lives=WORKERS)


async def test_customers_who_return_at_once_are_sent_once(tmp_path: Path) -> None:
    """To all workers but the first one, twice to each."""
    async with FakeKie(credits=0.0, duration=30.0) as fake, AsyncExitStack() as stack:
        workers = await start_workers(stack, fake, tmp_path / "kie.db")
        with pytest.raises(InsufficientCreditsError):
            await workers[0].submit(make_request(), key=ORDER)
        fake.credits = 1000.0
        with anyio.fail_after(600.0):
            videos = await asyncio.gather(*(kie.generate(make_request(), key=ORDER) for kie in workers[1:] * 2))
        assert {video.task_id for video in videos} == {*fake.truth.tasks}
        assert 2 == len(fake.truth.create_requests), "the refused one, and one more"
        for kie in workers:
            await assert_settled(kie)


@pytest.mark.parametrize("code", ACCOUNT)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_wait_elsewhere_ends_with_the_error_of_the_account(tmp_path: Path, when: str, code: int) -> None:
    """The wait has begun before the refusal, or begins after it; a wait does not send."""
    refusal = Fault("create", "code", code=code, times=1)
    async with FakeKie(faults=[refusal], latency=(2.0, 2.0)) as fake, AsyncExitStack() as stack:
        workers = await start_workers(stack, fake, tmp_path / "kie.db")
        job = await workers[0].submit(make_request(), key=ORDER, wait=False)
        if when == "after":
            await anyio.sleep(10.0)
        for kie in reversed(workers):
            with pytest.raises(ACCOUNT[code]) as raised, anyio.fail_after(60.0):
                await kie.job(job.id).wait()
            assert job.id == raised.value.job_id
        assert 1 == len(fake.truth.create_requests)
        (row,) = await rows_of(tmp_path / "kie.db")
        assert (S.INTENT, None) == (row.state, row.owner)
        for kie in workers:
            await assert_settled(kie)


async def test_recover_sends_what_another_worker_has_given_up(tmp_path: Path) -> None:
    """Also jobs that were queued behind the refused one, and all of them once."""
    path = tmp_path / "kie.db"
    async with FakeKie(credits=0.0, duration=30.0) as fake, AsyncExitStack() as stack:
        workers = await start_workers(stack, fake, path)
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(_refused, workers[0], number)
        fake.credits = 10_000.0
        found = await asyncio.gather(*(kie.recover() for kie in workers[1:]))
        with anyio.fail_after(600.0):
            await asyncio.gather(*(job.wait() for jobs in found for job in jobs))
        rows = await rows_of(path)
        assert {S.SUCCEEDED} == {row.state for row in rows}
        assert 30 == len(fake.truth.created) == len(rows)
        assert_ledger(rows, fake.truth, lives=WORKERS)


async def _refused(kie: KieClient, number: int) -> None:
    with pytest.raises(InsufficientCreditsError):
        await kie.generate(make_request(number), key=f"order-{number}")


@pytest.mark.parametrize("begins", ["before", "after"])
@pytest.mark.parametrize("code", [455, None], ids=["maintenance", "no connection"])
async def test_timeout_before_sending_ends_waits_elsewhere(tmp_path: Path, code: int | None, begins: str) -> None:
    """And the same key is sent by another worker afterwards."""
    faults = [Fault("create", "reset", times=40) if code is None else Fault("create", "code", code=code, times=1)]
    policy = RetryPolicy(maintenance_timeout=30.0, unsent_timeout=30.0)
    error = TransportError if code is None else MaintenanceError
    async with FakeKie(faults=[] if code is None else faults, duration=30.0) as fake, AsyncExitStack() as stack:
        url = "http://127.0.0.1:9" if code is None else fake.url
        one = await stack.enter_async_context(KieClient(KEY, base_url=url, journal=tmp_path / "kie.db", retry=policy))
        other = await stack.enter_async_context(KieClient(KEY, base_url=url, journal=tmp_path / "kie.db", retry=policy))
        job = await one.submit(make_request(), key=ORDER, wait=False)
        if begins == "after":
            await anyio.sleep(200.0)
        with pytest.raises(error), anyio.fail_after(300.0):
            await other.job(job.id).wait()
        assert [S.CANCELLED] == [row.state for row in await rows_of(tmp_path / "kie.db")]
        if code is not None:
            await anyio.sleep(120.0)
            await other.generate(make_request(), key=ORDER)
            assert 1 == len(fake.truth.created)


class Full(SqliteStore):
    """A journal into which no create can be journaled while *full* is True."""

    full = True

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Any
    ) -> Intent | None:
        if self.full and state is S.SENDING:
            msg = "The disk is full. Make room."
            raise JournalError(msg)
        return await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)


async def test_job_that_cannot_be_journaled_is_free_for_others(tmp_path: Path) -> None:
    async with (
        FakeKie(duration=30.0) as fake,
        JournalClient(KEY, base_url=fake.url, journal=Full(tmp_path / "kie.db")) as one,
        KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as other,
    ):
        with pytest.raises(JournalError):
            await one.generate(make_request(), key=ORDER)
        with anyio.fail_after(60.0):
            await other.generate(make_request(), key=ORDER)
        assert 1 == len(fake.truth.create_requests)


async def test_job_whose_upload_fails_is_free_for_others(tmp_path: Path) -> None:
    """Its image is uploaded anew after days, and the upload host does not answer."""
    image = tmp_path / "cat.png"
    image.write_bytes(PNG)
    request = Wan22TurboImageToVideo(image=image, prompt=PROMPT)
    async with FakeKie(credits=0.0, duration=30.0) as fake, AsyncExitStack() as stack:
        workers = await start_workers(stack, fake, SqliteJournal(tmp_path / "kie.db", store_inputs="hash"))
        with pytest.raises(InsufficientCreditsError):
            await workers[0].generate(request, key=ORDER)
        fake.credits = 1000.0
        fake.inject(Fault("upload", "code", code=401, times=1))
        with pytest.raises(KieError):
            await workers[1].generate(request, key=ORDER)
        with anyio.fail_after(600.0):
            video = await workers[2].generate(request, key=ORDER)
        assert [*fake.truth.tasks] == [video.task_id]


async def test_given_up_job_is_tried_again_in_memory() -> None:
    journal = MemoryJournal()
    async with (
        FakeKie(credits=0.0, duration=30.0) as fake,
        JournalClient(KEY, base_url=fake.url, journal=journal) as kie,
    ):
        with pytest.raises(InsufficientCreditsError) as raised:
            await kie.generate(make_request(), key=ORDER)
        with pytest.raises(InsufficientCreditsError):
            await kie.job(raised.value.job_id or "").wait()
        fake.credits = 1000.0
        (job,) = await kie.recover()
        video = await job
        assert [*fake.truth.tasks] == [video.task_id]
        await assert_settled(kie)
