"""Images of the caller's own: where the bytes are, whether the service would take them, and the bytes themselves."""

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

#: The documentation says "10.0MB" without saying which megabyte. The larger reading is taken: what the service finds
#: too large it refuses free of charge, while a file that is refused here could never be tried.
MAX_BYTES = 10 * 1024 * 1024

_MIMES = ("image/jpeg", "image/png", "image/webp")
# Longer "paths" are usually an image that somebody has encoded as text.
_LONGEST_PATH = 200
_WANTED = "a whole JPEG, PNG or WebP image of at most 10 MB"


@runtime_checkable
class BinaryReader(Protocol):
    """An open file, as far as it is needed here: its ``read`` gives bytes, at most *size* of them."""

    def read(self, size: int, /) -> bytes:
        """Read on from where the file stands."""
        ...


@attrs.frozen
class Unusable:
    """
    What was given instead of an image.

    Attributes:
        value: What it is, as a message shows it.

        why: Why it cannot be used, as a phrase that may follow "this".
    """

    value: str
    why: str

    def problem(self, field: str) -> Problem:
        """The problem that it is, under the name that the caller gives to the image."""
        return Problem(field, self.value, f"{_WANTED}; this {self.why}")


@attrs.frozen
class LocalImage:
    """
    An image that is ready to be uploaded.

    Attributes:
        data: The whole file.

        mime: Its media type, told by its content.

        suffix: The usual end of a name for this type.

        sha256: The hash of ``data``, in hexadecimal.
    """

    data: bytes = attrs.field(repr=shown)
    mime: str
    suffix: str
    sha256: str

    @property
    def name(self) -> str:
        """
        A file name for the upload, made of the content.

        The service overwrites files of one name, and answers from a cache for a while: so another content needs another
        name. The caller's own name would say things that are nobody's business.
        """
        return self.sha256[:32] + self.suffix


def _shown_content(content: Path | bytes | Unusable) -> str:
    if isinstance(content, Unusable):
        return content.value
    return shown(content) if isinstance(content, bytes) else shown(str(content), longest=_LONGEST_PATH)


@attrs.frozen
class ImageSource:
    """
    Where the bytes of an image are: a file on disk, which is read when it is needed, or bytes at hand.

    Attributes:
        content: The path, the bytes, or what makes it unusable; a message about that waits for ``problems()``.
    """

    content: Path | bytes | Unusable = attrs.field(repr=_shown_content)

    def problems(self, field: str = "image") -> list[Problem]:
        """
        What keeps the image from being uploaded; a file is read.

        Args:
            field: What the caller calls the image.
        """
        outcome = self._open()
        return [outcome.problem(field)] if isinstance(outcome, Unusable) else []

    def load(self) -> LocalImage:
        """
        Read the image; for a file this blocks, so it is a matter for a worker thread.

        Raises:
            InvalidRequestError: If the image cannot be uploaded, for the reason that ``problems()`` gives. It is looked
                at anew: a file may have changed since.
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


#: What may be given as an image: a URL or a path, bytes, an open binary file, or an ``ImageSource``.
ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryReader | ImageSource"


def as_image(given: ImageInput) -> str | ImageSource:
    """
    Sort out what was given as an image.

    An open file is read here and now, from where it stands and no further than the allowed size, since whoever opened
    it may close it next. What cannot be an image is not refused here; ``problems()`` tells it, with all else.

    Args:
        given: See ``ImageInput``. A text is a URL if it looks like one, else a path.

    Returns:
        A URL as it came, or the source of an image.
    """
    return _sorted_out(given)


def _sorted_out(given: object) -> str | ImageSource:
    """Do the work of ``as_image``, for whom types are no promise."""
    if isinstance(given, ImageSource) or (isinstance(given, str) and looks_like_url(given)):
        return given
    if isinstance(given, str) or _is_path(given):
        return ImageSource(Path(os.fsdecode(given)) if given != "" else Unusable("''", "is an empty text"))
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
        return Unusable(name, "is read with await: give the bytes that its read() returns")
    parts: list[bytes] = []
    missing = MAX_BYTES + 1
    try:
        # An unbuffered file may give less than it is asked for before its end.
        while missing > 0 and (part := read(missing)):
            if not isinstance(part, bytes):
                return Unusable(name, 'gives no bytes: open it in binary mode ("rb")')
            parts.append(part)
            missing -= len(part)
    except (OSError, ValueError) as error:  # ValueError: it is closed, or its text cannot be decoded
        return Unusable(name, f"cannot be read: {error}")
    return b"".join(parts) or Unusable(name, "has nothing left to read: is it at its end already?")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe that nobody writes to would never open."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_file(path: Path) -> bytes | Unusable:
    """Read a file, or as much of it as shows that it is too large."""
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
