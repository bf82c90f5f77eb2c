"""Local media files: their source, the check that the service would accept them, and their bytes."""

from __future__ import annotations

import inspect
import os
import stat
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Protocol, Self, TypeAlias, TypeGuard, cast, runtime_checkable

import attrs

from kie_async._display import shown
from kie_async._media import HEAD, Content, Media, identify, is_whole
from kie_async._urls import looks_like_url
from kie_async.errors import Problem
from kie_async.requests.base import invalid_request

__all__ = [
    "IMAGES",
    "MAX_BYTES",
    "LocalFile",
    "MediaInput",
    "MediaLimits",
    "MediaSource",
    "as_image",
    "as_media",
    "as_media_list",
    "as_optional_media",
    "as_optional_media_list",
    "limits_of_upload",
    "listed",
]

#: The documentation says "10.0MB" without defining the megabyte. The larger meaning is used: the service refuses too
#: large a file free of charge, but a file that is refused here could never be tried.
MAX_BYTES = 10 * 1024 * 1024

#: The largest file that a model documents: an open file is read to this size, before its field is known.
_LARGEST = 500 * 1024 * 1024
_BLOCK = 1024 * 1024
# Longer "paths" are usually encoded images.
_LONGEST_PATH = 200
#: The names of types in messages.
_TYPE_NAMES = {
    **{f"image/{name.lower()}": name for name in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "HEIC", "AVIF")},
    **{f"audio/{name.lower()}": name for name in ("WAV", "AAC", "FLAC")},
    "image/webp": "WebP",
    "video/mp4": "MP4",
    "video/quicktime": "MOV",
    "video/x-matroska": "MKV",
    "audio/mpeg": "MP3",
    "audio/mp4": "M4A",
    "audio/ogg": "Ogg",
    "audio/x-ms-wma": "WMA",
}
#: The types that the first bytes of a sound file have if its container can hold a video, too.
_SOUND_CONTAINERS = {
    "video/mp4": ("audio/mp4", ".m4a"),
    "video/x-ms-asf": ("audio/x-ms-wma", ".wma"),
    "video/webm": ("audio/webm", ".weba"),
}


def listed(words: Sequence[str]) -> str:
    """
    Join words for a message.

    >>> listed(["480p", "720p", "1080p"])
    '480p, 720p or 1080p'
    """
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


@attrs.frozen
class MediaLimits:
    """
    The media files that a field takes.

    Attributes:
        kinds: Their kinds: ``"image"``, ``"video"`` and ``"audio"``.

        mimes: Their media types; empty for all types of these kinds.

        max_bytes: The greatest size.
    """

    kinds: tuple[str, ...]
    mimes: tuple[str, ...] = ()
    max_bytes: int = _LARGEST

    @property
    def wanted(self) -> str:
        """
        A description of these files for messages.

        >>> MediaLimits(("image",), ("image/jpeg", "image/png"), 10 * 1024 * 1024).wanted
        'a whole JPEG or PNG image of at most 10 MB'
        """
        types = listed([_TYPE_NAMES.get(mime, mime) for mime in self.mimes]) + " " if self.mimes else ""
        kinds = listed([f"{kind} file" if kind == "audio" else kind for kind in self.kinds])
        return f"a whole {types}{kinds} of at most {self.max_bytes // (1024 * 1024)} MB"

    def accept(self, media: Media | None) -> Media | None:
        """Return the type under which a file is accepted, or None."""
        if media is None:
            return None
        if "audio" in self.kinds and "video" not in self.kinds and media.mime in _SOUND_CONTAINERS:
            media = Media("audio", *_SOUND_CONTAINERS[media.mime])
        return media if media.kind in self.kinds and (not self.mimes or media.mime in self.mimes) else None


#: The limits of most image fields, and of ``KieClient.upload()``.
IMAGES = MediaLimits(("image",), ("image/jpeg", "image/png", "image/webp"), MAX_BYTES)
#: For a file whose field has accepted it before.
_ANY_FILE = MediaLimits(("image", "video", "audio"))
_ANY_SOUND = MediaLimits(("audio",))


def limits_of_upload(url: str) -> MediaLimits:
    """
    Return the limits for a file whose field has accepted it before.

    Args:
        url: The URL of its last upload; its name tells a sound from a video in the same container.

    >>> limits_of_upload("https://files.example/1-abc.m4a").kinds
    ('audio',)
    """
    is_sound = url.endswith(tuple(suffix for _, suffix in _SOUND_CONTAINERS.values()))
    return _ANY_SOUND if is_sound else _ANY_FILE


