"""The lines of a file as text, each judged by itself: a bad one is named, and the next one is read all the same."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import BinaryIO

import attrs

from kie_async import Problem

__all__ = ["LONGEST", "Line", "read_lines"]

#: How long a line may be, in bytes: far more than any prompt, and little enough to be held.
LONGEST = 1_000_000

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@attrs.frozen
class Line:
    """
    One line.

    Attributes:
        number: Counted from 1.

        text: It, with its end; what is not UTF-8 is replaced.

        fault: What is wrong with it, or None.
    """

    number: int
    text: str
    fault: Problem | None = None


def read_lines(file: BinaryIO, note: Callable[[bytes], object]) -> Iterator[Line]:
    """
    Read a file line by line; never more than one of them is held.

    Args:
        file: The file, at its beginning.

        note: Takes every byte, in order.
    """
    number, within = 1, False
    while raw := file.readline(LONGEST):
        note(raw)
        if number == 1 and not within:
            if raw.startswith(_WIDE) or b"\0" in raw:
                yield Line(1, "", Problem("file", "a text in UTF-16", "a text in UTF-8: save it as one"))
                return
            raw = raw.removeprefix(codecs.BOM_UTF8)
        ends = raw.endswith(b"\n")
        # The rest of a line that was cut belongs to a line that was refused already.
        if not within:
            yield _decoded(number, raw, whole=ends or len(raw) < LONGEST - len(codecs.BOM_UTF8))
        number, within = number + ends, not ends


def _decoded(number: int, raw: bytes, *, whole: bool) -> Line:
    if not whole:
        return Line(number, "\n", Problem("line", f"more than {LONGEST} bytes", f"at most {LONGEST} bytes"))
    try:
        return Line(number, raw.decode())
    except UnicodeDecodeError as error:
        got = f"byte 0x{raw[error.start]:02x} at place {error.start + 1}"
        return Line(
            number,
            raw.decode(errors="replace"),
            Problem("line", got, "a text in UTF-8 (a spreadsheet saves it as CSV UTF-8)"),
        )
