"""The account's state in PostgreSQL: many workers change it, and its time never steps."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest

from kie_async._io.journals.postgres import PostgresStore
from kie_async.states import JobState
from tests.io.intents import make_intent
from tests.postgres.clock import Clock
from tests.postgres.stores import open_postgres
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import PostgresProxy

S = JobState


def count(text: str | None, _now: float) -> tuple[str, int, int]:
    """Count in the state, and return the count."""
    number = 1 + (0 if text is None else int(text))
    return str(number), 0, number


async def test_each_of_many_changes_counts(postgres_dsn: str) -> None:
    """Eight workers, each with concurrent changes."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_postgres(postgres_dsn)) for _ in range(8)]
        changes = await asyncio.gather(*(store.change_account(count) for store in stores for _ in range(10)))

        assert list(range(1, 81)) == sorted(change.result for change in changes)
        assert all(change.earliest <= change.latest for change in changes)
        unchanged = await stores[0].change_account(lambda text, _now: (None, 0, text))
        assert "80" == unchanged.result


@pytest.mark.usefixtures("postgres_dsn")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_change_counts_once_if_its_answer_is_lost(postgres_server: PostgresServer, *, done: bool) -> None:
    with PostgresProxy(postgres_server.port) as proxy:
        async with open_postgres(proxy.dsn()) as journal:
            for statement, number in ((b"INSERT INTO", 1), (b"UPDATE", 2)):
                cut = proxy.cut_at(statement + b' "kie_async".accounts', done=done)
                assert number == (await journal.change_account(count)).result
                assert cut.is_set()


async def test_transition_compares_the_epoch(postgres_dsn: str) -> None:
    """Once another worker has paused the account, no create passes that was permitted before."""
    async with open_postgres(postgres_dsn) as first, open_postgres(postgres_dsn) as second:
        row = await first.add(make_intent(1))
        assert await first.transition(row, S.SENDING, at=2.0, attempts=1, account_epoch=0) is None
        await first.change_account(lambda _text, _now: ("", 7, None))
        assert await first.transition(row, S.SENDING, at=2.0, attempts=1, account_epoch=6) is None
        await second.change_account(lambda _text, _now: ("", 8, None))
        assert await first.transition(row, S.SENDING, at=2.0, attempts=1, account_epoch=7) is None
        assert await first.transition(row, S.SENDING, at=2.0, attempts=1, account_epoch=8) is not None


def test_shared_time_never_steps(clock: Clock) -> None:
    """Two workers and one that joins later; the clock is set by seconds and hours, forth and back."""

    async def main() -> list[float]:
        times: list[float] = []

        async def read(journal: PostgresStore) -> None:
            def note(_text: str | None, now: float) -> tuple[str, int, None]:
                times.append(now)
                return json.dumps(times), 0, None

            await journal.change_account(note)

        async with open_postgres(clock.dsn) as first, open_postgres(clock.dsn) as second:
            for journal in (first, second):
                await read(journal)
            for step, order in ((3.0, (first, second)), (-3.0, (second, first)), (10_800.0, (second, first))):
                clock.step(step)
                for journal in order:
                    await read(journal)
            async with open_postgres(clock.dsn) as third:
                await read(third)
                clock.step(-10_800.0)
                for journal in (third, first, second):
                    await read(journal)
        return times

    times = asyncio.run(main())  # in real time, because the server's time is real
    # A step of 3 s is seen, whatever the machine does meanwhile.
    assert all(-0.5 < later - earlier < 2.0 for earlier, later in pairwise(times))
