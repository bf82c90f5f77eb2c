"""The points of a program at which a signal may kill it, and the log of its events."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import attrs

from kie_async import JSON

__all__ = ["EventLog", "KillPoint", "KillPoints", "read_log"]


@attrs.frozen
class KillPoint:
    """
    A point of a program.

    Attributes:
        phase: The action before or after the point.

        nth: The number of that action, counted from 1.
    """

    phase: str
    nth: int

    def __str__(self) -> str:
        return f"{self.phase} #{self.nth}"

    @classmethod
    def parse(cls, text: JSON) -> KillPoint:
        """Parse a point."""
        phase, _, nth = str(text).rpartition(" #")
        return cls(phase, int(nth))


class EventLog:
    """
    A file of a process's events, one JSON object per line, which survives the process.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def write(self, **entry: JSON) -> None:
        """Append an event."""
        os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


def read_log(path: Path) -> list[dict[str, JSON]]:
    """Return the events of a process; empty if it has logged none."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


class KillPoints:
    """
    The points that a process has passed.

    Args:
        kill_at: The point at which the process is killed, or None.

        by: The signal that kills it.

        log: The log that records the signal; it is the last event before SIGKILL.
    """

    def __init__(self, kill_at: KillPoint | None, by: signal.Signals, log: EventLog) -> None:
        self.passed: list[KillPoint] = []
        self._kill_at = kill_at
        self._by = by
        self._log = log
        self._counts: Counter[str] = Counter()

    def pass_point(self, phase: str) -> None:
        """Pass a point, or be killed at it: after SIGKILL no ``finally`` runs, and nothing is flushed or closed."""
        self._counts[phase] += 1
        point = KillPoint(phase, self._counts[phase])
        self.passed.append(point)
        if point == self._kill_at:
            self._log.write(event="signal", point=str(point), at=time.monotonic())
            os.kill(os.getpid(), self._by)
