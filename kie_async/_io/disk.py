"""A file that is whole under its name, or not there at all."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from kie_async._io.transport import describe
from kie_async.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PartFile"]

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
        self._descriptor = -1
        self._buffer = bytearray()

    async def create(self) -> None:
        """Make the file, and the folder that it lies in."""
        self._descriptor = await _in_thread(partial(_create, self._path))

    async def write(self, data: bytes) -> None:
        """Add *data* to the file, now or soon."""
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            await self._flush()

    async def close(self) -> None:
        """Bring everything to the disk, so that the file outlives a power cut."""
        await self._flush()
        await _in_thread(partial(os.fsync, self._descriptor))
        await self._release()

    async def become(self, name: Path) -> None:
        """Give the closed file its real name, in place of what had it before."""
        await _in_thread(partial(_rename, self._path, name))

    async def discard(self) -> None:
        """Remove the file."""
        with anyio.CancelScope(shield=True):
            await self._release()
            await _in_thread(partial(self._path.unlink, missing_ok=True))

    async def _flush(self) -> None:
        data = bytes(self._buffer)
        self._buffer.clear()
        await _in_thread(partial(_write, self._descriptor, data))

    async def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with anyio.CancelScope(shield=True):
                await _in_thread(partial(os.close, descriptor))


async def _in_thread(action: Callable[[], _T]) -> _T:
    try:
        return await anyio.to_thread.run_sync(action)
    except OSError as error:
        msg = f"The result could not be written ({describe(error)}). The task stays done: mend that and save again."
        raise DownloadError(msg) from error


def _create(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A link that somebody has laid there is not followed, and Windows has no such flag.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o666)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _rename(path: Path, name: Path) -> None:
    path.replace(name)
    if not hasattr(os, "O_DIRECTORY"):
        return
    folder = os.open(name.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
