"""A disk that says no: the errors of system calls, injected by strace into a process that writes a journal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.io.intents import open_store
from tests.system_tools.journal_writer import JOBS, WAY

MOVES = JOBS * (len(WAY) + 1)


def run(path: Path, fault: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Let a process move jobs through a journal while system calls fail, by strace's words for which and how."""
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
        # The disk is full from the nth write into the log on; before that, moves were acknowledged.
        *((f"pwrite64:error=ENOSPC:when={nth}+", "kie.db-wal", True) for nth in (32, 45, 60, 75)),
        # Only the checkpoints fail: the log holds all there is, and grows.
        ("pwrite64:error=ENOSPC:when=2+", "kie.db", False),
        ("fdatasync:error=EIO:when=2+", "kie.db", False),
    ],
)
async def test_full_disk_keeps_acknowledged_moves_only(tmp_path: Path, fault: str, of: str, *, failures: bool) -> None:
    path = tmp_path / "kie.db"
    ran = run(path, fault, "-P", str(tmp_path / of))
    steps, failed = what_was_said(ran)

    assert failures == bool(failed)
    assert steps == await what_is_there(path)
    assert all("full" in line for line in failed)


@pytest.mark.parametrize("when", ["3", "5", "14", "4+", "14+"])
async def test_failed_sync_loses_no_acknowledged_move(tmp_path: Path, when: str) -> None:
    """
    Once, or from then on.

    What failed is written again by whatever comes next. If nothing comes any more, nobody can tell whether the last of
    it is on the disk: it may be found there afterwards, one step further than was acknowledged.
    """
    path = tmp_path / "kie.db"
    ran = run(path, f"fdatasync:error=EIO:when={when}", "-P", str(tmp_path / "kie.db-wal"))
    steps, failed = what_was_said(ran)
    found = await what_is_there(path)

    assert (
        steps.items() <= found.items() if "+" not in when else all(found[number] >= steps[number] for number in steps)
    )
    assert sum(found.values()) + len(found) - sum(steps.values()) - len(steps) <= len(failed)
    assert all("disk I/O error" in line for line in failed)


def what_was_said(ran: subprocess.CompletedProcess[str]) -> tuple[dict[int, int], list[str]]:
    """How far each job had come, as it was acknowledged; and what failed."""
    assert (0, "") == (ran.returncode, ran.stderr)
    failed = [line for line in ran.stdout.splitlines() if line.startswith("failed")]
    said = [line.split() for line in ran.stdout.splitlines() if line not in failed]
    assert 0 < len(said) <= MOVES
    assert bool(failed) == (len(said) < MOVES)
    return {int(number): int(step) for number, step in said}, failed


async def what_is_there(path: Path) -> dict[int, int]:
    """How far each job is by the journal."""
    async with open_store(path) as journal:
        return {int(row.id[3:], 16): int(row.credits or 0) for row in await journal.rows()}
