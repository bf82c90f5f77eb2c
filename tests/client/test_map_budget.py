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
    Estimate,
    EventName,
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
    """The list says 80 and the service takes 30: the rest of each reservation is free again, and 30 are reserved."""
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
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000, price=80)) as run:
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
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000, price=80)) as run:
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


async def test_retry_needs_its_own_reservation() -> None:
    async with client_and_fake_unchecked(duration=30.0, fail_rate=1.0) as setup:
        async with setup.kie.map(make_rows(2), budget=Budget(credits=80), retry_failed=3) as run:
            found = [outcome async for outcome in run]
        assert {"Failed": 2} == count_types(found)
        assert 8 == len(setup.tasks)
        assert 0.0 == run.summary().credits


@pytest.mark.parametrize(
    "wrong",
    [{"credits": -1}, {"credits": math.inf}, {"credits": 10**400}, {"credits": "1"}, {"credits": 1, "price": -1}],
)
def test_invalid_budget_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="number of credits"):
        Budget(**wrong)


# -- prices -----------------------------------------------------------------------------------------------------------


async def test_estimate_is_the_list_price_until_such_a_task_was_charged() -> None:
    small = make_request(1, resolution="480p")
    async with client_and_fake(duration=10.0, prices={make_request().model: 37.5}) as setup:
        listed = await setup.kie.estimate(make_request())
        assert listed is not None
        assert (80.0, "listed", True) == (listed.credits, listed.basis, "2026" in listed.source)
        await setup.kie.generate(small)
        assert listed == await setup.kie.estimate(make_request())
        await run_map(setup, make_rows(6)[5:])

        seen = await setup.kie.estimate(make_request())
        assert (37.5, "seen") == (seen.credits, seen.basis)
        unknown = await setup.kie.estimate(MarketRequest(model="another", input={}))
        assert Estimate(credits=None, basis="unknown", source="no task of this model in the journal") == unknown


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
