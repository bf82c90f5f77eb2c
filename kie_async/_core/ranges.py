"""
How a broken download goes on: which version of a file its bytes are of, and whether an answer brings the rest of it.

The words are those of RFC 9110: a *strong validator* changes whenever a byte of the file does, so that two parts under
one validator fit together; ``If-Range`` asks for a part under that condition, and for the whole file otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

__all__ = ["Version", "brings_the_rest", "read_version", "version_of", "write_version"]

_ENTITY_TAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')
#: The one form in which dates are sent (RFC 9110, 5.6.7); two older ones are only read, by others.
_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", re.IGNORECASE)
_NOTE = re.compile(r"(?P<size>[0-9]{0,15})\n(?P<validator>[^\n]+)\n")


@attrs.frozen
class Version:
    """
    One version of a file at its host.

    Attributes:
        validator: Its strong validator, for ``If-Range``.

        size: How many bytes it has, or None if the host does not say.
    """

    validator: str
    size: int | None = None


def version_of(headers: Mapping[str, str]) -> Version | None:
    """
    The version that a complete answer brings, or None if its host does not name it reliably.

    A weak tag (``W/…``) does not count, and a date only if it is at least a second older than the answer: within one
    second a file can change twice (RFC 9110, 8.8.2.2).

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
    return Version(validator, int(length) if _LENGTH.fullmatch(length) else None)


def brings_the_rest(headers: Mapping[str, str], *, version: Version, have: int) -> int | None:
    """
    The size of the whole file, if an answer with status 206 brings exactly what is missing of it; else None.

    Args:
        headers: The answer's headers, by their usual names.

        version: What the bytes at hand are the beginning of.

        have: How many they are.

    >>> brings_the_rest({"Content-Range": "bytes 5-9/10"}, version=Version('"abc"', 10), have=5)
    10
    >>> brings_the_rest({"Content-Range": "bytes 0-9/10"}, version=Version('"abc"', 10), have=5)
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
        # An answer that names another version than the one asked for has not understood the question.
        not version.validator.startswith('"') or headers.get("ETag", version.validator) == version.validator,
    )
    return size if all(rules) else None


def write_version(version: Version) -> str:
    r"""
    A version as the text of a note beside a file.

    >>> write_version(Version('"abc"', 7))
    '7\n"abc"\n'
    """
    return f"{'' if version.size is None else version.size}\n{version.validator}\n"


def read_version(note: str) -> Version | None:
    r"""
    The version that a note names, or None if it is none, or not a whole one.

    >>> read_version('7\n"abc"\n')
    Version(validator='"abc"', size=7)
    >>> read_version('7\n"ab')
    """
    match = _NOTE.fullmatch(note)
    if match is None or not (_ENTITY_TAG.fullmatch(match["validator"]) or _DATE.fullmatch(match["validator"])):
        return None
    return Version(match["validator"], int(match["size"]) if match["size"] else None)


def _is_old_enough(modified: str, now: str) -> bool:
    earlier, later = _read_date(modified), _read_date(now)
    return earlier is not None and later is not None and earlier < later


def _read_date(text: str) -> tuple[int, ...] | None:
    """A date as numbers that sort as it does."""
    match = _DATE.fullmatch(text)
    if match is None or match[2] not in _MONTHS:
        return None
    day, month, year, *clock = match.groups()
    return int(year), _MONTHS.index(month), int(day), *map(int, clock)
