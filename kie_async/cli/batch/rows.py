"""The rows of a table, whatever it is written in: CSV, JSONL, or a folder of images."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import attrs

from kie_async import Problem
from kie_async._display import shown
from kie_async.cli.batch.lines import LONGEST, Line

__all__ = ["Header", "Row", "csv_rows", "images_in", "jsonl_rows"]

_DELIMITERS = ",;\t"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

#: Judges the names of a CSV's columns: what is wrong with them, and which of them count.
Header: TypeAlias = "Callable[[list[str]], tuple[list[Problem], list[str | None]]]"


@attrs.frozen
class Row:
    """
    One row.

    Attributes:
        line: The line on which it begins, counted from 1.

        cells: What it has, by column; texts only, where the table knows nothing else.

        faults: What kept it from being read.
    """

    line: int
    cells: Mapping[str, object] = attrs.field(factory=dict)
    faults: tuple[Problem, ...] = ()


def csv_rows(lines: Iterator[Line], judge: Header) -> Iterator[Row]:
    """
    The rows of a CSV file, whose first line names the columns; commas, semicolons or tabs stand between them.

    Args:
        lines: The file's lines.

        judge: Judges the names. What it finds comes as a row of its own, without cells.
    """
    first = next(lines, None)
    if first is None or first.fault is not None:
        yield Row(1, faults=(first.fault if first and first.fault else Problem("file", "nothing", "a line of names"),))
        return
    records = _records(chain([first], lines), max(_DELIMITERS, key=first.text.count))
    _, names, faults = next(records)
    problems, columns = ([], []) if faults else judge([name.strip() for name in names])
    if faults or problems:
        yield Row(1, faults=(*faults, *problems))
    if faults:
        return
    for begins, cells, faults in records:
        if faults:
            yield Row(begins, faults=faults)
        elif any(cells):  # spreadsheets leave empty rows behind
            yield _record(begins, columns, cells)


def _records(lines: Iterator[Line], delimiter: str) -> Iterator[tuple[int, list[str], tuple[Problem, ...]]]:
    """The records of a CSV file: the line on which each begins, its cells, and what kept it from being read."""
    faults: list[Problem] = []

    def texts() -> Iterator[str]:
        for line in lines:
            if line.fault is not None:
                faults.append(line.fault)
            yield line.text

    csv.field_size_limit(LONGEST)
    reader = csv.reader(texts(), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = []
            faults.append(_no_csv(str(error)))
        yield begins, cells, tuple(faults)
        faults.clear()


def _no_csv(error: str) -> Problem:
    """What keeps a row from being one, in words of ours where the parser's are for programmers."""
    if error.startswith("unexpected end"):
        return Problem("row", 'a " that is never closed', 'a " at both ends of a cell, and "" within')
    if error.startswith("new-line character"):
        return Problem("row", "a line that ends in CR alone", "lines that end in LF or CRLF")
    return Problem("row", f"what is no CSV ({error})", 'cells in which " is written ""')


def _record(line: int, columns: list[str | None], cells: list[str]) -> Row:
    if len(cells) != len(columns):
        allowed = f"{len(columns)}, one for each column; a cell with a comma or a line break stands in quotes"
        return Row(line, faults=(Problem("row", "1 cell" if len(cells) == 1 else f"{len(cells)} cells", allowed),))
    return Row(line, {name: cell for name, cell in zip(columns, cells, strict=True) if name is not None})


def jsonl_rows(lines: Iterator[Line]) -> Iterator[Row]:
    """
    The rows of a JSONL file: one object a line, in which null is as good as nothing.

    Args:
        lines: The file's lines; blank ones are passed over.
    """
    for line in lines:
        if line.fault is not None:
            yield Row(line.number, faults=(line.fault,))
        elif line.text.strip():
            yield _object(line)


def _object(line: Line) -> Row:
    try:
        found = json.loads(line.text, object_pairs_hook=_Pairs, parse_constant=_refuse)
        cells = found.once() if isinstance(found, _Pairs) else None
    except json.JSONDecodeError as error:
        return _bad(line, f"what is no JSON ({error.msg} at place {error.pos + 1})")
    except ValueError as error:  # a constant, a repeated name, a number of more digits than Python reads
        return _bad(line, f"what is no JSON ({error})")
    except RecursionError:
        return _bad(line, "JSON that is nested too deeply")
    if cells is None:
        return _bad(line, f"JSON that is {'a list' if isinstance(found, list) else 'a single value'}")
    return Row(line.number, {name: value for name, value in cells.items() if value is not None})


def _bad(line: Line, got: str) -> Row:
    return Row(line.number, faults=(Problem("row", got, 'one JSON object, such as {"image": "a.png", "prompt": "…"}'),))


class _Pairs(list[tuple[str, object]]):
    """The pairs of an object, before one of two with the same name is lost."""

    def once(self) -> dict[str, object]:
        """The object; so are those within it."""
        for name, count in Counter(name for name, _ in self).items():
            if count > 1:
                msg = f"{name!a} comes {count} times"
                raise ValueError(msg)
        return {name: _plain(value) for name, value in self}


def _plain(value: object) -> object:
    if isinstance(value, _Pairs):
        return value.once()
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _refuse(constant: str) -> object:
    msg = f"{constant} is no number of JSON"
    raise ValueError(msg)


def images_in(folder: Path, note: Callable[[bytes], object]) -> Iterator[Row]:
    """
    A row for each image of a folder, by name; its line is its place. Hidden ones are not meant.

    Args:
        folder: The folder.

        note: Takes the names and sizes, and when the files were last written.
    """
    shown_ones = (path for path in folder.iterdir() if not path.name.startswith("."))
    images = sorted(path for path in shown_ones if path.suffix.lower() in _SUFFIXES)
    for place, path in enumerate(images, 1):
        try:
            seen = path.stat()
        except OSError as error:
            yield Row(place, faults=(Problem("image", shown(path.name), f"an image; {error.strerror}"),))
            continue
        note(f"{path.name}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode(errors="surrogateescape"))
        yield Row(place, {"image": path.name})
    if not images:
        yield Row(1, faults=(Problem("folder", "no image", f"files that end in {', '.join(_SUFFIXES)}"),))
