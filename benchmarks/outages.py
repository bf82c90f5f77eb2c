"""
Measure what an accident of the database costs the workers that share a journal in it, in real time.

Eight workers with 40 jobs each share the account's 20 creates per 10 s, as in ``fleet.py``. When 30 tasks have been
created, the accident happens: the server crashes and is away for 40 s; it refuses to write for as long; it fails over
to a standby that lacks the last 30 creates, or to a synchronous one; its clock is stepped; a pooler is restarted. They
are in ``tests/fleet/accidents.py``, and ``tests/fleet/test_accidents.py`` checks the same at a tenth of the durations.

A journal in PostgreSQL is written before each create, so nothing is sent while it is away.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator

import anyio

from benchmarks.report import Report
from tests.fleet.accidents import ACCIDENTS, Accident
from tests.fleet.figures import contradictions
from tests.fleet.fleet import FULL, run_fleet, told

WORKERS, JOBS = 8, 40
#: The creates before an accident.
BEFORE = 30


async def measure(accident: Accident) -> list[str | float]:
    """Return the figures of one accident, from ``created`` on."""
    async with run_fleet(accident.dsn, FULL) as fleet:
        for worker in await fleet.start(WORKERS):
            fleet.submit(worker, JOBS)
        await fleet.until(lambda: len(fleet.fake.truth.tasks) >= BEFORE)
        outage = await accident.happen(fleet)
        await fleet.all_told()
        await fleet.all_ended()
        figures = fleet.figures()
        wrong = contradictions(await fleet.rows(), fleet.fake.truth)
        return [
            figures.created,
            figures.refused,
            figures.used,
            figures.paid_twice,
            len(wrong),
            told(*fleet.workers)["Generation"],
            outage.sent if accident.away else "-",
            outage.first,
            outage.created,
            len(outage.moved),
        ]


def measure_rows(names: Collection[str]) -> Iterator[list[str | float]]:
    """Measure the accidents with these names; all if there are none."""
    for name in names or ACCIDENTS:
        with ACCIDENTS[name]() as accident:
            yield [name, *anyio.run(measure, accident)]


def run(names: Collection[str] = ()) -> Report:
    """Run the benchmark, or only the accidents with these names."""
    return Report(
        name="outages",
        question="What does an accident of the database cost the workers that share a journal in it?",
        bound="our own: nothing sent meanwhile, refused (20 where a standby lacks creates) or paid twice; the first"
        " create 3 s after the end, 76 of 80 in the 40 s after it; no job of a living worker has another owner",
        columns=[
            "accident",
            "created",
            "refused",
            "used %",
            "paid twice",
            "rows wrong",
            "callers told",
            "sent meanwhile",
            "first create after s",
            "creates in 40 s after",
            "owners changed",
        ],
        rows=list(measure_rows(names)),
    )


if __name__ == "__main__":
    print(run(sys.argv[1:]).text())
