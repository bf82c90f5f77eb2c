"""The servers that other tests stand on do what those tests believe."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer


@pytest.mark.parametrize("attempt", ["first", "second"])
def test_each_test_finds_an_empty_database(postgres_dsn: str, attempt: str) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("CREATE SCHEMA kie_async CREATE TABLE found (text text)")
        assert connection.execute("SELECT count(*) FROM kie_async.found").fetchone() == (0,), attempt


def test_the_tests_role_is_no_superuser_and_commits_are_flushed(postgres_dsn: str) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"

        assert connection.execute(query).fetchone() == (False,)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_a_database_is_reached_by_socket_too(postgres_server: PostgresServer) -> None:
    psycopg.connect(postgres_server.dsn(by_socket=True)).close()


def test_a_server_keeps_its_port_and_its_rows_through_a_crash() -> None:
    with PostgresServer() as server:
        server.execute("CREATE TABLE row (number int)")
        server.execute("INSERT INTO row VALUES (1)")
        server.stop("immediate")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.dsn())
        server.start()
        server.execute("INSERT INTO row VALUES (2)")
        server.kill()
        server.start()

        assert server.execute("SELECT number FROM row ORDER BY 1") == [(1,), (2,)]


def test_a_promoted_standby_has_lost_what_came_after_it_fell_behind() -> None:
    with PostgresServer() as server:
        server.execute("CREATE TABLE row (number int)")
        standby = server.start_standby()
        server.execute("INSERT INTO row VALUES (1)")
        server.wait_for_standbys()
        standby.fall_behind()
        server.execute("INSERT INTO row VALUES (2)")
        server.kill()
        standby.promote()
        standby.execute("INSERT INTO row VALUES (3)")

        assert standby.execute("SELECT number FROM row ORDER BY 1") == [(1,), (3,)]


def test_a_synchronous_standby_has_all_that_was_committed() -> None:
    with PostgresServer() as server:
        standby = server.start_standby(synchronous=True)
        server.execute("CREATE TABLE row (number int)")
        for number in range(20):
            server.execute("INSERT INTO row VALUES (%s)", number)
        server.kill()
        standby.promote()

        assert standby.execute("SELECT count(*) FROM row") == [(20,)]


def test_a_read_only_server_refuses_writes_until_it_is_set_back() -> None:
    with PostgresServer() as server:
        server.set_read_only()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            server.execute("CREATE TABLE row (number int)")
        server.set_read_only(read_only=False)

        server.execute("CREATE TABLE row (number int)")


def test_the_clock_steps_within_an_open_connection() -> None:
    with PostgresServer(settable_clock=True) as server, server.connect() as connection:

        def ahead() -> float:
            row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            assert row is not None
            return float(row[0]) - time.time()

        for seconds in (0.0, 3.0, -3.0, 10_800.0):
            server.step_clock(seconds)
            assert ahead() == pytest.approx(seconds, abs=1.0)


def test_clients_of_the_pooler_share_connections_and_hear_no_notification(postgres_server: PostgresServer) -> None:
    with PgBouncer(postgres_server, pool_size=1) as pooler:
        first, second = (psycopg.connect(pooler.dsn(), autocommit=True) for _ in range(2))
        with first, second:
            query = "SELECT pg_backend_pid()"
            assert first.execute(query).fetchone() == second.execute(query).fetchone()

            first.execute("LISTEN channel")
            postgres_server.execute("NOTIFY channel")
            assert [] == list(first.notifies(timeout=0.1))
