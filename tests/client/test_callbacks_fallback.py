"""Fallback polling: about once a job while callbacks arrive, as usual if they do not, and soon where one is lost."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import Limits, RetryPolicy, TaskFailedError
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.polling.watchlist import CallbackWeight
from kie_async._io.timers import Timers
from kie_async.records import TaskRecord
from kie_async.states import JobState
from kie_async.testing import Fault
from tests.client.backend import client_with_callbacks, use_aiohttp, use_handle
from tests.helpers import Setup, assert_settled, client_and_fake, make_request
from tests.io.intents import make_intent

if TYPE_CHECKING:
    from kie_async.testing.faults import Call

JOBS = 60
#: A usual distribution of durations.
ABOUT_A_MINUTE = (60.0, 0.35)


async def measure_lags(setup: Setup, jobs: int = JOBS, first: int = 0) -> list[float]:
    """Submit jobs at once; return the lags between the end of each task and of its wait, in the order of the tasks."""
    lags: dict[str, float] = {}

    async def generate(number: int) -> None:
        try:
            task_id = (await setup.kie.generate(make_request(number))).task_id
        except TaskFailedError as error:
            task_id = str(error.task_id)
        lags[task_id] = anyio.current_time() - setup.truth.tasks[task_id].ends_at

    async with anyio.create_task_group() as group:
        for number in range(first, first + jobs):
            group.start_soon(generate, number)
    return [lags[task.task_id] for task in setup.truth.created if task.task_id in lags]


def lags_of_lost(setup: Setup, lags: list[float]) -> list[float]:
    """Return those of the lags of all jobs whose callback was lost."""
    came = {callback.task_id for callback in setup.truth.callbacks if callback.status == 200}
    return [lag for task, lag in zip(setup.truth.created, lags, strict=True) if task.task_id not in came]


@pytest.mark.parametrize("seed", range(3))
async def test_received_callbacks_nearly_replace_polling(seed: int) -> None:
    """One confirmation and at most one planned poll for each job, as the service has counted."""
    async with client_with_callbacks(duration=ABOUT_A_MINUTE, fail_rate=0.2, credits=1e6, seed=seed) as (
        setup,
        backend,
    ):
        lags = await measure_lags(setup, 3 * JOBS)

        confirmations = setup.kie.statistics().confirmations
        assert 3 * JOBS == len(lags) == len(backend.answers)
        assert confirmations <= 3 * JOBS
        assert len(setup.truth.polls) - confirmations <= 1.0 * len(lags)
        assert max(lags) < 2.0
        await anyio.sleep(5.0)
        await assert_settled(setup.kie)


async def test_all_jobs_end_if_every_callback_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """The loss is learned from the first ones, and logged once."""
    faults = [Fault("callback", "lost")]
    async with client_with_callbacks(duration=ABOUT_A_MINUTE, faults=faults) as (setup, backend):
        assert JOBS == len(first := await measure_lags(setup))
        await anyio.sleep(30.0)
        assert JOBS == len(then := await measure_lags(setup, first=JOBS))

        assert max(first[:20]) <= 60.0
        assert max(then) <= 15.2
        assert [] == backend.answers
        assert 1 == sum("No callbacks arrive" in record.message for record in caplog.records)
        await anyio.sleep(30.0)
        await assert_settled(setup.kie)


async def test_all_jobs_end_if_every_callback_is_refused() -> None:
    """The client has a wrong webhook key, and answers 401 every time."""
    async with client_with_callbacks(client={"webhook_key": "one"}, webhook_key="another", duration=ABOUT_A_MINUTE) as (
        setup,
        backend,
    ):
        assert JOBS == len(await measure_lags(setup))
        assert {401} == {*backend.answers}


async def test_the_poll_rate_follows_the_callback_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Count polls for each job besides its confirmation, phase by phase: the loss rate is learned."""
    stopped: list[bool] = []

    def lost(_: Call) -> bool:
        return bool(stopped)

    async def polls_per_job(first: int) -> float:
        before = setup.kie.statistics()
        await measure_lags(setup, first=first)
        await anyio.sleep(30.0)
        now = setup.kie.statistics()
        return (now.polls - before.polls - (now.confirmations - before.confirmations)) / JOBS

    # Nothing is mounted: the first handled callback shows that there is a receiver. The limit of polls is high, so that
    # it does not hide the planned rate.
    service: Any = {"duration": ABOUT_A_MINUTE, "credits": 1e6, "queries_per_second": 100.0}
    client, faults = {"limits": Limits(polls_per_second=50.0)}, [Fault("callback", "lost", when=lost)]
    async with client_with_callbacks(use_handle, client=client, faults=faults, **service) as (setup, _):
        counts = [await polls_per_job(0), await polls_per_job(JOBS)]
        stopped.append(True)
        counts += [await polls_per_job(JOBS * phase) for phase in (2, 3)]
        warnings = sum("No callbacks arrive" in record.message for record in caplog.records)
        stopped.clear()
        counts += [await polls_per_job(JOBS * phase) for phase in (4, 5, 6, 7)]

    unknown, received, lost_at_first, lost_later, *received_again = counts
    assert 5.0 <= unknown
    assert received <= 1.0
    assert 1.0 <= lost_at_first
    # As many as a task of about a minute takes without callbacks.
    assert 5.0 <= lost_later
    assert max(received_again[1:]) <= 1.0
    assert 1 == warnings == sum("No callbacks arrive" in record.message for record in caplog.records)


