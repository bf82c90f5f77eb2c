"""A journal in PostgreSQL that goes back in time: what it had acknowledged is restored before it is used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
from psycopg import sql

from kie_async.states import JobState
from tests.io import test_restoration as contract
from tests.io.intents import bring_to_state, make_intent
from tests.io.test_restoration import GoingBack
from tests.postgres.stores import open_postgres
from tests.servers.postgres import DATABASE, PostgresServer

S = JobState

#: Files only.
_OWN = "test_file_that_was_replaced_is_not_used"
globals().update({name: test for name, test in vars(contract).items() if name.startswith("test_") and name != _OWN})


def copy_schema(server: PostgresServer) -> Callable[..., None]:
    """
    Copy the journal's tables; return what writes the copies back, as a failover to a standby that lagged seems to do.

    With ``disconnect`` it ends all connections, too; without, it is a pooler that does not show the failover.
    """
    with server.connect(DATABASE) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'kie_async'")
        tables = [sql.Identifier("kie_async", name) for (name,) in names.fetchall()]
        kept = [(table, connection.execute(sql.SQL("SELECT * FROM {}").format(table)).fetchall()) for table in tables]

    def go_back(*, disconnect: bool = False) -> None:
        with server.connect(DATABASE) as connection, connection.transaction():
            for table, rows in kept:
                connection.execute(sql.SQL("DELETE FROM {}").format(table))
                for row in rows:
                    values = sql.SQL(", ").join(sql.Placeholder() * len(row))
                    insert = sql.SQL("INSERT INTO {} OVERRIDING SYSTEM VALUE VALUES ({})")
                    connection.execute(insert.format(table, values), row)
        if disconnect:
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")

    return go_back


@pytest.fixture
async def journal(postgres_server: PostgresServer, postgres_dsn: str) -> AsyncIterator[GoingBack]:
    """Yield an open journal, in place of that of the contract's own module."""
    async with open_postgres(postgres_dsn) as store:
        yield GoingBack(store, partial(copy_schema, postgres_server), partial(open_postgres, postgres_dsn))


async def test_lost_rows_are_restored_at_the_next_connection(
    journal: GoingBack, postgres_server: PostgresServer
) -> None:
    """Before any call is served, and whatever it is."""
    store = journal.store
    added = await store.add(make_intent(1))
    go_back = copy_schema(postgres_server)
    await store.open_budget("shop", 100.0)
    rows = [await bring_to_state(store, added, S.SUBMITTED), await store.add(make_intent(2, budget="shop", price=1.0))]
    budgets = await store.budgets()
    go_back(disconnect=True)

    assert rows == await store.rows()
    assert budgets == await store.budgets()
    assert [(added, rows[0]), (None, rows[1])] == [(repair.present, repair.row) for repair in journal.repairs]


async def test_two_workers_restore_each_row_once(journal: GoingBack, postgres_server: PostgresServer) -> None:
    """Both were told of it; the later version counts, in either order."""
    store = journal.store
    async with journal.open_other() as other:
        go_back = copy_schema(postgres_server)
        row = await bring_to_state(store, await store.add(make_intent(1)), S.SUBMITTED)
        later = await other.update_fields(row.id, at=9.0, callback_task_ids=("x",))
        go_back(disconnect=True)
        await store.rows()
        both = [await other.rows(), await store.rows()]

    assert [[later], [later]] == both
