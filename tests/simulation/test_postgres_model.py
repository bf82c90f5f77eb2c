"""
The model of PostgreSQL: the contract of the journals, and the tests of the real server that need no control of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.postgres import PostgresStore
from kie_async.testing import virtual_time
from tests.io import test_holds, test_sqlite, test_takeovers
from tests.io.intents import without_owner
from tests.postgres import test_account, test_session
from tests.postgres import test_takeovers as postgres_takeovers
from tests.postgres.clock import Clock
from tests.postgres.stores import open_postgres
from tests.profile import examples
from tests.simulation.postgres_model import ModelServer


@pytest.fixture
def postgres_dsn() -> Iterator[ModelServer]:
    """Yield a server, in place of the DSN of a real one."""
    with closing(ModelServer(now=time.time)) as server:
        yield server


@pytest.fixture
def clock(postgres_dsn: ModelServer) -> Clock:
    """Return the clock of an empty server."""
    return Clock(postgres_dsn, postgres_dsn.set_clock)


@pytest.fixture
def open_journal(postgres_dsn: ModelServer) -> test_takeovers.Open:
    """Return a function that opens one more worker's journal, in place of that of the contract's own module."""
    return partial(open_postgres, postgres_dsn)


@pytest.fixture(params=["full", "hash"])
async def journal(request: pytest.FixtureRequest, postgres_dsn: ModelServer) -> AsyncIterator[PostgresStore]:
    """Yield an open journal, in place of those of the contract's own module."""
    async with open_postgres(postgres_dsn, store_inputs=request.param) as store:
        yield store


#: Those of other journals.
_OTHERS = (
    "test_both_journals_behave_alike",
    "test_recent_durations_are_read_oldest_first",
    "test_journal_in_memory_holds_alike",
)
#: Those of the real server that need no more of it than its clock.
_SHARED = (
    test_session.test_clean_close_frees_the_jobs_at_once,
    test_session.test_expired_lease_ends_a_worker,
    test_session.test_worker_that_was_away_takes_no_lease_for_expired,
    test_session.test_stepped_clock_ends_no_worker,
    test_session.test_two_heirs_share_the_jobs,
    test_session.test_change_of_another_worker_is_told,
    postgres_takeovers.test_new_worker_waits_before_it_takes_an_expired_lease_for_an_end,
    test_account.test_each_of_many_changes_counts,
    test_account.test_transition_compares_the_epoch,
    test_account.test_shared_time_never_steps,
)
for contract in (test_sqlite, test_holds, test_takeovers):
    found = {name: test for name, test in vars(contract).items() if name.startswith("test_") and name not in _OTHERS}
    globals().update(found)
globals().update({test.__name__: test for test in _SHARED})


@settings(max_examples=examples(25))
@given(steps=st.lists(test_sqlite.STEPS, max_size=25))
def test_both_journals_behave_alike(steps: list[test_sqlite.Step]) -> None:
    """Any sequence of reads and writes has the same results in memory and in the model."""

    async def main() -> None:
        memory = MemoryJournal()
        with closing(ModelServer(now=time.time)) as server:
            async with open_postgres(server) as stored:
                for step in steps:
                    assert await test_sqlite.result_of(step, memory) == await test_sqlite.result_of(step, stored)
                rows = [without_owner(row) for row in await memory.rows()]
                assert [without_owner(row) for row in await stored.rows()] == rows

    virtual_time(main)
