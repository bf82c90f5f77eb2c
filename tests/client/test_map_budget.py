"""The budget of a run, and the prices that it is based on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async import (
    Budget,
    ConfigurationError,
    Done,
    Estimate,
    EventName,
    Failed,
    KieClient,
    Limits,
    MarketRequest,
    RetryPolicy,
    Skipped,
)
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from tests.client.tables import by_key, client_and_fake_unchecked, count_types, make_rows, run_map
from tests.helpers import KEY, assert_settled, client_and_fake, make_request

MODEL = "z-image"


# -- budget -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(), Limits(creates=50)], ids=["the account's limit", "50 at once"])
async def test_budget_of_1000_creates_12_rows_of_80(limits: Limits) -> None:
    async with client_and_fake(client={"limits": limits}, limit=limits.creates, duration=60.0) as setup:
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            found = [outcome async for outcome in run]

        assert 12 == len(setup.tasks)
        assert {"Done": 12, "Skipped": 38} == count_types(found)
        skipped = [outcome for outcome in found if isinstance(outcome, Skipped)]
        assert {("budget", None, None)} == {(o.reason, o.state, o.job_id) for o in skipped}
        assert (12, 38, 960.0, 0.0) == (
            run.summary().ok, run.summary().skipped, run.summary().credits, run.summary().credits_held
        )  # fmt: skip
        assert 12 == len(await setup.rows())
        await assert_settled(setup.kie)


async def test_credits_of_a_failed_task_are_reused() -> None:
    """No row is skipped while a running task may turn out to be free."""
    async with client_and_fake(duration=30.0, fail_rate=0.4) as setup:
        found = await run_map(setup, make_rows(50), budget=Budget(credits=1000))

        assert 12 == count_types(found)["Done"]
        assert len(setup.tasks) == 12 + count_types(found)["Failed"] > 12
        assert 960.0 == setup.truth.spent(anyio.current_time())


async def test_reported_cost_replaces_the_estimate() -> None:
    """The list says 80 and the service takes 30: the rest of each reservation is free again."""
    async with client_and_fake(duration=30.0, prices={make_request().model: 30.0}) as setup:
        found = await run_map(setup, make_rows(50), budget=Budget(credits=1000))

        assert {"Done": 33, "Skipped": 17} == count_types(found)
        assert 990.0 == setup.truth.spent(anyio.current_time())


async def test_given_price_overrides_all_others() -> None:
    budget = Budget(credits=1000, price=200)
    async with client_and_fake(duration=math.inf) as setup, setup.kie.map(make_rows(50), budget=budget) as run:
        await anyio.sleep(60.0)
        assert 5 == len(setup.tasks)
        assert 1000.0 == run.summary().credits_held
        await run.aclose(drain=0.0)


async def test_cheaper_rows_may_still_fit() -> None:
    rows = [("a", make_request(1)), ("b", make_request(2)), ("c", make_request(3, resolution="480p"))]
    async with client_and_fake(duration=10.0) as setup:
        found = by_key(await run_map(setup, rows, budget=Budget(credits=130)))

        assert ["Done", "Skipped", "Done"] == [type(found[key]).__name__ for key in "abc"]


async def test_row_without_a_price_is_not_sent() -> None:
    rows = [MarketRequest(model=MODEL, input={"prompt": "x"}), make_request(1)]
    async with client_and_fake(duration=10.0, models=[MODEL]) as setup:
        failed, done = await run_map(setup, rows, budget=Budget(credits=100), ordered=True)

        assert isinstance(done, Done)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ConfigurationError)
        assert "Budget(price=" in str(failed.error)
        assert 1 == len(setup.tasks)


async def test_restart_gets_no_second_budget() -> None:
    async with client_and_fake(duration=30.0) as setup:
        assert {"Done": 12, "Skipped": 38} == count_types(
            await run_map(setup, make_rows(50), budget=Budget(credits=1000))
        )
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            assert {"Done": 12, "Skipped": 38} == count_types([outcome async for outcome in run])
        assert 12 == run.summary().replayed
        assert 12 == len(setup.tasks)
        assert (0.0, 960.0) == (run.summary().credits, run.summary().credits_replayed)
        assert str(run.summary()).startswith("12 replayed, 12 ok")

        assert {"Done": 25, "Skipped": 25} == count_types(
            await run_map(setup, make_rows(50), budget=Budget(credits=2000))
        )


@pytest.mark.parametrize("running", [range(10), range(40, 50)], ids=["first rows", "last rows"])
async def test_running_jobs_count_before_their_end(running: range) -> None:
    async with client_and_fake(duration=100.0) as setup:
        for number in running:
            await setup.kie.submit(make_request(number), key=f"shot-{number}")
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            await anyio.sleep(50.0)
            assert 12 == len(setup.tasks)
            found = [outcome async for outcome in run]
        assert {"Done": 12, "Skipped": 38} == count_types(found)


async def test_cost_of_a_create_in_doubt_stays_reserved() -> None:
    faults = [Fault("create", "reset", after=True, nth=range(3, 5))]
    async with client_and_fake(duration=30.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 10, "InDoubt": 2, "Skipped": 38} == count_types(found)
        assert 12 == len(setup.tasks)
        assert (800.0, 160.0) == (run.summary().credits, run.summary().credits_held)


async def test_resend_needs_its_own_reservation() -> None:
    """The whole budget is reserved for twelve rows when the first one gets an ambiguous error: it may be paid."""
    faults = [Fault("create", "code", code=500, after=True, when=lambda call: "take 0" in str(call.body))]
    async with client_and_fake(duration=30.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 11, "Failed": 1, "Skipped": 38} == count_types(found)
        assert (880.0, 80.0) == (run.summary().credits, run.summary().credits_held)
        assert 960.0 == setup.truth.spent(anyio.current_time())


async def test_every_ambiguous_attempt_is_reserved() -> None:
    faults = [Fault("create", "code", code=500, after=True, when=lambda call: "take 0" in str(call.body))]
    async with client_and_fake(duration=30.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(2), budget=Budget(credits=400)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 1, "Failed": 1} == count_types(found)
        assert (80.0, 240.0) == (run.summary().credits, run.summary().credits_held)
        assert 320.0 == setup.truth.spent(anyio.current_time())


@pytest.mark.parametrize(
    "fault",
    [
        Fault("create", "reset", after=True, when=lambda call: "take 3" in str(call.body)),
        Fault("create", "code", code=500, after=True, when=lambda call: "take 3" in str(call.body)),
    ],
    ids=["in doubt", "ambiguous"],
)
async def test_possible_cost_is_held_by_the_next_run(fault: Fault) -> None:
    async with client_and_fake(duration=30.0, faults=[fault]) as setup:
        first = count_types(await run_map(setup, make_rows(50), budget=Budget(credits=1000)))
        tasks = len(setup.tasks)
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            assert first == count_types([outcome async for outcome in run])

        assert tasks == len(setup.tasks) <= 12
        assert 80.0 <= run.summary().credits_held


async def test_possible_cost_is_held_after_a_kill() -> None:
    """The journal has an intent with one ambiguous attempt; it is sent once more."""
    retry = RetryPolicy(server_error_attempts=1_000_000)
    faults = [Fault("create", "code", code=500, after=True, nth=1)]
    async with client_and_fake(client={"retry": retry}, duration=30.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(1)) as run:
            while not setup.reported(EventName.AMBIGUOUS):
                await anyio.sleep(0.01)
            await setup.kie.aclose()
        assert [(JobState.INTENT, 1)] == [(row.state, row.ambiguous_attempts) for row in await setup.rows()]
        await setup.kie.__aenter__()
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 11, "Skipped": 39} == count_types(found)
        assert (880.0, 80.0) == (run.summary().credits, run.summary().credits_held)
        assert 12 == len(setup.tasks)


async def test_found_job_needs_no_price() -> None:
    """Nothing is sent for a model without a price, but a job that was sent before is followed all the same."""
    rows = [("old", MarketRequest(model=MODEL, input={"prompt": "x"})), ("new", MarketRequest(model=MODEL, input={}))]
    async with client_and_fake(duration=10.0, models=[MODEL], prices={MODEL: 0.0}) as setup:
        await setup.kie.submit(rows[0][1], key="old")
        old, new = await run_map(setup, rows, budget=Budget(credits=100), ordered=True)

        assert isinstance(old, Done)
        assert isinstance(new, Failed)
        assert isinstance(new.error, ConfigurationError)


async def test_retry_without_a_price_is_not_sent() -> None:
    request = MarketRequest(model=MODEL, input={"prompt": "x"})
    async with client_and_fake_unchecked(duration=10.0, models=[MODEL], prices={MODEL: 5.0}, fail_rate=1.0) as setup:
        await setup.kie.submit(request, key="a")
        async with setup.kie.map([("a", request)], budget=Budget(credits=100), retry_failed=1) as run:
            (failed,) = [outcome async for outcome in run]

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ConfigurationError)
        assert "Budget(price=" in str(failed.error)
        assert 1 == len(setup.tasks)
        (again,) = await run_map(setup, [("a", request)], budget=Budget(credits=100, price=5.0), retry_failed=1)
        assert (2, 1) == (len(setup.tasks), again.retries)


async def test_abandoned_row_without_a_price_fails() -> None:
    row = ("a", MarketRequest(model=MODEL, input={"prompt": "x"}))
    async with client_and_fake(duration=10.0, models=[MODEL], prices={MODEL: 5.0}) as setup:
        setup.fake.maintenance = True
        async with setup.kie.map([row]) as first:
            await anyio.sleep(2.0)
            async with setup.kie.map([row], budget=Budget(credits=100)) as second:
                await anyio.sleep(1.0)
                await first.aclose()
                (failed,) = [outcome async for outcome in second]

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ConfigurationError)
        assert [] == setup.tasks


async def test_retry_needs_its_own_reservation() -> None:
    async with client_and_fake_unchecked(duration=30.0, fail_rate=1.0) as setup:
        async with setup.kie.map(make_rows(2), budget=Budget(credits=80), retry_failed=3) as run:
            found = [outcome async for outcome in run]
        assert {"Failed": 2} == count_types(found)
        assert 8 == len(setup.tasks)
        assert 0.0 == run.summary().credits


@pytest.mark.parametrize(
    "wrong", [{"credits": -1}, {"credits": math.inf}, {"credits": "1"}, {"credits": 1, "price": -1}]
)
def test_invalid_budget_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="number of credits"):
        Budget(**wrong)


# -- prices -----------------------------------------------------------------------------------------------------------


async def test_estimate_prefers_seen_prices_to_the_list() -> None:
    small = make_request(1, resolution="480p")
    async with client_and_fake(duration=10.0, prices={make_request().model: 37.5}) as setup:
        listed = await setup.kie.estimate(make_request())
        assert listed is not None
        assert (80.0, True) == (listed.credits, "2026" in listed.source)
        await setup.kie.generate(small)
        await run_map(setup, make_rows(6)[5:])

        assert Estimate(credits=37.5, source="the highest of the last such task in the journal") == (
            await setup.kie.estimate(make_request())
        )
        assert None is await setup.kie.estimate(MarketRequest(model="another", input={}))


async def test_concurrent_estimates_share_one_query(tmp_path: Path) -> None:
    """The price is known to the journal only; callers that wait for the query have its result, too."""
    request = MarketRequest(model=MODEL, input={"prompt": "x"})
    estimates: list[Estimate | None] = []

    async def request_estimate(kie: KieClient) -> None:
        estimates.append(await kie.estimate(request))

    async with FakeKie(duration=5.0, models=[MODEL], prices={MODEL: 7.0}) as fake:
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            await kie.generate(request)
        async with (
            KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie,
            anyio.create_task_group() as group,
        ):
            for _ in range(3):
                group.start_soon(request_estimate, kie)
    assert [7.0] * 3 == [estimate.credits for estimate in estimates if estimate is not None]
