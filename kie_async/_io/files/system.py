"""Single files, as the operating system has them: one that nobody else works on, a look into one, a folder on disk."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import attrs

from kie_async._io.journals.process_locks import NO_LOCKS

if sys.platform != "win32":
    import fcntl

__all__ = ["FLAGS", "View", "open_alone", "sync_folder"]

#: How a file of ours is opened. A link that somebody has laid there is not followed; Windows has other flags.
FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

_AT_ONCE = 1024 * 1024


@attrs.frozen
class View:
    """
    The bytes of an open file, read as they are asked for; afterwards the file stands at its end.

    Args:
        descriptor: The file.

        size: How many bytes it has.
    """

    _descriptor: int
    _size: int

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, piece: slice) -> bytes:
        first, last, _ = piece.indices(self._size)
        os.lseek(self._descriptor, first, os.SEEK_SET)
        data = os.read(self._descriptor, max(last - first, 0))
        os.lseek(self._descriptor, 0, os.SEEK_END)
        return data

    def find(self, what: bytes, start: int, /) -> int:
        """Where *what* is next, from *start* on; -1 if nowhere."""
        for at in range(start, self._size, _AT_ONCE):
            if (found := self[at : at + _AT_ONCE + len(what) - 1].find(what)) >= 0:
                return at + found
        return -1


def open_alone(path: Path) -> int:
    """
    Open or make a file that nobody else works on, and lock it for as long as it is open.

    Args:
        path: Where it is.

    Returns:
        A descriptor, or -1 if somebody works on it, if that cannot be told, or if something else than a file is there.
    """
    if sys.platform == "win32":
        return -1
    descriptor = -1
    try:
        descriptor = os.open(path, FLAGS | os.O_NONBLOCK, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours, there = os.fstat(descriptor), path.lstat()
    except OSError as error:  # locked; or no regular file; or removed; or a file system without locks
        if descriptor >= 0:
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                path.unlink(missing_ok=True)  # nobody can ever work on it
        return -1
    # Whoever held the lock before may have given the file its real name in the meantime: then it must not be touched.
    if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) and stat.S_ISREG(ours.st_mode) and ours.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    return -1


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
