"""
File locks that tell which processes are alive: each owner of jobs holds a lock file while it lives.

The lock is ``flock`` on a file of its own: the kernel drops it with the last process that has the file open, however
that process ends. Locks on the database itself would be dropped as soon as any descriptor of it is closed.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from kie_async.errors import JournalError

if sys.platform != "win32":
    import fcntl

__all__ = ["NO_LOCKS", "ProcessLocks"]

#: The owners whose lock this process holds.
_held: weakref.WeakSet[ProcessLocks] = weakref.WeakSet()


def _close_in_child() -> None:
    """Close what a forked child shares: it would hold its parent's locks for as long as it lives."""
    for locks in list(_held):
        locks.close_descriptor()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)

#: The error codes of a file system that has no locks.
NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP)


class ProcessLocks:
    """
    The lock files of the owners that share one journal file. All methods block for the time of a system call.

    Args:
        journal: The journal file, which need not exist.

        name: The new name of this owner.
    """

    def __init__(self, journal: Path, name: str) -> None:
        self.name = name
        self._journal = journal
        self._descriptor = -1

    @cached_property
    def _folder(self) -> Path:
        """The folder of the lock files: beside the real file, so that all symbolic links to it have the same one."""
        real = Path(os.path.realpath(self._journal))
        return real.with_name(f"{real.name}.owners")

    def lock_own(self) -> None:
        """
        Create and lock this owner's file, and remove those of ended owners: the owner is alive from now on.

        Call it in a write transaction of the database, so that no other owner does so at the same time: it would take a
        file that is created but not locked yet for an ended owner's.

        Raises:
            JournalError: If the file system has no locks, or the folder is not writable.
        """
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._remove_dead()
            descriptor = os.open(self._path(self.name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"The journal's lock file cannot be written to {self._folder} ({error.strerror}). Use another folder."
            raise JournalError(msg) from error
        locked = False
        try:
            locked = _lock(descriptor, exclusive=True)
        finally:
            if not locked:
                os.close(descriptor)
        if not locked:
            msg = f"The journal's lock file {self._path(self.name)} is locked by another process. Use another folder."
            raise JournalError(msg)
        self._descriptor = descriptor
        _held.add(self)

    def own_file_exists(self) -> bool:
        """Return True if other owners can find this one's lock."""
        return self._path(self.name).exists()

    def enter_anew(self, name: str) -> None:
        """Take another name, and lock its file as ``lock_own`` does."""
        self.close_descriptor()
        self.name = name
        self.lock_own()

    def unlock_own(self) -> None:
        """Release the lock: other processes may claim this owner's jobs."""
        if self._descriptor >= 0:
            self._path(self.name).unlink(missing_ok=True)
            self.close_descriptor()

    def close_descriptor(self) -> None:
        """Close this process's descriptor; the lock stays if another process shares it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def is_alive(self, name: str | None) -> bool:
        """
        Return True if an owner is alive; None, which is not a name, is never alive.

        Raises:
            JournalError: If that cannot be determined: jobs of an owner that may be alive are not taken over.
        """
        if name is None:
            return False
        if name == self.name:
            return True
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            msg = f"The journal's lock files in {self._folder} cannot be read ({error.strerror}). Fix this."
            raise JournalError(msg) from error
        try:
            # Shared, so that two processes that check at once do not take each other for the owner.
            return not _lock(descriptor, exclusive=False)
        finally:
            os.close(descriptor)

    def _remove_dead(self) -> None:
        with os.scandir(self._folder) as entries:
            names = [entry.name.removesuffix(".lock") for entry in entries if entry.name.endswith(".lock")]
        for name in names:
            with suppress(JournalError):  # it cannot be checked: it stays
                if name != self.name and not self.is_alive(name):
                    self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


def _lock(descriptor: int, *, exclusive: bool) -> bool:
    """
    Lock an open file, and return False if another lock prevents it; closing the descriptor releases the lock.

    Raises:
        JournalError: If the system or the file system has no locks.
    """
    if sys.platform == "win32":
        msg = "A journal on disk needs POSIX file locks, which this system does not have. Use the journal in memory."
        raise JournalError(msg)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        why = "no locks (a network drive?)" if error.errno in NO_LOCKS else f"failed to lock ({error.strerror})"
        msg = f"The journal's file system has {why}. Put the journal on a local disk."
        raise JournalError(msg) from error
    return True
