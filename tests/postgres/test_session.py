"""Opening, group commit, lost connections, leases and notifications of the journal in PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import anyio
import attrs
import pytest

from kie_async import BudgetExceededError, JournalError
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.journal import WorkerReport
from kie_async._io.journals.postgres import PostgresStore
from kie_async._io.journals.postgres_schema import schema_ddl
from kie_async._io.journals.postgres_session import Action
from kie_async._io.journals.postgres_tables import Query
from kie_async.states import JobState
from kie_async.testing import virtual_time
from tests.io.intents import bring_to_state, make_intent
from tests.postgres.clock import Clock, in_thread
from tests.postgres.stores import open_postgres
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import PostgresProxy

S = JobState


async def commits(server: PostgresServer) -> int:
    """Return the number of commits that have written, by the transaction ids that were given away."""
    rows = await in_thread(server.execute, "SELECT pg_current_xact_id()::text::bigint")
    return int(rows[0][0])


# -- opening -----------------------------------------------------------------------------------------------------------


async def test_unsafe_server_is_refused() -> None:
    """With fsync=off a crash would lose acknowledged rows."""
    with (
        await in_thread(PostgresServer, settings={"fsync": "off"}) as server,
        pytest.raises(JournalError, match="Set fsync=on"),
    ):
        await PostgresStore(server.dsn).open()


@pytest.mark.usefixtures("postgres_dsn")
async def test_standby_is_refused(postgres_server: PostgresServer) -> None:
    standby = await in_thread(postgres_server.start_standby)
    try:
        for options in ("", "?target_session_attrs=any"):
            dsn = standby.dsn() + options
            with pytest.raises(JournalError, match="Name the primary in the DSN") as raised:
                await PostgresStore(lambda dsn=dsn: dsn).open()  # type: ignore[misc]  # its default is a str
            assert raised.value.retryable
        both = f"postgresql://app@127.0.0.1:{standby.port},127.0.0.1:{postgres_server.port}/app"
        async with open_postgres(both) as journal:
            assert S.INTENT == (await journal.add(make_intent(1))).state
    finally:
        await in_thread(standby.close)


async def test_error_of_connecting_names_each_host_once() -> None:
    """Libpq asks in several lines whether the server runs, and repeats the last host."""
    dsn = "postgresql://app:canary@127.0.0.1:1,127.0.0.1:2/app"
    with pytest.raises(JournalError) as raised:
        await PostgresStore(lambda: dsn).open()

    assert str(raised.value) == (
        "The journal postgresql://app@127.0.0.1:1,127.0.0.1:2/app cannot be used:"
        ' connection to server at "127.0.0.1", port 1 failed: Connection refused;'
        ' connection to server at "127.0.0.1", port 2 failed: Connection refused. Check the DSN and the server.'
    )


async def test_newer_schema_is_refused(postgres_server: PostgresServer, postgres_dsn: str) -> None:
    async with open_postgres(postgres_dsn):
        pass
    await in_thread(postgres_server.execute, "UPDATE kie_async.meta SET schema_version = 99")
    with pytest.raises(JournalError, match=r"schema 99; this knows 1\). Upgrade the package"):
        await PostgresStore(lambda: postgres_dsn).open()


async def test_schema_with_other_tables_is_refused(postgres_server: PostgresServer, postgres_dsn: str) -> None:
    await in_thread(postgres_server.execute, "CREATE SCHEMA kie_async AUTHORIZATION app CREATE TABLE meta (a int)")
    with pytest.raises(JournalError, match="other tables than a journal's"):
        await PostgresStore(lambda: postgres_dsn).open()


async def test_role_that_may_not_create_is_told_what_to_do(postgres_server: PostgresServer, postgres_dsn: str) -> None:
    """After another role has executed the DDL, it works."""
    await in_thread(postgres_server.execute, "CREATE SCHEMA other")
    with pytest.raises(JournalError, match="kie-async journal schema"):
        await PostgresStore(lambda: postgres_dsn, schema="other").open()
    ddl = schema_ddl("user").replace("CREATE SCHEMA", "CREATE SCHEMA IF NOT EXISTS")
    await in_thread(
        postgres_server.execute,
        ddl + 'GRANT USAGE ON SCHEMA "user" TO app;GRANT ALL ON ALL TABLES IN SCHEMA "user" TO app',
    )
    async with open_postgres(postgres_dsn, schema="user") as journal:
        assert S.INTENT == (await journal.add(make_intent(1))).state


async def test_schema_is_created_once_by_many(postgres_dsn: str) -> None:
    stores = [PostgresStore(lambda: postgres_dsn) for _ in range(8)]
    async with anyio.create_task_group() as group:
        for store in stores:
            group.start_soon(store.open)
    assert 1 == len({await store.identity() for store in stores})
    for store in stores:
        await store.close()


async def test_errors_do_not_name_the_password() -> None:
    dsn = "postgresql://app:canary@127.0.0.1:1/app"
    with pytest.raises(JournalError, match=r"app@127\.0\.0\.1:1/app") as raised:
        await PostgresStore(lambda: dsn).open()
    found: BaseException | None = raised.value
    while found is not None:
        assert "canary" not in str(found)
        found = found.__cause__ or found.__context__


async def test_weaker_commits_of_the_server_are_made_strict() -> None:
    """Commits wait for the disk although the server's default does not."""
    with await in_thread(PostgresServer, settings={"synchronous_commit": "off", "wal_writer_delay": "10000"}) as server:
        async with open_postgres(server.dsn()) as journal:
            row = await journal.add(make_intent(1))
            await bring_to_state(journal, row, S.SENDING)
            await in_thread(server.kill)
            await in_thread(server.start)
            assert S.SENDING == (await journal.get(row.id) or row).state


