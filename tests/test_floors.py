"""Test the imports of the core and the cost of importing the package; import-linter checks the layers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE_FILES = sorted(path for folder in ("kie_async", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
CORE_FILES = sorted((ROOT / "kie_async" / "_core").glob("*.py"))

#: The modules that the core may import: none of them waits, reads a clock, is random or touches the system.
CORE_IMPORTS = {
    "__future__",
    "array",
    "attrs",
    "base64",
    "bisect",
    "cattrs",
    "collections",
    "datetime",
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

#: The private modules that the command line and the testing tools may import.
SHARED_HELPERS = {"_data", "_display", "_dsn", "_journal_schema", "_keys", "_media", "_model", "_urls"}
OUTER_FILES = sorted(path for folder in ("cli", "testing") for path in (ROOT / "kie_async" / folder).rglob("*.py"))

HEAVY = {"aiohttp", "asyncio", "anyio", "av", "cattrs", "rich", "sqlite3", "tenacity", "typer"}


def imports(path: Path) -> set[str]:
    """Return the top-level names of all imports in a file, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: relative import"
            found.add(node.module.partition(".")[0])
    return found


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after *statement*."""
    code = f"{statement}; import sys; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.name)
def test_the_core_imports_nothing_that_waits(path: Path) -> None:
    """Imports within functions and for type checkers count, too."""
    assert imports(path) <= CORE_IMPORTS


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.name)
def test_the_core_reads_no_clock(path: Path) -> None:
    """It may read a date from text, and no date from the system."""
    calls = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}

    assert not calls & {"now", "utcnow", "today"}


@pytest.mark.parametrize("path", OUTER_FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_cli_and_testing_import_no_private_modules(path: Path) -> None:
    """Imports within functions and for type checkers count, too; shared helpers are allowed."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    private = {part for name in names for part in name.split(".")[1:3] if part.startswith("_") and "kie_async" in name}

    assert private <= SHARED_HELPERS | {"__version__"}


@pytest.mark.parametrize(
    "statement",
    [
        "import kie_async",
        "from kie_async import InvalidRequestError, Limits, RetryPolicy, TaskState",
        "import kie_async.testing",
    ],
)
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    """The command line must start fast."""
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_the_pytest_plugin_loads_lazily() -> None:
    """Pytest loads it in every project that has the package installed."""
    ours = {name for name in loaded_by("import kie_async.testing.pytest_plugin") if name.startswith("kie_async")}

    assert ours == {"kie_async", "kie_async._version", "kie_async.testing", "kie_async.testing.pytest_plugin"}


def test_the_client_loads_lazily() -> None:
    """A program may import the client at start and pay for it on first use."""
    assert loaded_by("from kie_async import KieClient, MarketRequest, Wan22TurboImageToVideo").isdisjoint(
        {"aiohttp", "asyncio", "cattrs", "hashlib", "logging", "tenacity", "kie_async._io.http.transport"}
    )


def test_the_core_loads_nothing_that_waits() -> None:
    """Indirect imports count, too."""
    modules = ", ".join(f"kie_async._core.{path.stem}" for path in CORE_FILES if path.stem != "__init__")

    assert loaded_by(f"import {modules}").isdisjoint({"aiohttp", "asyncio", "anyio", "tenacity", "kie_async._io"})


@pytest.mark.parametrize("path", SOURCE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
