"""``manifest.jsonl``: the outcome of every row, one JSON object per line, readable whenever the process ends."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
from attrs.validators import in_, instance_of, optional

from kie_async import JSON, ConfigurationError
from kie_async.cli.batch.folder import MANIFEST, atomic_write, lock_folder

__all__ = ["EntryState", "Manifest", "ManifestEntry"]

#: Characters that JSON allows and a terminal or a reader of lines misinterprets: they are written as escapes.
_UNSAFE_CHARACTERS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
#: The beginning of each line, by which a line that was torn by a full disk or a power cut is recognized.
_LINE_START = b'{"key": "'


class EntryState(StrEnum):
    """The state of a row in the manifest."""

    DONE = "done"  #: The row has its files.
    FAILED = "failed"  #: The row has no files, and none will come automatically.
    RUNNING = "running"  #: The service works on the task; this program was stopped.
    IN_DOUBT = "in_doubt"  #: The create request was sent; the service may or may not have accepted it.
    SKIPPED = "skipped"  #: Nothing was sent, because of the budget or ``--stop-after``.


def _require_number(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value)):  # OverflowError: an integer that is no float
        msg = f"{attribute.name} is not a finite number"
        raise ValueError(msg)


_STRING, _NUMBER = instance_of(str), _require_number


@attrs.frozen(kw_only=True)
class ManifestEntry:
    """
    The outcome of one row. Users may edit the file, so all values are validated.

    Attributes:
        key: The row key.

        line: The row's line in the table.

        state: The state; see ``EntryState``.

        model: The model's name.

        input_hash: The content hash of the request.

        task_id: The service's id, or None.

        job_id: The job's id in the journal, or None.

        credits: The cost of the task, or None if unknown.

        seconds: The time that the service took, or None.

        file: The path of the result, relative to the manifest's folder; None while there is none.

        sha256: The hash of the file.

        size: The size of the file, in bytes.

        more: Further results: their hashes by path.

        created_at: The service's time of the create, in seconds since the epoch, or None.

        input: The input of the request without images.

        source: The image as the table names it: a path or a URL.

        image: The path of the copied image, relative to the manifest's folder; None for an image at a URL.

        reason: The reason why there is no result.

        command: The shell command with which to continue.

        origin: The service; empty if it is not known.
    """

    key: str = attrs.field(validator=_STRING)
    line: int = attrs.field(validator=instance_of(int))
    state: str = attrs.field(validator=in_(tuple(EntryState)))
    model: str = attrs.field(default="", validator=_STRING)
    input_hash: str = attrs.field(default="", validator=_STRING)
    task_id: str | None = attrs.field(default=None, validator=optional(_STRING))
    job_id: str | None = attrs.field(default=None, validator=optional(_STRING))
    credits: float | None = attrs.field(default=None, validator=optional(_NUMBER))
    seconds: float | None = attrs.field(default=None, validator=optional(_NUMBER))
    file: str | None = attrs.field(default=None, validator=optional(_STRING))
    sha256: str | None = attrs.field(default=None, validator=optional(_STRING))
    size: int | None = attrs.field(default=None, validator=optional(instance_of(int)))
    more: Mapping[str, str] = attrs.field(factory=dict, validator=instance_of(dict))
    created_at: float | None = attrs.field(default=None, validator=optional(_NUMBER))
    input: Mapping[str, JSON] = attrs.field(factory=dict, validator=instance_of(dict))
    source: str | None = attrs.field(default=None, validator=optional(_STRING))
    image: str | None = attrs.field(default=None, validator=optional(_STRING))
    reason: str | None = attrs.field(default=None, validator=optional(_STRING))
    command: str | None = attrs.field(default=None, validator=optional(_STRING))
    origin: str = attrs.field(default="", validator=_STRING)

    def to_line(self) -> bytes:
        """Return the line of the manifest, with its line break."""
        text = json.dumps(attrs.asdict(self), ensure_ascii=False)
        escaped = _UNSAFE_CHARACTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        return f"{escaped}\n".encode(errors="replace")

    @classmethod
    def from_line(cls, line: bytes) -> Self | None:
        """Parse a line; return None if this program did not write it, or an edit has made it invalid."""
        try:
            known = json.loads(line, parse_constant=_refuse_constant, parse_float=_parse_float).items()
            return cls(**{name: value for name, value in known if name in _FIELDS})
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


def _refuse_constant(constant: str) -> object:
    """Refuse NaN and Infinity, which are not JSON: other readers of the file would fail."""
    raise ValueError(constant)


def _parse_float(digits: str) -> float:
    """Refuse a number that is too large for a float: it would be written as Infinity."""
    if math.isfinite(value := float(digits)):
        return value
    raise ValueError(digits)


_FIELDS = frozenset(field.name for field in attrs.fields(ManifestEntry))


class Manifest:
    """
    The manifest of a folder, locked against other processes while it is open.

    Its methods block: call them in a worker thread, one at a time. Only ``entries`` may run in another thread while
    rows are recorded.

    During a run, lines are appended, each by one system call, so that a killed process leaves whole lines; the last
    line of a key counts. ``compact`` keeps one line per key, in the order of the table, and replaces the file
    atomically. A row whose outcome has not changed is not written again: repeating a finished run changes nothing.

    Args:
        folder: The folder, which must exist.

    Raises:
        ConfigurationError: If another process has locked the folder, or a line is invalid: compacting would lose what
            a user has written.

        OSError: If the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / MANIFEST
        #: The offset of each key's last line, by the key's hash: one integer per row is all that is held in memory.
        self._offsets: dict[int, int] = {}
        self._end = 0
        with ExitStack() as opened:
            self._lock = lock_folder(folder)
            opened.callback(os.close, self._lock)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            opened.callback(os.close, self._file)
            self._read_offsets()
            opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._file)
        os.close(self._lock)

    def __len__(self) -> int:
        return len(self._offsets)

    def _read_offsets(self) -> None:
        complete = True
        with open(self._file, "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                complete = line.endswith(b"\n")
                if (entry := ManifestEntry.from_line(line)) is not None:
                    self._offsets[_key_hash(entry.key)] = self._end
                elif not complete and (
                    line.startswith(_LINE_START) or _LINE_START.startswith(line) or not line.strip(b"\0")
                ):
                    complete = True
                    break  # torn by a full disk or a power cut: the journal has the row
                elif line.strip():
                    msg = (
                        f"Line {number} of {self._path} is invalid: batch has not written it. Nothing was sent: correct"
                        " or remove it (the journal knows what was paid), or use another --out."
                    )
                    raise ConfigurationError(msg)
                self._end += len(line)
        os.ftruncate(self._file, self._end)
        if not complete:
            self._end += os.write(self._file, b"\n")  # an editor has dropped the last line break

    def record(self, entry: ManifestEntry) -> None:
        """
        Append the outcome of a row, unless it is recorded already.

        Raises:
            OSError: If it cannot be written, for example because the disk is full; the file is then unchanged.
        """
        line, key_hash = entry.to_line(), _key_hash(entry.key)
        offset = self._offsets.get(key_hash)
        if offset is not None and os.pread(self._file, len(line), offset) == line:
            return
        try:
            written = os.write(self._file, line)
            if written != len(line):
                os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._offsets[key_hash] = self._end
        self._end += len(line)

    def clear(self) -> None:
        """Remove all lines: the run starts over."""
        os.ftruncate(self._file, 0)
        self._offsets, self._end = {}, 0

    def entry(self, key: str) -> ManifestEntry | None:
        """Return the recorded outcome of a row key, or None."""
        if (offset := self._offsets.get(_key_hash(key))) is None:
            return None
        with open(self._file, "rb", closefd=False) as file:
            file.seek(offset)
            entry = ManifestEntry.from_line(file.readline())
        return entry if entry is not None and entry.key == key else None

    def entries(self) -> Generator[ManifestEntry]:
        """Yield the last outcome of each row, in the order of the file."""
        with self._path.open("rb") as file:
            for offset in sorted(self._offsets.copy().values()):
                file.seek(offset)
                if (entry := ManifestEntry.from_line(file.readline())) is not None:
                    yield entry

    def compact(self) -> None:
        """
        Keep one line per key, in the order of the table.

        Raises:
            OSError: If it cannot be written, for example because the disk is full; the file is then unchanged.
        """
        order = sorted((entry.line, _key_hash(entry.key)) for entry in self.entries())
        offsets, end = {}, 0
        with self._path.open("rb") as old, atomic_write(self._path) as new:
            for _, key_hash in order:
                old.seek(self._offsets[key_hash])
                line = old.readline()
                new.write(line)
                offsets[key_hash], end = end, end + len(line)
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._offsets, self._end = offsets, end


def _key_hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(errors="replace"), digest_size=8).digest(), "big")
