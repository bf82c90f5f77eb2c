"""``manifest.jsonl``: what became of every row, one JSON object a line, readable whenever the process may die."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from kie_async import ConfigurationError
from kie_async.cli.batch.atomic_files import replaced
from kie_async.cli.batch.entry import Entry, entry_of, line_of
from kie_async.cli.batch.folder import MANIFEST, claimed

__all__ = ["Manifest"]

#: How a line begins that was torn by a full disk, or a power cut.
_BEGINS = b'{"key": "'


class Manifest:
    """
    The manifest of a folder.

    Its methods block: they are a matter for a worker thread, one at a time. Only ``entries`` may be read in another one
    while rows are recorded.

    While rows end, lines are appended, each by one call to the system, so that a process which is killed leaves whole
    lines behind; the last line of a key is the one that counts. ``compact`` leaves one line a key, in the order of the
    table, and puts the new file in the place of the old one at once.

    A row that ends as it had ended before is not written again: repeating a finished run changes nothing.

    Args:
        folder: The folder, which is there.

    Raises:
        ConfigurationError: If another process is writing one there, or a line of it says nothing: compacting would lose
            what somebody has written.

        OSError: If the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / MANIFEST
        #: Of each key, by its hash: where its last line begins. An integer is all that a row costs here.
        self._places: dict[int, int] = {}
        self._end = 0
        with ExitStack() as opened:
            self._claim = claimed(folder)
            opened.callback(os.close, self._claim)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            opened.callback(os.close, self._file)
            self._read()
            opened.pop_all()

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
        ends = True
        with open(self._file, "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                ends = line.endswith(b"\n")
                if (entry := entry_of(line)) is not None:
                    self._places[_hash_of(entry.key)] = self._end
                elif not ends and (line.startswith(_BEGINS) or _BEGINS.startswith(line) or not line.strip(b"\0")):
                    ends = True
                    break  # torn by a full disk, or a power cut: the journal knows better
                elif line.strip():
                    msg = (
                        f"Line {number} of {self._path} is none that batch has written. Nothing was sent: correct it or"
                        " remove it (the journal knows what was paid), or choose another --out."
                    )
                    raise ConfigurationError(msg)
                self._end += len(line)
        os.ftruncate(self._file, self._end)
        if not ends:
            self._end += os.write(self._file, b"\n")  # an editor has left it out

    def record(self, entry: Entry) -> None:
        """
        Write down what became of a row.

        Raises:
            OSError: If the disk is full, or worse; the file is then as it was.
        """
        line, name = line_of(entry), _hash_of(entry.key)
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
        with open(self._file, "rb", closefd=False) as file:
            file.seek(place)
            found = entry_of(file.readline())
        return found if found is not None and found.key == key else None

    def entries(self) -> Iterator[Entry]:
        """What became of each row, in the order in which their last lines stand in the file."""
        with self._path.open("rb") as file:
            for place in sorted(self._places.copy().values()):
                file.seek(place)
                if (entry := entry_of(file.readline())) is not None:
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


def _hash_of(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(errors="replace"), digest_size=8).digest(), "big")
