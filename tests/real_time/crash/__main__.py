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

from tests.real_time.crash.journals import BUGS
from tests.real_time.crash.sweep import Sweep, shuffled


async def main(every: int, restarts: int, bug: str | None, by: signal.Signals) -> int:
    """Run the sweep and print the figures; return the exit code, 1 after an error."""
    with tempfile.TemporaryDirectory() as folder:
        points = await Sweep(Path(folder) / "whole").points()
        sweep = Sweep(Path(folder) / "sweep", bug=bug, restarts=restarts, by=by)
        chosen = points[::every] if bug is None else shuffled(points)
        await sweep.run(chosen, stop_at_first=bug is not None)
    for phase, count in Counter(point.phase for point in chosen).items():
        print(f"{count:5} {phase}")
    audits = [finding.audit for finding in sweep.findings]
    print(
        f"{len(points)} points, {len(audits)} tried, {sweep.signaled} signaled by"
        f" {by.name}, {sweep.seconds:.1f} s: {sum(len(one.paid_twice) for one in audits)} paid twice,"
        f" {sum(len(one.lost) for one in audits)} lost, {sum(len(one.inconsistent) for one in audits)} inconsistent"
    )
    print(*sweep.wrong, sep="\n")
    return 1 if sweep.wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill a process at each point of its run and start another one.")
    parser.add_argument("--every", type=int, default=1, help="try every n-th point")
    parser.add_argument("--restarts", type=int, default=1, help="the number of processes that start after each kill")
    parser.add_argument("--bug", choices=sorted(BUGS), help="use a journal with a bug, and stop where it is found")
    parser.add_argument("--by", default="SIGKILL", help="the signal: SIGKILL, SIGTERM or SIGINT")
    given = parser.parse_args()
    sys.exit(anyio.run(main, given.every, given.restarts, given.bug, signal.Signals[given.by]))
