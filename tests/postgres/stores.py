"""Stores in PostgreSQL for tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from kie_async._io.journals.postgres import PostgresStore
from tests.simulation.postgres_model import ModelServer, ModelStore

__all__ = ["open_postgres"]


@asynccontextmanager
async def open_postgres(server: str | ModelServer, **options: Any) -> AsyncGenerator[PostgresStore]:
    """Yield an open journal in PostgreSQL (by its DSN), or in a model of it."""
    journal = PostgresStore(lambda: server, **options) if isinstance(server, str) else ModelStore(server, **options)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()
