"""Fallback polling: rare while callbacks arrive, normal if they do not, and never stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import Limits, RetryPolicy, TaskFailedError
from kie_async.testing import Fault
from tests.client.backend import client_with_callbacks, use_aiohttp, use_handle
from tests.helpers import Setup, assert_settled, make_request

if TYPE_CHECKING:
    from kie_async.testing.faults import Call

JOBS = 60
#: A usual distribution of durations.
ABOUT_A_MINUTE = (60.0, 0.35)


async def measure_lags(setup: Setup, jobs: int = JOBS, first: int = 0) -> list[float]:
    """Submit jobs at once; return the lags between the end of each task and of its wait."""
    lags: list[float] = []

    async def generate(number: int) -> None:
        try:
            task_id = (await setup.kie.generate(make_request(number))).task_id
        except TaskFailedError as error:
            task_id = str(error.task_id)
        lags.append(anyio.current_time() - setup.truth.tasks[task_id].ends_at)

    async with anyio.create_task_group() as group:
        for number in range(first, first + jobs):
            group.start_soon(generate, number)
    return lags


@pytest.mark.parametrize("seed", range(3))
async def test_received_callbacks_nearly_replace_polling(seed: int) -> None:
    """One confirmation and at most a fifth of a planned poll for each job, as the service has counted."""
    async with client_with_callbacks(duration=ABOUT_A_MINUTE, fail_rate=0.2, seed=seed) as (setup, backend):
        lags = await measure_lags(setup)

        confirmations = setup.kie.statistics().confirmations
        assert JOBS == len(lags) == len(backend.answers)
        assert confirmations <= JOBS
        assert len(setup.truth.polls) - confirmations <= 0.2 * JOBS
        assert max(lags) < 1.0
        await anyio.sleep(5.0)
        await assert_settled(setup.kie)


async def test_all_jobs_end_if_every_callback_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """The first ones end late, by rare polls; then the loss is learned, and logged once."""
    faults = [Fault("callback", "lost")]
    async with client_with_callbacks(duration=ABOUT_A_MINUTE, faults=faults) as (setup, backend):
        assert JOBS == len(first := await measure_lags(setup))
        await anyio.sleep(30.0)
        assert JOBS == len(then := await measure_lags(setup, first=JOBS))

        assert max(first) <= 600.0
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
    assert received <= 0.2
    assert 0.9 <= lost_at_first  # the rare poll that remains
    # As many as a task of about a minute takes without callbacks.
    assert 5.0 <= lost_later
    assert max(received_again[1:]) <= 0.2
    assert 1 == warnings == sum("No callbacks arrive" in record.message for record in caplog.records)


async def test_without_a_receiver_every_job_is_polled() -> None:
    """The callback URL belongs to another server."""
    async with client_with_callbacks(use_handle, duration=60.0, faults=[Fault("callback", "lost")]) as (setup, _):
        (lag,) = await measure_lags(setup, jobs=1)

        assert lag <= 5.0
        assert 15 <= len(setup.truth.polls)


@pytest.mark.parametrize("adapter", [use_aiohttp, use_handle])
async def test_a_lost_callback_costs_at_most_ten_minutes(adapter: Any) -> None:
    """Polling never stops, however low the loss rate is."""
    policy = RetryPolicy(max_age=8000.0)
    faults = [Fault("callback", "lost", nth=JOBS + 1)]
    durations = [*(5.0 for _ in range(JOBS)), 3000.0]
    how: Any = {"client": {"retry": policy}, "duration": lambda *_: durations.pop(0), "faults": faults}
    async with client_with_callbacks(adapter, **how) as (setup, _):
        await measure_lags(setup)
        (lag,) = await measure_lags(setup, jobs=1, first=JOBS)

        assert lag <= 600.1
        assert len([poll for poll in setup.truth.polls if poll.task_id == setup.tasks[-1]]) <= 10
