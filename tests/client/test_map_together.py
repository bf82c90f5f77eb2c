"""Runs that do one table at once: whoever leaves first, the others send what is left, and each row is paid once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async import Budget, InsufficientCreditsError, KieClient, Outcome, Run, Skipped
from kie_async.testing import FakeKie
from tests.client.tables import by_key, client_and_fake_unchecked, count_types, drain_run, make_rows, run_map
from tests.full_disk import files_of_at_most
from tests.helpers import KEY, Setup, assert_settled, client_and_fake, make_request


@asynccontextmanager
async def some_of_it(setup: Setup, count: int, **options: Any) -> AsyncIterator[Run]:
    """A run that has begun a table whose first twenty rows are sent, and the next ones read."""
    async with setup.kie.map(make_rows(count), **options) as run:
        await anyio.sleep(2.0)
        assert 20 == len(setup.tasks)
        yield run


@pytest.mark.parametrize("leaving", ["stop", "leave", "deadline"])
async def test_what_a_run_that_leaves_has_begun_and_not_sent_the_other_sends(leaving: str) -> None:
    async with client_and_fake(duration=30.0) as setup:
        deadline = 5.0 if leaving == "deadline" else None
        async with some_of_it(setup, 50, stop_after=deadline) as first, setup.kie.map(make_rows(50)) as second:
            await anyio.sleep(1.0)
            if leaving == "stop":
                first.stop()
            if leaving == "leave":
                await first.aclose()
            found = by_key([outcome async for outcome in second])

        assert {"Done": 50} == count_types(list(found.values()))
        assert 50 == len(setup.tasks)
        assert 30 == second.summary().created
        await assert_settled(setup.kie)


async def test_of_several_runs_that_wait_for_one_that_leaves_each_row_is_begun_again_once() -> None:
    async with client_and_fake(duration=30.0) as setup, some_of_it(setup, 40) as first:
        found: list[list[Outcome]] = []

        async def another() -> None:
            found.append(await run_map(setup, make_rows(40), budget=Budget(credits=3200)))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(another)
            await anyio.sleep(1.0)
            await first.aclose()
        assert [{"Done": 40}] * 3 == list(map(count_types, found))
        assert 40 == len(setup.tasks)


async def test_what_another_run_has_dropped_needs_its_money_here() -> None:
    """The second run has none for the rows that it only waited for, and nothing that runs may give some back."""
    async with client_and_fake(duration=30.0) as setup, some_of_it(setup, 40) as first:
        async with setup.kie.map(make_rows(40), budget=Budget(credits=1600 + 5 * 80)) as second:
            await anyio.sleep(1.0)
            await first.aclose()
            found = [outcome async for outcome in second]
        assert {"Done": 25, "Skipped": 15} == count_types(found)
        assert {"budget"} == {outcome.reason for outcome in found if isinstance(outcome, Skipped)}
        assert 25 == len(setup.tasks)
        assert (2000.0, 0.0) == (second.summary().credits, second.summary().credits_held)


async def test_a_disk_that_is_full_for_one_run_ends_no_row_of_the_other(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0, credits=1e6) as setup:
        await run_map(
            setup, [("clip", make_request(99))], save_to=tmp_path / "{key}.mp4"
        )  # the fake's clip is made on a disk
        async with (
            setup.kie.map(make_rows(60), save_to=tmp_path / "{key}.mp4") as first,
            setup.kie.map(make_rows(60)) as second,
        ):
            with files_of_at_most(500):
                assert (await drain_run(first))[1] is not None
            assert {"Done": 60} == count_types([outcome async for outcome in second])
        assert 61 == len(setup.tasks)


async def test_an_account_that_cannot_pay_ends_both_and_either_goes_on() -> None:
    async with client_and_fake(duration=30.0, credits=80.0 * 25) as setup:
        async with some_of_it(setup, 50) as first, setup.kie.map(make_rows(50)) as second:
            for run in (first, second):
                found, error = await drain_run(run)
                assert isinstance(error, InsufficientCreditsError)
                assert {"Done": 25} == count_types(found)
        setup.fake.credits = 1e6
        assert {"Done": 50} == count_types(await run_map(setup, make_rows(50)))
        assert 50 == len(setup.tasks)


async def test_what_a_run_of_another_process_has_dropped_this_one_sends(tmp_path: Path) -> None:
    async with FakeKie(duration=30.0, credits=1e6) as fake:
        path = tmp_path / "kie.db"
        found: list[Outcome] = []
        # Two clients with journals of their own on one file are what two processes are.
        async with KieClient(KEY, base_url=fake.url, journal=path) as other, other.map(make_rows(40)) as first:
            await anyio.sleep(2.0)
            async with KieClient(KEY, base_url=fake.url, journal=path) as kie, kie.map(make_rows(40)) as second:
                await anyio.sleep(2.0)
                await first.aclose()
                found = [outcome async for outcome in second]
        assert {"Done": 40} == count_types(found)
        assert 40 == len(fake.truth.tasks)
        assert max(Counter(str(task.input["prompt"]) for task in fake.truth.created).values()) == 1


@pytest.mark.parametrize("how", ["deadline", "stop"])
async def test_a_run_that_sends_nothing_more_does_not_wait_for_what_another_one_has_not_sent(how: str) -> None:
    async with client_and_fake(duration=30.0) as setup:
        setup.fake.maintenance = True
        async with setup.kie.map(make_rows(5)) as first:
            await anyio.sleep(1.0)
            began = anyio.current_time()
            async with setup.kie.map(make_rows(5), stop_after=100.0 if how == "deadline" else None) as second:
                await anyio.sleep(50.0)
                if how == "stop":
                    second.stop()
                with anyio.fail_after(100.0):
                    found = [outcome async for outcome in second]
            assert anyio.current_time() - began < 105.0
            assert ({"Skipped": 5} if how == "deadline" else {}) == count_types(found)
            assert 0.0 == second.summary().credits_held
            setup.fake.maintenance = False
            assert {"Done": 5} == count_types([outcome async for outcome in first])
        assert 5 == len(setup.tasks)
        await assert_settled(setup.kie)


async def test_a_run_that_retries_nothing_gets_what_the_retry_of_another_one_makes() -> None:
    async with client_and_fake_unchecked(duration=20.0) as setup, setup.kie.map(make_rows(1), retry_failed=1) as first:
        await anyio.sleep(5.0)
        setup.fake.fail(setup.tasks[0])
        await anyio.sleep(20.0)
        assert 2 == len(setup.tasks)
        (told,) = await run_map(setup, make_rows(1))
        (made,) = [outcome async for outcome in first]

        assert (setup.tasks[1], "Done", 0) == (told.task_id, type(told).__name__, told.retries)
        assert (setup.tasks[1], "Done", 1) == (made.task_id, type(made).__name__, made.retries)
        assert 2 == len(setup.tasks)


async def test_rows_that_are_read_after_the_deadline_do_not_wait_for_what_another_run_has_not_sent() -> None:
    async with client_and_fake(duration=30.0) as setup:
        setup.fake.maintenance = True
        async with setup.kie.map(make_rows(70), look_ahead=70) as first:
            await anyio.sleep(1.0)
            with anyio.fail_after(200.0):
                assert {"Skipped": 70} == count_types(
                    await run_map(setup, make_rows(70), stop_after=100.0, look_ahead=10)
                )
            setup.fake.maintenance = False
            assert {"Done": 70} == count_types([outcome async for outcome in first])
        assert 70 == len(setup.tasks)


async def test_a_deadline_ends_the_wait_for_a_job_of_the_callers_own_too() -> None:
    async with client_and_fake(duration=30.0) as setup:
        setup.fake.maintenance = True
        job = await setup.kie.submit(make_request(0), key="shot-0", wait=False)
        with anyio.fail_after(200.0):
            assert {"Skipped": 2} == count_types(await run_map(setup, make_rows(2), stop_after=100.0))
        setup.fake.maintenance = False
        await job
        assert 1 == len(setup.tasks)


@pytest.mark.parametrize("kind", ["budget", "deadline"])
async def test_a_row_that_another_process_has_done_while_it_waited_for_its_money_is_not_told_as_unsent(
    tmp_path: Path, kind: str
) -> None:
    """When the money is known to be gone, or the time, the row is in the journal."""
    durations = iter([100.0, 10.0])
    async with FakeKie(duration=lambda *_: next(durations), credits=1e6) as fake:
        path = tmp_path / "kie.db"
        async with (
            KieClient(KEY, base_url=fake.url, journal=path) as other,
            KieClient(KEY, base_url=fake.url, journal=path) as kie,
            kie.map(make_rows(2), budget=Budget(credits=80), stop_after=60.0 if kind == "deadline" else None) as run,
        ):
            await anyio.sleep(5.0)
            await other.generate(make_request(1), key="shot-1")
            found = [outcome async for outcome in run]
        assert {"Done": 2} == count_types(found)
        assert (160.0, 0.0) == (run.summary().credits + run.summary().credits_replayed, run.summary().credits_held)
        assert 2 == len(fake.truth.tasks)
