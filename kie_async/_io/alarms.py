"""
Instants of many things of one sort, with one entry of the agenda for the first.

Every running job has a deadline, which hardly any reaches, and a next look. One heap for a hundred thousand of them is
slow: each that leaves it moves seventeen others, all over the memory. So only what is near is in a heap. What is far
lies unsorted in *drawers*, each from an instant on, and the wider the farther away: between a 128th and a 64th of the
distance. A drawer is opened when nothing else can be first, and what is in it then goes into the heap or into a finer
drawer. So an instant costs its number and a place in a list, a quarter of what an entry of the agenda takes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import frexp, ldexp
from typing import Generic, TypeVar

from kie_async._io.timers import Timer, Timers

__all__ = ["Alarmed", "Alarms"]

#: All is sorted anew when more than this is held, and less than half of it still counts.
_FEW = 100
#: What is no farther away than this is near, in seconds.
_NEAR = 0.25
#: A drawer is as wide as the power of two above the distance, times two to the power of this.
_FINENESS = -7


class Alarmed:
    """
    Knows its instant, or that it has none.

    Of two at one instant neither is earlier: a number to tell them apart would take as much memory as the instant.
    """

    __slots__ = ()

    alarm: float | None

    def __lt__(self, _: object) -> bool:
        return False


_T = TypeVar("_T", bound=Alarmed)


class Alarms(Generic[_T]):
    """
    Calls for each thing at its instant, in order.

    What is dropped stays where it is until its turn comes, or until all is sorted anew; it counts no more, since the
    thing has another instant by then, or none. A thing may so be in several places, for one instant even; whichever of
    them comes first is the one that counts.

    Args:
        timers: Where the entry goes.

        now: Tells the time of the agenda's loop.

        reached: Called with what has reached its instant.

        then: Called when all that have reached their instants by now were called with.

        after: How long after the instants that they are given they are called, in seconds. What has a deadline keeps
            the instant from which it counts anyway; this one is then no other.

        rest: How long after a call there is no other, in seconds: what falls into it is called at its end, all at once.
            To wake up takes the time of five calls, and five thousand a second need not be as many times.
    """

    def __init__(
        self,
        timers: Timers,
        now: Callable[[], float],
        reached: Callable[[_T], None],
        *,
        then: Callable[[], None] | None = None,
        after: float = 0.0,
        rest: float = 0.0,
    ) -> None:
        self._timers = timers
        self._now = now
        self._reached = reached
        self._then = then
        self._after = after
        self._rest = rest
        self._rests_until = float("-inf")
        self._near: list[tuple[float, _T]] = []
        self._drawers: dict[float, list[_T]] = {}
        # From when on there are drawers, as a heap.
        self._starts: list[float] = []
        # An instant up to which all were called, from which distances count.
        self._here = now() - after
        self._held = 0
        self._dropped = 0
        self._next: Timer | None = None
        self._firing = False

    def __len__(self) -> int:
        return self._held - self._dropped

    @property
    def held(self) -> int:
        """How many instants it holds, those that count no more included."""
        return self._held

    def set(self, thing: _T, at: float) -> None:
        """Give a thing its instant, in place of the one that it had."""
        if thing.alarm is not None:
            self.drop(thing)
        thing.alarm = at
        self._held += 1
        self._put(thing, at, self._here)
        if not self._firing and (self._next is None or at + self._after < self._next.at):
            self._arm()

    def drop(self, thing: _T) -> None:
        """Take the instant of a thing back, if it has one."""
        at, thing.alarm = thing.alarm, None
        if at is None:
            return
        self._dropped += 1
        if self._held > _FEW and self._dropped > self._held // 2:
            self._sort_anew()
            self._arm()
        elif self._next is not None and at + self._after <= self._next.at:
            self._arm()

    def _put(self, thing: _T, at: float, here: float) -> None:
        distance = at - here
        if distance <= _NEAR:
            heapq.heappush(self._near, (at, thing))
            return
        start = at - at % ldexp(1.0, frexp(distance)[1] + _FINENESS)
        drawer = self._drawers.get(start)
        if drawer is None:
            self._drawers[start] = [thing]
            heapq.heappush(self._starts, start)
        else:
            drawer.append(thing)

    def _first(self) -> float | None:
        """The first instant, which is then on top of the heap; None if there is none."""
        near, starts = self._near, self._starts
        while True:
            while near and near[0][1].alarm != near[0][0]:
                heapq.heappop(near)
                self._forget()
            if not starts or (near and near[0][0] < starts[0]):
                return near[0][0] if near else None
            start = heapq.heappop(starts)
            for thing in self._drawers.pop(start):
                if (at := thing.alarm) is None:
                    self._forget()
                else:
                    self._put(thing, at, start)

    def _forget(self) -> None:
        self._held -= 1
        self._dropped -= 1

    def _sort_anew(self) -> None:
        """Let go of what counts no more: a deadline may be an hour away, and most are dropped."""
        things = {id(thing): thing for _, thing in self._near}
        things.update((id(thing), thing) for drawer in self._drawers.values() for thing in drawer)
        self._near, self._drawers, self._starts = [], {}, []
        self._held = self._dropped = 0
        for thing in things.values():
            if thing.alarm is not None:
                self._held += 1
                self._put(thing, thing.alarm, self._here)

    def _arm(self) -> None:
        if self._firing:
            return
        first = self._first()
        if first is not None:
            first = max(first + self._after, self._rests_until)
        if self._next is not None:
            if self._next.at == first:
                return
            self._next.cancel()
            self._next = None
        if first is not None:
            self._next = self._timers.at(first, self._fire)

    def _fire(self) -> None:
        self._next = None
        now = self._now()
        self._here = now - self._after
        self._rests_until = now + self._rest
        self._firing = True
        try:
            while (at := self._first()) is not None and at + self._after <= now:
                thing = heapq.heappop(self._near)[1]
                self._held -= 1
                thing.alarm = None
                self._reached(thing)
            if self._then is not None:
                self._then()
        finally:
            self._firing = False
            self._arm()
