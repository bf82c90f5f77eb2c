"""A caller may be cancelled at any instant: an unsent job is not paid, and a sent one is not forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import EventName, Generation, Job, KieError, Limits, TaskTimeoutError
from kie_async.testing import Fault, VirtualLoop
from tests.helpers import Setup, assert_settled, client_and_fake, make_request
from tests.requests.samples import JPEG, png_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path


def the_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


async def sweep(call: Callable[[Setup], Awaitable[Generation | Job]], **service: Any) -> dict[str, int]:
    """
    Run *call* again and again, and cancel it in the first turn of the loop, then in the second, up to its end.

    Returns:
        The number of turns for each state that the job had in the journal at the cancellation.
    """
    met: dict[str, int] = {}
    for turn in range(1, 10_000):
        async with client_and_fake(**service) as setup:
            task = asyncio.create_task(record_state_when_cancelled(call, setup, met), name="caller")
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            states = met.pop("now", None)
            if not task.cancelled():
                task.result()
                return met
            state = str(states)
            met[state] = met.get(state, 0) + 1
            await anyio.sleep(300.0)

            sent = state not in ("None", "intent")
            assert (1 if sent else 0) == len(setup.truth.create_requests), f"{state} at turn {turn}"
            ended = "succeeded" if sent else "cancelled"
            assert {row.state for row in await setup.rows()} <= {ended}, f"{state} at turn {turn}"
            assert (1 if sent else 0) <= len(await setup.rows()) <= 1
            await assert_settled(setup.kie)
    raise AssertionError(met)


async def record_state_when_cancelled(
    call: Callable[[Setup], Awaitable[Generation | Job]], setup: Setup, met: dict[str, Any]
) -> None:
    """Run a call, and record the state of its job at the instant of the cancellation."""
    try:
        await call(setup)
    except asyncio.CancelledError:
        rows = await setup.rows()
        met["now"] = rows[0].state if rows else None
        raise


async def submit(setup: Setup) -> Job:
    return await setup.kie.submit(make_request())


async def generate(setup: Setup) -> Generation:
    return await setup.kie.generate(make_request())


@pytest.mark.parametrize("latency", [(0.0, 0.0), (0.02, 0.2)], ids=["at once", "over a network"])
async def test_submit_cancelled_at_every_loop_turn(latency: tuple[float, float]) -> None:
    """Before the first byte nothing is sent. After it the submission continues, and the journal has the task."""
    met = await sweep(submit, latency=latency)

    assert {"intent", "sending"} <= set(met)
    assert sum(met.values()) > 10


@pytest.mark.parametrize("create_seconds", [0.0, 3.0], ids=["answered at once", "answered slowly"])
async def test_generate_cancelled_at_every_loop_turn(create_seconds: float) -> None:
    met = await sweep(generate, duration=12.0, create_seconds=create_seconds)

    assert {"intent", "sending", "submitted"} <= set(met)
    assert sum(met.values()) > 30


async def test_upload_cancelled_at_every_loop_turn(tmp_path: Path) -> None:
    """While the image is read or uploaded, no create was sent."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(JPEG)

    async def call(setup: Setup) -> Generation:
        return await setup.kie.generate(make_request(image=path))

    met = await sweep(call, duration=3.0)
    assert {"None", "intent", "sending", "submitted"} <= set(met)


async def test_lost_response_cancelled_at_every_turn() -> None:
    """The submission records the doubt with or without a waiting caller."""
    met: dict[str, Any] = {}
    for turn in range(1, 10_000):
        async with client_and_fake(faults=[Fault("create", "reset", after=True)]) as setup:
            task = asyncio.create_task(record_state_when_cancelled(submit, setup, met))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            if not task.cancelled():
                assert isinstance(task.exception(), KieError)
                break
            await anyio.sleep(700.0)
            sent = met.pop("now") is not None and bool(setup.truth.create_requests)
            assert {row.state for row in await setup.rows()} <= {"unresolved" if sent else "cancelled"}
            assert len(setup.truth.create_requests) == len(setup.truth.created) <= 1
            await assert_settled(setup.kie)
    assert turn > 10


async def test_refused_create_cancelled_at_every_turn() -> None:
    """After a 429 the job is unsent again: cancelling it then is free."""
    fault = Fault("create", "code", code=429, nth=1)
    met: dict[str, Any] = {}
    paid = free = 0
    for turn in range(1, 10_000):
        async with client_and_fake(faults=[fault]) as setup:
            task = asyncio.create_task(record_state_when_cancelled(submit, setup, met))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            if not task.cancelled():
                break
            state = met.pop("now")
            await anyio.sleep(300.0)
            paid, free = paid + len(setup.truth.created), free + 1 - len(setup.truth.created)
            if state in (None, "intent"):
                assert [] == setup.truth.created
            assert {row.state for row in await setup.rows()} <= {"succeeded" if setup.truth.created else "cancelled"}
            await assert_settled(setup.kie)
    assert free >= 10  # the loop decides the number of turns
    assert paid > 0


