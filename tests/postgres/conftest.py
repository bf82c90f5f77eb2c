"""
Marks the tests of this folder, and gives them a PostgreSQL server.

``pytest -m "not system_tools"`` leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres.clock import Clock
from tests.servers.fixtures import mark_tests_below, postgres_dsn, postgres_server
from tests.servers.postgres import PostgresServer

__all__ = ["clock", "postgres_dsn", "postgres_server"]

pytest_collection_modifyitems = mark_tests_below(__file__)


@pytest.fixture(scope="session")
def clocked_server() -> Iterator[PostgresServer]:
    """Start a server whose clock the tests step."""
    with PostgresServer(settable_clock=True) as server:
        yield server


@pytest.fixture
def clock(clocked_server: PostgresServer) -> Clock:
    """Return the clock of an empty server."""
    clocked_server.reset()
    clocked_server.step_clock(0.0)
    return Clock(clocked_server.dsn(), clocked_server.step_clock)
