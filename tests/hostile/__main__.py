"""The siege as a command: ``python -m tests.hostile 100000``; see ``docs/hostile-callbacks.md``."""

# ruff: noqa: T201  # a command prints its result
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import virtual_time
from tests.hostile.report import SIGNED, run_siege


def main(count: int) -> int:
    """Run both sieges and print the figures; return 1 if a check has failed."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for signed in (True, False):
            journal = MemoryJournal() if signed else SqliteStore(Path(folder) / "kie.db")
            share = round(count * SIGNED) if signed else count - round(count * SIGNED)
            began = time.monotonic()
            report = virtual_time(partial(run_siege, share, journal=journal, signed=signed))
            print(f"{'signed, journal in memory' if signed else 'unsigned, journal on disk'}:")
            print(report, f"{time.monotonic() - began:.0f} s", *report.problems, sep="\n")
            failures += len(report.problems)
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Post hostile requests to both adapters of a working client.")
    parser.add_argument("count", type=int, nargs="?", default=100_000, help="number of requests")
    sys.exit(main(parser.parse_args().count))
