"""Closing a client: the creates that it still finishes, the errors of its callers, and opening it again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from kie_async import (
    ClientClosedError,
    KieClient,
    KieError,
    Limits,
    RetryPolicy,
    Statistics,
    SubmitInDoubtError,
)
from kie_async.testing import VirtualLoop
from tests.helpers import assert_settled, client_and_fake, make_request
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def test_closed_client_refuses_work_until_reentered() -> None:
    async with client_and_fake(duration=30.0) as setup:
        kie = setup.kie
        job = await kie.submit(make_request(0))
        await kie.aclose()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: kie.generate(make_request(1)),
            lambda: kie.submit(make_request(1)),
            lambda: kie.submit(make_request(1), wait=False),
            kie.recover,
            kie.jobs,
            lambda: kie.forget(before=0.0),
            kie.credits,
            lambda: kie.upload(PNG),
            job.wait,
            job.status,
            lambda: anext(job.updates()),
            job.abandon,
            lambda: job.resolve("a1"),
            lambda: job.resubmit(allow_duplicate=True),
        ]
        for call in calls:
            with pytest.raises(ClientClosedError, match="async with"):
                await call()
        assert 1 == len(setup.truth.create_requests)

        async with kie:
            assert setup.tasks[0] == (await job).task_id
            await kie.generate(make_request(1))
            await assert_settled(kie)
        with pytest.raises(ClientClosedError):
            await kie.credits()


async def test_waiters_are_told_when_client_closes() -> None:
    """In every state of a job, with its ids, and never with an ``ExceptionGroup``."""
    policy = RetryPolicy(maintenance_timeout=1e5)
    async with client_and_fake(client={"limits": Limits(in_flight=30), "retry": policy}, duration=1e6) as setup:
        told: list[BaseException] = []

        async def one(number: int) -> None:
            try:
                await setup.kie.generate(make_request(number), key=f"{number}" if number % 2 else None)
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is looked at)
                told.append(error)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(one, number)
            await anyio.sleep(15.0)
            assert (30, 20) == ((now := setup.kie.statistics()).in_flight, now.waiting_for_slot)
            await setup.kie.aclose()

        assert {"ClientClosedError": 50} == Counter(type(error).__name__ for error in told)
        assert 30 == len([error for error in told if isinstance(error, KieError) and error.task_id is not None])
        assert 50 == len({error.job_id for error in told if isinstance(error, KieError)})
        assert {"submitted": 30, "intent": 20} == await setup.states()


async def test_close_waits_for_creates_on_the_wire() -> None:
    """Within *drain* seconds, so that their task ids are known."""
    async with client_and_fake(create_seconds=3.0, duration=1e6) as setup:
        await setup.kie.submit(make_request(), wait=False)
        await anyio.sleep(1.0)
        assert 1 == setup.kie.statistics().sending
        await setup.kie.aclose()

        assert setup.tasks[0] == (row := await setup.row()).task_id
        assert "submitted" == row.state
        assert 2.0 < anyio.current_time() < 4.0


@pytest.mark.parametrize("drain", [0.0, 2.0])
async def test_close_waits_at_most_drain_seconds(drain: float) -> None:
    """The row says that a create was on the wire. After ``recover()`` it is in doubt and is not resent."""
    async with client_and_fake(create_seconds=30.0) as setup:
        await setup.kie.submit(make_request(), wait=False)
        await anyio.sleep(1.0)
        await setup.kie.aclose(drain=drain)

        assert 1.0 + drain <= anyio.current_time() < 1.5 + drain
        assert "sending" == (await setup.row()).state
        async with setup.kie as kie:
            (job,) = await kie.recover()
            with pytest.raises(SubmitInDoubtError):
                await job
            assert 1 == len(setup.truth.create_requests)


async def test_close_does_not_wait_for_unsent_jobs() -> None:
    async with client_and_fake() as setup:
        setup.fake.maintenance = True
        for number in range(30):
            await setup.kie.submit(make_request(number), wait=False)
        await anyio.sleep(10.0)
        before = anyio.current_time()
        await setup.kie.aclose()

        assert anyio.current_time() - before < 0.1
        assert {"intent": 30} == await setup.states()


async def test_close_is_shielded_from_cancellation() -> None:
    """A cancelled ``aclose()`` leaks no session."""
    async with client_and_fake(create_seconds=4.0, duration=1e6) as setup:
        await setup.kie.submit(make_request(), wait=False)
        await anyio.sleep(1.0)
        with anyio.move_on_after(0.5) as scope:
            await setup.kie.aclose()

        assert scope.cancelled_caught or scope.cancel_called
        assert "submitted" == (await setup.row()).state
        assert Statistics() == setup.kie.statistics()


async def test_client_closed_at_every_loop_turn() -> None:
    """At every turn: each caller gets an error, no background task fails, and every paid task is known."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    outcomes: Counter[str] = Counter()

    async def one(kie: KieClient, number: int) -> None:
        try:
            await kie.generate(
                make_request(number, image=PNG) if number == 2 else make_request(number),
                key="7" if number == 1 else None,
            )
            outcomes["done"] += 1
        except KieError as error:
            outcomes[type(error).__name__] += 1

    for turn in range(1, 1000):
        ended_before = outcomes["done"]
        async with client_and_fake(duration=3.0, create_seconds=0.5) as setup:
            now = anyio.Event()
            loop.at_turn(loop.turns + turn, now.set)
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(one, setup.kie, number)
                with anyio.move_on_after(60.0):
                    await now.wait()
                await setup.kie.aclose(drain=1.0)
            assert Statistics() == setup.kie.statistics()
        if outcomes["done"] == ended_before + 3:
            break
    assert turn > 30
    assert {"ClientClosedError", "done"} == set(outcomes)


async def test_recover_after_reopening_resumes_each_job_once() -> None:
    async with client_and_fake(duration=100.0) as setup:
        for number in range(50):
            await setup.kie.submit(make_request(number), wait=False)
        await anyio.sleep(1.0)
        await setup.kie.aclose()
        async with setup.kie as kie:
            jobs, again = await kie.recover(), await kie.recover()
            assert 50 == len(jobs)
            assert [job.id for job in jobs] == [job.id for job in again]
            for job in jobs:
                await job
            await assert_settled(kie)

        assert 50 == len(setup.truth.create_requests)
        assert {"succeeded": 50} == await setup.states()


async def test_limit_holds_across_close_and_reopen() -> None:
    """Tokens that were consumed before the close still count after it."""
    async with client_and_fake() as setup:
        for number in range(60):
            async with setup.kie as kie:
                await kie.submit(make_request(number))

        assert [] == setup.truth.rate_limited
        assert setup.truth.busiest_window(10.0) <= 20
        assert 20.0 <= anyio.current_time() <= 30.0


async def test_ended_jobs_are_known_after_reopening() -> None:
    """A result that is in the journal is not requested again."""
    async with client_and_fake() as setup:
        video = await setup.kie.generate(make_request(0))
        job = setup.kie.job(video.job_id or "")
        await setup.kie.aclose()
        async with setup.kie as kie:
            polls = len(setup.truth.polls)
            again = await job
            by_task = await kie.job(video.task_id)
            assert polls == len(setup.truth.polls)
            await assert_settled(kie)

        assert video.record == again.record == by_task.record
        assert video.record.raw == again.record.raw
