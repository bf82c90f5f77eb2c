"""The database of a fleet fails over, is away or has its clock set: nothing is paid twice, and every caller is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.to_thread
import pytest

from tests import profile
from tests.fleet.figures import contradictions
from tests.fleet.fleet import FULL, SCALED, Fleet, Scale, run_fleet, told
from tests.fleet.scenarios import interrupt
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import PostgresProxy

WORKERS = 8
JOBS = 80
#: The windows by which a standby lags.
LAG = 1.5


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    """Yield a server of its own."""
    with PostgresServer() as server:
        yield server


@asynccontextmanager
async def working_fleet(
    dsn: str, scale: Scale, *, created: int, jobs: int = JOBS, believes: bool = False
) -> AsyncIterator[Fleet]:
    """Yield a fleet that has created some of its tasks."""
    async with run_fleet(dsn, scale) as fleet:
        for worker in await fleet.start(WORKERS, believes=believes):
            fleet.submit(worker, jobs // WORKERS)
        await fleet.until(lambda: len(fleet.fake.truth.created) >= created)
        yield fleet


def fail_over(primary: PostgresServer, proxy: PostgresProxy, standby: PostgresServer) -> None:
    """Let the primary crash, and the standby take its place; it blocks."""
    primary.stop("immediate")
    standby.promote()
    proxy.forward_to(standby.port)


@asynccontextmanager
async def lagging_failover(primary: PostgresServer, scale: Scale, *, believes: bool = False) -> AsyncIterator[Fleet]:
    """Yield a fleet after a failover to a standby that lagged by 15 seconds, and the death of one of the workers."""
    standby = await anyio.to_thread.run_sync(primary.start_standby)
    with PostgresProxy(primary.port) as proxy:
        async with working_fleet(proxy.dsn(), scale, created=10, believes=believes) as fleet:
            await anyio.to_thread.run_sync(standby.fall_behind)
            before = {worker: fleet.created(worker) for worker in fleet.workers}
            await anyio.sleep(LAG * scale.window)
            await anyio.to_thread.run_sync(fail_over, primary, proxy, standby)
            # The first ones may have created all their tasks before the standby fell behind.
            last = max(fleet.workers, key=lambda worker: fleet.created(worker) - before[worker])
            if believes:
                await anyio.sleep(2.0 * scale.heartbeat)  # all workers are connected again
            else:  # what it alone remembered is written again
                await fleet.until(lambda: any("gone back in time" in line for line in last.logged))
            await fleet.kill(last)
            yield fleet


async def test_failover_to_a_lagging_standby_pays_nothing_twice(primary: PostgresServer) -> None:
    """Not even if a worker dies soon after it, and others take over its rows."""
    scale = profile.scaled(quick=SCALED, check=SCALED, nightly=FULL)
    async with lagging_failover(primary, scale) as fleet:
        await fleet.all_ended()
        survivors = [worker for worker in fleet.workers if worker.lives]
        await fleet.all_told(survivors)
        figures, rows = fleet.figures(), await fleet.rows()

    # Creates that were on their way when their worker was killed may not have arrived.
    in_doubt = sum(row["state"] == "unresolved" for row in rows.values())
    assert [] == contradictions(rows, fleet.fake.truth)
    assert JOBS - in_doubt <= figures.created <= JOBS
    assert (0, True) == (figures.paid_twice, in_doubt <= JOBS // WORKERS)
    assert figures.refused <= 20
    assert {"Generation": JOBS - JOBS // WORKERS} == told(*survivors)


async def test_without_the_comparison_a_failover_pays_twice(primary: PostgresServer) -> None:
    """The planted bug: workers believe what the journal says."""
    async with lagging_failover(primary, SCALED, believes=True) as fleet:
        await fleet.until(lambda: fleet.figures().paid_twice > 0)


async def test_failover_to_a_synchronous_standby_costs_nothing(primary: PostgresServer) -> None:
    scale = profile.scaled(quick=SCALED, check=SCALED, nightly=FULL)
    standby = await anyio.to_thread.run_sync(partial(primary.start_standby, synchronous=True))
    with PostgresProxy(primary.port) as proxy:
        async with working_fleet(proxy.dsn(), scale, created=30) as fleet:
            await anyio.to_thread.run_sync(fail_over, primary, proxy, standby)
            await fleet.all_told()
            await fleet.all_ended()
            figures, rows = fleet.figures(), await fleet.rows()

    assert [] == contradictions(rows, fleet.fake.truth)
    assert (JOBS, 0, 0) == (figures.created, figures.paid_twice, figures.refused)
    assert {"Generation": JOBS} == told(*fleet.workers)
    assert [] == [line for line in fleet.logged() if "gone back in time" in line]


async def check_outage(
    primary: PostgresServer, scale: Scale, stop: Callable[[], object], begin: Callable[[], object]
) -> None:
    """Check what an outage of four windows costs: nothing but its time."""
    jobs = 20 * WORKERS
    async with working_fleet(primary.dsn(), scale, created=30, jobs=jobs) as fleet:
        outage = await interrupt(fleet, stop, begin, 4.0 * scale.window)
        await fleet.all_told()
        await fleet.all_ended()
        figures, rows = fleet.figures(), await fleet.rows()

    assert [] == contradictions(rows, fleet.fake.truth)
    assert (jobs, 0, 0, 0) == (figures.created, figures.paid_twice, figures.refused, outage.sent)
    assert [] == outage.moved
    assert {"Generation": jobs} == told(*fleet.workers)
    if scale is FULL:  # scaled, the time to connect counts tenfold
        assert outage.first <= 3.0
        assert outage.created >= 76


async def test_outage_of_the_database_costs_only_its_time(primary: PostgresServer) -> None:
    scale = profile.scaled(quick=SCALED, check=SCALED, nightly=FULL)
    await check_outage(primary, scale, partial(primary.stop, "immediate"), primary.start)


async def test_server_that_cannot_be_written_is_away(primary: PostgresServer) -> None:
    """An old primary, for example, to which the workers are still connected."""
    scale = profile.scaled(quick=SCALED, check=SCALED, nightly=FULL)
    await check_outage(primary, scale, primary.set_read_only, partial(primary.set_read_only, read_only=False))


@pytest.mark.parametrize("seconds", profile.sample([3.0, -3.0, 3 * 3600.0], check=0.3))
async def test_steps_of_the_databases_clock_are_no_steps_of_time(seconds: float) -> None:
    scale = profile.scaled(quick=SCALED, check=SCALED, nightly=FULL)
    jobs = profile.scaled(quick=JOBS, check=JOBS, nightly=400)
    with PostgresServer(settable_clock=True) as server:
        async with working_fleet(server.dsn(), scale, created=30, jobs=jobs) as fleet:
            await anyio.to_thread.run_sync(server.step_clock, seconds * scale.factor)
            await fleet.all_told()
            figures, rows = fleet.figures(), await fleet.rows()

    assert [] == contradictions(rows, fleet.fake.truth)
    assert (jobs, 0, 0) == (figures.created, figures.paid_twice, figures.refused)
    if scale is FULL:
        assert figures.used >= 94.0
