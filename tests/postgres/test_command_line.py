"""Commands work on a journal in PostgreSQL, beside programs, and never print its password."""

from __future__ import annotations

import json

import pytest

from kie_async.cli.exit_codes import ExitCode
from tests.cli.helpers import run_cli
from tests.servers.postgres import PostgresServer

SECRET = "canary-of-the-dsn"


@pytest.fixture
def dsn(postgres_server: PostgresServer) -> str:
    """Return a DSN with a password, which the server does not ask for."""
    postgres_server.reset()
    return postgres_server.dsn(password=SECRET)


def test_jobs_of_a_program_are_listed_without_the_password(dsn: str) -> None:
    empty = run_cli("ls", "--json", KIE_JOURNAL=dsn)
    budgets = run_cli("budgets", "--journal", dsn)
    missing = run_cli("status", "kj_1", "--journal", dsn, KIE_API_KEY="good-enough")

    assert (ExitCode.DONE, "") == (empty.code, empty.out), empty.err
    assert "No budget has a name in the journal postgresql://app@127.0.0.1:" in budgets.err
    assert ExitCode.FAILED == missing.code
    assert SECRET not in "".join(result.out + result.err for result in (empty, budgets, missing))


def columns_and_indexes(server: PostgresServer) -> list[tuple[object, ...]]:
    """Return what the schema ``kie_async`` consists of."""
    columns = "SELECT table_name, column_name, data_type, is_nullable, collation_name FROM information_schema.columns"
    indexes = "SELECT tablename, indexname, indexdef, '', '' FROM pg_indexes"
    return server.execute(
        f"{columns} WHERE table_schema = 'kie_async' UNION {indexes} WHERE schemaname = 'kie_async' ORDER BY 1, 2"
    )


def test_a_role_that_may_create_nothing_uses_the_printed_schema(postgres_server: PostgresServer, dsn: str) -> None:
    """The printed schema is the one that a client makes, and the printed grants suffice."""
    assert ExitCode.DONE == run_cli("ls", KIE_JOURNAL=dsn).code
    made = columns_and_indexes(postgres_server)
    postgres_server.reset()
    postgres_server.execute("CREATE ROLE reader LOGIN")
    try:
        limited = postgres_server.dsn(user="reader", password=SECRET)
        refused = run_cli("ls", KIE_JOURNAL=limited)
        script = run_cli("journal", "schema").out
        postgres_server.execute(script)
        grants = [line[3:] for line in script.splitlines() if line.startswith("-- GRANT")]
        postgres_server.execute("\n".join(grants).replace("TO app;", "TO reader;"))
        listed = run_cli("ls", KIE_JOURNAL=limited)
    finally:
        postgres_server.execute("DROP OWNED BY reader; DROP ROLE reader")

    assert ExitCode.USAGE == refused.code
    assert "`kie-async journal schema`" in refused.err
    assert SECRET not in refused.err + listed.err
    assert (ExitCode.DONE, 2) == (listed.code, len(grants)), listed.err
    assert made == columns_and_indexes(postgres_server)


def test_a_printed_schema_has_the_name_that_was_asked_for() -> None:
    """Also one that SQL keeps for itself."""
    printed = run_cli("journal", "schema", "--schema", "user", "--json")
    refused = run_cli("journal", "schema", "--schema", "kie;drop")

    assert ExitCode.DONE == printed.code
    assert json.loads(printed.out)["sql"].startswith('CREATE SCHEMA "user";\n')
    assert "kie_async" not in printed.out
    assert ExitCode.USAGE == refused.code
    assert "Invalid PostgresJournal(schema='kie;drop')" in refused.err
