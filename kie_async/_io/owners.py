"""
Who of several processes works on a job: each owner is a locked file, and dead when nobody holds the lock.

The lock is ``flock`` on a file of its own: the kernel drops it with the last process that has the file open, however
that process ends. Locks on the database itself would be dropped as soon as any descriptor of it is closed.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from pathlib import Path

from kie_async.errors import JournalError

if sys.platform != "win32":
    import fcntl

__all__ = ["Owners"]

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Owners:
    """
    The owners of one journal file; all methods block for the time of a system call.

    Args:
        folder: Where their files lie.

        name: A new name for this owner.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self.file = _path(folder, name)
        self._descriptor = -1

    def enter(self) -> None:
        """
        Be alive from now on.

        Raises:
            JournalError: If the file system has no locks, or the folder cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"The journal's owner cannot be written to {self._folder} ({error.strerror}). Use another folder."
            raise JournalError(msg) from error
        if not _lock(descriptor):
            os.close(descriptor)
            msg = f"The journal's owner {self.file} is locked by somebody else. Use another folder."
            raise JournalError(msg)
        self._descriptor = descriptor
        if hasattr(os, "register_at_fork"):
            # A forked child shares the lock, and would keep it for as long as it lives.
            this = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _forget_in_child(this()))

    def leave(self) -> None:
        """Be dead from now on; what this owner has left may be taken over."""
        if self._descriptor >= 0:
            self.file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def forget(self) -> None:
        """Let go of the lock without giving it up for others that share it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def alive(self, name: str | None) -> bool:
        """Whether an owner is alive; one that was never named is not."""
        if name is None:
            return False
        if name == self.name:
            return True
        try:
            descriptor = os.open(_path(self._folder, name), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _lock(descriptor)
        finally:
            os.close(descriptor)

    def bury(self, name: str) -> None:
        """Remove what a dead owner has left."""
        _path(self._folder, name).unlink(missing_ok=True)


def _forget_in_child(owners: Owners | None) -> None:
    if owners is not None:
        owners.forget()


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"


def _lock(descriptor: int) -> bool:
    """Lock an open file if nobody else has; the lock goes with the descriptor."""
    if sys.platform == "win32":
        msg = "A journal on disk needs file locks of POSIX, which this system does not have. Use the journal in memory."
        raise JournalError(msg)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            msg = "The journal's file system has no locks (a network drive?). Put the journal on a local disk."
            raise JournalError(msg) from error
        raise
    return True
