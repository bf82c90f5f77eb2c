"""A caller may leave at any instant: what was not sent is not paid, and what was sent is not forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import EventName, Generation, Job, KieError, Limits, TaskTimeoutError
from kie_async.testing import Fault, VirtualLoop
from tests.client.world import Anything, World, a_world, ask, assert_settled
from tests.requests.samples import JPEG, png_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path


def the_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


async def sweep(call: Callable[[World], Awaitable[Generation | Job]], **service: Anything) -> dict[str, int]:
    """
    Cancel *call* in the first turn of the loop that it takes, in another run in the second, and so on to its end.

    Returns:
        At how many turns the journal said what about the job when the caller left.
    """
    met: dict[str, int] = {}
    for turn in range(1, 10_000):
        async with a_world(**service) as world:
            task = asyncio.create_task(leaving(call, world, met), name="caller")
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
            assert (1 if sent else 0) == len(world.truth.posts), f"{state} at turn {turn}"
            ended = "succeeded" if sent else "cancelled"
            assert {row.state for row in await world.rows()} <= {ended}, f"{state} at turn {turn}"
            assert (1 if sent else 0) <= len(await world.rows()) <= 1
            await assert_settled(world.kie)
    raise AssertionError(met)


async def leaving(call: Callable[[World], Awaitable[Generation | Job]], world: World, met: dict[str, Any]) -> None:
    """Call, and note what the journal says of the job in the instant in which the caller hears that he is to leave."""
    try:
        await call(world)
    except asyncio.CancelledError:
        rows = await world.rows()
        met["now"] = rows[0].state if rows else None
        raise


async def submit(world: World) -> Job:
    return await world.kie.submit(ask())


async def generate(world: World) -> Generation:
    return await world.kie.generate(ask())


@pytest.mark.parametrize("latency", [(0.0, 0.0), (0.02, 0.2)], ids=["at once", "over a network"])
async def test_submit_can_be_left_at_every_turn_of_the_loop(latency: tuple[float, float]) -> None:
    """Before the first byte nothing is sent; after it the owner goes on, and the journal knows the task."""
    met = await sweep(submit, latency=latency)

    assert {"intent", "sending"} <= set(met)
    assert sum(met.values()) > 10


@pytest.mark.parametrize("create_seconds", [0.0, 3.0], ids=["answered at once", "answered slowly"])
async def test_generate_can_be_left_at_every_turn_of_the_loop(create_seconds: float) -> None:
    met = await sweep(generate, duration=12.0, create_seconds=create_seconds)

    assert {"intent", "sending", "submitted"} <= set(met)
    assert sum(met.values()) > 30


async def test_generate_with_an_image_can_be_left_at_every_turn_of_the_loop(tmp_path: Path) -> None:
    """While the image is looked at or uploaded, nothing was sent."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(JPEG)

    async def call(world: World) -> Generation:
        return await world.kie.generate(ask(image=path))

    met = await sweep(call, duration=3.0)
    assert {"None", "intent", "sending", "submitted"} <= set(met)


async def test_a_create_whose_answer_is_lost_can_be_left_at_every_turn() -> None:
    """The owner finds out about the doubt whether anybody waits or not."""
    met: dict[str, Any] = {}
    for turn in range(1, 10_000):
        async with a_world(faults=[Fault("create", "reset", after=True)]) as world:
            task = asyncio.create_task(leaving(submit, world, met))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            if not task.cancelled():
                assert isinstance(task.exception(), KieError)
                break
            await anyio.sleep(700.0)
            sent = met.pop("now") is not None and bool(world.truth.posts)
            assert {row.state for row in await world.rows()} <= {"unresolved" if sent else "cancelled"}
            assert len(world.truth.posts) == len(world.truth.created) <= 1
            await assert_settled(world.kie)
    assert turn > 10


async def test_a_refused_create_can_be_left_at_every_turn() -> None:
    """After a 429 the job is unsent again: who leaves then has paid nothing."""
    fault = Fault("create", "code", code=429, nth=1)
    met: dict[str, Any] = {}
    paid = free = 0
    for turn in range(1, 10_000):
        async with a_world(faults=[fault]) as world:
            task = asyncio.create_task(leaving(submit, world, met))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            if not task.cancelled():
                break
            state = met.pop("now")
            await anyio.sleep(300.0)
            paid, free = paid + len(world.truth.created), free + 1 - len(world.truth.created)
            if state in (None, "intent"):
                assert [] == world.truth.created
            assert {row.state for row in await world.rows()} <= {"succeeded" if world.truth.created else "cancelled"}
            await assert_settled(world.kie)
    assert free >= 10  # how many turns there are is the loop's
    assert paid > 0