async def test_keyed_submit_outlives_its_caller() -> None:
    """A key names the job, not the call: a later call with the same key gets the same job."""

    async def call(setup: Setup) -> Job:
        return await setup.kie.submit(make_request(), key="order 7")

    met: dict[str, Any] = {}
    for turn in range(1, 10_000):
        async with client_and_fake() as setup:
            task = asyncio.create_task(record_state_when_cancelled(call, setup, met))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            job = await call(setup)
            await job
            await anyio.sleep(300.0)

            assert 1 == len(setup.truth.create_requests) == len(await setup.rows())
            assert job.id == (await setup.row()).id
            await assert_settled(setup.kie)
            if not task.cancelled():
                break
    assert turn > 10


async def test_keyed_submit_runs_without_any_caller() -> None:
    """A cancelled caller cancels only a job that no other caller can have a handle to."""

    async def call(setup: Setup) -> Job:
        return await setup.kie.submit(make_request(), key="order 7")

    for turn in range(1, 10_000):
        async with client_and_fake() as setup:
            task = asyncio.create_task(call(setup))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            await anyio.sleep(300.0)

            assert ["succeeded"] == [row.state for row in await setup.rows()], f"turn {turn}"
            assert 1 == len(setup.truth.create_requests)
            if not task.cancelled():
                break
    assert turn > 10


async def test_submit_without_wait_outlives_caller() -> None:
    """A cancelled ``submit(wait=False)`` cancels no journaled job."""
    for turn in range(1, 10_000):
        async with client_and_fake() as setup:
            task = asyncio.create_task(setup.kie.submit(make_request(), wait=False))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            await anyio.sleep(300.0)

            assert len(setup.truth.create_requests) == len(await setup.rows()) <= 1
            assert {row.state for row in await setup.rows()} <= {"succeeded"}
            await assert_settled(setup.kie)
            if not task.cancelled():
                break
    assert turn >= 3


async def test_cancelled_wait_changes_nothing() -> None:
    async with client_and_fake(duration=100.0) as setup:
        job = await setup.kie.submit(make_request())
        with anyio.move_on_after(10.0) as scope:
            await job.wait()
        assert scope.cancelled_caught
        assert 0 == setup.kie.statistics().waiters

        assert setup.tasks[0] == (await job).task_id
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_wait_cancelled_at_every_turn() -> None:
    async with client_and_fake(duration=1e6) as setup:
        job = await setup.kie.submit(make_request())
        for turn in range(1, 40):
            task = asyncio.ensure_future(job.wait())
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            assert task.cancelled()
        setup.fake.finish(setup.tasks[0])

        assert setup.tasks[0] == (await job).task_id
        await assert_settled(setup.kie)


async def test_second_waiter_survives_cancelled_first() -> None:
    """The other waiter gets the result, and three handles to one job are one job."""
    async with client_and_fake(duration=100.0) as setup:
        job = await setup.kie.submit(make_request())
        results: list[Generation] = []

        async def wait(handle: Job) -> None:
            results.append(await handle)

        async with anyio.create_task_group() as group:
            group.start_soon(wait, job)
            group.start_soon(wait, setup.kie.job(job.id))
            group.start_soon(wait, setup.kie.job(setup.tasks[0]))
            with anyio.move_on_after(50.0):
                await wait(job)
            assert 3 == setup.kie.statistics().waiters
        assert 3 * setup.tasks == [result.task_id for result in results]
        assert {job.id} == {result.job_id for result in results}
        await assert_settled(setup.kie)


async def test_each_waiter_gets_its_own_error() -> None:
    """A shared exception would collect the tracebacks of all waiters."""
    async with client_and_fake(fail_rate=1.0) as setup:
        job = await setup.kie.submit(make_request())
        told: list[KieError] = []

        async def wait() -> None:
            try:
                await job
            except KieError as error:
                told.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)
        assert 3 == len({id(error) for error in told})
        assert 1 == len({str(error) for error in told})


async def test_cancellation_is_never_wrapped() -> None:
    async with client_and_fake() as setup:
        task = asyncio.create_task(setup.kie.generate(make_request()))
        await anyio.sleep(5.0)
        task.cancel("a reason")
        with pytest.raises(asyncio.CancelledError):
            await task

        assert task.cancelled()
        await anyio.sleep(300.0)
        assert {"succeeded": 1} == await setup.states()


