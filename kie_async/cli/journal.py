"""The commands of the group ``journal``: ``schema``."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
import typer

from kie_async._journal_schema import schema_script
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JsonOption
from kie_async.cli.running import run_command
from kie_async.cli.session import Session

__all__ = ["journal_app", "run_schema"]

journal_app: typer.Typer = typer.Typer(help="Prepare a journal in PostgreSQL.", no_args_is_help=True)


async def run_schema(session: Session, *, schema: str) -> ExitCode:
    """
    Print the statements that make a journal; no server is connected to.

    Args:
        session: The command's session.

        schema: The name of the schema.

    Raises:
        ConfigurationError: If it is not the name of a schema, or psycopg is not installed.
    """
    script = await anyio.to_thread.run_sync(schema_script, schema)  # psycopg is imported
    session.output.result(script.splitlines(), {"schema": schema, "sql": script})
    return ExitCode.DONE


@journal_app.command("schema")
def print_schema(
    context: typer.Context,
    *,
    schema: Annotated[str, typer.Option(metavar="NAME", help="The name of the schema.")] = "kie_async",
    as_json: JsonOption = False,
) -> None:
    """Print the SQL that makes a journal in PostgreSQL, for applications whose role may not create a schema."""
    run_command(context, lambda session: run_schema(session, schema=schema), as_json=as_json)
