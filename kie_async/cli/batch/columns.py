"""Name the columns of a table and build a request from the cells of a row."""

from __future__ import annotations

import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast, get_type_hints

import attrs

from kie_async import MarketRequest, Problem, Request, Wan22TurboImageToVideo
from kie_async._display import shown
from kie_async._urls import looks_like_url
from kie_async.cli.options import parse_json
from kie_async.requests.media import MediaSource

__all__ = ["KEY", "BuiltRequest", "Columns", "columns_for_model", "find_image"]

#: The column that holds the row key; it is not a field of the request.
KEY = "key"

#: pandas writes 7.0 for 7 in a column with missing cells.
_INTEGER = re.compile(r"([+-]?[0-9]{1,30})(?:\.0*)?")
_BOOLEANS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
#: Longer names are no misspelled ones.
_LONGEST_NAME = 60
#: The maximum number of unknown names that are compared with the known ones.
_MOST_HINTS = 1000
_JSON_SUFFIX = ":json"


#: A request, unchecked, and the problems of cells that could not be parsed.
BuiltRequest: TypeAlias = tuple[Request, list[Problem]]


def find_image(folder: Path, name: str) -> Path:
    """
    Return the path of an image that a cell names.

    A name that does not exist may differ from a file's in blanks around it, or in how letters with accents are written:
    Macs decompose them (NFD), most other systems compose them (NFC). A file is taken if it is the only one that fits.

    Args:
        folder: The folder to which paths are relative.

        name: The cell.
    """
    exact = folder / name
    if os.path.lexists(exact):
        return exact
    found = [folder]
    for part in Path(name.strip()).parts:
        forms = dict.fromkeys((part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))))
        found = [path for base in found for form in forms if os.path.lexists(path := base / form)]
    return found[0] if len(found) == 1 and name.strip() else exact


class Columns(ABC):
    """
    The columns that a table may have, for one model.

    Attributes:
        names: The allowed names, the key column included; None where any name is allowed.

        required: The columns that a request cannot do without.
    """

    names: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()

    def __init__(self) -> None:
        #: The hints for unknown names, since each row of a table may have the same name, or another one.
        self._hints: dict[str, str] = {}
        self._known = frozenset[str]()

    def name_problem(self, name: str) -> Problem | None:
        """Return the problem of a column's name, or None."""
        if not name:
            return Problem("column", "a column without a name", "a name for each column")
        if self.names is None or name in self.names:
            return None
        return Problem("column", shown(name), f"{', '.join(self.names)}{self._hint(name.lower(), self.names)}")

    def name_problems(self, names: Collection[str]) -> list[Problem]:
        """List the problems of the names of a row's columns."""
        if "" not in names and (self.names is None or self._known.issuperset(names)):
            return []
        return [problem for name in names if (problem := self.name_problem(name)) is not None]

    def _hint(self, name: str, known: Sequence[str]) -> str:
        """Return a hint at the known name that is like *name*; no hint after many unknown names, for it is slow."""
        if name not in self._hints and len(name) <= _LONGEST_NAME and len(self._hints) < _MOST_HINTS:
            import difflib

            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            self._hints[name] = f" (did you mean {close[0]!r}?)" if close else ""
        return self._hints.get(name, "")

    def header_problems(self, given: Sequence[str], *, is_folder: bool = False) -> list[Problem]:
        """
        List every problem of the column names of a table.

        Args:
            given: The names of the columns, those of the defaults included.

            is_folder: True for a folder of images, which has no columns.
        """
        problems = [problem for name in dict.fromkeys(given) if (problem := self.name_problem(name)) is not None]
        problems += [
            Problem("column", f"{shown(name)} {count} times", "each column once")
            for name, count in Counter(given).items()
            if name and count > 1
        ]
        for name in self.required:
            if name not in given:
                option = f"--{name}" if name == "prompt" else f"--set {name}=VALUE"
                problems.append(
                    Problem(
                        option.partition(" ")[0], "nothing", f"{option.partition('=')[0]} for all images of a folder"
                    )
                    if is_folder
                    else Problem(name, "no such column", f"a column, or {option} for all rows")
                )
        return problems

    def request_problems(
        self, request: Request, cells: Mapping[str, object], *, origins: frozenset[str]
    ) -> list[Problem]:
        """
        List every problem of a request; its image is read. Problems of missing cells come first.

        Args:
            request: The request.

            cells: The cells that the request was built from.

            origins: Origins whose URLs need not be public.
        """
        problems = request.problems(allowed_origins=origins)
        if not problems:
            return []
        missing = [name for name in self.required if name not in cells]
        return [
            *(attrs.evolve(problem, value="nothing") for problem in problems if problem.field in missing),
            *(problem for problem in problems if problem.field not in missing),
        ]

    @abstractmethod
    def build_request(
        self, cells: Mapping[str, object], *, strings: frozenset[str], open_image: Callable[[str], Path | MediaSource]
    ) -> BuiltRequest:
        """
        Build the request of a row, unchecked, and list the problems of cells that could not be parsed.

        Args:
            cells: The cells by column name, without the key and without empty cells.

            strings: The columns whose cells are strings only because the file format has no other type.

            open_image: Finds the image that a cell names.
        """


