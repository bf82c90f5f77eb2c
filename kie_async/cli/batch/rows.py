"""Read the rows of a table from a CSV file, a JSONL file or a folder of images."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeAlias

import attrs

from kie_async import Problem
from kie_async._display import shown
from kie_async.cli.options import parse_json

__all__ = [
    "MAX_COLUMNS",
    "MAX_LINE_BYTES",
    "OTHER_IMAGE_SUFFIXES",
    "TableRow",
    "TextLine",
    "describe_left_out",
    "read_csv",
    "read_folder",
    "read_jsonl",
    "read_lines",
]

#: The maximum length of a line: far more than any prompt needs, and small enough to be held in memory.
MAX_LINE_BYTES = 1_000_000
#: The maximum number of files of another type that are named.
_MOST_NAMES = 20
#: The maximum number of columns: the input of no model has a tenth of them.
MAX_COLUMNS = 1000

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = ",;\t"
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
#: The suffixes of images that the service does not take.
OTHER_IMAGE_SUFFIXES = frozenset(
    (*(".heic", ".heif", ".hif", ".avif", ".avifs", ".gif", ".bmp", ".tif", ".tiff", ".jxl", ".jp2", ".jfif", ".jpe"),
     *(".svg", ".ico", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw"))
)  # fmt: skip

#: Takes the column names of a CSV file. Returns their problems, and the name of each column (None: ignore the column).
HeaderCheck: TypeAlias = "Callable[[list[str]], tuple[list[Problem], list[str | None]]]"


@attrs.frozen
class TextLine:
    """
    One line of a file.

    Attributes:
        number: The line number, counted from 1.

        text: The line with its line break; bytes that are not UTF-8 are replaced.

        problem: The reason why the line is unusable, or None.
    """

    number: int
    text: str
    problem: Problem | None = None


@attrs.frozen
class TableRow:
    """
    One row of a table.

    Attributes:
        line: The line on which the row begins, counted from 1.

        cells: The cells by column name; strings only, unless the file format has types.

        problems: The reasons why the row could not be read.
    """

    line: int
    cells: Mapping[str, object] = attrs.field(factory=dict)
    problems: tuple[Problem, ...] = ()


def read_lines(file: BinaryIO, on_bytes: Callable[[bytes], object]) -> Iterator[TextLine]:
    """
    Read a file line by line; at most one line is held in memory. A bad line does not affect the next one.

    Args:
        file: The file, at its beginning.

        on_bytes: Receives every byte, in order.
    """
    number, within_line = 1, False
    while raw := file.readline(MAX_LINE_BYTES):
        on_bytes(raw)
        if number == 1 and not within_line:
            if raw.startswith(_UTF16_MARKS) or b"\0" in raw:
                yield TextLine(1, "", Problem("file", "a text in UTF-16", "a text in UTF-8: save it as UTF-8"))
                return
            raw = raw.removeprefix(codecs.BOM_UTF8)
        complete = raw.endswith(b"\n")
        # The rest of an overlong line belongs to a line that was already refused.
        if not within_line:
            too_long = not complete and len(raw) >= MAX_LINE_BYTES - len(codecs.BOM_UTF8)
            yield _overlong(number) if too_long else _decode(number, raw)
        number, within_line = number + complete, not complete


def _overlong(number: int) -> TextLine:
    limit = f"{MAX_LINE_BYTES} bytes"
    return TextLine(number, "\n", Problem("line", f"more than {limit}", f"at most {limit}"))


def _decode(number: int, raw: bytes) -> TextLine:
    try:
        return TextLine(number, raw.decode())
    except UnicodeDecodeError as error:
        got = f"byte 0x{raw[error.start]:02x} at place {error.start + 1}"
        problem = Problem("line", got, "a text in UTF-8 (a spreadsheet saves it as CSV UTF-8)")
        return TextLine(number, raw.decode(errors="replace"), problem)


def read_csv(lines: Iterator[TextLine], check_header: HeaderCheck) -> Iterator[TableRow]:
    """
    Read a CSV file whose first line names the columns; the delimiter is a comma, a semicolon or a tab.

    Args:
        lines: The lines of the file.

        check_header: Checks the column names. The problems that it finds are yielded as a row without cells.
    """
    first = next(lines, None)
    if first is None or first.problem is not None:
        problem = first.problem if first and first.problem else Problem("file", "nothing", "a line of column names")
        yield TableRow(1, problems=(problem,))
        return
    records = _csv_records(chain([first], lines), max(_DELIMITERS, key=first.text.count))
    _, names, unreadable = next(records)
    names = [name.strip() for name in names]
    while names and not names[-1]:  # spreadsheets leave empty columns behind
        names.pop()
    if len(names) > MAX_COLUMNS:
        unreadable = (*unreadable, _too_many_columns(len(names)))
    problems, columns = ([], []) if unreadable else check_header(names)
    if unreadable or problems:
        yield TableRow(1, problems=(*unreadable, *problems))
    if unreadable:
        return
    for line, cells, unreadable in records:
        if unreadable:
            yield TableRow(line, problems=unreadable)
        elif any(cells):  # spreadsheets leave empty rows behind
            yield _csv_row(line, columns, cells)


def _csv_records(lines: Iterator[TextLine], delimiter: str) -> Iterator[tuple[int, list[str], tuple[Problem, ...]]]:
    """Yield each record of a CSV file: the line on which it begins, its cells, and its problems."""
    problems: list[Problem] = []
    size = 0

    def texts() -> Iterator[str]:
        nonlocal size
        for line in lines:
            if line.problem is not None:
                problems.append(line.problem)
            size += len(line.text)
            # A quote that is never closed would make one row of the whole rest.
            yield line.text if size <= MAX_LINE_BYTES else '"\n'

    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(texts(), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = []
            problems.append(_csv_problem(str(error)))
        if size > MAX_LINE_BYTES and not problems:
            problems.append(Problem("row", f"more than {MAX_LINE_BYTES} bytes", 'a " at both ends of each cell'))
        yield line, cells, tuple(problems)
        problems.clear()
        size = 0


def _csv_problem(error: str) -> Problem:
    """Translate a message of the csv module, which is written for programmers."""
    if error.startswith("unexpected end"):
        return Problem("row", 'a " that is never closed', 'a " at both ends of a cell, and "" within')
    if error.startswith("new-line character"):
        return Problem("row", "a line that ends in CR alone", "lines that end in LF or CRLF")
    shown_error = error.replace("\t", "\\t")  # the delimiter
    return Problem("row", f"invalid CSV ({shown_error})", 'cells in which " is written ""')


def _csv_row(line: int, columns: list[str | None], cells: list[str]) -> TableRow:
    while len(cells) > len(columns) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(columns):
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        allowed = f"{len(columns)}, one for each column; quote a cell that has a comma or a line break"
        return TableRow(line, problems=(Problem("row", count, allowed),))
    return TableRow(line, {name: cell for name, cell in zip(columns, cells, strict=True) if name is not None})


def read_jsonl(lines: Iterator[TextLine]) -> Iterator[TableRow]:
    """
    Read a JSONL file: one object per line; null counts as a missing cell.

    Args:
        lines: The lines of the file; blank lines are skipped.
    """
    for line in lines:
        if line.problem is not None:
            yield TableRow(line.number, problems=(line.problem,))
        elif line.text.strip():
            yield _json_row(line)


def _json_row(line: TextLine) -> TableRow:
    try:
        value = parse_json(line.text)
    except ValueError as error:
        got = f"invalid JSON ({error})"
    else:
        if isinstance(value, dict) and len(value) <= MAX_COLUMNS:
            return TableRow(line.number, {name: cell for name, cell in value.items() if cell is not None})
        if isinstance(value, dict):
            return TableRow(line.number, problems=(_too_many_columns(len(value)),))
        got = f"JSON that is {'a list' if isinstance(value, list) else 'a single value'}"
    problem = Problem("row", got, 'one JSON object, such as {"image": "a.png", "prompt": "…"}')
    return TableRow(line.number, problems=(problem,))


def describe_left_out(names: list[str]) -> str:
    """Return a sentence on images of a folder that have a type which the service does not take."""
    shown_names = ", ".join(names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (
        f"{len(names)} of the folder's images are left out: {shown_names}{more}. The service takes JPEG, PNG and WebP"
        " only: convert them first if they are wanted."
    )


def _too_many_columns(count: int) -> Problem:
    return Problem("column", f"{count} columns", f"at most {MAX_COLUMNS}")


def read_folder(
    folder: Path, on_bytes: Callable[[bytes], object], left_out: list[str], *, column: str = "image"
) -> Iterator[TableRow]:
    """
    Yield a row for each image of a folder, sorted by name; the line is the image's position. Hidden files are skipped.

    Args:
        folder: The folder.

        on_bytes: Receives the name, the size and the modification time of each file.

        left_out: Receives the names of images of other types.

        column: The column of the images.
    """
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    images = [path for path in visible if path.suffix.lower() in _IMAGE_SUFFIXES]
    left_out += [path.name for path in visible if path.suffix.lower() in OTHER_IMAGE_SUFFIXES]
    for position, path in enumerate(images, 1):
        try:
            status = path.stat()
        except OSError as error:
            yield TableRow(position, problems=(Problem("image", shown(path.name), f"an image; {error.strerror}"),))
            continue
        on_bytes(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        yield TableRow(position, {column: path.name})
    if not images:
        allowed = f"files that end in {', '.join(_IMAGE_SUFFIXES)}"
        yield TableRow(1, problems=(Problem("folder", "no image", allowed),))
