"""Stores in PostgreSQL for tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from kie_async._io.journals.postgres import PostgresStore

__all__ = ["open_postgres"]


@asynccontextmanager
async def open_postgres(dsn: str, **options: Any) -> AsyncGenerator[PostgresStore]:
    """Yield an open journal in PostgreSQL."""
    journal = PostgresStore(lambda: dsn, **options)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()
