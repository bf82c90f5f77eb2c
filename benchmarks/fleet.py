"""
Measure how processes that share one journal use the account's 20 creates per 10 s, in real time.

Each worker is a process of its own with ``Limits()`` as it is by default. The service counts in a sliding log by the
arrival of a create. Each way over the network takes 20 to 200 ms, evenly distributed, and a task takes 20 s. The use is
the rate between the 20th create and the last full twenty; a share is what one worker has created from the second window
on, as long as all workers had something left.

The cases: 8 workers with 50 jobs each, 30 with 20; 8 of which one is killed when 5 of its tasks run and 40 of its jobs
are not sent; and ten minutes at an account that takes 12, where the use is the part of what it would have taken. The
baselines have a journal for each worker, which shares nothing: with the account's limit in each, and with an eighth.

A client that cannot see when its creates arrive uses a token once in a window and a round trip: 10 / 10.22 = 97.8 %.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import anyio
import attrs

from benchmarks.report import Report
from tests.fleet.fleet import FULL, LIMIT, Scale, run_fleet
from tests.fleet.scenarios import kill_one
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer

#: The seconds of a run at an account that takes less than it documents.
MINUTES = 600.0
#: The creates that such an account takes in a window.
TAKEN = 12
#: A worker is killed when so many of its tasks run, and at least so many of its jobs are not sent.
RUNNING, UNSENT = 5, 40


@attrs.frozen(kw_only=True)
class Case:
    """
    One case.

    Attributes:
        name: Its name.

        workers: The number of workers.

        jobs: The number of jobs of each worker.

        creates: The creates in each worker's limits.

        shared: False if each worker has a journal of its own.

        killed: True if a worker is killed.

        taken: The creates that the account takes in a window.
    """

    name: str
    workers: int = 8
    jobs: int = 50
    creates: int = LIMIT
    shared: bool = True
    killed: bool = False
    taken: int = LIMIT


CASES = [
    Case(name="8 workers"),
    Case(name="30 workers", workers=30, jobs=20),
    Case(name="8 workers, one killed", killed=True),
    Case(name=f"8 workers, {TAKEN} where {LIMIT} are configured", jobs=110, taken=TAKEN),
]
#: What users can do without a shared journal.
BASELINES = [
    Case(name="8 workers, a journal each", shared=False),
    Case(name="8 workers, a journal each, 20 // 8", creates=LIMIT // 8, shared=False),
]
COLUMNS = [
    "journal",
    "case",
    "created",
    "refused",
    "busiest 10 s",
    "used %",
    "bound %",
    "shares differ by %",
    "paid twice",
    "taken over after s",
    "creates in 40 s after",
]


async def measure(case: Case, journal: Callable[[int], str], scale: Scale) -> list[str | float]:
    """
    Run a case.

    Args:
        case: The case.

        journal: Returns the journal of a worker, given its number.

        scale: The durations.

    Returns:
        The figures, from ``created`` on.
    """
    taken_over = after = math.nan
    async with run_fleet(journal(0), scale, limit=case.taken) as fleet:
        workers = [
            worker
            for number in range(case.workers)
            for worker in await fleet.start(1, journal=journal(number), limits=scale.limits(case.creates))
        ]
        for worker in workers:
            fleet.submit(worker, case.jobs)
        if case.taken < LIMIT:
            await anyio.sleep(MINUTES * scale.factor)
        elif case.killed:
            takeover = await kill_one(fleet, workers[0], running=RUNNING)
            taken_over, after = takeover.seconds, takeover.created
            if takeover.unsent < UNSENT:
                raise AssertionError(takeover)
            await fleet.all_ended()
        else:
            jobs = case.workers * case.jobs
            await fleet.until(lambda: len(fleet.fake.truth.tasks) >= jobs)
        figures = fleet.figures()
    used = figures.used if case.taken == LIMIT else 100 * figures.created / (case.taken * MINUTES / FULL.window)
    bound = 100 * FULL.window / (FULL.window + 2 * sum(FULL.latency) / 2)
    return [
        figures.created,
        figures.refused,
        figures.busiest,
        used,
        bound,
        figures.spread,
        figures.paid_twice,
        taken_over,
        after,
    ]


@contextmanager
def sqlite(case: Case) -> Iterator[Callable[[int], str]]:
    """Yield a function that returns the path of each worker's journal."""
    with TemporaryDirectory() as folder:
        yield lambda number: f"{folder}/{0 if case.shared else number}.db"


@contextmanager
def postgres(_: Case) -> Iterator[Callable[[int], str]]:
    """Yield a function that returns the DSN of the journal."""
    with PostgresServer() as server:
        yield lambda _: server.dsn()


@contextmanager
def pooled(_: Case) -> Iterator[Callable[[int], str]]:
    """Yield a function that returns the DSN of the journal, behind a pooler of transactions."""
    with PostgresServer() as server, PgBouncer(server) as pooler:
        yield lambda _: pooler.dsn()


def measure_rows(names: Collection[str]) -> Iterator[list[str | float]]:
    """Run the cases with these names, journals included; all cases if there are none."""
    journals = {"SQLite": sqlite, "PostgreSQL": postgres, "pgbouncer": pooled}
    runs = [(name, case) for name in ("SQLite", "PostgreSQL") for case in CASES]
    runs += [("pgbouncer", case) for case in CASES[:3:2]] + [("SQLite", case) for case in BASELINES]
    for name, case in runs:
        if not names or f"{name}: {case.name}" in names:
            with journals[name](case) as journal:
                yield [name, case.name, *anyio.run(measure, case, journal, FULL)]


def run(names: Collection[str] = ()) -> Report:
    """Run the benchmark, or only the cases with these names: ``SQLite: 8 workers``."""
    return Report(
        name="fleet",
        question=f"How do processes share {LIMIT} creates per {FULL.window:g} s of one account?",
        bound="no refusal, and W / (W + E[RTT]) used; a killed worker's jobs are taken over at once on SQLite, and on"
        " PostgreSQL when its lease of 10 s has expired",
        columns=COLUMNS,
        rows=list(measure_rows(names)),
    )


if __name__ == "__main__":
    print(run(sys.argv[1:]).text())
