"""The kill sweep as a command: ``python -m tests.real_time.crash`` tries every point; see ``docs/crash-tests.md``."""

# ruff: noqa: T201  # a command prints its result
from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import anyio

from tests.real_time.crash.journals import PLANTS
from tests.real_time.crash.sweep import Sweep, shuffled


async def main(every: int, restarts: int, plant: str | None, by: signal.Signals) -> int:
    """Sweep, and show the figures; the exit code tells whether something was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        points = await Sweep(Path(folder) / "whole").points()
        sweep = Sweep(Path(folder) / "sweep", plant=plant, restarts=restarts, by=by)
        chosen = points[::every] if plant is None else shuffled(points)
        await sweep.run(chosen, stop_at_first=plant is not None)
    for phase, count in Counter(point.phase for point in chosen).items():
        print(f"{count:5} {phase}")
    audits = [finding.audit for finding in sweep.findings]
    print(
        f"{len(points)} points, {len(audits)} tried, {sweep.struck} struck by"
        f" {by.name}, {sweep.seconds:.1f} s: {sum(len(one.paid_twice) for one in audits)} paid twice,"
        f" {sum(len(one.lost) for one in audits)} lost, {sum(len(one.untrue) for one in audits)} otherwise wrong"
    )
    print(*sweep.wrong, sep="\n")
    return 1 if sweep.wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill a process at each point of its run and start another one.")
    parser.add_argument("--every", type=int, default=1, help="try every n-th point")
    parser.add_argument("--restarts", type=int, default=1, help="how many processes start at once after each kill")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="plant a bug, and stop where it is found")
    parser.add_argument("--by", default="SIGKILL", help="the signal: SIGKILL, SIGTERM or SIGINT")
    given = parser.parse_args()
    sys.exit(anyio.run(main, given.every, given.restarts, given.plant, signal.Signals[given.by]))
