"""
A few places, which go to whoever has the least time left.

A waiter costs a future and an entry in a heap. How many wait at once is up to the callers: each of them waits in its
own task, so whoever has many must start no more than it wants to hold in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush

__all__ = ["PrioritySemaphore"]


class PrioritySemaphore:
    """
    Places of one event loop at a time: in another loop, all of them are free again.

    Args:
        total: How many there are.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free = total
        self._heap: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrivals = 0
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return self._waiting

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._total - self._free

    @asynccontextmanager
    async def take(self, until: float) -> AsyncGenerator[None]:
        """
        Wait for a place, and hold it.

        Args:
            until: By when it should be had, by any clock; of two who wait, the one with the smaller value goes first,
                and of equals the one who came first.
        """
        await self._enter(until)
        try:
            yield
        finally:
            self._pass_on()

    async def _enter(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Whoever held a place or waited for one in a loop before this one does not do so any more.
            self._loop, self._free, self._waiting = loop, self._total, 0
            self._heap.clear()
        if self._free:  # then nobody waits
            self._free -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._arrivals += 1
        self._waiting += 1
        heappush(self._heap, (until, self._arrivals, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the place was given at the very moment of leaving
                self._pass_on()
            raise
        finally:
            self._waiting -= 1
            self._tidy()

    def _tidy(self) -> None:
        """Who has left has left an entry behind; when most are such, they go."""
        if len(self._heap) > 2 * self._waiting + 8:
            self._heap = [entry for entry in self._heap if not entry[2].done()]
            heapify(self._heap)

    def _pass_on(self) -> None:
        while self._heap:
            turn = heappop(self._heap)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
