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

__all__ = ["NO_LOCKS", "ProcessLocks"]

#: What a file system without locks answers.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class ProcessLocks:
    """
    The owners of one journal file; all methods block for the time of a system call.

    Args:
        folder: Where their files lie.

        name: A new name for this owner.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self._file = _path(folder, name)
        self._descriptor = -1

    def enter(self) -> None:
        """
        Be alive from now on.

        Raises:
            JournalError: If the file system has no locks, or the folder cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"The journal's owner cannot be written to {self._folder} ({error.strerror}). Use another folder."
            raise JournalError(msg) from error
        locked = False
        try:
            locked = _lock(descriptor, exclusive=True)
        finally:
            if not locked:
                os.close(descriptor)
        if not locked:
            msg = f"The journal's owner {self._file} is locked by somebody else. Use another folder."
            raise JournalError(msg)
        self._descriptor = descriptor
        if hasattr(os, "register_at_fork"):
            # A forked child shares the lock, and would keep it for as long as it lives.
            this = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _forget_in_child(this()))

    def leave(self) -> None:
        """Be dead from now on; what this owner has left may be taken over."""
        if self._descriptor >= 0:
            self._file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def forget(self) -> None:
        """Let go of the lock without giving it up for others that share it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def alive(self, name: str | None) -> bool:
        """
        Whether an owner is alive; one that was never named is not.

        Raises:
            JournalError: If that cannot be found out: a job is not taken from somebody who may live.
        """
        if name is None:
            return False
        if name == self.name:
            return True
        try:
            descriptor = os.open(_path(self._folder, name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            msg = f"The journal's owners in {self._folder} cannot be looked at ({error.strerror}). Mend that."
            raise JournalError(msg) from error
        try:
            # Shared, so that two who look at once do not take each other for the owner.
            return not _lock(descriptor, exclusive=False)
        finally:
            os.close(descriptor)

    def bury(self, name: str) -> None:
        """Remove what a dead owner has left."""
        _path(self._folder, name).unlink(missing_ok=True)


def _forget_in_child(owners: ProcessLocks | None) -> None:
    if owners is not None:
        owners.forget()


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"


def _lock(descriptor: int, *, exclusive: bool) -> bool:
    """
    Lock an open file unless somebody else's lock is in the way; the lock goes with the descriptor.

    Raises:
        JournalError: If the system or the file system has no locks.
    """
    if sys.platform == "win32":
        msg = "A journal on disk needs file locks of POSIX, which this system does not have. Use the journal in memory."
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
