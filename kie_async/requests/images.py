"""Local images: their source, the check that the service would accept them, and their bytes."""

from __future__ import annotations

import inspect
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias, TypeGuard, runtime_checkable

import attrs

from kie_async._display import shown
from kie_async._media import Media, identify, is_whole
from kie_async._urls import looks_like_url
from kie_async.errors import Problem
from kie_async.requests.base import invalid_request

__all__ = ["MAX_BYTES", "ImageInput", "ImageSource", "LocalImage", "as_image"]

#: The documentation says "10.0MB" without defining the megabyte. The larger meaning is used: the service refuses too
#: large a file free of charge, but a file that is refused here could never be tried.
MAX_BYTES = 10 * 1024 * 1024

_MIMES = ("image/jpeg", "image/png", "image/webp")
# Longer "paths" are usually encoded images.
_LONGEST_PATH = 200
_WANTED = "a whole JPEG, PNG or WebP image of at most 10 MB"


@runtime_checkable
class BinaryReader(Protocol):
    """An open binary file, whose ``read`` returns at most *size* bytes."""

    def read(self, size: int, /) -> bytes:
        """Read from the current position."""
        ...


@attrs.frozen
class Unusable:
    """
    A value that is not a usable image.

    Attributes:
        value: Its description for a message.

        why: The reason, as a phrase that may follow "this".
    """

    value: str
    why: str

    def problem(self, field: str) -> Problem:
        """Return the problem for a field."""
        return Problem(field, self.value, f"{_WANTED}; this {self.why}")


@attrs.frozen
class LocalImage:
    """
    An image that is ready for its upload.

    Attributes:
        data: The whole file.

        mime: Its media type, detected from its content.

        suffix: The usual file name extension of this type.

        sha256: The hash of ``data``, in hexadecimal.
    """

    data: bytes = attrs.field(repr=shown)
    mime: str
    suffix: str
    sha256: str

    @property
    def name(self) -> str:
        """
        A file name that is derived from the content.

        It is sent instead of the caller's, which may be private.
        """
        return self.sha256[:32] + self.suffix


def _shown_content(content: Path | bytes | Unusable) -> str:
    if isinstance(content, Unusable):
        return content.value
    return shown(content) if isinstance(content, bytes) else shown(str(content), longest=_LONGEST_PATH)


@attrs.frozen
class ImageSource:
    """
    The source of an image's bytes: a file on disk, which is read when it is needed, or bytes in memory.

    Attributes:
        content: The path, the bytes, or the reason why it is unusable, which ``problems()`` reports.
    """

    content: Path | bytes | Unusable = attrs.field(repr=_shown_content)

    def problems(self, field: str = "image") -> list[Problem]:
        """
        Find the problem that prevents the upload of the image; a file is read.

        Args:
            field: The name of the image's field.

        Returns:
            At most one problem.
        """
        outcome = self._open()
        return [outcome.problem(field)] if isinstance(outcome, Unusable) else []

    def load(self) -> LocalImage:
        """
        Read the image; for a file this blocks, so call it in a worker thread.

        Raises:
            InvalidRequestError: If the image cannot be uploaded, for the reason that ``problems()`` gives. It is
                checked again, because a file may have changed since.
        """
        outcome = self._open()
        if isinstance(outcome, Unusable):
            raise invalid_request(type(self).__name__, [outcome.problem("image")])
        data, media = outcome
        import hashlib

        return LocalImage(data, media.mime, media.suffix, hashlib.sha256(data).hexdigest())

    def _open(self) -> tuple[bytes, Media] | Unusable:
        data = _read_file(self.content) if isinstance(self.content, Path) else self.content
        if isinstance(data, Unusable):
            return data
        name = _shown_content(self.content)
        if not data:
            return Unusable(name, "is empty")
        if len(data) > MAX_BYTES:
            return Unusable(name, f"has more than {MAX_BYTES} bytes")
        media = identify(data)
        if media is None or media.mime not in _MIMES:
            return Unusable(name, f"is {media.mime}" if media else "is none of these, whatever its name says")
        if not is_whole(data, media):
            return Unusable(name, f"is {media.mime} that is cut off or damaged")
        return data, media


#: The accepted forms of an image: a URL or a path, bytes, an open binary file, or an ``ImageSource``.
ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryReader | ImageSource"


def as_image(given: ImageInput) -> str | ImageSource:
    """
    Convert any form of an image.

    An open file is read immediately, from its current position and up to the allowed size, because the caller may
    close it next. Invalid values are not refused here; ``problems()`` reports them with all other problems.

    Args:
        given: See ``ImageInput``. A string is a URL if it looks like one, otherwise a path, which a client with
            ``local_files=False`` refuses.

    Returns:
        A URL unchanged, or the source of an image.
    """
    return _untyped_as_image(given)


def _untyped_as_image(given: object) -> str | ImageSource:
    """Convert a value that may be of any type, since the caller may not check types."""
    if isinstance(given, ImageSource) or (isinstance(given, str) and looks_like_url(given)):
        return given
    if isinstance(given, str) or _is_path(given):
        return ImageSource(Path(os.fsdecode(given)) if given != "" else Unusable("''", "is an empty string"))
    if _is_buffer(given):
        return ImageSource(bytes(given))
    if isinstance(given, BinaryReader):
        return ImageSource(_read_open(f"an open file ({type(given).__name__})", given.read))
    return ImageSource(Unusable(shown(given), "is neither a URL nor a path, bytes or an open binary file"))


def _is_path(given: object) -> TypeGuard[os.PathLike[str]]:
    return isinstance(given, os.PathLike)


def _is_buffer(given: object) -> TypeGuard[bytes | bytearray | memoryview]:
    return isinstance(given, (bytes, bytearray, memoryview))


def _read_open(name: str, read: Callable[[int], object]) -> bytes | Unusable:
    """Read an open file to its end, or to just beyond the allowed size."""
    if inspect.iscoroutinefunction(read):
        return Unusable(name, "is read with await: pass the bytes that its read() returns")
    data = bytearray()  # a list of parts of one byte each would take 80 times as much
    try:
        # An unbuffered file may return fewer bytes than requested before its end.
        while (missing := MAX_BYTES + 1 - len(data)) > 0 and (part := read(missing)):
            if not isinstance(part, bytes):
                return Unusable(name, 'does not return bytes: open it in binary mode ("rb")')
            data += part[:missing]
    except (OSError, ValueError) as error:  # ValueError: it is closed, or its text cannot be decoded
        return Unusable(name, f"cannot be read: {error}")
    return bytes(data) or Unusable(name, "has nothing left to read: is it at its end already?")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe without a writer would never open."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_file(path: Path) -> bytes | Unusable:
    """Read a file, or just enough of it to know that it is too large."""
    name = _shown_content(path)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return Unusable(name, "is not a regular file")
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Unusable(name, "does not exist")
    except IsADirectoryError:
        return Unusable(name, "is a directory")
    except OSError as error:
        return Unusable(name, f"cannot be read: {error.strerror}")
    except ValueError as error:  # a NUL character in the name
        return Unusable(name, f"cannot be read: {error}")
