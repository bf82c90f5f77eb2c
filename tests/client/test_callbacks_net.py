"""Polling is the net under the callbacks: rare where they come, as usual where they do not, and never none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import Limits, RetryPolicy, TaskFailedError
from kie_async.testing import Fault
from tests.client.backend import a_called_world, by_aiohttp, by_hand
from tests.helpers import Setup, assert_settled, make_request

if TYPE_CHECKING:
    from kie_async.testing.faults import Call

JOBS = 60
#: What Kie's tasks take, by the field's experience.
ABOUT_A_MINUTE = (60.0, 0.35)


async def all_end(setup: Setup, jobs: int = JOBS, first: int = 0) -> list[float]:
    """Submit jobs at once; returns for each how long after its task's end its caller was told."""
    lags: list[float] = []

    async def one(number: int) -> None:
        try:
            task_id = (await setup.kie.generate(make_request(number))).task_id
        except TaskFailedError as error:
            task_id = str(error.task_id)
        lags.append(anyio.current_time() - setup.truth.tasks[task_id].ends_at)

    async with anyio.create_task_group() as group:
        for number in range(first, first + jobs):
            group.start_soon(one, number)
    return lags


@pytest.mark.parametrize("seed", range(3))
async def test_a_job_whose_callback_comes_costs_one_confirmation_and_a_fifth_of_a_look_at_most(seed: int) -> None:
    """As the service has counted them."""
    async with a_called_world(duration=ABOUT_A_MINUTE, fail_rate=0.2, seed=seed) as (setup, backend):
        lags = await all_end(setup)

        confirmations = setup.kie.statistics().confirmations
        assert JOBS == len(lags) == len(backend.answers)
        assert confirmations <= JOBS
        assert len(setup.truth.polls) - confirmations <= 0.2 * JOBS
        assert max(lags) < 1.0
        await anyio.sleep(5.0)
        await assert_settled(setup.kie)


async def test_with_every_callback_lost_all_jobs_still_end(caplog: pytest.LogCaptureFixture) -> None:
    """The first ones late, by the look that remains; then that is learned, and told once."""
    faults = [Fault("callback", "lost")]
    async with a_called_world(duration=ABOUT_A_MINUTE, faults=faults) as (setup, backend):
        assert JOBS == len(first := await all_end(setup))
        await anyio.sleep(30.0)
        assert JOBS == len(then := await all_end(setup, first=JOBS))

        assert max(first) <= 600.0
        assert max(then) <= 15.2
        assert [] == backend.answers
        assert 1 == sum("No callbacks arrive" in record.message for record in caplog.records)
        await anyio.sleep(30.0)
        await assert_settled(setup.kie)


async def test_every_callback_is_refused_and_all_jobs_still_end() -> None:
    """The account's key is not the one that the client was told: 401, every time."""
    async with a_called_world(client={"webhook_key": "one"}, webhook_key="another", duration=ABOUT_A_MINUTE) as (
        setup,
        backend,
    ):
        assert JOBS == len(await all_end(setup))
        assert {401} == {*backend.answers}


async def test_looks_become_rare_when_callbacks_come_and_usual_again_when_they_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Looks for each job besides its confirmation, phase by phase: the chance that a callback is lost is learned."""
    stopped: list[bool] = []

    def lost(_: Call) -> bool:
        return bool(stopped)

    async def looks_per_job(first: int) -> float:
        before = setup.kie.statistics()
        await all_end(setup, first=first)
        await anyio.sleep(30.0)
        now = setup.kie.statistics()
        return (now.polls - before.polls - (now.confirmations - before.confirmations)) / JOBS

    # Nothing is mounted: what handles the first callback is the first sign of a receiver.
    # As many looks as are wanted, so that it is seen how many that is.
    service: Any = {"duration": ABOUT_A_MINUTE, "credits": 1e6, "queries_per_second": 100.0}
    client, faults = {"limits": Limits(polls_per_second=50.0)}, [Fault("callback", "lost", when=lost)]
    async with a_called_world(by_hand, client=client, faults=faults, **service) as (setup, _):
        found = [await looks_per_job(0), await looks_per_job(JOBS)]
        stopped.append(True)
        found += [await looks_per_job(JOBS * phase) for phase in (2, 3)]
        warnings = sum("No callbacks arrive" in record.message for record in caplog.records)
        stopped.clear()
        found += [await looks_per_job(JOBS * phase) for phase in (4, 5, 6, 7)]

    unknown, rare, stopped_coming, usual, *come_again = found
    assert 5.0 <= unknown
    assert rare <= 0.2
    assert 0.9 <= stopped_coming  # the one that remains
    # As many as a task of about a minute takes by polling alone.
    assert 5.0 <= usual
    assert max(come_again[1:]) <= 0.2
    assert 1 == warnings == sum("No callbacks arrive" in record.message for record in caplog.records)


async def test_without_a_receiver_nothing_is_expected_and_every_job_is_polled() -> None:
    """The callback URL is somebody else's server, which does what it likes."""
    async with a_called_world(by_hand, duration=60.0, faults=[Fault("callback", "lost")]) as (setup, _):
        (lag,) = await all_end(setup, jobs=1)

        assert lag <= 5.0
        assert 15 <= len(setup.truth.polls)


@pytest.mark.parametrize("adapter", [by_aiohttp, by_hand])
async def test_a_lost_callback_of_a_long_task_is_made_up_for_within_ten_minutes(adapter: Any) -> None:
    """However much callbacks are trusted, there is a look."""
    policy = RetryPolicy(max_age=8000.0)
    faults = [Fault("callback", "lost", nth=JOBS + 1)]
    durations = [*(5.0 for _ in range(JOBS)), 3000.0]
    how: Any = {"client": {"retry": policy}, "duration": lambda *_: durations.pop(0), "faults": faults}
    async with a_called_world(adapter, **how) as (setup, _):
        await all_end(setup)
        (lag,) = await all_end(setup, jobs=1, first=JOBS)

        assert lag <= 600.1
        assert len([poll for poll in setup.truth.polls if poll.task_id == setup.tasks[-1]]) <= 10
