"""
Instants of many things of one sort: one heap for all of them, with one entry of the agenda for the first.

Every running job has a deadline, which hardly any reaches, and a next look. In a heap of its own such an instant costs
no more than a place: a third of what an entry of the agenda takes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

from kie_async._io.agenda import Agenda, Entry

__all__ = ["Alarm", "Alarmed", "Alarms"]

#: The heap is swept when it holds more than this, and less than half of it still counts.
_FEW = 100

#: An instant, and what it is the instant of.
Alarm: TypeAlias = tuple[float, object]


class Alarmed:
    """
    Knows its alarm, or that it has none.

    Of two at one instant neither is earlier: a number to tell them apart would take as much memory as the instant.
    """

    __slots__ = ()

    alarm: Alarm | None

    def __lt__(self, _: object) -> bool:
        return False


_T = TypeVar("_T", bound=Alarmed)


class Alarms(Generic[_T]):
    """
    Calls for each thing at its instant, in order.

    Args:
        agenda: Where the entry goes.

        now: Tells the time of the agenda's loop.

        reached: Called with what has reached its instant.

        then: Called when all that have reached their instants by now were called with.

        after: How long after the instants that they are given they are called, in seconds. What has a deadline keeps
            the instant from which it counts anyway; this one is then no other.
    """

    def __init__(
        self,
        agenda: Agenda,
        now: Callable[[], float],
        reached: Callable[[_T], None],
        *,
        then: Callable[[], None] | None = None,
        after: float = 0.0,
    ) -> None:
        self._agenda = agenda
        self._now = now
        self._reached = reached
        self._then = then
        self._after = after
        self._heap: list[tuple[float, _T]] = []
        self._dropped = 0
        self._next: Entry | None = None
        self._firing = False

    def __len__(self) -> int:
        return len(self._heap) - self._dropped

    def set(self, thing: _T, at: float) -> None:
        """Give a thing its instant, in place of the one that it had."""
        if thing.alarm is not None:
            self.drop(thing)
        thing.alarm = alarm = (at, thing)
        heapq.heappush(self._heap, alarm)
        if self._heap[0] is alarm:
            self._arm()

    def drop(self, thing: _T) -> None:
        """Take the instant of a thing back, if it has one."""
        alarm, thing.alarm = thing.alarm, None
        if alarm is None:
            return
        self._dropped += 1
        if len(self._heap) > _FEW and self._dropped > len(self._heap) // 2:
            self._heap = [alarm for alarm in self._heap if _counts(alarm)]
            heapq.heapify(self._heap)
            self._dropped = 0
            self._arm()
        elif self._heap[0] is alarm:
            self._arm()

    def _arm(self) -> None:
        if self._firing:
            return
        while self._heap and not _counts(self._heap[0]):
            heapq.heappop(self._heap)
            self._dropped -= 1
        first = self._heap[0][0] + self._after if self._heap else None
        if self._next is not None:
            if self._next.at == first:
                return
            self._next.cancel()
            self._next = None
        if first is not None:
            self._next = self._agenda.at(first, self._fire)

    def _fire(self) -> None:
        self._next = None
        now = self._now()
        self._firing = True
        try:
            while self._heap and self._heap[0][0] + self._after <= now:
                alarm = heapq.heappop(self._heap)
                if _counts(alarm):
                    alarm[1].alarm = None
                    self._reached(alarm[1])
                else:
                    self._dropped -= 1
            if self._then is not None:
                self._then()
        finally:
            self._firing = False
            self._arm()


def _counts(alarm: tuple[float, Alarmed]) -> bool:
    """Whether it is still the alarm of its thing."""
    return alarm[1].alarm is alarm
