"""
A table of any length through ``map()``, in virtual time: the memory each row leaves behind, and the use of the limit.

The fake service logs everything it sees. Here its log is added up and emptied regularly, so that only the client's
memory grows.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections import deque
from collections.abc import Iterator
from statistics import linear_regression

import anyio
import attrs

from kie_async import Done, Limits, SqliteJournal, Wan22TurboImageToVideo
from kie_async._io.journals.journal import Journal
from kie_async.testing import FakeKie, Truth
from tests.helpers import JournalClient

#: The interval at which the log is emptied, in virtual seconds; ended tasks are kept for as long again.
_INTERVAL = 60.0
#: The number of rows between two measurements of the memory.
_MEASURE_EVERY = 2_500


def iterate_requests(count: int) -> Iterator[Wan22TurboImageToVideo]:
    """Yield *count* requests, one at a time."""
    for number in range(count):
        yield Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=f"Take {number}", resolution="480p")


@attrs.define(eq=False)
class ServiceTotals:
    """The totals of what the service has seen."""

    truth: Truth
    limit: int
    window: float
    created: int = 0
    rate_limited: int = 0
    first_at: float | None = None
    last_at: float = 0.0
    busiest: int = 0
    _recent: deque[float] = attrs.field(factory=deque, init=False)

    def collect(self, now: float) -> None:
        """Add what the service has logged since the last call, and empty its log."""
        for create in self.truth.create_requests:
            self.rate_limited += create.code == 429
            if create.task_id is None:
                continue
            self.created += 1
            self.first_at = create.at if self.first_at is None else self.first_at
            self.last_at = create.at
            self._recent.append(create.at)
            while self._recent[0] + self.window <= create.at:
                self._recent.popleft()
            self.busiest = max(self.busiest, len(self._recent))
        for log in (self.truth.create_requests, self.truth.polls, self.truth.queries):
            log.clear()
        for task_id in [task.task_id for task in self.truth.tasks.values() if task.ends_at + _INTERVAL < now]:
            del self.truth.tasks[task_id]

    @property
    def used(self) -> float:
        """The share of the limit that was used from the first create to the last."""
        span = self.last_at - (self.first_at or 0.0)
        return self.created / (self.limit * (span + self.window) / self.window)

    async def collect_regularly(self) -> None:
        """Collect the totals at regular intervals."""
        while True:
            await anyio.sleep(_INTERVAL)
            self.collect(anyio.current_time())


@attrs.frozen
class Volume:
    """
    The figures of a table.

    Attributes:
        rows: The number of outcomes.

        ok: The number of these that are done.

        created: The number of tasks that the service has created.

        rate_limited: The number of creates that the service has refused for coming too fast.

        busiest: The most creates within any window.

        used: The share of the limit that was used.

        most_untaken: The most rows that were read and whose outcome was not taken.

        memory: The bytes in use, by the number of rows that were done.
    """

    rows: int
    ok: int
    created: int
    rate_limited: int
    busiest: int
    used: float
    most_untaken: int
    memory: dict[int, int]

    def bytes_a_row(self, after: int) -> float:
        """Return the bytes that each row leaves behind, without the rows before *after*."""
        measured = {rows: memory for rows, memory in self.memory.items() if rows >= after}
        return linear_regression(list(measured), list(measured.values())).slope


async def run_volume(
    count: int, *, journal: Journal | SqliteJournal | None = None, limits: Limits | None = None
) -> Volume:
    """Run a table of *count* rows; the memory is measured if tracemalloc is on."""
    limits = limits or Limits()
    read = taken = most_untaken = ok = 0
    memory: dict[int, int] = {}

    def count_rows() -> Iterator[Wan22TurboImageToVideo]:
        nonlocal read, most_untaken
        for request in iterate_requests(count):
            read += 1
            most_untaken = max(most_untaken, read - taken)
            yield request

    async with FakeKie(duration=(45.0, 0.3), latency=(0.02, 0.2), credits=1e9) as fake:
        totals = ServiceTotals(fake.truth, limits.creates, limits.window)
        async with (
            JournalClient("a-key-for-the-fake", base_url=fake.url, limits=limits, journal=journal) as kie,
            anyio.create_task_group() as group,
        ):
            group.start_soon(totals.collect_regularly)
            async with kie.map(count_rows()) as run:
                async for outcome in run:
                    taken += 1
                    ok += isinstance(outcome, Done)
                    if tracemalloc.is_tracing() and taken % _MEASURE_EVERY == 0:
                        totals.collect(anyio.current_time())
                        gc.collect()
                        memory[taken] = tracemalloc.get_traced_memory()[0]
            group.cancel_scope.cancel()
        totals.collect(anyio.current_time())
    return Volume(taken, ok, totals.created, totals.rate_limited, totals.busiest, totals.used, most_untaken, memory)
