"""
Marks the tests of this folder, and gives them a PostgreSQL server.

``pytest -m "not system_tools"`` leaves them out.
"""

from __future__ import annotations

from tests.servers.fixtures import mark_tests_below, postgres_dsn, postgres_server

__all__ = ["postgres_dsn", "postgres_server"]

pytest_collection_modifyitems = mark_tests_below(__file__)
