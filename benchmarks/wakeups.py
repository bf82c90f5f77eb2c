"""
Measure how long a caller waits in one process after another process has received the callback.

Three workers share a journal. The first submits jobs and waits for them, the second waits for the same jobs by their
ids, and the third, whose URL is the callback URL, receives the callbacks. The network takes no time, and the tasks end
one after another. A sample is the time from the service's POST to the return of ``wait()``; it includes the poll that
confirms the callback.

The baseline is SQLite, where a process asks every 0.5 s whether another one has written: a median of 250 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

import anyio

from benchmarks.report import Report
from kie_async import Limits
from tests.fleet.fleet import FULL, Worker, run_fleet
from tests.servers.postgres import PostgresServer, free_port

JOBS = 80
#: The mean seconds between the ends of two tasks, as many as the account creates.
BETWEEN = 0.5


async def measure(journal: str) -> list[list[float]]:
    """Return the samples in ms of the process that submitted, and of the one that waits by id."""
    port = free_port()
    rng = Random(7)
    # At the default rate, the confirmations of callbacks that come in clusters wait for each other.
    limits = Limits(creates=1000, polls_per_second=10.0)

    def duration(_model: str, _rng: Random) -> float:
        return 5.0 + rng.uniform(0.0, JOBS * BETWEEN)

    async with run_fleet(journal, FULL, limit=1000, latency=(0.0, 0.0), duration=duration) as fleet:
        url = f"http://127.0.0.1:{port}/kie"
        (receiving,) = await fleet.start(1, callback_url=url, callback_port=port, limits=limits)
        submitting, waiting = await fleet.start(2, callback_url=url, limits=limits)
        fleet.submit(submitting, JOBS)
        await fleet.until(lambda: len(submitting.reported("journaled")) == JOBS)
        waiting.link.send(do="wait", ids=[message["job"] for message in submitting.reported("journaled")])
        waiting.jobs = submitting.jobs
        await fleet.all_told([submitting, waiting])
        rows = await fleet.rows()
        posted_at = {post.task_id: post.at for post in fleet.fake.truth.callbacks}
        jobs_posted_at = {str(row["id"]): posted_at[row["task_id"]] for row in rows.values()}
        await fleet.end()
        del receiving
        return [latencies(worker, jobs_posted_at) for worker in (submitting, waiting)]


def latencies(worker: Worker, posted_at: dict[str, float]) -> list[float]:
    """Return the milliseconds from each callback until a worker told the caller."""
    return sorted(1e3 * (message["at"] - posted_at[message["job"]]) for message in worker.reported("told"))


def row(journal: str, caller: str, found: Sequence[float]) -> list[str | float]:
    """Return one row of the report."""
    return [journal, caller, median(found), found[math.ceil(0.95 * len(found)) - 1], found[-1]]


def run() -> Report:
    """Run the benchmark."""
    with TemporaryDirectory() as folder, PostgresServer() as server:
        journals = {"SQLite": str(Path(folder) / "kie.db"), "PostgreSQL": server.dsn()}
        samples = {name: anyio.run(measure, journal) for name, journal in journals.items()}
    return Report(
        name="wakeups",
        question="How long does a caller wait in one process after another process has received the callback?",
        bound="our own: a median of 20 ms and a p95 of 50 ms on PostgreSQL; on SQLite half of 0.5 s, twice",
        columns=["journal", "caller waits in", "p50 ms", "p95 ms", "max ms"],
        rows=[
            row(name, caller, found)
            for name, both in samples.items()
            for caller, found in zip(("the process that submitted", "a third process, by id"), both, strict=True)
        ],
    )
