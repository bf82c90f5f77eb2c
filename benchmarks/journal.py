"""
The cost of the journal on disk: to open a large one, to write a transition, and to run a job.

Three questions, each with the package's own bound. (1) The file has 100,000 intents, 1,000 of them unfinished: how long
does it take from opening it until ``recover()`` has resumed all of them? (2) 100 jobs write their transitions
concurrently: how much of the event loop's time does a transition take? The writing thread shares the interpreter with
the loop, so its CPU time is shown, too. (3) A client runs 100 concurrent jobs against a service in another process: how
much more CPU does the client use for a job than with the journal in memory?

The baselines are common implementations: a file of JSON lines, which is read at the start; and SQLite in a worker
thread with a transaction, and therefore a flush of the disk, for every transition.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TypeAlias

import anyio
import anyio.to_thread
import attrs

from benchmarks.processes import service
from benchmarks.report import Report
from kie_async import KieClient, Limits, Wan22TurboImageToVideo
from kie_async._core.acknowledged import Restoration
from kie_async._core.lifecycle import Intent
from kie_async._io.journals import tables
from kie_async._io.journals.journal import Journal, Service
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState

INTENTS = 100_000
UNFINISHED = 1_000
CONCURRENT = 100
MOVED = 2_000
JOBS = 300
#: The number of runs; the minimum counts, because other load of the machine can only add to it.
ROUNDS = 4

RECOVER_BOUND = 2.0
MOVE_BOUND = 50.0
JOB_BOUND = 1.3

S = JobState
Row: TypeAlias = list[str | float]

#: The service, in a process of its own and as fast as possible, so that the client is measured.
SERVICE = """
import asyncio
from kie_async.testing import FakeKie

async def main():
    async with FakeKie(limit=10**6, queries_per_second=1e6, duration=0.0, credits=1e9) as fake:
        print(fake.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, input)

