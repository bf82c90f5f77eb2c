"""File systems that lack an operation: strace lets the system call fail in a process that saves results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def save(folder: Path, fault: str, of: str | None, *more: str) -> subprocess.CompletedProcess[str]:
    """Save two results while a system call fails, in strace's notation: each one, or those of a file in the folder."""
    call = fault.partition(":")[0]
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={call}"]
    path = [] if of is None else ["-P", str(folder / of)]
    command = [
        *strace,
        *path,
        "-e",
        f"inject={fault}",
        sys.executable,
        "-m",
        "tests.system_tools.saving",
        str(folder),
        *more,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("fault", "of", "logged"),
    [
        ("fsync:error=EINVAL", "", 1),
        ("fsync:error=EBADF", "", 1),
        ("fsync:error=EOPNOTSUPP", None, 2),
        ("flock:error=EINVAL", None, 1),
        ("fchmod:error=EPERM", None, 0),
    ],
)
def test_lacking_operation_is_skipped_with_one_line(fault: str, of: str | None, logged: int, tmp_path: Path) -> None:
    ran = save(tmp_path, fault, of)

    assert (0, "") == (ran.returncode, ran.stderr)
    assert {"a.mp4", "b.mp4", "manifest.jsonl"} == {file.name for file in tmp_path.iterdir()}
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert logged == len(ran.stdout.splitlines())


def test_file_that_cannot_be_renamed_while_open_is_closed_first(tmp_path: Path) -> None:
    """The first attempt of each thread fails."""
    ran = save(tmp_path, "rename:error=EBUSY:when=1", None, "results")

    assert (0, "", "") == (ran.returncode, ran.stdout, ran.stderr)
    assert {"a.mp4", "b.mp4"} == {file.name for file in tmp_path.iterdir()}


def test_no_open_file_has_to_be_renamed(tmp_path: Path) -> None:
    """Neither a result nor a file of ``batch``."""
    command = [sys.executable, "-m", "tests.system_tools.saving", str(tmp_path), "closed"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (0, "", "") == (ran.returncode, ran.stdout, ran.stderr)
    assert {"a.mp4", "b.mp4", "manifest.jsonl"} == {file.name for file in tmp_path.iterdir()}


@pytest.mark.parametrize(("fault", "of"), [("fsync:error=EIO", ""), ("rename:error=EACCES", None)])
def test_other_errors_of_the_disk_are_raised(fault: str, of: str | None, tmp_path: Path) -> None:
    ran = save(tmp_path, fault, of)

    assert 1 == ran.returncode
    assert "The result could not be written" in ran.stderr
    assert not list(tmp_path.glob(".*"))
