"""The database of a fleet crashes, fails over, or has another time: nothing is paid twice, and every caller is told."""

from __future__ import annotations

import pytest

from tests import profile
from tests.fleet.accidents import ACCIDENTS
from tests.fleet.figures import contradictions
from tests.fleet.fleet import FULL, SCALED, Scale, run_fleet, told
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer

WORKERS = 4
#: The jobs of each worker.
JOBS = 25
#: The creates before an accident.
BEFORE = 30


@pytest.mark.parametrize("name", profile.sample(list(ACCIDENTS), check=1 / 4))
@pytest.mark.parametrize("scale", profile.scaled(quick=[SCALED], check=[SCALED], nightly=[SCALED, FULL]), ids=str)
async def test_accident_of_the_database_costs_nothing(name: str, scale: Scale) -> None:
    """Nothing is sent while the database is away, and afterwards no worker takes the others for ended."""
    with ACCIDENTS[name]() as accident:
        async with run_fleet(accident.dsn, scale) as fleet:
            for worker in await fleet.start(WORKERS):
                fleet.submit(worker, JOBS)
            await fleet.until(lambda: len(fleet.fake.truth.tasks) >= BEFORE)
            outage = await accident.happen(fleet)
            await fleet.all_told()
            await fleet.all_ended()
            await fleet.end()
            wrong = contradictions(await fleet.rows(), fleet.fake.truth)
            figures = fleet.figures()

    assert [] == wrong
    assert {"Generation": WORKERS * JOBS} == told(*fleet.workers)
    assert figures.refused <= accident.refused
    assert not (accident.away and outage.sent)
    assert [] == outage.moved


async def test_pooler_of_transactions_is_noticed_once() -> None:
    """A worker hears nothing through it, and asks every second; it says so once."""
    with PostgresServer() as server, PgBouncer(server) as pooler:
        async with run_fleet(pooler.dsn(), SCALED) as fleet:
            for worker in await fleet.start(WORKERS):
                fleet.submit(worker, 15)
            await fleet.all_told()
            await fleet.end()
            figures = fleet.figures()

    assert (60, 0, 0) == (figures.created, figures.refused, figures.paid_twice)
    assert [1] * WORKERS == [len(worker.reported("log")) for worker in fleet.workers]
