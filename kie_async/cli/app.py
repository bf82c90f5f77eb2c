"""The program: all commands, and the options that precede a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import attrs
import typer

from kie_async import __version__
from kie_async.cli.account import budgets, credits, upload
from kie_async.cli.batch.command import batch
from kie_async.cli.demo import demo
from kie_async.cli.exit_codes import exit_code_help
from kie_async.cli.fake import fake
from kie_async.cli.generate import generate
from kie_async.cli.jobs import abandon, forget, ls, resolve, resubmit
from kie_async.cli.journal import journal_app
from kie_async.cli.listen import listen
from kie_async.cli.models import models
from kie_async.cli.options import ProxyOption
from kie_async.cli.recover import recover
from kie_async.cli.running import GlobalOptions
from kie_async.cli.tasks import status, wait
from kie_async.cli.workers import workers

__all__ = ["app"]

_ENVIRONMENT = (
    "Environment: KIE_API_KEY is the key; KIE_BASE_URL and KIE_UPLOAD_URL select another service than Kie's own;"
    " KIE_WEBHOOK_KEY is the account's webhookHmacKey, for `listen`;"
    " KIE_JOURNAL is the journal, a file or the DSN of a PostgreSQL database; default: kie-async/journal.db in"
    " XDG_STATE_HOME or ~/.local/state;"
    " HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY select a proxy, as `--proxy` does."
)

app: typer.Typer = typer.Typer(
    name="kie-async",
    help="Images to videos with the Kie.ai generation API. A paid task is never forgotten, and never paid twice.",
    epilog=f"{exit_code_help()}\n\n{_ENVIRONMENT}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: tuple[Callable[..., None], ...] = (
    *(demo, models, generate, batch, status, wait, ls, recover, resolve, resubmit, abandon, forget),
    *(credits, budgets, workers, upload, listen, fake),
)
#: The options of a model's fields are not known before its name.
_ANY_OPTION = {"allow_extra_args": True, "ignore_unknown_options": True}
for _command in _COMMANDS:
    app.command(context_settings=_ANY_OPTION if _command is generate else None)(_command)
app.add_typer(journal_app, name="journal")


def _show_version(wanted: bool) -> None:  # noqa: FBT001 (typer calls it so)
    if wanted:
        typer.echo(f"kie-async {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001 (its callback does the work)
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log, and tracebacks.")] = False,
    proxy: ProxyOption = None,  # noqa: ARG001 (its callback does the work)
) -> None:
    """Read the options that precede a command."""
    context.obj = attrs.evolve(context.ensure_object(GlobalOptions), verbose=verbose)
