"""The options and arguments that several commands share, and the journal that they select."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import attrs
import typer

from kie_async import ConfigurationError, PostgresJournal
from kie_async._display import sealed, shown
from kie_async._dsn import is_dsn, is_public, shown_dsn
from kie_async._urls import BASE_URL, proxy_url, service_origin

__all__ = [
    "AllowNetworksOption",
    "CommandJournal",
    "IdArgument",
    "JobArgument",
    "JournalDatabase",
    "JournalFile",
    "JournalOption",
    "JsonOption",
    "NoJournalOption",
    "OutputOption",
    "ProxyOption",
    "TimeoutOption",
    "configured_origin",
    "parse_json",
    "select_journal",
]

#: The environment variable that selects another journal.
_JOURNAL_VARIABLE = "KIE_JOURNAL"
_LONGEST_SUFFIX = 100

IdArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ID", help="The task's id at the service, or the job's in the journal (kj_…).")
]
JobArgument: TypeAlias = Annotated[str, typer.Argument(metavar="JOB", help="The job's id in the journal (kj_…).")]

JournalOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        envvar=_JOURNAL_VARIABLE,
        help=(
            "The journal: a file, or postgresql://user@host/database; default: a file for each service in kie-async in"
            " $XDG_STATE_HOME or ~/.local/state. Give a password in the environment only."
        ),
    ),
]
NoJournalOption: TypeAlias = Annotated[
    bool, typer.Option("--no-journal", help="Keep no journal: a job is forgotten with the process.")
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Write results as JSON to standard output, one object a line, and nothing else.")
]


def _keep_networks(context: typer.Context, networks: list[str] | None) -> list[str] | None:
    """Keep the networks for the session that the command makes."""
    found = tuple(part for text in networks or () for part in re.split(r"[\s,]+", text) if part)
    context.obj = attrs.evolve(context.obj, allow_networks=found)
    return networks


AllowNetworksOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NETWORK",
        callback=_keep_networks,
        help="Fetch results also from addresses of this network, such as 198.18.0.0/15 of a VPN; repeatable.",
    ),
]


def _use_proxy(context: typer.Context, url: str | None) -> str | None:
    """Put the proxy into the environment until the command ends: the client and its checks find it there."""
    if url is not None:
        try:
            names: dict[str, str] = dict.fromkeys(("http_proxy", "https_proxy"), proxy_url(url))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        earlier = {name: os.environ.get(name) for name in names}
        os.environ.update(names)

        @context.call_on_close
        def restore() -> None:
            for name, value in earlier.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value

    return url


ProxyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        callback=_use_proxy,
        help=(
            "The HTTP proxy's URL; default: HTTPS_PROXY, HTTP_PROXY or ALL_PROXY. NO_PROXY names the hosts without one."
            " Give a password in the environment only."
        ),
    ),
]
OutputOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The file for the result; a folder names it by the task's id. Default: the current folder.",
    ),
]
TimeoutOption: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0.0, help="Seconds to wait; default: an hour from the task's acceptance."),
]


@attrs.frozen
class JournalFile:
    """
    A journal on disk.

    Attributes:
        path: The file.

        is_default: True for the file in the user's state directory, whose folder is made on demand.

        option: The option that leads another command to the file; empty where no option is needed.
    """

    path: Path
    is_default: bool = False
    option: str = ""

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Return True if the file exists; blocks."""
        return self.path.exists()

    def prepare(self) -> Path:
        """
        Create the default file's folder and return the file, for a client; blocks, so call it in a thread.

        Raises:
            ConfigurationError: If the folder cannot be created.
        """
        if self.is_default:
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                msg = (
                    f"Cannot keep the journal in {self.path.parent} ({error.strerror}). Nothing was sent. Choose"
                    f" another file with --journal or {_JOURNAL_VARIABLE}, or none with --no-journal."
                )
                raise ConfigurationError(msg) from error
        return self.path


@attrs.frozen(eq=False)
class JournalDatabase:
    """
    A journal in PostgreSQL.

    Attributes:
        dsn: Returns the DSN; a plain attribute would be shown by error trackers.

        by_environment: True if it was named by ``KIE_JOURNAL``, which the next command has, too.
    """

    dsn: Callable[[], str]
    by_environment: bool = False

    def __str__(self) -> str:
        return shown_dsn(self.dsn()) or "PostgreSQL"

    @property
    def option(self) -> str:
        """The option that leads another command to the journal, with ``DSN`` in place of a DSN that has a secret."""
        if self.by_environment:
            return ""
        return f" --journal {shlex.quote(self.dsn()) if is_public(self.dsn()) else 'DSN'}"

    @property
    def shows_secret(self) -> bool:
        """True if the command line, which all users of the machine can read, may have a password."""
        return not self.by_environment and not is_public(self.dsn())

    def exists(self) -> bool:
        """Return True: a client tells whether it is the one that is looked for."""
        return True

    def prepare(self) -> PostgresJournal:
        """
        Return the configuration for a client; blocks, since it may import psycopg.

        Raises:
            ConfigurationError: If the DSN is not valid, or psycopg is not installed.
        """
        return PostgresJournal(self.dsn())


#: The journal of a command.
CommandJournal: TypeAlias = JournalFile | JournalDatabase


def configured_origin(url: str | None = None) -> str | None:
    """Return the service of *url*, or else of ``KIE_BASE_URL``, or else Kie's own; None if the URL is invalid."""
    try:
        return service_origin(url or os.environ.get("KIE_BASE_URL") or BASE_URL)
    except ValueError:
        return None  # the client reports it


def select_journal(given: str | None) -> CommandJournal:
    """
    Return the journal of a command.

    Args:
        given: The file or DSN chosen by option or environment; None for the file of the configured service in the
            user's state directory (``$XDG_STATE_HOME``, else ``~/.local/state``).
    """
    if given is not None:
        by_environment = os.environ.get(_JOURNAL_VARIABLE) == given
        if is_dsn(given):
            return JournalDatabase(sealed(given), by_environment=by_environment)
        return JournalFile(Path(given), option="" if by_environment else f" --journal {shlex.quote(given)}")
    # The XDG specification ignores a path that is not absolute.
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        state = Path(os.path.expanduser("~")) / ".local" / "state"  # noqa: PTH111 (Path.home() may raise)
    origin, suffix = configured_origin(), ""
    if origin not in (None, BASE_URL):
        # Two services whose names become equal share a file, which is allowed.
        suffix = "-" + re.sub(r"[^A-Za-z0-9.-]+", "_", str(origin).partition("://")[2])[:_LONGEST_SUFFIX]
    return JournalFile(state / "kie-async" / f"journal{suffix}.db", is_default=True)


def parse_json(text: str) -> object:
    """
    Parse JSON that a user has written: strictly, so that nothing is dropped or guessed.

    Args:
        text: The JSON.

    Raises:
        ValueError: If it is not JSON: also for NaN, a name that comes twice, and nesting that cannot be parsed.

    >>> parse_json('{"seed": 7}')
    {'seed': 7}
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_names, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        msg = f"{error.msg} at place {error.pos + 1}"
    except RecursionError:
        msg = "it is nested too deeply"
    raise ValueError(msg)


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse an object in which a name is repeated: ``json`` would silently drop all but the last value."""
    if len(unique := dict(pairs)) == len(pairs):
        return unique
    name, count = Counter(name for name, _ in pairs).most_common(1)[0]
    msg = f"{shown(name)} comes {count} times"
    raise ValueError(msg)


def _refuse_constant(constant: str) -> object:
    msg = f"{constant} is not a JSON number"
    raise ValueError(msg)