# -- group commit ------------------------------------------------------------------------------------------------------


async def test_100_concurrent_writes_take_two_commits(postgres_server: PostgresServer, postgres_dsn: str) -> None:
    async with open_postgres(postgres_dsn) as journal:
        rows = [await journal.add(make_intent(number)) for number in range(100)]
        before = await commits(postgres_server)
        async with anyio.create_task_group() as group:
            for row in rows:
                group.start_soon(bring_to_state, journal, row, S.SENDING)

        assert 2 == await commits(postgres_server) - before - 1
        assert 100 == len(await journal.rows({S.SENDING}))


async def test_worker_that_stops_in_a_transaction_holds_its_locks_for_seconds(postgres_dsn: str) -> None:
    """Else a frozen machine would keep rows that others take over, and keys that they submit."""

    def read_timeout() -> Query[str]:
        rows = yield "SELECT current_setting('idle_in_transaction_session_timeout')", {}
        return str(rows[0][0])

    async with open_postgres(postgres_dsn) as journal:
        writes = [journal._run(Action(read_timeout, writes=True)) for _ in range(3)]  # noqa: SLF001 (nothing shows it)
        assert ["0", "5s", "5s"] == await asyncio.gather(*writes), "the first is a transaction of its own"


async def test_invalid_row_fails_alone(postgres_dsn: str) -> None:
    """A used id, a text that cannot be encoded and one that PostgreSQL cannot hold fail among fifty good rows."""
    async with open_postgres(postgres_dsn) as journal:
        rows = [make_intent(number) for number in range(50)]
        rows[7] = make_intent(7, model="\ud800")
        rows[23] = make_intent(22)
        rows[31] = make_intent(31, key="a\0b")
        found = await asyncio.gather(*(journal.add(row) for row in rows), return_exceptions=True)

        assert {7, 23, 31} == {place for place, row in enumerate(found) if isinstance(row, JournalError)}
        assert [row.id for place, row in enumerate(rows) if place not in (7, 23, 31)] == [
            row.id for row in await journal.rows()
        ]


async def test_refused_create_fails_alone_in_its_transaction(postgres_dsn: str) -> None:
    """Twelve of 20 concurrent creates fit the budget; the others change nothing."""
    async with open_postgres(postgres_dsn) as journal:
        await journal.open_budget("a", 1000.0)
        rows = [await journal.add(make_intent(number, budget="a", price=80.0)) for number in range(20)]
        moves = (journal.transition(row, S.SENDING, at=2.0, attempts=1) for row in rows)
        found = await asyncio.gather(*moves, return_exceptions=True)

        assert 12 == sum(isinstance(row, Intent) for row in found)
        assert 8 == sum(isinstance(row, BudgetExceededError) for row in found)
        assert 960.0 == (await journal.budgets())[0].running


