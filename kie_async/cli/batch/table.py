"""A table of shots: checked as a whole before anything is spent, then read row by row while the run submits them."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias

import attrs

from kie_async import JSON, ConfigurationError, InvalidRequestError, Problem, Request
from kie_async._display import shown
from kie_async._keys import MAX_KEY, DefaultKeys, fingerprint, is_retry_key
from kie_async._urls import without_url_secrets
from kie_async.cli.batch.columns import (
    JSON_SUFFIX,
    KEY,
    MODEL,
    BuiltRequest,
    Columns,
    columns_for_any_model,
    columns_for_model,
    find_image,
    model_problem,
)
from kie_async.cli.batch.rows import TableRow, read_csv, read_folder, read_jsonl, read_lines
from kie_async.requests.media import LocalFile, MediaLimits, MediaSource

__all__ = ["PreparedRow", "RowCheck", "Table", "TableProblem"]

_CSV_SUFFIXES = (".csv", ".tsv")
_JSONL_SUFFIXES = (".jsonl", ".ndjson")
#: The maximum number of images that are checked and hashed once for all of their rows.
_REMEMBERED_IMAGES = 10_000
#: The maximum number of models whose columns are remembered.
_REMEMBERED_MODELS = 1000
_BLOCK = 1024 * 1024

#: Takes a valid row: its request, its key and its content hash (both empty if unknown). Returns the row's problems.
RowCheck: TypeAlias = "Callable[[Request, str, str], Sequence[Problem]]"


@attrs.frozen
class TableProblem:
    """
    A problem of a table.

    Attributes:
        table: The table, as the user names it.

        line: The line, counted from 1; in a folder, the position of the image.

        problem: The column, the value, and what is allowed.
    """

    table: str
    line: int
    problem: Problem

    def __str__(self) -> str:
        return f"{self.table}:{self.line}: {self.problem}"


@attrs.frozen(kw_only=True)
class PreparedRow:
    """
    A row that is ready to be submitted.

    Attributes:
        line: The line on which the row begins.

        key: The row key: the table's own, or the default key.

        request: The request.

        input_hash: The content hash of the request.

        fields: The input of the request without its image, in the service's field names; other local files are their
            names.

        source: The image as the table names it: a path or a URL; None if there is none.

        image: The local image, as it was when the row was read; None if there is none.
    """

    line: int
    key: str
    request: Request
    input_hash: str
    fields: Mapping[str, JSON] = attrs.field(repr=False)
    source: str | None = None
    image: LocalFile | None = attrs.field(default=None, repr=False)


@attrs.define(kw_only=True)
class Table:
    """
    A table and the rules by which it is read. Its methods block: call them in a worker thread.

    Args:
        path: A CSV or JSONL file, or a folder of images.

        model: The model of the rows that name none; None for Wan 2.2 Turbo.

        unlisted: True if a row may name a model that is not in the catalogue, and is like one that is.

        defaults: Cells for rows that lack them, as strings.

        origins: Origins whose URLs need not be public.

    Attributes:
        count: The number of valid rows, once ``check`` has ended.

        names_models: True if rows name their models, once ``check`` has ended.

        left_out: The names of images in a folder that have another type than the service takes, once it was read.

        interrupted: Ends a reading in another thread when it is set.
    """

    path: Path
    model: str | None = None
    unlisted: bool = False
    defaults: Mapping[str, str] = attrs.field(factory=dict)
    origins: frozenset[str] = frozenset()
    count: int = attrs.field(default=0, init=False)
    names_models: bool = attrs.field(default=False, init=False)
    left_out: list[str] = attrs.field(factory=list, init=False)
    interrupted: threading.Event = attrs.field(factory=threading.Event, init=False)
    _checked_digest: str | None = attrs.field(default=None, init=False)
    #: True if every cell of the table is a string.
    _is_untyped: bool = attrs.field(init=False)

    #: The columns by model, and the problems of models.
    _columns: dict[str | None, Columns | Problem] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._is_untyped = self.path.suffix.lower() not in _JSONL_SUFFIXES

    def _default_columns(self) -> Columns:
        """Return the columns of the rows that name no model."""
        columns = self._columns_of(self.model)
        # The command has refused a default that has a problem.
        return columns_for_model(self.model) if isinstance(columns, Problem) else columns

    def _columns_of(self, model: str | None) -> Columns | Problem:
        """Return the columns of a model, or the problem of its name."""
        columns = self._columns.get(model)
        if columns is None:
            if len(self._columns) >= _REMEMBERED_MODELS:
                del self._columns[next(iter(self._columns))]
            problem = None if model is None else model_problem(model, unlisted=self.unlisted)
            columns = self._columns[model] = problem or columns_for_model(model)
        return columns

    def _row_columns(self, row: TableRow) -> Columns | Problem:
        """Return the columns of the model that a row names, or else of the default."""
        model = row.cells.get(MODEL, "")
        if model == "" and (model := self.defaults.get(MODEL, "")) == "":
            return self._default_columns()
        self.names_models = True
        if not isinstance(model, str):
            return model_problem(model, unlisted=self.unlisted) or self._default_columns()
        return self._columns_of(model.strip())

    def check(self, check_row: RowCheck | None = None, *, with_keys: bool = False) -> Iterator[TableProblem]:
        """
        Yield every problem of the table, in one pass; only the hashes of keys are held in memory.

        Args:
            check_row: Called with every valid row.

            with_keys: True if ``check_row`` needs keys and content hashes; images are read once more for them.

        Raises:
            ConfigurationError: If there is no such table, or its type is unknown.

            OSError: If it cannot be read.
        """
        seen_keys: set[int] = set()
        default_keys, open_image = DefaultKeys(), _ImageCache(self._image_folder).open
        valid = invalid = 0
        unused: Sequence[str] = [*self.defaults]
        # Each read lets other threads in, for too short a time to wake one up: many small ones in a row would keep
        # Ctrl-C from the event loop's thread for seconds.
        with self._open(buffering=_BLOCK) as reading:
            for row in reading.rows:
                problems = [*row.problems]
                columns = None if problems else self._row_columns(row)
                if isinstance(columns, Problem):
                    problems.append(columns)
                elif columns is not None:
                    unused = [name for name in unused if not columns.knows(name)]
                    cells = self._request_cells(row, columns)
                    request, found = self._build_request(row, columns, cells, open_image)
                    refused = columns.request_problems(request, cells, origins=self.origins)
                    if refused and found:
                        unreadable = {problem.field.removesuffix(JSON_SUFFIX) for problem in found}
                        refused = [problem for problem in refused if problem.field not in unreadable]
                    found += refused
                    problems = [problem for problem in found if problem.field not in reading.missing_columns]
                    key = row.cells.get(KEY, "")
                    input_hash = ""
                    if with_keys and not found:
                        images = {field: _hash_image(source) for field, source in request.files().items()}
                        input_hash = fingerprint(request.model, request.input(images), images)
                        key = key or default_keys.next_key(input_hash)
                    problems += _key_problems(key, seen_keys)
                    if not found and not problems and check_row is not None:
                        problems += check_row(request, str(key), input_hash)
                valid, invalid = valid + (not problems), invalid + bool(problems)
                yield from (TableProblem(str(self.path), row.line, problem) for problem in problems)
        self._checked_digest = reading.digest.hexdigest()
        self.count = valid
        if valid and not reading.checks_names:
            for name in unused:
                expected = "a field of the model of a row"
                yield TableProblem(str(self.path), 1, Problem("--set", shown(name), expected))
        if not valid and not invalid:
            yield TableProblem(str(self.path), 1, Problem("table", "no rows", "at least one row"))

    def prepared_rows(self) -> Iterator[PreparedRow]:
        """
        Yield the rows of a checked table, ready to be submitted.

        Raises:
            ConfigurationError: If the table has changed since it was checked. Raised before the first row, or, if it
                changes while it is read, after the last.
        """
        with self._open() as reading:
            if reading.file is None:
                for _ in reading.rows:
                    pass
            else:
                while data := reading.file.read(_BLOCK):
                    self._feed(reading, data)
        self._require_unchanged(reading)
        default_keys = DefaultKeys()
        with self._open() as reading:
            yield from (self._prepare(row, default_keys) for row in reading.rows)
        self._require_unchanged(reading)

    def _require_unchanged(self, reading: _Reading) -> None:
        if reading.digest.hexdigest() != self._checked_digest:
            msg = (
                f"{self.path} has changed since it was checked. Run the same command again: it checks the new table,"
                " and pays for nothing twice."
            )
            raise ConfigurationError(msg)

    def _request_cells(self, row: TableRow, columns: Columns) -> dict[str, object]:
        """Return the known cells of a row, without its key; defaults fill those that are missing."""
        own = {name: cell for name, cell in row.cells.items() if cell != "" or not self._is_untyped}
        cells = {**self.defaults, **own} if self.defaults else own
        return {name: cell for name, cell in cells.items() if name and name not in (KEY, MODEL) and columns.knows(name)}

    def _build_request(
        self,
        row: TableRow,
        columns: Columns,
        cells: Mapping[str, object],
        open_image: Callable[[str], Path | MediaSource],
    ) -> BuiltRequest:
        """Return the request of a row, and the problems of its column names and of cells that cannot be parsed."""
        # A row of a CSV file has the columns of all models, and leaves those of the others empty.
        given = [name for name, cell in row.cells.items() if cell != "" or not self._is_untyped]
        unknown = columns.name_problems(given)
        request, problems = columns.build_request(cells, strings=self._strings(row, cells), open_image=open_image)
        return request, [*unknown, *problems]

    def _strings(self, row: TableRow, cells: Mapping[str, object]) -> frozenset[str]:
        """Return the columns whose cells are strings in any case: a default is one even in a table that has types."""
        return frozenset(cells) if self._is_untyped else frozenset(cells) - frozenset(row.cells)

    def _prepare(self, row: TableRow, default_keys: DefaultKeys) -> PreparedRow:
        columns = self._row_columns(row)
        if isinstance(columns, Problem):  # the check has refused it, and the table has not changed
            columns = self._default_columns()
        cells = self._request_cells(row, columns)
        request, _ = self._build_request(row, columns, cells, partial(find_image, self._image_folder))
        files, image = request.files(), None
        hashes = dict.fromkeys(files, "")
        try:
            for field, source in files.items():  # one by one: a video may be large
                loaded = source.load()
                hashes[field] = loaded.sha256
                if image is None and loaded.mime.startswith("image/"):
                    image = loaded
        except InvalidRequestError:  # the image has changed since the check: the client will refuse the request
            hashes, image = dict.fromkeys(files, ""), None
        input_hash = fingerprint(request.model, request.input(hashes), hashes)
        key = row.cells.get(KEY)
        return PreparedRow(
            line=row.line,
            key=key if isinstance(key, str) and key else default_keys.next_key(input_hash),
            request=request,
            input_hash=input_hash,
            fields=_shown_input(request, files),
            source=columns.image_cell(cells, strings=self._strings(row, cells)),
            image=image,
        )

    @property
    def _image_folder(self) -> Path:
        """The folder to which paths of images are relative: the table's, not the working directory."""
        return self.path if self.path.is_dir() else self.path.parent

    @contextmanager
    def _open(self, *, buffering: int = -1) -> Generator[_Reading]:
        """Open the table to read it once from its beginning, so many bytes at a time."""
        reading, suffix = _Reading(), self.path.suffix.lower()
        if self.path.is_dir():
            reading.rows = self._folder_rows(reading)
            yield reading
            return
        if suffix not in (*_CSV_SUFFIXES, *_JSONL_SUFFIXES) and self.path.exists():
            msg = (
                f"Invalid table {self.path}: expected a folder of images, or a file that ends in"
                f" {', '.join((*_CSV_SUFFIXES, *_JSONL_SUFFIXES))}. Nothing was sent: name another table."
            )
            raise ConfigurationError(msg)
        try:
            file = open(self.path, "rb", buffering, opener=_open_at_once)  # noqa: SIM115 (closed below)
        except OSError as error:
            why = "there is no such file or folder" if isinstance(error, FileNotFoundError) else error.strerror
            msg = f"The table {self.path} cannot be read: {why}. Nothing was sent: name another table."
            raise ConfigurationError(msg) from error
        with file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                msg = (
                    f"The table {self.path} is not a regular file, and a table is read more than once. Nothing was"
                    " sent: copy it into a file."
                )
                raise ConfigurationError(msg)
            reading.file = file
            lines = read_lines(file, partial(self._feed, reading))
            check_header = partial(self._check_header, reading)
            reading.rows = read_jsonl(lines) if suffix in _JSONL_SUFFIXES else read_csv(lines, check_header)
            yield reading

    def _folder_rows(self, reading: _Reading) -> Iterator[TableRow]:
        columns = self._row_columns(TableRow(1))
        column = "image" if isinstance(columns, Problem) else columns.image_column
        problems, _ = self._check_header(reading, [column], is_folder=True)
        if problems:
            yield TableRow(1, problems=tuple(problems))
        self.left_out.clear()
        yield from read_folder(self.path, partial(self._feed, reading), self.left_out, column=column)

    def _feed(self, reading: _Reading, data: bytes) -> None:
        """Receive what is read from the table; the reading ends if it is interrupted."""
        if self.interrupted.is_set():
            msg = f"The reading of {self.path} was interrupted. Run the same command again."
            raise ConfigurationError(msg)
        reading.digest.update(data)

    def _check_header(
        self, reading: _Reading, names: list[str], *, is_folder: bool = False
    ) -> tuple[list[Problem], list[str | None]]:
        """Check column names; of columns with the same name, only the first is used, and unknown columns are not."""
        given = [*names, *(name for name in self.defaults if name not in names)]
        # Where rows name their models, each row is checked against the columns of its own.
        columns = columns_for_any_model() if MODEL in given else self._default_columns()
        reading.checks_names = columns.names is not None
        fields = {columns.field_of(name) for name in given}
        reading.missing_columns = frozenset(columns.required) - fields
        used = [
            None if name in names[:index] or columns.name_problem(name) else name for index, name in enumerate(names)
        ]
        from_options = {shown(name) for name in self.defaults if name not in names}
        problems = [
            attrs.evolve(problem, field="--set") if problem.value in from_options else problem
            for problem in columns.header_problems(given, is_folder=is_folder)
        ]
        return problems, used


