"""Who is alive: an owner is, for as long as its process, and nobody who may be alive is taken for dead."""

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

#: An owner in a process of its own, which may have a child of its own.
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
def me(tmp_path: Path) -> Generator[ProcessLocks]:
    """An owner that is alive."""
    owners = ProcessLocks(tmp_path / "kie.db.owners", "me")
    owners.lock_own()
    yield owners
    owners.unlock_own()


@contextmanager
def another(tmp_path: Path, with_child: str = "alone") -> Generator[subprocess.Popen[str]]:
    """An owner in another process, named "other"."""
    command = [sys.executable, "-c", ENTER, str(tmp_path / "kie.db.owners"), with_child]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        yield process
        process.kill()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_owner_is_alive_until_it_leaves(tmp_path: Path, me: ProcessLocks) -> None:
    """For itself and for others; and it leaves nothing behind."""
    you = ProcessLocks(tmp_path / "kie.db.owners", "you")
    you.lock_own()
    assert [True] * 4 == [you.is_alive("me"), me.is_alive("you"), you.is_alive("you"), me.is_alive("me")]
    you.unlock_own()
    you.unlock_own()

    assert not me.is_alive("you")
    assert ["me.lock"] == files_in(tmp_path / "kie.db.owners")


@pytest.mark.parametrize("name", [None, "never", "../kie.db", ""])
def test_a_name_that_nobody_has_is_dead(me: ProcessLocks, name: str | None) -> None:
    assert not me.is_alive(name)


@pytest.mark.parametrize("with_child", ["alone", "fork", "spawn"])
def test_an_owner_that_is_killed_is_dead_at_once(tmp_path: Path, me: ProcessLocks, with_child: str) -> None:
    """Children that it has made, and that live on, do not keep it alive."""
    with another(tmp_path, with_child) as process:
        assert me.is_alive("other")
        process.kill()
        process.wait()
        assert not me.is_alive("other")
    assert "other.lock" in files_in(tmp_path / "kie.db.owners")
    me.remove_dead("other")
    me.remove_dead("other")
    assert ["me.lock"] == files_in(tmp_path / "kie.db.owners")


def test_a_process_that_is_stopped_is_alive(tmp_path: Path, me: ProcessLocks) -> None:
    """It may go on at any time, with a create on the wire."""
    with another(tmp_path) as process:
        process.send_signal(19)
        assert me.is_alive("other")


def test_whoever_looks_is_not_taken_for_the_owner(tmp_path: Path, me: ProcessLocks) -> None:
    """Two that look at the same dead one at the same time both see that it is dead."""
    with another(tmp_path) as process:
        process.kill()
        process.wait()
    with (tmp_path / "kie.db.owners" / "other.lock").open() as polling:
        fcntl.flock(polling, fcntl.LOCK_SH | fcntl.LOCK_NB)

        assert not me.is_alive("other")


def test_looking_does_not_take_the_life_of_the_owner(tmp_path: Path, me: ProcessLocks) -> None:
    """A lock of the kind that is dropped with any descriptor would be lost by a look of the process itself."""
    you = ProcessLocks(tmp_path / "kie.db.owners", "you")
    you.lock_own()
    for _ in range(3):
        assert me.is_alive("you")
        with (tmp_path / "kie.db.owners" / "you.lock").open():
            pass
    assert me.is_alive("you")
    you.unlock_own()


def test_an_owner_that_cannot_be_looked_at_is_not_taken_for_dead(tmp_path: Path, me: ProcessLocks) -> None:
    """With all descriptors in use nobody knows; to adopt its jobs then could pay them twice."""
    with another(tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(JournalError, match="Too many open files"):
                me.is_alive("other")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert me.is_alive("other")


def test_a_name_that_is_taken_cannot_be_entered(tmp_path: Path) -> None:
    """It says so, keeps no descriptor open, and does not harm who has it."""
    with another(tmp_path):
        me = ProcessLocks(tmp_path / "kie.db.owners", "other")
        before = len(os.listdir("/dev/fd"))  # noqa: PTH208 (only how many)
        with pytest.raises(JournalError, match="locked by another process"):
            me.lock_own()
        assert before == len(os.listdir("/dev/fd"))  # noqa: PTH208
        me.unlock_own()
        looker = ProcessLocks(tmp_path / "kie.db.owners", "me")
        assert looker.is_alive("other")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "kie.db.owners").write_text("a file")
    with pytest.raises(JournalError, match=r"cannot be written to .*\(File exists\)\. Use another folder"):
        ProcessLocks(tmp_path / "kie.db.owners", "me").lock_own()


def test_only_its_user_can_look_into_the_folder(tmp_path: Path, me: ProcessLocks) -> None:
    folder = tmp_path / "kie.db.owners"

    assert (0o700, 0o600) == (folder.stat().st_mode & 0o777, (folder / f"{me.name}.lock").stat().st_mode & 0o777)
