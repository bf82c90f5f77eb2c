"""The holds of shared runs, on PostgreSQL."""

from __future__ import annotations

from functools import partial

import pytest

from tests.io import test_holds as contract
from tests.postgres.stores import open_postgres


@pytest.fixture
def open_journal(postgres_dsn: str) -> contract.Open:
    """Return a function that opens one more worker's journal, in place of that of the contract's own module."""
    return partial(open_postgres, postgres_dsn)


_OWN = ("test_journal_in_memory_holds_alike",)
globals().update({name: test for name, test in vars(contract).items() if name.startswith("test_") and name not in _OWN})
