"""Process locks: an owner is alive for as long as its process, and a live one is never considered dead."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kie_async import JournalError
from kie_async._io.journals.process_locks import ProcessLocks

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

#: A program that is an owner, and may have a child process.
ENTER = """
import os, subprocess, sys
from pathlib import Path
from kie_async._io.journals.process_locks import ProcessLocks

owners = ProcessLocks(Path(sys.argv[1]), "other")
owners.lock_own()
child = 0
if sys.argv[2] == "fork":
    ready, say = os.pipe()
    if (child := os.fork()) == 0:
        os.write(say, b"!")
        os.read(0, 1)
        os._exit(0)
    os.read(ready, 1)
elif sys.argv[2] == "spawn":
    child = subprocess.Popen(["cat"], close_fds=False).pid
print(child, flush=True)
os.read(0, 1)
"""


@pytest.fixture
def own_locks(tmp_path: Path) -> Generator[ProcessLocks]:
    """Yield the locks of an owner that is alive."""
    owners = ProcessLocks(tmp_path / "kie.db", "me")
    owners.lock_own()
    yield owners
    owners.unlock_own()


@contextmanager
def locks_in_child(tmp_path: Path, with_child: str = "alone") -> Generator[subprocess.Popen[str]]:
    """Start a process that holds the lock of the owner "other"."""
    command = [sys.executable, "-c", ENTER, str(tmp_path / "kie.db"), with_child]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        yield process
        process.kill()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_owner_is_alive_until_it_unlocks(tmp_path: Path, own_locks: ProcessLocks) -> None:
    """For itself and for others; no file is left."""
    you = ProcessLocks(tmp_path / "kie.db", "you")
    you.lock_own()
    assert [True] * 4 == [you.is_alive("me"), own_locks.is_alive("you"), you.is_alive("you"), own_locks.is_alive("me")]
    you.unlock_own()
    you.unlock_own()

    assert not own_locks.is_alive("you")
    assert ["me.lock"] == files_in(tmp_path / "kie.db.owners")


@pytest.mark.parametrize("name", [None, "never", "../kie.db", ""])
def test_unknown_owner_is_dead(own_locks: ProcessLocks, name: str | None) -> None:
    assert not own_locks.is_alive(name)


@pytest.mark.parametrize("with_child", ["alone", "fork", "spawn"])
def test_killed_owner_is_dead_immediately(tmp_path: Path, own_locks: ProcessLocks, with_child: str) -> None:
    """Child processes that live on do not keep it alive."""
    with locks_in_child(tmp_path, with_child) as process:
        assert own_locks.is_alive("other")
        process.kill()
        process.wait()
        assert not own_locks.is_alive("other")
    assert "other.lock" in files_in(tmp_path / "kie.db.owners")
    next_one = ProcessLocks(tmp_path / "kie.db", "next")
    next_one.lock_own()
    assert ["me.lock", "next.lock"] == files_in(tmp_path / "kie.db.owners")
    next_one.unlock_own()


def test_stopped_process_is_alive(tmp_path: Path, own_locks: ProcessLocks) -> None:
    """It may continue at any time, with a create on the wire."""
    with locks_in_child(tmp_path) as process:
        process.send_signal(19)
        assert own_locks.is_alive("other")


def test_concurrent_checks_do_not_disturb_each_other(tmp_path: Path, own_locks: ProcessLocks) -> None:
    """Two processes that check the same dead owner both find it dead."""
    with locks_in_child(tmp_path) as process:
        process.kill()
        process.wait()
    with (tmp_path / "kie.db.owners" / "other.lock").open() as polling:
        fcntl.flock(polling, fcntl.LOCK_SH | fcntl.LOCK_NB)

        assert not own_locks.is_alive("other")


def test_check_does_not_release_the_lock(tmp_path: Path, own_locks: ProcessLocks) -> None:
    """A lock that is dropped with any descriptor would be lost by a check in the same process."""
    you = ProcessLocks(tmp_path / "kie.db", "you")
    you.lock_own()
    for _ in range(3):
        assert own_locks.is_alive("you")
        with (tmp_path / "kie.db.owners" / "you.lock").open():
            pass
    assert own_locks.is_alive("you")
    you.unlock_own()


def test_unreadable_owner_is_not_dead(tmp_path: Path, own_locks: ProcessLocks) -> None:
    """With all descriptors in use the check fails; adopting the jobs could pay them twice."""
    with locks_in_child(tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(JournalError, match="Too many open files"):
                own_locks.is_alive("other")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert own_locks.is_alive("other")


def test_locked_name_is_refused(tmp_path: Path) -> None:
    """The error says so, no descriptor stays open, and the holder is unaffected."""
    with locks_in_child(tmp_path):
        own_locks = ProcessLocks(tmp_path / "kie.db", "other")
        before = len(os.listdir("/dev/fd"))  # noqa: PTH208 (only how many)
        with pytest.raises(JournalError, match="locked by another process"):
            own_locks.lock_own()
        assert before == len(os.listdir("/dev/fd"))  # noqa: PTH208
        own_locks.unlock_own()
        looker = ProcessLocks(tmp_path / "kie.db", "me")
        assert looker.is_alive("other")


def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kie.db.owners").write_text("a file")
    with pytest.raises(JournalError, match=r"cannot be written to .*\(File exists\)\. Use another folder"):
        ProcessLocks(tmp_path / "kie.db", "me").lock_own()


def test_only_the_user_can_read_the_folder(tmp_path: Path, own_locks: ProcessLocks) -> None:
    folder = tmp_path / "kie.db.owners"

    assert (0o700, 0o600) == (folder.stat().st_mode & 0o777, (folder / f"{own_locks.name}.lock").stat().st_mode & 0o777)
