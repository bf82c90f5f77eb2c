"""
A file that is whole under its name, or not there at all.

The state is kept by the functions that run in threads, under a lock: a caller who is cancelled while a thread works
drops the thread's answer, and must not drop the open file with it.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from kie_async._io.transport import describe
from kie_async.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PartFile", "is_folder"]

_T = TypeVar("_T")

#: So many bytes are gathered before a thread writes them.
_BUFFER = 1024 * 1024


class PartFile:
    """
    A file that is being written under a name of its own, in the folder in which it will get its real one.

    Args:
        path: The name that it is written under; nothing may be there.

    Raises:
        DownloadError: From each method, if the disk does not do what is asked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._descriptor = -1
        self._discarded = False

    async def create(self) -> None:
        """Make the file, and the folder that it lies in."""
        await _in_thread(self._create)

    async def write(self, data: bytes) -> None:
        """Add *data* to the file, now or soon."""
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await self._flush()

    async def close(self) -> None:
        """Bring everything to the disk, so that the file outlives a power cut."""
        await self._flush()
        await _in_thread(partial(self._close, sync=True))

    async def become(self, name: Path) -> None:
        """Give the closed file its real name, in place of what had it before."""
        await _in_thread(partial(_rename, self._path, name))

    async def discard(self) -> None:
        """Remove the file, even if a thread is about to make it."""
        with anyio.CancelScope(shield=True):
            await _in_thread(self._discard)

    async def _flush(self) -> None:
        data = bytes(self._buffer)
        self._buffer.clear()
        await _in_thread(partial(self._write, data))

    # -- in threads -------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        with self._lock:
            if self._discarded:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A link that somebody has laid there is not followed; Windows has other flags.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self._path, flags, 0o666)

    def _write(self, data: bytes) -> None:
        with self._lock:
            view = memoryview(data)
            while view and self._descriptor >= 0:
                view = view[os.write(self._descriptor, view) :]

    def _close(self, *, sync: bool) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                try:
                    if sync:
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _discard(self) -> None:
        self._discarded = True
        self._close(sync=False)
        self._path.unlink(missing_ok=True)


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


def _rename(path: Path, name: Path) -> None:
    path.replace(name)
    if not hasattr(os, "O_DIRECTORY"):
        return
    folder = os.open(name.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
