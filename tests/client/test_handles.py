"""Handles to jobs and to foreign tasks."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import anyio.lowlevel
import pytest

from kie_async import (
    AuthenticationError,
    ConfigurationError,
    KieError,
    ProtocolError,
    RetryPolicy,
    SubmitInDoubtError,
    TaskNotFoundError,
    TaskTimeoutError,
    TransportError,
)
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from tests.helpers import KEY, JournalClient, assert_settled, client_and_fake, create_foreign_task, make_request
from tests.io.intents import make_intent


async def test_job_keeps_its_task_id() -> None:
    """It is None until it is known, and never changes afterwards."""
    async with client_and_fake(create_seconds=5.0, duration=20.0) as setup:
        job = await setup.kie.submit(make_request(0), wait=False)
        assert (None, "intent") == (job.task_id, job.state)
        assert job.id.startswith("kj_")
        await anyio.sleep(1.0)
        assert (None, "sending") == (job.task_id, job.state)
        await anyio.sleep(5.0)
        assert (setup.tasks[0], "submitted") == (job.task_id, job.state)
        await job
        assert (setup.tasks[0], "succeeded") == (job.task_id, job.state)

        waited = await setup.kie.submit(make_request(1))
        await anyio.sleep(100.0)
        assert setup.tasks[1] == waited.task_id


async def test_submit_without_wait_returns_once_journaled() -> None:
    async with client_and_fake(create_seconds=5.0) as setup:
        job = await setup.kie.submit(make_request(), wait=False)

        assert anyio.current_time() < 0.1
        assert [] == setup.truth.create_requests
        assert job.id == (await setup.row()).id
        assert setup.truth.create_requests is not None
        await job


async def test_wait_timeout_leaves_task_running() -> None:
    async with client_and_fake(duration=100.0) as setup:
        job = await setup.kie.submit(make_request())
        with pytest.raises(TaskTimeoutError, match="wait again") as raised:
            await job.wait(timeout=30.0)
        assert 30.0 <= anyio.current_time() < 31.0
        assert (job.id, setup.tasks[0]) == (raised.value.job_id, raised.value.task_id)
        assert 0 == setup.kie.statistics().waiters

        await job
        assert setup.tasks[0] == (await job.wait(timeout=0.0)).task_id
        await assert_settled(setup.kie)


async def test_client_repr_shows_statistics() -> None:
    """The repr shows what is not zero, so that a hanging program shows what it does."""
    async with client_and_fake(duration=100.0) as setup:
        await setup.kie.submit(make_request())
        await anyio.sleep(10.0)
        now = setup.kie.statistics()

        assert f"<KieClient {setup.fake.url} jobs=1 in_flight=1 watched=1 polls={now.polls}>" == repr(setup.kie)
        await setup.kie.job(setup.tasks[0])
        await anyio.sleep(1.0)
        assert f"<KieClient {setup.fake.url} polls={setup.kie.statistics().polls}>" == repr(setup.kie)


async def test_second_await_makes_no_request() -> None:
    async with client_and_fake() as setup:
        job = await setup.kie.submit(make_request())
        first = await job
        polls = len(setup.truth.polls)
        second = await setup.kie.job(job.id)
        third = await setup.kie.job(setup.tasks[0])

        assert first.record == second.record == third.record
        assert job.id == second.job_id == third.job_id
        assert polls == len(setup.truth.polls)


@pytest.mark.parametrize("timeout", [None, 1000.0], ids=["for its life", "with a time-out"])
@pytest.mark.parametrize("ended", [False, True], ids=["while it runs", "when it has ended"])
async def test_handle_knows_state_after_wait(timeout: float | None, *, ended: bool) -> None:
    async with client_and_fake(duration=100.0) as setup:
        submitted = await setup.kie.submit(make_request())
        if ended:
            await submitted
        job = setup.kie.job(submitted.id)
        before = job.state
        await job.wait(timeout)

        assert (None if ended else "submitted") == before
        assert ("succeeded", setup.tasks[0]) == (job.state, job.task_id)


async def test_updates_yield_each_change_once() -> None:
    async with client_and_fake(duration=100.0, seed=5) as setup:
        states = ("waiting", "queuing", "generating")
        job = await setup.kie.submit(make_request())
        setup.truth.created[0].stages = ((0.0, states[0]), (0.2, states[1]), (0.5, states[2]))
        seen = [record.state async for record in job.updates()]

        assert [*states, "success"] == seen
        assert [] == [record.state async for record in job.updates()][1:]
        await assert_settled(setup.kie)


async def test_updates_of_failed_task_end_with_its_record() -> None:
    async with client_and_fake(fail_rate=1.0) as setup:
        job = await setup.kie.submit(make_request())

        assert "fail" == [record.state async for record in job.updates()][-1]
        await assert_settled(setup.kie)


async def test_updates_of_a_task_that_hangs_end_as_a_wait_does() -> None:
    async with client_and_fake(client={"retry": RetryPolicy(max_age=600.0)}, duration=math.inf) as setup:
        job = await setup.kie.submit(make_request())
        with pytest.raises(TaskTimeoutError):
            [record async for record in job.updates()]
        assert 600.0 <= anyio.current_time() < 1000.0


async def test_updates_show_unknown_states() -> None:
    fault = Fault("poll", "alter", data={"state": "reviewing"}, times=3)
    async with client_and_fake(faults=[fault], duration=1.0) as setup:
        job = await setup.kie.submit(make_request())

        assert ["reviewing", "success"] == [record.state async for record in job.updates()]


async def test_updates_of_refused_job_raise_its_error() -> None:
    async with client_and_fake(faults=[Fault("create", "reset", after=True)]) as setup:
        job = await setup.kie.submit(make_request(), wait=False)
        with pytest.raises(SubmitInDoubtError):
            [record async for record in job.updates()]


@pytest.mark.parametrize("foreign", [False, True])
async def test_closed_updates_leak_nothing(*, foreign: bool) -> None:
    async with client_and_fake(duration=50.0) as setup:
        job = await setup.kie.submit(make_request())
        handle = setup.kie.job(await create_foreign_task(setup.fake.url)) if foreign else job
        async with aclosing(handle.updates()) as updates:
            async for record in updates:
                assert record.state in ("waiting", "queuing", "generating")
                break
        assert (1, 1) == ((now := setup.kie.statistics()).jobs, now.watched)
        await job
        await assert_settled(setup.kie)
        if foreign:
            setup.truth.tasks.pop(handle.id)  # the task is not this client's


async def test_status_polls_now_and_updates_job() -> None:
    async with client_and_fake(duration=1e6) as setup:
        job = await setup.kie.submit(make_request())
        before = anyio.current_time()
        assert "waiting" == (await job.status()).state
        setup.fake.finish(setup.tasks[0])
        record = await job.status()

        assert anyio.current_time() - before < 0.1
        assert ("success", setup.tasks[0]) == (record.state, record.task_id)
        assert record == (await job).record
        await assert_settled(setup.kie)


async def test_status_waits_for_task_id() -> None:
    async with client_and_fake(create_seconds=5.0, duration=50.0) as setup:
        job = await setup.kie.submit(make_request(), wait=False)

        record = await job.status()
        assert setup.tasks == [record.task_id]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("poll", "reset"), TransportError),
        (Fault("poll", "silence"), TransportError),
        (Fault("poll", "html"), ProtocolError),
        (Fault("poll", "code", code=401), AuthenticationError),
        (Fault("poll", "code", code=422, msg="recordInfo is null"), TaskNotFoundError),
    ],
    ids=["reset", "silence", "html", "401", "422"],
)
async def test_status_error_says_why_record_is_missing(fault: Fault, expected: type[KieError]) -> None:
    """The error has the ids, and the job does not change."""
    async with client_and_fake(faults=[fault], duration=1e6) as setup:
        job = await setup.kie.submit(make_request())
        with pytest.raises(expected) as raised:
            await job.status()

        assert "submitted" == job.state
        if expected is not TransportError:
            assert (job.id, setup.tasks[0]) == (raised.value.job_id, raised.value.task_id)


async def test_status_of_job_in_doubt_raises() -> None:
    async with client_and_fake(faults=[Fault("create", "reset", after=True)]) as setup:
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        with pytest.raises(SubmitInDoubtError):
            await raised.value.job.status()


async def test_foreign_task_can_be_awaited() -> None:
    """A foreign task is polled while a caller waits, and never enters the journal."""
    async with client_and_fake(duration=50.0) as setup:
        task_id = await create_foreign_task(setup.fake.url)
        job = setup.kie.job(task_id)
        assert (task_id, task_id, None) == (job.id, job.task_id, job.state)
        with pytest.raises(TaskTimeoutError) as raised:
            await job.wait(timeout=10.0)
        assert (None, task_id) == (raised.value.job_id, raised.value.task_id)
        await assert_settled(setup.kie)
        video = await job

        assert (task_id, None) == (video.task_id, video.job_id)
        assert [] == await setup.rows()
        await assert_settled(setup.kie)
        setup.truth.tasks.clear()  # the task is not this client's


async def test_two_callers_await_one_foreign_task() -> None:
    async with client_and_fake(duration=50.0) as setup:
        task_id = await create_foreign_task(setup.fake.url)
        results: list[str] = []

        async def wait(timeout: float | None) -> None:
            results.append((await setup.kie.job(task_id).wait(timeout)).task_id)

        async with anyio.create_task_group() as group:
            group.start_soon(wait, None)
            group.start_soon(wait, 500.0)
            with anyio.move_on_after(5.0):
                await wait(None)
        assert [task_id, task_id] == results
        await assert_settled(setup.kie)
        setup.truth.tasks.clear()


async def test_unknown_task_is_not_awaited_forever() -> None:
    """A new task may be invisible at first. After 90 s it counts as not found."""
    async with client_and_fake() as setup:
        job = setup.kie.job("f" * 32)
        with pytest.raises(TaskNotFoundError) as raised:
            await job

        assert 90.0 <= anyio.current_time() <= 100.0
        assert "f" * 32 == raised.value.task_id
        await assert_settled(setup.kie)
        with pytest.raises(TaskNotFoundError):
            await job.status()
        await assert_settled(setup.kie)


async def test_unknown_job_id_is_not_found_at_once() -> None:
    async with client_and_fake() as setup:
        job = setup.kie.job("kj_" + "0" * 32)
        assert (None, None) == (job.task_id, job.state)
        for call in (job.wait, job.status, job.abandon, lambda: anext(job.updates())):
            with pytest.raises(TaskNotFoundError, match="journal"):
                await call()
        assert [] == setup.truth.polls
        await assert_settled(setup.kie)


async def test_jobs_lists_all_and_forget_deletes_ended() -> None:
    async with client_and_fake() as setup:
        start = asyncio.get_running_loop().wall_time()  # type: ignore[attr-defined]  # the virtual loop has one
        old = await setup.kie.submit(make_request(0), key="old")
        await old
        await anyio.sleep(1000.0)
        recent = await setup.kie.submit(make_request(1))
        await recent
        running = await setup.kie.submit(make_request(2))

        assert [old.id, recent.id, running.id] == [job.job_id for job in await setup.kie.jobs()]
        assert 0 == await setup.kie.forget(before=start)
        assert 1 == await setup.kie.forget(before=start + 900.0)
        assert [recent.id, running.id] == [job.job_id for job in await setup.kie.jobs()]
        assert 1 == await setup.kie.forget(before=math.inf)
        assert [running.id] == [job.job_id for job in await setup.kie.jobs()]
        with pytest.raises(TaskNotFoundError):
            await old
        setup.truth.tasks.pop(setup.tasks[0])
        setup.truth.tasks.pop(setup.tasks[0])
        await running


async def test_recover_yields_to_loop_between_jobs() -> None:
    """With any number of rows, the loop is blocked only for the time of a few of them."""
    journal = MemoryJournal()
    async with FakeKie() as fake, JournalClient(KEY, base_url=fake.url, journal=journal) as kie:
        await kie.jobs()
        for number in range(1000):
            await journal.add(make_intent(number, state=JobState.SUBMITTED, task_id=f"t{number}"))
        taken_up = [0]
        async with anyio.create_task_group() as group:
            group.start_soon(kie.recover)
            while taken_up[-1] < 1000:
                await anyio.lowlevel.checkpoint()
                taken_up.append(kie.statistics().jobs)

        assert max(after - before for before, after in pairwise(taken_up)) <= 64


async def test_recover_resumes_unfinished_jobs_once() -> None:
    async with client_and_fake(duration=50.0) as setup:
        done = await setup.kie.generate(make_request(0))
        job = await setup.kie.submit(make_request(1))

        assert [job.id] == [each.id for each in await setup.kie.recover()]
        assert done.job_id != job.id
        await job
        assert [] == await setup.kie.recover()
        assert 2 == len(setup.truth.create_requests)


@pytest.mark.parametrize("journal", ["memory", "file"])
@pytest.mark.parametrize("wait", [5.0, 100.0], ids=["while it runs", "once it has ended later"])
async def test_forget_keeps_a_failed_row_whose_retry_is_newer(journal: str, wait: float, tmp_path: Path) -> None:
    """Without the row, the next run of the table would pay for it again, beside its retry."""
    store = MemoryJournal() if journal == "memory" else tmp_path / "kie.db"
    async with (
        FakeKie(duration=20.0, fail_rate=1.0) as fake,
        JournalClient(KEY, base_url=fake.url, journal=store) as kie,
    ):
        async with kie.map([("a", make_request())], retry_failed=2) as run:
            while len(fake.truth.created) < 3:
                await anyio.sleep(0.1)
            wall = asyncio.get_running_loop().wall_time()  # type: ignore[attr-defined]  # the virtual loop has one
            await run.aclose(drain=0.0)
        await anyio.sleep(wait)
        assert 0 == await kie.forget(before=wall)
        assert ["a", "a~retry1", "a~retry2"] == [job.key for job in await kie.jobs()]
        async with kie.map([("a", make_request())], retry_failed=2) as run:
            assert ["Failed"] == [type(outcome).__name__ async for outcome in run]

        assert 3 == len(fake.truth.created)
        assert 3 == await kie.forget(before=math.inf)


async def test_credits_returns_balance() -> None:
    async with client_and_fake(credits=1234.5) as setup:
        assert 1234.5 == await setup.kie.credits()
        await setup.kie.submit(make_request())
        assert 1154.5 == await setup.kie.credits()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("credit", "code", code=401), AuthenticationError),
        (Fault("credit", "html", status=401), AuthenticationError),
        (Fault("credit", "html"), ProtocolError),
        (Fault("credit", "null_data"), ProtocolError),
        (Fault("credit", "reset"), TransportError),
        (Fault("credit", "silence"), TransportError),
        (Fault("credit", "redirect"), ConfigurationError),
    ],
    ids=["401", "bare 401", "html", "null", "reset", "silence", "redirect"],
)
async def test_credits_error_says_why(fault: Fault, expected: type[KieError]) -> None:
    async with client_and_fake(faults=[fault]) as setup:
        with pytest.raises(expected) as raised:
            await setup.kie.credits()
        assert expected is type(raised.value)
        assert [] == setup.truth.followed_redirects
