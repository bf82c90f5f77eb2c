"""The same key is the same job, and is never paid twice."""

from __future__ import annotations

import anyio
import pytest

from kie_async import (
    KeyConflictError,
    KieError,
    MarketRequest,
    Request,
    RetryPolicy,
    ServerError,
    SubmitInDoubtError,
    TaskFailedError,
    TaskTimeoutError,
)
from kie_async.testing import Fault
from tests.client.world import Anything, a_world, ask, assert_settled


async def test_the_same_key_is_the_same_job() -> None:
    """Before, during and after: one POST, one result, for as long as the journal remembers."""
    async with a_world(duration=30.0) as world:
        first = await world.kie.submit(ask(), key="order 7", wait=False)
        second = await world.kie.submit(ask(), key="order 7")
        video = await world.kie.generate(ask(), key="order 7")
        third = await world.kie.submit(ask(), key="order 7")

        assert first.id == second.id == third.id == video.job_id
        assert video.record == (await third).record
        assert 1 == len(world.truth.posts) == len(await world.rows())
        await assert_settled(world.kie)


async def test_ten_at_once_with_one_key_are_one_job() -> None:
    async with a_world(latency=(0.02, 0.2)) as world:
        results: list[tuple[str | None, str]] = []

        async def one() -> None:
            video = await world.kie.generate(ask(), key="order 7")
            results.append((video.job_id, video.task_id))

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)
        assert 1 == len(set(results))
        assert 10 == len(results)
        assert 1 == len(world.truth.posts) == len(await world.rows())
        await assert_settled(world.kie)


async def test_other_keys_and_none_are_other_jobs() -> None:
    async with a_world() as world:
        for key in ("a", "b", None, None):
            await world.kie.submit(ask({"a": 0, "b": 1}.get(key or "", 2 + len(world.truth.posts))), key=key)

        assert 4 == len(world.truth.posts)


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_the_same_key_for_another_request_is_a_conflict_that_names_what_differs(*, ended: bool) -> None:
    async with a_world() as world:
        job = await world.kie.submit(ask(0, seed=1), key="order 7")
        if ended:
            await job
        others: dict[tuple[str, ...], Request] = {
            ("prompt",): ask(1, seed=1),
            ("seed",): ask(0, seed=2),
            ("resolution", "seed"): ask(0, resolution="480p"),
            ("image_url",): ask(0, seed=1, image="https://example.com/dog.png"),
            ("model",): MarketRequest(model="z-image", input=ask(0, seed=1).input({})),
        }
        for differs, request in others.items():
            with pytest.raises(KeyConflictError) as raised:
                await world.kie.submit(request, key="order 7")
            assert differs == raised.value.differs
            assert job.id == raised.value.job_id
            assert all(name in str(raised.value) for name in (*differs, "order 7"))
        assert 1 == len(world.truth.posts)
        await job
        await assert_settled(world.kie)


async def test_the_order_of_fields_makes_no_other_request() -> None:
    async with a_world() as world:
        given: Anything = {"prompt": "x", "n": 1, "nested": {"a": 1, "b": [1, 2]}}
        turned: Anything = {"nested": {"b": [1, 2], "a": 1}, "n": 1, "prompt": "x"}
        first = await world.kie.submit(MarketRequest(model="z-image", input=given), key="k")
        second = await world.kie.submit(MarketRequest(model="z-image", input=turned), key="k")

        assert first.id == second.id


async def test_a_withdrawn_job_is_sent_anew_by_its_key() -> None:
    """Nothing was paid, so nothing stands in the way; it is the same job."""
    async with a_world() as world:
        world.fake.maintenance = True
        with pytest.raises(KieError) as raised:
            await world.kie.submit(ask(), key="order 7")
        assert {"cancelled": 1} == await world.states()
        world.fake.maintenance = False
        await anyio.sleep(100.0)
        video = await world.kie.generate(ask(), key="order 7")

        assert raised.value.job_id == video.job_id
        assert {"succeeded": 1} == await world.states()
        assert 1 == len(world.truth.created)
        await assert_settled(world.kie)


async def test_a_rejected_job_is_sent_anew_by_its_key() -> None:
    async with a_world(faults=[Fault("create", "code", code=422, nth=1)]) as world:
        with pytest.raises(KieError) as raised:
            await world.kie.submit(ask(), key="order 7")
        video = await world.kie.generate(ask(), key="order 7")

        assert raised.value.job_id == video.job_id
        assert 2 == len(world.truth.posts)
        assert None is (await world.row()).error
        await assert_settled(world.kie)


async def test_a_job_rejected_after_suspect_attempts_is_not_sent_anew() -> None:
    """It may have been paid three times over; the same key must not make it four."""
    async with a_world(faults=[Fault("create", "code", code=500)]) as world:
        for _ in range(2):
            with pytest.raises(ServerError):
                await world.kie.submit(ask(), key="order 7")
            assert 3 == len(world.truth.posts)
        await assert_settled(world.kie)


@pytest.mark.parametrize("pause", [0.0, 700.0], ids=["in doubt", "unresolved"])
async def test_a_job_in_doubt_is_not_sent_anew_by_its_key(pause: float) -> None:
    async with a_world(faults=[Fault("create", "reset", after=True)]) as world:
        with pytest.raises(SubmitInDoubtError) as first:
            await world.kie.submit(ask(), key="order 7")
        await anyio.sleep(pause)
        for call in (world.kie.submit, world.kie.generate):
            with pytest.raises(SubmitInDoubtError) as again:
                await call(ask(), key="order 7")
            assert first.value.job.id == again.value.job.id
        assert 1 == len(world.truth.posts)
        await first.value.job.resolve(world.tasks[0])
        assert world.tasks[0] == (await world.kie.generate(ask(), key="order 7")).task_id
        await assert_settled(world.kie)


async def test_a_failed_job_is_not_sent_anew_by_its_key() -> None:
    """The wish was fulfilled as far as it could be; another try is another key."""
    async with a_world(fail_rate=1.0) as world:
        for _ in range(2):
            with pytest.raises(TaskFailedError):
                await world.kie.generate(ask(), key="order 7")
        assert 1 == len(world.truth.posts)


async def test_a_stalled_job_is_not_sent_anew_by_its_key() -> None:
    async with a_world(client={"retry": RetryPolicy(max_age=100.0)}, duration=1000.0) as world:
        for _ in range(2):
            with pytest.raises(TaskTimeoutError):
                await world.kie.generate(ask(), key="order 7")
        job = await world.kie.submit(ask(), key="order 7")
        await job.wait(timeout=2000.0)

        assert 1 == len(world.truth.posts)
