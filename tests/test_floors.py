"""The floors: what the core stands on, what importing the package costs. ``make imports`` checks the directions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("kie_async", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
CORE = sorted((ROOT / "kie_async" / "_core").glob("*.py"))

#: All that deciding needs; whatever waits, tells the time, rolls dice or touches the system is not here.
CORE_STANDS_ON = {
    "__future__",
    "array",
    "attrs",
    "base64",
    "bisect",
    "cattrs",
    "collections",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "hmac",
    "itertools",
    "json",
    "kie_async",
    "math",
    "operator",
    "pathlib",
    "re",
    "types",
    "typing",
    "urllib",
}

HEAVY = {"aiohttp", "asyncio", "anyio", "av", "cattrs", "rich", "sqlite3", "tenacity", "typer"}


def imports(path: Path) -> set[str]:
    """The top names of everything that a file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: relative import"
            found.add(node.module.partition(".")[0])
    return found


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after *statement*."""
    code = f"{statement}; import sys; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_stands_on_nothing_that_waits(path: Path) -> None:
    """Within functions and for type checkers neither: what decides has no use for it."""
    assert imports(path) <= CORE_STANDS_ON


@pytest.mark.parametrize(
    "statement",
    [
        "import kie_async",
        "from kie_async import InvalidRequestError, Limits, RetryPolicy, TaskState",
        "import kie_async.testing",
    ],
)
def test_naming_the_package_loads_nothing_heavy(statement: str) -> None:
    """A command line starts at once."""
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_the_pytest_plugin_loads_nothing_until_a_fixture_is_used() -> None:
    """It is loaded in every project that has the package installed."""
    ours = {name for name in loaded_by("import kie_async.testing.pytest_plugin") if name.startswith("kie_async")}

    assert ours == {"kie_async", "kie_async._version", "kie_async.testing", "kie_async.testing.pytest_plugin"}


def test_the_client_loads_its_machinery_on_first_use() -> None:
    """A program may name the client at import time and pay for it when it is used."""
    assert loaded_by("from kie_async import KieClient, MarketRequest, Wan22TurboImageToVideo").isdisjoint(
        {"aiohttp", "asyncio", "cattrs", "hashlib", "logging", "tenacity", "kie_async._io.http.transport"}
    )


def test_the_core_can_be_used_without_the_waiting_half() -> None:
    """Importing all of it loads nothing that waits, by no detour."""
    modules = ", ".join(f"kie_async._core.{path.stem}" for path in CORE if path.stem != "__init__")

    assert loaded_by(f"import {modules}").isdisjoint({"aiohttp", "asyncio", "anyio", "tenacity", "kie_async._io"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_lives_there(path: Path) -> None:
    """The first sentence of a file is its job."""
    assert ast.get_docstring(ast.parse(path.read_text()))
