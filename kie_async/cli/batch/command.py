"""The command ``batch``: its options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kie_async import InvalidRequestError, Limits, Problem
from kie_async._display import shown
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import AllowNetworksOption, JournalOption, JsonOption, ProxyOption, select_journal
from kie_async.cli.running import run_with_journal
from kie_async.cli.session import Session

__all__ = ["batch"]

_RATE = re.compile(r"(\d+)/(\d+(?:\.\d+)?)")


def batch(
    context: typer.Context,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A .csv or .jsonl file, or a folder of images. Rows are shots.")
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The folder for results, manifest.jsonl and index.html.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model of rows without a cell `model`; default: Wan 2.2 Turbo."),
    ] = None,
    unlisted: Annotated[
        bool,
        typer.Option("--unlisted", help="Allow models with nearly the name of one that `kie-async models` lists."),
    ] = False,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="The default prompt.")] = None,
    defaults: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="The cell of rows without one. Repeatable."),
    ] = None,
    budget: Annotated[float | None, typer.Option(metavar="CREDITS", min=0.0, help="The budget of all rows.")] = None,
    budget_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The budget's name: runs with the same journal and name share the budget."),
    ] = None,
    price: Annotated[
        float | None, typer.Option(metavar="CREDITS", min=0.0, help="The price of each row, if known better.")
    ] = None,
    stop_after: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.0, help="Then nothing more is sent; running tasks are awaited."),
    ] = None,
    retry_failed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Retries of a failed task that is worth it.")
    ] = 0,
    rate: Annotated[
        str, typer.Option(metavar="N/SECONDS", help="At most N creates in any SECONDS, of the account.")
    ] = "20/10",
    allow_networks: AllowNetworksOption = None,  # noqa: ARG001 (its callback does the work)
    start_over: Annotated[
        bool,
        typer.Option("--start-over", help="Pay for all shots again; the folder's earlier jobs are left alone."),
    ] = False,
    proxy: ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    journal: JournalOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a whole table of shots; the same command again resumes it, and pays for nothing twice."""
    given = [*(defaults or ()), *([] if prompt is None else [f"prompt={prompt}"])]

    if budget_name is not None and budget is None:
        msg = "expected --budget CREDITS with it, the limit of the named budget."
        raise typer.BadParameter(msg, param_hint="--budget-name")

    async def command(session: Session) -> ExitCode:
        # Other commands, and the help, do not load the modules of a run.
        from kie_async.cli.batch.confirm import ask_user
        from kie_async.cli.batch.options import BatchOptions
        from kie_async.cli.batch.whole_run import run_batch

        options = BatchOptions(
            table=table,
            out=out,
            journal=select_journal(journal),
            start_over=start_over,
            model=model,
            unlisted=unlisted,
            defaults=_parse_defaults(given),
            budget=budget,
            budget_name=budget_name,
            price=price,
            stop_after=stop_after,
            retry_failed=retry_failed,
            allow_networks=session.allow_networks,
            ask=None if yes else ask_user,
            limits=_parse_rate(rate),
        )
        return await run_batch(session, options)

    run_with_journal(context, command, as_json=as_json, journal=journal)


def _parse_defaults(given: Sequence[str]) -> dict[str, str]:
    from kie_async.cli.batch.columns import KEY

    pairs = [text.partition("=") for text in given]
    problems = [Problem("--set", shown(name), "COLUMN=VALUE") for name, equals, _ in pairs if not (name and equals)]
    problems += [
        Problem("--set", shown(name), "another column: each row has its own key") for name, *_ in pairs if name == KEY
    ]
    if problems:
        raise _invalid_options(*problems)
    return {name: value for name, _, value in pairs}


def _parse_rate(rate: str) -> Limits:
    if (found := _RATE.fullmatch(rate)) is None:
        raise _invalid_options(Problem("--rate", shown(rate), "N/SECONDS, such as 20/10"))
    return Limits(creates=int(found[1]), window=float(found[2]))


def _invalid_options(*problems: Problem) -> InvalidRequestError:
    return InvalidRequestError("The options of batch are invalid.", problems=problems)
