"""The points at which a process may be killed: it counts them as it passes them, and dies at one."""

from __future__ import annotations

import json
import os
import signal
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
        kill_at: Where it is killed, as by ``kill -9``; None for nowhere.
    """

    def __init__(self, kill_at: Point | None = None) -> None:
        self.trail: list[Point] = []
        self._kill_at = kill_at
        self._passed: Counter[str] = Counter()

    def reach(self, phase: str) -> None:
        """Pass a point, or end at it: no ``finally`` runs, nothing is flushed, nothing is closed."""
        self._passed[phase] += 1
        point = Point(phase, self._passed[phase])
        if point == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.trail.append(point)
