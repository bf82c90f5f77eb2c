"""
What the journal on disk costs: opening a large one, a move, and a job.

Three questions, each with the bound that the package has set itself. (1) 100,000 intents are in the file, 1,000 of them
unfinished: how long from opening it until ``recover()`` has taken all of them up? (2) 100 jobs make their moves at the
same time: how much of the event loop's time does a move take? The thread that writes shares the interpreter with the
loop, so what it computes is shown, too. (3) 100 jobs at a time go through a client against a service in another
process: how much more CPU does the client use for a job than with the journal in memory?

The baselines are what people write: a file of JSON lines, which is read at the start; and SQLite in a worker thread
with a transaction, and so a flush of the disk, for every move.
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
from tempfile import TemporaryDirectory
from typing import TypeAlias

import anyio
import anyio.to_thread
import attrs

from benchmarks.processes import service
from benchmarks.report import Report
from kie_async import KieClient, Limits, Wan22TurboImageToVideo
from kie_async._core.lifecycle import Intent
from kie_async._io.journals import tables
from kie_async._io.journals.journal import Journal
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie

INTENTS = 100_000
UNFINISHED = 1_000
CONCURRENT = 100
MOVED = 2_000
JOBS = 300
#: The least of so many runs counts: what else the machine does can only add to it.
ROUNDS = 4

RECOVER_BOUND = 2.0
MOVE_BOUND = 50.0
JOB_BOUND = 1.3

S = JobState
Row: TypeAlias = list[str | float]

#: The service in a process of its own: as fast as it can, so that the client is what is measured.
SERVICE = """
import asyncio
from kie_async.testing import FakeKie

async def main():
    async with FakeKie(limit=10**6, queries_per_second=1e6, duration=0.0, credits=1e9) as fake:
        print(fake.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, input)

asyncio.run(main())
"""


def an_intent(number: int, state: JobState = S.INTENT) -> Intent:
    """A row as an ordinary request makes it; if it has ended, with the record of its end."""
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


def fill(path: Path) -> None:
    """Put all intents into a journal: every hundredth is unfinished, most of those with a task, some in doubt."""

    async def make() -> None:
        journal = SqliteStore(path)
        await journal.open()
        await journal.close()

    asyncio.run(make())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for number in range(INTENTS):
            state = S.SUCCEEDED
            if number % (INTENTS // UNFINISHED) == 0:
                state = S.IN_DOUBT if number % (INTENTS // 100) == 0 else S.SUBMITTED
            tables.insert_row(connection, an_intent(number, state))
        connection.execute("COMMIT")


async def open_and_recover(path: Path) -> float:
    """Seconds from opening the journal until everything unfinished is followed."""
    async with FakeKie() as fake:
        began = time.perf_counter()
        kie = KieClient("a-key", base_url=fake.url, journal=path)
        jobs = await kie.recover()
        took = time.perf_counter() - began
        if len(jobs) != UNFINISHED:
            raise AssertionError(len(jobs))
        await kie.aclose()
    return took


def replay_lines(path: Path) -> float:
    """Seconds to read a file of JSON lines, and to find what is unfinished."""
    with path.open("w") as file:
        for number in range(INTENTS):
            state = S.SUBMITTED if number % (INTENTS // UNFINISHED) == 0 else S.SUCCEEDED
            file.write(json.dumps(attrs.asdict(an_intent(number, state))) + "\n")
    began = time.perf_counter()
    with path.open() as file:
        rows = [json.loads(line) for line in file]
    unfinished = [row for row in rows if row["state"] == S.SUBMITTED]
    took = time.perf_counter() - began
    if len(unfinished) != UNFINISHED:
        raise AssertionError
    return took


def opening(folder: Path) -> Iterator[Row]:
    """Rows of the first question."""
    path = folder / "large.db"
    fill(path)
    took = min(asyncio.run(open_and_recover(path)) for _ in range(ROUNDS))
    question = f"open {INTENTS:,} intents, recover {UNFINISHED:,}: s"
    yield [question, "kie_async", took, RECOVER_BOUND]
    yield [question, "JSON lines", replay_lines(folder / "large.jsonl"), "-"]


# -- 2: a move ---------------------------------------------------------------------------------------------------------


class OneByOne:
    """What people write: a worker thread, and a transaction for each move."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT, task_id TEXT, record TEXT)")
        self._lock = asyncio.Lock()

    async def job(self, number: int) -> None:
        """The four writes of a job."""
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


