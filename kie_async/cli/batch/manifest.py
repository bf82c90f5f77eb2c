"""``manifest.jsonl``: what became of every row, one JSON object a line, readable whenever the process may die."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from kie_async import JSON, ConfigurationError
from kie_async.cli.batch.writing import replaced

__all__ = ["NAME", "Entry", "Manifest", "State"]

#: What the file is called, in the folder of the results.
NAME = "manifest.jsonl"


class State(StrEnum):
    """What may have become of a row."""

    DONE = "done"  #: It has its files.
    FAILED = "failed"  #: It has none, and none will come by itself.
    RUNNING = "running"  #: The service is at work on it, and this program is not: it was stopped.
    IN_DOUBT = "in_doubt"  #: It was sent, and nobody can tell whether it was accepted.
    SKIPPED = "skipped"  #: Nothing was sent: the budget or the time was used up.


@attrs.frozen(kw_only=True)
class Entry:
    """
    What became of one row.

    Attributes:
        key: Its name.

        line: Where it stands in the table.

        state: What became of it; see ``State``.

        model: The model's name.

        input_hash: The SHA-256 of model and input, images by content.

        task_id: The service's id, or None.

        job_id: The job's id in the journal, or None.

        credits: What it has cost, or None where nobody said.

        seconds: How long the service took, or None.

        file: The result, by its path from the manifest's folder; None while there is none.

        sha256: The file's hash.

        size: How large it is, in bytes.

        more: Further results, by path: their hashes.

        created_at: When the service created the task, in seconds since the epoch, or None.

        input: What the service was told besides images.

        source: The image as the table has it: a path or a URL.

        image: The image beside the page, by its path from the manifest's folder; None for one at a URL.

        reason: Why there is no result.

        command: What to do about it, as a line for the shell.
    """

    key: str
    line: int
    state: str
    model: str = ""
    input_hash: str = ""
    task_id: str | None = None
    job_id: str | None = None
    credits: float | None = None
    seconds: float | None = None
    file: str | None = None
    sha256: str | None = None
    size: int | None = None
    more: Mapping[str, str] = attrs.field(factory=dict)
    created_at: float | None = None
    input: Mapping[str, JSON] = attrs.field(factory=dict)
    source: str | None = None
    image: str | None = None
    reason: str | None = None
    command: str | None = None


_FIELDS = frozenset(field.name for field in attrs.fields(Entry))


class Manifest:
    """
    The manifest of a folder. Its methods block: they are a matter for a worker thread, one at a time.

    While rows end, lines are appended, each by one call to the system, so that a process which is killed leaves whole
    lines behind; the last line of a key is the one that counts. ``compact`` leaves one line a key, in the order of the
    table, and puts the new file in the place of the old one at once.

    A row that ends as it had ended before is not written again: repeating a finished run changes nothing.

    Args:
        folder: The folder, which is there.

    Raises:
        ConfigurationError: If another process is writing one there.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._claim = _claimed(folder)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        #: Of each key, by its hash: where its last line begins. An integer is all that a row costs here.
        self._places: dict[int, int] = {}
        self._end = 0
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave it to others."""
        os.close(self._file)
        os.close(self._claim)

    def __len__(self) -> int:
        return len(self._places)

    def _read(self) -> None:
        with open(self._file, "rb", closefd=False) as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # torn by a full disk, or a power cut: the journal knows better
                if (entry := _entry_of(line)) is not None:
                    self._places[_hash_of(entry.key)] = self._end
                self._end += len(line)
        os.ftruncate(self._file, self._end)

    def record(self, entry: Entry) -> None:
        """
        Write down what became of a row.

        Raises:
            OSError: If the disk is full, or worse; the file is then as it was.
        """
        line, name = _line_of(entry), _hash_of(entry.key)
        if (place := self._places.get(name)) is not None and os.pread(self._file, len(line), place) == line:
            return
        try:
            written = os.write(self._file, line)
            if written != len(line):
                os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._places[name] = self._end
        self._end += len(line)

    def entry(self, key: str) -> Entry | None:
        """What became of the row with this name, as far as it is written down."""
        if (place := self._places.get(_hash_of(key))) is None:
            return None
        with self._path.open("rb") as file:
            file.seek(place)
            found = _entry_of(file.readline())
        return found if found is not None and found.key == key else None

    def entries(self) -> Iterator[Entry]:
        """What became of each row, in the order in which their last lines stand in the file."""
        with self._path.open("rb") as file:
            for place in sorted(self._places.values()):
                file.seek(place)
                if (entry := _entry_of(file.readline())) is not None:
                    yield entry

    def compact(self) -> None:
        """
        Leave one line a key, in the order of the table.

        Raises:
            OSError: If the disk is full, or worse; the file is then as it was.
        """
        order = sorted((entry.line, _hash_of(entry.key)) for entry in self.entries())
        places, end = {}, 0
        with self._path.open("rb") as old, replaced(self._path) as new:
            for _, name in order:
                old.seek(self._places[name])
                line = old.readline()
                new.write(line)
                places[name], end = end, end + len(line)
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._places, self._end = places, end


def _claimed(folder: Path) -> int:
    """The folder, held against other processes until it is closed, or the process has ended."""
    import fcntl  # POSIX alone has it: a command line without batch is better than none

    claim = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(claim)
        msg = f"Another kie-async batch is at work in {folder}. Nothing was sent: wait for it, or choose another --out."
        raise ConfigurationError(msg) from None
    return claim


def _line_of(entry: Entry) -> bytes:
    return f"{json.dumps(attrs.asdict(entry), ensure_ascii=False)}\n".encode(errors="replace")


def _entry_of(line: bytes) -> Entry | None:
    """What a line says; None where it was not written by this program."""
    try:
        found = json.loads(line)
        return Entry(**{name: value for name, value in found.items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError):
        return None


def _hash_of(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(errors="replace"), digest_size=8).digest(), "big")
