"""
A simulated power cut: the file operations of a process, recorded by strace, and the data that may survive them.

The rules are those of POSIX: data that was not synced may have reached the disk or not. Each write and each truncation
survives independently, a write also in part (by sectors). The creation or removal of a file is durable only when the
folder was synced. Mapped memory (SQLite's ``-shm``, an index that SQLite rebuilds) is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TypeAlias

import attrs

__all__ = ["Call", "Created", "Disk", "Printed", "Removed", "Synced", "Truncated", "Written", "record"]

SECTOR = 512


@attrs.frozen
class Written:
    """Bytes were written into a file."""

    name: str
    offset: int
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Truncated:
    """The length of a file was changed."""

    name: str
    size: int


@attrs.frozen
class Synced:
    """A file, or with an empty name the folder, was synced."""

    name: str


@attrs.frozen
class Created:
    """A file was opened, and created if it did not exist."""

    name: str


@attrs.frozen
class Removed:
    """A file was removed."""

    name: str


@attrs.frozen
class Printed:
    """A line was written to standard output."""

    line: str


Call: TypeAlias = Written | Truncated | Synced | Created | Removed | Printed


# -- recording ---------------------------------------------------------------------------------------------------------

#: All calls that change a file's content or name; a call that the replay does not know is an error.
_TRACED = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,copy_file_range,"
    "sendfile,fsync,fdatasync,sync_file_range,msync,unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlinkat"
)
_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
_STARTED = re.compile(
    r"(?P<thread>\d+) +(?P<name>\w+)\((?P<arguments>.*?)(?: <unfinished \.\.\.>|\) += (?P<result>-?\d+).*)"
)
_RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<name>\w+) resumed>(?P<arguments>.*)\) += (?P<result>-?\d+).*")
_OF_DESCRIPTOR = re.compile(r"\d+<(?P<path>[^>]*)>.*")


def record(command: Sequence[str], path: Path) -> list[Call]:
    """
    Run a Python program and record its operations on a database and its output.

    Args:
        command: Arguments for the interpreter.

        path: The database; files whose names begin with its name belong to it, except the ``-shm``.
    """
    log = path.with_name("strace")
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", "10000000", "-o", str(log), "-e", f"trace={_TRACED}"]
    subprocess.run([*strace, sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return list(_calls(log.read_text().splitlines(), path))


def _calls(lines: Iterable[str], path: Path) -> Iterable[Call]:
    started: dict[str, str] = {}
    for line in lines:
        if (resumed := _RESUMED.fullmatch(line)) is not None:
            arguments = started.pop(resumed["thread"]) + resumed["arguments"]
            call = _call(resumed["name"], arguments, int(resumed["result"]), path)
        elif (complete := _STARTED.fullmatch(line)) is not None and complete["result"] is None:
            started[complete["thread"]] = complete["arguments"]
            # A line on standard output may be read before the call returns.
            call = _printed_line(complete["name"], complete["arguments"])
        elif complete is not None:
            call = _printed_line(complete["name"], complete["arguments"]) or _call(
                complete["name"], complete["arguments"], int(complete["result"]), path
            )
        else:
            raise AssertionError(line)
        if call is not None:
            yield call


def _text(shown: str) -> str:
    """Decode the hexadecimal strings of strace."""
    return _HEX.sub(lambda found: os.fsdecode(bytes.fromhex(found[0].replace("\\x", ""))), shown)


def _printed_line(name: str, arguments: str) -> Printed | None:
    if name != "write" or not arguments.startswith("1<"):
        return None
    return Printed(_text(arguments.split('"')[1]).rstrip("\n"))


def _call(name: str, arguments: str, result: int, path: Path) -> Call | None:
    """Return the effect of a finished call on the database's files, or None."""
    descriptor = _OF_DESCRIPTOR.fullmatch(arguments)
    whole = _text(descriptor["path"] if descriptor is not None else arguments.split('"')[1])
    if name in ("fsync", "fdatasync") and whole == str(path.parent):
        return Synced("")
    if result < 0 or not _is_of(whole, path):
        return None
    file = Path(whole).name
    rest = arguments.rpartition('"')[2].split(", ")
    match name:
        case "openat" if "O_TRUNC" not in rest[1]:
            return Created(file) if "O_CREAT" in rest[1] else None
        case "unlink":
            return Removed(file)
        case "fsync" | "fdatasync":
            return Synced(file)
        case "ftruncate":
            return Truncated(file, int(rest[1]))
        case "pwrite64" if int(rest[1]) == result:
            return Written(file, int(rest[2]), bytes.fromhex(arguments.split('"')[1].replace("\\x", "")))
    msg = f"a call that the replay does not know: {name}({_text(arguments)[:200]}) = {result}"
    raise AssertionError(msg)


