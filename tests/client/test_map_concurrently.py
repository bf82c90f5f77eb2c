"""Several runs of one table at once: when one leaves, the others send the rest, and each row is paid once."""

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
from tests.full_disk import limit_file_size
from tests.helpers import KEY, Setup, assert_settled, client_and_fake, make_request


@asynccontextmanager
async def started_run(setup: Setup, count: int, **options: Any) -> AsyncIterator[Run]:
    """Enter a run whose first twenty rows are sent, and whose next rows are read."""
    async with setup.kie.map(make_rows(count), **options) as run:
        await anyio.sleep(2.0)
        assert 20 == len(setup.tasks)
        yield run


@pytest.mark.parametrize("leaving", ["stop", "leave", "stop_after"])
async def test_unsent_rows_are_sent_by_the_other_run(leaving: str) -> None:
    async with client_and_fake(duration=30.0) as setup:
        stop_after = 5.0 if leaving == "stop_after" else None
        async with started_run(setup, 50, stop_after=stop_after) as first, setup.kie.map(make_rows(50)) as second:
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


async def test_abandoned_row_is_started_by_one_run() -> None:
    async with client_and_fake(duration=30.0) as setup, started_run(setup, 40) as first:
        found: list[list[Outcome]] = []

        async def run_table() -> None:
            found.append(await run_map(setup, make_rows(40), budget=Budget(credits=3200)))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(run_table)
            await anyio.sleep(1.0)
            await first.aclose()
        assert [{"Done": 40}] * 3 == list(map(count_types, found))
        assert 40 == len(setup.tasks)


async def test_abandoned_row_needs_the_other_budget() -> None:
    """The second run has no credits for the rows that it only waited for, and no running row will free any."""
    async with client_and_fake(duration=30.0) as setup, started_run(setup, 40) as first:
        async with setup.kie.map(make_rows(40), budget=Budget(credits=1600 + 5 * 80)) as second:
            await anyio.sleep(1.0)
            await first.aclose()
            found = [outcome async for outcome in second]
        assert {"Done": 25, "Skipped": 15} == count_types(found)
        assert {"budget"} == {outcome.reason for outcome in found if isinstance(outcome, Skipped)}
        assert 25 == len(setup.tasks)
        assert (2000.0, 0.0) == (second.summary().credits, second.summary().credits_held)


async def test_full_disk_of_one_run_spares_the_other(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0, credits=1e6) as setup:
        await run_map(
            setup, [("clip", make_request(99))], save_to=tmp_path / "{key}.mp4"
        )  # the fake writes its clip to a disk
        async with (
            setup.kie.map(make_rows(60), save_to=tmp_path / "{key}.mp4") as first,
            setup.kie.map(make_rows(60)) as second,
        ):
            with limit_file_size(500):
                assert (await drain_run(first))[1] is not None
            assert {"Done": 60} == count_types([outcome async for outcome in second])
        assert 61 == len(setup.tasks)


async def test_empty_account_ends_both_runs() -> None:
    async with client_and_fake(duration=30.0, credits=80.0 * 25) as setup:
        async with started_run(setup, 50) as first, setup.kie.map(make_rows(50)) as second:
            for run in (first, second):
                found, error = await drain_run(run)
                assert isinstance(error, InsufficientCreditsError)
                assert {"Done": 25} == count_types(found)
        setup.fake.credits = 1e6
        assert {"Done": 50} == count_types(await run_map(setup, make_rows(50)))
        assert 50 == len(setup.tasks)


async def test_row_abandoned_by_a_process_is_sent(tmp_path: Path) -> None:
    async with FakeKie(duration=30.0, credits=1e6) as fake:
        path = tmp_path / "kie.db"
        found: list[Outcome] = []
        # Two clients, each with its own journal on one file, behave as two processes.
        async with KieClient(KEY, base_url=fake.url, journal=path) as other, other.map(make_rows(40)) as first:
            await anyio.sleep(2.0)
            async with KieClient(KEY, base_url=fake.url, journal=path) as kie, kie.map(make_rows(40)) as second:
                await anyio.sleep(2.0)
                await first.aclose()
                found = [outcome async for outcome in second]
        assert {"Done": 40} == count_types(found)
        assert 40 == len(fake.truth.tasks)
        assert max(Counter(str(task.input["prompt"]) for task in fake.truth.created).values()) == 1


@pytest.mark.parametrize("how", ["stop_after", "stop"])
async def test_stopped_run_does_not_wait_for_others(how: str) -> None:
    async with client_and_fake(duration=30.0) as setup:
        setup.fake.maintenance = True
        async with setup.kie.map(make_rows(5)) as first:
            await anyio.sleep(1.0)
            started_at = anyio.current_time()
            async with setup.kie.map(make_rows(5), stop_after=100.0 if how == "stop_after" else None) as second:
                await anyio.sleep(50.0)
                if how == "stop":
                    second.stop()
                with anyio.fail_after(100.0):
                    found = [outcome async for outcome in second]
            assert anyio.current_time() - started_at < 105.0
            assert ({"Skipped": 5} if how == "stop_after" else {}) == count_types(found)
            assert 0.0 == second.summary().credits_held
            setup.fake.maintenance = False
            assert {"Done": 5} == count_types([outcome async for outcome in first])
        assert 5 == len(setup.tasks)
        await assert_settled(setup.kie)


async def test_retry_of_another_run_is_shared() -> None:
    async with client_and_fake_unchecked(duration=20.0) as setup, setup.kie.map(make_rows(1), retry_failed=1) as first:
        await anyio.sleep(5.0)
        setup.fake.fail(setup.tasks[0])
        await anyio.sleep(20.0)
        assert 2 == len(setup.tasks)
        (shared,) = await run_map(setup, make_rows(1))
        (retried,) = [outcome async for outcome in first]

        assert (setup.tasks[1], "Done", 0) == (shared.task_id, type(shared).__name__, shared.retries)
        assert (setup.tasks[1], "Done", 1) == (retried.task_id, type(retried).__name__, retried.retries)
        assert 2 == len(setup.tasks)


async def test_late_rows_do_not_wait_for_others() -> None:
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


async def test_stop_after_ends_the_wait_for_a_submit() -> None:
    async with client_and_fake(duration=30.0) as setup:
        setup.fake.maintenance = True
        job = await setup.kie.submit(make_request(0), key="shot-0", wait=False)
        with anyio.fail_after(200.0):
            assert {"Skipped": 2} == count_types(await run_map(setup, make_rows(2), stop_after=100.0))
        setup.fake.maintenance = False
        await job
        assert 1 == len(setup.tasks)


@pytest.mark.parametrize("kind", ["budget", "stop_after"])
async def test_row_done_elsewhere_is_not_skipped(tmp_path: Path, kind: str) -> None:
    """By the time the budget or the time is known to be used up, the row is in the journal."""
    durations = iter([100.0, 10.0])
    async with FakeKie(duration=lambda *_: next(durations), credits=1e6) as fake:
        path = tmp_path / "kie.db"
        async with (
            KieClient(KEY, base_url=fake.url, journal=path) as other,
            KieClient(KEY, base_url=fake.url, journal=path) as kie,
            kie.map(make_rows(2), budget=Budget(credits=80), stop_after=60.0 if kind == "stop_after" else None) as run,
        ):
            await anyio.sleep(5.0)
            await other.generate(make_request(1), key="shot-1")
            found = [outcome async for outcome in run]
        assert {"Done": 2} == count_types(found)
        assert (160.0, 0.0) == (run.summary().credits + run.summary().credits_replayed, run.summary().credits_held)
        assert 2 == len(fake.truth.tasks)
