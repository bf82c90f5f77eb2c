"""
The time that ``kie-async batch`` takes to check tables that are large, odd or wrong, and to obey Ctrl-C meanwhile.

Each table is checked by a real process, against a fake service, and nothing is sent. A table of one row is the cost of
the start. Another process gets SIGINT (Ctrl-C) once it has opened the table. The clock is the wall's; the CPU time
beside it is less sensitive to other load of the machine.

The baseline reads the same file with the standard library's ``csv`` or ``json`` and checks nothing; a line that it
cannot read is skipped.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import attrs

import kie_async.cli
from benchmarks.report import Report
from kie_async.testing import FakeKie

__all__ = ["run"]

#: Seconds for 100,000 rows, or for 100 MB, beyond the start.
BOUND = 2.0
CTRL_C_BOUND = 2.0
MOST_LINES = 60
ROWS = 200_000
CAT = Path(kie_async.cli.__file__).parent / "data" / "cat.jpg"
MARKET = ("--model", "any/model")
HEADER = "key,image,prompt,resolution,seed\n"
#: The time after which a process that has opened its table is interrupted, and the longest wait for it, in seconds.
PAUSE, LONGEST = 0.2, 600.0

Row: TypeAlias = list[str | float]


@attrs.frozen
class Case:
    """A table: its name, its lines, and further options of the command."""

    name: str
    lines: Callable[[], Iterator[str]]
    suffix: str = ".csv"
    options: tuple[str, ...] = ()


def _names(name: str) -> list[str]:
    return [",".join(f"{name}{number}" for number in range(1000)), "\n"]


CASES = (
    Case("one good row", lambda: iter([HEADER, "a,cat.jpg,Go,720p,7\n"])),
    Case("good rows", lambda: chain([HEADER], (f"row-{n},cat.jpg,Go {n},720p,{n}\n" for n in range(ROWS)))),
    Case("good rows without keys", lambda: chain(["image,prompt\n"], (f"cat.jpg,Go {n}\n" for n in range(ROWS)))),
    Case("three faults a row", lambda: chain([HEADER], (f"row-{n},dog.jpg,Go,1p,x\n" for n in range(ROWS)))),
    Case("short rows", lambda: chain([HEADER], repeat("a,b\n", ROWS))),
    Case("the same key", lambda: chain([HEADER], repeat("a,cat.jpg,Go,720p,7\n", ROWS))),
    Case("140,000 equal names", lambda: chain([",".join(["image"] * 140_000), "\n"], repeat("x\n", 10))),
    Case("1,000 columns", lambda: chain(_names("n"), repeat("1," * 999 + "1\n", 2_000)), options=MARKET),
    Case("1,000 unknown columns", lambda: chain(_names("prompt"), repeat("," * 999 + "1\n", 10_000))),
    Case("a line of 100 MB", lambda: chain(["image,prompt\ncat.jpg,"], repeat("x" * 1_000_000, 100))),
    Case("a quote without an end", lambda: chain(['image,prompt\ncat.jpg,"'], repeat("The cat barks.\n", 1_000_000))),
    Case("long prompts", lambda: chain([HEADER], (f"row-{n},cat.jpg,{'Go ' * 300},720p,7\n" for n in range(55_000)))),
    Case("deep cells", lambda: chain(["x:json\n"], repeat("[" * 10_000 + "\n", 10_000)), options=MARKET),
    Case("deep objects", lambda: repeat('{"a":' * 2000 + "\n", 10_000), ".jsonl"),
    Case("another unknown name a row", lambda: (f'{{"prompt{n}": 1}}\n' for n in range(ROWS)), ".jsonl"),
    Case("long unknown names", lambda: (f'{{"{"n" * 900_000}{n}": 1}}\n' for n in range(100)), ".jsonl"),
    Case("numbers of 4,000 digits", lambda: repeat('{"seed": ' + "9" * 4000 + "}\n", 25_000), ".jsonl"),
)


def _read(path: Path) -> None:
    """Read a table with the standard library, as the baseline."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            for line in file:
                with suppress(ValueError, RecursionError):
                    json.loads(line)
        else:
            csv.field_size_limit(200_000_000)
            for _ in csv.reader(file):
                pass


async def _start(path: Path, case: Case, fake: FakeKie) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "kie_async", "batch", str(path), "-o", str(path.parent / "out"), *case.options]
    environment = {**os.environ, "KIE_BASE_URL": fake.url, "KIE_API_KEY": "any", "XDG_STATE_HOME": str(path.parent)}
    return await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _has_open(pid: int, path: Path) -> bool:
    with suppress(OSError):
        return any(file.readlink() == path for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


async def _seconds_after_ctrl_c(path: Path, case: Case, fake: FakeKie) -> str | float:
    """Return the seconds from SIGINT to the end of the process, or "-" if it has ended before."""
    process = await _start(path, case, fake)
    output = asyncio.create_task(process.communicate())
    while not (output.done() or _has_open(process.pid, path)):  # noqa: ASYNC110 (another process has no event)
        await asyncio.sleep(0.01)
    await asyncio.wait([output], timeout=PAUSE)
    if output.done():
        return "-"
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    await asyncio.wait_for(output, LONGEST)
    return time.perf_counter() - began


async def _measure(case: Case, folder: Path, fake: FakeKie) -> Row:
    path = folder / f"table{case.suffix}"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(case.lines())
    with path.open("rb") as file:
        rows = sum(1 for _ in file)
    megabytes = path.stat().st_size / 1e6
    began, cpu = time.process_time(), _children_cpu()
    _read(path)
    baseline = time.process_time() - began
    began = time.perf_counter()
    process = await _start(path, case, fake)
    printed, _ = await asyncio.wait_for(process.communicate(), LONGEST)
    took, cpu = time.perf_counter() - began, _children_cpu() - cpu
    after = await _seconds_after_ctrl_c(path, case, fake)
    path.unlink()
    units = max(rows / 1e5, megabytes / 100)
    return [
        case.name,
        rows,
        megabytes,
        baseline,
        took,
        cpu,
        BOUND * units,
        process.returncode or 0,
        printed.count(b"\n"),
        after,
    ]


async def _measure_all() -> list[Row]:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copy(CAT, folder / "cat.jpg")
        async with FakeKie() as fake:
            return [await _measure(case, folder, fake) for case in CASES]


def run() -> Report:
    """Check each table once."""
    return Report(
        name="odd_input",
        question="How long does it take to check a table that is large, odd or wrong, and to obey Ctrl-C meanwhile?",
        bound=f"our own: the start (the first row) and {BOUND:g} s for 100,000 rows or 100 MB; at most"
        f" {MOST_LINES} lines; {CTRL_C_BOUND:g} s after Ctrl-C",
        columns=[
            "table of",
            "rows",
            "MB",
            "csv or json s",
            "s",
            "CPU s",
            "bound s",
            "exit code",
            "lines",
            "s after Ctrl-C",
        ],
        rows=asyncio.run(_measure_all()),
    )