async def test_reason_keeps_all_but_its_null_characters(postgres_dsn: str) -> None:
    async with open_postgres(postgres_dsn) as journal:
        row = await bring_to_state(journal, await journal.add(make_intent(1)), S.IN_DOUBT, error="code 500: a\0b")
        assert "code 500: a\ufffdb" == row.error


# -- lost connections --------------------------------------------------------------------------------------------------


async def end_backends(server: PostgresServer) -> None:
    """End all connections to the database, as an administrator does."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app' AND usename = 'app'"
    await in_thread(server.execute, query)


async def test_ended_connection_is_made_again(postgres_server: PostgresServer, postgres_dsn: str) -> None:
    async with open_postgres(postgres_dsn) as journal:
        row = await journal.add(make_intent(1))
        await end_backends(postgres_server)
        assert row == await journal.get(row.id)
        await end_backends(postgres_server)
        assert S.SENDING == (await bring_to_state(journal, row, S.SENDING)).state


@pytest.mark.usefixtures("postgres_dsn")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("among", [1, 5])
async def test_lost_answer_of_a_transition_is_read_back(
    postgres_server: PostgresServer, among: int, *, done: bool
) -> None:
    """Alone or among others, committed or not: each caller gets its row, and each row is changed once."""
    with PostgresProxy(postgres_server.port) as proxy:
        async with open_postgres(proxy.dsn()) as journal:
            rows = [await journal.add(make_intent(number)) for number in range(among + 1)]
            cut = proxy.cut_at(b"COMMIT" if among > 1 else b"UPDATE", done=done)
            moves = (bring_to_state(journal, row, S.SENDING) for row in rows[:among])
            if among > 1:
                # The thread is busy with it, so that the others form a batch.
                await asyncio.gather(journal.get(rows[-1].id), *moves)
            else:
                await asyncio.gather(*moves)

            assert cut.is_set()
            found = await journal.rows()
            assert [S.SENDING] * among == [row.state for row in found[:among]]
            assert [1] * among == [row.version for row in found[:among]]


@pytest.mark.usefixtures("postgres_dsn")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_lost_answer_of_an_addition_is_read_back(postgres_server: PostgresServer, *, done: bool) -> None:
    with PostgresProxy(postgres_server.port) as proxy:
        async with open_postgres(proxy.dsn()) as journal:
            cut = proxy.cut_at(b"INSERT", done=done)
            row = await journal.add(make_intent(1, key="a"))

            assert cut.is_set()
            assert [row] == list(await journal.rows())


@pytest.mark.usefixtures("postgres_dsn")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_lost_answer_of_a_budget_is_read_back(postgres_server: PostgresServer, *, done: bool) -> None:
    with PostgresProxy(postgres_server.port) as proxy:
        async with open_postgres(proxy.dsn()) as journal:
            await journal.open_budget("a", 100.0)
            row = await journal.add(make_intent(1, budget="a", price=80.0))
            cut = proxy.cut_at(b"COMMIT", done=done)
            row = await bring_to_state(journal, row, S.SENDING)

            assert cut.is_set()
            assert (S.SENDING, 1) == (row.state, row.version)
            assert 80.0 == (await journal.budgets())[0].running


@pytest.mark.usefixtures("postgres_dsn")
@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_write_that_its_caller_takes_for_failed_is_undone(postgres_server: PostgresServer, *, done: bool) -> None:
    """The server cannot be reached after the lost answer: nothing was sent, so the row is INTENT, a new row is gone."""
    with PostgresProxy(postgres_server.port) as proxy:
        async with open_postgres(proxy.dsn()) as journal:
            row = await journal.add(make_intent(1))

            async def fail(statement: bytes, write: Callable[[], Awaitable[object]]) -> None:
                proxy.cut_at(statement, done=done)
                again = proxy.cut_at(b"pg_is_in_recovery", done=False)
                with pytest.raises(JournalError) as raised:
                    await write()
                assert raised.value.retryable
                assert again.is_set()

            await fail(b"UPDATE", lambda: journal.transition(row, S.SENDING, at=2.0, attempts=1, sending_at=2.0))
            assert 1 == len(await journal.rows())
            await fail(b"INSERT INTO", lambda: journal.add(make_intent(2, key="a")))

            found = await journal.rows()
            assert [(S.INTENT, 0, None)] == [(each.state, each.attempts, each.sending_at) for each in found]
            assert S.SENDING == (await bring_to_state(journal, found[0], S.SENDING)).state


@pytest.mark.usefixtures("postgres_dsn")
async def test_another_journal_is_refused_at_reconnecting(postgres_server: PostgresServer) -> None:
    """An empty database behind the same DSN is not this journal: nothing is created there."""
    with PostgresProxy(postgres_server.port) as proxy, await in_thread(PostgresServer) as other:
        async with open_postgres(proxy.dsn()) as journal:
            row = await journal.add(make_intent(1))
            proxy.forward_to(other.port)
            for _ in range(2):
                with pytest.raises(JournalError, match="another journal than before"):
                    await bring_to_state(journal, row, S.SENDING)
            tables = "SELECT FROM pg_tables WHERE schemaname = 'kie_async'"
            assert [] == await in_thread(other.execute, tables)
            async with open_postgres(other.dsn()):
                with pytest.raises(JournalError, match="another journal than before"):
                    await journal.get(row.id)
            proxy.forward_to(postgres_server.port)
            assert S.SENDING == (await bring_to_state(journal, row, S.SENDING)).state


async def test_server_that_became_read_only_is_left() -> None:
    """An old primary refuses writes with 25006; the journal connects again, and to the one that can be written."""
    with await in_thread(PostgresServer) as old, PostgresProxy(old.port) as proxy:
        async with open_postgres(proxy.dsn()) as journal:
            row = await journal.add(make_intent(1))
            # Of open connections, too; they learn it a little later.
            await in_thread(old.configure, default_transaction_read_only="on")
            await in_thread(old.reload)
            refused: JournalError | None = None
            with anyio.fail_after(10):
                while refused is None:
                    try:
                        await journal.update_fields(row.id, at=1.0)
                    except JournalError as error:
                        refused = error
            assert "standby" in str(refused)
            assert refused.retryable
            await in_thread(old.configure, default_transaction_read_only="off")
            await in_thread(old.reload)
            assert S.SENDING == (await bring_to_state(journal, row, S.SENDING)).state


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_clean_close_frees_the_jobs_at_once(postgres_dsn: str) -> None:
    async with open_postgres(postgres_dsn) as heir:
        async with open_postgres(postgres_dsn) as owner:
            rows = [await owner.add(make_intent(number)) for number in range(3)]
            assert await heir.is_owner_alive(rows[0])
            assert [] == list(await heir.claim())
        assert not await heir.is_owner_alive(rows[0])
        assert {S.INTENT: 3} == await heir.count_orphans()
        assert rows[:2] == [attrs.evolve(row, owner=rows[0].owner, version=0) for row in await heir.claim(limit=2)]
        assert {S.INTENT: 1} == await heir.count_orphans()


async def test_expired_lease_ends_a_worker(clock: Clock) -> None:
    """Its heir had heartbeats all the time; what the worker does later fails, because it is not the owner any more."""
    async with open_postgres(clock.dsn) as owner, open_postgres(clock.dsn) as heir:
        row = await owner.add(make_intent(1))
        await clock.pass_time(9.0, owner, heir)
        assert await heir.is_owner_alive(row)
        assert 2 == len(await heir.workers())
        await clock.pass_time(9.0, heir)
        assert await heir.is_owner_alive(row)
        await clock.pass_time(3.0, heir)
        assert not await heir.is_owner_alive(row)
        assert [heir.worker] == [worker.name for worker in await heir.workers()]
        (taken,) = await heir.claim()
        assert (row.id, heir.worker) == (taken.id, taken.owner)
        assert await owner.transition(row, S.SENDING, at=2.0, attempts=1) is None
        assert await heir.transition(taken, S.SENDING, at=2.0, attempts=1) is not None


async def test_worker_that_was_away_takes_no_lease_for_expired(clock: Clock) -> None:
    """After an outage that was longer than all leases, the jobs of living workers keep their owners."""
    async with open_postgres(clock.dsn) as owner, open_postgres(clock.dsn) as other, open_postgres(clock.dsn) as ended:
        row, left = await owner.add(make_intent(1)), await ended.add(make_intent(2))
        await clock.pass_time(9.0, owner, other, ended)
        await clock.pass_time(60.0)  # the server is away
        await other.heartbeat(WorkerReport())
        assert await other.is_owner_alive(row)
        assert [] == list(await other.claim())
        assert {} == await other.count_orphans()
        await owner.heartbeat(WorkerReport())
        await clock.pass_time(6.0, owner, other)
        assert [left.id] == [each.id for each in await other.claim()]


@pytest.mark.parametrize("seconds", [3.0, -3.0, 10_800.0, -10_800.0])
async def test_stepped_clock_ends_no_worker(clock: Clock, seconds: float) -> None:
    """And one that has ended is not taken for alive for hours."""
    async with open_postgres(clock.dsn) as owner, open_postgres(clock.dsn) as other, open_postgres(clock.dsn) as ended:
        row, left = await owner.add(make_intent(1)), await ended.add(make_intent(2))
        await clock.pass_time(9.0, owner, other, ended)
        await in_thread(clock.step, seconds)
        taken: list[str] = []
        for _ in range(6):
            taken += [each.id for each in await other.claim()]
            await clock.pass_time(3.0, other, owner)
        assert left.id in taken
        assert row.id not in taken
        await clock.pass_time(12.0, other)
        assert row.id in [each.id for each in await other.claim()]


def test_released_journal_frees_its_jobs_without_a_loop(postgres_dsn: str) -> None:
    """Its event loop is over, and the same store opens again in the next one, as another worker."""
    journal = PostgresStore(lambda: postgres_dsn)

    async def begin() -> Intent:
        await journal.open()
        return await journal.add(make_intent(1))

    async def take(row: Intent) -> None:
        await journal.open()
        while await journal.is_owner_alive(row):
            await asyncio.sleep(0.01)
        assert [row.id] == [each.id for each in await journal.claim()]
        await journal.close()

    row = virtual_time(begin)
    journal.release()
    virtual_time(take, row, seed=1)


async def test_two_heirs_share_the_jobs(postgres_dsn: str) -> None:
    """Each row is taken by one of them."""
    async with open_postgres(postgres_dsn) as first, open_postgres(postgres_dsn) as second:
        async with open_postgres(postgres_dsn) as owner:
            await asyncio.gather(*(owner.add(make_intent(number)) for number in range(300)))
        found: list[str] = []

        async def take_all(journal: PostgresStore) -> None:
            after = 0
            while page := await journal.claim(after=after, limit=20):
                after = page[-1].number
                found.extend(row.id for row in page)

        async with anyio.create_task_group() as group:
            for journal in (first, second):
                group.start_soon(take_all, journal)
        assert 300 == len(found) == len(set(found))


# -- notifications -----------------------------------------------------------------------------------------------------


async def test_change_of_another_worker_is_told(postgres_dsn: str) -> None:
    """Submissions, ends and callbacks' hints are; its own changes and heartbeats are not."""
    async with open_postgres(postgres_dsn) as waiting, open_postgres(postgres_dsn) as writing:
        rows = [await writing.add(make_intent(number)) for number in range(3)]
        await writing.heartbeat(WorkerReport())
        await waiting.heartbeat(WorkerReport())
        mine = await waiting.add(make_intent(9))
        await bring_to_state(waiting, mine, S.SUBMITTED)
        ids = iter(row.id for row in rows)
        for write in (
            lambda: bring_to_state(writing, rows[0], S.SUBMITTED),
            lambda: writing.update_fields(rows[1].id, at=2.0, callback_task_ids=("t",)),
            lambda: bring_to_state(writing, rows[2], S.CANCELLED),
        ):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                assert await waiting.wait_for_change() == {next(ids)}