@runtime_checkable
class BinaryReader(Protocol):
    """An open binary file, whose ``read`` returns at most *size* bytes."""

    def read(self, size: int, /) -> bytes:
        """Read from the current position."""
        ...


@attrs.frozen
class Unusable:
    """
    A value that is not a usable file.

    Attributes:
        value: Its description for a message.

        why: The reason, as a phrase that may follow "this".
    """

    value: str
    why: str

    def problem(self, field: str, wanted: str = IMAGES.wanted) -> Problem:
        """
        Return the problem for a field.

        Args:
            field: The field's name.

            wanted: The description of the allowed files.
        """
        return Problem(field, self.value, f"{wanted}; this {self.why}")


@attrs.frozen
class LocalFile:
    """
    A file that is ready for its upload.

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
class MediaSource:
    """
    The source of a file's bytes: a file on disk, which is read when it is needed, or bytes in memory.

    Attributes:
        content: The path, the bytes, or the reason why it is unusable, which ``problems()`` reports.

        limits: The files that its field takes.
    """

    content: Path | bytes | Unusable = attrs.field(repr=_shown_content)
    limits: MediaLimits = attrs.field(default=IMAGES, repr=False)

    def limited(self, limits: MediaLimits) -> Self:
        """Return this source with the limits of a field."""
        return self if self.limits == limits else attrs.evolve(self, limits=limits)

    def problems(self, field: str = "image") -> list[Problem]:
        """
        Find the problem that prevents the upload of the file; a file on disk is read.

        Args:
            field: The name of its field.

        Returns:
            At most one problem.
        """
        content, most, outcome = self.content, self.limits.max_bytes, cast("object", None)
        if isinstance(content, Path) and most > MAX_BYTES and MAX_BYTES < self.size() <= most:
            outcome = _view_file(content, self._judge)
        else:
            outcome = self._open()
        return [outcome.problem(field, self.limits.wanted)] if isinstance(outcome, Unusable) else []

    def size(self) -> int:
        """Return the number of bytes; 0 for a file that cannot be read."""
        if isinstance(self.content, bytes):
            return len(self.content)
        try:
            return self.content.stat().st_size if isinstance(self.content, Path) else 0
        except (OSError, ValueError):  # ValueError: a NUL character in the name
            return 0

    def load(self) -> LocalFile:
        """
        Read the file; on disk this blocks, so call it in a worker thread.

        Raises:
            InvalidRequestError: If the file cannot be uploaded, for the reason that ``problems()`` gives. It is
                checked again, because a file may have changed since.
        """
        outcome = self._open()
        if isinstance(outcome, Unusable):
            raise invalid_request(type(self).__name__, [outcome.problem(self.limits.kinds[0], self.limits.wanted)])
        data, media = outcome
        import hashlib

        return LocalFile(data, media.mime, media.suffix, hashlib.sha256(data).hexdigest())

    def _open(self) -> tuple[bytes, Media] | Unusable:
        data = _read_file(self.content, self.limits.max_bytes) if isinstance(self.content, Path) else self.content
        if isinstance(data, Unusable):
            return data
        media = self._judge(data)
        return media if isinstance(media, Unusable) else (data, media)

    def _judge(self, data: Content) -> Media | Unusable:
        """Return the type of a file, or the reason why its field does not take it."""
        name, most = _shown_content(self.content), self.limits.max_bytes
        if not len(data):
            return Unusable(name, "is empty")
        if len(data) > most:
            return Unusable(name, f"has more than {most} bytes")
        found = identify(data[:HEAD])
        if (media := self.limits.accept(found)) is None:
            return Unusable(name, f"is {found.mime}" if found else "is none of these, whatever its name says")
        if not is_whole(data, media):
            return Unusable(name, f"is {media.mime} that is cut off or damaged")
        return media


#: The accepted forms of a media file: a URL or a path, bytes, an open binary file, or an ``MediaSource``.
MediaInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryReader | MediaSource"


def as_image(given: MediaInput) -> str | MediaSource:
    """
    Convert any form of an image.

    An open file is read immediately, from its current position and up to the allowed size, because the caller may
    close it next. Invalid values are not refused here; ``problems()`` reports them with all other problems.

    Args:
        given: See ``MediaInput``. A string is a URL if it looks like one, otherwise a path, which a client with
            ``local_files=False`` refuses.

    Returns:
        A URL unchanged, or the source of an image.
    """
    return _untyped_as_media(given, MAX_BYTES)


def as_media(given: MediaInput) -> str | MediaSource:
    """
    Convert any form of a media file, as ``as_image`` does for an image; its field sets the allowed size and types.

    Args:
        given: See ``MediaInput``.
    """
    return _untyped_as_media(given, _LARGEST)


def as_optional_media(given: MediaInput | None) -> str | MediaSource | None:
    """Convert any form of a media file, or None."""
    return None if given is None else _untyped_as_media(given, _LARGEST)


def as_media_list(given: Sequence[MediaInput]) -> tuple[str | MediaSource, ...]:
    """Convert a list of media files; a value that is not a list or a tuple is kept for the check of its field."""
    if not isinstance(given, (list, tuple)):
        return cast("tuple[str | MediaSource, ...]", given)
    return tuple(_untyped_as_media(item, _LARGEST) for item in given)


def as_optional_media_list(given: Sequence[MediaInput] | None) -> tuple[str | MediaSource, ...] | None:
    """Convert a list of media files, or None."""
    return None if given is None else as_media_list(given)


def _untyped_as_media(given: object, most: int) -> str | MediaSource:
    """Convert a value that may be of any type, since the caller may not check types."""
    if isinstance(given, MediaSource) or (isinstance(given, str) and looks_like_url(given)):
        return given
    if isinstance(given, str) or _is_path(given):
        return MediaSource(Path(os.fsdecode(given)) if given != "" else Unusable("''", "is an empty string"))
    if _is_buffer(given):
        return MediaSource(bytes(given))
    if isinstance(given, BinaryReader):
        return MediaSource(_read_open(f"an open file ({type(given).__name__})", given.read, most))
    return MediaSource(Unusable(shown(given), "is neither a URL nor a path, bytes or an open binary file"))


def _is_path(given: object) -> TypeGuard[os.PathLike[str]]:
    return isinstance(given, os.PathLike)


def _is_buffer(given: object) -> TypeGuard[bytes | bytearray | memoryview]:
    return isinstance(given, (bytes, bytearray, memoryview))


def _read_open(name: str, read: Callable[[int], object], most: int) -> bytes | Unusable:
    """Read an open file to its end, or to just beyond the allowed size."""
    if inspect.iscoroutinefunction(read):
        return Unusable(name, "is read with await: pass the bytes that its read() returns")
    data = bytearray()  # a list of parts of one byte each would take 80 times as much
    try:
        # An unbuffered file may return fewer bytes than requested before its end.
        while (missing := most + 1 - len(data)) > 0 and (part := read(missing)):
            if not isinstance(part, bytes):
                return Unusable(name, 'does not return bytes: open it in binary mode ("rb")')
            data += part[:missing]
    except (OSError, ValueError) as error:  # ValueError: it is closed, or its text cannot be decoded
        return Unusable(name, f"cannot be read: {error}")
    return bytes(data) or Unusable(name, "has nothing left to read: is it at its end already?")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe without a writer would never open."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _FileView:
    """The content of a file on disk that is too large to be read for a check."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, piece: slice, /) -> bytes:
        start, stop, _ = piece.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(stop - start, 0))

    def find(self, what: bytes, start: int, /) -> int:
        """Return the position of *what* from *start* on, or -1."""
        while start < self._size:
            found = self[start : start + _BLOCK].find(what)
            if found >= 0:
                return start + found
            start += _BLOCK - len(what) + 1  # it may begin in one block and end in the next
        return -1


def _view_file(path: Path, judge: Callable[[Content], Media | Unusable]) -> Media | Unusable:
    """Judge a file that is not read as a whole."""
    name = _shown_content(path)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            return judge(_FileView(file))
    except OSError as error:
        return Unusable(name, f"cannot be read: {error.strerror}")


def _read_file(path: Path, most: int) -> bytes | Unusable:
    """Read a file, or just enough of it to know that it is too large."""
    name = _shown_content(path)
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return Unusable(name, "is not a regular file")
            return file.read(most + 1)
    except FileNotFoundError:
        return Unusable(name, "does not exist")
    except IsADirectoryError:
        return Unusable(name, "is a directory")
    except OSError as error:
        return Unusable(name, f"cannot be read: {error.strerror}")
    except ValueError as error:  # a NUL character in the name
        return Unusable(name, f"cannot be read: {error}")
