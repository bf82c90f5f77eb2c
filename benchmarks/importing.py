"""
What it costs to start: a program that names the client, and ``kie-async --help``.

Naming the client must not load what only a running client needs: a program may import it at its top and never use it.
So the baseline of the first figure is ``import aiohttp``, which the client stands on; beside it are the SDKs of other
services. The baseline of the second is a program with one command and nothing in it, made with typer alone.

Each figure is the CPU time of a whole process, the start of Python included. The processes take turns, round by round,
and the ratio is taken within a round, so that a machine that is slow for a while is slow for all of them.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from statistics import median
from typing import TypeAlias

from benchmarks.report import Report

ROUNDS = 15
NAMING_BOUND = 0.4
HELP_BOUND = 2.0

Row: TypeAlias = list[str | float]

NAMING = "from kie_async import KieClient, Wan22TurboImageToVideo"
HELP = "kie-async --help"
EMPTY_PROGRAM = """
import typer

app = typer.Typer()

@app.command()
def hello(name: str = "you") -> None:
    print(name)

app(["--help"])
"""

#: (figure, what is measured, what runs in a fresh interpreter); the baseline is the first of each figure.
PROGRAMS = (
    ("import", "import aiohttp", ["-c", "import aiohttp"]),
    ("import", NAMING, ["-c", NAMING]),
    ("import", "from fal_client import AsyncClient", ["-c", "from fal_client import AsyncClient"]),
    ("import", "from runwayml import AsyncRunwayML", ["-c", "from runwayml import AsyncRunwayML"]),
    ("import", "nothing", ["-c", "pass"]),
    ("help", "a typer program of one command", ["-c", EMPTY_PROGRAM]),
    ("help", HELP, ["-m", "kie_async", "--help"]),
)
BOUNDS = {NAMING: NAMING_BOUND, HELP: HELP_BOUND}


def cpu(arguments: list[str]) -> float:
    """CPU seconds of a fresh interpreter, from its start to its end."""
    # Bytecode for all, as after `pip install`; else a checkout would be compiled anew each time, and its baseline not.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603  # ours
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def run() -> Report:
    """Run all programs in turns."""
    for _, _, arguments in PROGRAMS:
        cpu(arguments)  # the bytecode is written once
    rounds = [[cpu(arguments) for _, _, arguments in PROGRAMS] for _ in range(ROUNDS)]
    baselines = {figure: place for place, (figure, _, _) in reversed(list(enumerate(PROGRAMS)))}
    rows: list[Row] = []
    for place, (figure, name, _) in enumerate(PROGRAMS):
        ratios = [spent[place] / spent[baselines[figure]] for spent in rounds]
        spent = [times[place] for times in rounds]
        rows.append([figure, name, 1e3 * median(spent), median(ratios), BOUNDS.get(name, "-")])
    return Report(
        name="importing",
        question="What does a start cost: of a program that names the client, of `kie-async --help`?",
        bound=f"set by ourselves: {NAMING_BOUND:g} of `import aiohttp`; {HELP_BOUND:g} of an empty typer program",
        columns=["figure", "program", "CPU ms", "times the first of its figure", "bound"],
        rows=rows,
    )
