"""A run's budget holds, its deadline ends the sending, and an account that cannot pay ends the reading."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async import (
    AuthenticationError,
    Budget,
    ConfigurationError,
    Done,
    Estimate,
    EventName,
    Failed,
    InDoubt,
    InsufficientCreditsError,
    KeyLimitError,
    KieClient,
    Limits,
    MarketRequest,
    Request,
    RetryPolicy,
    Skipped,
    TaskFailedError,
)
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from tests.client.tables import by_key, client_and_fake_unchecked, count_types, drain_run, make_rows, run_map
from tests.helpers import KEY, assert_settled, client_and_fake, make_request

Z = "z-image"


# -- budget ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(), Limits(creates=50)], ids=["the account's limit", "50 at once"])
async def test_a_budget_of_1000_and_50_rows_of_80_create_exactly_12(limits: Limits) -> None:
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


async def test_what_a_failed_task_gives_back_is_spent_on_a_later_row() -> None:
    """The budget is used up: rows are not skipped while something that runs may cost nothing in the end."""
    async with client_and_fake(duration=30.0, fail_rate=0.4) as setup:
        found = await run_map(setup, make_rows(50), budget=Budget(credits=1000))

        assert 12 == count_types(found)["Done"]
        assert len(setup.tasks) == 12 + count_types(found)["Failed"] > 12
        assert 960.0 == setup.truth.spent(anyio.current_time())


async def test_the_service_says_what_a_task_has_cost_and_the_next_rows_go_by_that() -> None:
    """The list says 80, the service takes 30: what was set aside for the first ones is free again."""
    async with client_and_fake(duration=30.0, prices={make_request().model: 30.0}) as setup:
        found = await run_map(setup, make_rows(50), budget=Budget(credits=1000))

        assert {"Done": 33, "Skipped": 17} == count_types(found)
        assert 990.0 == setup.truth.spent(anyio.current_time())


async def test_a_price_of_your_own_goes_before_all_others() -> None:
    budget = Budget(credits=1000, price=200)
    async with client_and_fake(duration=math.inf) as setup, setup.kie.map(make_rows(50), budget=budget) as run:
        await anyio.sleep(60.0)
        assert 5 == len(setup.tasks)
        assert 1000.0 == run.summary().credits_held
        await run.aclose(drain=0.0)


async def test_rows_of_other_prices_fit_where_a_dearer_one_does_not() -> None:
    rows = [("a", make_request(1)), ("b", make_request(2)), ("c", make_request(3, resolution="480p"))]
    async with client_and_fake(duration=10.0) as setup:
        found = by_key(await run_map(setup, rows, budget=Budget(credits=130)))

        assert ["Done", "Skipped", "Done"] == [type(found[key]).__name__ for key in "abc"]


async def test_without_a_price_nothing_is_sent_and_the_row_says_what_to_do() -> None:
    rows = [MarketRequest(model=Z, input={"prompt": "x"}), make_request(1)]
    async with client_and_fake(duration=10.0, models=[Z]) as setup:
        failed, done = await run_map(setup, rows, budget=Budget(credits=100), ordered=True)

        assert isinstance(done, Done)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ConfigurationError)
        assert "Budget(price=" in str(failed.error)
        assert 1 == len(setup.tasks)


async def test_what_was_done_before_counts_so_that_a_second_start_gets_no_second_budget() -> None:
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


@pytest.mark.parametrize("running", [range(10), range(40, 50)], ids=["the first rows", "rows below"])
async def test_what_runs_already_counts_before_it_has_ended(running: range) -> None:
    async with client_and_fake(duration=100.0) as setup:
        for number in running:
            await setup.kie.submit(make_request(number), key=f"shot-{number}")
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            await anyio.sleep(50.0)
            assert 12 == len(setup.tasks)
            found = [outcome async for outcome in run]
        assert {"Done": 12, "Skipped": 38} == count_types(found)


async def test_what_a_create_in_doubt_may_have_cost_stays_set_aside() -> None:
    faults = [Fault("create", "reset", after=True, nth=range(3, 5))]
    async with client_and_fake(duration=30.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 10, "InDoubt": 2, "Skipped": 38} == count_types(found)
        assert 12 == len(setup.tasks)
        assert (800.0, 160.0) == (run.summary().credits, run.summary().credits_held)


async def test_what_an_unclear_error_may_have_cost_is_not_paid_once_more_without_the_money_for_it() -> None:
    """All is set aside for twelve rows when the first one is refused unclearly: it may have been paid."""
    faults = [Fault("create", "code", code=500, after=True, when=lambda call: "take 0" in str(call.body))]
    async with client_and_fake(duration=30.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 11, "Failed": 1, "Skipped": 38} == count_types(found)
        assert (880.0, 80.0) == (run.summary().credits, run.summary().credits_held)
        assert 960.0 == setup.truth.spent(anyio.current_time())


async def test_each_attempt_that_may_have_been_paid_is_set_aside() -> None:
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
    ids=["in doubt", "unclear"],
)
async def test_what_an_earlier_run_may_have_paid_is_held_by_the_next_one_too(fault: Fault) -> None:
    async with client_and_fake(duration=30.0, faults=[fault]) as setup:
        first = count_types(await run_map(setup, make_rows(50), budget=Budget(credits=1000)))
        tasks = len(setup.tasks)
        async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
            assert first == count_types([outcome async for outcome in run])

        assert tasks == len(setup.tasks) <= 12
        assert 80.0 <= run.summary().credits_held


async def test_what_an_earlier_run_may_have_paid_is_held_where_it_was_killed_before_the_next_attempt() -> None:
    """The journal knows an intent of which one attempt was answered by an unclear error; it is sent once more."""
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


async def test_a_job_that_is_there_is_told_as_it_is_where_its_price_is_not_known() -> None:
    """Of a model without a price nothing is sent, and what was sent of it before is no failure for that."""
    rows = [("old", MarketRequest(model=Z, input={"prompt": "x"})), ("new", MarketRequest(model=Z, input={}))]
    async with client_and_fake(duration=10.0, models=[Z], prices={Z: 0.0}) as setup:
        await setup.kie.submit(rows[0][1], key="old")
        old, new = await run_map(setup, rows, budget=Budget(credits=100), ordered=True)

        assert isinstance(old, Done)
        assert isinstance(new, Failed)
        assert isinstance(new.error, ConfigurationError)


async def test_a_retry_without_a_price_is_not_made_and_says_what_to_do() -> None:
    request = MarketRequest(model=Z, input={"prompt": "x"})
    async with client_and_fake_unchecked(duration=10.0, models=[Z], prices={Z: 5.0}, fail_rate=1.0) as setup:
        await setup.kie.submit(request, key="a")
        async with setup.kie.map([("a", request)], budget=Budget(credits=100), retry_failed=1) as run:
            (failed,) = [outcome async for outcome in run]

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, ConfigurationError)
        assert "Budget(price=" in str(failed.error)
        assert 1 == len(setup.tasks)
        (again,) = await run_map(setup, [("a", request)], budget=Budget(credits=100, price=5.0), retry_failed=1)
        assert (2, 1) == (len(setup.tasks), again.retries)


async def test_what_another_has_dropped_and_has_no_price_here_says_what_to_do() -> None:
    row = ("a", MarketRequest(model=Z, input={"prompt": "x"}))
    async with client_and_fake(duration=10.0, models=[Z], prices={Z: 5.0}) as setup:
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


async def test_a_retry_needs_its_money_too() -> None:
    async with client_and_fake_unchecked(duration=30.0, fail_rate=1.0) as setup:
        async with setup.kie.map(make_rows(2), budget=Budget(credits=80), retry_failed=3) as run:
            found = [outcome async for outcome in run]
        assert {"Failed": 2} == count_types(found)
        assert 8 == len(setup.tasks)
        assert 0.0 == run.summary().credits


@pytest.mark.parametrize(
    "wrong", [{"credits": -1}, {"credits": math.inf}, {"credits": "1"}, {"credits": 1, "price": -1}]
)
def test_a_budget_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="number of credits"):
        Budget(**wrong)


# -- prices ---------------------------------------------------------------------------------------------------------


async def test_an_estimate_is_of_the_list_until_the_journal_has_seen_such_a_task() -> None:
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


async def test_who_asks_while_the_journal_is_read_for_prices_is_told_what_it_has_seen(tmp_path: Path) -> None:
    """Two runs begin at once with a model whose price the journal alone knows: neither is refused."""
    request = MarketRequest(model=Z, input={"prompt": "x"})
    told: list[Estimate | None] = []

    async def ask_for_it(kie: KieClient) -> None:
        told.append(await kie.estimate(request))

    async with FakeKie(duration=5.0, models=[Z], prices={Z: 7.0}) as fake:
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            await kie.generate(request)
        async with (
            KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie,
            anyio.create_task_group() as group,
        ):
            for _ in range(3):
                group.start_soon(ask_for_it, kie)
    assert [7.0] * 3 == [estimate.credits for estimate in told if estimate is not None]


# -- deadline -------------------------------------------------------------------------------------------------------


async def test_after_the_deadline_nothing_is_sent_and_what_runs_is_waited_for() -> None:
    async with client_and_fake(duration=60.0) as setup:
        async with setup.kie.map(make_rows(100), stop_after=25.0) as run:
            found = by_key([outcome async for outcome in run])

        assert 60 == len(setup.tasks)
        assert {f"shot-{number}" for number in range(60)} == {k for k, o in found.items() if isinstance(o, Done)}
        late = [outcome for outcome in found.values() if isinstance(outcome, Skipped)]
        assert {"stop_after"} == {outcome.reason for outcome in late}
        assert 40 == len(late) == run.summary().skipped
        assert max(task.created_at for task in setup.truth.created) <= 25.0 + min(
            task.created_at for task in setup.truth.created
        )
        again = by_key(await run_map(setup, make_rows(100)))
        assert 60 == sum(outcome.replayed for outcome in again.values())
        assert 100 == len(setup.tasks)
        await assert_settled(setup.kie)


async def test_rows_that_are_done_come_after_the_deadline_too() -> None:
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(5))
        found = await run_map(setup, make_rows(10), stop_after=0.0)

        assert {"Done": 5, "Skipped": 5} == count_types(found)


async def test_the_deadline_ends_a_wait_for_the_budget_and_for_the_source() -> None:
    async def rows() -> AsyncIterator[tuple[str, Request]]:
        for row in make_rows(14):
            yield row
        await anyio.sleep_forever()

    async with client_and_fake(duration=500.0) as setup:
        began = anyio.current_time()
        found = await run_map(setup, rows(), budget=Budget(credits=1000), stop_after=100.0)

        assert {"Done": 12, "Skipped": 2} == count_types(found)
        assert {"stop_after"} == {outcome.reason for outcome in found if isinstance(outcome, Skipped)}
        assert anyio.current_time() - began < 540.0


async def test_maintenance_is_waited_out_however_long_it_takes() -> None:
    """A single job has its patience; a table goes on when the service does."""
    async with client_and_fake(client={"retry": RetryPolicy(maintenance_timeout=100.0)}, duration=10.0) as setup:
        setup.fake.maintenance = True
        async with setup.kie.map(make_rows(30)) as run, anyio.create_task_group() as group:

            async def mend() -> None:
                await anyio.sleep(5000.0)
                setup.fake.maintenance = False

            group.start_soon(mend)
            found = [outcome async for outcome in run]
        assert {"Done": 30} == count_types(found)
        assert {"succeeded": 30} == await setup.states()
        assert len(setup.truth.create_requests) < 200
        await assert_settled(setup.kie)


async def test_a_job_of_less_patience_is_taken_over_by_the_run_that_waits_for_it() -> None:
    async with client_and_fake(client={"retry": RetryPolicy(maintenance_timeout=100.0)}, duration=10.0) as setup:
        setup.fake.maintenance = True
        job = await setup.kie.submit(make_request(0), key="shot-0", wait=False)
        async with setup.kie.map(make_rows(1)) as run:
            await anyio.sleep(1000.0)
            setup.fake.maintenance = False
            (done,) = [outcome async for outcome in run]
        assert isinstance(done, Done)
        assert job.id == done.job_id


async def test_the_deadline_ends_a_wait_behind_maintenance() -> None:
    async with client_and_fake(duration=10.0) as setup:
        setup.fake.maintenance = True
        found = await run_map(setup, make_rows(60), stop_after=2000.0)

        assert {"Skipped": 60} == count_types(found)
        assert 0 == len(setup.tasks)
        assert {"cancelled"} == set(await setup.states())
        await assert_settled(setup.kie)


# -- the account ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
async def test_an_empty_account_ends_the_reading_and_the_same_call_goes_on(*, ordered: bool) -> None:
    """What runs comes to its end and is yielded, then the error; after a top-up nothing is paid twice."""
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
async def test_each_verdict_on_the_account_is_raised_as_itself(code: int, kind: type[Exception]) -> None:
    faults = [Fault("create", "code", code=code, nth=range(5, 8))]
    async with client_and_fake(duration=20.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(50)) as run:
            assert isinstance((await drain_run(run))[1], kind)
        assert len(setup.tasks) == run.summary().ok
        found = await run_map(setup, make_rows(50))
        assert {"Done": 50} == count_types(found)
        assert 50 == len(setup.tasks)


async def test_a_key_that_is_no_good_for_looking_any_more_ends_the_run_and_loses_nothing() -> None:
    async with client_and_fake(duration=60.0, api_keys=[KEY]) as setup:
        async with setup.kie.map(make_rows(20)) as run:
            await anyio.sleep(30.0)
            setup.fake.revoke_key(KEY)
            assert isinstance((await drain_run(run))[1], AuthenticationError)
        assert {"submitted": 20} == await setup.states()


async def test_in_doubt_rows_are_told_before_the_accounts_error() -> None:
    faults = [Fault("create", "reset", after=True, nth=1), Fault("create", "code", code=402, nth=10)]
    async with client_and_fake(duration=20.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(50)) as run:
            found, error = await drain_run(run)
        assert isinstance(error, InsufficientCreditsError)
        assert 1 == sum(isinstance(outcome, InDoubt) for outcome in found)
        assert len(setup.tasks) == len(found)


@pytest.mark.parametrize("how", ["deadline", "stop"])
async def test_a_task_that_fails_when_nothing_more_is_sent_is_not_made_again(how: str) -> None:
    async with client_and_fake_unchecked(duration=30.0, fail_rate=1.0) as setup:
        async with setup.kie.map(make_rows(5), retry_failed=3, stop_after=10.0 if how == "deadline" else None) as run:
            await anyio.sleep(5.0)
            if how == "stop":
                run.stop()
            found = [outcome async for outcome in run]

        assert {"Failed": 5} == count_types(found)
        assert 5 == len(setup.tasks)


async def test_a_retry_that_was_not_sent_is_not_sent_by_a_run_that_retries_nothing() -> None:
    """It is in the journal, withdrawn; that the task is paid once more takes ``retry_failed``, in this run, too."""
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


async def test_a_retry_that_was_not_sent_by_the_deadline_tells_how_the_try_before_has_failed() -> None:
    async with client_and_fake_unchecked(duration=5.0, fail_rate=1.0) as setup:
        async with setup.kie.map(make_rows(1), retry_failed=3, stop_after=100.0) as run:
            await anyio.sleep(2.0)
            setup.fake.maintenance = True
            (failed,) = [outcome async for outcome in run]

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, TaskFailedError)
        assert 1 == len(setup.tasks)


@pytest.mark.parametrize("options", [{"stop_after": 0.0}, {"budget": Budget(credits=0)}], ids=["deadline", "budget"])
async def test_a_task_that_failed_in_an_earlier_run_is_no_skipped_row_where_its_retry_cannot_be_sent(
    options: Any,
) -> None:
    """``Skipped`` says that nothing was sent."""
    async with client_and_fake_unchecked(duration=5.0, fail_rate=1.0) as setup:
        await run_map(setup, make_rows(1), retry_failed=1)
        (failed,) = await run_map(setup, make_rows(1), retry_failed=2, **options)

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, TaskFailedError)
        assert (True, 0, setup.tasks[1]) == (failed.replayed, failed.retries, failed.task_id)
        assert 2 == len(setup.tasks)
