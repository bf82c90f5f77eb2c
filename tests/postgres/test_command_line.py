"""Commands work on a journal in PostgreSQL, beside programs, and never print its password."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anyio
import pytest

from kie_async import JobState, KieClient
from kie_async._display import sealed
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.generate import GenerateOptions, run_generate
from kie_async.cli.options import JournalDatabase
from kie_async.testing import FakeKie
from tests.cli.batch.helpers import make_options, read_manifest, run_to_end, write_table
from tests.cli.helpers import CAT, CapturedSession, run_cli
from tests.helpers import KEY, make_request
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
        postgres_server.execute(f"{grants[0]}\n{grants[1]}".replace(", INSERT, UPDATE", "").replace("app;", "reader;"))
        may_not_write = run_cli("ls", KIE_JOURNAL=limited)
        postgres_server.execute("\n".join(grants).replace("TO app;", "TO reader;"))
        listed = run_cli("ls", KIE_JOURNAL=limited)
    finally:
        postgres_server.execute("DROP OWNED BY reader; DROP ROLE reader")

    assert ExitCode.USAGE == refused.code
    assert "`kie-async journal schema`" in refused.err
    assert (ExitCode.USAGE, True) == (may_not_write.code, "Grant this role what" in may_not_write.err), (
        may_not_write.err
    )
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


async def test_batch_and_a_program_share_a_journal(dsn: str, tmp_path: Path) -> None:
    """The program hears of the rows of batch; a second run pays for nothing, and no file has the password."""
    for name in ("cat.jpg", "city.jpg"):
        shutil.copy(CAT.with_name(name), tmp_path / name)
    options = make_options(write_table(tmp_path, 8), journal=JournalDatabase(sealed(dsn)))
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url, journal=dsn) as kie:
        program = [await kie.submit(make_request(number), key=f"order {number}") for number in range(8)]
        code, streams = await run_to_end(fake, options)
        for job in program:
            await job.wait()
        again, second = await run_to_end(fake, options)
        jobs = await kie.jobs()

    assert (ExitCode.DONE, ExitCode.DONE) == (code, again), streams.err
    assert 16 == len(fake.truth.tasks) == len(jobs)
    assert {JobState.SUCCEEDED} == {job.state for job in jobs}
    assert ["done"] * 8 == [line["state"] for line in read_manifest(options)]
    shown = [streams.out, streams.err, second.out, second.err]
    shown += [path.read_text(errors="replace") for path in options.out.rglob("*") if path.is_file()]
    assert [] == [text for text in shown if SECRET in text]


async def test_a_command_that_is_interrupted_names_no_password(dsn: str) -> None:
    """The command that it prints has a word in place of the DSN."""
    async with FakeKie() as fake:
        streams = CapturedSession(fake, journal=JournalDatabase(sealed(dsn)))
        with anyio.move_on_after(5.0):
            await run_generate(streams.session, GenerateOptions(name="cat", request=make_request(), key="order 7"))
        hint = streams.session.resume_hint()

    assert "kie-async wait" in hint
    assert SECRET not in hint + streams.err
