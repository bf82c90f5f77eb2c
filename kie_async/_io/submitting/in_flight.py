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
    Counts running tasks; whoever takes a slot knows whether he has one.

    Args:
        limit: How many new tasks may run at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        #: How many slots are taken.
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._queue)

    async def acquire(self) -> None:
        """Wait for a slot and take it."""
        if self.taken < self._limit and not self._queue:
            self.taken += 1
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[granted] = None
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._queue.pop(granted, None)
            else:
                self.release()  # the grant and the cancellation have met in one turn of the loop
            raise

    def take(self) -> None:
        """Take a slot for a task that runs already, whether there is one or not."""
        self.taken += 1

    def release(self) -> None:
        """
        Give a slot back.

        Raises:
            ValueError: If none is taken: somebody has given his back twice.
        """
        if not self.taken:
            msg = "no slot is taken"
            raise ValueError(msg)
        self.taken -= 1
        while self._queue and self.taken < self._limit:
            granted, _ = self._queue.popitem(last=False)
            if not granted.done():
                self.taken += 1
                granted.set_result(None)
