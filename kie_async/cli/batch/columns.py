"""What the columns of a table are called, and how the cells of a row become a request."""

from __future__ import annotations

import difflib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

import attrs

from kie_async import MarketRequest, Problem, Request, Wan22TurboImageToVideo
from kie_async._display import shown
from kie_async._urls import looks_like_url

__all__ = ["KEY", "Columns", "columns_of"]

#: The column that names a row; it is no field of a request.
KEY = "key"

#: The models whose fields are known here, by name.
_DOCUMENTED: Mapping[str, type[attrs.AttrsInstance]] = {Wan22TurboImageToVideo.MODEL: Wan22TurboImageToVideo}

_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_AS_JSON = ":json"


class Columns(ABC):
    """
    The columns of tables for one model.

    Attributes:
        names: All that there may be, the key among them; None where any name may be.

        needed: Those that a request cannot do without.
    """

    names: tuple[str, ...] | None
    needed: tuple[str, ...]

    def unknown(self, name: str) -> Problem | None:
        """What is wrong with a column's name, or None."""
        if not name:
            return Problem("column", "a column without a name", "a name for each column")
        if self.names is None or name in self.names:
            return None
        near = difflib.get_close_matches(name.lower(), self.names, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return Problem("column", shown(name), f"{', '.join(self.names)}{hint}")

    def header(self, given: Sequence[str]) -> list[Problem]:
        """
        Everything that is wrong with the names of a table's columns.

        Args:
            given: The names that are there, those with a default of the caller's among them.
        """
        problems = [problem for name in dict.fromkeys(given) if (problem := self.unknown(name)) is not None]
        problems += [
            Problem("column", f"{name!a} {count} times", "each column once")
            for name, count in Counter(given).items()
            if name and count > 1
        ]
        missing = [name for name in self.needed if name not in given]
        return [*problems, *(_lacking(name) for name in missing)]

    def problems(self, request: Request, cells: Mapping[str, object], *, origins: frozenset[str]) -> list[Problem]:
        """
        Everything that is wrong with a request; the image is read.

        Args:
            request: It.

            cells: What it was made of.

            origins: Origins whose URLs need not be public.
        """
        missing = [name for name in self.needed if name not in cells]
        problems = request.problems(allowed_origins=origins)
        nothing = [attrs.evolve(problem, value="nothing") for problem in problems if problem.field in missing]
        return [*nothing, *(problem for problem in problems if problem.field not in missing)]

    @abstractmethod
    def request(self, cells: Mapping[str, object], *, texts: frozenset[str], at: Path) -> tuple[Request, list[Problem]]:
        """
        The request of a row, and what could not be read of its cells; whether it is any good, ``problems`` tells.

        Args:
            cells: The row's cells, by column; the key is not among them, and neither is a cell that is empty.

            texts: Of these, the ones that are texts because they could not be written as anything else.

            at: The folder that the paths of images start from.
        """


def _lacking(name: str) -> Problem:
    option = f"--{name}" if name == "prompt" else "--set"
    return Problem(name, "no such column", f"a column, or {option} for all rows")


def columns_of(model: str | None) -> Columns:
    """
    The columns for a model.

    Args:
        model: Its name; None for Wan 2.2 Turbo.
    """
    documented = _DOCUMENTED.get(Wan22TurboImageToVideo.MODEL if model is None else model)
    return _Market(model or "") if documented is None else _Documented(documented)


class _Documented(Columns):
    """The columns of a model whose class says what its fields are."""

    def __init__(self, model: type[attrs.AttrsInstance]) -> None:
        fields = attrs.fields(model)
        self._model = model
        self.names = (KEY, *(field.name for field in fields))
        self.needed = tuple(field.name for field in fields if field.default is attrs.NOTHING)

    def request(self, cells: Mapping[str, object], *, texts: frozenset[str], at: Path) -> tuple[Request, list[Problem]]:
        readers = _readers(self._model)
        values = {
            name: readers[name](cell) if name in texts and name in readers else cell for name, cell in cells.items()
        }
        image = values.get("image")
        if isinstance(image, str) and image and not looks_like_url(image):
            values["image"] = at / image
        missing = [name for name in self.needed if name not in values]
        made = cast("Any", self._model)(**dict.fromkeys(missing, ""), **values)
        return cast("Request", made), []


@cache
def _readers(model: type) -> Mapping[str, Callable[[object], object]]:
    """How the texts of a CSV become values, for fields that hold something else; by field."""
    hints = get_type_hints(model)
    return {
        name: reader for name, hint in hints.items() for kind, reader in _READERS.items() if kind in _parts_of(hint)
    }


def _parts_of(hint: object) -> tuple[object, ...]:
    return getattr(hint, "__args__", (hint,))


def _whole_number(cell: object) -> object:
    """A number where it is one; else what it is, for the field's own rule to refuse."""
    return int(cell) if isinstance(cell, str) and _WHOLE.fullmatch(cell) else cell


def _flag(cell: object) -> object:
    return _FLAGS.get(cell.lower(), cell) if isinstance(cell, str) else cell


_READERS: Mapping[object, Callable[[object], object]] = {int: _whole_number, bool: _flag}


class _Market(Columns):
    """The columns of any other model: its input's names, which only the service can judge."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.names = None
        self.needed = ()

    def request(self, cells: Mapping[str, object], *, texts: frozenset[str], at: Path) -> tuple[Request, list[Problem]]:
        del at
        problems, values = [], {}
        for column, cell in cells.items():
            name, as_json = column.removesuffix(_AS_JSON), column in texts and column.endswith(_AS_JSON)
            try:
                values[name] = json.loads(str(cell)) if as_json else cell
            except ValueError:
                problems.append(Problem(column, shown(cell), "JSON, as the end of the column's name says"))
        return MarketRequest(model=self._model, input=cast("Any", values)), problems
