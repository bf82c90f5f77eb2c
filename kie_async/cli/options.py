"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from kie_async.cli.journals import VARIABLE

__all__ = [
    "IdArgument",
    "JobArgument",
    "JournalOption",
    "JsonOption",
    "NoJournalOption",
    "OutputOption",
    "TimeoutOption",
]

IdArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ID", help="The task's id at the service, or the job's in the journal (kj_…).")
]

JobArgument: TypeAlias = Annotated[str, typer.Argument(metavar="JOB", help="The job's id in the journal (kj_…).")]

JournalOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--journal",
        metavar="FILE",
        envvar=VARIABLE,
        help="The journal; by default kie-async/journal.db in $XDG_STATE_HOME or ~/.local/state.",
    ),
]

NoJournalOption: TypeAlias = Annotated[
    bool, typer.Option("--no-journal", help="Keep no journal: a job is forgotten with the process.")
]

JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Write one JSON object a result to standard output, and nothing else there.")
]

OutputOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where the result goes; a folder names it by the task's id. By default, the current folder.",
    ),
]

TimeoutOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0.0, help="How long to wait; by default an hour from the task's acceptance."
    ),
]
