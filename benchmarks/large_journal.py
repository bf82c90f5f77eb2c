"""
The waits that calls on a large journal cause: of another process that creates jobs, and of the event loop.

The journal has 250,000 rows, of which 10,000 (the design load of tasks in flight) are unfinished, or all. While a
client calls ``jobs()``, ``recover()`` or ``forget()``, a second process writes the row of a new job a hundred times a
second, as a create does, and measures each write. A task of the loop that wakes every millisecond measures how long the
loop stands still.

The bounds are the package's own and concern the longest wait of all: 50 ms for the other process, 20 ms for the loop.
The baselines are the same file while the client does nothing, and the common implementation: one transaction that
takes over and reads all rows, or deletes them. A process that resumes all 250,000 jobs holds 1.8 million objects: the
stalls of its loop are passes of the garbage collector.

The disk counts, too: with ``TMPDIR`` on a RAM disk, the waits are those for the lock.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from benchmarks.journal import SERVICE, fill
from benchmarks.processes import service
from benchmarks.report import Report
from kie_async import KieClient, Limits

ROWS = 250_000
#: The unfinished rows of the file whose rows have mostly ended: the design load of tasks in flight.
FEW = 10_000
#: The longest time in milliseconds for which another process may wait, and the loop may stand still.
WAIT_BOUND = 50.0
STALL_BOUND = 20.0
#: The number of runs; the minimum of the longest waits counts, because other load of the machine can only add to it.
ROUNDS = 2

Row: TypeAlias = list[str | float]
Call: TypeAlias = Callable[[KieClient], Awaitable[object]]

#: Another process that journals jobs until its input ends; then it prints the seconds of its longest write.
CREATOR = """
import asyncio, random, sys, time
from contextlib import suppress
from kie_async import JournalError
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.sqlite import SqliteStore

async def main():
    journal = SqliteStore(sys.argv[1])
    await journal.open()
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    longest = 0.0
    print("ready", flush=True)
    while not ended.done():
        now = time.time()
        job_id = f"kj_{random.getrandbits(128):032x}"
        intent = Intent(id=job_id, key=job_id, model="a", input="{}", fingerprint="f", created_at=now, updated_at=now)
        began = time.perf_counter()
        with suppress(JournalError):  # after 10 s
            await journal.add(intent)
        longest = max(longest, time.perf_counter() - began)
        await asyncio.sleep(0.01)
    await journal.close()
    print(longest)

asyncio.run(main())
"""


@contextmanager
def creating(path: Path) -> Iterator[list[float]]:
    """Let another process create jobs; the list has its longest wait in milliseconds afterwards."""
    waits = list[float]()
    command = [sys.executable, "-c", CREATOR, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # ours
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise AssertionError
        yield waits
        waits.append(float(process.communicate()[0]) * 1e3)


async def tick(stalls: list[float]) -> None:
    """Add to a list, each millisecond, for how many milliseconds the loop has stood still."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        stalls.append((time.perf_counter() - began) * 1e3 - 1.0)


async def measure_call(path: Path, url: str, call: Call) -> list[float]:
    """Return the other process's longest wait, the loop's longest stall, both in ms, and the seconds of a call."""
    stalls = list[float]()
    async with KieClient("a-key", base_url=url, journal=path, limits=Limits(in_flight=10**6)) as kie:
        with creating(path) as waits:
            gc.collect()
            gc.freeze()  # a pass over the objects of the imports takes 10 ms and more, also without this call
            ticker = asyncio.create_task(tick(stalls))
            began = time.perf_counter()
            await call(kie)
            took = time.perf_counter() - began
            ticker.cancel()
            with suppress(asyncio.CancelledError):
                await ticker
    return [waits[0], max(stalls), took]


def measure_transaction(path: Path, statement: str) -> list[float]:
    """Return the same for one transaction that changes rows and reads them all; there is no loop that could stall."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, creating(path) as waits:
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(statement)
        for row in connection.execute("SELECT * FROM intents"):
            dict(enumerate(row))
        connection.execute("COMMIT")
        took = time.perf_counter() - began
    return [waits[0], 0.0, took]


#: By the question: the number of unfinished rows, and the call.
CALLS: dict[str, tuple[int, Call]] = {
    "nothing, for 5 s": (FEW, lambda _: asyncio.sleep(5.0)),
    "jobs()": (FEW, lambda kie: kie.jobs()),
    "jobs(unfinished=True), all unfinished": (ROWS, lambda kie: kie.jobs(unfinished=True)),
    f"recover(), {FEW:,} unfinished": (FEW, lambda kie: kie.recover()),
    "recover(), all unfinished": (ROWS, lambda kie: kie.recover()),
    "forget()": (FEW, lambda kie: kie.forget(before=time.time())),
}
TRANSACTIONS: dict[str, tuple[int, str]] = {
    "recover(), all unfinished": (ROWS, "UPDATE intents SET owner = 'me'"),
    "forget()": (FEW, "DELETE FROM intents WHERE state = 'succeeded'"),
}


def measure(call: str, contender: str, once: Callable[[], list[float]]) -> Row:
    """Return the row of a call: the minimum of each figure in all rounds."""
    wait, stall, took = (min(figures) for figures in zip(*(once() for _ in range(ROUNDS)), strict=True))
    return [call, contender, wait, stall, took]


def run() -> Report:
    """Measure all calls, on the disk of the system's temporary files."""
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    with TemporaryDirectory() as name, service("-c", SERVICE) as url:
        used = Path(name, "used.db")

        def copy(unfinished: int) -> Path:
            """Return a fresh copy of a journal, which is made on first use."""
            source = Path(name, f"{unfinished}.db")
            if not source.exists():
                fill(source, url, intents=ROWS, unfinished=unfinished)
            for path in Path(name).glob("used.db-*"):
                path.unlink()
            shutil.copy(source, used)
            os.sync()  # else the copy is written to the disk while the first write waits for it
            return used

        rows = [
            measure(call, "kie_async", lambda: asyncio.run(measure_call(copy(unfinished), url, action)))  # noqa: B023
            for call, (unfinished, action) in CALLS.items()
        ]
        rows += [
            measure(call, "one transaction", lambda: measure_transaction(copy(unfinished), statement))  # noqa: B023
            for call, (unfinished, statement) in TRANSACTIONS.items()
        ]
    return Report(
        name="large_journal",
        question=f"How long do other creates, and the event loop, wait for a call on a journal of {ROWS:,} rows?",
        bound=f"set by ourselves: {WAIT_BOUND:g} ms for another process, {STALL_BOUND:g} ms for the loop",
        columns=["call", "with", "another process waits: ms", "the loop stalls: ms", "the call takes: s"],
        rows=rows,
    )