async def test_a_keyed_submit_goes_on_without_its_caller() -> None:
    """A key stands for the wish, not for the one call: whoever comes back with it gets the one job."""

    async def call(world: World) -> Job:
        return await world.kie.submit(ask(), key="order 7")

    met: dict[str, Any] = {}
    for turn in range(1, 10_000):
        async with a_world() as world:
            task = asyncio.create_task(leaving(call, world, met))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            job = await call(world)
            await job
            await anyio.sleep(300.0)

            assert 1 == len(world.truth.posts) == len(await world.rows())
            assert job.id == (await world.row()).id
            await assert_settled(world.kie)
            if not task.cancelled():
                break
    assert turn > 10


async def test_a_keyed_submit_goes_on_if_nobody_comes_back() -> None:
    """Leaving withdraws only what nobody else can have a handle to."""

    async def call(world: World) -> Job:
        return await world.kie.submit(ask(), key="order 7")

    for turn in range(1, 10_000):
        async with a_world() as world:
            task = asyncio.create_task(call(world))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            await anyio.sleep(300.0)

            assert ["succeeded"] == [row.state for row in await world.rows()], f"turn {turn}"
            assert 1 == len(world.truth.posts)
            if not task.cancelled():
                break
    assert turn > 10


async def test_a_submit_that_does_not_wait_goes_on_without_its_caller() -> None:
    """Once journaled it is everybody's: leaving ``submit(wait=False)`` withdraws nothing."""
    for turn in range(1, 10_000):
        async with a_world() as world:
            task = asyncio.create_task(world.kie.submit(ask(), wait=False))
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            await anyio.sleep(300.0)

            assert len(world.truth.posts) == len(await world.rows()) <= 1
            assert {row.state for row in await world.rows()} <= {"succeeded"}
            await assert_settled(world.kie)
            if not task.cancelled():
                break
    assert turn >= 3


async def test_leaving_a_wait_changes_nothing() -> None:
    async with a_world(duration=100.0) as world:
        job = await world.kie.submit(ask())
        with anyio.move_on_after(10.0) as scope:
            await job.wait()
        assert scope.cancelled_caught
        assert 0 == world.kie.statistics().waiters

        assert world.tasks[0] == (await job).task_id
        assert 1 == len(world.truth.posts)
        await assert_settled(world.kie)


async def test_a_wait_can_be_left_at_every_turn() -> None:
    async with a_world(duration=1e6) as world:
        job = await world.kie.submit(ask())
        for turn in range(1, 40):
            task = asyncio.ensure_future(job.wait())
            the_loop().at_turn(the_loop().turns + turn, task.cancel)
            await asyncio.wait([task])
            assert task.cancelled()
        world.fake.finish(world.tasks[0])

        assert world.tasks[0] == (await job).task_id
        await assert_settled(world.kie)


async def test_two_wait_for_one_job_and_one_leaves() -> None:
    """The other one is not disturbed, and three handles to one job make no three jobs."""
    async with a_world(duration=100.0) as world:
        job = await world.kie.submit(ask())
        results: list[Generation] = []

        async def wait(handle: Job) -> None:
            results.append(await handle)

        async with anyio.create_task_group() as group:
            group.start_soon(wait, job)
            group.start_soon(wait, world.kie.job(job.id))
            group.start_soon(wait, world.kie.job(world.tasks[0]))
            with anyio.move_on_after(50.0):
                await wait(job)
            assert 3 == world.kie.statistics().waiters
        assert 3 * world.tasks == [result.task_id for result in results]
        assert {job.id} == {result.job_id for result in results}
        await assert_settled(world.kie)


async def test_a_failing_task_tells_each_waiter_with_an_error_of_its_own() -> None:
    """One exception shared by several waiters would grow its traceback in all of them."""
    async with a_world(fail_rate=1.0) as world:
        job = await world.kie.submit(ask())
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
    async with a_world() as world:
        task = asyncio.create_task(world.kie.generate(ask()))
        await anyio.sleep(5.0)
        task.cancel("a reason")
        with pytest.raises(asyncio.CancelledError):
            await task

        assert task.cancelled()
        await anyio.sleep(300.0)
        assert {"succeeded": 1} == await world.states()


