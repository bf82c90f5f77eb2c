"""Each row of the fault tables names tests that exist, or a reason; the page in the documentation shows the tables."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.fault_tables import CLIENT, FLEET, Row
from tools.fault_tables import PAGE, make_page, read_figures

TESTS = Path(__file__).parent


@cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of the test functions of a file."""
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    )


@pytest.mark.parametrize(("table", "count"), [(CLIENT, 62), (FLEET, 26)])
def test_each_fault_has_tests_or_a_reason(table: Sequence[Row], count: int) -> None:
    """Each number occurs once, in order."""
    assert list(range(1, count + 1)) == [row.number for row in table]
    assert [] == [row.number for row in table if not (row.tests or row.reason)]


@pytest.mark.parametrize("row", [*CLIENT, *FLEET], ids=lambda row: f"{row.where}-{row.number}")
def test_each_named_test_exists(row: Row) -> None:
    names = [name.partition("::") for name in row.tests]

    assert len(set(row.tests)) == len(row.tests)
    assert [] == [file for file, _, name in names if not name or not (TESTS / file).is_file()]
    assert [] == [name for file, _, name in names if name not in functions(TESTS / file)]


def test_the_page_shows_the_tables_and_the_last_figures() -> None:
    """Update it with ``python tools/fault_tables.py``."""
    assert make_page(read_figures()) == PAGE.read_text()


def test_the_page_shows_all_figures_and_says_what_is_missing() -> None:
    simulation = {"seeds": 5000, "simulated hours": 85.25, "faults": {"reset": 13, "cut": {"half": 20}}, "wakes": 7}
    page = make_page({"date": "2026-01-31", "seed": "4711", "figures": {"simulation": simulation}})

    assert "No nightly run has been recorded." in make_page(None)
    assert {
        "| date | 2026-01-31 |",
        "| commit | not recorded |",
        "| seed | 4711 |",
        "| tests: passed | not recorded |",
        "| simulation: seeds | 5,000 |",
        "| simulation: simulated hours | 85.25 |",
        "| simulation: faults | cut: half 20, reset 13 |",
        "| simulation: kills | not recorded |",
        "| simulation: wakes | 7 |",
    } <= {*page.splitlines()}
