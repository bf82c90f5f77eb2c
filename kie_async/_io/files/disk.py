"""
A file that is whole under its name, or not there at all.

Until it is whole it has another name in the same folder, which follows from what it will be: so a process that takes
over from a killed one finds what is there already. Beside a large part lies a note of the version it is the beginning
of; without that note a part is worth nothing.

A part survives the process that wrote it, and perhaps a power cut. So it is flushed at every ``STEP`` bytes before the
next one is written, and what is taken up ends at the last such mark: everything before it had reached the disk.

The state is kept by the functions that run in threads, under a lock: a caller who is cancelled while a thread works
drops the thread's answer, and must not drop the open file with it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from kie_async._core.ranges import Version, read_version, write_version
from kie_async._io.files.system import FLAGS, View, open_alone, sync_folder
from kie_async._io.http.transport import describe
from kie_async._media import HEAD, Media, is_whole
from kie_async.errors import DownloadError
from kie_async.records import SavedFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["STEP", "PartFile", "is_folder"]

_T = TypeVar("_T")

#: So many bytes are gathered before a thread writes them.
_BUFFER = 1024 * 1024
#: A part that is taken up from another process ends at a multiple of so many bytes.
STEP = 4 * 1024 * 1024
_LONGEST_NOTE = 1024


class PartFile:
    """
    A file that is being written, in the folder in which it will get its real name.

    Args:
        folder: The folder.

        name: What this very part is called, in every process that makes it.

        spare: A new name, for when another one is at work on it.

    Raises:
        DownloadError: From each method, if the disk does not do what is asked.
    """

    def __init__(self, folder: Path, name: str, *, spare: str) -> None:
        self._path = folder / f".{name}.part"
        self._spare = folder / f".{spare}.part"
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._descriptor = -1
        self._discarded = False
        self._written = 0
        self._noted = False
        self._found = False
        self._digest = hashlib.sha256()
        #: What the bytes are the beginning of; None if they cannot be gone on with.
        self.version: Version | None = None
        #: How many bytes there are.
        self.size = 0
        #: The first of them.
        self.head = b""

    async def open(self) -> None:
        """Make the file and its folder, or take up what another process has left."""
        await _in_thread(self._open)
        self.size = self._written

    async def begin(self, version: Version | None) -> None:
        """
        Begin from nothing.

        Args:
            version: What the bytes to come will be of, if they can be gone on with.
        """
        self._buffer.clear()
        self.size, self.head, self.version = 0, b"", version
        # Of a smaller file nothing would be taken up.
        noted = version is not None and self._path != self._spare and (version.size or STEP + 1) > STEP
        if noted or self._noted or self._written or self._found:
            await _in_thread(partial(self._begin, version if noted else None))

    async def write(self, data: bytes) -> None:
        """Add *data* to the file, now or soon."""
        if len(self.head) < HEAD:
            self.head = (self.head + data)[:HEAD]
        self.size += len(data)
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await _in_thread(partial(self._write, self._gathered()))

    async def is_whole(self, media: Media) -> bool:
        """Whether the file ends where, as a file of its kind, it should."""
        return await _in_thread(partial(self._is_whole, self._gathered(), media))

    async def become(self, name: Path) -> SavedFile:
        """Bring everything to the disk, and give the file its real name, in place of what had it before."""
        return await _in_thread(partial(self._become, self._gathered(), name))

    async def discard(self) -> None:
        """Remove the file, even if a thread is about to make it."""
        with anyio.CancelScope(shield=True):
            await _in_thread(self._discard)

    def _gathered(self) -> bytes:
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
            self._descriptor = open_alone(self._path)
            if self._descriptor >= 0:
                self._take_up()
            else:
                self._path = self._spare
                self._descriptor = os.open(self._path, FLAGS | os.O_EXCL, 0o666)

    def _take_up(self) -> None:
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
            self._noted = bool(kept)

    def _read_note(self) -> Version | None:
        with suppress(OSError, ValueError):  # ValueError: it is not text
            descriptor = os.open(self._note, (FLAGS & ~os.O_CREAT) | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(descriptor, "rb") as note:
                return read_version(note.read(_LONGEST_NOTE).decode("ascii"))
        return None

    def _begin(self, version: Version | None) -> None:
        with self._lock:
            if self._descriptor < 0:
                return
            if self._written or self._found:
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                # Else a power cut could leave the old bytes beside the new note.
                os.fsync(self._descriptor)
            self._written, self._digest = 0, hashlib.sha256()
            self._note.unlink(missing_ok=True)
            self._noted = version is not None
            if version is not None:
                descriptor = os.open(self._note, FLAGS | os.O_EXCL, 0o666)
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
                if self._noted and self._written % STEP == 0:
                    os.fsync(self._descriptor)

    def _is_whole(self, data: bytes, media: Media) -> bool:
        self._write(data)
        with self._lock:
            return is_whole(View(self._descriptor, self._written), media)

    def _become(self, data: bytes, name: Path) -> SavedFile:
        self._write(data)
        with self._lock:
            os.fsync(self._descriptor)
            # First, so that there is no note without its part.
            self._note.unlink(missing_ok=True)
            self._path.replace(name)
            self._close()  # only now: with the file goes the lock, and the next one may have the old name
            sync_folder(name.parent)
            return SavedFile(path=name, size=self._written, sha256=self._digest.hexdigest())

    def _discard(self) -> None:
        self._discarded = True
        with self._lock:
            if self._descriptor >= 0:  # else there is none, or it is another one's by now
                try:
                    self._note.unlink(missing_ok=True)
                    self._path.unlink(missing_ok=True)
                finally:
                    self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


async def is_folder(path: Path) -> bool:
    """
    Whether *path* is a folder.

    Raises:
        DownloadError: If it cannot be one, or anything else.
    """
    return await _in_thread(path.is_dir)


async def _in_thread(action: Callable[[], _T]) -> _T:
    try:
        return await anyio.to_thread.run_sync(action)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL character
        said = describe(error) if isinstance(error, OSError) else str(error)
        msg = f"The result could not be written ({said}). The task stays done: mend that and save again."
        raise DownloadError(msg) from error
