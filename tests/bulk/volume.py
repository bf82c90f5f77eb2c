"""
A table of any length through ``map()``, in virtual time: what each row leaves behind, how much of the limit is used.

The service tells the truth and keeps it, so here a bookkeeper adds up what it has seen and takes the pages out: what is
measured grows by the client alone.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections import deque
from collections.abc import Iterator
from statistics import linear_regression

import anyio
import attrs

from kie_async import Done, Limits, Wan22TurboImageToVideo
from kie_async._io.journals.journal import Journal
from kie_async.testing import FakeKie, Truth
from tests.helpers import JournalClient

#: Every so many virtual seconds the books are closed; tasks that have ended are kept for as long again.
_EVERY = 60.0
#: Memory is weighed every so many rows.
_WEIGHED_EVERY = 2_500


def shots(count: int) -> Iterator[Wan22TurboImageToVideo]:
    """A table that exists one row at a time."""
    for number in range(count):
        yield Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=f"Take {number}", resolution="480p")


@attrs.define(eq=False)
class Books:
    """What the service has seen, added up."""

    truth: Truth
    limit: int
    window: float
    created: int = 0
    refused: int = 0
    first_at: float | None = None
    last_at: float = 0.0
    busiest: int = 0
    _recent: deque[float] = attrs.field(factory=deque, init=False)

    def close(self, now: float) -> None:
        """Add up what has come since the last time, and take it out."""
        for post in self.truth.create_requests:
            self.refused += post.code == 429
            if post.task_id is None:
                continue
            self.created += 1
            self.first_at = post.at if self.first_at is None else self.first_at
            self.last_at = post.at
            self._recent.append(post.at)
            while self._recent[0] + self.window <= post.at:
                self._recent.popleft()
            self.busiest = max(self.busiest, len(self._recent))
        for pages in (self.truth.create_requests, self.truth.polls, self.truth.queries):
            pages.clear()
        for task_id in [task.task_id for task in self.truth.tasks.values() if task.ends_at + _EVERY < now]:
            del self.truth.tasks[task_id]

    @property
    def used(self) -> float:
        """The share of the limit that was used from the first create to the last."""
        span = self.last_at - (self.first_at or 0.0)
        return self.created / (self.limit * (span + self.window) / self.window)

    async def keep(self) -> None:
        """Close the books again and again."""
        while True:
            await anyio.sleep(_EVERY)
            self.close(anyio.current_time())


@attrs.frozen
class Volume:
    """
    What a table has come to.

    Attributes:
        rows: Outcomes.

        ok: Of these, the ones that are done.

        created: Tasks that the service has created.

        refused: Creates that it has refused for coming too fast.

        busiest: Creates within any window.

        used: The share of the limit that was used.

        most_ahead: Rows that were read and whose outcome was not taken, at most.

        weights: Bytes that were in use after so many rows.
    """

    rows: int
    ok: int
    created: int
    refused: int
    busiest: int
    used: float
    most_ahead: int
    weights: dict[int, int]

    def slope(self, after: int) -> float:
        """Bytes that each row leaves behind, of those *after* the first."""
        weighed = {rows: weight for rows, weight in self.weights.items() if rows >= after}
        return linear_regression(list(weighed), list(weighed.values())).slope


async def go_through(count: int, *, journal: Journal | None = None, limits: Limits | None = None) -> Volume:
    """Do a table of *count* rows; memory is weighed where tracemalloc is on."""
    limits = limits or Limits()
    read = taken = most_ahead = ok = 0
    weights: dict[int, int] = {}

    def counted() -> Iterator[Wan22TurboImageToVideo]:
        nonlocal read, most_ahead
        for shot in shots(count):
            read += 1
            most_ahead = max(most_ahead, read - taken)
            yield shot

    async with FakeKie(duration=(45.0, 0.3), latency=(0.02, 0.2), credits=1e9) as fake:
        books = Books(fake.truth, limits.creates, limits.window)
        async with (
            JournalClient("a-key-for-the-fake", base_url=fake.url, limits=limits, journal=journal) as kie,
            anyio.create_task_group() as group,
        ):
            group.start_soon(books.keep)
            async with kie.map(counted()) as run:
                async for outcome in run:
                    taken += 1
                    ok += isinstance(outcome, Done)
                    if tracemalloc.is_tracing() and taken % _WEIGHED_EVERY == 0:
                        books.close(anyio.current_time())
                        gc.collect()
                        weights[taken] = tracemalloc.get_traced_memory()[0]
            group.cancel_scope.cancel()
        books.close(anyio.current_time())
    return Volume(taken, ok, books.created, books.refused, books.busiest, books.used, most_ahead, weights)