def _is_of(whole: str, path: Path) -> bool:
    """Return True if a file belongs to the database; its ``-shm`` and the folder of the owners do not."""
    file = Path(whole)
    return file.parent == path.parent and file.name.startswith(path.name) and file.name != f"{path.name}-shm"


# -- replay ------------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _File:
    """A file: its durable content, and the pending changes."""

    durable: bytearray = attrs.field(factory=bytearray)
    pending: list[Written | Truncated] = attrs.field(factory=list)


def _apply(content: bytearray, call: Written | Truncated) -> None:
    end = call.size if isinstance(call, Truncated) else call.offset + len(call.data)
    if isinstance(call, Truncated):
        del content[end:]
    content.extend(bytes(max(0, end - len(content))))
    if isinstance(call, Written):
        content[call.offset : end] = call.data


def _sectors(call: Written | Truncated) -> list[Written | Truncated]:
    """Split a call into the parts that reach the disk independently."""
    if isinstance(call, Truncated):
        return [call]
    end = call.offset + len(call.data)
    edges = [call.offset, *range(call.offset // SECTOR * SECTOR + SECTOR, end, SECTOR), end]
    return [Written(call.name, low, call.data[low - call.offset : high - call.offset]) for low, high in pairwise(edges)]


class Disk:
    """
    A folder on a disk, and the effect of a power cut on it.

    Attributes:
        dropped: The number of calls or parts of calls that the last power cut has undone.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._files: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._pending: list[tuple[str, _File | None]] = []

    def apply(self, call: Call) -> None:
        """Apply a call."""
        match call:
            case Printed():
                pass
            case Created(name):
                if name not in self._files:
                    self._files[name] = _File()
                    self._pending.append((name, self._files[name]))
            case Removed(name):
                del self._files[name]
                self._pending.append((name, None))
            case Synced(""):
                for name, file in self._pending:
                    self._name(name, file)
                self._pending.clear()
            case Synced(name):
                file = self._files[name]
                for change in file.pending:
                    _apply(file.durable, change)
                file.pending.clear()
            case Written(name) | Truncated(name):
                self._files[name].pending.append(call)

    def cut(self, chance: Random, folder: Path) -> None:
        """
        Cut the power, and write the surviving files into *folder*.

        Args:
            chance: Drops each unsynced call with probability 1/2; for one write in four, each sector separately.

            folder: An empty folder.
        """
        self.dropped = 0
        for name, made in self._pending:
            if self._kept(chance):
                self._name(name, made)
        for name, file in self._durable.items():
            for call in file.pending:
                parts = _sectors(call) if chance.random() < 0.25 else [call]
                for part in parts:
                    if self._kept(chance):
                        _apply(file.durable, part)
            (folder / name).write_bytes(file.durable)

    def _kept(self, chance: Random) -> bool:
        kept = chance.random() < 0.5
        self.dropped += not kept
        return kept

    def _name(self, name: str, file: _File | None) -> None:
        if file is None:
            self._durable.pop(name, None)
        else:
            self._durable[name] = file
