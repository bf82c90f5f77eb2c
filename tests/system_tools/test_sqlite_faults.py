"""Disk errors: strace injects failing system calls into a process that writes a journal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.io.intents import open_store
from tests.system_tools.journal_writer import JOBS, WAY

MOVES = JOBS * (len(WAY) + 1)


def run(path: Path, fault: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the journal writer while system calls fail, in strace's notation."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", *options, "-e", f"inject={fault}"]
    command = [*strace, sys.executable, "-m", "tests.system_tools.journal_writer", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("fault", "of", "told"),
    [
        ("flock:error=ENOLCK", None, "no locks (a network drive?). Put the journal on a local disk."),
        ("flock:error=ENOSYS", None, "no locks (a network drive?). Put the journal on a local disk."),
        ("flock:error=EIO", None, "failed to lock (Input/output error). Put the journal on a local disk."),
        (
            "mmap:error=ENODEV",
            "kie.db-shm",
            "kie.db cannot be used: disk I/O error. Fix this, or use another journal.",
        ),
        (
            "openat:error=EROFS",
            "kie.db",
            "kie.db cannot be used: Read-only file system. Fix this, or use another",
        ),
        (
            "openat:error=EIO:when=2+",
            "kie.db",
            "kie.db cannot be used: unable to open database file. Fix this, or use",
        ),
        ("pread64:error=EIO", "kie.db", "kie.db cannot be used: disk I/O error. Fix this, or use another journal."),
    ],
)
def test_unusable_location_is_refused_at_once(tmp_path: Path, fault: str, of: str | None, told: str) -> None:
    """Without locks, shared memory, writing or reading the journal fails at its start."""
    options = [] if of is None else ["-P", str(tmp_path / of)]
    ran = run(tmp_path / "kie.db", fault, *options)
    last = ran.stderr.splitlines()[-1]

    assert (1, "") == (ran.returncode, ran.stdout)
    assert last.startswith("kie_async.errors.JournalError: ")
    assert told in last


@pytest.mark.parametrize(
    ("fault", "of", "failures"),
    [
        # The disk is full from the nth write into the log; earlier moves were acknowledged.
        *((f"pwrite64:error=ENOSPC:when={nth}+", "kie.db-wal", True) for nth in (62, 68, 76, 92)),
        # Only the checkpoints fail: the log keeps everything, and grows.
        ("pwrite64:error=ENOSPC:when=2+", "kie.db", False),
        ("fdatasync:error=EIO:when=2+", "kie.db", False),
    ],
)
async def test_full_disk_keeps_acknowledged_moves_only(tmp_path: Path, fault: str, of: str, *, failures: bool) -> None:
    path = tmp_path / "kie.db"
    ran = run(path, fault, "-P", str(tmp_path / of))
    steps, failed = acknowledged_moves(ran)

    assert failures == bool(failed)
    assert steps == await journaled_moves(path)
    assert all("full" in line for line in failed)


@pytest.mark.parametrize("when", ["3", "5", "14", "4+", "14+"])
async def test_failed_sync_loses_no_acknowledged_move(tmp_path: Path, when: str) -> None:
    """
    The sync fails once, or from then on.

    The next write repeats the failed one. Without a next write, the last move may or may not be on the disk: a job may
    be one step further than was acknowledged.
    """
    path = tmp_path / "kie.db"
    ran = run(path, f"fdatasync:error=EIO:when={when}", "-P", str(tmp_path / "kie.db-wal"))
    steps, failed = acknowledged_moves(ran)
    found = await journaled_moves(path)

    assert (
        steps.items() <= found.items() if "+" not in when else all(found[number] >= steps[number] for number in steps)
    )
    assert sum(found.values()) + len(found) - sum(steps.values()) - len(steps) <= len(failed)
    assert all("disk I/O error" in line for line in failed)


def acknowledged_moves(ran: subprocess.CompletedProcess[str]) -> tuple[dict[int, int], list[str]]:
    """Return the acknowledged number of moves of each job, and the failures."""
    assert (0, "") == (ran.returncode, ran.stderr)
    failed = [line for line in ran.stdout.splitlines() if line.startswith("failed")]
    said = [line.split() for line in ran.stdout.splitlines() if line not in failed]
    assert 0 < len(said) <= MOVES
    assert bool(failed) == (len(said) < MOVES)
    return {int(number): int(step) for number, step in said}, failed


async def journaled_moves(path: Path) -> dict[int, int]:
    """Return the number of moves of each job in the journal."""
    async with open_store(path) as journal:
        return {int(row.id[3:], 16): int(row.credits or 0) for row in await journal.rows()}
