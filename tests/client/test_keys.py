"""The same key names the same job, which is never paid twice."""

from __future__ import annotations

from typing import Any

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
from tests.helpers import assert_settled, client_and_fake, make_request


async def test_same_key_is_same_job() -> None:
    """Before, during and after the job: one POST and one result while the journal has the row."""
    async with client_and_fake(duration=30.0) as setup:
        first = await setup.kie.submit(make_request(), key="order 7", wait=False)
        second = await setup.kie.submit(make_request(), key="order 7")
        video = await setup.kie.generate(make_request(), key="order 7")
        third = await setup.kie.submit(make_request(), key="order 7")

        assert first.id == second.id == third.id == video.job_id
        assert video.record == (await third).record
        assert 1 == len(setup.truth.create_requests) == len(await setup.rows())
        await assert_settled(setup.kie)


async def test_ten_concurrent_calls_with_one_key_are_one_job() -> None:
    async with client_and_fake(latency=(0.02, 0.2)) as setup:
        results: list[tuple[str | None, str]] = []

        async def one() -> None:
            video = await setup.kie.generate(make_request(), key="order 7")
            results.append((video.job_id, video.task_id))

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)
        assert 1 == len(set(results))
        assert 10 == len(results)
        assert 1 == len(setup.truth.create_requests) == len(await setup.rows())
        await assert_settled(setup.kie)


async def test_other_key_or_none_is_another_job() -> None:
    async with client_and_fake() as setup:
        for key in ("a", "b", None, None):
            await setup.kie.submit(
                make_request({"a": 0, "b": 1}.get(key or "", 2 + len(setup.truth.create_requests))), key=key
            )

        assert 4 == len(setup.truth.create_requests)


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_key_conflict_names_what_differs(*, ended: bool) -> None:
    async with client_and_fake() as setup:
        job = await setup.kie.submit(make_request(0, seed=1), key="order 7")
        if ended:
            await job
        others: dict[tuple[str, ...], Request] = {
            ("prompt",): make_request(1, seed=1),
            ("seed",): make_request(0, seed=2),
            ("resolution", "seed"): make_request(0, resolution="480p"),
            ("image_url",): make_request(0, seed=1, image="https://example.com/dog.png"),
            ("model",): MarketRequest(model="z-image", input=make_request(0, seed=1).input({})),
        }
        for differs, request in others.items():
            with pytest.raises(KeyConflictError) as raised:
                await setup.kie.submit(request, key="order 7")
            assert differs == raised.value.differs
            assert job.id == raised.value.job_id
            assert all(name in str(raised.value) for name in (*differs, "order 7"))
        assert 1 == len(setup.truth.create_requests)
        await job
        await assert_settled(setup.kie)


async def test_field_order_does_not_matter_for_key() -> None:
    async with client_and_fake() as setup:
        given: Any = {"prompt": "x", "n": 1, "nested": {"a": 1, "b": [1, 2]}}
        turned: Any = {"nested": {"b": [1, 2], "a": 1}, "n": 1, "prompt": "x"}
        first = await setup.kie.submit(MarketRequest(model="z-image", input=given), key="k")
        second = await setup.kie.submit(MarketRequest(model="z-image", input=turned), key="k")

        assert first.id == second.id


async def test_cancelled_job_is_resent_by_key() -> None:
    """Nothing was paid, so the same job may be sent."""
    async with client_and_fake() as setup:
        setup.fake.maintenance = True
        with pytest.raises(KieError) as raised:
            await setup.kie.submit(make_request(), key="order 7")
        assert {"cancelled": 1} == await setup.states()
        setup.fake.maintenance = False
        await anyio.sleep(100.0)
        video = await setup.kie.generate(make_request(), key="order 7")

        assert raised.value.job_id == video.job_id
        assert {"succeeded": 1} == await setup.states()
        assert 1 == len(setup.truth.created)
        await assert_settled(setup.kie)


async def test_rejected_job_is_resent_by_key() -> None:
    async with client_and_fake(faults=[Fault("create", "code", code=422, nth=1)]) as setup:
        with pytest.raises(KieError) as raised:
            await setup.kie.submit(make_request(), key="order 7")
        video = await setup.kie.generate(make_request(), key="order 7")

        assert raised.value.job_id == video.job_id
        assert 2 == len(setup.truth.create_requests)
        assert None is (await setup.row()).error
        await assert_settled(setup.kie)


async def test_ambiguously_rejected_job_is_not_resent_by_key() -> None:
    """It may have been paid three times. The same key must not pay a fourth time."""
    async with client_and_fake(faults=[Fault("create", "code", code=500)]) as setup:
        for _ in range(2):
            with pytest.raises(ServerError):
                await setup.kie.submit(make_request(), key="order 7")
            assert 3 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("pause", [0.0, 700.0], ids=["in doubt", "unresolved"])
async def test_job_in_doubt_is_not_resent_by_key(pause: float) -> None:
    async with client_and_fake(faults=[Fault("create", "reset", after=True)]) as setup:
        with pytest.raises(SubmitInDoubtError) as first:
            await setup.kie.submit(make_request(), key="order 7")
        await anyio.sleep(pause)
        for call in (setup.kie.submit, setup.kie.generate):
            with pytest.raises(SubmitInDoubtError) as again:
                await call(make_request(), key="order 7")
            assert first.value.job.id == again.value.job.id
        assert 1 == len(setup.truth.create_requests)
        await first.value.job.resolve(setup.tasks[0])
        assert setup.tasks[0] == (await setup.kie.generate(make_request(), key="order 7")).task_id
        await assert_settled(setup.kie)


async def test_failed_job_is_not_resent_by_key() -> None:
    """The task was created and has failed. A new attempt needs a new key."""
    async with client_and_fake(fail_rate=1.0) as setup:
        for _ in range(2):
            with pytest.raises(TaskFailedError):
                await setup.kie.generate(make_request(), key="order 7")
        assert 1 == len(setup.truth.create_requests)


async def test_stalled_job_is_not_resent_by_key() -> None:
    async with client_and_fake(client={"retry": RetryPolicy(max_age=100.0)}, duration=1000.0) as setup:
        for _ in range(2):
            with pytest.raises(TaskTimeoutError):
                await setup.kie.generate(make_request(), key="order 7")
        job = await setup.kie.submit(make_request(), key="order 7")
        await job.wait(timeout=2000.0)

        assert 1 == len(setup.truth.create_requests)
