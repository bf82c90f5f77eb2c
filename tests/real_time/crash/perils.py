"""The points at which a signal may strike a process, which counts them as it passes them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import attrs

from kie_async import JSON

__all__ = ["Diary", "Perils", "Point", "read_diary"]


@attrs.frozen
class Point:
    """
    One point of a program.

    Attributes:
        phase: What has just happened, or is about to.

        nth: The how-manieth time it does, counted from 1.
    """

    phase: str
    nth: int

    def __str__(self) -> str:
        return f"{self.phase} #{self.nth}"

    @classmethod
    def read(cls, text: JSON) -> Point:
        """The point that was written down as a text."""
        phase, _, nth = str(text).rpartition(" #")
        return cls(phase, int(nth))


class Diary:
    """
    What a process has to say, line by line, in a file; what it has said outlives it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def write(self, **entry: JSON) -> None:
        """Say something."""
        os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


def read_diary(path: Path) -> list[dict[str, JSON]]:
    """What a process has said; nothing if it did not live to say anything."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


class Perils:
    """
    The points that a process passes.

    Args:
        kill_at: Where a signal strikes it; None for nowhere.

        by: The signal.

        diary: Where it says that it is struck; after SIGKILL it says no more.
    """

    def __init__(self, kill_at: Point | None, by: signal.Signals, diary: Diary) -> None:
        self.trail: list[Point] = []
        self._kill_at = kill_at
        self._by = by
        self._diary = diary
        self._passed: Counter[str] = Counter()

    def reach(self, phase: str) -> None:
        """Pass a point, or be struck at it: by SIGKILL no ``finally`` runs, nothing is flushed, nothing is closed."""
        self._passed[phase] += 1
        point = Point(phase, self._passed[phase])
        self.trail.append(point)
        if point == self._kill_at:
            self._diary.write(told="signal", point=str(point), at=time.monotonic())
            os.kill(os.getpid(), self._by)
