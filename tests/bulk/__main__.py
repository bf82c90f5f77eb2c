"""A table of any length as a command: ``python -m tests.bulk 1000000``; see ``docs/bulk.md``."""

# ruff: noqa: T201  # a command prints its result
from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tracemalloc
from functools import partial
from pathlib import Path

from kie_async import SqliteJournal
from kie_async.testing import virtual_time
from tests.bulk.volume import run_volume

#: The bytes that a row may leave behind (sets and dicts grow in steps), and the row from which on they are measured.
MOST_BYTES_A_ROW, WARM_UP = 500.0, 10_000
#: The share of the limit that must be used.
LEAST_USED = 0.97


def main(count: int, *, disk: bool) -> int:
    """Run the table and print the figures; return 1 if a bound was missed, else 0."""
    tracemalloc.start()
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "kie.db") if disk else None
        # At half a second for each row, a million rows take a week of virtual time.
        volume = virtual_time(partial(run_volume, count, journal=journal), time_limit=1e8)
    print(f"{volume.rows} rows, {volume.ok} ok, {volume.created} tasks created, {volume.rate_limited} creates refused")
    print(f"{volume.used:.2%} of the limit used; at most {volume.busiest} creates in a window")
    print(f"at most {volume.most_untaken} rows read whose outcome was not taken")
    missed = volume.ok != count or volume.created != count or volume.rate_limited > 0 or volume.used < LEAST_USED
    if count >= 2 * WARM_UP:
        slope = volume.bytes_a_row(WARM_UP)
        first, last = volume.memory[WARM_UP], volume.memory[max(volume.memory)]
        print(
            f"{slope:.1f} bytes a row after the first {WARM_UP}; {first / 2**20:.1f} MB by then,"
            f" {last / 2**20:.1f} MB at the end"
        )
        missed = missed or slope > MOST_BYTES_A_ROW
    print(f"{time.monotonic() - started_at:.0f} s")
    return int(missed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run a long table in virtual time, and measure the memory it leaves.")
    parser.add_argument("count", type=int, nargs="?", default=50_000, help="the number of rows")
    parser.add_argument("--disk", action="store_true", help="use a journal on disk instead of one in memory")
    arguments = parser.parse_args()
    sys.exit(main(arguments.count, disk=arguments.disk))
