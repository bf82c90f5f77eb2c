"""
When running jobs are given up: one heap for all of them, with one entry of the agenda for the first.

Every running job has a deadline, and hardly any reaches it. So it costs no more than a place in the heap: a third of
what an entry of the agenda takes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from kie_async._io.agenda import Agenda, Entry
from kie_async._io.live import Deadline, LiveJob

__all__ = ["Deadlines"]

#: The heap is swept when it holds more than this, and less than half of it still counts.
_FEW = 100


class Deadlines:
    """
    Calls for each job at its deadline.

    Args:
        agenda: Where the entry goes.

        now: Tells the time of the agenda's loop.

        reached: Called for a job whose deadline has come.
    """

    def __init__(self, agenda: Agenda, now: Callable[[], float], reached: Callable[[LiveJob], None]) -> None:
        self._agenda = agenda
        self._now = now
        self._reached = reached
        self._heap: list[Deadline] = []
        self._count = itertools.count()
        self._dropped = 0
        self._next: Entry | None = None

    def __len__(self) -> int:
        return len(self._heap) - self._dropped

    def set(self, job: LiveJob, at: float) -> None:
        """Give a job a deadline, in place of the one that it had."""
        self.drop(job)
        job.given_up = (at, next(self._count), job)
        heapq.heappush(self._heap, job.given_up)
        self._arm()

    def drop(self, job: LiveJob) -> None:
        """Let a job live on without a deadline."""
        if job.given_up is None:
            return
        job.given_up = None
        self._dropped += 1
        if len(self._heap) > _FEW and self._dropped > len(self._heap) // 2:
            self._heap = [deadline for deadline in self._heap if _counts(deadline)]
            heapq.heapify(self._heap)
            self._dropped = 0
        self._arm()

    def _arm(self) -> None:
        while self._heap and not _counts(self._heap[0]):
            heapq.heappop(self._heap)
            self._dropped -= 1
        first = self._heap[0][0] if self._heap else None
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
        while self._heap and self._heap[0][0] <= now:
            deadline = heapq.heappop(self._heap)
            if _counts(deadline):
                job = deadline[2]
                job.given_up = None
                self._reached(job)
            else:
                self._dropped -= 1
        self._arm()


def _counts(deadline: Deadline) -> bool:
    """Whether it is still its job's."""
    return deadline[2].given_up is deadline
