"""A table of shots: checked whole before anything is spent, and read again, row by row, while it is worked on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs

from kie_async import ConfigurationError, InvalidRequestError, Problem, Request
from kie_async._display import shown
from kie_async.cli.batch.columns import KEY, Columns
from kie_async.cli.batch.keys import Hashes, Keys, input_hash_of, problems_of_key, source_of, stem_of
from kie_async.cli.batch.lines import read_lines
from kie_async.cli.batch.rows import Row, csv_rows, images_in, jsonl_rows
from kie_async.cli.batch.shot import Flaw, Shot

__all__ = ["Judge", "Table"]

_CSV = (".csv", ".tsv")
_JSONL = (".jsonl", ".ndjson")


#: Takes a good row: its request, its key and the hash of its input, both as far as they are known. It may find fault.
Judge: TypeAlias = "Callable[[Request, str, str], Sequence[Problem]]"


@attrs.define(kw_only=True)
class Table:
    """
    A table and how it is read. Its methods block: they are a matter for a worker thread.

    Args:
        path: A CSV or JSONL file, or a folder of images.

        columns: The columns that it may have.

        defaults: Cells for all rows that lack them, as texts.

        origins: Origins whose URLs need not be public.

    Attributes:
        count: How many rows are good, after ``check``.
    """

    path: Path
    columns: Columns
    defaults: Mapping[str, str] = attrs.field(factory=dict)
    origins: frozenset[str] = frozenset()
    count: int = 0
    _digest: str | None = None

    def check(self, judge: Judge | None = None, *, keyed: bool = False) -> Iterator[Flaw]:
        """
        Everything that is wrong with the table, in one pass; of all rows, only the hashes of keys are held.

        Args:
            judge: Takes every row that is good.

            keyed: Whether it is told what rows are called and what they are, for which images are read once more.

        Raises:
            ConfigurationError: If there is no such table, or it is of no known kind.

            OSError: If it cannot be read.
        """
        names: set[int] = set()
        keys, image_hashes = Keys(), Hashes()
        good = flawed = 0
        with self._open() as reading:
            for row in reading.rows:
                problems = [*row.faults]
                if not problems:
                    cells = self._cells(row)
                    request, found = self._request(row, cells)
                    found += self.columns.problems(request, cells, origins=self.origins)
                    problems = [problem for problem in found if problem.field not in reading.absent]
                    key = row.cells.get(KEY, "")
                    input_hash = ""
                    if keyed and not problems:
                        hashes = {field: image_hashes.of(source) for field, source in request.images().items()}
                        input_hash = input_hash_of(request, hashes)
                        key = key or keys.make(stem_of(self._source(row)), input_hash)
                    problems += problems_of_key(key, names)
                    if not problems and judge is not None:
                        problems += judge(request, str(key), input_hash)
                good, flawed = good + (not problems), flawed + bool(problems)
                yield from (Flaw(str(self.path), row.line, problem) for problem in problems)
        self._digest = reading.hash.hexdigest()
        self.count = good
        if not good and not flawed:
            yield Flaw(str(self.path), 1, Problem("table", "no rows", "at least one row"))

    def shots(self) -> Iterator[Shot]:
        """
        The rows of a table that was checked, ready to be sent.

        Raises:
            ConfigurationError: If it is not the table any more that was checked. That is found before the first row,
                and, should it change while it is read, after the last.
        """
        with self._open() as reading:
            for _ in reading.rows:
                pass
        self._must_be(reading.hash.hexdigest())
        keys = Keys()
        with self._open() as reading:
            yield from (self._shot(row, keys) for row in reading.rows)
        self._must_be(reading.hash.hexdigest())

    def _must_be(self, digest: str) -> None:
        if digest != self._digest:
            msg = (
                f"{self.path} has changed since it was checked. Run the same command again: it checks the table as it"
                " is now, and pays for nothing twice."
            )
            raise ConfigurationError(msg)

    def _cells(self, row: Row) -> dict[str, object]:
        """What a row says of its request: its own cells, the caller's for those that it lacks, and no unknown ones."""
        filled = {**self.defaults, **{name: cell for name, cell in row.cells.items() if cell != "" or not self._texts}}
        return {name: cell for name, cell in filled.items() if name != KEY and not self.columns.unknown(name)}

    def _request(self, row: Row, cells: Mapping[str, object]) -> tuple[Request, list[Problem]]:
        """The request of a row, and what could not be read of it."""
        unknown = [problem for name in row.cells if (problem := self.columns.unknown(name)) is not None]
        # A default is a text; in a table that has types, it is one all the same, and is read as such.
        texts = frozenset(cells) if self._texts else frozenset(cells) - frozenset(row.cells)
        request, problems = self.columns.request(cells, texts=texts, at=self._folder)
        return request, [*unknown, *problems]

    def _shot(self, row: Row, keys: Keys) -> Shot:
        request, _ = self._request(row, self._cells(row))
        try:
            images = {field: source.load() for field, source in request.images().items()}
        except InvalidRequestError:  # it has become bad since it was checked: the client will refuse it
            images = {}
        hashes = {field: images[field].sha256 if field in images else "" for field in request.images()}
        input_hash = input_hash_of(request, hashes)
        key, source = row.cells.get(KEY), self._source(row)
        return Shot(
            line=row.line,
            key=key if isinstance(key, str) and key else keys.make(stem_of(source), input_hash),
            request=request,
            input_hash=input_hash,
            fields={name: value for name, value in request.input(hashes).items() if name not in hashes},
            source=source,
            image=next(iter(images.values()), None),
        )

    def _source(self, row: Row) -> str | None:
        return source_of({**self.defaults, **row.cells})

    @property
    def _texts(self) -> bool:
        return self.path.suffix.lower() not in _JSONL

    @property
    def _folder(self) -> Path:
        """Where relative paths of images start from: beside the table, wherever the program runs."""
        return self.path if self.path.is_dir() else self.path.parent

    @contextmanager
    def _open(self) -> Generator[_Reading]:
        """The table, to be read once from its beginning."""
        reading = _Reading()
        note, suffix = reading.hash.update, self.path.suffix.lower()
        if self.path.is_dir():
            reading.rows = self._of_a_folder(reading)
            yield reading
            return
        if suffix not in (*_CSV, *_JSONL) and self.path.exists():
            msg = (
                f"{self.path} is no table: it must be a folder of images, or a file that ends in"
                f" {', '.join((*_CSV, *_JSONL))}. Nothing was sent: name another."
            )
            raise ConfigurationError(msg)
        try:
            file = self.path.open("rb")
        except OSError as error:
            why = "there is no such file or folder" if isinstance(error, FileNotFoundError) else error.strerror
            msg = f"The table {self.path} cannot be read: {why}. Nothing was sent: name another."
            raise ConfigurationError(msg) from error
        with file:
            lines = read_lines(file, note)
            reading.rows = jsonl_rows(lines) if suffix in _JSONL else csv_rows(lines, partial(self._judge, reading))
            yield reading

    def _of_a_folder(self, reading: _Reading) -> Iterator[Row]:
        problems, _ = self._judge(reading, ["image"])
        if problems:
            yield Row(1, faults=tuple(problems))
        yield from images_in(self.path, reading.hash.update)

    def _judge(self, reading: _Reading, names: list[str]) -> tuple[list[Problem], list[str | None]]:
        """What is wrong with the names of columns, and which columns count: the first of each that is known."""
        given = [*names, *(name for name in self.defaults if name not in names)]
        reading.absent = frozenset(self.columns.needed) - frozenset(given)
        counts = [
            name if name not in names[:place] and not self.columns.unknown(name) else None
            for place, name in enumerate(names)
        ]
        problems = self.columns.header(given)
        by_option = {shown(name) for name in self.defaults if name not in names}
        return [attrs.evolve(one, field="--set") if one.value in by_option else one for one in problems], counts


@attrs.define
class _Reading:
    """
    One passage through a table.

    Attributes:
        rows: Its rows.

        hash: Of all that was read so far.

        absent: Columns that it needs and does not have: one fault of the table, and not one of each row.
    """

    rows: Iterator[Row] = attrs.field(factory=lambda: iter(()))
    hash: hashlib._Hash = attrs.field(factory=hashlib.sha256)
    absent: frozenset[str] = frozenset()