asyncio.run(main())
"""


def make_intent(number: int, state: JobState = S.INTENT) -> Intent:
    """Return the row of an ordinary request; an ended one has its record."""
    ended = state is S.SUCCEEDED
    sent = state is not S.INTENT
    return Intent(
        id=f"kj_{number:032x}",
        model="wan/2-2-a14b-image-to-video-turbo",
        input=json.dumps(
            {"image_url": "https://example.com/cat.png", "prompt": f"The cat turns its head. {'x' * 200}"}
        ),
        fingerprint=f"{number:064x}",
        created_at=time.time(),
        updated_at=time.time(),
        key=f"shot-{number}",
        state=state,
        attempts=int(sent),
        sending_at=time.time() if sent else None,
        task_id=f"{number:032x}" if sent and state is not S.IN_DOUBT else None,
        accepted_at=time.time() if sent else None,
        record=json.dumps({"task_id": f"{number:032x}", "state": "success", "raw": {"param": "x" * 600}})
        if ended
        else None,
        credits=8.0 if ended else None,
    )


# -- 1: opening a large file -------------------------------------------------------------------------------------------


def fill(path: Path, url: str, *, intents: int, unfinished: int) -> None:
    """
    Write the intents of a service to a journal.

    Args:
        path: The journal.

        url: The service.

        intents: The number of intents.

        unfinished: The number of those that have not ended: most of them have a task, up to 100 are in doubt.
    """

    async def make() -> None:
        journal = SqliteStore(path)
        await journal.open()
        await journal.close()

    asyncio.run(make())
    service = Service.of(url, "a-key")
    ids = Random(1)  # each row is in another part of the index
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables.bind_service(connection, service)
        connection.execute("BEGIN")
        for number in range(intents):
            state = S.SUCCEEDED
            if number % (intents // unfinished) == 0:
                state = S.IN_DOUBT if number % (intents // 100) == 0 else S.SUBMITTED
            row = attrs.evolve(
                make_intent(number, state),
                id=f"kj_{ids.getrandbits(128):032x}",
                origin=service.origin,
                account=service.account,
            )
            tables.insert_row(connection, Restoration(), row)
        connection.execute("COMMIT")


async def open_and_recover(path: Path, url: str) -> float:
    """Return the seconds from opening the journal until all unfinished jobs are tracked."""
    began = time.perf_counter()
    kie = KieClient("a-key", base_url=url, journal=path)
    jobs = await kie.recover()
    took = time.perf_counter() - began
    if len(jobs) != UNFINISHED:
        raise AssertionError(len(jobs))
    await kie.aclose()
    return took


def replay_lines(path: Path) -> float:
    """Return the seconds to read a file of JSON lines and find the unfinished ones."""
    with path.open("w") as file:
        for number in range(INTENTS):
            state = S.SUBMITTED if number % (INTENTS // UNFINISHED) == 0 else S.SUCCEEDED
            file.write(json.dumps(attrs.asdict(make_intent(number, state))) + "\n")
    began = time.perf_counter()
    with path.open() as file:
        rows = [json.loads(line) for line in file]
    unfinished = [row for row in rows if row["state"] == S.SUBMITTED]
    took = time.perf_counter() - began
    if len(unfinished) != UNFINISHED:
        raise AssertionError
    return took


def opening(folder: Path) -> Iterator[Row]:
    """Yield the rows of the first question."""
    path = folder / "large.db"
    with service("-c", SERVICE) as url:
        fill(path, url, intents=INTENTS, unfinished=UNFINISHED)
        took = min(asyncio.run(open_and_recover(path, url)) for _ in range(ROUNDS))
    question = f"open {INTENTS:,} intents, recover {UNFINISHED:,}: s"
    yield [question, "kie_async", took, RECOVER_BOUND]
    yield [question, "JSON lines", replay_lines(folder / "large.jsonl"), "-"]


# -- 2: a transition ---------------------------------------------------------------------------------------------------


class OneByOneJournal:
    """A common implementation: a worker thread, and a transaction for each transition."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT, task_id TEXT, record TEXT)")
        self._lock = asyncio.Lock()

    async def job(self, number: int) -> None:
        """Write the four transitions of a job."""
        await self._execute("INSERT INTO jobs VALUES (?, ?, NULL, NULL)", (number, S.INTENT))
        await self._execute("UPDATE jobs SET state = ? WHERE id = ?", (S.SENDING, number))
        await self._execute("UPDATE jobs SET state = ?, task_id = ? WHERE id = ?", (S.SUBMITTED, "a task", number))
        await self._execute("UPDATE jobs SET state = ?, record = ? WHERE id = ?", (S.SUCCEEDED, "{}", number))

    async def _execute(self, statement: str, values: tuple[str | int, ...]) -> None:
        async with self._lock:
            await anyio.to_thread.run_sync(self._connection.execute, statement, values)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


async def write_job(journal: Journal, number: int) -> None:
    """Write the four transitions of a successful job."""
    row: Intent | None = await journal.add(attrs.evolve(make_intent(number), key=None))
    done = make_intent(number, S.SUCCEEDED)
    for state in (S.SENDING, S.SUBMITTED, S.SUCCEEDED):
        if row is None:
            raise AssertionError
        if state is S.SENDING:
            row = await journal.transition(row, state, at=1.0, attempts=1, sending_at=1.0)
        elif state is S.SUBMITTED:
            row = await journal.transition(row, state, at=2.0, task_id=done.task_id, accepted_at=2.0, error=None)
        else:
            row = await journal.transition(row, state, at=3.0, record=done.record, credits=done.credits)


async def run_concurrently(job: Callable[[int], Awaitable[None]], jobs: int) -> None:
    """Run jobs, a hundred at a time."""
    numbers = iter(range(jobs))

    async def worker() -> None:
        for number in numbers:
            await job(number)

    async with anyio.create_task_group() as group:
        for _ in range(CONCURRENT):
            group.start_soon(worker)