async def test_job_queued_for_slot_can_be_cancelled() -> None:
    async with client_and_fake(client={"limits": Limits(in_flight=1)}, duration=50.0) as setup:
        first = await setup.kie.submit(make_request(0))
        with anyio.move_on_after(10.0):
            await setup.kie.submit(make_request(1))
        with anyio.move_on_after(10.0):
            await setup.kie.generate(make_request(2))
        await anyio.sleep(0.1)
        assert 0 == setup.kie.statistics().waiting_for_slot
        await first
        await setup.kie.generate(make_request(3))

        assert 2 == len(setup.truth.create_requests)
        assert {"succeeded": 2, "cancelled": 2} == await setup.states()
        await assert_settled(setup.kie)


async def test_cancelled_queued_jobs_consume_no_token() -> None:
    """All 20 tokens of the next window are free for the remaining callers."""
    async with client_and_fake() as setup:
        for number in range(20):
            await setup.kie.submit(make_request(number))
        async with anyio.create_task_group() as group:
            for number in range(20, 220):
                group.start_soon(setup.kie.submit, make_request(number))
            await anyio.sleep(5.0)
            assert 200 == setup.kie.statistics().waiting_for_token
            group.cancel_scope.cancel()
        for number in range(220, 240):
            await setup.kie.submit(make_request(number))

        assert anyio.current_time() < 11.0
        assert 40 == len(setup.truth.create_requests)
        assert 200 == len(setup.reported(EventName.CANCELLED))


PHASES: Mapping[str, tuple[dict[str, Any], float, str]] = {
    "uploading": ({"faults": [Fault("upload", "slow", seconds=30.0)]}, 10.0, "nothing"),
    "waiting for a slot": ({}, 10.0, "cancelled"),
    "waiting for a connection": ({}, 10.0, "cancelled"),
    "sending": ({"faults": [Fault("create", "slow", seconds=30.0, after=True, nth=2)]}, 10.0, "sent"),
    "generating": ({"duration": 100.0}, 10.0, "known"),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_timeout_ends_generate_in_every_phase(phase: str) -> None:
    """``TaskTimeoutError`` has the known ids. An unsent job is cancelled, and a sent one continues."""
    service, timeout, then = PHASES[phase]
    limits = Limits(in_flight=1 if phase == "waiting for a slot" else 500)
    service = {"duration": 20.0, **service}
    async with client_and_fake(client={"limits": limits}, **service) as setup:
        first = None
        if phase == "waiting for a connection":
            await setup.fake.refuse_connections()
        else:
            first = await setup.kie.submit(make_request(0))
        request = make_request(1, image=png_of(100_000)) if phase == "uploading" else make_request(1)
        began_at = anyio.current_time()
        with pytest.raises(TaskTimeoutError) as raised:
            await setup.kie.generate(request, timeout=timeout)
        error = raised.value

        assert timeout <= anyio.current_time() - began_at < timeout + 0.1
        assert isinstance(error, TimeoutError)
        assert (then == "known") == (error.task_id is not None)
        await anyio.sleep(0.1)
        row = None if error.job_id is None else await setup.journal.get(error.job_id)
        assert {
            "nothing": None,
            "cancelled": "cancelled",
            "sent": "sending",
            "known": "submitted",
        }[then] == (None if row is None else row.state)
        if then in ("sent", "known"):
            assert error.job_id is not None
            assert error.job_id == (await setup.kie.job(error.job_id)).job_id
        else:
            await anyio.sleep(200.0)
            assert (0 if first is None else 1) == len(setup.truth.create_requests)
        if first is not None:
            await first
        await assert_settled(setup.kie)


async def test_timeout_while_queued_cancels_job() -> None:
    async with client_and_fake() as setup:
        for number in range(20):
            await setup.kie.submit(make_request(number))
        with pytest.raises(TaskTimeoutError) as raised:
            await setup.kie.generate(make_request(20), timeout=5.0)
        await anyio.sleep(100.0)
        row = await setup.journal.get(raised.value.job_id or "")

        assert row is not None
        assert "cancelled" == row.state
        assert 20 == len(setup.truth.create_requests)


@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_zero_timeout_sends_nothing(timeout: float) -> None:
    async with client_and_fake() as setup:
        with pytest.raises(TaskTimeoutError):
            await setup.kie.generate(make_request(), timeout=timeout)
        await anyio.sleep(10.0)

        assert [] == setup.truth.create_requests
        await assert_settled(setup.kie)


async def test_cancelled_caller_leaves_others_with_same_key() -> None:
    async with client_and_fake(duration=30.0) as setup:
        results: list[str] = []

        async def stay() -> None:
            results.append((await setup.kie.generate(make_request(), key="order")).task_id)

        async with anyio.create_task_group() as group:
            group.start_soon(stay)
            with anyio.move_on_after(5.0):
                await setup.kie.generate(make_request(), key="order")
        assert setup.tasks == results
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)
