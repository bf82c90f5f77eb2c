"""Takeovers on PostgreSQL, where a lease tells which workers are alive."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import anyio
import pytest

from kie_async import KieClient
from kie_async._io.journals.postgres import PostgresStore
from kie_async.testing import FakeKie
from tests.helpers import KEY, JournalClient, make_request
from tests.io import test_takeovers as contract
from tests.io.intents import make_intent
from tests.postgres.clock import Clock
from tests.postgres.stores import open_postgres


@pytest.fixture
def open_journal(postgres_dsn: str) -> contract.Open:
    """Return a function that opens one more worker's journal, in place of that of the contract's own module."""
    return partial(open_postgres, postgres_dsn)


globals().update({name: test for name, test in vars(contract).items() if name.startswith("test_")})


async def test_new_worker_waits_before_it_takes_an_expired_lease_for_an_end(clock: Clock) -> None:
    async with open_postgres(clock.dsn) as ended:
        row = await ended.add(make_intent(1))
        await clock.pass_time(60.0)
        async with open_postgres(clock.dsn) as heir:
            assert await heir.has_expired_owners()
            assert [] == list(await heir.take_over(limit=9))
            await clock.pass_time(6.0, heir)
            assert not await heir.has_expired_owners()
            assert [row.id] == [taken.id for taken in await heir.take_over(limit=9)]


async def test_worker_whose_jobs_were_taken_over_polls_them_no_more(clock: Clock) -> None:
    """It learns that at its next heartbeat, by the server's clock: its own did not see the time pass."""
    async with FakeKie(duration=300.0) as fake, KieClient(KEY, base_url=fake.url, journal=clock.dsn) as away:
        service = away._binding.current.journal.service  # type: ignore[union-attr]  # noqa: SLF001
        await away.submit(make_request())
        assert 1 == away.statistics().watched
        async with open_postgres(clock.dsn, service=service) as heir:
            await clock.pass_time(15.0, heir)
            assert 1 == len(await heir.take_over(limit=9))
            await anyio.sleep(3.5)
            assert (1, 0) == (away.statistics().jobs, away.statistics().watched)


def test_blocked_event_loop_is_reported_once(postgres_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """It stands still for longer than the lease, which is shortened here."""

    async def main() -> None:
        store = PostgresStore(lambda: postgres_dsn)
        store.lease, store.heartbeat_interval = 0.6, 0.2
        async with FakeKie() as fake, JournalClient(KEY, base_url=fake.url, journal=store) as kie:
            await kie.jobs()
            time.sleep(1.0)  # noqa: ASYNC251 (that is the subject)
            await asyncio.sleep(0.7)

    asyncio.run(main())
    assert 1 == caplog.text.count("This worker was away")
