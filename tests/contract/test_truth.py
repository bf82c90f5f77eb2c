"""The log of the fake: the requests, their times and their effects."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from kie_async.testing import Fault

if TYPE_CHECKING:
    from tests.contract.conftest import Serve


async def test_every_create_request_is_logged(serve: Serve) -> None:
    async with serve(limit=2) as api:
        api.fake.inject(lost := Fault("create", "null_data", after=True, nth=2))
        task_id = await api.task(callback_url="http://127.0.0.1:9/1")
        await api.create()
        await api.create("no/such-model")
        taken, cut, refused = api.fake.truth.create_requests

        assert (200, task_id, "http://127.0.0.1:9/1", None) == (
            taken.code,
            taken.task_id,
            taken.callback_url,
            taken.fault,
        )
        assert (200, lost) == (cut.code, cut.fault)
        assert [task_id, cut.task_id] == [task.task_id for task in api.fake.truth.created]
        assert ("no/such-model", 429, None) == (refused.model, refused.code, refused.task_id)
        assert [refused] == api.fake.truth.rate_limited
        assert taken.at <= (taken.answered_at or 0) < cut.at


async def test_busiest_window_of_all_or_accepted_creates(serve: Serve) -> None:
    async with serve(limit=3) as api:
        for _ in range(5):
            await api.create()
        await asyncio.sleep(10)
        await api.create()

        assert (5, 3) == (api.fake.truth.busiest_window(10.0), api.fake.truth.busiest_window(10.0, accepted=True))
        assert (6, 4) == (api.fake.truth.busiest_window(20.0), api.fake.truth.busiest_window(20.0, accepted=True))


async def test_polls_queries_and_files_are_logged(serve: Serve) -> None:
    async with serve(duration=1.0) as api:
        task_id = await api.task("z-image")
        await api.poll(task_id)
        await api.poll("unknown")
        await api.credits()
        await api.upload(b"\x89PNG\r\n\x1a\n...")
        await asyncio.sleep(1)
        await api.request("GET", f"/results/{task_id}/image.png")
        await api.request("GET", f"/results/{task_id}/image.png", key=None)
        truth = api.fake.truth

        assert [(task_id, 200, "waiting"), ("unknown", 422, None)] == [
            (poll.task_id, poll.code, poll.state) for poll in truth.polls
        ]
        assert [("credit", 200)] == [(query.place, query.code) for query in truth.queries]
        (upload,) = truth.uploads
        assert (11, "image/png", 200) == (upload.size, upload.mime, upload.status)
        assert re.fullmatch(r"/tempfile/kieai/\d+/images/\d{13}-[0-9a-f]{10}\.png", upload.path or "")
        assert [(200, True), (200, False)] == [(fetched.status, fetched.authorized) for fetched in truth.downloads]
        assert 1 == truth.connections


async def test_most_running_counts_concurrent_tasks(serve: Serve) -> None:
    async with serve(duration=10.0) as api:
        for pause in (4.0, 4.0, 4.0, 20.0, 0.0):
            await api.create()
            await asyncio.sleep(pause)

        assert 3 == api.fake.truth.most_running()


async def test_a_test_may_end_a_task(serve: Serve) -> None:
    async with serve(duration=float("inf"), fail_rate=1.0) as api:
        well, badly, otherwise = [await api.task() for _ in range(3)]
        await asyncio.sleep(5)
        api.fake.finish(well)
        api.fake.fail(badly)
        api.fake.fail(otherwise, "422", "task id is blank")

        records = [await api.record(task_id) for task_id in (well, badly, otherwise)]
        assert [
            ("success", None, None),
            ("fail", "500", "Internal Error, Please try again later."),
            ("fail", "422", "task id is blank"),
        ] == [(record["state"], record["failCode"], record["failMsg"]) for record in records]
        assert [5, 5, 5] == [record["costTime"] for record in records]
        assert 9_920.0 == await api.credits()
        with pytest.raises(ValueError, match=f"{well} has ended already"):
            api.fake.fail(well)


async def test_early_failure_is_refunded_once(serve: Serve) -> None:
    async with serve(duration=60.0, fail_rate=1.0) as api:
        task_id = await api.task()
        api.fake.fail(task_id)
        await asyncio.sleep(120)

        assert 10_000.0 == await api.credits()


async def test_fail_rate_is_respected(serve: Serve) -> None:
    async with serve(limit=1000, fail_rate=0.3, credits=1e6, duration=0.0) as api:
        states = [(await api.task(), api.fake.truth.created[-1].failure) for _ in range(400)]
        failed = sum(failure is not None for _, failure in states)
        assert 0.3 == api.fake.fail_rate
        api.fake.fail_rate = 0.0
        await api.create()

        assert 90 < failed < 150
        assert api.fake.truth.created[-1].failure is None


async def test_the_same_seed_gives_the_same_run(serve: Serve) -> None:
    async def run(seed: int) -> list[tuple[str, float, object, str]]:
        async with serve(seed=seed, limit=5, latency=(0.02, 0.2), fail_rate=0.5) as api:
            api.fake.inject(Fault("create", "code", code=500, probability=0.3))
            for _ in range(20):
                await api.create()
                await asyncio.sleep(1)
            truth = api.fake.truth
            start = truth.create_requests[0].at
            return [
                (
                    task.task_id,
                    round(task.ends_at - start, 3),
                    task.failure,
                    str([post.code for post in truth.create_requests]),
                )
                for task in truth.created
            ]

    first, again, other = await run(1), await run(1), await run(2)

    assert first == again
    assert first != other


async def test_repr_of_a_long_truth_is_short(serve: Serve) -> None:
    async with serve() as api:
        await api.create()

        assert repr(api.fake.truth).startswith("Truth(create_requests=<1>, tasks=<1>, polls=<0>,")


async def test_a_fake_at_the_port_of_another_one_gives_other_ids(serve: Serve) -> None:
    """The service gives no id twice, and a journal may outlive a fake."""
    async with serve() as api:
        port = int(api.fake.url.rpartition(":")[2])
    ids: list[str] = []
    for _ in range(3):
        async with serve(port=port) as api:
            ids.append(await api.task())
    assert 3 == len({*ids})
