"""
Resumed downloads: the version of a file that partial bytes belong to, and the check that an answer has the rest of it.

The terms are those of RFC 9110. A *strong validator* changes whenever a byte of the file changes, so two parts with the
same validator fit together. ``If-Range`` requests a part under that condition, and the whole file otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

__all__ = ["Version", "read_version", "size_if_rest", "version_of", "write_version"]

_ENTITY_TAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')
#: The form in which dates are sent (RFC 9110, 5.6.7). Two older forms are obsolete and not read here.
_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", re.IGNORECASE)
#: Headers that name a version beside its validator. Hosts have sent other bytes under the same tag.
_OTHER_NAMES = ("Last-Modified", "Repr-Digest", "Digest", "X-Amz-Version-Id", "X-Goog-Generation", "X-Goog-Hash")
_MEDIA = ("audio", "image", "text", "video")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?")
#: The validator is last, so that a truncated note has none.
_NOTE = re.compile(r"(?P<size>[0-9]{0,15})\n(?P<headers>(?:[A-Za-z-]+: [\x20-\x7e]+\n)*)(?P<validator>[^\n]+)\n")


@attrs.frozen
class Version:
    """
    One version of a file at its host.

    Attributes:
        validator: Its strong validator, for ``If-Range``.

        size: Its number of bytes, or None if the host does not report it.

        headers: The other headers of its answer that name it.
    """

    validator: str
    size: int | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)


def version_of(headers: Mapping[str, str]) -> Version | None:
    """
    Return the version of the file in a complete answer, or None if its host does not identify it reliably.

    A weak tag (``W/…``) does not count. A date counts only if it is at least a second older than the answer, because a
    file can change twice within one second (RFC 9110, 8.8.2.2).

    Args:
        headers: The answer's headers, by their usual names.

    >>> version_of({"ETag": '"abc"', "Content-Length": "7"})
    Version(validator='"abc"', size=7)
    >>> version_of({"ETag": 'W/"abc"'})
    """
    validator = headers.get("ETag", "")
    if _ENTITY_TAG.fullmatch(validator) is None:
        validator = headers.get("Last-Modified", "")
        if not _is_old_enough(validator, headers.get("Date", "")):
            return None
    length = headers.get("Content-Length", "")
    known = {name: headers[name] for name in (*_OTHER_NAMES, "Content-Type") if _VALUE.fullmatch(headers.get(name, ""))}
    return Version(validator, int(length) if _LENGTH.fullmatch(length) else None, known)


def _kind(content_type: str) -> str:
    return content_type.partition("/")[0].strip().lower()


def size_if_rest(headers: Mapping[str, str], *, version: Version, have: int) -> int | None:
    """
    Return the size of the whole file if an answer with status 206 has exactly the missing bytes; else None.

    Args:
        headers: The answer's headers, by their usual names.

        version: The version of the file whose first bytes are on disk.

        have: The number of bytes on disk.

    >>> size_if_rest({"Content-Range": "bytes 5-9/10"}, version=Version('"abc"', 10), have=5)
    10
    >>> size_if_rest({"Content-Range": "bytes 0-9/10"}, version=Version('"abc"', 10), have=5)
    """
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        return None
    first, last, size = (int(number) for number in match.groups())
    rules = (
        first == have,
        last == size - 1,
        version.size in (None, size),
        headers.get("Content-Length", str(size - have)) == str(size - have),
        # An answer with another version than the requested one ignored the request's condition.
        not version.validator.startswith('"') or headers.get("ETag", version.validator) == version.validator,
        all(headers.get(name, known) == known for name, known in version.headers.items() if name in _OTHER_NAMES),
        (kind := _kind(headers.get("Content-Type", ""))) not in _MEDIA
        or _kind(version.headers.get("Content-Type", kind)) in (kind, "application"),
    )
    return size if all(rules) else None


def write_version(version: Version) -> str:
    r"""
    Write a version as the text of a note beside a file.

    >>> write_version(Version('"abc"', 7))
    '7\n"abc"\n'
    """
    headers = "".join(f"{name}: {value}\n" for name, value in version.headers.items())
    return f"{'' if version.size is None else version.size}\n{headers}{version.validator}\n"


def read_version(note: str) -> Version | None:
    r"""
    Read the version from a note, or return None if the note is incomplete or something else.

    >>> read_version('7\n"abc"\n')
    Version(validator='"abc"', size=7)
    >>> read_version('7\n"ab')
    """
    match = _NOTE.fullmatch(note)
    if match is None or not (_ENTITY_TAG.fullmatch(match["validator"]) or _DATE.fullmatch(match["validator"])):
        return None
    headers = dict(line.split(": ", 1) for line in match["headers"].splitlines())
    return Version(match["validator"], int(match["size"]) if match["size"] else None, headers)


def _is_old_enough(modified: str, now: str) -> bool:
    earlier, later = _read_date(modified), _read_date(now)
    return earlier is not None and later is not None and earlier < later


def _read_date(text: str) -> tuple[int, ...] | None:
    """Return a date as numbers in sorting order, or None."""
    match = _DATE.fullmatch(text)
    if match is None or match[2] not in _MONTHS:
        return None
    day, month, year, *clock = match.groups()
    return int(year), _MONTHS.index(month), int(day), *map(int, clock)
