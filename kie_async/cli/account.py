"""The commands ``credits`` and ``upload``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JsonOption
from kie_async.cli.running import run_command
from kie_async.cli.session import Session

__all__ = ["credits", "run_credits", "run_upload", "upload"]


async def run_credits(session: Session) -> ExitCode:
    """
    Print the balance.

    Args:
        session: The command's session.

    Raises:
        KieError: If the service does not return it.
    """
    async with session.client() as kie:
        balance = await kie.credits()
    session.output.result(f"{balance:g}", {"credits": balance})
    return ExitCode.DONE


async def run_upload(session: Session, files: Sequence[Path]) -> ExitCode:
    """
    Upload images one after the other, and print each URL as soon as it is known.

    Args:
        session: The command's session.

        files: The images.

    Raises:
        KieError: If an image cannot be uploaded; the images before it were uploaded.
    """
    async with session.client() as kie:
        for file in files:
            url = await kie.upload(file)
            session.output.result(url, {"file": str(file), "url": url})
    return ExitCode.DONE


def credits(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Show the account's balance, in credits."""
    run_command(context, run_credits, as_json=as_json)


def upload(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JPEG, PNG or WebP, at most 10 MB each.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Upload images and print their URLs; it costs nothing, and the service keeps them for 24 hours."""
    run_command(context, lambda session: run_upload(session, files), as_json=as_json)
