"""
Workers that share nothing but a journal keep the account's limit, and what one leaves is taken over.

All durations are a tenth of the real ones (a window of one second), so that a run takes seconds.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from random import Random

import anyio
import pytest

from tests import profile
from tests.fleet.figures import contradictions
from tests.fleet.fleet import SCALED, run_fleet, told

WORKERS = 4
#: The number of seeds of the test that stops a worker, and of those whose fleets run at the same time.
SEEDS, AT_ONCE = profile.scaled(quick=1, check=3, nightly=100), 3


@pytest.fixture(params=["sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path of a journal, or its DSN."""
    return str(tmp_path / "kie.db") if request.param == "sqlite" else str(request.getfixturevalue("postgres_dsn"))


async def test_workers_keep_the_limit_together(journal: str) -> None:
    """A journal is all that they share, and each has the limits of the account."""
    async with run_fleet(journal, SCALED) as fleet:
        for worker in await fleet.start(WORKERS):
            fleet.submit(worker, 20)
        await fleet.all_told()
        await fleet.end()
        figures = fleet.figures()

    assert {"Generation": 80} == told(*fleet.workers)
    assert (80, 0, 0) == (figures.created, figures.refused, figures.paid_twice)
    assert figures.busiest <= 20
    assert [] == fleet.logged()


async def test_jobs_of_a_killed_worker_end(journal: str) -> None:
    """It has sent some of its jobs and not the others; another worker does both without paying again."""
    async with run_fleet(journal, SCALED) as fleet:
        killed, *others = await fleet.start(WORKERS)
        for worker in fleet.workers:
            fleet.submit(worker, 40 if worker is killed else 20)  # a window has 20: it cannot have sent all
        await fleet.until(lambda: fleet.created(killed) >= 6)
        await fleet.kill(killed)
        left = len(killed.jobs) - fleet.created(killed)
        await fleet.all_ended()
        await fleet.all_told(others)
        await fleet.end()
        wrong = contradictions(await fleet.rows(), fleet.fake.truth)
        figures = fleet.figures()

    assert left >= 5
    assert [] == wrong
    assert {"Generation": 20 * len(others)} == told(*others)
    assert (0, 0) == (figures.refused, figures.paid_twice)
    assert figures.busiest <= 20


@pytest.mark.parametrize("seeds", [range(first, min(first + AT_ONCE, SEEDS)) for first in range(0, SEEDS, AT_ONCE)])
async def test_stopped_worker_pays_nothing_twice(journal: str, seeds: Sequence[int]) -> None:
    """
    A worker stands still for three leases in the middle of a create, and goes on.

    Where workers have leases, others have taken over meanwhile; their moves and the late answers meet. The fleets of a
    few seeds run at the same time; in one database, each of them has its own service.
    """
    found = dict[int, list[str]]()

    async def one(seed: int) -> None:
        found[seed] = await _stop_one(journal, Random(seed))

    async with anyio.create_task_group() as group:
        for seed in seeds:
            group.start_soon(one, seed)

    assert {seed: [] for seed in seeds} == found


@pytest.mark.parametrize("seed", range(profile.scaled(quick=1, check=1, nightly=20)))
async def test_workers_that_stand_still_by_turns_send_all_jobs(postgres_dsn: str, seed: int) -> None:
    """Each takes over from the others, and is deposed itself; jobs that are not its own any more need no tokens."""
    rng = Random(seed)
    async with run_fleet(postgres_dsn, SCALED, seed=seed) as fleet:
        for worker in await fleet.start(WORKERS):
            fleet.submit(worker, 15)
        for _ in range(4):
            stopped = rng.sample(fleet.workers, rng.randint(1, WORKERS - 1))
            for worker in stopped:
                worker.signal(signal.SIGSTOP)
            await anyio.sleep(rng.uniform(0.8, 2.0) * fleet.scale.lease)
            for worker in stopped:
                worker.signal(signal.SIGCONT)
            await anyio.sleep(rng.uniform(0.0, 0.5) * fleet.scale.lease)
        await fleet.all_ended()
        await fleet.all_told()
        await fleet.end()
        wrong = contradictions(await fleet.rows(), fleet.fake.truth)

    assert [] == wrong
    assert [] == fleet.fake.truth.rate_limited


async def _stop_one(journal: str, rng: Random) -> list[str]:
    """Stop a worker at an instant of its creates, and return what is wrong in the end."""
    # A long way over the network, so that most instants are in the middle of creates.
    async with run_fleet(journal, SCALED, seed=rng.randrange(1000), latency=(0.02, 0.2)) as fleet:
        stopped, *_ = await fleet.start(3)
        arrival, delay = rng.randint(1, 6), rng.choice((0.0, rng.uniform(0.0, 0.5)))
        count = 0

        def on_arrival(sender: str) -> None:
            nonlocal count
            count += sender == stopped.name
            if sender == stopped.name and count == arrival and not delay:
                stopped.signal(signal.SIGSTOP)

        fleet.senders.on_arrival = on_arrival
        for worker in fleet.workers:
            fleet.submit(worker, 12)
        await fleet.until(lambda: count >= arrival)
        await anyio.sleep(delay)
        stopped.signal(signal.SIGSTOP)
        await anyio.sleep(3 * fleet.scale.lease)
        stopped.signal(signal.SIGCONT)
        await fleet.all_ended()
        await fleet.all_told()
        await fleet.end()
        wrong = contradictions(await fleet.rows(), fleet.fake.truth)
        return [*wrong, *(f"refused at {post.at}" for post in fleet.fake.truth.rate_limited)]
