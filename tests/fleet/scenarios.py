"""The accidents of a fleet, and what they cost: a worker is killed, or the database is away for some time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import attrs

from tests.fleet.figures import created_between, unfinished
from tests.fleet.fleet import Fleet, Worker

__all__ = ["Outage", "Takeover", "interrupt", "kill_one"]

#: The windows after an accident whose creates are counted.
WINDOWS_AFTER = 4


@attrs.frozen(kw_only=True)
class Takeover:
    """
    The consequences of a kill.

    Attributes:
        unsent: The number of its jobs that the killed worker had not sent.

        seconds: The time until all its unfinished jobs had other owners.

        created: The number of creates of all workers in the four windows after the kill.
    """

    unsent: int
    seconds: float
    created: int


async def kill_one(fleet: Fleet, worker: Worker, *, running: int) -> Takeover:
    """
    Kill a worker when the service runs *running* of its tasks, and has ended two or more of them.

    Creates come in bursts, one in each window; the kill is between two of them, so that the next windows have whole
    bursts.
    """

    def is_busy() -> bool:
        now = time.monotonic()
        own = [task for task in fleet.fake.truth.created if f" {worker.name}-" in str(task.input["prompt"])]
        return sum(task.ends_at > now for task in own) >= running and len(own) >= running + 2

    await fleet.until(is_busy)
    await anyio.sleep(fleet.scale.window / 2)
    owner = await fleet.owner(worker)
    killed_at = await fleet.kill(worker)
    unsent = len(worker.jobs) - fleet.created(worker)
    taken_at = await fleet.until_rows(lambda rows: not unfinished(rows.values(), {owner}))
    created = await _created_after(fleet, killed_at)
    return Takeover(unsent=unsent, seconds=taken_at - killed_at, created=created)


@attrs.frozen(kw_only=True)
class Outage:
    """
    The consequences of an outage of the database.

    Attributes:
        sent: The number of creates that were sent meanwhile.

        first: The seconds from its end to the next create.

        created: The number of creates in the four windows after its end.

        moved: The keys of the jobs that have another owner afterwards.
    """

    sent: int
    first: float
    created: int
    moved: Sequence[str]


async def interrupt(fleet: Fleet, stop: Callable[[], object], start: Callable[[], object], seconds: float) -> Outage:
    """
    Stop the database for *seconds*, and let it start.

    Args:
        fleet: The fleet.

        stop: Stops it; it blocks.

        start: Starts it, and returns when it answers; it blocks.

        seconds: The time between.
    """
    before = _owners(await fleet.rows())
    await anyio.to_thread.run_sync(stop)
    # What has been sent before arrives within one way over the network, and later where this process is busy.
    stopped_at = time.monotonic() + fleet.scale.latency[1] + 0.3
    await fleet.until(lambda: time.monotonic() > stopped_at + seconds)
    starting_at = time.monotonic()
    await anyio.to_thread.run_sync(start)
    back_at = time.monotonic()
    await fleet.until(lambda: any(one.at > starting_at for one in fleet.arrivals()))
    first = next(one.at for one in fleet.arrivals() if one.at > starting_at) - back_at
    created = await _created_after(fleet, back_at)
    after = _owners(await fleet.rows())
    return Outage(
        sent=len([one for one in fleet.arrivals() if stopped_at < one.at < starting_at]),
        first=first,
        created=created,
        moved=[key for key, owner in before.items() if after[key] not in (owner, None)],
    )


def _owners(rows: Mapping[str, dict[str, Any]]) -> dict[str, str | None]:
    return {key: row["owner"] for key, row in rows.items()}


async def _created_after(fleet: Fleet, begin: float) -> int:
    end = begin + WINDOWS_AFTER * fleet.scale.window
    await fleet.until(lambda: time.monotonic() > end)
    return len(created_between(fleet.arrivals(), begin, end))
