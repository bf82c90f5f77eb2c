"""
``kill -9`` at the points of a run of twenty jobs: a sample of them, and all of them in a nightly run.

``python -m tests.real_time.crash`` also tries all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import profile
from tests.real_time.crash.ledger import read_rows
from tests.real_time.crash.perils import Point
from tests.real_time.crash.sweep import Sweep, shuffled

#: What a run must pass at least: each phase of a create and of the other requests, each write of the journal.
PHASES = {
    *(
        f"{session}: {phase}"
        for session in ("create", "other")
        for phase in (
            "request begins",
            "connection begins",
            "connection stands",
            "connection is there",
            "before the hook",
            "after the hook",
            "before the bytes",
            "after the bytes",
            "first byte",
            "middle of the body",
            "last byte",
            "head is read",
        )
    ),
    *(
        f"journal: {when} {write}"
        for when in ("before", "after")
        for write in ("it is added", "sending", "intent", "submitted", "in_doubt", "rejected", "succeeded")
    ),
}


@pytest.fixture(scope="module")
async def points(tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    """The points of a run that nobody disturbs."""
    return await Sweep(tmp_path_factory.mktemp("whole") / "run").points()


async def test_run_passes_each_phase_and_write(points: list[Point]) -> None:
    """What is not passed is not tried."""
    assert PHASES <= {point.phase for point in points}
    assert len(points) >= 500


@pytest.mark.parametrize("third", range(3))
async def test_kill_neither_pays_twice_nor_loses_a_task(third: int, points: list[Point], tmp_path: Path) -> None:
    """Every wait of the next process ends, and every charged task is known."""
    sweep, sampled = Sweep(tmp_path / "sweep"), profile.sample(points, check=0.1)[third::3]
    await sweep.run(sampled)

    assert sweep.struck >= 0.75 * len(sampled)
    assert [] == sweep.wrong


async def test_two_processes_may_replace_one(points: list[Point], tmp_path: Path) -> None:
    """Each recovers, and submits all keys again: one owner for each job, and both are told the same."""
    sweep = Sweep(tmp_path / "sweep", restarts=2)
    await sweep.run(profile.sample(points, check=0.1))

    assert [] == sweep.wrong


async def test_process_may_be_killed_repeatedly(points: list[Point], tmp_path: Path) -> None:
    """Ten kills in a row, each while the process takes up what the one before has left."""
    sweep = Sweep(tmp_path / "sweep")
    order = shuffled(points)
    for number in range(0, 40, 10):
        sweep.findings.append(await sweep.kill_at(*order[number : number + 10]))

    assert [] == sweep.wrong
    # Attempts do not grow with the kills: one, another where the service asks for it, and where the disk was too slow.
    assert max(int(str(row["attempts"])) for row in read_rows(tmp_path / "sweep" / "0" / "kie.db").values()) <= 5


@pytest.mark.parametrize(
    ("plant", "restarts"),
    [("journal-after-the-answer", 1), ("sending-taken-for-intent", 1), ("no-compare-and-set", 2)],
)
async def test_sweep_finds_planted_bugs(plant: str, restarts: int, points: list[Point], tmp_path: Path) -> None:
    """It stops at the first hit, and that comes early."""
    sweep = Sweep(tmp_path / "sweep", plant=plant, restarts=restarts)
    await sweep.run(shuffled(points), stop_at_first=True)

    assert any(finding.audit.paid_twice for finding in sweep.findings)
    assert len(sweep.findings) <= 50


async def test_compare_and_set_prevents_double_payment(points: list[Point], tmp_path: Path) -> None:
    """What the third planted bug does without: both take every row, and each row has one task all the same."""
    sweep = Sweep(tmp_path / "sweep", plant="takes-without-looking", restarts=2)
    await sweep.run(shuffled(points)[:8])

    assert [] == [line for finding in sweep.findings for line in finding.audit.paid_twice + finding.audit.lost]
