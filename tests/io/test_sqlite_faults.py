"""A disk that says no: the errors of system calls, injected by strace into a process that writes a journal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.io.intents import opened
from tests.real_time.moving import JOBS, WAY

MOVES = JOBS * (len(WAY) + 1)


def run(path: Path, fault: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Let a process move jobs through a journal while system calls fail, by strace's words for which and how."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", *options, "-e", f"inject={fault}"]
    command = [*strace, sys.executable, "-m", "tests.real_time.moving", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("fault", "of", "told"),
    [
        ("flock:error=ENOLCK", None, "no locks (a network drive?). Put the journal on a local disk."),
        ("flock:error=ENOSYS", None, "no locks (a network drive?). Put the journal on a local disk."),
        ("flock:error=EIO", None, "failed to lock (Input/output error). Put the journal on a local disk."),
        ("mmap:error=ENODEV", "kie.db-shm", "kie.db cannot be used: disk I/O error. Nothing was changed: mend that"),
        (
            "openat:error=EROFS",
            "kie.db",
            "kie.db cannot be used: Read-only file system. Nothing was changed: mend that",
        ),
        ("openat:error=EIO:when=2+", "kie.db", "kie.db cannot be used: unable to open database file. Nothing was chan"),
        ("pread64:error=EIO", "kie.db", "kie.db cannot be used: disk I/O error. Nothing was changed: mend that, or gi"),
    ],
)
def test_a_place_that_cannot_hold_a_journal_is_refused_at_once(
    tmp_path: Path, fault: str, of: str | None, told: str
) -> None:
    """No locks, no shared memory, no writing, no reading: nobody is let think that anything is written down."""
    options = [] if of is None else ["-P", str(tmp_path / of)]
    ran = run(tmp_path / "kie.db", fault, *options)
    last = ran.stderr.splitlines()[-1]

    assert (1, "") == (ran.returncode, ran.stdout)
    assert last.startswith("kie_async.errors.JournalError: ")
    assert told in last


@pytest.mark.parametrize(
    ("fault", "of", "failures"),
    [
        # The disk is full from the nth write of the log on; before that, moves were acknowledged.
        *((f"pwrite64:error=ENOSPC:when={nth}+", "kie.db-wal", True) for nth in (17, 18, 40, 75)),
        # Syncing fails once: what was to be on the disk may not be there, and is written again.
        *((f"fdatasync:error=EIO:when={nth}", "kie.db-wal", None) for nth in (3, 5, 14)),
        # Syncing fails for good.
        *((f"fdatasync:error=EIO:when={nth}+", "kie.db-wal", True) for nth in (3, 14)),
        # Only the checkpoints fail: the log holds all there is, and grows.
        ("pwrite64:error=ENOSPC:when=2+", "kie.db", False),
        ("fdatasync:error=EIO:when=2+", "kie.db", False),
    ],
)
async def test_a_disk_that_fails_later_loses_nothing_that_was_acknowledged(
    tmp_path: Path, fault: str, of: str, *, failures: bool | None
) -> None:
    """What could not be written is told, as often as it happens, and is not there afterwards."""
    path = tmp_path / "kie.db"
    ran = run(path, fault, "-P", str(tmp_path / of))
    lines = ran.stdout.splitlines()
    failed = [line for line in lines if line.startswith("failed")]
    steps = {int(number): int(step) for number, step in (line.split() for line in lines if line not in failed)}
    async with opened(path) as journal:
        found = {int(row.id[3:], 16): int(row.credits or 0) for row in await journal.rows()}

    assert (0, "") == (ran.returncode, ran.stderr)
    assert steps == found
    assert all("full" in line or "disk I/O error" in line for line in failed)
    assert failures is None or failures == bool(failed)
    assert 0 < len(lines) - len(failed) <= MOVES
    assert bool(failed) == (len(lines) - len(failed) < MOVES)
