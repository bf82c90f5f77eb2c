"""
A journal of a million rows, in PostgreSQL and in SQLite: what opening, adopting, searching and forgetting cost.

A thousand rows are unfinished and were left by workers that have ended. The bounds are the package's own. While
``forget()`` deletes 20,000 rows, another worker and the same one add a row every 10 ms; the figure is the longest that
either has waited.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeAlias

import attrs
import psycopg

from benchmarks.journal import fill, make_intent
from benchmarks.report import Report
from kie_async._io.journals.journal import Service
from kie_async._io.journals.postgres import PostgresStore
from kie_async._io.journals.rows import INSERTED, to_columns
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from tests.servers.postgres import PostgresServer

ROWS = 1_000_000
UNFINISHED = 1_000
PARTS = 10
FORGOTTEN = 20_000
SEARCHES = 50

URL = "https://service.example.com"
SERVICE = Service.of(URL, "a-key")
Store: TypeAlias = PostgresStore | SqliteStore

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


def fill_postgres(dsn: str) -> None:
    """Write the rows into PostgreSQL."""
    row = attrs.evolve(make_intent(1, JobState.SUCCEEDED), origin=SERVICE.origin, account=SERVICE.account)
    values = to_columns({name: getattr(row, name) for name in INSERTED})
    columns = ", ".join(DIFFERENT.get(name, f"%({name})s") for name in INSERTED)
    insert = f"INSERT INTO kie_async.intents ({', '.join(INSERTED)}) SELECT {columns}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        for part in range(PARTS):
            numbers = f"generate_series({part * ROWS // PARTS + 1}, {(part + 1) * ROWS // PARTS}) AS n"
            connection.execute(f"{insert} FROM {numbers}".encode(), values)
        connection.execute("VACUUM ANALYZE kie_async.intents")


def fill_sqlite(path: Path) -> None:
    """Write the rows into SQLite."""
    fill(path, URL, intents=ROWS, unfinished=UNFINISHED)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE intents SET created_at = rowid, updated_at = rowid, owner = 'ended-' || rowid % 8")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def elapsed(call: Awaitable[object]) -> float:
    """Return the milliseconds that a call takes."""
    began = time.perf_counter()
    await call
    return (time.perf_counter() - began) * 1e3


async def adopt(journal: Store) -> None:
    """Open a journal, and take over all unfinished rows."""
    await journal.open()
    after, taken = 0, 0
    while page := await journal.claim(after=after, limit=200):
        after, taken = page[-1].number, taken + len(page)
    if taken != UNFINISHED:
        raise AssertionError(taken)


async def add_rows(journal: Store, waits: list[float]) -> None:
    """Add a row every 10 ms, and note the waits in milliseconds."""
    while True:
        row = attrs.evolve(make_intent(0), id=f"kj_{uuid.uuid4().hex}", key=None)
        waits.append(await elapsed(journal.add(row)))
        await asyncio.sleep(0.01)


async def measure(engine: str, new: Callable[[], Store], write_rows: Callable[[], None]) -> list[list[str | float]]:
    """Return the figures of an engine."""
    empty = new()
    await empty.open()
    await empty.close()
    await asyncio.to_thread(write_rows)
    journal, other = new(), new()
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
    return [[engine, *row] for row in rows]


def run() -> Report:
    """Measure on a server of its own, and in a file on the disk of the system's temporary files."""
    with PostgresServer(settings={"shared_buffers": "'128MB'"}) as server:
        new = partial(PostgresStore, server.dsn, service=SERVICE)
        rows = asyncio.run(measure("PostgreSQL", new, lambda: fill_postgres(server.dsn())))
    with TemporaryDirectory() as folder:
        path = Path(folder, "jobs.db")
        rows += asyncio.run(measure("SQLite", partial(SqliteStore, path, service=SERVICE), lambda: fill_sqlite(path)))
    return Report(
        name="million_rows",
        question="What do calls on a journal of 1,000,000 rows take, in ms?",
        bound="set by ourselves, beside the figures",
        columns=["engine", "call", "ms", "bound"],
        rows=rows,
    )
