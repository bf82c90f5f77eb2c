"""
A journal of a million rows in PostgreSQL: what opening, adopting, searching and forgetting cost.

A thousand rows are unfinished and were left by eight workers that have ended. The bounds are the package's own. While
``forget()`` deletes 20,000 rows, another worker and the same one add a row every 10 ms; the figure is the longest that
either has waited.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from statistics import median

import attrs
import psycopg

from benchmarks.journal import make_intent
from benchmarks.report import Report
from kie_async._io.journals.journal import Service
from kie_async._io.journals.postgres import PostgresStore
from kie_async._io.journals.rows import INSERTED, to_columns
from kie_async.states import JobState
from tests.servers.postgres import PostgresServer

ROWS = 1_000_000
UNFINISHED = 1_000
PARTS = 10
FORGOTTEN = 20_000
SEARCHES = 50

SERVICE = Service.of("https://service.example.com", "a-key")
#: What differs between the rows; the rest is that of an ordinary success.
DIFFERENT = {
    "id": "'kj_' || md5('id' || n)",
    "key": "'shot-' || n",
    "fingerprint": "md5('a' || n) || md5('b' || n)",
    "task_id": "md5('task' || n)",
    "owner": "'ended-' || n %% 8",
    "state": f"CASE WHEN n %% {ROWS // UNFINISHED} = 0 THEN 'submitted' ELSE 'succeeded' END",
    "created_at": "n",
    "updated_at": "n",
}


def fill(dsn: str) -> None:
    """Write the rows."""
    row = attrs.evolve(make_intent(1, JobState.SUCCEEDED), origin=SERVICE.origin, account=SERVICE.account)
    values = to_columns({name: getattr(row, name) for name in INSERTED})
    columns = ", ".join(DIFFERENT.get(name, f"%({name})s") for name in INSERTED)
    insert = f"INSERT INTO kie_async.intents ({', '.join(INSERTED)}) SELECT {columns}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        for part in range(PARTS):
            numbers = f"generate_series({part * ROWS // PARTS + 1}, {(part + 1) * ROWS // PARTS}) AS n"
            connection.execute(f"{insert} FROM {numbers}".encode(), values)
        connection.execute("VACUUM ANALYZE kie_async.intents")


async def elapsed(call: Awaitable[object]) -> float:
    """Return the milliseconds that a call takes."""
    began = time.perf_counter()
    await call
    return (time.perf_counter() - began) * 1e3


async def adopt(journal: PostgresStore) -> None:
    """Open a journal, and take over all unfinished rows."""
    await journal.open()
    after, taken = 0, 0
    while page := await journal.claim(after=after, limit=200):
        after, taken = page[-1].number, taken + len(page)
    if taken != UNFINISHED:
        raise AssertionError(taken)


async def add_rows(journal: PostgresStore, waits: list[float]) -> None:
    """Add a row every 10 ms, and note the waits in milliseconds."""
    while True:
        row = attrs.evolve(make_intent(0), id=f"kj_{uuid.uuid4().hex}", key=None)
        waits.append(await elapsed(journal.add(row)))
        await asyncio.sleep(0.01)


async def measure(dsn: str) -> list[list[str | float]]:
    """Return the figures."""
    empty = PostgresStore(lambda: dsn)
    await empty.open()
    await empty.close()
    await asyncio.to_thread(fill, dsn)
    journal, other = (PostgresStore(lambda: dsn, service=SERVICE) for _ in range(2))
    rows: list[list[str | float]] = [["open, and adopt 1,000", await elapsed(adopt(journal)), 1000.0]]
    searches: dict[str, tuple[Callable[[int], Awaitable[object]], float]] = {
        "one key": (lambda n: journal.by_key(f"shot-{n * 7919 % ROWS}"), 2.0),
        "40 keys": (lambda n: journal.by_keys([f"shot-{(n * 7919 + k * 31_337) % ROWS}" for k in range(40)]), 10.0),
    }
    for name, (search, bound) in searches.items():
        rows.append([f"{name}, median", median([await elapsed(search(n)) for n in range(SEARCHES)]), bound])
    await other.open()
    waits: list[float] = []
    adding = [asyncio.create_task(add_rows(store, waits)) for store in (journal, other)]
    took = await elapsed(journal.forget(before=float(FORGOTTEN)))
    for task in adding:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    rows += [[f"forget {FORGOTTEN:,}", took, "-"], ["longest wait of writers meanwhile", max(waits), 100.0]]
    for store in (journal, other):
        await store.close()
    return rows


def run() -> Report:
    """Measure on a server of its own."""
    with PostgresServer(settings={"shared_buffers": "'128MB'"}) as server:
        rows = asyncio.run(measure(server.dsn()))
    return Report(
        name="million_rows",
        question="What do calls on a journal of 1,000,000 rows in PostgreSQL take, in ms?",
        bound="set by ourselves, beside the figures",
        columns=["call", "ms", "bound"],
        rows=rows,
    )
