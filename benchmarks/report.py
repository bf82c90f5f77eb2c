"""The result of a benchmark: a table to read and a file to keep."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

__all__ = ["RESULTS", "Report"]

RESULTS = Path(__file__).parent / "results"


@attrs.frozen(kw_only=True)
class Report:
    """
    The answer to one question.

    Attributes:
        name: The name of the benchmark's module.

        question: The question that the benchmark answers.

        bound: The best possible figure, with the reason.

        columns: The headings.

        rows: A row for each contender and case; numbers are saved exactly and shown rounded.
    """

    name: str
    question: str
    bound: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]

    def text(self) -> str:
        """
        Return the aligned table: words to the left, numbers to the right.

        >>> print(Report(name="n", question="How far?", bound="3", columns=["who", "m"], rows=[["you", 2.5]]).text())
        How far?
        Bound: 3
        <BLANKLINE>
        who    m
        you  2.5
        """
        shown = [list(self.columns), *([_shown(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        is_text = [any(isinstance(row[place], str) for row in self.rows) for place in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if left else cell.rjust(width)
                for cell, width, left in zip(row, widths, is_text, strict=True)
            ).rstrip()
            for row in shown
        ]
        return "\n".join([self.question, f"Bound: {self.bound}", "", *lines])

    def save(self) -> Path:
        """Write the figures with commit, Python and machine to ``results/NAME.json``, and return the path."""
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607  # the git that made the checkout
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        figures = {
            "benchmark": self.name,
            "question": self.question,
            "bound": self.bound,
            "commit": commit,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "machine": {
                "system": f"{platform.system()} {platform.machine()}",
                "cores": os.cpu_count(),
                "processor": _processor(),
            },
            "results": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
        return path


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3f}".rstrip("0").rstrip(".")


def _processor() -> str:
    """Return the name of the processor, if the platform has it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
