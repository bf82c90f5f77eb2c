"""The rate limits of the fake by instants of arrival, for each meaning of "20 per 10 seconds"."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kie_async.testing.account import FixedWindow, SlidingWindow, TokenBucket, make_limiter
from kie_async.testing.truth import busiest_window

if TYPE_CHECKING:
    from random import Random

    from tests.contract.conftest import Api, Serve


async def codes_at(api: Api, schedule: list[tuple[float, int]]) -> list[str]:
    """Return the accepted and the refused creates for each (instant, number) of *schedule*."""
    start = asyncio.get_running_loop().time()
    outcomes = []
    for at, number in schedule:
        await asyncio.sleep(start + at - asyncio.get_running_loop().time())
        codes = [(await api.create()).json["code"] for _ in range(number)]
        assert codes == [200] * codes.count(200) + [429] * codes.count(429)
        outcomes.append(f"{codes.count(200)}+{codes.count(429)}")
    return outcomes


# Just after a border of the fixed windows; the credits suffice for every schedule.
SCHEDULE = [(0.1, 15), (8.0, 10), (10.2, 20), (18.1, 25)]


@pytest.mark.parametrize(
    ("limiter", "outcomes"),
    [
        # The last ten seconds count: five are left at 8 s, fifteen at 10.2 s, five at 18.1 s.
        ("sliding", ["15+0", "5+5", "15+5", "5+20"]),
        # The window from 10 to 20 s is full at 10.2 s.
        ("fixed", ["15+0", "5+5", "20+0", "0+25"]),
        # Two tokens per second: the bucket is full at 0.1 s, holds 20 again at 8 s, 14.4 at 10.2 s and 16.2 at 18.1 s.
        ("bucket", ["15+0", "10+0", "14+6", "16+9"]),
    ],
)
async def test_each_limiter_admits_by_its_rule(serve: Serve, limiter: str, outcomes: list[str]) -> None:
    async with serve(limiter=limiter, credits=1e6) as api:
        assert outcomes == await codes_at(api, SCHEDULE)


async def test_refused_create_costs_nothing(serve: Serve) -> None:
    async with serve(limit=1) as api:
        await codes_at(api, [(0.0, 3)])

        truth = api.fake.truth
        assert (1, 2, 3) == (len(truth.created), len(truth.rate_limited), len(truth.create_requests))
        assert 9_920.0 == await api.credits()


async def test_limit_may_change_at_run_time(serve: Serve) -> None:
    async with serve() as api:
        assert ["10+0"] == await codes_at(api, [(0.0, 10)])
        assert 20 == api.fake.limit
        api.fake.limit = 8
        assert ["0+1", "8+1"] == await codes_at(api, [(1.0, 1), (11.0, 9)])
        api.fake.limit = 20
        assert ["12+1"] == await codes_at(api, [(0.0, 13)])


async def test_create_counts_on_arrival(serve: Serve) -> None:
    async with serve(latency=(0.5, 0.5)) as api:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        await api.create()
        (post,) = api.fake.truth.create_requests

        assert 0.5 == pytest.approx(post.at - sent_at, abs=0.01)
        assert 1.0 == pytest.approx(loop.time() - sent_at, abs=0.01)
        assert post.at == api.fake.truth.created[0].created_at


async def test_slow_create_counts_on_arrival(serve: Serve) -> None:
    async with serve(create_seconds=(2.0, 2.0), limit=1) as api:
        sent_at = asyncio.get_running_loop().time()
        await api.create()
        (task,) = api.fake.truth.created
        assert sent_at == pytest.approx(task.created_at, abs=0.01)
        assert 2.0 == pytest.approx(asyncio.get_running_loop().time() - sent_at, abs=0.01)

        assert 429 == (await api.create()).json["code"]
        assert 2.0 == pytest.approx(asyncio.get_running_loop().time() - sent_at, abs=0.02)


async def test_query_limit_is_ten_per_second_and_key(serve: Serve) -> None:
    async with serve() as api:
        task_id = await api.task()
        codes = [(await api.poll(task_id, key="one")).json["code"] for _ in range(12)]
        assert [200] * 10 + [429] * 2 == codes
        assert 200 == (await api.poll(task_id, key="two")).json["code"]
        await asyncio.sleep(1)
        assert 200 == (await api.poll(task_id, key="one")).json["code"]


async def test_query_limit_may_be_below_one_per_second(serve: Serve) -> None:
    async with serve(queries_per_second=0.5) as api:
        assert [422, 429] == [(await api.poll("?")).json["code"] for _ in range(2)]
        await asyncio.sleep(2)
        assert 422 == (await api.poll("?")).json["code"]


@pytest.mark.parametrize(
    ("kind", "made"), [("sliding", SlidingWindow), ("fixed", FixedWindow), ("bucket", TokenBucket)]
)
def test_limiters_have_names(kind: str, made: type) -> None:
    assert made is type(make_limiter(kind, limit=20, window=10.0))  # type: ignore[arg-type]  # as pytest passes it


def test_unknown_limiter_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid limiter 'leaky': expected one of sliding, fixed, bucket"):
        make_limiter("leaky", limit=20, window=10.0)  # type: ignore[arg-type]  # on purpose


def test_bucket_tolerates_rounding() -> None:
    """Each of three tenths of a second refills a token; rounding must not lose one."""
    bucket = TokenBucket(limit=10, window=1.0)
    for _ in range(10):
        bucket.admit(0.0)

    assert [True] * 50 == [bucket.admit(number * 0.1) for number in range(1, 51)]


def test_instants_a_window_apart_are_separate() -> None:
    instants = [0.1, 0.2, 0.3, 10.1, 10.2]

    assert 3 == busiest_window(instants, 10.0)
    assert 5 == busiest_window(instants, 10.2)
    assert 0 == busiest_window([], 10.0)


async def test_latency_may_be_a_function(serve: Serve) -> None:
    """The function is called for each way, so that the latency may change."""
    drawn: list[float] = []

    def latency(rng: Random) -> float:
        drawn.append(rng.uniform(0.5, 1.0))
        return drawn[-1]

    async with serve(latency=latency) as api:
        await api.create()
        (post,) = api.fake.truth.create_requests

        assert 2 == len(drawn)
        assert post.answered_at is not None
        assert [round(post.at, 3), round(post.answered_at, 3)] == [round(drawn[0], 3), round(sum(drawn), 3)]
