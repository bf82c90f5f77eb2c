"""A budget is for the table: over restarts, in any order of the rows, and each journal key counts once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async import Budget, ConfigurationError, JournalError, KieClient, MarketRequest, Request, RetryPolicy
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.memory import MemoryJournal
from kie_async.testing import FakeKie, Fault
from tests.client.tables import client_and_fake_unchecked, count_types, drain_run, make_rows, run_map
from tests.helpers import KEY, assert_settled, client_and_fake, make_request

MODEL = "acme/z-image"


def make_rows_without_keys(count: int) -> list[Request]:
    return [request for _, request in make_rows(count)]


# -- restarts, in any order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [make_rows, make_rows_without_keys], ids=["own keys", "default keys"])
@pytest.mark.parametrize("kind", [list, tuple])
async def test_paid_rows_count_before_new_rows(
    kind: Callable[[list[Any]], Any], rows: Callable[[int], list[Any]]
) -> None:
    async with client_and_fake(duration=30.0) as setup:
        await run_map(setup, kind(rows(50)[20:]), budget=Budget(credits=1000))
        assert 12 == len(setup.tasks)
        async with setup.kie.map(kind(rows(50)), budget=Budget(credits=1000)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 12, "Skipped": 38} == count_types(found)
        assert 12 == len(setup.tasks) == run.summary().replayed
        assert (0.0, 960.0, 0.0) == (
            run.summary().credits, run.summary().credits_replayed, run.summary().credits_held
        )  # fmt: skip
        assert {"Done": 25, "Skipped": 25} == count_types(
            await run_map(setup, kind(rows(50)), budget=Budget(credits=2000))
        )
        await assert_settled(setup.kie)


@pytest.mark.parametrize("seed", range(3))
async def test_shuffled_restarts_keep_the_budget(tmp_path: Path, seed: int) -> None:
    """Tasks fail, responses are lost, and processes end while tasks run; what may have been paid counts."""
    from random import Random

    chance = Random(seed)
    faults = [
        Fault("create", "reset", after=True, probability=0.05),
        Fault("create", "code", code=500, after=True, probability=0.05),
    ]
    async with FakeKie(
        duration=(30.0, 0.5), latency=(0.02, 0.2), fail_rate=0.1, faults=faults, credits=1e6, seed=seed
    ) as fake:
        for life in range(5):
            rows = make_rows(40)
            chance.shuffle(rows)
            kie = KieClient(
                KEY, base_url=fake.url, journal=tmp_path / "kie.db", retry=RetryPolicy(in_doubt_timeout=60.0)
            )
            async with kie, kie.map(rows, budget=Budget(credits=1000), retry_failed=1) as run:
                with anyio.move_on_after(11.0 + 17.0 * life):
                    async for _ in run:
                        pass
                await kie.aclose(drain=0.0)
            assert fake.truth.spent(anyio.current_time() + 1000.0) <= 1000.0


async def test_possible_costs_count_before_new_rows() -> None:
    faults = [
        Fault("create", "reset", after=True, nth=range(3, 5)),
        Fault("create", "code", code=500, after=True, nth=7),
    ]
    async with client_and_fake(duration=30.0, faults=faults) as setup:
        await run_map(setup, make_rows(50)[40:], budget=Budget(credits=1000, price=80))
        spent = setup.truth.spent(anyio.current_time())
        assert 880.0 == spent
        found = await run_map(setup, make_rows(50), budget=Budget(credits=1000))
        assert 960.0 == setup.truth.spent(anyio.current_time())
        assert 2 == count_types(found)["InDoubt"]


async def test_generator_rows_count_when_they_are_read() -> None:
    def rows() -> Iterator[tuple[str, Request]]:
        yield from make_rows(50)

    async with client_and_fake(duration=30.0) as setup:
        await run_map(setup, make_rows(50)[20:], budget=Budget(credits=1000))
        spent = await setup.kie.spent(rows())
        assert 960.0 == spent
        found = await run_map(setup, rows(), budget=Budget(credits=1000, spent=spent))
        assert {"Done": 12, "Skipped": 38} == count_types(found)
        assert 12 == len(setup.tasks)
        more = await run_map(setup, rows(), budget=Budget(credits=1080, spent=spent))
        assert {"Done": 13, "Skipped": 37} == count_types(more)


async def test_spent_counts_keys_once_with_retries() -> None:
    async with client_and_fake_unchecked(duration=10.0, fail_rate=0.5) as setup:
        assert 0.0 == await setup.kie.spent(make_rows(20))
        await run_map(setup, make_rows(20), retry_failed=3)
        paid = setup.truth.spent(anyio.current_time())
        assert paid > 0.0
        assert paid == await setup.kie.spent(
            [*make_rows(20), *make_rows(5), ("other", make_request(99)), make_request(98)]
        )


async def test_spent_counts_running_jobs_at_their_price() -> None:
    rows: list[Any] = [
        ("a", make_request(0)),
        ("b", MarketRequest(model=MODEL, input={"prompt": "x"})),
        ("bad", 7),
        "bad",
    ]
    async with client_and_fake(duration=100.0, models=[MODEL], prices={MODEL: 7.0}) as setup:
        for key, request in rows[:2]:
            await setup.kie.submit(request, key=key)
        assert 80.0 == await setup.kie.spent(rows)
        assert 60.0 == await setup.kie.spent(rows, price=30.0)


@pytest.mark.parametrize("price", [-1.0, float("nan"), "80", True])
async def test_spent_refuses_invalid_arguments(price: Any) -> None:
    async with client_and_fake() as setup:
        with pytest.raises(ConfigurationError, match="number of credits"):
            await setup.kie.spent(make_rows(1), price=price)
        with pytest.raises(ConfigurationError, match="expected a list"):
            await setup.kie.spent("shots.csv")  # type: ignore[arg-type]  # the subject


class UnreadableJournal(MemoryJournal):
    """A journal whose rows cannot be looked up by their keys once ``gone`` is set."""

    gone = False

    async def by_key(self, key: str) -> Intent | None:
        self._fail_if_gone()
        return await super().by_key(key)

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        self._fail_if_gone()
        return await super().by_keys(keys)

    def _fail_if_gone(self) -> None:
        if self.gone:
            msg = "The disk is gone."
            raise JournalError(msg)


@pytest.mark.parametrize("kind", [list, iter])
async def test_unreadable_journal_sends_nothing(
    kind: Callable[[list[Any]], Any],
) -> None:
    journal = UnreadableJournal()
    async with client_and_fake(client={"journal": journal}, duration=10.0) as setup:
        await setup.kie.generate(make_request(0), key="shot-0")
        journal.gone = True
        async with setup.kie.map(kind(make_rows(5)), budget=Budget(credits=1000)) as run:
            found, error = await drain_run(run)

        assert [] == found
        assert isinstance(error, JournalError)
        assert 1 == len(setup.tasks)


class SlowJournal(MemoryJournal):
    """A journal that takes ten seconds to look keys up."""

    lookups = 0

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        self.lookups += 1
        await anyio.sleep(10.0)
        return await super().by_keys(keys)


async def test_stop_after_ends_the_counting() -> None:
    """Nothing is sent any more, so the cost of the other rows does not matter."""
    journal = SlowJournal()
    async with client_and_fake(client={"journal": journal}, duration=10.0) as setup:
        await run_map(setup, make_rows(5))
        found = await run_map(setup, make_rows(1500), budget=Budget(credits=1000), stop_after=15.0)
        assert {"Done": 5, "Skipped": 1495} == count_types(found)
        assert 2 == journal.lookups


async def test_create_during_the_counting_counts_once() -> None:
    async with client_and_fake(client={"journal": SlowJournal()}, duration=30.0) as setup:
        await setup.kie.submit(make_request(9), key="another table's")
        async with setup.kie.map(make_rows(3), budget=Budget(credits=240)) as run:
            await anyio.sleep(5.0)
            await setup.kie.submit(make_request(1), key="shot-1")
            found = [outcome async for outcome in run]
        assert {"Done": 3} == count_types(found)
        assert (240.0, 4) == (run.summary().credits, len(setup.tasks))


async def test_create_during_the_counting_frees_nothing() -> None:
    async with client_and_fake(client={"journal": SlowJournal()}, duration=30.0) as setup:
        await setup.kie.generate(make_request(9), key="shot-9")
        async with setup.kie.map(make_rows(10), budget=Budget(credits=240)) as run:
            await anyio.sleep(5.0)
            await setup.kie.submit(make_request(0), key="shot-0")
            found = [outcome async for outcome in run]
        assert {"Done": 3, "Skipped": 7} == count_types(found)
        assert 3 == len(setup.tasks)


async def test_unused_prior_spend_becomes_free() -> None:
    """The row of a running task is read after its end: its estimated cost counts no longer."""
    rows = [*make_rows(3), *make_rows(10)[9:], *make_rows(5)[4:]]
    durations = iter([10.0, *[30.0] * 4])
    async with client_and_fake(duration=lambda *_: next(durations)) as setup:
        await setup.kie.submit(make_request(9), key="shot-9")
        found = await run_map(setup, rows, budget=Budget(credits=600, price=200))
        assert {"Done": 5} == count_types(found)
        assert 400.0 == setup.truth.spent(anyio.current_time())


async def test_ambiguous_attempts_of_running_jobs_count() -> None:
    """They are reserved when the row is read, and not only once its task has ended; a generator is no exception."""
    faults = [Fault("create", "code", code=500, after=True, nth=1)]
    async with client_and_fake(duration=100.0, faults=faults) as setup:
        await setup.kie.submit(make_request(0), key="shot-0")
        assert 2 == len(setup.tasks)
        async with setup.kie.map(iter(make_rows(50)), budget=Budget(credits=1000, price=80)) as run:
            await anyio.sleep(50.0)
            assert 12 == len(setup.tasks)
            assert 960.0 == run.summary().credits_held
            found = [outcome async for outcome in run]
        assert {"Done": 11, "Skipped": 39} == count_types(found)


@pytest.mark.parametrize("again", [False, True])
async def test_ambiguous_attempt_in_doubt_is_held_once(*, again: bool) -> None:
    faults = [Fault("create", "code", code=500, after=True, nth=1)]
    policy = RetryPolicy(on_server_error="in_doubt", in_doubt_timeout=60.0)
    async with client_and_fake(client={"retry": policy}, duration=30.0, faults=faults) as setup:
        for _ in range(1 + again):
            async with setup.kie.map(make_rows(50), budget=Budget(credits=1000)) as run:
                found = [outcome async for outcome in run]
            assert {"Done": 11, "InDoubt": 1, "Skipped": 38} == count_types(found)
            assert 80.0 == run.summary().credits_held
        assert 12 == len(setup.tasks)


@pytest.mark.parametrize("kind", [list, iter])
async def test_dropped_rows_count_at_their_price(
    kind: Callable[[list[Any]], Any],
) -> None:
    """Such a row is not paid again, and its actual cost is not known any more."""
    async with client_and_fake_unchecked(journal=MemoryJournal(keep_ended=5), duration=10.0) as setup:
        first = await run_map(setup, kind(make_rows(50)), budget=Budget(credits=1000), ordered=True)
        assert {"Done": 12, "Skipped": 38} == count_types(first)
        async with setup.kie.map(kind(make_rows(50)), budget=Budget(credits=1000)) as run:
            again = [outcome async for outcome in run]

        assert {"Done": 5, "Failed": 7, "Skipped": 38} == count_types(again)
        assert 12 == len(setup.tasks)
        assert 560.0 == run.summary().credits_held
        assert 960.0 == await setup.kie.spent(make_rows(50))


# -- keys count once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replayed", [False, True])
async def test_repeated_key_counts_once(*, replayed: bool) -> None:
    rows = [
        ("a", make_request(0)),
        *(row for number in range(1, 6) for row in (("a", make_request(0)), (f"b{number}", make_request(number)))),
    ]
    async with client_and_fake(duration=10.0) as setup:
        if replayed:
            await run_map(setup, rows[:1])
        async with setup.kie.map(iter(rows), budget=Budget(credits=480)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 11} == count_types(found)
        assert 6 == len(setup.tasks)
        summary = run.summary()
        assert (480.0, 6) == (summary.credits + summary.credits_replayed, summary.created + replayed)
        assert (80.0 if replayed else 0.0) == summary.credits_replayed
        assert 0.0 == summary.credits_held
        await assert_settled(setup.kie)


async def test_key_repeated_after_its_end_counts_once() -> None:
    async with client_and_fake(duration=10.0) as setup:
        rows = [
            ("a", make_request(0)),
            ("b", make_request(1)),
            ("a", make_request(0)),
            ("a", make_request(0)),
            ("c", make_request(2)),
        ]
        async with setup.kie.map(iter(rows), budget=Budget(credits=240), look_ahead=1) as run:
            found = [outcome async for outcome in run]
        assert {"Done": 5} == count_types(found)
        assert (240.0, 0.0, 0.0) == (run.summary().credits, run.summary().credits_replayed, run.summary().credits_held)


async def test_rows_of_one_key_share_its_retries() -> None:
    async with client_and_fake_unchecked(duration=10.0, fail_rate=1.0) as setup:
        rows = [("a", make_request(0))] * 3
        async with setup.kie.map(rows, budget=Budget(credits=160), retry_failed=2) as run:
            found = [outcome async for outcome in run]
        assert {"Failed": 3} == count_types(found)
        assert 3 == len(setup.tasks) == run.summary().created
        assert (2, 0.0) == (run.summary().retried, run.summary().credits_held)


async def test_cost_of_an_earlier_retry_stays_held() -> None:
    """The first job had an ambiguous attempt, was accepted, and has failed; its retry has succeeded."""
    faults = [Fault("create", "code", code=500, after=True, nth=1)]
    async with client_and_fake_unchecked(duration=10.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(1), budget=Budget(credits=1000), retry_failed=1) as run:
            await anyio.sleep(8.0)
            setup.fake.fail(setup.tasks[1])
            first = [outcome async for outcome in run]
        assert [("Done", 1)] == [(type(o).__name__, o.retries) for o in first]
        assert (80.0, 80.0) == (run.summary().credits, run.summary().credits_held)
        async with setup.kie.map(iter(make_rows(50)), budget=Budget(credits=1000)) as run:
            found = [outcome async for outcome in run]

        assert {"Done": 11, "Skipped": 39} == count_types(found)
        assert (80.0, 80.0) == (run.summary().credits_replayed, run.summary().credits_held)
        assert 960.0 == setup.truth.spent(anyio.current_time())
