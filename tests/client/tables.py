"""Helpers of the tests of ``map()``: tables, runs, and a setup whose ledger is not checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kie_async import Outcome, Request, Run
from kie_async._io.journals.memory import MemoryJournal
from kie_async.testing import FakeKie
from tests.helpers import KEY, JournalClient, Setup, make_request

__all__ = ["by_key", "client_and_fake_unchecked", "count_types", "drain_run", "make_rows", "run_map"]


def make_rows(count: int) -> list[tuple[str, Request]]:
    """Return *count* rows with keys."""
    return [(f"shot-{number}", make_request(number)) for number in range(count)]


async def run_map(setup: Setup, rows: Any, **options: Any) -> list[Outcome]:
    """Return all outcomes of a run."""
    async with setup.kie.map(rows, **options) as run:
        return [outcome async for outcome in run]


async def drain_run(run: Run) -> tuple[list[Outcome], Exception | None]:
    """Return all outcomes of a run, and the error that it raises after them."""
    found: list[Outcome] = []
    try:
        async for outcome in run:
            found.append(outcome)  # noqa: PERF401 (those before the error are kept)
    except Exception as error:  # noqa: BLE001 (the source's own, too)
        return found, error
    return found, None


def by_key(found: list[Outcome]) -> dict[str, Outcome]:
    """Return the outcomes by their keys, each of which must have come once."""
    assert len({outcome.key for outcome in found}) == len(found)
    return {outcome.key: outcome for outcome in found}


@asynccontextmanager
async def client_and_fake_unchecked(*, journal: MemoryJournal | None = None, **service: Any) -> AsyncIterator[Setup]:
    """Run a client and a fake in which a request may be created more than once."""
    journal = journal or MemoryJournal()
    async with FakeKie(**service) as fake, JournalClient(KEY, base_url=fake.url, journal=journal) as kie:
        yield Setup(kie, fake, journal)


def count_types(outcomes: list[Outcome]) -> dict[str, int]:
    """Count outcomes by the name of their class."""
    return dict(Counter(type(outcome).__name__ for outcome in outcomes))
