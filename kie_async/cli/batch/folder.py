"""The output folder of a run: its file names, the identity of its table, its lock, and atomic writes."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import attrs
from attrs.validators import instance_of, matches_re

from kie_async import ConfigurationError
from kie_async._media import KINDS

__all__ = [
    "IDENTITY",
    "INPUTS",
    "MANIFEST",
    "PAGE",
    "FolderIdentity",
    "atomic_write",
    "has_earlier_run",
    "lock_folder",
]

#: The names in the folder: its identity, the outcome of each row, the page, and the folder of the images.
IDENTITY, MANIFEST, PAGE, INPUTS = "batch.id", "manifest.jsonl", "index.html", "inputs"
#: The journal that an earlier version has kept in the folder.
_OLD_JOURNAL = "journal.db"

_log = logging.getLogger("kie_async")
#: The errors of a file system that lacks an operation: network drives, shared folders of virtual machines, FUSE.
_LACKING = (
    *(errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOLCK),
    *(errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM),
)


@attrs.frozen(kw_only=True)
class FolderIdentity:
    """
    The identity of a folder, which a copy of it shares: it leads to the jobs of the folder, and tells nothing of them.

    Attributes:
        journal: The id of the journal that has the jobs; see ``KieClient.journal_id``.

        origin: The service.

        table: The id of the table, with which the keys of its jobs begin.
    """

    journal: str = attrs.field(validator=instance_of(str))
    origin: str = attrs.field(validator=instance_of(str))
    table: str = attrs.field(factory=lambda: os.urandom(8).hex(), validator=matches_re(r"[0-9a-f]{16}"))

    @classmethod
    def read(cls, folder: Path) -> FolderIdentity | None:
        """
        Return the identity of a folder; None if no run has sent anything there. It blocks: call it in a worker thread.

        Raises:
            ConfigurationError: If the folder has results, and its identity is missing or invalid.

            OSError: If it cannot be read.
        """
        path = folder / IDENTITY
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            if not _has_results(folder):
                return None
            what = f"{folder} has results, and no {IDENTITY}, which leads to their jobs"
        except (ValueError, TypeError, RecursionError):
            what = f"{path} is invalid: batch has not written it"
        msg = (
            f"{what}. Nothing was sent, since shots might be paid twice: restore the file, name another folder with"
            " --out, or pay for all shots again with --start-over."
        )
        raise ConfigurationError(msg)

    def write(self, folder: Path) -> None:
        """Write the identity into a folder; it blocks: call it in a worker thread."""
        with atomic_write(folder / IDENTITY) as file:
            file.write(f"{json.dumps(attrs.asdict(self))}\n".encode())


def _has_results(folder: Path) -> bool:
    manifest = folder / MANIFEST
    if manifest.is_file() and manifest.stat().st_size:
        return True
    is_used = (folder / PAGE).is_file() or (folder / _OLD_JOURNAL).exists()
    return is_used or any(_results(folder))


def _results(folder: Path, *, images: bool = False) -> Iterator[Path]:
    """Yield the visible files of the types that results have, images on demand."""
    for path in folder.glob("[!.]*"):
        kind = KINDS.get(path.suffix.lower())
        if kind is not None and (images or kind != "image"):
            yield path


def has_earlier_run(folder: Path, *, images: bool = False) -> bool:
    """
    Return True if an earlier run has used a folder; blocks: call it in a worker thread.

    Args:
        folder: The folder, which need not exist.

        images: True if results may be images; otherwise the images of the table may be in the folder.

    Raises:
        ConfigurationError: If it is not a folder, or has foreign files that the run might read or overwrite.

        OSError: If it cannot be read.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"--out {folder} is a file. Nothing was sent: name a folder, which need not exist yet."
        raise ConfigurationError(msg)
    for name in (IDENTITY, MANIFEST, PAGE, INPUTS):
        path, is_folder = folder / name, name == INPUTS
        if os.path.lexists(path) and not (path.is_dir() if is_folder else path.is_file()):
            # A pipe would be waited for, and a device may never end.
            kind = "a folder" if is_folder else "a regular file"
            msg = f"{path} is not {kind}, so batch has not made it. Nothing was sent: remove it, or use another --out."
            raise ConfigurationError(msg)
    if any((folder / name).exists() for name in (MANIFEST, IDENTITY, _OLD_JOURNAL)):
        return True
    for foreign in chain(folder.glob(PAGE), _results(folder, images=images)):
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
    for pattern in (f".{MANIFEST}.*", f".{PAGE}.*", f".{IDENTITY}.*", f"{INPUTS}/.*.*.*"):
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
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    # The umask decides who may read it.
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            with _skipping_what_is_lacking():
                os.fsync(descriptor)
        temporary.replace(path)  # closed by now: some file systems cannot rename an open file
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    with _skipping_what_is_lacking():
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _skipping_what_is_lacking() -> Generator[None]:
    """Skip what the file system cannot do, such as flushing a folder on a network drive."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKING:
            raise
