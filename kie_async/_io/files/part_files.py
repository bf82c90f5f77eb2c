"""
Files that are complete under their final names, or not there at all.

An incomplete file has another name in the same folder. That name follows from the final one, so that a process that
takes over from a killed one finds it. A note of the file's version at its host lies beside a large part; without the
note a part is not resumed.

A part may survive a crash of its process, and perhaps a power cut. Therefore it is flushed at every ``STEP`` bytes
before the next byte is written, and a resumed part ends at the last such mark: everything before it is on the disk.

The functions that run in threads keep the state, under a lock: if a caller is cancelled while a thread works, the
thread's result is dropped, but the open file must not be.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import attrs

from kie_async._core.range_responses import Version, read_version, write_version
from kie_async._io.http.transport import describe
from kie_async._io.journals.process_locks import NO_LOCKS
from kie_async._media import HEAD, Media, is_whole, with_real_suffix
from kie_async.errors import DownloadError
from kie_async.records import SavedFile

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["STEP", "FileView", "PartFile", "find_saved", "is_folder", "open_exclusively"]

_T = TypeVar("_T")
_log = logging.getLogger("kie_async")

#: The number of bytes to buffer before a thread writes them.
_BUFFER = 1024 * 1024
#: A part of another process is resumed at a multiple of this number of bytes.
STEP = 4 * 1024 * 1024
_LONGEST_NOTE = 4096

#: The errors of a file system that cannot flush a file or a folder: network drives, shared folders of virtual machines
#: and FUSE. A folder may also be writable and not readable.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP)
_CANNOT_FLUSH_FOLDER = (*_CANNOT_FLUSH, errno.EACCES, errno.EBADF, errno.EISDIR, errno.EPERM)
#: The errors of one that cannot rename an open file, because it belongs to another system there.
_CANNOT_RENAME_OPEN = (errno.EACCES, errno.EBUSY, errno.EPERM, errno.ETXTBSY)

#: The flags to open our files with. Symbolic links are not followed; Windows has other flags.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class PartFile:
    """
    A file that is being written, in the folder of its final name.

    Args:
        folder: The folder.

        name: The name of this part, which is the same in every process.

        spare: A new name, for when another process works on the part.

        cannot: What the file systems of the caller cannot do, as far as it was logged.

    Raises:
        DownloadError: From each method, if the disk fails.
    """

    def __init__(self, folder: Path, name: str, *, spare: str, cannot: set[str] | None = None) -> None:
        self._cannot: set[str] = set() if cannot is None else cannot
        self._path = folder / f".{name}.part"
        self._spare = folder / f".{spare}.part"
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._descriptor = -1
        self._discarded = False
        self._written = 0
        self._has_note = False
        self._found = False
        self._digest = hashlib.sha256()
        #: The version that the bytes are the beginning of; None if the part cannot be resumed.
        self.version: Version | None = None
        #: The number of bytes.
        self.size = 0
        #: The first bytes.
        self.head = b""

    async def open(self) -> None:
        """Create the file and its folder, or resume the part of another process."""
        await _in_thread(self._open)
        self.size = self._written

    async def restart(self, version: Version | None) -> None:
        """
        Drop all bytes.

        Args:
            version: The version of the bytes to come, or None if they cannot be resumed.
        """
        self._buffer.clear()
        self.size, self.head, self.version = 0, b"", version
        # A smaller file would not be resumed.
        resumable = version is not None and self._path != self._spare and (version.size or STEP + 1) > STEP
        if resumable or self._has_note or self._written or self._found:
            await _in_thread(partial(self._restart, version if resumable else None))

    async def write(self, data: bytes) -> None:
        """Append *data*, now or later."""
        if len(self.head) < HEAD:
            self.head = (self.head + data)[:HEAD]
        self.size += len(data)
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await _in_thread(partial(self._write, self._take_buffer()))

    async def is_whole_media(self, media: Media, *, joined: bool) -> bool:
        """Return True if the file ends where a file of its type must end; see ``is_whole``."""
        return await _in_thread(partial(self._is_whole_media, self._take_buffer(), media, joined=joined))

    async def finish(self, name: Path) -> SavedFile:
        """Flush everything to the disk and rename the file to its final name, which it may overwrite."""
        return await _in_thread(partial(self._finish, self._take_buffer(), name))

    async def discard(self) -> None:
        """Remove the file, even if a thread is about to create it."""
        with anyio.CancelScope(shield=True):
            await _in_thread(self._discard)

    def _take_buffer(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    # -- in threads -------------------------------------------------------------------------------------------------

    @property
    def _note(self) -> Path:
        return self._path.with_suffix(".version")

    def _open(self) -> None:
        with self._lock:
            if self._discarded:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = open_exclusively(self._path)
            if self._descriptor >= 0:
                self._resume()
            else:
                self._path = self._spare
                self._descriptor = os.open(self._path, _FLAGS | os.O_EXCL, 0o666)

    def _resume(self) -> None:
        size = os.fstat(self._descriptor).st_size
        self._found = size > 0
        if size:
            self.version = self._read_note()
            kept = 0 if self.version is None else (size - 1) // STEP * STEP
            os.ftruncate(self._descriptor, kept)
            while self._written < kept and (data := os.read(self._descriptor, _BUFFER)):
                self.head = self.head or data[:HEAD]
                self._digest.update(data)
                self._written += len(data)
            self._has_note = bool(kept)

    def _read_note(self) -> Version | None:
        with suppress(OSError, ValueError):  # ValueError: it is not text
            descriptor = os.open(self._note, (_FLAGS & ~os.O_CREAT) | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(descriptor, "rb") as note:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return read_version(note.read(_LONGEST_NOTE).decode("ascii"))
        return None

    def _remove_note(self) -> bool:
        """Remove the note; return False if a folder has its name: the part then has no note."""
        try:
            self._note.unlink(missing_ok=True)
        except OSError:
            if not self._note.is_dir():
                raise
            return False
        return True

    def _restart(self, version: Version | None) -> None:
        with self._lock:
            if self._descriptor < 0:
                return
            if self._written or self._found:
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                # Otherwise a power cut could leave the old bytes beside the new note.
                self._flush()
            self._written, self._digest = 0, hashlib.sha256()
            self._has_note = self._remove_note() and version is not None
            if version is not None and self._has_note:
                descriptor = os.open(self._note, _FLAGS | os.O_EXCL, 0o666)
                with os.fdopen(descriptor, "wb") as note:
                    note.write(write_version(version).encode("ascii"))

    def _write(self, data: bytes) -> None:
        with self._lock:
            view = memoryview(data)
            while view and self._descriptor >= 0:
                written = os.write(self._descriptor, view[: STEP - self._written % STEP])
                self._digest.update(view[:written])
                self._written += written
                view = view[written:]
                if self._has_note and self._written % STEP == 0:
                    self._flush()

    def _is_whole_media(self, data: bytes, media: Media, *, joined: bool) -> bool:
        self._write(data)
        with self._lock:
            return is_whole(FileView(self._descriptor, self._written), media, joined=joined)

    def _finish(self, data: bytes, name: Path) -> SavedFile:
        self._write(data)
        with self._lock:
            self._flush()
            # First, so that no note is left without its part.
            self._remove_note()
            self._rename(name)
            self._flush_folder(name.parent)
            return SavedFile(path=name, size=self._written, sha256=self._digest.hexdigest())

    def _rename(self, name: Path) -> None:
        try:
            self._path.replace(name)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME_OPEN or name.is_dir():
                raise
            self._close()
            try:
                self._path.replace(name)
            except OSError:
                self._path.unlink(missing_ok=True)
                raise
        else:
            self._close()  # only now: closing releases the lock, and the next process may use the old name

    def _flush(self) -> None:
        """Flush the file to the disk, if its file system can do that."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._skip("a file", error, _CANNOT_FLUSH)

    def _flush_folder(self, folder: Path) -> None:
        """Flush the names in a folder to the disk, if its file system can do that."""
        if not hasattr(os, "O_DIRECTORY"):
            return
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._skip("a folder", error, _CANNOT_FLUSH_FOLDER)

    def _skip(self, what: str, error: OSError, allowed: tuple[int, ...]) -> None:
        """Log once that the file system cannot flush something; other errors are raised."""
        if error.errno not in allowed:
            raise error
        if what not in self._cannot:
            self._cannot.add(what)
            _log.warning(
                "The file system of %s cannot flush %s (%s): files are complete, but a power cut may lose the latest.",
                self._path.parent,
                what,
                error.strerror,
            )

    def _discard(self) -> None:
        self._discarded = True
        with self._lock:
            if self._descriptor >= 0:  # otherwise there is no file, or it belongs to another process by now
                try:
                    self._remove_note()
                    self._path.unlink(missing_ok=True)
                finally:
                    self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


