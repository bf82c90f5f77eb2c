"""Each row of the fault tables names tests that exist, or a reason; the page in the documentation shows the tables."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.fault_tables import CLIENT, FLEET, Row

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
