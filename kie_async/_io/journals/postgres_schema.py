"""
The journal's schema in PostgreSQL: its DDL, and what a server must be so that a journal may be kept on it.

All texts have type ``text``: ``jsonb`` would refuse U+0000 and reorder members. All instants are seconds since the
epoch, as in SQLite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.errors import InsufficientPrivilege

from kie_async._io.journals.rows import IS_OPEN, IS_UNCHARGED, IS_UNFINISHED
from kie_async.errors import JournalError

if TYPE_CHECKING:
    import psycopg

__all__ = ["VERSION", "check_server", "prepare_schema", "quoted", "retryable", "schema_ddl"]

#: The version of the schema, which the table ``meta`` has.
VERSION = 1
#: Two processes that create a schema at once take turns by this advisory lock: "kiej" in ASCII.
_LOCK = 0x6B69656A

# ``kie.`` stands for the schema. Keys and names are compared by their bytes, as in SQLite.
_DDL = f"""
CREATE TABLE kie.intents (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    origin text COLLATE "C" NOT NULL,
    key text COLLATE "C",
    account text NOT NULL,
    state text COLLATE "C" NOT NULL,
    owner text COLLATE "C",
    holder text COLLATE "C",
    yielded text COLLATE "C",
    version bigint NOT NULL,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    model text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    price_class text COLLATE "C" NOT NULL,
    budget text COLLATE "C",
    price double precision,
    attempts integer NOT NULL,
    ambiguous_attempts integer NOT NULL,
    sending_at double precision,
    task_id text COLLATE "C",
    accepted_at double precision,
    credits double precision,
    duplicate_task_ids text NOT NULL,
    callback_task_ids text NOT NULL,
    saved text NOT NULL,
    callback_url text,
    sources text NOT NULL,
    error text,
    input text NOT NULL,
    record text,
    UNIQUE (origin, key)
);
CREATE INDEX intents_by_task ON kie.intents (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX intents_open ON kie.intents (owner, origin, number) WHERE {IS_OPEN};
CREATE INDEX intents_unfinished ON kie.intents (number) WHERE {IS_UNFINISHED};
CREATE INDEX intents_named_by_callbacks ON kie.intents (number) WHERE callback_task_ids <> '[]';
CREATE INDEX intents_by_price ON kie.intents (price_class, origin, credits)
    WHERE state = 'succeeded' AND credits IS NOT NULL;
CREATE INDEX intents_by_model_price ON kie.intents (model, origin, credits)
    WHERE state = 'succeeded' AND credits IS NOT NULL;
CREATE INDEX intents_uncharged ON kie.intents (budget, price_class) WHERE {IS_UNCHARGED};
CREATE TABLE kie.duplicate_tasks (task_id text COLLATE "C" PRIMARY KEY, job_id text COLLATE "C" NOT NULL);
CREATE INDEX duplicate_tasks_by_job ON kie.duplicate_tasks (job_id);
CREATE TABLE kie.callback_secrets (
    origin text NOT NULL, account text NOT NULL, secret bytea NOT NULL, PRIMARY KEY (origin, account)
);
CREATE TABLE kie.budgets (
    origin text NOT NULL,
    name text COLLATE "C" NOT NULL,
    credits double precision NOT NULL,
    spent double precision NOT NULL,
    running double precision NOT NULL,
    held double precision NOT NULL,
    PRIMARY KEY (origin, name)
) WITH (fillfactor = 50);
CREATE TABLE kie.workers (
    name text COLLATE "C" PRIMARY KEY,
    origin text NOT NULL,
    account text NOT NULL,
    account_name text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at double precision NOT NULL,
    heartbeat_at double precision NOT NULL,
    steady_since double precision NOT NULL,
    lease double precision NOT NULL,
    report text
) WITH (fillfactor = 50);
CREATE TABLE kie.accounts (
    origin text NOT NULL,
    name text NOT NULL,
    version bigint NOT NULL,
    epoch bigint NOT NULL,
    clock_steps double precision NOT NULL,
    state text,
    PRIMARY KEY (origin, name)
) WITH (fillfactor = 50);
CREATE TABLE kie.meta (
    schema_version integer NOT NULL, journal_id text NOT NULL, forgotten_until double precision NOT NULL
);
INSERT INTO kie.meta
    SELECT {VERSION}, replace(gen_random_uuid()::text, '-', ''), 0 WHERE NOT EXISTS (SELECT FROM kie.meta);
"""  # noqa: S608 (the names are ours)


def quoted(schema: str) -> str:
    """Return the quoted name of a schema."""
    return '"' + schema.replace('"', '""') + '"'


def schema_ddl(schema: str) -> str:
    """Return the statements that create the journal's schema, for a role that may create it."""
    return f"CREATE SCHEMA {quoted(schema)};\n{_DDL.strip()}\n".replace("kie.", f"{quoted(schema)}.")


def retryable(error: JournalError) -> JournalError:
    """Mark an error that another connection may repair."""
    error.retryable = True
    return error


def check_server(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """
    Refuse a server on which acknowledged transitions would not be safe, or which cannot be written.

    Returns:
        True if its commits are flushed without our asking for it.

    Raises:
        JournalError: If it is a standby, or runs with ``fsync=off``.
    """
    query = "SELECT pg_is_in_recovery(), current_setting('fsync'), current_setting('synchronous_commit')"
    found = connection.execute(query).fetchone()
    standby, fsync, commit = found or (False, "on", "on")
    if standby:
        msg = "The journal's server is a standby, which cannot be written. Name the primary in the DSN, or all hosts."
        raise retryable(JournalError(msg))
    if fsync != "on":
        msg = "The journal's server has fsync=off: a crash would lose paid tasks. Set fsync=on and reload its settings."
        raise JournalError(msg)
    return commit in ("on", "remote_apply")


def prepare_schema(connection: psycopg.Connection[tuple[Any, ...]], schema: str, *, create: bool) -> str:
    """
    Return the id that the journal got when its tables were made.

    Args:
        connection: The connection.

        schema: The name of the schema.

        create: True to create the tables if they do not exist; otherwise the id is empty.

    Raises:
        JournalError: If the schema is of a newer version, is not a journal's, or may not be created.
    """
    try:
        if (journal_id := _read_id(connection, schema)) is not None or not create:
            return journal_id or ""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if (journal_id := _read_id(connection, schema)) is None:
                known = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
                _create(connection, schema, only_tables=known is not None)
                journal_id = _read_id(connection, schema)
    except InsufficientPrivilege as error:
        msg = (
            f"The journal's role may not create or use the schema {schema!r} ({error.diag.message_primary}). Let a role"
            " that may do so execute what `kie-async journal schema` prints, and grant this one its tables."
        )
        raise JournalError(msg) from error
    return journal_id or ""


def _create(connection: psycopg.Connection[tuple[Any, ...]], schema: str, *, only_tables: bool) -> None:
    create_schema, _, tables = schema_ddl(schema).partition("\n")
    for statement in filter(None, map(str.strip, ("" if only_tables else create_schema, *tables.split(";")))):
        connection.execute(statement.encode())


def _read_id(connection: psycopg.Connection[tuple[Any, ...]], schema: str) -> str | None:
    """
    Return the id of the journal in a schema; None if there is none yet.

    Raises:
        JournalError: If it is of a newer version, or the schema has other tables of these names.
    """
    # Not by to_regclass(): it goes by a cache, which does not know what another transaction has just created.
    tables = (
        "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname = %s AND relname IN ('meta', 'intents')"
    )
    found = connection.execute(tables, (schema,)).fetchall()
    if len(found) < 2:  # noqa: PLR2004
        if found:
            msg = (
                f"The schema {schema!r} has other tables than a journal's. Use another name: PostgresJournal(schema=…)."
            )
            raise JournalError(msg)
        return None
    query = f"SELECT schema_version, journal_id FROM {quoted(schema)}.meta"  # noqa: S608
    version, journal_id = connection.execute(query.encode()).fetchone() or (0, "")
    if version > VERSION:
        msg = (
            f"The schema {schema!r} was written by a newer kie_async (schema {version}; this knows {VERSION})."
            " Upgrade the package."
        )
        raise JournalError(msg)
    return str(journal_id)