@contextmanager
def measure_times(spent: dict[str, float]) -> Iterator[None]:
    """Measure the time of the loop's thread, the CPU time of the process, and the elapsed time, in seconds."""
    clocks = {"loop": time.thread_time, "process": time.process_time, "wall": time.perf_counter}
    began = {name: clock() for name, clock in clocks.items()}
    yield
    spent.update((name, clock() - began[name]) for name, clock in clocks.items())


async def time_of_transitions(journal: Journal) -> dict[str, float]:
    """Return the times of all jobs' transitions."""
    spent: dict[str, float] = {}
    await journal.open()
    with measure_times(spent):
        await run_concurrently(lambda number: write_job(journal, number), MOVED)
    await journal.close()
    return spent


async def time_of_single_transactions(path: Path) -> dict[str, float]:
    """Return the times with a transaction for each transition."""
    spent: dict[str, float] = {}
    with closing(OneByOneJournal(path)) as journal, measure_times(spent):
        await run_concurrently(journal.job, MOVED)
    return spent


def transitions(folder: Path) -> Iterator[Row]:
    """Yield the rows of the second question."""
    contenders: dict[str, Callable[[int], dict[str, float]]] = {
        "kie_async": lambda nth: asyncio.run(time_of_transitions(SqliteStore(folder / f"moves{nth}.db"))),
        "kie_async, in memory": lambda _: asyncio.run(time_of_transitions(MemoryJournal())),
        "a transaction each": lambda nth: asyncio.run(time_of_single_transactions(folder / f"single{nth}.db")),
    }
    for name, run_once in contenders.items():
        runs = [run_once(nth) for nth in range(ROUNDS)]
        for clock, bound in (("loop", MOVE_BOUND), ("process", "-"), ("wall", "-")):
            figure = min(spent[clock] for spent in runs) / (4 * MOVED) * 1e6
            shown = {"loop": "of the loop's time", "process": "of CPU", "wall": "on the clock"}[clock]
            yield [
                f"a transition at {CONCURRENT} in flight: µs {shown}",
                name,
                figure,
                bound if name == "kie_async" else "-",
            ]


# -- 3: a job ----------------------------------------------------------------------------------------------------------


async def cpu_of_a_job(url: str, journal: Path | None) -> float:
    """Return the client's CPU seconds for one job, including the journal's thread and the system."""
    limits = Limits(creates=10**6, in_flight=CONCURRENT, polls_per_second=1e6)
    spent: dict[str, float] = {}
    async with KieClient("a-key", base_url=url, journal=journal, limits=limits) as kie:

        async def job(number: int) -> None:
            """Write the four transitions of a job."""
            request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=f"Take {number}")
            await kie.generate(request)

        await run_concurrently(job, CONCURRENT)  # connections are made once
        with measure_times(spent):
            await run_concurrently(job, JOBS)
    return spent["process"] / JOBS


def working(folder: Path) -> Iterator[Row]:
    """Yield the rows of the third question; the contenders alternate, because the machine's speed varies."""
    disk, memory = list[float](), list[float]()
    with service("-c", SERVICE) as url:
        for nth in range(ROUNDS):
            memory.append(asyncio.run(cpu_of_a_job(url, None)))
            disk.append(asyncio.run(cpu_of_a_job(url, folder / f"jobs{nth}.db")))
    question = f"a job at {CONCURRENT} concurrent: ms of the client's CPU"
    yield [question, "kie_async", min(disk) * 1e3, "-"]
    yield [question, "kie_async, in memory", min(memory) * 1e3, "-"]
    yield ["the same, as a multiple of the one in memory", "kie_async", min(disk) / min(memory), JOB_BOUND]


def run() -> Report:
    """Measure all three, on the disk of the system's temporary files."""
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*opening(folder), *transitions(folder), *working(folder)]
    return Report(
        name="journal",
        question="What does the journal on disk cost: to open, a transition, a job?",
        bound="set by ourselves, beside the figures: 2 s; 50 µs of the event loop; 1.3 times the journal in memory",
        columns=["figure", "with", "value", "bound"],
        rows=rows,
    )
