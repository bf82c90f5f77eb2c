"""Name the columns of a table and build a request from the cells of a row."""

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

import attrs

from kie_async import MarketRequest, Problem, Request
from kie_async._display import shown
from kie_async.cli.model_fields import ModelFields, fields_of_model, near_hint, nearest_model
from kie_async.cli.options import parse_json
from kie_async.requests.media import MediaSource

__all__ = [
    "JSON_SUFFIX",
    "KEY",
    "MODEL",
    "BuiltRequest",
    "Columns",
    "_MarketColumns",
    "columns_for_model",
    "find_image",
    "model_problem",
]

#: The column that holds the row key; it is not a field of the request.
KEY = "key"

#: The column that holds the model of a row; it is not a field of the request.
MODEL = "model"

#: Longer names are no misspelled ones.
_LONGEST_NAME = 60
#: The maximum number of unknown names that are compared with the known ones.
_MOST_HINTS = 1000
#: The end of the names of columns whose cells are JSON.
JSON_SUFFIX = ":json"


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
        names: The allowed names, those of the key and the model included; None where any name is allowed.

        required: The fields that a request cannot do without.

        image_column: The column that has the images of a folder.
    """

    names: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()
    image_column: str = "image"

    def __init__(self) -> None:
        #: The hints for unknown names, since each row of a table may have the same name, or another one.
        self._hints: dict[str, str] = {}

    def field_of(self, column: str) -> str | None:
        """Return the field that a column holds, or None if the model has no such field."""
        return column

    def knows(self, column: str) -> bool:
        """Return True if a table may have a column."""
        return column in (KEY, MODEL) or self.field_of(column) is not None

    def name_problem(self, name: str) -> Problem | None:
        """Return the problem of a column's name, or None."""
        if not name:
            return Problem("column", "a column without a name", "a name for each column")
        if self.names is None or self.knows(name):
            return None
        return Problem("column", shown(name), f"{', '.join(self.names)}{self._hint(name.lower(), self.names)}")

    def name_problems(self, names: Collection[str]) -> list[Problem]:
        """List the problems of the names of a row's columns."""
        if "" not in names and all(map(self.knows, names)):
            return []
        return [problem for name in names if (problem := self.name_problem(name)) is not None]

    def _hint(self, name: str, known: Sequence[str]) -> str:
        """Return a hint at the known name that is like *name*; no hint after many unknown names, for it is slow."""
        if name not in self._hints and len(name) <= _LONGEST_NAME and len(self._hints) < _MOST_HINTS:
            self._hints[name] = near_hint(name, known)
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
        fields = {self.field_of(name) for name in given}
        for name in self.required:
            if name not in fields:
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
        columns = {self.field_of(column): column for column in cells}
        missing = [name for name in self.required if name not in columns]
        return [
            *(attrs.evolve(problem, value="nothing") for problem in problems if problem.field in missing),
            *(_in_column(problem, columns) for problem in problems if problem.field not in missing),
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

    @abstractmethod
    def image_cell(self, cells: Mapping[str, object], *, strings: frozenset[str]) -> str | None:
        """
        Return the image of a row as the table names it: a path or a URL; None if there is none.

        Args:
            cells: The cells by column name.

            strings: As for ``build_request``.
        """


def _in_column(problem: Problem, columns: Mapping[str | None, str]) -> Problem:
    """Return a problem under the name of the column that has the field."""
    field = problem.field.partition("[")[0].partition(".")[0]
    column = columns.get(field, field).removesuffix(JSON_SUFFIX)
    return problem if column == field else attrs.evolve(problem, field=column + problem.field[len(field) :])


def columns_for_model(model: str | None) -> Columns:
    """
    Return the columns for a model.

    Args:
        model: The model's name; None for Wan 2.2 Turbo.
    """
    fields = fields_of_model(model)
    return _MarketColumns(model or "") if fields is None else _ClassColumns(fields)


def columns_for_any_model() -> Columns:
    """Return the columns of a table whose rows name their models: any name is allowed."""
    return _MarketColumns("")


def model_problem(model: object, *, unlisted: bool) -> Problem | None:
    """
    Return the problem of a model's name, or None.

    Args:
        model: The name.

        unlisted: True if a name that is like that of a documented model is allowed.
    """
    if not isinstance(model, str) or not model.strip():
        return Problem(MODEL, shown(model), "the name of a model, such as kling/v2-1-pro")
    if unlisted or fields_of_model(model) is not None or (near := nearest_model(model)) is None:
        return None
    allowed = f"a model of `kie-async models` (did you mean {near!r}?), or any other one with --unlisted"
    return Problem(MODEL, shown(model), allowed)


class _ClassColumns(Columns):
    """The columns of a model whose request class declares the fields: its names of them, and the service's."""

    def __init__(self, fields: ModelFields) -> None:
        super().__init__()
        self._fields = fields
        #: The fields by column, since each row of a table has the same columns.
        self._found: dict[str, str | None] = {}
        self.names = (KEY, MODEL, *fields.names)
        self.required = fields.required
        images = [name for name, rule in fields.rules.items() if "image" in rule.rule.media]
        self._images = sorted(images, key=lambda name: name != "image")
        self.image_column = next(iter(self._images), "image")

    def field_of(self, column: str) -> str | None:
        if column in self._found:
            return self._found[column]
        found = self._fields.find(column.removesuffix(JSON_SUFFIX))
        if len(self._found) < _MOST_HINTS:
            self._found[column] = found
        return found

    def build_request(
        self, cells: Mapping[str, object], *, strings: frozenset[str], open_image: Callable[[str], Path | MediaSource]
    ) -> BuiltRequest:
        values, problems, columns = dict[str, object](), list[Problem](), dict[str, str]()
        for column, cell in cells.items():
            if (name := self.field_of(column)) is None:
                continue
            if name in columns:
                problems.append(Problem(column, "a value", f"nothing together with {columns[name]}, the same field"))
                continue
            columns[name] = column
            try:
                value = self._value(name, column, cell, is_text=column in strings)
            except ValueError as error:
                problems.append(_json_problem(column, cell, error))
                continue
            if value != "" or column not in strings:
                values[name] = self._fields.open(name, value, open_image)
        return self._fields.build(values), problems

    def _value(self, name: str, column: str, cell: object, *, is_text: bool) -> object:
        if not is_text:
            return self._fields.convert(name, cell)
        text = str(cell)
        return parse_json(text) if column.endswith(JSON_SUFFIX) else self._fields.parse(name, text)

    def image_cell(self, cells: Mapping[str, object], *, strings: frozenset[str]) -> str | None:
        columns = {self.field_of(column): column for column in cells}
        for name in self._images:
            if (column := columns.get(name)) is None:
                continue
            with suppress(ValueError):
                value = self._value(name, column, cells[column], is_text=column in strings)
                first = value[0] if isinstance(value, (list, tuple)) and value else value
                if isinstance(first, str) and first:
                    return first
        return None


class _MarketColumns(Columns):
    """
    The columns of any other model: the names of its input, which only the service can check.

    Args:
        model: The model's name.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self._model = model

    def build_request(
        self, cells: Mapping[str, object], *, strings: frozenset[str], open_image: Callable[[str], Path | MediaSource]
    ) -> BuiltRequest:
        del open_image
        problems, values = [], {}
        for column, cell in cells.items():
            is_json = column in strings and column.endswith(JSON_SUFFIX)
            try:
                values[column.removesuffix(JSON_SUFFIX)] = parse_json(str(cell)) if is_json else cell
            except ValueError as error:
                problems.append(_json_problem(column, cell, error))
        return MarketRequest(model=self._model, input=cast("Any", values)), problems

    def image_cell(self, cells: Mapping[str, object], *, strings: frozenset[str]) -> str | None:
        del strings
        texts = {name: cell for name, cell in cells.items() if isinstance(cell, str) and cell}
        return texts.get("image") or next((cell for name, cell in texts.items() if "image" in name), None)


def _json_problem(column: str, cell: object, error: ValueError) -> Problem:
    name = column if len(column) <= _LONGEST_NAME and column.isprintable() else shown(column)
    says = "as the end of the column's name says " if column.endswith(JSON_SUFFIX) else "as it begins "
    return Problem(name, shown(cell), f"JSON, {says}({error})")