@attrs.define
class _Reading:
    """
    One pass through a table.

    Attributes:
        rows: The rows.

        digest: The hash of everything read so far.

        file: The open file; None for a folder.

        missing_columns: Required columns that the table lacks: reported once for the table, not for each row.

        checks_names: True if the names of all columns were checked for the table as a whole.
    """

    rows: Iterator[TableRow] = attrs.field(factory=lambda: iter(()))
    digest: hashlib._Hash = attrs.field(factory=hashlib.sha256)
    missing_columns: frozenset[str | None] = frozenset()
    checks_names: bool = False
    file: BinaryIO | None = None


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe without a writer would never open."""
    return os.open(path, flags | os.O_NONBLOCK)


@attrs.frozen
class _CheckedFile(MediaSource):
    """An image of a table. It is read once for its check and once for its hash, however many rows have it."""

    _known: dict[tuple[str, MediaLimits], list[Problem]] = attrs.field(factory=dict, eq=False, repr=False)
    _hashes: list[str] = attrs.field(factory=list, eq=False, repr=False)

    def problems(self, field: str = "image") -> list[Problem]:
        if (field, self.limits) not in self._known:
            self._known[field, self.limits] = super().problems(field)
        return self._known[field, self.limits]

    def sha256(self) -> str:
        if not self._hashes:
            self._hashes.append(self.load().sha256)
        return self._hashes[0]


class _ImageCache:
    """The images of one check, by their cells; the client checks every image again when it is sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images: dict[str, _CheckedFile] = {}

    def open(self, name: str) -> _CheckedFile:
        """Return the image that a cell names."""
        if (image := self._images.get(name)) is None:
            if len(self._images) >= _REMEMBERED_IMAGES:
                del self._images[next(iter(self._images))]
            image = self._images[name] = _CheckedFile(find_image(self._folder, name))
        return image


