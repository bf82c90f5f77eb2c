"""The same ``map()`` call on the same journal continues a run that was killed or closed; nothing is paid twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async import Done, Failed, KeyConflictError, KieClient, Outcome, RetryPolicy
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import FakeKie, Fault
from tests.bulk.volume import run_volume
from tests.client.tables import by_key, make_rows, run_map
from tests.helpers import KEY, Setup, assert_ledger, client_and_fake, make_request

ROWS = 120


async def run_until_closed(kie: KieClient, *, seconds: float, **options: Any) -> list[Outcome]:
    """Return the outcomes of a run whose client is closed after *seconds*."""
    found: list[Outcome] = []
    async with kie.map(make_rows(ROWS), **options) as run:
        with anyio.move_on_after(seconds):
            async for outcome in run:
                found.append(outcome)  # noqa: PERF401 (those before the end are kept)
        await kie.aclose(drain=0.0)
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_restarted_run_pays_each_row_once(tmp_path: Path, seed: int) -> None:
    """Tasks fail, create responses are lost, and one client follows another."""
    faults = [Fault("create", "reset", after=True, probability=0.02), Fault("create", "silence", probability=0.02)]
    path = tmp_path / "kie.db"
    retry = RetryPolicy(in_doubt_timeout=120.0)
    async with FakeKie(
        duration=(30.0, 0.5), latency=(0.02, 0.2), fail_rate=0.05, faults=faults, credits=1e6, seed=seed
    ) as fake:
        reported: Counter[str] = Counter()
        for life in range(3):
            kie = KieClient(KEY, base_url=fake.url, journal=path, retry=retry)
            reported.update(outcome.key for outcome in await run_until_closed(kie, seconds=7.3 + seed + 11.0 * life))
        kie = KieClient(KEY, base_url=fake.url, journal=path, retry=retry)
        async with kie, kie.map(make_rows(ROWS)) as run:
            found = by_key([outcome async for outcome in run])
        summary = run.summary()
        journal = SqliteStore(path)
        await journal.open()
        rows = await journal.rows()
        await journal.close()

        assert ROWS == len(found) == len(rows)
        assert {row.key for row in rows} == set(found)
        assert_ledger(rows, fake.truth, lives=4)
        assert max(Counter(str(task.input["prompt"]) for task in fake.truth.created).values()) == 1
        assert set(reported) <= {key for key, outcome in found.items() if outcome.replayed}
        assert summary.replayed == sum(outcome.replayed for outcome in found.values())
        assert str(summary).startswith(f"{summary.replayed} replayed, ")


async def test_recover_before_map_changes_nothing(tmp_path: Path) -> None:
    async with FakeKie(duration=30.0, credits=1e6) as fake:
        path = tmp_path / "kie.db"
        await run_until_closed(KieClient(KEY, base_url=fake.url, journal=path), seconds=15.0)
        async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
            await kie.recover()
            async with kie.map(make_rows(ROWS)) as run:
                found = by_key([outcome async for outcome in run])

        assert ROWS == len(found) == len(fake.truth.tasks)
        assert all(isinstance(outcome, Done) for outcome in found.values())


async def test_two_processes_pay_each_row_once(tmp_path: Path) -> None:
    async with FakeKie(duration=30.0, credits=1e6) as fake:
        path = tmp_path / "kie.db"
        found: list[list[Outcome]] = []

        async def run_table() -> None:
            # Two clients, each with its own journal on one file, behave as two processes.
            async with KieClient(KEY, base_url=fake.url, journal=path) as kie, kie.map(make_rows(30)) as run:
                found.append([outcome async for outcome in run])

        async with anyio.create_task_group() as group:
            group.start_soon(run_table)
            group.start_soon(run_table)
        assert [30, 30] == list(map(len, found))
        assert 30 == len(fake.truth.tasks)


async def test_dropped_rows_are_not_paid_again() -> None:
    async with client_and_fake(client={"journal": MemoryJournal(keep_ended=10)}, duration=5.0) as setup:
        await run_in_order(setup)
        async with setup.kie.map(make_rows(25), ordered=True) as run:
            again = [outcome async for outcome in run]

        assert 25 == len(setup.tasks)
        assert {"Failed": 15, "Done": 10} == Counter(type(outcome).__name__ for outcome in again)
        assert all(outcome.replayed for outcome in again if isinstance(outcome, Done))
        dropped = next(outcome for outcome in again if isinstance(outcome, Failed))
        assert isinstance(dropped, Failed)
        assert isinstance(dropped.error, KeyConflictError)
        assert "journal='kie.db'" in str(dropped.error)
        with pytest.raises(KeyConflictError, match="is not paid again"):
            await setup.kie.submit(dropped.request, key=dropped.key)
        # The check of the ledger knows only the rows that the journal still has.
        setup.truth.tasks.clear()
        await setup.kie.forget(before=1e12)


async def run_in_order(setup: Setup) -> None:
    """Run a table in order, so that the last rows to end are known."""
    assert 25 == len(await run_map(setup, make_rows(25), ordered=True))


async def test_callers_own_key_stays_in_memory() -> None:
    """Only rows whose outcome was delivered are dropped: a backend that submits its key again has its job."""
    async with client_and_fake(client={"journal": MemoryJournal(keep_ended=1)}, duration=5.0) as setup:
        first = await setup.kie.generate(make_request(0), key="order 1")
        for number in range(1, 5):
            await setup.kie.generate(make_request(number), key=f"order {number + 1}")

        assert first.task_id == (await setup.kie.generate(make_request(0), key="order 1")).task_id
        assert 5 == len(setup.tasks)


async def test_long_table_stays_small_and_uses_the_limit() -> None:
    """600 rows here; ``python -m tests.bulk 50000`` measures the memory that each row leaves behind."""
    volume = await run_volume(600, journal=MemoryJournal(keep_ended=50))

    assert (600, 600, 600, 0, 20) == (volume.rows, volume.ok, volume.created, volume.rate_limited, volume.busiest)
    assert volume.used >= 0.97
    assert volume.most_untaken < 300
