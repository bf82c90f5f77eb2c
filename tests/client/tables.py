"""What the tests of ``map()`` share: a table, what a run yields for it, and a world that keeps no ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kie_async import KieClient, Outcome, Request, Run
from kie_async._io.journals.memory import MemoryJournal
from kie_async.testing import FakeKie
from tests.client.world import KEY, Anything, World, ask

__all__ = ["a_world_without_a_ledger", "by_key", "outcomes", "table", "to_the_end"]


def table(count: int) -> list[tuple[str, Request]]:
    """Rows with keys of their own."""
    return [(f"shot-{number}", ask(number)) for number in range(count)]


async def outcomes(world: World, rows: Anything, **options: Anything) -> list[Outcome]:
    """Everything that a run yields."""
    async with world.kie.map(rows, **options) as run:
        return [outcome async for outcome in run]


async def to_the_end(run: Run) -> tuple[list[Outcome], Exception | None]:
    """What a run yields, and what it raises after that."""
    found: list[Outcome] = []
    try:
        async for outcome in run:
            found.append(outcome)  # noqa: PERF401 (those before the error are the point)
    except Exception as error:  # noqa: BLE001 (the source's own, too)
        return found, error
    return found, None


def by_key(found: list[Outcome]) -> dict[str, Outcome]:
    """Outcomes by their keys, each of which has come once."""
    assert len({outcome.key for outcome in found}) == len(found)
    return {outcome.key: outcome for outcome in found}


@asynccontextmanager
async def a_world_without_a_ledger(
    *, journal: MemoryJournal | None = None, **service: Anything
) -> AsyncIterator[World]:
    """A world in which one request may be made more than once, since that is wanted."""
    journal = journal or MemoryJournal()
    async with FakeKie(**service) as fake, KieClient(KEY, base_url=fake.url, journal=journal) as kie:
        yield World(kie, fake, journal)
