"""Detection of media types by the bytes of a file, checks that a file is complete, and names by the type."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "HEAD",
    "KINDS",
    "SUFFIX",
    "Content",
    "Media",
    "identify",
    "is_mislabeled",
    "is_whole",
    "looks_like_text",
    "media_of_result",
    "numbered_paths",
    "with_real_suffix",
]

#: The number of bytes that ``identify`` needs from the beginning of a file.
HEAD = 512

#: Stands for the suffix of a file's real type at the end of a path.
SUFFIX = "{suffix}"

#: The greatest number of steps to find the end of a file: a file of empty pieces only would take forever.
_MOST_PIECES = 100_000
_BOX_HEADER = 8
_BLOCK = 1024 * 1024
#: The name of a box: printable characters, of which the first may be a copyright sign.
_BOX_NAME = re.compile(rb"[\x20-\x7e\xa9][\x20-\x7e]{3}")


class Content(Protocol):
    """The content of a whole file: bytes, or a view of a file on disk."""

    def __len__(self) -> int:
        """Return the number of bytes."""
        ...

    def __getitem__(self, piece: slice, /) -> bytes:
        """Return a slice of the bytes."""
        ...

    def find(self, what: bytes, start: int, /) -> int:
        """Return the position of *what* from *start* on, or -1."""
        ...


@attrs.frozen
class Media:
    """
    A type of media file.

    Attributes:
        kind: ``"image"``, ``"video"``, ``"audio"``, or ``"model"`` for a 3D model, ``"text"`` for a document.

        mime: The media type.

        suffix: The usual file name extension, with the dot.
    """

    kind: str
    mime: str
    suffix: str


# The first matching row decides; "." is any byte. ISO files name their brand after "ftyp"; an unknown brand counts as
# MP4, as in players. RIFF and EBML are containers, whose inner type decides. A transport stream has packets of 188
# bytes, and MPEG audio a sync word whose layer is 2 or 3.
# Source: the WHATWG MIME Sniffing standard, and the registries of brands (mp4ra.org) and of Matroska's DocType.
_TABLE = tuple(
    (re.compile(pattern, re.DOTALL), Media(kind, mime, suffix))
    for pattern, kind, mime, suffix in (
        (rb"\xff\xd8\xff", "image", "image/jpeg", ".jpg"),
        (rb"\x89PNG\r\n\x1a\n", "image", "image/png", ".png"),
        (rb"RIFF....WEBPVP8[ LX]", "image", "image/webp", ".webp"),
        (rb"GIF8[79]a", "image", "image/gif", ".gif"),
        (rb"BM....\0\0\0\0", "image", "image/bmp", ".bmp"),
        (rb"II\*\0|MM\0\*", "image", "image/tiff", ".tif"),
        (rb"\0\0\x01\0[\x01-\x40]\0", "image", "image/x-icon", ".ico"),
        (rb"v/1\x01\x02\0", "image", "image/x-exr", ".exr"),
        (rb"#\?(?:RADIANCE|RGBE)\n", "image", "image/vnd.radiance", ".hdr"),
        (rb"8BPS\0[\x01\x02]", "image", "image/vnd.adobe.photoshop", ".psd"),
        (rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", "image", "image/jxl", ".jxl"),
        (rb"....ftypavi[fs]", "image", "image/avif", ".avif"),
        (rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", "image", "image/heic", ".heic"),
        (rb"....ftypqt  |....(?:moov|mdat|wide)", "video", "video/quicktime", ".mov"),
        (rb"....ftyp(?:M4[ABP] |F4[AB] )", "audio", "audio/mp4", ".m4a"),
        (rb"....ftyp", "video", "video/mp4", ".mp4"),
        (rb"\x1a\x45\xdf\xa3.{0,48}webm", "video", "video/webm", ".webm"),
        (rb"\x1a\x45\xdf\xa3.{0,48}matroska", "video", "video/x-matroska", ".mkv"),
        (rb"RIFF....AVI ", "video", "video/x-msvideo", ".avi"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "video/x-ms-asf", ".wmv"),
        (rb"\0\0\x01\xba", "video", "video/mpeg", ".mpg"),
        (rb"FLV\x01", "video", "video/x-flv", ".flv"),
        (rb"G.{187}G.{187}G", "video", "video/mp2t", ".ts"),
        (rb"(?:RIFF|RF64|BW64)....WAVE", "audio", "audio/wav", ".wav"),
        (rb"FORM....AIF[FC]", "audio", "audio/aiff", ".aiff"),
        (rb"ID3[\x02-\x04]|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]", "audio", "audio/mpeg", ".mp3"),
        (rb"\xff[\xf0\xf1\xf8\xf9]", "audio", "audio/aac", ".aac"),
        (rb"fLaC", "audio", "audio/flac", ".flac"),
        (rb"OggS", "audio", "audio/ogg", ".ogg"),
        (rb"#!AMR", "audio", "audio/amr", ".amr"),
        (rb"caff\0\x01\0\0", "audio", "audio/x-caf", ".caf"),
        (rb"MThd\0\0\0\x06", "audio", "audio/midi", ".mid"),
        (rb"glTF[\x01\x02]\0\0\0", "model", "model/gltf-binary", ".glb"),
        (
            rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^<]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg[^<]*>\s*)?<svg[\s>]",
            "image",
            "image/svg+xml",
            ".svg",
        ),
        (rb"(?:\xef\xbb\xbf)?WEBVTT[\s]", "text", "text/vtt", ".vtt"),
        (
            rb"(?:\xef\xbb\xbf)?\s*\d+\s*\r?\n\d+:\d\d:\d\d[,.]\d{1,3} --> \d",
            "text",
            "application/x-subrip",
            ".srt",
        ),
    )
)

#: The containers that hold sound, pictures or both. Their first bytes do not tell, so the label decides.
_CONTAINERS = {
    **dict.fromkeys(("video/mp4", "video/quicktime", "audio/mp4"), (".mp4", ".m4a")),
    "video/webm": (".webm", ".weba"),
    "video/x-matroska": (".mkv", ".mka"),
    "audio/ogg": (".ogv", ".ogg"),
    "video/x-ms-asf": (".wmv", ".wma"),
}
#: The kinds of results by suffix: those of texts are not among them.
KINDS = {
    **{media.suffix: media.kind for _, media in _TABLE if media.kind != "text"},
    **{suffix: kind for pair in _CONTAINERS.values() for suffix, kind in zip(pair, ("video", "audio"), strict=True)},
}
#: The documents that models return, which no first byte identifies: their suffix in the result's URL, and their type.
_DOCUMENTS = {".json": "application/json", ".txt": "text/plain", ".csv": "text/csv", ".md": "text/markdown"}


def identify(head: bytes) -> Media | None:
    r"""
    Identify the type of a file by its first bytes; its name and the server's headers do not count.

    Args:
        head: At least ``HEAD`` bytes, or the whole file if it is shorter.

    Returns:
        The type, or None for an unknown one, such as HTML, JSON and plain text.

    Source: the WHATWG MIME Sniffing standard, and the registries of ISO brands and Matroska document types.

    >>> identify(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR").mime
    'image/png'
    >>> identify(b"<!doctype html><html>")
    """
    head = head[:HEAD]
    return next((media for pattern, media in _TABLE if pattern.match(head)), None)


def looks_like_text(head: bytes) -> bool:
    """
    Return True if *head* begins a page, a message or an empty file, rather than media.

    >>> looks_like_text(b"  <html>"), looks_like_text(b'{"code":404}'), looks_like_text(b"")
    (True, True, True)
    """
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"", b"<", b"{", b"[")


def is_mislabeled(content_type: str, media: Media | None) -> bool:
    """
    Return True if *content_type* names a kind of media that the file is not.

    >>> is_mislabeled("video/mp4", None), is_mislabeled("application/octet-stream", None)
    (True, False)
    """
    kind = content_type.split("/", 1)[0].strip().lower()
    if media is not None and media.mime in _CONTAINERS and kind in ("video", "audio"):
        return False
    return kind in ("video", "image", "audio") and (media is None or media.kind != kind)


def media_of_result(content_type: str, path: str, head: bytes) -> Media | None:
    r"""
    Return the type of a result, which its first bytes decide.

    Where they do not tell (a container of sound or pictures, a text), the label and the name decide.

    Args:
        content_type: The label of its host.

        path: The path of its URL.

        head: At least ``HEAD`` bytes, or the whole file if it is shorter.

    Returns:
        The type; None if it is unknown.

    Raises:
        ValueError: If it is not what the label claims, or is a page or a message instead of a file.

    >>> media_of_result("audio/mp4", "/1", b"\0\0\0\x18ftypisom").suffix
    '.m4a'
    >>> media_of_result("application/json", "/words.json", b'{"words": []}').suffix
    '.json'
    """
    media = identify(head)
    claim = content_type.split(";", 1)[0].strip().lower()
    kind = claim.split("/", 1)[0]
    if media is not None and (suffixes := _CONTAINERS.get(media.mime)) is not None and kind not in ("image", "text"):
        if kind not in ("video", "audio"):  # no label: the name decides
            named = (
                of for of, suffix in zip(("video", "audio"), suffixes, strict=True) if path.lower().endswith(suffix)
            )
            kind = next(named, media.kind)
        if kind == media.kind:
            return media
        return Media(kind, f"{kind}/{media.mime.split('/', 1)[1]}", suffixes[kind == "audio"])
    suffix = next((suffix for suffix in _DOCUMENTS if path.lower().endswith(suffix)), None)
    if media is None and suffix is not None and kind in ("text", "application") and claim != "text/html":
        text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
        if text and not text.startswith(b"<") and b"\0" not in text:
            return Media("text", _DOCUMENTS[suffix], suffix)
    if is_mislabeled(content_type, media) or (media is None and looks_like_text(head)):
        msg = f"claims to be {content_type}, but begins with {head[:16]!r}"
        raise ValueError(msg)
    return media


def is_whole(data: Content, media: Media, *, joined: bool = False) -> bool:
    r"""
    Return True if a file has an end according to its outermost structure; nothing is decoded.

    An interrupted copy or download has none. Such an image would be accepted for upload, and paid for.

    Args:
        data: The whole file.

        media: The file's type. JPEG, PNG, WebP and the MP4 family are checked; all other types count as whole.

        joined: True for a file of parts that were fetched one after the other: the boxes or chunks of MP4, WebP and GLB
            must fill it, and the checksums of a PNG must be right.

    Source: ITU-T T.81 annex B (JPEG), the PNG specification §5.3, RFC 9649 (WebP), ISO/IEC 14496-12 §4.2 (MP4).

    >>> is_whole(b"\x89PNG\r\n\x1a\n" + bytes(4) + b"IEND" + bytes(4), Media("image", "image/png", ".png"))
    True
    """
    checks = (_ENDS.get(media.mime), _STRUCTURES.get(media.mime) if joined else None)
    return all(check is None or check(data) for check in checks)


def _jpeg_has_end(data: Content) -> bool:
    """
    Skip the segments up to the image data, and return True if an end marker follows.

    An end marker before the image data belongs to a thumbnail inside a segment.
    """
    at = 2
    for _ in range(_MOST_PIECES):
        if at + 4 > len(data) or data[at : at + 1] != b"\xff":
            break
        marker = data[at + 1 : at + 2]
        if marker == b"\xda":  # the scan: the image data follows
            return data.find(b"\xff\xd9", at) >= 0
        # Any number of 0xff may precede a marker; other markers are followed by their length, which includes itself.
        at += 1 if marker == b"\xff" else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _png_has_end(data: Content) -> bool:
    at = 8
    for _ in range(_MOST_PIECES):
        if at + 12 > len(data):
            break
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at += 12 + length
    return False


def _png_is_sound(data: Content) -> bool:
    at = 8
    for _ in range(_MOST_PIECES):
        length = int.from_bytes(data[at : at + 4], "big")
        end, checksum = at + 8 + length, 0
        for start in range(at + 4, min(end, len(data)), _BLOCK):
            checksum = crc32(data[start : min(start + _BLOCK, end)], checksum)
        if data[end : end + 4] != checksum.to_bytes(4, "big"):
            break
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _webp_has_end(data: Content) -> bool:
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _iso_has_end(data: Content) -> bool:
    """
    Return True if the last box is complete: a truncated file is shorter than its last box announces.

    Bytes after the last box that do not form a box are ignored.
    """
    at = 0
    for _ in range(_MOST_PIECES):
        if at + _BOX_HEADER > len(data):
            break
        length = int.from_bytes(data[at : at + 4], "big")
        if length == 1:  # a large box: its length follows its name
            length = max(int.from_bytes(data[at + 8 : at + 16], "big"), 16)
        if length < _BOX_HEADER:  # 0: the box extends to the end of the file
            break
        at += length
    return at <= len(data)


def _iso_is_sound(data: Content) -> bool:
    """Return True if the file is boxes with proper names, and nothing else."""
    at = 0
    for _ in range(_MOST_PIECES):
        if at >= len(data):
            break
        length = int.from_bytes(data[at : at + 4], "big")
        if _BOX_NAME.fullmatch(data[at + 4 : at + 8]) is None:
            return False
        if length == 0:
            return True
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length < _BOX_HEADER:
            return False
        at += length
    return at == len(data)


def _chunks_are_sound(data: Content, *, length_at: int, padding: int) -> bool:
    """Return True if the file is a header of 12 bytes and chunks, and nothing else."""
    at = 12
    for _ in range(_MOST_PIECES):
        if at >= len(data):
            break
        length = int.from_bytes(data[at + length_at : at + length_at + 4], "little")
        at += 8 + length + -length % padding
    return at == len(data)


_ENDS: dict[str, Callable[[Content], bool]] = {
    "image/jpeg": _jpeg_has_end,
    "image/png": _png_has_end,
    "image/webp": _webp_has_end,
    **dict.fromkeys(("video/mp4", "video/quicktime", "audio/mp4", "image/avif", "image/heic"), _iso_has_end),
}
_STRUCTURES: dict[str, Callable[[Content], bool]] = {
    "image/png": _png_is_sound,
    "image/webp": partial(_chunks_are_sound, length_at=4, padding=2),
    "model/gltf-binary": partial(_chunks_are_sound, length_at=0, padding=4),
    **dict.fromkeys(("video/mp4", "video/quicktime", "audio/mp4", "image/avif", "image/heic"), _iso_is_sound),
}


def numbered_paths(path: Path, count: int, *, mark: str) -> tuple[Path, ...]:
    """
    Return the paths of *count* results: the second has *mark* and a ``2`` before its suffix, and so on.

    >>> [str(path) for path in numbered_paths(Path("a.b{suffix}"), 2, mark="-")]
    ['a.b{suffix}', 'a.b-2{suffix}']
    """
    suffix = SUFFIX if path.name.endswith(SUFFIX) else path.suffix
    stem = path.name.removesuffix(suffix)
    return (path, *(path.with_name(f"{stem}{mark}{number}{suffix}") for number in range(2, count + 1)))


def with_real_suffix(path: Path, suffix: str) -> Path:
    """
    Return a path with *suffix* in place of a ``SUFFIX`` at its end.

    >>> str(with_real_suffix(Path("out/cat{suffix}"), ".mp3")), str(with_real_suffix(Path("out/cat.mp4"), ".mp3"))
    ('out/cat.mp3', 'out/cat.mp4')
    """
    return path.with_name(path.name.removesuffix(SUFFIX) + suffix) if path.name.endswith(SUFFIX) else path
