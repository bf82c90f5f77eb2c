"""
``kill -9`` at the points of a run of twenty jobs: a sample of them, and all of them in a nightly run.

``python -m tests.real_time.crash`` also tries all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import profile
from tests.figures import RecordFigures
from tests.real_time.crash.audit import read_rows
from tests.real_time.crash.kill_points import KillPoint
from tests.real_time.crash.sweep import Sweep, shuffled

#: The phases that a run must pass: each step of a create and of the other requests, each write of the journal.
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
async def points(tmp_path_factory: pytest.TempPathFactory) -> list[KillPoint]:
    """Provide the points of an uninterrupted run."""
    return await Sweep(tmp_path_factory.mktemp("whole") / "run").points()


async def test_run_passes_each_phase_and_write(points: list[KillPoint]) -> None:
    """The sweep tries only points that a run passes."""
    assert PHASES <= {point.phase for point in points}
    assert len(points) >= 500


@pytest.mark.parametrize("part", range(3))
async def test_kill_neither_pays_twice_nor_loses_a_task(
    part: int, points: list[KillPoint], tmp_path: Path, record_property: RecordFigures
) -> None:
    """Every wait of the next process ends, and every charged task is known."""
    sweep, sampled = Sweep(tmp_path / "sweep"), profile.sample(points, check=0.04)[part::3]
    await sweep.run(sampled)
    record_property("kill sweep", {"kills": sweep.signaled})

    assert sweep.signaled >= 0.75 * len(sampled)
    assert [] == sweep.wrong


async def test_two_processes_may_replace_one(points: list[KillPoint], tmp_path: Path) -> None:
    """Both recover and submit all keys again; each job has one owner and one outcome."""
    sweep = Sweep(tmp_path / "sweep", restarts=2)
    await sweep.run(profile.sample(points, check=0.04))

    assert [] == sweep.wrong


async def test_process_may_be_killed_repeatedly(points: list[KillPoint], tmp_path: Path) -> None:
    """Ten kills in a row, each while a process continues after the previous kill."""
    sweep = Sweep(tmp_path / "sweep")
    order = shuffled(points)
    for number in range(0, 40, 10):
        sweep.findings.append(await sweep.kill_at(*order[number : number + 10]))

    assert [] == sweep.wrong
    # Attempts do not grow with the kills: one, and more where the service asks for it or the disk is slow.
    assert max(int(str(row["attempts"])) for row in read_rows(tmp_path / "sweep" / "0" / "kie.db").values()) <= 5


@pytest.mark.parametrize(
    ("bug", "restarts"),
    [("journal-after-response", 1), ("resend-sending", 1), ("no-compare-and-set", 2)],
)
async def test_sweep_finds_planted_bugs(bug: str, restarts: int, points: list[KillPoint], tmp_path: Path) -> None:
    """It stops at the first error, which comes early."""
    sweep = Sweep(tmp_path / "sweep", bug=bug, restarts=restarts)
    await sweep.run(shuffled(points), stop_at_first=True)

    assert any(finding.audit.paid_twice for finding in sweep.findings)
    assert len(sweep.findings) <= 50


async def test_compare_and_set_prevents_double_payment(points: list[KillPoint], tmp_path: Path) -> None:
    """Both processes claim every row, and each row still has one task."""
    sweep = Sweep(tmp_path / "sweep", bug="claim-without-check", restarts=2)
    await sweep.run(shuffled(points)[:8])

    assert [] == [line for finding in sweep.findings for line in finding.audit.paid_twice + finding.audit.lost]
