"""Two processes with three tables each share a named budget; one of them is killed in the middle."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import anyio
import pytest

from kie_async import BudgetInfo, JobState, KieClient, KieError
from kie_async.testing import FakeKie, Fault
from tests.profile import scaled
from tests.real_time.budget_program import KEY, NAME, PRICE, TOTAL, run_tables
from tests.real_time.crash.processes import start, wait


@asynccontextmanager
async def service(seed: int) -> AsyncIterator[FakeKie]:
    """Run a service that fails tasks, loses responses, and pays for ambiguous creates."""
    faults = [
        Fault("create", "reset", after=True, probability=0.03),
        Fault("create", "code", code=500, after=True, probability=0.03),
    ]
    async with FakeKie(
        seed=seed, limit=1000, queries_per_second=1e6, duration=(0.1, 0.5), fail_rate=0.15, credits=1e9, faults=faults
    ) as fake:
        yield fake


async def read_budget(fake: FakeKie, path: Path) -> tuple[BudgetInfo, set[JobState]]:
    """Recover what is left; return the budget, and the states of the jobs that have not ended then."""
    async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
        for job in await kie.recover():
            with suppress(KieError):
                await job
        (info,) = await kie.budgets()
        return info, {job.state for job in await kie.jobs(unfinished=True)}


def make_tables(seed: int) -> list[dict[str, int]]:
    """Return the tables of two processes."""
    chance = Random(seed)
    sizes = [chance.randrange(4, 12) for _ in range(6)]
    return [{f"t{number}": sizes[number] for number in range(6) if number % 2 == process} for process in range(2)]


@pytest.mark.parametrize("seed", range(scaled(quick=1, check=1, nightly=20)))
async def test_two_processes_never_exceed_the_budget(tmp_path: Path, seed: int) -> None:
    path, epoch = tmp_path / "kie.db", time.time()
    async with service(seed) as fake:
        processes = [start(run_tables, fake.url, path, epoch, tables) for tables in make_tables(seed)]
        assert [0, 0] == [await wait(process) for process in processes]
        info, states = await read_budget(fake, path)
        spent = fake.truth.spent(anyio.current_time() + 60.0)

    assert (NAME, TOTAL) == (info.name, info.credits)
    assert spent <= info.spent + info.reserved <= TOTAL
    assert info.left < PRICE
    assert states <= {JobState.UNRESOLVED}


@pytest.mark.parametrize("seed", range(scaled(quick=1, check=1, nightly=20)))
async def test_killed_process_neither_exceeds_nor_blocks_the_budget(tmp_path: Path, seed: int) -> None:
    """The other process, and the same tables again, use what the killed process has not spent."""
    path, epoch = tmp_path / "kie.db", time.time()
    async with service(seed) as fake:
        first, second = make_tables(seed)
        killed = start(run_tables, fake.url, path, epoch, first)
        while len(fake.truth.tasks) < 1 + seed % 5:
            await anyio.sleep(0.005)
        killed.kill()
        assert -9 == await wait(killed)
        assert 0 == await wait(start(run_tables, fake.url, path, epoch, second))
        assert 0 == await wait(start(run_tables, fake.url, path, epoch, first))
        info, states = await read_budget(fake, path)
        spent = fake.truth.spent(anyio.current_time() + 60.0)

    assert spent <= info.spent + info.reserved <= TOTAL
    assert 0.0 == info.running
    assert info.left < PRICE
    assert states <= {JobState.UNRESOLVED}
