"""
The cost of a job whose journal is in PostgreSQL, beside SQLite and memory.

The first figures are the journal's alone: a job is added and moved to SENDING, SUBMITTED and SUCCEEDED, by one caller
after another and by a hundred at once. *Before the wire* is what comes before the request is sent: the new row and
SENDING, both flushed to the disk. The commits are those that the server counts. The last figures are a whole client's
against a service in another process: CPU time of the client until a job's task is
accepted, its journal's thread included.

An idle worker sends heartbeats and listens: the statements are counted by the server's log. The servers and the file
are on the disk of the system's temporary files, whose flush is measured, too. Contenders take turns, and the median of
all rounds counts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile, TemporaryDirectory

import anyio
import attrs

from benchmarks.journal import JOBS, SERVICE, S, make_intent, run_concurrently
from benchmarks.processes import service
from benchmarks.report import Report
from kie_async import KieClient, Limits, Wan22TurboImageToVideo
from kie_async._io.journals.journal import Journal
from kie_async._io.journals.postgres import PostgresStore
from kie_async._io.journals.sqlite import SqliteStore
from tests.servers.postgres import PostgresServer

ROUNDS = 7
ONE_BY_ONE, AT_ONCE = 200, 2_000
#: The seconds for which an idle worker is observed.
IDLE = 20.0

COMMITS_BOUND, COMMITS_AT_ONCE_BOUND = 4.0, 0.2
WIRE_BOUND = 3.0
CPU_BOUND, CPU_AT_ONCE_BOUND = 1.5, 2.0
IDLE_BOUND = 1.0

Row = list[str | float]


@attrs.frozen
class Costs:
    """The costs of a job in the journal: CPU in ms, commits, and the median of what comes before the wire, in ms."""

    cpu: float
    commits: float
    before_the_wire: float


async def measure(journal: Journal, commits: Callable[[], float], jobs: int, *, at_once: bool) -> Costs:
    """Write the rows of *jobs* jobs, a hundred at once or one by one."""
    waits = list[float]()

    async def write_job(number: int) -> None:
        done = make_intent(number, S.SUCCEEDED)
        began = time.perf_counter()
        row = await journal.add(attrs.evolve(make_intent(number), key=None))
        sent = await journal.transition(row, S.SENDING, at=1.0, attempts=1, sending_at=1.0)
        waits.append(time.perf_counter() - began)
        if sent is None:
            raise AssertionError
        task = await journal.transition(sent, S.SUBMITTED, at=2.0, task_id=done.task_id, accepted_at=2.0)
        if task is None:
            raise AssertionError
        await journal.transition(task, S.SUCCEEDED, at=3.0, record=done.record, credits=done.credits)

    await journal.open()
    before, cpu = commits(), time.process_time()
    if at_once:
        await run_concurrently(write_job, jobs)
    else:
        for number in range(jobs):
            await write_job(number)
    cpu = time.process_time() - cpu
    counted = commits() - before
    await journal.close()
    return Costs(1e3 * cpu / jobs, counted / jobs, 1e3 * median(waits))


def committed(server: PostgresServer) -> float:
    """Return the commits of all connections to the journal's database so far."""
    time.sleep(1.1)  # a server reports its figures once a second
    ((count,),) = server.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = 'app'", database="postgres")
    return float(count)


def journal_rows(server: PostgresServer, folder: Path) -> Iterator[Row]:
    """Yield the figures of the journals alone."""
    for at_once, jobs in ((False, ONE_BY_ONE), (True, AT_ONCE)):
        postgres, sqlite = list[Costs](), list[Costs]()
        for nth in range(ROUNDS):
            server.reset()
            store = PostgresStore(server.dsn)
            postgres.append(asyncio.run(measure(store, lambda: committed(server), jobs, at_once=at_once)))
            file = SqliteStore(folder / f"{at_once}{nth}.db")
            sqlite.append(asyncio.run(measure(file, lambda: 0.0, jobs, at_once=at_once)))
        how = "100 at once" if at_once else "one by one"
        commits = median(costs.commits for costs in postgres)
        yield [f"commits a job, {how}", "PostgreSQL", commits, COMMITS_AT_ONCE_BOUND if at_once else COMMITS_BOUND]
        for name, found in (("PostgreSQL", postgres), ("SQLite", sqlite)):
            wire = median(costs.before_the_wire for costs in found)
            yield [f"before the wire, {how}: ms", name, wire, WIRE_BOUND if name[0] == "P" and not at_once else "-"]
            yield [f"the journal's CPU a job, {how}: ms", name, median(costs.cpu for costs in found), "-"]


