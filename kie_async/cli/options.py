"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = ["JsonOption", "OutputOption", "TimeoutOption"]

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
