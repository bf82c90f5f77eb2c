"""Four hundred jobs at once use the account's limit fully and never exceed it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import KieClient, KieError, Limits, SubmitInDoubtError
from kie_async.testing import FakeKie, Fault
from tests import profile
from tests.helpers import KEY, assert_settled, client_and_fake, make_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kie_async.testing import Truth
    from kie_async.testing.account import LimiterKind

JOBS = 400
#: A service's ways of counting.
WAYS = ["sliding", "fixed", "bucket"]
SERVICE: dict[str, Any] = {"latency": (0.02, 0.2), "credits": 1e9}


def figures(truth: Truth) -> dict[str, float]:
    """Return the load at the service; the use is the rate after the 20th create, in percent of 2 per second."""
    created_at = [post.at for post in truth.create_requests if post.task_id is not None]
    rate = (len(created_at) - 20) / (created_at[-1] - created_at[19])
    return {
        "refusals": len(truth.rate_limited),
        "requests_per_create": len(truth.create_requests) / len(created_at),
        "utilisation": round(100 * rate / 2, 2),
        "busiest": truth.busiest_window(10.0),
    }


def show(record_property: Callable[[str, object], None], name: str, seen: dict[str, float]) -> None:
    print(f"\n{name}: {seen}")  # noqa: T201 (for the reader of `pytest -s`)
    for figure, value in seen.items():
        record_property(figure, value)


@pytest.mark.parametrize("limiter", WAYS)
async def test_limit_is_fully_used_and_never_exceeded(
    limiter: str, record_property: Callable[[str, object], None]
) -> None:
    """With every way of counting: no 429, one request per create, 97 % of two creates a second."""
    ended: list[str] = []

    async def one(number: int) -> None:
        ended.append((await setup.kie.generate(make_request(number))).task_id)

    async with client_and_fake(limiter=limiter, **SERVICE) as setup:
        async with anyio.create_task_group() as group:
            for number in range(JOBS):
                group.start_soon(one, number)
        seen = figures(setup.truth)
        show(record_property, limiter, seen)

        assert 0 == seen["refusals"]
        assert 1.0 == seen["requests_per_create"]
        assert 20 == seen["busiest"]
        assert 97.0 <= seen["utilisation"] <= 100.0
        assert sorted(setup.tasks) == sorted(ended)
        assert {"succeeded": JOBS} == await setup.states()
        await assert_settled(setup.kie)


@pytest.mark.parametrize("limiter", profile.sample(WAYS, check=1 / 3))
async def test_lost_responses_cause_no_429(limiter: str, record_property: Callable[[str, object], None]) -> None:
    """3 % of the responses are lost after the create, half by a reset and half by silence."""
    faults = [
        Fault("create", "reset", after=True, probability=0.015),
        Fault("create", "silence", after=True, probability=0.0152),
    ]
    ended, doubtful = list[str](), list[str]()

    async def one(number: int) -> None:
        try:
            ended.append((await setup.kie.generate(make_request(number))).task_id)
        except SubmitInDoubtError as error:
            doubtful.append(error.job.id)

    async with client_and_fake(limiter=limiter, faults=faults, **SERVICE) as setup:
        async with anyio.create_task_group() as group:
            for number in range(JOBS):
                group.start_soon(one, number)
        await anyio.sleep(700)  # in_doubt_timeout, after which the slots are released
        seen = figures(setup.truth)
        show(record_property, f"{limiter}, answers lost", {**seen, "lost": len(doubtful)})

        assert 0 == seen["refusals"]
        assert 1.0 == seen["requests_per_create"]
        assert 20 == seen["busiest"]
        assert JOBS == len(setup.truth.created) == len(ended) + len(doubtful)
        assert len([post for post in setup.truth.create_requests if post.code is None]) == len(doubtful) > 5
        assert {"succeeded": len(ended), "unresolved": len(doubtful)} == await setup.states()
        await assert_settled(setup.kie)


@pytest.mark.parametrize("limiter", profile.sample(WAYS, check=1 / 3))
async def test_mass_cancellation_causes_no_429(limiter: str, record_property: Callable[[str, object], None]) -> None:
    """A third of the callers are cancelled at a random instant: in the queue, while sending or while waiting."""
    rng = random.Random(4)
    left, ended = list[int](), list[str]()

    async def one(number: int, seconds: float) -> None:
        with anyio.move_on_after(seconds) as scope:
            ended.append((await setup.kie.generate(make_request(number))).task_id)
        if scope.cancelled_caught:
            left.append(number)

    async with client_and_fake(limiter=limiter, **SERVICE) as setup:
        async with anyio.create_task_group() as group:
            for number in range(JOBS):
                group.start_soon(one, number, rng.uniform(0.0, 150.0) if rng.random() < 1 / 3 else float("inf"))
        await anyio.sleep(600)  # the tasks of cancelled callers end, too
        states = await setup.states()
        seen = figures(setup.truth)
        show(record_property, f"{limiter}, callers leave", {**seen, "left": len(left), **states})

        assert 0 == seen["refusals"]
        assert 1.0 == seen["requests_per_create"]
        assert 20 == seen["busiest"]
        assert 97.0 <= seen["utilisation"] <= 100.0
        assert JOBS == len(ended) + len(left)
        assert len(left) > JOBS / 4
        assert len(setup.truth.created) == states["succeeded"]
        assert {"succeeded", "cancelled"} == set(states)
        assert JOBS == sum(states.values())
        await assert_settled(setup.kie)


@pytest.mark.parametrize("http_statuses", [True, False], ids=["HTTP 429", "code 429 in HTTP 200"])
async def test_three_windows_of_creates_take_three_windows(*, http_statuses: bool) -> None:
    """60 results, 60 POSTs, 28 s: 20 s until the last create, 3 s for its task, the rest for the polls."""
    ended: list[str] = []

    async def one(number: int) -> None:
        ended.append((await setup.kie.generate(make_request(number))).task_id)

    async with client_and_fake(http_statuses=http_statuses, duration=3.0, credits=1e9) as setup:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(one, number)
        took = anyio.current_time()
        print(f"\n60 ends after {took:.1f} s, {len(setup.truth.create_requests)} POSTs")  # noqa: T201 (for `pytest -s`)

        assert (60, 60) == (len(set(ended)), len(setup.truth.create_requests))
        assert setup.truth.create_requests[-1].at <= 20.1
        assert took <= 28.0
        await assert_settled(setup.kie)


@pytest.mark.parametrize("seed", range(8))
async def test_unanswered_polls_do_not_delay_jobs(seed: int) -> None:
    """Each twentieth poll hangs for a minute: 40 jobs of 3 s, the last sent after 10 s, take at most 20 s."""
    rng = random.Random(seed)
    hang = Fault("poll", "slow", seconds=60.0, nth={nth for nth in range(1, 10_000) if rng.random() < 0.05})

    async with client_and_fake(faults=[hang], duration=3.0, credits=1e9) as setup:
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(setup.kie.generate, make_request(number))
        took = anyio.current_time()
        print(f"\n40 ends after {took:.1f} s")  # noqa: T201 (for `pytest -s`)

        assert 40 == len(setup.truth.create_requests)
        assert took <= 20.0
        await assert_settled(setup.kie)


@pytest.mark.parametrize("limiter", profile.sample(WAYS, check=1 / 3))
async def test_slow_creates_cause_no_429(limiter: str) -> None:
    """The polls show the travel time of a create: 94 % used, and 86 % with the responses alone."""
    async with client_and_fake(limiter=limiter, create_seconds=(0.3, 2.0), **SERVICE) as setup:
        async with anyio.create_task_group() as group:
            for number in range(JOBS):
                group.start_soon(setup.kie.submit, make_request(number))
        seen = figures(setup.truth)

        assert (0, 1.0, 20) == (seen["refusals"], seen["requests_per_create"], seen["busiest"])
        assert 94.0 <= seen["utilisation"] <= 100.0


async def test_lower_limit_is_learned_and_used() -> None:
    """12 where 20 are configured: 8 refusals at once, then about one a minute, and the limit is fully used."""
    async with client_and_fake(limit=12, **SERVICE) as setup:
        with anyio.move_on_after(600.0):
            async with anyio.create_task_group() as group:
                for number in range(800):
                    group.start_soon(setup.kie.submit, make_request(number))
        refused = setup.truth.rate_limited

        assert len([post for post in refused if post.at < 10.0]) <= 10
        assert len(refused) <= 25
        assert 0.97 * 720 <= len(setup.truth.created) <= 732
        assert setup.truth.busiest_window(10.0) <= 20


async def test_limit_that_is_lowered_midway_is_learned_and_used() -> None:
    """From 20 to 5 after five windows: no job is lost, and few creates are refused in the time after it."""
    async with client_and_fake(**SERVICE) as setup:
        with anyio.move_on_after(350.0):
            async with anyio.create_task_group() as group:
                for number in range(400):
                    group.start_soon(setup.kie.submit, make_request(number))
                await anyio.sleep(50.0)
                setup.fake.limit = 5
        refused = [post.at for post in setup.truth.rate_limited]

        assert 50.0 <= min(refused)
        assert len(refused) <= 40
        assert len(setup.truth.created) >= 100 + 0.9 * 150


@pytest.mark.parametrize(
    ("creates", "limiter", "http_statuses"),
    [(100, "sliding", True), (1000, "fixed", False), (100_000, "bucket", False), (100_000, "sliding", False)],
)
async def test_limit_that_is_set_too_high_is_no_attack(
    *, creates: int, limiter: LimiterKind, http_statuses: bool
) -> None:
    """At most 48 + 20 refusals in the first window, one in ten seconds after it, and the limit is used."""
    limits = Limits(creates=creates, in_flight=100_000)
    service: dict[str, Any] = {"latency": (0.05, 0.15), "credits": 1e9, "http_statuses": http_statuses}
    async with FakeKie(limiter=limiter, **service) as fake, KieClient(KEY, base_url=fake.url, limits=limits) as kie:
        async with anyio.create_task_group() as group:
            for number in range(160):
                group.start_soon(kie.submit, make_request(number))
        seen, refused = figures(fake.truth), fake.truth.rate_limited
        first = [post for post in refused if post.at < 10.0]

        assert 160 == len(fake.truth.created)
        assert len(first) <= 68
        assert len(refused) - len(first) <= anyio.current_time() / 10.0
        assert fake.truth.busiest_window(1.0) <= 68
        assert seen["utilisation"] >= 85.0  # pacing begins once, and costs up to 9 s of these 70


async def test_restarts_with_a_limit_set_too_high_are_no_attack(tmp_path: Path) -> None:
    """The next process counts the creates of the last one as accepted, and learns the limit from as many refusals."""
    limits = Limits(creates=100_000)
    async with FakeKie(latency=(0.05, 0.15), credits=1e9) as fake:
        for process in range(3):
            async with (
                KieClient(KEY, base_url=fake.url, limits=limits, journal=tmp_path / "kie.db") as kie,
                anyio.create_task_group() as group,
            ):
                for number in range(30):
                    group.start_soon(kie.submit, make_request(100 * process + number))

        assert 90 == len(fake.truth.created)
        assert len(fake.truth.rate_limited) <= 3 * 48
        assert fake.truth.busiest_window(1.0) <= 68


async def test_at_most_48_creates_are_on_the_wire() -> None:
    """Whatever the limits allow. Polls are limited by the poller, which orders them."""
    limits = Limits(creates=1000)
    async with (
        FakeKie(limit=1000, create_seconds=1.0, credits=1e9) as fake,
        KieClient(KEY, base_url=fake.url, limits=limits) as kie,
    ):
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(kie.submit, make_request(number))

        assert 48 == fake.truth.busiest_window(0.99)
        assert 5.0 <= anyio.current_time() <= 5.5


async def test_stalled_network_causes_no_429() -> None:
    """For a second, in a burst, after the polls have measured the usual round trip."""

    def way(rng: random.Random) -> float:
        now, seconds = anyio.current_time(), rng.uniform(0.02, 0.2)
        return seconds if not 51.3 <= now + seconds < 52.3 else 52.3 - now

    async with client_and_fake(latency=way, credits=1e9) as setup:
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(setup.kie.submit, make_request(number))

        assert (0, 20) == (len(setup.truth.rate_limited), setup.truth.busiest_window(10.0))


async def test_errors_leak_nothing() -> None:
    """Every third create is rejected: tokens are consumed, and slots are released."""
    faults = [Fault("create", "code", code=422, nth=range(1, 100, 3))]
    refused: list[KieError] = []

    async def one(number: int) -> None:
        try:
            await setup.kie.generate(make_request(number))
        except KieError as error:
            refused.append(error)

    async with client_and_fake(faults=faults, **SERVICE) as setup:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(one, number)

        assert (20, 60) == (len(refused), len(setup.truth.create_requests))
        assert 20 == setup.truth.busiest_window(10.0)
        assert {"rejected": 20, "succeeded": 40} == await setup.states()
        await assert_settled(setup.kie)