def _hash_image(image: MediaSource) -> str:
    return image.sha256() if isinstance(image, _CheckedFile) else image.load().sha256


def _shown_input(request: Request, files: Mapping[str, MediaSource]) -> Mapping[str, JSON]:
    """Return the input of a request with the names of its local files, without its image, which is shown."""
    names = {field: source.content.name if isinstance(source.content, Path) else "" for field, source in files.items()}
    image = next((field for field, source in files.items() if source.limits.kinds == ("image",)), None)
    return {name: value for name, value in request.input(names).items() if name != image}


def _key_problems(key: object, seen: set[int]) -> list[Problem]:
    """
    List the problems of a row key.

    Args:
        key: The key; an empty string stands for the default key.

        seen: The hashes of the keys so far; the new one is added.
    """
    if key == "":
        return []
    if not (isinstance(key, str) and len(key) <= MAX_KEY and key.isprintable()):
        return [Problem(KEY, shown(key), f"a string of 1 to {MAX_KEY} characters, all of them printable")]
    if is_retry_key(key):
        return [Problem(KEY, shown(key), "a text that does not end in ~retry and a number, as the keys of retries do")]
    # File names escape what is not ASCII, so only the case of ASCII letters may be lost in a file system.
    if without_url_secrets(key) != key:
        return [
            Problem(
                KEY,
                shown(without_url_secrets(key)),
                "a text without a URL's user, password and query: it names files and is shown",
            )
        ]
    hashed = int.from_bytes(hashlib.blake2b(key.encode().lower(), digest_size=8).digest(), "big")
    if hashed in seen:
        return [Problem(KEY, f"{key!a} again", "a different key for each row, not only in upper or lower case")]
    seen.add(hashed)
    return []