async def through(journal: Journal, number: int) -> None:
    """The four writes of a job that goes well."""
    row: Intent | None = await journal.add(attrs.evolve(an_intent(number), key=None))
    done = an_intent(number, S.SUCCEEDED)
    for state in (S.SENDING, S.SUBMITTED, S.SUCCEEDED):
        if row is None:
            raise AssertionError
        if state is S.SENDING:
            row = await journal.transition(row, state, at=1.0, attempts=1, sending_at=1.0)
        elif state is S.SUBMITTED:
            row = await journal.transition(row, state, at=2.0, task_id=done.task_id, accepted_at=2.0, error=None)
        else:
            row = await journal.transition(row, state, at=3.0, record=done.record, credits=done.credits)


async def in_flight(job: Callable[[int], Awaitable[None]], jobs: int) -> None:
    """Run jobs, a hundred at a time."""
    numbers = iter(range(jobs))

    async def worker() -> None:
        for number in numbers:
            await job(number)

    async with anyio.create_task_group() as group:
        for _ in range(CONCURRENT):
            group.start_soon(worker)


@contextmanager
def watch(spent: dict[str, float]) -> Iterator[None]:
    """Take the time of the loop's own thread, of the whole process, and of the clock on the wall, in seconds."""
    clocks = {"loop": time.thread_time, "process": time.process_time, "wall": time.perf_counter}
    began = {name: clock() for name, clock in clocks.items()}
    yield
    spent.update((name, clock() - began[name]) for name, clock in clocks.items())


async def moves_of(journal: Journal) -> dict[str, float]:
    """What the moves of all jobs take."""
    spent: dict[str, float] = {}
    await journal.open()
    with watch(spent):
        await in_flight(lambda number: through(journal, number), MOVED)
    await journal.close()
    return spent


async def moves_one_by_one(path: Path) -> dict[str, float]:
    """What they take with a transaction each."""
    spent: dict[str, float] = {}
    with closing(OneByOne(path)) as journal, watch(spent):
        await in_flight(journal.job, MOVED)
    return spent


def moving(folder: Path) -> Iterator[Row]:
    """Rows of the second question."""
    contenders: dict[str, Callable[[int], dict[str, float]]] = {
        "kie_async": lambda nth: asyncio.run(moves_of(SqliteStore(folder / f"moves{nth}.db"))),
        "kie_async, in memory": lambda _: asyncio.run(moves_of(MemoryJournal())),
        "a transaction each": lambda nth: asyncio.run(moves_one_by_one(folder / f"single{nth}.db")),
    }
    for name, run_once in contenders.items():
        runs = [run_once(nth) for nth in range(ROUNDS)]
        for clock, bound in (("loop", MOVE_BOUND), ("process", "-"), ("wall", "-")):
            figure = min(spent[clock] for spent in runs) / (4 * MOVED) * 1e6
            shown = {"loop": "of the loop's time", "process": "of CPU", "wall": "on the clock"}[clock]
            yield [f"a move at {CONCURRENT} in flight: µs {shown}", name, figure, bound if name == "kie_async" else "-"]


# -- 3: a job ----------------------------------------------------------------------------------------------------------


async def cpu_of_a_job(url: str, journal: Path | None) -> float:
    """CPU seconds that a client uses for one job, those of the journal's thread and of the system included."""
    limits = Limits(creates=10**6, in_flight=CONCURRENT, polls_per_second=1e6)
    spent: dict[str, float] = {}
    async with KieClient("a-key", base_url=url, journal=journal, limits=limits) as kie:

        async def job(number: int) -> None:
            request = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=f"Take {number}")
            await kie.generate(request)

        await in_flight(job, CONCURRENT)  # connections are made once
        with watch(spent):
            await in_flight(job, JOBS)
    return spent["process"] / JOBS


def working(folder: Path) -> Iterator[Row]:
    """Rows of the third question; the two take turns, since a machine is not always as fast."""
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
    """Measure all three, on the disk that holds the system's temporary files."""
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*opening(folder), *moving(folder), *working(folder)]
    return Report(
        name="journal",
        question="What does the journal on disk cost: to open, a move, a job?",
        bound="set by ourselves, beside the figures: 2 s; 50 µs of the event loop; 1.3 times the journal in memory",
        columns=["figure", "with", "value", "bound"],
        rows=rows,
    )
