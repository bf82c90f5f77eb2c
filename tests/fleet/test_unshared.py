"""Workers without a common journal: what the other tests of this folder would see if nothing were shared."""

from __future__ import annotations

from pathlib import Path

from tests.fleet.fleet import SCALED, run_fleet


async def test_workers_with_a_journal_each_are_refused(tmp_path: Path) -> None:
    async with run_fleet("", SCALED) as fleet:
        workers = [worker for name in "abc" for worker in await fleet.start(1, journal=str(tmp_path / f"{name}.db"))]
        for worker in workers:
            fleet.submit(worker, 15)
        await fleet.until(lambda: len(fleet.fake.truth.tasks) == 45)
        figures = fleet.figures()

    assert figures.refused >= 15
    assert figures.busiest > 20
    assert 0 == figures.paid_twice