def columns_for_model(model: str | None) -> Columns:
    """
    Return the columns for a model.

    Args:
        model: The model's name; None for Wan 2.2 Turbo.
    """
    known = Wan22TurboImageToVideo
    return _ClassColumns(known) if model in (None, known.MODEL) else _MarketColumns(model or "")


class _ClassColumns(Columns):
    """The columns of a model whose request class declares the fields."""

    def __init__(self, request_class: type[attrs.AttrsInstance]) -> None:
        super().__init__()
        fields = [field for field in attrs.fields(request_class) if field.name != "extra"]
        self._request_class = request_class
        self._parsers = _cell_parsers(request_class)
        # Blanks around a word or a number mean nothing; around a text they may.
        hints = get_type_hints(request_class)
        self._stripped = frozenset(field.name for field in fields if hints[field.name] is not str) - {"image"}
        self.names = (KEY, *(field.name for field in fields))
        self._known = frozenset(self.names)
        self.required = tuple(field.name for field in fields if field.default is attrs.NOTHING)

    def build_request(
        self, cells: Mapping[str, object], *, strings: frozenset[str], open_image: Callable[[str], Path | MediaSource]
    ) -> BuiltRequest:
        values = dict[str, object]()
        for name, cell in cells.items():
            if name in strings:
                text = str(cell).strip() if name in self._stripped else cell
                if text != "":
                    values[name] = self._parsers[name](text) if name in self._parsers else text
            elif isinstance(cell, float) and name in self._parsers:
                values[name] = self._parsers[name](cell)
            else:
                values[name] = cell
        image = values.get("image")
        if isinstance(image, str) and image and not looks_like_url(image.strip()):
            values["image"] = open_image(image)
        elif isinstance(image, str) and "image" in strings:
            values["image"] = image.strip()
        missing = [name for name in self.required if name not in values]
        request = cast("Any", self._request_class)(**dict.fromkeys(missing, ""), **values)
        return cast("Request", request), []


def _parse_integer(cell: object) -> object:
    """Return the cell as an integer, or unchanged, so that the field's own rule refuses it."""
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() else cell
    found = _INTEGER.fullmatch(cell) if isinstance(cell, str) else None
    return cell if found is None else int(found[1])


def _parse_boolean(cell: object) -> object:
    """Return the cell as a boolean, or unchanged, so that the field's own rule refuses it."""
    return _BOOLEANS.get(cell.lower(), cell) if isinstance(cell, str) else cell


_PARSERS: Mapping[object, Callable[[object], object]] = {int: _parse_integer, bool: _parse_boolean}


def _cell_parsers(request_class: type) -> Mapping[str, Callable[[object], object]]:
    """Return a parser for each field whose type is not a string."""
    return {
        name: parser
        for name, hint in get_type_hints(request_class).items()
        for kind, parser in _PARSERS.items()
        if kind in getattr(hint, "__args__", (hint,))
    }


class _MarketColumns(Columns):
    """The columns of any other model: the names of its input, which only the service can check."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model

    def build_request(
        self, cells: Mapping[str, object], *, strings: frozenset[str], open_image: Callable[[str], Path | MediaSource]
    ) -> BuiltRequest:
        del open_image
        problems, values = [], {}
        for column, cell in cells.items():
            is_json = column in strings and column.endswith(_JSON_SUFFIX)
            try:
                values[column.removesuffix(_JSON_SUFFIX)] = parse_json(str(cell)) if is_json else cell
            except ValueError as error:
                name = column if len(column) <= _LONGEST_NAME and column.isprintable() else shown(column)
                problems.append(Problem(name, shown(cell), f"JSON, as the end of the column's name says ({error})"))
        return MarketRequest(model=self._model, input=cast("Any", values)), problems
