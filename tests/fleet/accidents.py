"""The accidents of a fleet's database: it is away, it fails over, its clock is stepped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import anyio.to_thread
import attrs

from tests.fleet.fleet import Fleet
from tests.fleet.scenarios import Outage, interrupt
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import APP, DATABASE, PostgresServer

__all__ = ["ACCIDENTS", "Accident"]

#: The leases for which a database is away.
_LEASES = 4
#: The creates that a standby lacks: a window and a half, as many as in 15 s.
_LOST = 30


@attrs.frozen(kw_only=True)
class Accident:
    """
    An accident of a database that runs.

    Attributes:
        dsn: The DSN of the database.

        happen: Lets it happen, and returns what it has caused.

        refused: The number of creates that may be refused because of it.

        away: True if the database cannot be used meanwhile.
    """

    dsn: str
    happen: Callable[[Fleet], Awaitable[Outage]]
    refused: int = 0
    away: bool = True


@contextmanager
def _crash() -> Iterator[Accident]:
    with PostgresServer() as server:

        async def happen(fleet: Fleet) -> Outage:
            return await interrupt(fleet, partial(server.stop, "immediate"), server.start, _LEASES * fleet.scale.lease)

        yield Accident(dsn=server.dsn(), happen=happen)


@contextmanager
def _read_only() -> Iterator[Accident]:
    with PostgresServer() as server:

        async def happen(fleet: Fleet) -> Outage:
            write_again = partial(server.set_read_only, read_only=False)
            return await interrupt(fleet, server.set_read_only, write_again, _LEASES * fleet.scale.lease)

        yield Accident(dsn=server.dsn(), happen=happen)


@contextmanager
def _failover(*, synchronous: bool) -> Iterator[Accident]:
    with PostgresServer() as server:
        standby = server.start_standby(synchronous=synchronous)
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in (server, standby))

        async def happen(fleet: Fleet) -> Outage:
            if not synchronous:
                await anyio.to_thread.run_sync(standby.fall_behind)
                behind = len(fleet.fake.truth.tasks)
                await fleet.until(lambda: len(fleet.fake.truth.tasks) >= behind + _LOST)
            return await interrupt(fleet, server.kill, standby.promote, 0.0)

        dsn = f"postgresql://{APP}@{hosts}/{DATABASE}?target_session_attrs=read-write"
        yield Accident(dsn=dsn, happen=happen, refused=0 if synchronous else 20)


@contextmanager
def _step(seconds: float) -> Iterator[Accident]:
    with PostgresServer(settable_clock=True) as server:

        async def happen(fleet: Fleet) -> Outage:
            return await interrupt(fleet, lambda: None, partial(server.step_clock, seconds), 0.0)

        yield Accident(dsn=server.dsn(), happen=happen, away=False)


@contextmanager
def _pooled_crash() -> Iterator[Accident]:
    """Kill a pooler of transactions: all workers lose their connections in the middle of what they do."""
    with PostgresServer() as server, PgBouncer(server) as pooler:

        async def happen(fleet: Fleet) -> Outage:
            return await interrupt(fleet, pooler.stop, pooler.start, 0.0)

        yield Accident(dsn=pooler.dsn(), happen=happen)


#: The accidents by name.
ACCIDENTS: Mapping[str, Callable[[], AbstractContextManager[Accident]]] = {
    "crashed": _crash,
    "read-only": _read_only,
    "failover, standby behind": partial(_failover, synchronous=False),
    "failover, synchronous": partial(_failover, synchronous=True),
    "clock +3 s": partial(_step, 3.0),
    "clock -3 s": partial(_step, -3.0),
    "clock +3 h": partial(_step, 10_800.0),
    "pooler restarted": _pooled_crash,
}
