"""The contract of all journals, on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.postgres import PostgresStore
from kie_async.testing import virtual_time
from tests.io import test_sqlite as contract
from tests.io.intents import without_owner
from tests.postgres.stores import open_postgres
from tests.profile import examples
from tests.servers.postgres import PostgresServer


@pytest.fixture(params=["full", "hash"])
async def journal(request: pytest.FixtureRequest, postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    """Yield an open journal, in place of those of the contract's own module."""
    async with open_postgres(postgres_dsn, store_inputs=request.param) as store:
        yield store


_OWN = ("test_both_journals_behave_alike", "test_recent_durations_are_read_oldest_first")
globals().update({name: test for name, test in vars(contract).items() if name.startswith("test_") and name not in _OWN})


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(contract.STEPS, max_size=25))
def test_both_journals_behave_alike(postgres_server: PostgresServer, steps: list[contract.Step]) -> None:
    """Any sequence of reads and writes has the same results in memory and in PostgreSQL."""
    postgres_server.reset()

    async def main() -> None:
        memory = MemoryJournal()
        async with open_postgres(postgres_server.dsn()) as stored:
            for step in steps:
                assert await contract.result_of(step, memory) == await contract.result_of(step, stored)
            rows = [without_owner(row) for row in await memory.rows()]
            assert [without_owner(row) for row in await stored.rows()] == rows

    virtual_time(main)