async def cpu_of_a_job(url: str, journal: str | None, *, at_once: bool) -> float:
    """Return the client's CPU time for one job in ms."""
    limits = Limits(creates=10**6, in_flight=10**6, polls_per_second=1.0)
    async with KieClient("a-key", base_url=url, journal=journal, limits=limits) as kie:

        async def job(number: int) -> None:
            # Until the task is accepted: its end would be polled for seconds later.
            await kie.submit(Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=f"Take {number}"))

        await run_concurrently(job, 100)  # connections are made once
        began = time.process_time()
        if at_once:
            await run_concurrently(job, JOBS)
        else:
            for number in range(JOBS // 3):
                await job(number)
        return 1e3 * (time.process_time() - began) / (JOBS if at_once else JOBS // 3)


def client_rows(server: PostgresServer, folder: Path) -> Iterator[Row]:
    """Yield the figures of whole clients."""
    with service("-c", SERVICE) as url:
        for at_once in (False, True):
            found: dict[str, list[float]] = {"PostgreSQL": [], "SQLite": [], "in memory": []}
            for nth in range(ROUNDS):
                server.reset()
                journals = {
                    "PostgreSQL": server.dsn(),
                    "SQLite": str(folder / f"c{at_once}{nth}.db"),
                    "in memory": None,
                }
                for name, journal in journals.items():
                    found[name].append(asyncio.run(cpu_of_a_job(url, journal, at_once=at_once)))
            how = "100 at once" if at_once else "one by one"
            for name, values in found.items():
                yield [f"the client's CPU a job, {how}: ms", name, median(values), "-"]
            ratio = median(ours / theirs for ours, theirs in zip(found["PostgreSQL"], found["SQLite"], strict=True))
            bound = CPU_AT_ONCE_BOUND if at_once else CPU_BOUND
            yield ["the same, as a multiple of SQLite's", "PostgreSQL", ratio, bound]


def idle_rows(server: PostgresServer) -> Iterator[Row]:
    """Yield the statements of a client that has nothing to do."""

    async def idle(url: str) -> float:
        async with KieClient("a-key", base_url=url, journal=server.dsn()) as kie:
            await kie.recover()
            await anyio.sleep(5.0)
            before = logged(server)
            await anyio.sleep(IDLE)
            return (logged(server) - before) / IDLE

    server.reset()
    server.configure(log_statement="'all'")
    server.reload()
    with service("-c", SERVICE) as url:
        yield ["statements a second, idle", "PostgreSQL", asyncio.run(idle(url)), IDLE_BOUND]


def logged(server: PostgresServer) -> int:
    """Count the statements in the server's log, except those that only begin or end a transaction."""
    lines = [line for path in server.folder.glob("*.log") for line in path.read_text().splitlines()]
    statements = [line for line in lines if "statement: " in line or "execute <unnamed>: " in line]
    return sum(not line.endswith((": BEGIN", ": COMMIT")) for line in statements)


def flush_row() -> Row:
    """Return the time of a flush of the disk."""
    with NamedTemporaryFile() as file:
        took = list[float]()
        for _ in range(200):
            os.write(file.fileno(), b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(1e3 * (time.perf_counter() - began))
    return ["a flush of the disk: ms", "-", median(took), "-"]


def run() -> Report:
    """Run the benchmark."""
    logging.getLogger("kie_async").setLevel(logging.ERROR)
    with TemporaryDirectory() as name, PostgresServer() as server:
        folder = Path(name)
        rows = [flush_row(), *journal_rows(server, folder), *client_rows(server, folder), *idle_rows(server)]
    return Report(
        name="postgres",
        question="What does a job cost whose journal is in PostgreSQL?",
        bound="our own, beside the figures; one by one, 4 commits a job are the least, since each must be on the disk"
        " before the next step",
        columns=["figure", "with", "value", "bound"],
        rows=rows,
    )
