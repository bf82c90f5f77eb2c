"""A table as long as you like, as a command: ``python -m tests.bulk 1000000``; see ``docs/bulk.md``."""

# ruff: noqa: T201  # a command prints its result
from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tracemalloc
from functools import partial
from pathlib import Path

from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import virtual_time
from tests.bulk.volume import go_through

#: Bytes that a row may leave behind, and the rows that it may take until all is as it stays.
SLOPE, WARM = 50.0, 10_000
USED = 0.97


def main(count: int, *, disk: bool) -> int:
    """Do the table, and show the figures; the exit code tells whether a bound was missed."""
    tracemalloc.start()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteStore(Path(folder) / "kie.db") if disk else None
        # Half a second a row are a week for a million.
        volume = virtual_time(partial(go_through, count, journal=journal), time_limit=1e8)
    print(f"{volume.rows} rows, {volume.ok} ok, {volume.created} tasks created, {volume.refused} creates refused")
    print(f"{volume.used:.2%} of the limit used; at most {volume.busiest} creates in a window")
    print(f"at most {volume.most_ahead} rows read whose outcome was not taken")
    wrong = volume.ok != count or volume.created != count or volume.refused > 0 or volume.used < USED
    if count >= 2 * WARM:
        slope = volume.slope(WARM)
        first, last = volume.weights[WARM], volume.weights[max(volume.weights)]
        print(
            f"{slope:.1f} bytes a row after the first {WARM}; {first / 2**20:.1f} MB by then, {last / 2**20:.1f} MB now"
        )
        wrong = wrong or slope > SLOPE
    print(f"{time.monotonic() - began:.0f} s")
    return int(wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Do a long table in virtual time, and weigh what it leaves behind.")
    parser.add_argument("count", type=int, nargs="?", default=50_000, help="how many rows")
    parser.add_argument("--disk", action="store_true", help="with a journal on disk instead of in memory")
    arguments = parser.parse_args()
    sys.exit(main(arguments.count, disk=arguments.disk))
