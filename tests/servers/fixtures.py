"""Fixtures of tests that need real servers; a folder's ``conftest.py`` imports them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.postgres import PostgresServer

__all__ = ["mark_tests_below", "postgres_dsn", "postgres_server"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """
    Start the server that the tests of this process share; those that stop it or change its settings make their own.

    Each worker of pytest-xdist has its own: it starts in under a second, and nothing needs to be agreed upon.
    """
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer) -> str:
    """Return the DSN of an empty database: a schema takes a millisecond to drop, a database sixty to make."""
    postgres_server.reset()
    return postgres_server.dsn()


def mark_tests_below(conftest: str) -> Callable[[list[pytest.Item]], None]:
    """Make the hook that marks each test of the folder of *conftest*: they need tools of the distribution."""
    folder = Path(conftest).parent

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        for item in items:
            if folder in item.path.parents:
                item.add_marker(pytest.mark.system_tools)

    return pytest_collection_modifyitems
