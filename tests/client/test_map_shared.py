"""``map(share=True)``: workers with one journal share a table, and each outcome is yielded and saved by one of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from kie_async import Budget, ConfigurationError, Done, Failed, KieClient, Outcome, Run, RunSummary, Skipped
from kie_async.testing import FakeKie, Fault
from tests.client.tables import count_types, make_rows
from tests.helpers import KEY, assert_settled, client_and_fake, make_request


@attrs.define
class Workers:
    """Clients with one journal, and the outcomes of their runs."""

    fake: FakeKie
    clients: list[KieClient]
    outcomes: list[list[Outcome]]
    summaries: list[RunSummary]

    async def run(self, number: int, rows: Any, *, most: int | None = None, **options: Any) -> None:
        """Run a table on one client, up to *most* outcomes; then the run is left."""
        async with self.clients[number].map(rows, share=True, **options) as run:
            async for outcome in run:
                self.outcomes[number].append(outcome)
                if len(self.outcomes[number]) == most:
                    break
        self.summaries[number] = run.summary()

    async def run_all(self, rows: Any, **options: Any) -> None:
        """Run a table on all clients at once."""
        async with anyio.create_task_group() as group:
            for number in range(len(self.clients)):
                group.start_soon(partial(self.run, number, rows, **options))

    def yielded(self) -> Counter[str]:
        """Count the outcomes by their keys."""
        return Counter(outcome.key for outcomes in self.outcomes for outcome in outcomes)


@asynccontextmanager
async def workers(folder: Path, count: int = 3, **service: Any) -> AsyncGenerator[Workers]:
    """Run clients with one journal, and the service."""
    usual: dict[str, Any] = {"duration": 30.0, "credits": 1e6}
    async with FakeKie(**{**usual, **service}) as fake:
        clients = [KieClient(KEY, base_url=fake.url, journal=folder / "kie.db") for _ in range(count)]
        try:
            for client in clients:
                await client.__aenter__()
            yield Workers(fake, clients, [[] for _ in clients], [RunSummary() for _ in clients])
        finally:
            for client in clients:
                await client.aclose(drain=0.0)


async def test_each_outcome_is_yielded_and_saved_by_one_worker(tmp_path: Path) -> None:
    async with workers(tmp_path) as fleet:
        await fleet.run_all(make_rows(90), save_to=tmp_path / "{key}.mp4")
        for kie in fleet.clients:
            await assert_settled(kie)

    assert dict.fromkeys((key for key, _ in make_rows(90)), 1) == fleet.yielded()
    assert all(isinstance(outcome, Done) and outcome.files for outcomes in fleet.outcomes for outcome in outcomes)
    assert 90 == len(fleet.fake.truth.tasks) == len(fleet.fake.truth.downloads)
    for outcomes, summary in zip(fleet.outcomes, fleet.summaries, strict=True):
        assert len(outcomes) == summary.ok
        assert 90 == summary.rows + summary.elsewhere
        assert len(outcomes) == summary.created
        assert f"0 in doubt, {summary.elsewhere} elsewhere; " in str(summary)
        assert summary.credits == sum(outcome.credits or 0.0 for outcome in outcomes)


@pytest.mark.parametrize("after", [5.0, 33.0, 48.0], ids=["unsent", "some ended", "most ended"])
@pytest.mark.parametrize("closes", [True, False], ids=["client closed", "run left"])
async def test_rows_of_a_worker_that_ends_are_yielded_by_the_others(
    tmp_path: Path, after: float, *, closes: bool
) -> None:
    save_to = tmp_path / "{key}.mp4"
    async with workers(tmp_path) as fleet, anyio.create_task_group() as group:
        first = fleet.clients[0].map(make_rows(90), share=True, save_to=save_to)
        async with first:
            await anyio.sleep(1.0)
            for number in (1, 2):
                group.start_soon(partial(fleet.run, number, make_rows(90), save_to=save_to))
            await anyio.sleep(after)  # what has ended is saved, but the caller has taken nothing
            if closes:
                await fleet.clients[0].aclose(drain=0.0)

    assert 0 == len(fleet.outcomes[0])
    assert first.summary().rows >= (0 if after < 40.0 else 2)
    assert dict.fromkeys((key for key, _ in make_rows(90)), 1) == fleet.yielded()
    assert 90 == len(fleet.fake.truth.tasks)
    # What is on the disk is not fetched again.
    assert 90 == len(fleet.fake.truth.downloads)


async def test_outcome_counts_as_yielded_when_the_next_one_is_asked_for(tmp_path: Path) -> None:
    """The caller may have ended while it handled the last one, so another worker yields that once more."""
    async with workers(tmp_path, 2) as fleet:
        await fleet.run(0, make_rows(10), most=4)
        await fleet.run(1, make_rows(10))

    handled = [outcome.key for outcome in fleet.outcomes[0][:3]]
    assert {key: 1 + (key == fleet.outcomes[0][3].key) for key, _ in make_rows(10)} == fleet.yielded()
    assert not set(handled) & {outcome.key for outcome in fleet.outcomes[1]}
    assert (7, 3) == (fleet.summaries[1].ok, fleet.summaries[1].elsewhere)
    assert 10 == len(fleet.fake.truth.tasks)


async def test_run_waits_until_another_worker_has_yielded(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as fleet, fleet.clients[0].map(make_rows(10), share=True) as first:
        await anyio.sleep(60.0)
        with anyio.move_on_after(600.0) as waiting:
            await fleet.run(1, make_rows(10))
        assert waiting.cancelled_caught
        found = [outcome async for outcome in first]
        with anyio.fail_after(5.0):
            await fleet.run(1, make_rows(10))

    assert 10 == len(found)
    assert [] == fleet.outcomes[1]
    assert 10 == fleet.summaries[1].elsewhere


async def test_second_shared_run_yields_nothing_and_an_unshared_one_all(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as fleet:
        await fleet.run_all(make_rows(10))
        before = fleet.yielded()
        await fleet.run_all(make_rows(10))
        await anyio.sleep(2.0)  # a client knows after a moment what others have ended
        async with fleet.clients[0].map(make_rows(10)) as run:
            replayed = [outcome async for outcome in run]

    assert before == fleet.yielded() == Counter(outcome.key for outcome in replayed)
    assert {True} == {outcome.replayed for outcome in replayed}


async def test_rows_that_ended_without_a_shared_run_are_yielded_once(tmp_path: Path) -> None:
    """A web server of the same host has submitted them, or has recovered them; it is still there."""
    async with workers(tmp_path) as fleet:
        jobs = [await fleet.clients[0].submit(request, key=key) for key, request in make_rows(10)]
        for job in jobs[:5]:
            await job
        async with anyio.create_task_group() as group:
            group.start_soon(fleet.run, 1, make_rows(10))
            group.start_soon(fleet.run, 2, make_rows(10))

    assert dict.fromkeys((key for key, _ in make_rows(10)), 1) == fleet.yielded()
    assert 10 == len(fleet.fake.truth.tasks)


async def test_failed_rows_are_retried_and_yielded_by_one_worker(tmp_path: Path) -> None:
    async with workers(tmp_path, fail_rate=0.4, seed=3) as fleet:
        await fleet.run_all(make_rows(60), retry_failed=2)
        first = fleet.yielded()
        retried = sum(summary.retried for summary in fleet.summaries)
        await fleet.run_all(make_rows(60), retry_failed=2)

    assert dict.fromkeys((key for key, _ in make_rows(60)), 1) == first == fleet.yielded()
    assert 60 + retried == len(fleet.fake.truth.tasks)
    assert retried > 20


async def test_more_retries_are_made_by_a_later_run(tmp_path: Path) -> None:
    async with workers(tmp_path, 2, fail_rate=1.0) as fleet:
        await fleet.run_all(make_rows(10))
        await fleet.run_all(make_rows(10), retry_failed=1)

    assert dict.fromkeys((key for key, _ in make_rows(10)), 2) == fleet.yielded()
    assert 20 == len(fleet.fake.truth.tasks)


async def test_rejected_row_is_sent_by_one_worker(tmp_path: Path) -> None:
    faults = [Fault("create", "code", code=422, when=lambda call: b"take 1" in call.body)]
    async with workers(tmp_path, faults=faults) as fleet:
        await fleet.run_all(make_rows(30))
        refused = [post for post in fleet.fake.truth.create_requests if post.code == 422]
        again = len(fleet.fake.truth.create_requests)
        for other in fleet.clients[1:]:
            await other.aclose()
        await fleet.run(0, make_rows(30))

    assert {key for key, _ in make_rows(30)} == set(fleet.yielded())
    assert 11 == len(refused)  # takes 1 and 10 to 19
    sent_again = [post for post in fleet.fake.truth.create_requests[again:] if post.code == 422]
    assert 11 == len(sent_again) == fleet.yielded().total() - 30


async def test_file_that_one_worker_cannot_save_is_saved_by_another(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    async with workers(tmp_path, 2) as fleet, anyio.create_task_group() as group:
        group.start_soon(partial(fleet.run, 0, make_rows(10), save_to=tmp_path / "a file" / "{key}.mp4"))
        await anyio.sleep(5.0)
        group.start_soon(partial(fleet.run, 1, make_rows(10), save_to=tmp_path / "{key}.mp4"))

    assert {"Failed": 10} == count_types(fleet.outcomes[0])
    assert {"Done": 10} == count_types(fleet.outcomes[1])
    assert 10 == len(fleet.fake.truth.tasks)


async def test_rows_without_a_job_are_yielded_by_each_worker(tmp_path: Path) -> None:
    rows = [*make_rows(5), ("", make_request(9))]
    async with workers(tmp_path, 2) as fleet:
        await fleet.run_all(rows, budget=Budget(credits=240.0, price=80.0, name="shared"))

    outcomes = [outcome for outcomes in fleet.outcomes for outcome in outcomes]
    assert 3 == len(fleet.fake.truth.tasks) == count_types(outcomes)["Done"]
    assert 2 == sum(isinstance(outcome, Failed) for outcome in outcomes)
    assert {"shot-3", "shot-4"} == {outcome.key for outcome in outcomes if isinstance(outcome, Skipped)}


async def test_stopped_run_leaves_its_unsent_rows_to_the_others(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as fleet, anyio.create_task_group() as group:
        run = fleet.clients[0].map(make_rows(60), share=True)
        async with run as first:
            await anyio.sleep(1.0)
            group.start_soon(fleet.run, 1, make_rows(60))
            await anyio.sleep(1.0)
            first.stop()
            async for outcome in first:
                fleet.outcomes[0].append(outcome)

    assert 20 == len(fleet.outcomes[0])
    assert dict.fromkeys((key for key, _ in make_rows(60)), 1) == fleet.yielded()


async def test_run_does_not_wait_for_others_after_stop(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as fleet, fleet.clients[0].map(make_rows(10), share=True) as first:
        await anyio.sleep(1.0)
        async with fleet.clients[1].map(make_rows(10), share=True) as second:
            await anyio.sleep(1.0)
            second.stop()
            with anyio.fail_after(1.0):
                assert [] == [outcome async for outcome in second]
        assert 10 == len([outcome async for outcome in first])


async def test_row_that_was_deleted_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as fleet, fleet.clients[0].map(make_rows(3), share=True):
        await anyio.sleep(60.0)
        async with anyio.create_task_group() as group:
            group.start_soon(fleet.run, 1, make_rows(3))
            await anyio.sleep(2.0)
            assert 3 == await fleet.clients[0].forget(before=time.time() + 1e6)

    assert [] == fleet.outcomes[1]
    assert 3 == len(fleet.fake.truth.tasks)


async def test_journal_in_memory_is_refused() -> None:
    async with client_and_fake() as setup:
        with pytest.raises(ConfigurationError, match=r"needs a journal .* KieClient\(journal="):
            async with setup.kie.map(make_rows(1), share=True):
                pass
        assert [] == setup.truth.create_requests


async def test_journal_error_while_waiting_ends_the_run(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as fleet, fleet.clients[0].map(make_rows(3), share=True):
        await anyio.sleep(1.0)
        run: Run
        async with fleet.clients[1].map(make_rows(3), share=True) as run:
            await anyio.sleep(1.0)
            await fleet.clients[1].aclose(drain=0.0)
            with pytest.raises(Exception, match="clos"):
                await anext(run)
