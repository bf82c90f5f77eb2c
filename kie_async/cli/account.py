"""The command ``credits``: the account's balance."""

from __future__ import annotations

import typer

from kie_async.cli.exit_codes import Exit
from kie_async.cli.options import JsonOption
from kie_async.cli.running import run
from kie_async.cli.session import Session

__all__ = ["carry_out", "show_credits"]


async def carry_out(session: Session) -> Exit:
    """
    Ask for the balance.

    Args:
        session: The command's session.

    Raises:
        KieError: If there is no answer.
    """
    async with session.client() as kie:
        balance = await kie.credits()
    session.output.result(f"{balance:g}", {"credits": balance})
    return Exit.DONE


def show_credits(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Show the account's balance, in credits."""
    run(context, carry_out, as_json=as_json)
