"""The statements that make a journal in PostgreSQL, for the command line, which imports nothing of ``_io``."""

from __future__ import annotations

from kie_async.policy import PostgresJournal

__all__ = ["schema_script"]

_SCRIPT = """\
{ddl}-- The application's role needs no more than this (its name in place of app):
-- GRANT USAGE ON SCHEMA {schema} TO app;
-- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO app;"""


def schema_script(schema: str) -> str:
    """
    Return the statements that create a journal's schema and tables, and as a comment those that let a role use them.

    Args:
        schema: The name of the schema.

    Raises:
        ConfigurationError: If it is not the name of a schema, or psycopg is not installed.
    """
    PostgresJournal("postgresql://", schema)
    from kie_async._io.journals.postgres_schema import quoted, schema_ddl

    return _SCRIPT.format(ddl=schema_ddl(schema), schema=quoted(schema))
