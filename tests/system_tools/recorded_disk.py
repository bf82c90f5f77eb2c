"""
A disk that loses power: what a process did to its files, recorded by strace, and what may be left of it at any instant.

The rules are those of POSIX and no kinder: what was not synced may have reached the disk or not, each write and each
truncation by itself, a write also in part (by sectors); whether a file was made or removed is known to the disk only
when the folder was synced. Memory that is mapped (SQLite's ``-shm``, an index that it makes anew) is not part of it.
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

__all__ = ["Call", "Disk", "Made", "Removed", "Said", "Synced", "Truncated", "Written", "record"]

SECTOR = 512


@attrs.frozen
class Written:
    """Bytes were written into a file."""

    name: str
    offset: int
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Truncated:
    """A file was given another length."""

    name: str
    size: int


@attrs.frozen
class Synced:
    """A file, or with an empty name the folder, was synced."""

    name: str


@attrs.frozen
class Made:
    """A file was opened, and made if it was not there."""

    name: str


@attrs.frozen
class Removed:
    """A file was removed."""

    name: str


@attrs.frozen
class Said:
    """A line was written to standard output."""

    line: str


Call: TypeAlias = Written | Truncated | Synced | Made | Removed | Said


# -- what was done -----------------------------------------------------------------------------------------------------

#: All calls by which a file's content or name can change; one that the replay does not know is an error.
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
    Run a Python program and record what it does to a database, and what it says.

    Args:
        command: Arguments for the interpreter.

        path: The database; files whose name begins with its name belong to it, but for the ``-shm``.
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
        elif (begun := _STARTED.fullmatch(line)) is not None and begun["result"] is None:
            started[begun["thread"]] = begun["arguments"]
            # A line on standard output may be read before the call returns.
            call = _said(begun["name"], begun["arguments"])
        elif begun is not None:
            call = _said(begun["name"], begun["arguments"]) or _call(
                begun["name"], begun["arguments"], int(begun["result"]), path
            )
        else:
            raise AssertionError(line)
        if call is not None:
            yield call


def _text(shown: str) -> str:
    """What strace shows, with its hexadecimal strings read."""
    return _HEX.sub(lambda found: os.fsdecode(bytes.fromhex(found[0].replace("\\x", ""))), shown)


def _said(name: str, arguments: str) -> Said | None:
    if name != "write" or not arguments.startswith("1<"):
        return None
    return Said(_text(arguments.split('"')[1]).rstrip("\n"))


def _call(name: str, arguments: str, result: int, path: Path) -> Call | None:
    """What a call that has returned did to the database's files, or None."""
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
            return Made(file) if "O_CREAT" in rest[1] else None
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
    """Whether a file belongs to the database, beside the index in memory and the folder of the owners."""
    file = Path(whole)
    return file.parent == path.parent and file.name.startswith(path.name) and file.name != f"{path.name}-shm"


# -- what is left of it ------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _File:
    """A file: what is on the disk for certain, and what may be."""

    certain: bytearray = attrs.field(factory=bytearray)
    pending: list[Written | Truncated] = attrs.field(factory=list)


def _apply(content: bytearray, call: Written | Truncated) -> None:
    end = call.size if isinstance(call, Truncated) else call.offset + len(call.data)
    if isinstance(call, Truncated):
        del content[end:]
    content.extend(bytes(max(0, end - len(content))))
    if isinstance(call, Written):
        content[call.offset : end] = call.data


def _sectors(call: Written | Truncated) -> list[Written | Truncated]:
    """The parts of a call that reach the disk each by itself."""
    if isinstance(call, Truncated):
        return [call]
    end = call.offset + len(call.data)
    edges = [call.offset, *range(call.offset // SECTOR * SECTOR + SECTOR, end, SECTOR), end]
    return [Written(call.name, low, call.data[low - call.offset : high - call.offset]) for low, high in pairwise(edges)]


class Disk:
    """
    A folder on a disk, and what its power's going off makes of it.

    Attributes:
        dropped: How many calls the last power cut has undone, or undone in part.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._files: dict[str, _File] = {}
        self._certain: dict[str, _File] = {}
        self._pending: list[tuple[str, _File | None]] = []

    def do(self, call: Call) -> None:
        """Take a call."""
        match call:
            case Said():
                pass
            case Made(name):
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
                    _apply(file.certain, change)
                file.pending.clear()
            case Written(name) | Truncated(name):
                self._files[name].pending.append(call)

    def cut(self, chance: Random, folder: Path) -> None:
        """
        Cut the power, and put what is left into *folder*.

        Args:
            chance: Each call that was not synced is dropped with probability 1/2; of one write in four, each sector is.

            folder: An empty folder.
        """
        self.dropped = 0
        for name, made in self._pending:
            if self._kept(chance):
                self._name(name, made)
        for name, file in self._certain.items():
            for call in file.pending:
                parts = _sectors(call) if chance.random() < 0.25 else [call]
                for part in parts:
                    if self._kept(chance):
                        _apply(file.certain, part)
            (folder / name).write_bytes(file.certain)

    def _kept(self, chance: Random) -> bool:
        kept = chance.random() < 0.5
        self.dropped += not kept
        return kept

    def _name(self, name: str, file: _File | None) -> None:
        if file is None:
            self._certain.pop(name, None)
        else:
            self._certain[name] = file
