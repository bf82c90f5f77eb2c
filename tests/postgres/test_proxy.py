"""The proxy in front of PostgreSQL does to connections what it says, and nothing else."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator

import psycopg
import pytest

from tests.servers.postgres import PostgresServer
from tests.servers.proxy import PostgresProxy

TABLE = "CREATE TABLE row (number int)"
COUNT = "SELECT count(*) FROM row"


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[PostgresProxy]:
    postgres_server.reset()
    with PostgresProxy(postgres_server.port) as proxy:
        yield proxy


def insert(connection: psycopg.Connection, way: str, number: int) -> None:
    """Insert a row in one transaction."""
    query = "INSERT INTO row VALUES (%s)"
    match way:
        case "explicit":
            with connection.transaction():
                connection.execute(query, (number,))
        case "autocommit":
            connection.execute(query, (number,))
        case _:
            with connection.pipeline() as pipeline:
                connection.execute("SELECT 1")
                if way == "two in a pipeline":
                    pipeline.sync()
                connection.execute(query, (number,))
                connection.execute("SELECT 1")


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("way", ["explicit", "autocommit", "pipeline", "two in a pipeline"])
def test_a_connection_is_cut_at_a_commit(proxy: PostgresProxy, way: str, *, done: bool) -> None:
    """Done or not done, the client cannot know."""
    with psycopg.connect(proxy.dsn(), autocommit=True, prepare_threshold=None) as connection:
        connection.execute(TABLE)
        insert(connection, way, 0)
        happened = proxy.cut_at(b"COMMIT" if way == "explicit" else b"INSERT INTO row", done=done)
        with pytest.raises(psycopg.OperationalError):
            insert(connection, way, 1)
        assert happened.wait(10.0)
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
        assert (2 if done else 1,) == connection.execute(COUNT).fetchone()


def test_clients_connect_again_after_a_cut(proxy: PostgresProxy) -> None:
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
        connection.execute(TABLE)
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute(COUNT)
    with psycopg.connect(proxy.dsn()) as connection:
        assert (0,) == connection.execute(COUNT).fetchone()


def test_silent_connections_stay_open_and_silent(proxy: PostgresProxy) -> None:
    """Also after the proxy serves new ones again."""
    with psycopg.connect(proxy.dsn(), autocommit=True) as old:
        old.execute(TABLE)
        proxy.silence()
        old.pgconn.send_query(COUNT.encode())
        with socket.create_connection(("127.0.0.1", proxy.port)) as new:
            new.sendall(struct.pack("!II", 8, 80_877_103))
            assert ([], [], []) == select.select([old.fileno(), new.fileno()], [], [], 0.1)
            proxy.resume()
            with psycopg.connect(proxy.dsn()) as other:
                assert (0,) == other.execute(COUNT).fetchone()
            assert ([], [], []) == select.select([old.fileno(), new.fileno()], [], [], 0.1)
        old.close()


def test_a_failover_leads_clients_to_the_other_server(proxy: PostgresProxy) -> None:
    with PostgresServer() as other, psycopg.connect(proxy.dsn(), autocommit=True) as connection:
        other.execute(TABLE)
        proxy.forward_to(other.port)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with psycopg.connect(proxy.dsn(user="postgres")) as again:
            assert (0,) == again.execute(COUNT).fetchone()


def test_clients_of_a_stopped_server_are_refused(proxy: PostgresProxy) -> None:
    with PostgresServer() as other:
        proxy.forward_to(other.port)
        other.stop("immediate")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.dsn())
        other.start()
        psycopg.connect(proxy.dsn()).close()
