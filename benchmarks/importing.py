"""
The cost of a start: of a program that imports the client, and of ``kie-async --help``.

Importing the client must not import the modules that only a running client needs: a program may import it and never use
it. The baseline of the first figure is ``import aiohttp``, which the client uses; the SDKs of other services are shown
beside it. The baseline of the second figure is a typer program with one empty command.

Each figure is the CPU time of a whole process, including the start of Python. The processes take turns, and ratios are
computed within a round, so that a slow phase of the machine affects all of them.
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

#: (figure, name, arguments of a new interpreter); the baseline is the first of each figure.
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
    """Return the CPU seconds of a new interpreter, from its start to its end."""
    # All programs use cached bytecode, as after `pip install`; otherwise only the checkout would be compiled each time.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603  # ours
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def run() -> Report:
    """Run all programs in turn."""
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
        question="What does a start cost: of a program that imports the client, and of `kie-async --help`?",
        bound=f"set by ourselves: {NAMING_BOUND:g} of `import aiohttp`; {HELP_BOUND:g} of an empty typer program",
        columns=["figure", "program", "CPU ms", "times the first of its figure", "bound"],
        rows=rows,
    )