@attrs.frozen
class FileView:
    """
    The bytes of an open file, read on demand; after each read the file is positioned at its end.

    Args:
        descriptor: The file.

        size: The number of its bytes.
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
        """Return the position of *what* from *start* on, or -1."""
        for at in range(start, self._size, _BUFFER):
            if (found := self[at : at + _BUFFER + len(what) - 1].find(what)) >= 0:
                return at + found
        return -1


def open_exclusively(path: Path) -> int:
    """
    Open or create a file that no other process works on, and lock it for as long as it is open.

    Args:
        path: The file.

    Returns:
        A descriptor, or -1 if another process works on the file, if locks do not work, or if *path* is not a regular
        file.
    """
    if sys.platform == "win32":
        return -1
    descriptor = -1
    try:
        descriptor = os.open(path, _FLAGS | os.O_NONBLOCK, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours, there = os.fstat(descriptor), path.lstat()
    except OSError as error:  # locked, not a regular file, removed, or a file system without locks
        if descriptor >= 0:
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                path.unlink(missing_ok=True)  # no process could ever work on it
        return -1
    # The previous holder of the lock may have renamed the file to its final name meanwhile; that must not be changed.
    # Some file systems count no links at all.
    if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) and stat.S_ISREG(ours.st_mode) and ours.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    return -1


async def find_saved(path: Path, note: str) -> Path | None:
    """
    Return the path of a file that is there as it was saved, or None.

    The content decides and not the time of the file, since clocks differ and copies have times of their own.

    Args:
        path: The path that was asked for.

        note: What ``SavedFile.note`` has told of the file.
    """
    return await anyio.to_thread.run_sync(_find_saved, path, note)


def _find_saved(path: Path, note: str) -> Path | None:
    size, sha256, suffix = note.split(" ", 2)
    path = with_real_suffix(path, suffix)
    with suppress(OSError, ValueError):  # ValueError: a name with a NUL character
        found = path.stat()  # first: a pipe must not be opened
        if stat.S_ISREG(found.st_mode) and found.st_size == int(size):
            with path.open("rb") as file:
                return path if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else None
    return None


async def is_folder(path: Path) -> bool:
    """
    Return True if *path* is a folder.

    Raises:
        DownloadError: If *path* can be neither a folder nor a file.
    """
    return await _in_thread(path.is_dir)


async def _in_thread(action: Callable[[], _T]) -> _T:
    try:
        return await anyio.to_thread.run_sync(action)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL character
        reason = describe(error) if isinstance(error, OSError) else str(error)
        msg = f"The result could not be written ({reason}). The task stays done: fix this and save again."
        raise DownloadError(msg) from error
