"""The cases of ``limits.py``: the network, the client's machine, the account."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Literal, TypeAlias, cast

import aiohttp
import anyio
import attrs

from kie_async.testing import FakeKie, Fault

__all__ = ["CASES", "LEARNING", "LIMIT", "MINUTES", "WINDOW", "Case", "Counting", "account", "sessions"]

LIMIT = 20
WINDOW = 10.0
#: The duration of cases of the second kind, in seconds.
MINUTES = 600.0

#: The instant at which the loop stalls for a second, from the start: in the first burst.
STALL = 0.05
#: The instants at which the network stalls: in bursts, too.
OUTAGES = (0.05, 10.2, 51.3, 92.5, 133.7)

Counting: TypeAlias = Literal["sliding", "fixed", "bucket"]
TravelTime: TypeAlias = Callable[[random.Random], float]


def uniform_travel(rng: random.Random) -> float:
    """Draw a travel time of 20 to 200 ms."""
    return rng.uniform(0.02, 0.2)


def heavy_tailed_travel(rng: random.Random) -> float:
    """Draw a travel time of usually 60 ms, and sometimes a second."""
    return rng.lognormvariate(math.log(0.06), 0.8)


def travel_with_outages(rng: random.Random) -> float:
    """Draw a travel time; messages that are under way in a stall arrive at its end."""
    now, way = asyncio.get_running_loop().time(), uniform_travel(rng)
    for at in OUTAGES:
        if at <= now < at + 1.0:
            return at + 1.0 - now + way
        if at <= now + way < at + 1.0:
            return at + 1.0 - now
    return way


@attrs.frozen(kw_only=True)
class Case:
    """
    One case.

    Attributes:
        name: Its name.

        way: Draws the seconds each way.

        round_trip: The mean round trip, for the bound.

        create_seconds: The range of the service's time for a create after it was counted.

        cold: The range of the time to make a connection, in seconds.

        stalled: True if the client's loop stalls for a second in the first burst.

        lost: The share of lost answers.

        leaving: The share of cancelled callers.

        restarts_after: The number of creates after which another client replaces the first, or None.

        clients: The number of clients that share the account.

        limits: The account's limit from each instant on; None for the documented limit, in cases of the first kind.
    """

    name: str
    way: TravelTime = uniform_travel
    round_trip: float = 0.22
    create_seconds: tuple[float, float] = (0.0, 0.0)
    cold: tuple[float, float] = (0.0, 0.0)
    stalled: bool = False
    lost: float = 0.0
    leaving: float = 0.0
    restarts_after: int | None = None
    clients: int = 1
    limits: tuple[tuple[float, int], ...] | None = None

    @property
    def bound(self) -> float:
        """The share, in percent, that a client can use that does not see when its creates arrive."""
        return 100 * WINDOW / (WINDOW + self.round_trip)

    def available(self) -> float:
        """Return the number of creates that the account takes in a case of the second kind."""
        steps = [*(self.limits or ()), (MINUTES, 0)]
        return sum(limit * (end - at) / WINDOW for (at, limit), (end, _) in pairwise(steps))


CASES = [
    Case(name="400 at once"),
    Case(name="cold connections", cold=(0.25, 0.5)),
    Case(name="heavy tail", way=heavy_tailed_travel, round_trip=2 * 0.06 * math.exp(0.8**2 / 2)),
    Case(name="loop stalled for 1 s", stalled=True),
    Case(name="3 % of answers lost", lost=0.03),
    Case(name="callers leave", leaving=1 / 3),
    Case(name="slow creates, 0.3-2 s", create_seconds=(0.3, 2.0)),
    Case(name="restarted after 30 creates", restarts_after=30),
    Case(name="network stalled for 1 s", way=travel_with_outages),
]
#: The cases of the second kind, ten minutes each.
LEARNING = [
    Case(name="12 where 20 are configured", limits=((0.0, 12),)),
    Case(name="20, then 8, then 20", limits=((0.0, 20), (150.0, 8), (350.0, 20))),
    Case(name="three clients, one account", limits=((0.0, 20),), clients=3),
]


def sessions(case: Case, seed: int) -> Callable[..., aiohttp.ClientSession]:
    """Return a session factory that simulates the client's side: slow connections, a stalled loop."""
    rng, began_at = random.Random(f"{seed} connections"), asyncio.get_running_loop().time()

    async def connect(*_: object) -> None:
        await asyncio.sleep(rng.uniform(*case.cold))

    async def stand_still(*_: object) -> None:
        """Delay reads and writes of the client until the end of the stall."""
        now = asyncio.get_running_loop().time() - began_at
        if STALL <= now < STALL + 1.0:
            await asyncio.sleep(STALL + 1.0 - now)

    def make(**kwargs: object) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        if case.cold[1]:
            trace.on_connection_create_start.append(connect)
        if case.stalled:
            trace.on_request_start.append(stand_still)
            trace.on_request_end.append(stand_still)
        traces = [*cast("list[aiohttp.TraceConfig]", kwargs.pop("trace_configs", [])), trace]
        return aiohttp.ClientSession(**kwargs, trace_configs=traces)  # type: ignore[arg-type]  # passed on as they are

    return make


@asynccontextmanager
async def account(case: Case, counting: Counting, seed: int) -> AsyncGenerator[FakeKie]:
    """Run the service of a case."""
    # Half of them are reset, half are never answered.
    faults = [
        Fault("create", "reset", after=True, probability=case.lost / 2),
        Fault("create", "silence", after=True, probability=case.lost / 2 / (1 - case.lost / 2)),
    ]
    async with (
        FakeKie(
            seed=seed,
            limit=LIMIT,
            window=WINDOW,
            limiter=counting,
            latency=case.way,
            create_seconds=case.create_seconds,
            credits=1e9,
            faults=faults if case.lost else [],
        ) as fake,
        anyio.create_task_group() as group,
    ):

        async def change_limits() -> None:
            began_at = anyio.current_time()
            for at, limit in case.limits or ():
                await anyio.sleep_until(began_at + at)
                fake.limit = limit

        group.start_soon(change_limits)
        yield fake
        group.cancel_scope.cancel()