async def test_heartbeats_that_are_heard_change_nothing(
    postgres_server: PostgresServer, postgres_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection stays, and nothing is said."""
    pids = "SELECT pid FROM pg_stat_activity WHERE usename = 'app'"
    async with open_postgres(postgres_dsn) as journal:
        before = await in_thread(postgres_server.execute, pids)
        for _ in range(20):
            await journal.heartbeat(WorkerReport())
            await journal.rows()
        assert before == await in_thread(postgres_server.execute, pids)
    assert [] == caplog.messages


async def test_heartbeat_is_two_statements() -> None:
    """One writes the worker's row, and one compares the clocks."""
    with await in_thread(PostgresServer, settings={"log_statement": "'all'"}) as server:
        async with open_postgres(server.dsn()) as journal:
            await journal.heartbeat(WorkerReport())
            before = await in_thread(logged_statements, server)
            for _ in range(10):
                await journal.heartbeat(WorkerReport())
            assert 20 == await in_thread(logged_statements, server) - before - 1


def logged_statements(server: PostgresServer) -> int:
    """Return the number of statements that the server has executed, including one that this executes."""
    mark = f"SELECT {random.randrange(10**9)} AS mark"
    server.execute(mark)
    while mark not in (text := "".join(path.read_text() for path in sorted(server.folder.glob("*.log")))):
        pass  # the server writes its log a little later
    return sum("statement: " in line or "execute <unnamed>: " in line for line in text.splitlines())


async def test_new_connection_may_have_missed_changes(postgres_server: PostgresServer, postgres_dsn: str) -> None:
    async with open_postgres(postgres_dsn) as journal:
        await end_backends(postgres_server)
        assert await journal.wait_for_change() is None


@pytest.mark.usefixtures("postgres_dsn")
async def test_pooler_is_asked_every_second_and_named_once(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with await in_thread(PgBouncer, postgres_server) as pooler, caplog.at_level(logging.WARNING, "kie_async"):
        async with open_postgres(pooler.dsn()) as journal:
            for _ in range(3):
                await journal.heartbeat(WorkerReport())
                loop = asyncio.get_running_loop()
                began = loop.time()
                assert await journal.wait_for_change() is None
                assert 1.0 == pytest.approx(loop.time() - began, abs=0.1)
            row = await journal.add(make_intent(1))
            assert S.SUCCEEDED == (await bring_to_state(journal, row, S.SUCCEEDED)).state
    assert 1 == sum("connection pooler" in record.message for record in caplog.records)


@pytest.mark.usefixtures("postgres_dsn")
def test_silent_connection_is_given_up(postgres_server: PostgresServer) -> None:
    """Its packets are dropped, and nothing closes it: a worker that waits for changes connects again."""

    async def main() -> None:
        with PostgresProxy(postgres_server.port) as proxy:
            async with open_postgres(proxy.dsn()) as waiting, open_postgres(postgres_server.dsn()) as writing:
                row = await writing.add(make_intent(1))
                proxy.silence()
                await bring_to_state(writing, row, S.SUBMITTED)
                proxy.resume()
                assert await waiting.wait_for_change() is None
                assert S.SUBMITTED == (await waiting.get(row.id) or row).state

    asyncio.run(main())  # in real time


async def test_worker_has_one_connection_and_says_if_there_is_none(
    postgres_server: PostgresServer, postgres_dsn: str
) -> None:
    """Whatever it does at the same time; a worker that finds none free starts once there is one."""
    # The server ends the session of a closed connection a moment later; this waits for it.
    end_sessions = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'"
    await in_thread(postgres_server.execute, end_sessions)
    await in_thread(postgres_server.execute, "ALTER DATABASE app CONNECTION LIMIT 1")
    refused = PostgresStore(lambda: postgres_dsn)
    async with open_postgres(postgres_dsn) as journal:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(journal.add, make_intent(number))
                group.start_soon(journal.heartbeat, WorkerReport())
        assert 20 == len(await journal.rows())
        with pytest.raises(JournalError, match="too many connections"):
            await refused.open()
    await in_thread(postgres_server.execute, end_sessions)
    await refused.open()
    assert 20 == len(await refused.rows())
    await refused.close()
