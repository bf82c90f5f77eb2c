"""Runs that do one table at once: whoever leaves first, the others send what is left, and each row is paid once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from kie_async import Budget, InsufficientCreditsError, KieClient, Outcome, Run, Skipped
from kie_async.testing import FakeKie
from tests.client.tables import a_world_without_a_ledger, by_key, outcomes, table, to_the_end
from tests.client.world import KEY, Anything, World, a_world, ask, assert_settled
from tests.full_disk import files_of_at_most


def kinds(found: list[Outcome]) -> dict[str, int]:
    return dict(Counter(type(outcome).__name__ for outcome in found))


@asynccontextmanager
async def some_of_it(world: World, count: int, **options: Anything) -> AsyncIterator[Run]:
    """A run that has begun a table whose first twenty rows are sent, and the next ones read."""
    async with world.kie.map(table(count), **options) as run:
        await anyio.sleep(2.0)
        assert 20 == len(world.tasks)
        yield run


@pytest.mark.parametrize("leaving", ["stop", "leave", "deadline"])
async def test_what_a_run_that_leaves_has_begun_and_not_sent_the_other_sends(leaving: str) -> None:
    async with a_world(duration=30.0) as world:
        deadline = 5.0 if leaving == "deadline" else None
        async with some_of_it(world, 50, stop_after=deadline) as first, world.kie.map(table(50)) as second:
            await anyio.sleep(1.0)
            if leaving == "stop":
                first.stop()
            if leaving == "leave":
                await first.aclose()
            found = by_key([outcome async for outcome in second])

        assert {"Done": 50} == kinds(list(found.values()))
        assert 50 == len(world.tasks)
        assert 30 == second.summary().created
        await assert_settled(world.kie)


async def test_of_several_runs_that_wait_for_one_that_leaves_each_row_is_begun_again_once() -> None:
    async with a_world(duration=30.0) as world, some_of_it(world, 40) as first:
        found: list[list[Outcome]] = []

        async def another() -> None:
            found.append(await outcomes(world, table(40), budget=Budget(credits=3200)))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(another)
            await anyio.sleep(1.0)
            await first.aclose()
        assert [{"Done": 40}] * 3 == list(map(kinds, found))
        assert 40 == len(world.tasks)


async def test_what_another_run_has_dropped_needs_its_money_here() -> None:
    """The second run has none for the rows that it only waited for, and nothing that runs may give some back."""
    async with a_world(duration=30.0) as world, some_of_it(world, 40) as first:
        async with world.kie.map(table(40), budget=Budget(credits=1600 + 5 * 80)) as second:
            await anyio.sleep(1.0)
            await first.aclose()
            found = [outcome async for outcome in second]
        assert {"Done": 25, "Skipped": 15} == kinds(found)
        assert {"budget"} == {outcome.reason for outcome in found if isinstance(outcome, Skipped)}
        assert 25 == len(world.tasks)
        assert (2000.0, 0.0) == (second.summary().credits, second.summary().credits_held)


async def test_a_disk_that_is_full_for_one_run_ends_no_row_of_the_other(tmp_path: Path) -> None:
    async with a_world(duration=10.0, credits=1e6) as world:
        await outcomes(world, [("clip", ask(99))], save_to=tmp_path / "{key}.mp4")  # the fake's clip is made on a disk
        async with (
            world.kie.map(table(60), save_to=tmp_path / "{key}.mp4") as first,
            world.kie.map(table(60)) as second,
        ):
            with files_of_at_most(500):
                assert (await to_the_end(first))[1] is not None
            assert {"Done": 60} == kinds([outcome async for outcome in second])
        assert 61 == len(world.tasks)


async def test_an_account_that_cannot_pay_ends_both_and_either_goes_on() -> None:
    async with a_world(duration=30.0, credits=80.0 * 25) as world:
        async with some_of_it(world, 50) as first, world.kie.map(table(50)) as second:
            for run in (first, second):
                found, error = await to_the_end(run)
                assert isinstance(error, InsufficientCreditsError)
                assert {"Done": 25} == kinds(found)
        world.fake.credits = 1e6
        assert {"Done": 50} == kinds(await outcomes(world, table(50)))
        assert 50 == len(world.tasks)


async def test_what_a_run_of_another_process_has_dropped_this_one_sends(tmp_path: Path) -> None:
    async with FakeKie(duration=30.0, credits=1e6) as fake:
        path = tmp_path / "kie.db"
        found: list[Outcome] = []
        # Two clients with journals of their own on one file are what two processes are.
        async with KieClient(KEY, base_url=fake.url, journal=path) as other, other.map(table(40)) as first:
            await anyio.sleep(2.0)
            async with KieClient(KEY, base_url=fake.url, journal=path) as kie, kie.map(table(40)) as second:
                await anyio.sleep(2.0)
                await first.aclose()
                found = [outcome async for outcome in second]
        assert {"Done": 40} == kinds(found)
        assert 40 == len(fake.truth.tasks)
        assert max(Counter(str(task.input["prompt"]) for task in fake.truth.created).values()) == 1


@pytest.mark.parametrize("how", ["deadline", "stop"])
async def test_a_run_that_sends_nothing_more_does_not_wait_for_what_another_one_has_not_sent(how: str) -> None:
    async with a_world(duration=30.0) as world:
        world.fake.maintenance = True
        async with world.kie.map(table(5)) as first:
            await anyio.sleep(1.0)
            began = anyio.current_time()
            async with world.kie.map(table(5), stop_after=100.0 if how == "deadline" else None) as second:
                await anyio.sleep(50.0)
                if how == "stop":
                    second.stop()
                with anyio.fail_after(100.0):
                    found = [outcome async for outcome in second]
            assert anyio.current_time() - began < 105.0
            assert ({"Skipped": 5} if how == "deadline" else {}) == kinds(found)
            assert 0.0 == second.summary().credits_held
            world.fake.maintenance = False
            assert {"Done": 5} == kinds([outcome async for outcome in first])
        assert 5 == len(world.tasks)
        await assert_settled(world.kie)


async def test_a_run_that_retries_nothing_gets_what_the_retry_of_another_one_makes() -> None:
    async with a_world_without_a_ledger(duration=20.0) as world, world.kie.map(table(1), retry_failed=1) as first:
        await anyio.sleep(5.0)
        world.fake.fail(world.tasks[0])
        await anyio.sleep(20.0)
        assert 2 == len(world.tasks)
        (told,) = await outcomes(world, table(1))
        (made,) = [outcome async for outcome in first]

        assert (world.tasks[1], "Done", 0) == (told.task_id, type(told).__name__, told.retries)
        assert (world.tasks[1], "Done", 1) == (made.task_id, type(made).__name__, made.retries)
        assert 2 == len(world.tasks)


async def test_rows_that_are_read_after_the_deadline_do_not_wait_for_what_another_run_has_not_sent() -> None:
    async with a_world(duration=30.0) as world:
        world.fake.maintenance = True
        async with world.kie.map(table(70), look_ahead=70) as first:
            await anyio.sleep(1.0)
            with anyio.fail_after(200.0):
                assert {"Skipped": 70} == kinds(await outcomes(world, table(70), stop_after=100.0, look_ahead=10))
            world.fake.maintenance = False
            assert {"Done": 70} == kinds([outcome async for outcome in first])
        assert 70 == len(world.tasks)


async def test_a_deadline_ends_the_wait_for_a_job_of_the_callers_own_too() -> None:
    async with a_world(duration=30.0) as world:
        world.fake.maintenance = True
        job = await world.kie.submit(ask(0), key="shot-0", wait=False)
        with anyio.fail_after(200.0):
            assert {"Skipped": 2} == kinds(await outcomes(world, table(2), stop_after=100.0))
        world.fake.maintenance = False
        await job
        assert 1 == len(world.tasks)


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
            kie.map(table(2), budget=Budget(credits=80), stop_after=60.0 if kind == "deadline" else None) as run,
        ):
            await anyio.sleep(5.0)
            await other.generate(ask(1), key="shot-1")
            found = [outcome async for outcome in run]
        assert {"Done": 2} == kinds(found)
        assert (160.0, 0.0) == (run.summary().credits + run.summary().credits_replayed, run.summary().credits_held)
        assert 2 == len(fake.truth.tasks)