async def test_without_a_receiver_every_job_is_polled() -> None:
    """The callback URL belongs to another server."""
    async with client_with_callbacks(use_handle, duration=60.0, faults=[Fault("callback", "lost")]) as (setup, _):
        (lag,) = await measure_lags(setup, jobs=1)

        assert lag <= 5.0
        assert 15 <= len(setup.truth.polls)


@pytest.mark.parametrize("adapter", [use_aiohttp, use_handle])
async def test_a_task_that_takes_far_longer_is_polled_less_often(adapter: Any) -> None:
    """It may be lost, or be of another sort than the known ones, so polling never stops."""
    policy = RetryPolicy(max_age=8000.0)
    faults = [Fault("callback", "lost", nth=JOBS + 1)]
    durations = [*(5.0 for _ in range(JOBS)), 3000.0]
    how: Any = {"client": {"retry": policy}, "duration": lambda *_: durations.pop(0), "faults": faults}
    async with client_with_callbacks(adapter, **how) as (setup, _):
        await measure_lags(setup)
        (lag,) = await measure_lags(setup, jobs=1, first=JOBS)

        assert lag <= 100.0
        assert len([poll for poll in setup.truth.polls if poll.task_id == setup.tasks[-1]]) <= 60


@pytest.mark.parametrize(
    ("duration", "lost", "mean", "worst"),
    [
        pytest.param(ABOUT_A_MINUTE, {"probability": 0.1}, 15.0, 50.0, id="a tenth"),
        pytest.param(ABOUT_A_MINUTE, {"nth": [*range(120, 140)]}, 15.0, 50.0, id="a burst"),
        pytest.param((3.0, 0.35), {"probability": 0.1}, 10.0, 15.0, id="short tasks"),
    ],
)
async def test_a_lost_callback_costs_seconds(duration: Any, lost: Any, mean: float, worst: float) -> None:
    """The poll of an overdue task comes soon, and the other jobs do not pay for it."""
    faults = [Fault("callback", "lost", **lost)]
    async with client_with_callbacks(duration=duration, faults=faults, credits=1e6, seed=1) as (setup, _):
        lags = await measure_lags(setup, 200)
        late = lags_of_lost(setup, lags)

        assert 10 <= len(late) <= 40
        assert fmean(late) <= mean
        assert max(late) <= worst
        assert len(setup.truth.polls) <= 3.0 * len(lags)


async def test_a_late_callback_is_not_waited_for() -> None:
    """If each comes a minute late, results come as soon as without callbacks."""
    async with client_with_callbacks(duration=20.0, callback_delay=60.0) as (setup, _):
        await measure_lags(setup, 40)
        lags = await measure_lags(setup, 20, first=40)

        assert fmean(lags) <= 5.0
        await anyio.sleep(90.0)
        await assert_settled(setup.kie)


async def test_callbacks_before_this_process_are_not_losses() -> None:
    """Tasks that ended while no process ran teach nothing about the receiver, however many they are."""
    loss = CallbackWeight(timers=Timers(asyncio.get_running_loop()), on_change=lambda: None)
    loss.expect_callbacks()
    before = loss.probability
    await anyio.sleep(100.0)
    for number in range(20):
        row = make_intent(
            number, state=JobState.SUBMITTED, task_id=f"t{number}", callback_url="https://example.com/kie"
        )
        job = LiveJob(id=row.id, row=row, accepted_at=-60.0)
        job.record = TaskRecord(task_id=f"t{number}", state="success", created_at=0.0, completed_at=50.0)
        loss.expect_callback(job)
    await anyio.sleep(20.0)
    assert before == loss.probability


async def test_one_job_is_polled_by_an_idle_budget() -> None:
    """With known durations its end is seen within 1.3 s on average; no two polls are within two seconds."""
    async with client_and_fake(duration=(60.0, 0.1), credits=1e6) as setup:
        lags = []
        for number in range(40):
            lags += await measure_lags(setup, 1, first=number)
        polled: dict[str, list[float]] = {}
        for poll in setup.truth.polls:
            polled.setdefault(poll.task_id, []).append(poll.at)

        assert fmean(lags[20:]) <= 1.3
        assert 2.0 <= min(later - earlier for times in polled.values() for earlier, later in pairwise(times))
        assert max(len(times) for times in [*polled.values()][20:]) <= 20
