"""The end of a run's sending: ``stop_after``, and an account that cannot pay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from kie_async import (
    AuthenticationError,
    Budget,
    Done,
    Failed,
    InDoubt,
    InsufficientCreditsError,
    KeyLimitError,
    Request,
    RetryPolicy,
    Skipped,
    TaskFailedError,
)
from kie_async.testing import Fault
from tests.client.tables import by_key, client_and_fake_unchecked, count_types, drain_run, make_rows, run_map
from tests.helpers import KEY, assert_settled, client_and_fake, make_request

# -- stop_after -------------------------------------------------------------------------------------------------------


async def test_stop_after_skips_unsent_rows() -> None:
    async with client_and_fake(duration=60.0) as setup:
        async with setup.kie.map(make_rows(100), stop_after=25.0) as run:
            found = by_key([outcome async for outcome in run])

        assert 60 == len(setup.tasks)
        assert {f"shot-{number}" for number in range(60)} == {k for k, o in found.items() if isinstance(o, Done)}
        skipped = [outcome for outcome in found.values() if isinstance(outcome, Skipped)]
        assert {"stop_after"} == {outcome.reason for outcome in skipped}
        assert 40 == len(skipped) == run.summary().skipped
        assert max(task.created_at for task in setup.truth.created) <= 25.0 + min(
            task.created_at for task in setup.truth.created
        )
        again = by_key(await run_map(setup, make_rows(100)))
        assert 60 == sum(outcome.replayed for outcome in again.values())
        assert 100 == len(setup.tasks)
        await assert_settled(setup.kie)


async def test_done_rows_are_replayed_after_stop_after() -> None:
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(5))
        found = await run_map(setup, make_rows(10), stop_after=0.0)

        assert {"Done": 5, "Skipped": 5} == count_types(found)


async def test_stop_after_ends_waits_for_budget_and_source() -> None:
    async def rows() -> AsyncIterator[tuple[str, Request]]:
        for row in make_rows(14):
            yield row
        await anyio.sleep_forever()

    async with client_and_fake(duration=500.0) as setup:
        started_at = anyio.current_time()
        found = await run_map(setup, rows(), budget=Budget(credits=1000, price=80), stop_after=100.0)

        assert {"Done": 12, "Skipped": 2} == count_types(found)
        assert {"stop_after"} == {outcome.reason for outcome in found if isinstance(outcome, Skipped)}
        assert anyio.current_time() - started_at < 540.0


async def test_run_waits_for_the_end_of_maintenance() -> None:
    """A single job has a timeout; a table continues when the service does."""
    async with client_and_fake(client={"retry": RetryPolicy(maintenance_timeout=100.0)}, duration=10.0) as setup:
        setup.fake.maintenance = True
        async with setup.kie.map(make_rows(30)) as run, anyio.create_task_group() as group:

            async def end_maintenance() -> None:
                await anyio.sleep(5000.0)
                setup.fake.maintenance = False

            group.start_soon(end_maintenance)
            found = [outcome async for outcome in run]
        assert {"Done": 30} == count_types(found)
        assert {"succeeded": 30} == await setup.states()
        assert len(setup.truth.create_requests) < 200
        await assert_settled(setup.kie)


async def test_run_restarts_a_job_that_timed_out() -> None:
    async with client_and_fake(client={"retry": RetryPolicy(maintenance_timeout=100.0)}, duration=10.0) as setup:
        setup.fake.maintenance = True
        job = await setup.kie.submit(make_request(0), key="shot-0", wait=False)
        async with setup.kie.map(make_rows(1)) as run:
            await anyio.sleep(1000.0)
            setup.fake.maintenance = False
            (done,) = [outcome async for outcome in run]
        assert isinstance(done, Done)
        assert job.id == done.job_id


async def test_stop_after_ends_a_wait_for_maintenance() -> None:
    async with client_and_fake(duration=10.0) as setup:
        setup.fake.maintenance = True
        found = await run_map(setup, make_rows(60), stop_after=2000.0)

        assert {"Skipped": 60} == count_types(found)
        assert 0 == len(setup.tasks)
        assert {"cancelled"} == set(await setup.states())
        await assert_settled(setup.kie)


# -- the account ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
async def test_empty_account_stops_and_can_be_continued(*, ordered: bool) -> None:
    """Running rows are yielded, then the error is raised; after a top-up nothing is paid twice."""
    read = 0

    def rows() -> Iterator[tuple[str, Request]]:
        nonlocal read
        for row in make_rows(200):
            read += 1
            yield row

    async with client_and_fake(duration=60.0, credits=80.0 * 33) as setup:
        async with setup.kie.map(rows(), ordered=ordered) as run:
            found, error = await drain_run(run)
            assert isinstance(error, InsufficientCreditsError)
            assert "Top up" in str(error)
            assert [] == [outcome async for outcome in run]
        assert {"Done": 33} == count_types(found)
        assert 33 == len(setup.tasks)
        assert read < 100
        assert {"intent", "succeeded"} == set(await setup.states())
        await assert_settled(setup.kie)

        setup.fake.credits = 1e6
        again = by_key(await run_map(setup, rows(), ordered=ordered))
        assert 200 == len(again) == len(setup.tasks)
        assert 33 == sum(outcome.replayed for outcome in again.values())


@pytest.mark.parametrize(
    ("code", "kind"), [(401, AuthenticationError), (402, InsufficientCreditsError), (433, KeyLimitError)]
)
async def test_each_account_error_is_raised_as_itself(code: int, kind: type[Exception]) -> None:
    faults = [Fault("create", "code", code=code, nth=range(5, 8))]
    async with client_and_fake(duration=20.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(50)) as run:
            assert isinstance((await drain_run(run))[1], kind)
        assert len(setup.tasks) == run.summary().ok
        found = await run_map(setup, make_rows(50))
        assert {"Done": 50} == count_types(found)
        assert 50 == len(setup.tasks)


async def test_revoked_key_ends_the_run_and_loses_nothing() -> None:
    async with client_and_fake(duration=60.0, api_keys=[KEY]) as setup:
        async with setup.kie.map(make_rows(20)) as run:
            await anyio.sleep(30.0)
            setup.fake.revoke_key(KEY)
            assert isinstance((await drain_run(run))[1], AuthenticationError)
        assert {"submitted": 20} == await setup.states()


async def test_in_doubt_precedes_the_account_error() -> None:
    faults = [Fault("create", "reset", after=True, nth=1), Fault("create", "code", code=402, nth=10)]
    async with client_and_fake(duration=20.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(50)) as run:
            found, error = await drain_run(run)
        assert isinstance(error, InsufficientCreditsError)
        assert 1 == sum(isinstance(outcome, InDoubt) for outcome in found)
        assert len(setup.tasks) == len(found)


@pytest.mark.parametrize("how", ["stop_after", "stop"])
async def test_stopped_run_retries_no_failed_task(how: str) -> None:
    async with client_and_fake_unchecked(duration=30.0, fail_rate=1.0) as setup:
        async with setup.kie.map(make_rows(5), retry_failed=3, stop_after=10.0 if how == "stop_after" else None) as run:
            await anyio.sleep(5.0)
            if how == "stop":
                run.stop()
            found = [outcome async for outcome in run]

        assert {"Failed": 5} == count_types(found)
        assert 5 == len(setup.tasks)


async def test_unsent_retry_needs_retry_failed() -> None:
    """The retry is cancelled in the journal; only a run with ``retry_failed`` sends it."""
    async with client_and_fake_unchecked(duration=5.0, fail_rate=1.0) as setup:
        async with setup.kie.map(make_rows(1), retry_failed=1, stop_after=100.0) as run:
            await anyio.sleep(2.0)
            setup.fake.maintenance = True
            await drain_run(run)
        setup.fake.maintenance = False
        assert {"failed": 1, "cancelled": 1} == await setup.states()
        (failed,) = await run_map(setup, make_rows(1))

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, TaskFailedError)
        assert failed.replayed
        assert 1 == len(setup.tasks)
        (again,) = await run_map(setup, make_rows(1), retry_failed=1)
        assert (2, 1) == (len(setup.tasks), again.retries)


async def test_unsent_retry_reports_the_last_failure() -> None:
    async with client_and_fake_unchecked(duration=5.0, fail_rate=1.0) as setup:
        async with setup.kie.map(make_rows(1), retry_failed=3, stop_after=100.0) as run:
            await anyio.sleep(2.0)
            setup.fake.maintenance = True
            (failed,) = [outcome async for outcome in run]

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, TaskFailedError)
        assert 1 == len(setup.tasks)


@pytest.mark.parametrize("options", [{"stop_after": 0.0}, {"budget": Budget(credits=0)}], ids=["stop_after", "budget"])
async def test_failed_row_is_not_skipped(
    options: Any,
) -> None:
    """``Skipped`` means that nothing was sent."""
    async with client_and_fake_unchecked(duration=5.0, fail_rate=1.0) as setup:
        await run_map(setup, make_rows(1), retry_failed=1)
        (failed,) = await run_map(setup, make_rows(1), retry_failed=2, **options)

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, TaskFailedError)
        assert (True, 0, setup.tasks[1]) == (failed.replayed, failed.retries, failed.task_id)
        assert 2 == len(setup.tasks)
