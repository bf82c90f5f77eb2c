"""The commands ``credits``, ``budgets`` and ``upload``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kie_async import ConfigurationError
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JournalOption, JsonOption, ProxyOption
from kie_async.cli.running import run_command, run_with_journal
from kie_async.cli.session import Session

__all__ = ["budgets", "credits", "run_budgets", "run_credits", "run_upload", "upload"]


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


async def run_budgets(session: Session, *, name: str | None = None, total: float | None = None) -> ExitCode:
    """
    List the journal's named budgets, or raise one.

    Args:
        session: The command's session.

        name: The budget to raise; None to list all.

        total: Its new limit.

    Raises:
        ConfigurationError: If only one of *name* and *total* is given, or the budget cannot be raised.

        JournalError: If the journal cannot be read or written.
    """
    if (name is None) != (total is None):
        msg = "--raise NAME and --credits N belong together: N is the new limit of the budget. Give both, or neither."
        raise ConfigurationError(msg)
    async with session.client(needs_key=False) as kie:
        infos = await kie.budgets() if name is None or total is None else [await kie.raise_budget(name, total)]
    if not infos:
        journal = "memory" if session.journal is None else session.journal
        session.output.info(
            f"No budget has a name in the journal {journal} at {session.origin}. Name another journal with --journal,"
            " another service with KIE_BASE_URL. Budget(name=…) and batch --budget-name name a budget."
        )
    for info in infos:
        amounts = {"credits": info.credits, "spent": info.spent, "reserved": info.reserved, "left": info.left}
        line = f"{info.spent:,g} spent, {info.reserved:,g} reserved, {info.left:,g} left of {info.credits:,g} credits"
        session.output.result(f"{info.name}: {line}", {"name": info.name, **amounts})
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


def credits(
    context: typer.Context,
    *,
    proxy: ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    as_json: JsonOption = False,
) -> None:
    """Show the account's balance, in credits."""
    run_command(context, run_credits, as_json=as_json)


def budgets(
    context: typer.Context,
    *,
    name: Annotated[str | None, typer.Option("--raise", metavar="NAME", help="The budget to raise.")] = None,
    total: Annotated[
        float | None, typer.Option("--credits", metavar="N", min=0.0, help="Its new limit, not what is added to it.")
    ] = None,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the journal's named budgets with what is spent, reserved and left; or raise one."""
    run_with_journal(
        context, lambda session: run_budgets(session, name=name, total=total), as_json=as_json, journal=journal
    )


def upload(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JPEG, PNG or WebP, at most 10 MB each.")],
    *,
    proxy: ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    as_json: JsonOption = False,
) -> None:
    """Upload images and print their URLs; it costs nothing, and the service keeps them for 24 hours."""
    run_command(context, lambda session: run_upload(session, files), as_json=as_json)
