"""
Write ``docs/fault-tables.md``: the faults, the response to each, the tests that show it, and the figures of a run.

``python tools/fault_tables.py`` writes the page anew. ``python tools/fault_tables.py --figures
build/nightly-figures.json`` takes over the figures of a nightly run before, into ``docs/nightly-figures.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fault_tables import CLIENT, FLEET, Row
from tests.figures import Figures, flatten

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURES = DOCS / "fault-tables.md", DOCS / "nightly-figures.json"

_BEGIN = """\
# Fault tables: what happens when

These are the faults that the package must survive: those of one client, and those of several processes on one journal.
Each row says what the package does, and links to the tests that show it. `python tools/fault_tables.py` makes this page
from `tests/fault_tables.py`, and a test checks that every named test exists.

"""
_FIGURES = """\
## Figures of the last nightly run

`make nightly` ends with these figures. The tests and the simulation record them, and each is a sum.

"""
_NO_FIGURES = "No nightly run has been recorded.\n\n"
#: The figures that every run has, by the names in the file.
_EXPECTED = (
    ("date",),
    ("commit",),
    ("seed",),
    ("tests", "passed"),
    ("tests", "failed"),
    ("figures", "simulation", "seeds"),
    ("figures", "simulation", "simulated hours"),
    ("figures", "simulation", "paid tasks"),
    ("figures", "simulation", "kills"),
    ("figures", "simulation", "cancels"),
    ("figures", "simulation", "faults"),
    ("figures", "simulation", "violations"),
    ("figures", "planted bugs", "planted"),
    ("figures", "planted bugs", "found"),
)


def make_page(figures: Mapping[str, Any] | None) -> str:
    """
    Return the page.

    Args:
        figures: What a nightly run has written; None if there was none.
    """
    parts = [_BEGIN, _FIGURES, *(_figures(figures) if figures else [_NO_FIGURES])]
    parts += ["## One client\n\n", *_table(CLIENT), "\n## Several processes on one journal\n\n", *_table(FLEET)]
    return "".join(parts)


def _figures(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "| figure | value |\n| --- | --- |\n"
    for path in _EXPECTED:
        value: Any = figures
        for name in path:
            value = value.get(name, {})
        yield f"| {': '.join(path).removeprefix('figures: ')} | {_shown(value)} |\n"
    expected = {": ".join(path[1:]) for path in _EXPECTED if path[0] == "figures"}
    for name, more in flatten(figures.get("figures", {})):
        if not any(name == known or name.startswith(f"{known}: ") for known in expected):
            yield f"| {name} | {_shown(more)} |\n"
    yield "\n"


def _shown(value: Figures | str) -> str:
    """Return a figure as text, those by kind in the order of their size."""
    if isinstance(value, Mapping):
        counts = sorted(flatten(value), key=lambda pair: (-pair[1], pair[0]))
        return ", ".join(f"{name} {count:,.12g}" for name, count in counts) or "not recorded"
    return f"{value:,.12g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| # | when | in | then | shown by |\n| --- | --- | --- | --- | --- |\n"
    for row in rows:
        shown = [*map(_link, row.tests), row.reason]
        yield f"| {row.number} | {row.when} | {row.where} | {row.then} | {'; '.join(filter(None, shown))} |\n"


def _link(test: str) -> str:
    """Return a link to a test, under the claim that is its name."""
    file, _, name = test.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../tests/{file})"


def read_figures() -> Mapping[str, Any] | None:
    """Return the figures of the last nightly run that was recorded, or None."""
    return json.loads(FIGURES.read_text()) if FIGURES.exists() else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the page of the fault tables.")
    parser.add_argument("--figures", type=Path, help="the file that a nightly run has written")
    if (given := parser.parse_args().figures) is not None:
        shutil.copyfile(given, FIGURES)
    PAGE.write_text(make_page(read_figures()))
