"""
The figures of a test run: the numbers that its tests recorded, added up over all tests and processes.

A test records figures with pytest's own fixture, under a name that it may share with other tests::

    def test_all_seeds(record_property: RecordFigures) -> None:
        record_property("simulation", {"seeds": 20, "paid tasks": 8012, "faults": {"reset": 13, "silence": 4}})

The recorded value is a dictionary; its values are numbers, or dictionaries again. Those of the same name are added key
by key, at any depth, so each figure must be a sum, and no mean and no maximum. A test that failed counts as well. All
other recorded values are left to pytest.

At the end of a nightly run the figures are printed on one page, and written to ``build/nightly-figures.json``.
``python tools/fault_tables.py --figures build/nightly-figures.json`` brings them into the documentation, which shows
these, and says so where one is missing:

* ``simulation``: ``seeds``, ``simulated hours``, ``cpu seconds``, ``paid tasks``, ``kills``, ``cancels``,
  ``violations``, and by kind ``calls`` and ``faults``;
* ``planted bugs``: ``planted`` and ``found``;
* any other name, for example of the kill sweep, as it is.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pytest

from tests import profile

__all__ = ["Figures", "RecordFigures", "RunFigures", "add_figures", "flatten"]

#: A number, or figures by name.
Figures: TypeAlias = "int | float | Mapping[str, Figures]"
#: The type of the fixture ``record_property``.
RecordFigures: TypeAlias = Callable[[str, Figures], None]

ROOT = Path(__file__).parents[1]


def add_figures(one: Figures | None, other: Figures) -> Figures:
    """
    Add figures of the same name.

    Raises:
        TypeError: If one is a number and the other is not, or if a value is neither a number nor a dictionary.
    """
    if isinstance(other, Mapping) and (one is None or isinstance(one, Mapping)):
        names = dict.fromkeys([*(one or ()), *other])
        return {name: _add_named(one or {}, other, name) for name in names}
    if isinstance(other, (int, float)) and (one is None or isinstance(one, (int, float))):
        return other if one is None else one + other
    msg = f"Invalid figures {other!r}: expected a number, or a dictionary of numbers, as in {one!r}."
    raise TypeError(msg)


def _add_named(one: Mapping[str, Figures], other: Mapping[str, Figures], name: str) -> Figures:
    return add_figures(one.get(name), other[name]) if name in other else one[name]


def flatten(figures: Mapping[str, Figures], *above: str) -> Iterator[tuple[str, float]]:
    """Yield each number with its names, joined by colons."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten(value, *above, name)
        else:
            yield ": ".join((*above, name)), value


class RunFigures:
    """
    A plugin that adds up the figures of a run, and at its end prints them and writes them into a file.

    Args:
        path: The file.

    Attributes:
        figures: The sums by name.

        tests: The number of tests that passed and failed.
    """

    def __init__(self, path: Path = ROOT / "build" / "nightly-figures.json") -> None:
        self.figures: dict[str, Figures] = {}
        self.tests: dict[str, int] = {"passed": 0, "failed": 0}
        self._path = path
        self._refused: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the figures of a test; pytest-xdist hands over the reports of its workers."""
        if report.failed:
            self.tests["failed"] += 1
        if report.when != "call":
            return
        if report.passed:
            self.tests["passed"] += 1
        for name, value in report.user_properties:
            if isinstance(value, Mapping):
                try:
                    self.figures[name] = add_figures(self.figures.get(name), value)
                except TypeError as error:
                    self._refused.append(f"{report.nodeid}: {error}")

    def summary(self) -> dict[str, object]:
        """Return all that is written into the file."""
        now = datetime.now(UTC).date()
        return {
            "date": now.isoformat(),
            "commit": _commit(),
            "size": str(profile.size()),
            "seed": str(profile.seed()),
            "tests": self.tests,
            "figures": self.figures,
        }

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the page, and write the file."""
        summary = self.summary()
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps(summary, indent=2) + "\n")
        terminalreporter.section("figures of this run")
        told = {key: summary[key] for key in ("date", "commit", "size", "seed")}
        terminalreporter.write_line(", ".join(f"{name} {value}" for name, value in told.items()))
        rows = list(flatten({"tests": self.tests, **self.figures}))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            terminalreporter.write_line(f"{name:<{width}}  {value:>14,.12g}")
        for line in self._refused:
            terminalreporter.write_line(line, red=True)
        terminalreporter.write_line(f"written to {self._path}")


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=8"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
