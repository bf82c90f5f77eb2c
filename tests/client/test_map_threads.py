"""A table that is not async is opened, read and closed in one thread, which ends with the run."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import Done
from tests.helpers import Setup, client_and_fake, make_request
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from kie_async.requests.base import Request

ROWS = 30


class Log:
    """The threads that a source was used in, and its end."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        self.closed = threading.Event()

    def note(self) -> None:
        self.threads.add(threading.current_thread())

    def assert_one_thread(self) -> None:
        """Check that one thread has done all, which was not the event loop's, and that it ends."""
        assert self.closed.is_set()
        (thread,) = self.threads
        assert threading.current_thread() is not thread
        thread.join(5.0)
        assert not thread.is_alive()


def read_database(log: Log) -> Iterator[Request]:
    """Yield rows of a database whose connection refuses other threads; local images keep the other threads busy."""
    log.note()
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            for (number,) in connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n", (ROWS,)
            ):
                log.note()
                yield make_request(number, image=PNG)
            connection.execute("SELECT 1")
    finally:
        log.note()
        log.closed.set()


class Table:
    """A table whose rows are a generator's, and one that reads its connection itself."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def __iter__(self) -> Iterator[Request]:
        self.log.note()
        yield from read_database(self.log)


class Cursor:
    """An iterator that opens its connection in ``__iter__``, and has state of its thread."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def __iter__(self) -> Iterator[Request]:
        self.log.note()
        self.local = threading.local()
        self.local.rows = read_database(self.log)
        return self

    def __next__(self) -> Request:
        self.log.note()
        row: Request = next(self.local.rows)
        return row


class Sequence:
    """A sequence of the caller's own, which reads each row when it is asked for."""

    def __init__(self, log: Log) -> None:
        self.rows = read_database(log)

    def __iter__(self) -> Iterator[Request]:
        return iter([*self.rows])


SOURCES: dict[str, Callable[[Log], Any]] = {
    "generator": read_database,
    "generator expression": lambda log: (row for row in read_database(log)),
    "iterable": Table,
    "iterator": Cursor,
    "sequence": Sequence,
    "map": lambda log: map(lambda row: row, read_database(log)),  # noqa: C417 (it is the case)
    "chain": lambda log: chain(read_database(log), ()),
    "pairs": lambda log: ((f"row {number}", row) for number, row in enumerate(read_database(log))),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
async def test_one_thread_reads_a_source(source: Callable[[Log], Any]) -> None:
    """A connection of sqlite3 is bound to the thread that has made it, and so is much else of a library's state."""
    log = Log()
    async with client_and_fake(duration=1.0, credits=1e6) as setup:
        async with setup.kie.map(source(log)) as run:
            outcomes = [outcome async for outcome in run]

        assert [True] * ROWS == [isinstance(outcome, Done) for outcome in outcomes]
    log.assert_one_thread()


@pytest.mark.parametrize("source", [SOURCES["generator"], SOURCES["generator expression"], SOURCES["iterable"]])
async def test_spent_reads_in_one_thread(source: Callable[[Log], Any]) -> None:
    log = Log()
    async with client_and_fake(credits=1e6) as setup:
        await setup.kie.generate(make_request(), key="so that the journal has a key")

        assert 0.0 == await setup.kie.spent(source(log))
    log.assert_one_thread()


async def leave_early(setup: Setup, rows: Iterator[Request]) -> None:
    async with setup.kie.map(rows, look_ahead=1) as run:
        await anext(run)


async def stop(setup: Setup, rows: Iterator[Request]) -> None:
    async with setup.kie.map(rows, look_ahead=1) as run:
        await anext(run)
        run.stop()
        async for _ in run:
            pass


async def fail(setup: Setup, rows: Iterator[Request]) -> None:
    with suppress(LookupError):
        async with setup.kie.map(rows, look_ahead=1) as run:
            await anext(run)
            raise LookupError


async def be_cancelled(setup: Setup, rows: Iterator[Request]) -> None:
    with anyio.move_on_after(3.0):
        async with setup.kie.map(rows, look_ahead=1) as run:
            async for _ in run:
                await anyio.sleep(1.0)


async def close_client(setup: Setup, rows: Iterator[Request]) -> None:
    async with setup.kie.map(rows, look_ahead=1) as run:
        await anext(run)
        await setup.kie.aclose()


async def take_none(setup: Setup, rows: Iterator[Request]) -> None:
    async with setup.kie.map(rows, look_ahead=1):
        await anyio.sleep(1.0)


@pytest.mark.parametrize("end", [leave_early, stop, fail, be_cancelled, close_client, take_none])
async def test_the_thread_of_a_source_also_closes_it(end: Callable[[Setup, Iterator[Request]], Any]) -> None:
    """The clean-up of a generator must not wait for the garbage collector, which runs in any thread."""
    log = Log()
    async with client_and_fake(duration=1.0, credits=1e6) as setup:
        rows = read_database(log)
        await end(setup, rows)
        log.assert_one_thread()
        assert len(setup.truth.created) < ROWS


@pytest.mark.parametrize("place", ["before the first row", "between rows", "at the end", "while it closes"])
async def test_a_failing_source_ends_its_thread(place: str) -> None:
    """Its error is raised after the outcomes of the rows before it."""
    log = Log()

    def rows() -> Iterator[Request]:
        try:
            log.note()
            for number in range(3):
                if place == ("before the first row", "between rows", "")[number]:
                    raise LookupError(place)
                yield make_request(number)
            if place == "at the end":
                raise LookupError(place)
        finally:
            log.note()
            log.closed.set()
            if place == "while it closes":
                raise LookupError(place)

    async with client_and_fake(duration=1.0) as setup, setup.kie.map(rows()) as run:
        with pytest.raises(LookupError, match=place):
            async for _ in run:
                pass
    log.assert_one_thread()


async def test_two_sources_have_two_threads() -> None:
    """A source that waits delays no other."""
    logs = [Log(), Log()]

    async def run_table(log: Log) -> None:
        async with setup.kie.map(read_database(log)) as run:
            async for _ in run:
                pass

    async with client_and_fake(duration=1.0, credits=1e6) as setup, anyio.create_task_group() as group:
        for log in logs:
            group.start_soon(run_table, log)
    for log in logs:
        log.assert_one_thread()
    assert logs[0].threads.isdisjoint(logs[1].threads)


async def test_async_generators_and_lists_need_no_thread() -> None:
    log = Log()

    async def rows() -> AsyncIterator[Request]:
        for number in range(3):
            log.note()
            yield make_request(number)

    known = set(threading.enumerate())
    async with client_and_fake(duration=1.0) as setup:
        for table in (rows(), [make_request(number) for number in range(3)]):
            async with setup.kie.map(table) as run:
                assert 3 == len([outcome async for outcome in run])
            started = {thread for thread in threading.enumerate() if thread.name == "kie_async rows"}
            assert started <= known
    assert {threading.current_thread()} == log.threads
