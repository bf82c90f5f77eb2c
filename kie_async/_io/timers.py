"""
Everything that is to happen at an instant: one heap and one timer for the whole client.

A timer of the loop for each of 100,000 jobs would cost twice the memory and four times the time of a collection.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable
from typing import TypeVarTuple

import attrs

__all__ = ["Timer", "Timers"]

_Args = TypeVarTuple("_Args")

_log = logging.getLogger("kie_async")

#: The heap is swept before it holds more entries than this, and twice as many as the last sweep has left.
_FEW = 100


@attrs.define(eq=False, weakref_slot=False)
class Timer:
    """Something to do at an instant, until it is cancelled."""

    at: float
    action: Callable[..., None] | None
    arguments: tuple[object, ...]

    def cancel(self) -> None:
        """Forget it; what it held is free at once."""
        self.action, self.arguments = None, ()


class Timers:
    """
    Calls each action at its instant, in order; of equal instants, the first asked for goes first.

    Args:
        loop: The loop whose clock and one timer it uses.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._sweep_at = _FEW
        # uvloop's handle for an instant that is past does not know its instant; so it is kept beside it.
        self._timer: asyncio.Handle | None = None
        self._timer_at: float | None = None
        self._closed = False

    def __len__(self) -> int:
        return sum(entry.action is not None for _, _, entry in self._heap)

    @property
    def held(self) -> int:
        """How many entries it holds, those that were called off included."""
        return len(self._heap)

    def at(self, instant: float, action: Callable[[*_Args], None], *arguments: *_Args) -> Timer:
        """
        Call ``action(*arguments)`` at *instant*, or at the next turn of the loop if that is past.
        """
        entry = Timer(instant, action, arguments)
        if self._closed:
            return entry
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        heapq.heappush(self._heap, (instant, next(self._count), entry))
        self._arm()
        return entry

    def _sweep(self) -> None:
        """Let go of what was called off: a deadline may be an hour away, and most are called off."""
        self._heap = [item for item in self._heap if item[2].action is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(_FEW, 2 * len(self._heap))

    def close(self) -> None:
        """Forget everything, and take nothing more."""
        self._closed = True
        self._heap.clear()
        self._arm()

    def _arm(self) -> None:
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
        first = self._heap[0][0] if self._heap else None
        if self._timer is not None:
            if self._timer_at == first:
                return
            self._timer.cancel()
            self._timer = None
        if first is not None:
            self._timer, self._timer_at = self._loop.call_at(first, self._fire), first

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        try:
            while self._heap and self._heap[0][0] <= now:
                entry = heapq.heappop(self._heap)[2]
                if (action := entry.action) is not None:
                    arguments = entry.arguments
                    entry.cancel()
                    action(*arguments)
        finally:
            self._arm()
