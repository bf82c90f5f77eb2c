"""The output folder of a run: its file names, its lock, and atomic writes."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, cast

from kie_async import ConfigurationError

__all__ = ["INPUTS", "JOURNAL", "MANIFEST", "PAGE", "RESULT_SUFFIX", "atomic_write", "has_earlier_run", "lock_folder"]

#: The names in the folder: the journal, the outcome of each row, the page, and the folder of the images that were sent.
JOURNAL, MANIFEST, PAGE, INPUTS = "journal.db", "manifest.jsonl", "index.html", "inputs"
#: The suffix of the results.
RESULT_SUFFIX = ".mp4"

_FILE_MODE = 0o644
_log = logging.getLogger("kie_async")
#: The errors of a file system that lacks an operation: network drives, shared folders of virtual machines, FUSE.
_LACKING = (
    *(errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOLCK),
    *(errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM),
)


def has_earlier_run(folder: Path) -> bool:
    """
    Return True if an earlier run has used a folder; blocks: call it in a worker thread.

    Args:
        folder: The folder, which need not exist.

    Raises:
        ConfigurationError: If it is not a folder, or has foreign files that the run might overwrite.

        OSError: If it cannot be read.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"--out {folder} is a file. Nothing was sent: name a folder, which need not exist yet."
        raise ConfigurationError(msg)
    if any((folder / name).exists() for name in (MANIFEST, JOURNAL)):
        return True
    for foreign in chain(folder.glob(PAGE), folder.glob(f"*{RESULT_SUFFIX}")):
        msg = (
            f"{foreign} exists, and batch has not made it: it might be overwritten. Nothing was sent: name a new folder"
            " with --out."
        )
        raise ConfigurationError(msg)
    return False


def lock_folder(folder: Path) -> int:
    """
    Lock a folder against other processes, and remove the temporary files of a killed one.

    Args:
        folder: The folder.

    Returns:
        The file descriptor of the lock. The lock ends when it is closed, or with the process.

    Raises:
        ConfigurationError: If another process holds the lock.
    """
    import fcntl  # exists on POSIX only: elsewhere the other commands still work

    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        msg = f"Another kie-async batch is running in {folder}. Nothing was sent: wait for it, or use another --out."
        raise ConfigurationError(msg) from None
    except OSError as error:
        if error.errno not in _LACKING:
            os.close(lock)
            raise
        _log.warning("%s cannot be locked (%s): run one batch at a time there.", folder, error.strerror)
        return lock  # the temporary files may be another process's
    for pattern in (f".{MANIFEST}.*", f".{PAGE}.*", f"{INPUTS}/.*.*.*"):
        for temporary in folder.glob(pattern):
            with suppress(OSError):
                temporary.unlink()
    return lock


@contextmanager
def atomic_write(path: Path) -> Generator[BinaryIO]:
    """
    Open a temporary file that replaces *path*, flushed to disk, when the context ends; an error removes it.

    Args:
        path: The file, which need not exist.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield cast("BinaryIO", file)
            file.flush()
            with _skipping_what_is_lacking():
                os.fchmod(file.fileno(), _FILE_MODE)
            with _skipping_what_is_lacking():
                os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(file.name).unlink()
            raise
    with _skipping_what_is_lacking():
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _skipping_what_is_lacking() -> Generator[None]:
    """Skip what the file system cannot do, such as modes and flushed folders on a network drive."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKING:
            raise
