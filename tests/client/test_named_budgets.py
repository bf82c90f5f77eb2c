"""Budgets with a name: all runs, clients and processes on one journal share them, and together stay within them."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from kie_async import (
    Budget,
    BudgetExceededError,
    BudgetInfo,
    ConfigurationError,
    KieClient,
    MarketRequest,
    Outcome,
    RetryPolicy,
)
from kie_async._io.journals.memory import MemoryJournal
from kie_async.testing import FakeKie, Fault
from tests.client.tables import client_and_fake_unchecked, count_types, make_rows, run_map
from tests.helpers import KEY, JournalClient, assert_settled, client_and_fake, make_request
from tests.profile import scaled

NAME = "campaign-7"


def table(name: str, count: int) -> list[tuple[str, Any]]:
    return [(f"{name}-{key}", make_request(number)) for number, (key, _) in enumerate(make_rows(count))]


async def info_of(kie: KieClient) -> BudgetInfo:
    (info,) = await kie.budgets()
    return info


def shape(info: BudgetInfo) -> tuple[float, float, float]:
    return info.spent, info.reserved, info.left


async def run_in(kie: KieClient, rows: list[Any], budget: Budget, found: list[Outcome], **options: Any) -> None:
    async with kie.map(rows, budget=budget, **options) as run:
        found += [outcome async for outcome in run]


@pytest.mark.parametrize("tables", [1, 2, 6])
async def test_tables_of_one_client_share_the_budget(tables: int) -> None:
    async with client_and_fake_unchecked(duration=30.0) as setup:
        found: list[Outcome] = []
        async with anyio.create_task_group() as group:
            for number in range(tables):
                group.start_soon(run_in, setup.kie, table(str(number), 20), Budget(credits=1000, name=NAME), found)

        assert {"Done": 12, "Skipped": 20 * tables - 12} == count_types(found)
        assert 960.0 == setup.truth.spent(anyio.current_time())
        assert (960.0, 0.0, 40.0) == shape(await info_of(setup.kie))
        await assert_settled(setup.kie)


@pytest.mark.parametrize("seed", range(scaled(quick=1, check=2, nightly=40)))
async def test_two_clients_on_one_file_never_go_over(tmp_path: Path, seed: int) -> None:
    """Three tables each; tasks fail, responses are lost, and ambiguous creates are paid."""
    faults = [
        Fault("create", "reset", after=True, probability=0.04),
        Fault("create", "code", code=500, after=True, probability=0.04),
    ]
    chance, found = Random(seed), list[Outcome]()
    retry = RetryPolicy(in_doubt_timeout=60.0)
    async with FakeKie(
        duration=(30.0, 0.5), latency=(0.02, 0.2), fail_rate=0.15, faults=faults, credits=1e6, seed=seed
    ) as fake:
        path, url = tmp_path / "kie.db", fake.url
        async with (
            KieClient(KEY, base_url=url, journal=path, retry=retry) as first,
            KieClient(KEY, base_url=url, journal=path, retry=retry) as second,
            anyio.create_task_group() as group,
        ):
            for number in range(6):
                rows = table(str(number), chance.randrange(5, 15))
                group.start_soon(run_in, chance.choice([first, second]), rows, Budget(credits=1000, name=NAME), found)
        assert fake.truth.spent(anyio.current_time()) <= 1000.0
        async with KieClient(KEY, base_url=url, journal=path) as kie:
            info = await info_of(kie)
        assert fake.truth.spent(anyio.current_time()) <= info.spent + info.reserved <= 1000.0
        assert info.left < 80.0


async def test_killed_process_reserves_nothing_for_ever(tmp_path: Path) -> None:
    """Rows that were not sent reserve nothing; the other run resumes those that were."""
    async with FakeKie(duration=100.0, credits=1e6) as fake:
        path, found = tmp_path / "kie.db", list[Outcome]()
        killed = KieClient(KEY, base_url=fake.url, journal=path)
        run = killed.map(table("a", 40), budget=Budget(credits=2000, price=80, name=NAME))
        await killed.__aenter__()
        await run.__aenter__()
        await anyio.sleep(5.0)
        await killed.aclose(drain=0.0)
        async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
            assert (0.0, 1600.0, 400.0) == shape(await info_of(kie))
            await run_in(kie, table("b", 40), Budget(credits=2000, price=80, name=NAME), found)
            assert {"Done": 5, "Skipped": 35} == count_types(found)
            assert (2000.0, 0.0, 0.0) == shape(await info_of(kie))
            for job in await kie.recover():
                with pytest.raises(BudgetExceededError, match=NAME):
                    await job
            await kie.raise_budget(NAME, 2400.0)
            await run_in(kie, table("a", 40), Budget(credits=2400, name=NAME), found)
        assert 2400.0 == fake.truth.spent(anyio.current_time())


@pytest.mark.parametrize("budget", [None, Budget(credits=1000)], ids=["none", "without a name"])
@pytest.mark.parametrize("recovered", [False, True])
async def test_run_that_does_not_name_a_rows_budget_ends(
    tmp_path: Path, budget: Budget | None, *, recovered: bool
) -> None:
    """A killed run has left the rows unsent, and its budget is used up: they were refused and started for ever."""
    async with FakeKie(duration=10.0, credits=1e6) as fake:
        path, found, rows = tmp_path / "kie.db", list[Outcome](), table("a", 2)
        fake.maintenance = True
        async with KieClient(KEY, base_url=fake.url, journal=path) as killed:
            await killed.map(rows, budget=Budget(credits=160, price=80, name=NAME)).__aenter__()
            await anyio.sleep(5.0)
            await killed.aclose(drain=0.0)
        fake.maintenance = False
        async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
            await run_in(kie, table("b", 2), Budget(credits=160, price=80, name=NAME), [])
            for job in await kie.recover() if recovered else ():
                with pytest.raises(BudgetExceededError, match=NAME):
                    await job
            with anyio.fail_after(600.0):
                async with kie.map(rows, budget=budget) as run:
                    found += [outcome async for outcome in run]
            assert [BudgetExceededError] * 2 == [type(getattr(outcome, "error", None)) for outcome in found]
            await kie.raise_budget(NAME, 320.0)
            async with kie.map(rows, budget=budget) as run:
                assert {"Done": 2} == count_types([outcome async for outcome in run])
            assert (320.0, 0.0, 0.0) == shape(await info_of(kie))


async def test_rows_wait_for_the_tasks_of_another_client(tmp_path: Path) -> None:
    """A task of the other client fails, and is free: its credits are used here."""
    async with FakeKie(duration=60.0, credits=1e6) as fake:
        path, found, others = tmp_path / "kie.db", list[Outcome](), list[Outcome]()
        async with (
            KieClient(KEY, base_url=fake.url, journal=path) as first,
            KieClient(KEY, base_url=fake.url, journal=path) as second,
            anyio.create_task_group() as group,
        ):
            group.start_soon(run_in, first, table("a", 2), Budget(credits=160, name=NAME), others)
            await anyio.sleep(5.0)
            group.start_soon(run_in, second, table("b", 1), Budget(credits=160, name=NAME), found)
            await anyio.sleep(5.0)
            fake.fail(next(iter(fake.truth.tasks)))
        assert {"Done": 1} == count_types(found)
        assert {"Done": 1, "Failed": 1} == count_types(others)


async def test_other_credits_for_a_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    async with FakeKie(duration=5.0) as fake, KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
        await run_in(kie, table("a", 2), Budget(credits=1000, name=NAME), [])
        for credits in (999.0, 1001.0):
            with pytest.raises(ConfigurationError, match=f"1000 credits.*{credits:g}"):
                await run_in(kie, table("b", 2), Budget(credits=credits, name=NAME), [])
        assert 2 == len(fake.truth.tasks)
        await run_in(kie, table("b", 2), Budget(credits=999, name="another"), [])
        assert ["another", NAME] == [info.name for info in await kie.budgets()]


async def test_raising_takes_a_new_total_and_reaches_running_runs() -> None:
    async with client_and_fake(duration=30.0) as setup:
        found: list[Outcome] = []
        async with anyio.create_task_group() as group:
            group.start_soon(run_in, setup.kie, make_rows(10), Budget(credits=160, price=80, name=NAME), found)
            await anyio.sleep(10.0)
            assert 2 == len(setup.tasks)
            info = await setup.kie.raise_budget(NAME, 400.0)
            assert (400.0, 240.0) == (info.credits, info.left)
            await anyio.sleep(5.0)
            assert 5 == len(setup.tasks)
        assert {"Done": 5, "Skipped": 5} == count_types(found)
        with pytest.raises(ConfigurationError, match="400"):
            await setup.kie.raise_budget(NAME, 399.0)
        with pytest.raises(ConfigurationError, match="no budget 'other'"):
            await setup.kie.raise_budget("other", 1.0)
        with pytest.raises(ConfigurationError, match="number of credits"):
            await setup.kie.raise_budget(NAME, math.nan)


@pytest.mark.parametrize("rows", [list, iter], ids=["list", "generator"])
async def test_earlier_spend_of_a_table_counts(rows: Any) -> None:
    """The rows were sent without a budget."""
    async with client_and_fake_unchecked(duration=30.0) as setup:
        await run_map(setup, make_rows(10))
        again = await run_map(setup, rows(make_rows(50)), budget=Budget(credits=1000, name=NAME))
        assert {"Done": 12, "Skipped": 38} == count_types(again)
        assert (960.0, 0.0, 40.0) == shape(await info_of(setup.kie))


@pytest.mark.parametrize("sender", ["submit", "map"])
async def test_job_that_another_caller_sends_counts(sender: str) -> None:
    """The run finds the job before it is sent, and waits for it."""
    async with client_and_fake(duration=30.0) as setup:
        setup.fake.maintenance = True
        found: list[Outcome] = []
        async with anyio.create_task_group() as group:
            if sender == "submit":
                await setup.kie.submit(make_request(0), key="shot-0", wait=False)
            else:
                group.start_soon(run_map, setup, make_rows(1))
            await anyio.sleep(1.0)
            group.start_soon(run_in, setup.kie, make_rows(3), Budget(credits=160, name=NAME), found)
            await anyio.sleep(1.0)
            setup.fake.maintenance = False
        assert 160.0 == (await info_of(setup.kie)).spent == setup.truth.spent(anyio.current_time())
        assert {"Done": 2, "Skipped": 1} == count_types(found)


async def test_spend_outlasts_forgotten_jobs(tmp_path: Path) -> None:
    async with FakeKie(duration=5.0) as fake, KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
        await run_in(kie, table("a", 3), Budget(credits=300, name=NAME), [])
        assert 3 == await kie.forget(before=math.inf)
        found: list[Outcome] = []
        await run_in(kie, table("b", 3), Budget(credits=300, name=NAME), found)
        assert {"Skipped": 3} == count_types(found)


@pytest.mark.parametrize("decision", ["abandon", "resolve"])
async def test_create_in_doubt_is_reserved_until_it_is_decided(decision: str) -> None:
    retry = RetryPolicy(in_doubt_timeout=30.0)
    faults = [Fault("create", "reset", after=True, nth=1)]
    async with client_and_fake(client={"retry": retry}, duration=10.0, faults=faults) as setup:
        found = await run_map(setup, make_rows(3), budget=Budget(credits=160, name=NAME))
        assert {"InDoubt": 1, "Done": 1, "Skipped": 1} == count_types(found)
        assert (80.0, 80.0, 0.0) == shape(await info_of(setup.kie))
        (job_id,) = (outcome.job_id for outcome in found if type(outcome).__name__ == "InDoubt")
        job = setup.kie.job(job_id or "")
        if decision == "abandon":
            await job.abandon()
        else:
            await job.resolve(setup.tasks[0])
            await job
        assert (160.0, 0.0, 0.0) == shape(await info_of(setup.kie))


@pytest.mark.parametrize("memory", [True, False])
async def test_unknown_class_has_one_task_for_all_clients(tmp_path: Path, *, memory: bool) -> None:
    rows = [(f"{n}", MarketRequest(model="acme/z-image", input={"prompt": f"{n}"})) for n in range(20)]
    journal: Any = MemoryJournal() if memory else tmp_path / "kie.db"
    async with FakeKie(duration=30.0, models=["acme/z-image"], prices={"acme/z-image": 70.0}, credits=1e6) as fake:
        found: list[Outcome] = []
        async with (
            JournalClient(KEY, base_url=fake.url, journal=journal) as first,
            JournalClient(KEY, base_url=fake.url, journal=journal) as second,
            anyio.create_task_group() as group,
        ):
            for number, kie in enumerate((first, second)):
                own = [(f"{number}-{key}", request) for key, request in rows]
                group.start_soon(run_in, kie, own, Budget(credits=200, name=NAME), found)
            await anyio.sleep(20.0)
            assert 1 == len(fake.truth.tasks)
        assert 140.0 == fake.truth.spent(anyio.current_time())
        assert {"Done": 2, "Skipped": 38} == count_types(found)


@pytest.mark.parametrize("wrong", ["", "a\nb", "x" * 101, 7, "\ud800"])
def test_invalid_name_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        Budget(credits=1, name=wrong)


def test_named_budget_takes_no_prior_spend() -> None:
    with pytest.raises(ConfigurationError, match="spent"):
        Budget(credits=1, spent=1, name=NAME)