async def test_a_job_that_queues_for_a_slot_can_be_left() -> None:
    async with a_world(client={"limits": Limits(in_flight=1)}, duration=50.0) as world:
        first = await world.kie.submit(ask(0))
        with anyio.move_on_after(10.0):
            await world.kie.submit(ask(1))
        with anyio.move_on_after(10.0):
            await world.kie.generate(ask(2))
        await anyio.sleep(0.1)
        assert 0 == world.kie.statistics().waiting_for_slot
        await first
        await world.kie.generate(ask(3))

        assert 2 == len(world.truth.posts)
        assert {"succeeded": 2, "cancelled": 2} == await world.states()
        await assert_settled(world.kie)


async def test_jobs_that_queue_for_a_token_can_be_left_and_cost_none() -> None:
    """The 20 tokens of the next window are all there for those who stay."""
    async with a_world() as world:
        for number in range(20):
            await world.kie.submit(ask(number))
        async with anyio.create_task_group() as group:
            for number in range(20, 220):
                group.start_soon(world.kie.submit, ask(number))
            await anyio.sleep(5.0)
            assert 200 == world.kie.statistics().waiting_for_token
            group.cancel_scope.cancel()
        for number in range(220, 240):
            await world.kie.submit(ask(number))

        assert anyio.current_time() < 11.0
        assert 40 == len(world.truth.posts)
        assert 200 == len(world.reported(EventName.CANCELLED))


PHASES: Mapping[str, tuple[dict[str, Any], float, str]] = {
    "uploading": ({"faults": [Fault("upload", "slow", seconds=30.0)]}, 10.0, "nothing"),
    "waiting for a slot": ({}, 10.0, "cancelled"),
    "waiting for a connection": ({}, 10.0, "cancelled"),
    "sending": ({"faults": [Fault("create", "slow", seconds=30.0, after=True, nth=2)]}, 10.0, "sent"),
    "generating": ({"duration": 100.0}, 10.0, "known"),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_a_time_out_ends_generate_in_every_phase(phase: str) -> None:
    """``TaskTimeoutError`` with what is known; what was not sent is withdrawn, and what was sent lives on."""
    service, timeout, then = PHASES[phase]
    limits = Limits(in_flight=1 if phase == "waiting for a slot" else 500)
    service = {"duration": 20.0, **service}
    async with a_world(client={"limits": limits}, **service) as world:
        first = None
        if phase == "waiting for a connection":
            await world.fake.refuse_connections()
        else:
            first = await world.kie.submit(ask(0))
        request = ask(1, image=png_of(100_000)) if phase == "uploading" else ask(1)
        began_at = anyio.current_time()
        with pytest.raises(TaskTimeoutError) as raised:
            await world.kie.generate(request, timeout=timeout)
        error = raised.value

        assert timeout <= anyio.current_time() - began_at < timeout + 0.1
        assert isinstance(error, TimeoutError)
        assert (then == "known") == (error.task_id is not None)
        await anyio.sleep(0.1)
        row = None if error.job_id is None else await world.journal.get(error.job_id)
        assert {
            "nothing": None,
            "cancelled": "cancelled",
            "sent": "sending",
            "known": "submitted",
        }[then] == (None if row is None else row.state)
        if then in ("sent", "known"):
            assert error.job_id is not None
            assert error.job_id == (await world.kie.job(error.job_id)).job_id
        else:
            await anyio.sleep(200.0)
            assert (0 if first is None else 1) == len(world.truth.posts)
        if first is not None:
            await first
        await assert_settled(world.kie)


async def test_a_time_out_while_others_take_all_tokens_withdraws() -> None:
    async with a_world() as world:
        for number in range(20):
            await world.kie.submit(ask(number))
        with pytest.raises(TaskTimeoutError) as raised:
            await world.kie.generate(ask(20), timeout=5.0)
        await anyio.sleep(100.0)
        row = await world.journal.get(raised.value.job_id or "")

        assert row is not None
        assert "cancelled" == row.state
        assert 20 == len(world.truth.posts)


@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_no_time_at_all_sends_nothing(timeout: float) -> None:
    async with a_world() as world:
        with pytest.raises(TaskTimeoutError):
            await world.kie.generate(ask(), timeout=timeout)
        await anyio.sleep(10.0)

        assert [] == world.truth.posts
        await assert_settled(world.kie)


async def test_who_leaves_while_another_has_joined_by_key_disturbs_nobody() -> None:
    async with a_world(duration=30.0) as world:
        results: list[str] = []

        async def stay() -> None:
            results.append((await world.kie.generate(ask(), key="order")).task_id)

        async with anyio.create_task_group() as group:
            group.start_soon(stay)
            with anyio.move_on_after(5.0):
                await world.kie.generate(ask(), key="order")
        assert world.tasks == results
        assert 1 == len(world.truth.posts)
        await assert_settled(world.kie)
