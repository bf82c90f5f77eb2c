"""Budgets while prices are only listed: no run exceeds its budget, and a wrong list costs one task of each class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_async import Budget, Done, KieClient, MarketRequest, Skipped
from kie_async._keys import price_class
from kie_async.catalogue.prices import list_price
from kie_async.testing import FakeKie, Fault
from tests.catalogue.facts import COMPLETE, PRICED, expected, required_input
from tests.client.tables import by_key, client_and_fake_unchecked, count_types, run_map
from tests.helpers import KEY, assert_settled
from tests.profile import examples

#: The inputs of each priced model whose price an oracle knows from the rates.
TIERS: dict[str, list[dict[str, Any]]] = defaultdict(list)
for _model, _given in COMPLETE:
    if expected(PRICED[_model], _given) is not None:
        TIERS[_model].append({**required_input(PRICED[_model]), **_given})


def make_prices(factor: float) -> dict[str, Callable[[Mapping[str, Any]], float]]:
    """Return the prices of a service that charges a multiple of the rates, by the oracle."""

    def priced(model: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda given: factor * (expected(PRICED[model], {**given}) or 0.0)

    return {model: priced(model) for model in TIERS}


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[str, MarketRequest]]:
    """Return rows of mixed tiers of one model."""
    model = draw(st.sampled_from(sorted(TIERS)))
    inputs = draw(st.lists(st.sampled_from(TIERS[model]), min_size=1, max_size=25))
    return [(f"row-{n}", MarketRequest(model=model, input=given)) for n, given in enumerate(inputs)]


async def run_budget(
    rows: list[tuple[str, MarketRequest]], *, credits: float, factor: float, **service: Any
) -> tuple[float, float, int]:
    """Return what a run with a budget costs, the highest charge of each class together, and the number of its tasks."""
    options = {"duration": (30.0, 0.5), "credits": 1e9, "models": list(TIERS), "prices": make_prices(factor), **service}
    async with client_and_fake_unchecked(**options) as setup:
        found = await run_map(setup, rows, budget=Budget(credits=credits))
        assert len(found) == len(rows)
        assert {"Done", "Skipped", "Failed"} >= count_types(found).keys()
        charges: dict[str, float] = defaultdict(float)
        for task in setup.truth.created:
            key = price_class(task.model, task.input)
            charges[key] = max(charges[key], task.charged)
        await assert_settled(setup.kie)
        return setup.truth.spent(anyio.current_time()), sum(charges.values()), len(setup.truth.created)


@settings(max_examples=examples(50))
@given(tables(), st.sampled_from([100.0, 100.0, 1000.0]), st.sampled_from([0.0, 0.2]))
async def test_mixed_tiers_never_cost_more_than_the_budget(
    rows: list[tuple[str, MarketRequest]], credits: float, fail_rate: float
) -> None:
    spent, _, count = await run_budget(rows, credits=credits, factor=1.0, fail_rate=fail_rate)

    assert spent <= credits
    prices = [price for _, request in rows if (price := list_price(request.model, request.input({}))) is not None]
    assert len(prices) == len(rows)
    assert (count > 0) == (min(price.credits for price in prices) <= credits)


@pytest.mark.parametrize("factor", [0.5, 1.5, 3.0])
@settings(max_examples=examples(20))
@given(tables(), st.sampled_from([100.0, 1000.0]))
async def test_wrong_list_costs_no_more_than_one_task_of_each_class(
    factor: float, rows: list[tuple[str, MarketRequest]], credits: float
) -> None:
    spent, one_of_each, _ = await run_budget(rows, credits=credits, factor=factor)

    assert spent <= credits + (one_of_each if factor > 1.0 else 0.0)


def rows_of(count: int, model: str = "kling/v2-1-pro", **given: Any) -> list[tuple[str, MarketRequest]]:
    inputs = [{**required_input(PRICED[model]), "prompt": f"take {n}", **given} for n in range(count)]
    return [(f"row-{n}", MarketRequest(model=model, input=given)) for n, given in enumerate(inputs)]


@pytest.mark.parametrize("name", [None, "campaign-7"])
async def test_listed_class_is_sent_in_parallel_if_there_is_room_for_a_wrong_list(name: str | None) -> None:
    """One task at its price of 50 and four at 200 each; all others as soon as the first was charged."""
    prices = make_prices(1.0)
    async with (
        client_and_fake_unchecked(duration=100.0, models=list(prices), prices=prices, credits=1e6) as setup,
        setup.kie.map(rows_of(30, duration="5"), budget=Budget(credits=900, name=name)) as run,
    ):
        await anyio.sleep(50.0)
        assert 5 == len(setup.truth.created)
        found = [outcome async for outcome in run]
        assert {"Done": 18, "Skipped": 12} == count_types(found)
        assert 900.0 == setup.truth.spent(anyio.current_time())


async def test_upper_bound_is_reserved_until_such_a_task_was_charged() -> None:
    """The model chooses 4 to 15 seconds of 19 credits: 285 at most, and the task costs 95."""
    rows = rows_of(5, "bytedance/seedance-2", resolution="480p", duration=-1)
    options: dict[str, Any] = {"models": ["bytedance/seedance-2"], "prices": {"bytedance/seedance-2": 95.0}}
    async with client_and_fake_unchecked(credits=1e6, **options) as setup:
        estimate = await setup.kie.estimate(rows[0][1])
        assert (285.0, "listed", True) == (estimate.credits, estimate.basis, estimate.upper_bound)
        assert "upper bound" in estimate.source
        assert {"Skipped": 5} == count_types(await run_map(setup, rows, budget=Budget(credits=284)))
        assert {"Done": 3, "Skipped": 2} == count_types(await run_map(setup, rows, budget=Budget(credits=285)))
        seen = await setup.kie.estimate(rows[0][1])
        assert (95.0, "seen", False) == (seen.credits, seen.basis, seen.upper_bound)


async def test_seen_price_of_a_class_wins_over_the_list() -> None:
    rows = rows_of(4, duration="5")
    options: dict[str, Any] = {"models": ["kling/v2-1-pro"], "prices": {"kling/v2-1-pro": 20.0}}
    async with client_and_fake_unchecked(credits=1e6, **options) as setup:
        await setup.kie.generate(rows[0][1])
        assert {"Done": 2, "Skipped": 2} == count_types(await run_map(setup, rows, budget=Budget(credits=49)))


@pytest.mark.parametrize(
    "fault",
    [Fault("create", "reset", after=True, nth=1), Fault("poll", "alter", data={"creditsConsumed": None})],
    ids=["in doubt", "not reported"],
)
@pytest.mark.parametrize("name", [None, "campaign-7"])
async def test_listed_price_is_used_if_no_cost_becomes_known(fault: Fault, name: str | None) -> None:
    """A class without any known price would end here: its rows fail."""
    prices = make_prices(1.0)
    async with client_and_fake_unchecked(
        duration=30.0, models=list(prices), prices=prices, credits=1e6, faults=[fault]
    ) as setup:
        found = by_key(await run_map(setup, rows_of(4, duration="5"), budget=Budget(credits=150, name=name)))

        assert 3 == len(setup.truth.created)
        assert 1 == sum(isinstance(outcome, Skipped) for outcome in found.values())
        assert 2 <= sum(isinstance(outcome, Done) for outcome in found.values())


async def test_named_budget_of_two_clients_holds_with_listed_prices(tmp_path: Path) -> None:
    """Each client tries one task of the class by itself; together they stay within the budget."""
    prices = make_prices(1.0)
    async with FakeKie(duration=(30.0, 0.5), models=list(prices), prices=prices, credits=1e6) as fake:
        counts: list[dict[str, int]] = []

        async def run_one(kie: KieClient, own: str) -> None:
            rows = [(f"{own}-{key}", request) for key, request in rows_of(10, duration="5")]
            async with kie.map(rows, budget=Budget(credits=520, name="both")) as run:
                counts.append(count_types([outcome async for outcome in run]))

        path = tmp_path / "kie.db"
        async with (
            KieClient(KEY, base_url=fake.url, journal=path) as a,
            KieClient(KEY, base_url=fake.url, journal=path) as b,
            anyio.create_task_group() as group,
        ):
            group.start_soon(run_one, a, "a")
            group.start_soon(run_one, b, "b")
        assert 500.0 == fake.truth.spent(anyio.current_time())
        assert 10 == sum(count.get("Done", 0) for count in counts)
