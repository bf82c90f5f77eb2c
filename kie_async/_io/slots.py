"""
Slots for tasks that may be running at the service, first come, first served.

A slot belongs to a task, not to whoever waits for it. A task that runs already, found in the journal, takes its slot
whether there is one or not: then more are taken than there are, and new tasks wait until that is over. (A capacity
limiter of anyio has no such overdraft.)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

__all__ = ["Slots"]


class Slots:
    """
    Counts running tasks.

    Args:
        limit: How many new tasks may run at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._holders: set[str] = set()
        self._queue: OrderedDict[asyncio.Future[None], str] = OrderedDict()

    @property
    def taken(self) -> int:
        """How many slots are taken."""
        return len(self._holders)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._queue)

    async def acquire(self, job_id: str) -> None:
        """Wait for a slot and take it in the name of *job_id*."""
        if len(self._holders) < self._limit and not self._queue:
            self._holders.add(job_id)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[granted] = job_id
        try:
            await granted
        except asyncio.CancelledError:
            if self._queue.pop(granted, None) is None:
                self.release(job_id)  # the grant and the cancellation have met in one turn of the loop
            raise

    def take(self, job_id: str) -> None:
        """Take a slot for a task that runs already, whether there is one or not."""
        self._holders.add(job_id)

    def release(self, job_id: str) -> None:
        """Give a slot back."""
        self._holders.discard(job_id)
        while self._queue and len(self._holders) < self._limit:
            granted, next_id = self._queue.popitem(last=False)
            if not granted.done():
                self._holders.add(next_id)
                granted.set_result(None)
