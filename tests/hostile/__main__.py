"""All attacks as a command: ``python -m tests.hostile 100000``; see ``docs/hostile-callbacks.md``."""

# ruff: noqa: T201  # a command prints its result
from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path

from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import virtual_time
from tests.hostile.lag import measure_lag
from tests.hostile.report import SIGNED, run_siege
from tests.hostile.strangers import ATTACKS, LIVES, besiege


def run_sieges(count: int) -> int:
    """Run both sieges and print the figures; return the number of failed checks."""
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
    return failures


def run_strangers() -> int:
    """Let strangers attack jobs of each kind and print the figures; return the number of failed checks."""
    failures = 0
    for life, attack in product(LIVES, ATTACKS):
        with tempfile.TemporaryDirectory() as folder:
            findings = virtual_time(partial(besiege, attack, life, Path(folder)))
        print(f"{life}, {attack}: {findings}", *findings.problems, sep="\n", flush=True)
        failures += len(findings.problems)
    return failures


def run_large_bodies() -> int:
    """Post large bodies in real time and print the figures; return the number of failed checks."""
    failures = 0
    for signed in (True, False):
        report = asyncio.run(measure_lag(signed=signed))
        print(f"large bodies, {'signed or not' if signed else 'no webhook_key'}:", report, *report.problems, sep="\n")
        failures += len(report.problems)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Attack the callback receiver of a working client.")
    parser.add_argument("count", type=int, nargs="?", default=100_000, help="number of requests of the siege")
    failed = run_large_bodies() + run_strangers() + run_sieges(parser.parse_args().count)
    sys.exit(1 if failed else 0)
