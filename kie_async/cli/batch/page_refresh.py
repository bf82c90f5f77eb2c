"""The page while a run is at work: written before anything is sent, and then as often as costs little."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.to_thread
import attrs

__all__ = ["Renewal"]

#: How much of one core's time the page may take, and how often it is written at most, in seconds.
_SHARE, _LEAST = 0.02, 5.0


@attrs.define(kw_only=True)
class Renewal:
    """
    Writes the page again and again: the more a page costs, the rarer. Ten thousand rows are one in some twenty seconds.

    Args:
        write: Writes it, in a worker thread.

        count: How many rows have ended so far: while nothing changes, nothing is written.
    """

    write: Callable[[], None]
    count: Callable[[], int]
    _written: int = attrs.field(default=-1, init=False)
    _cost: float = attrs.field(default=0.0, init=False)

    async def once(self) -> None:
        """
        Write it now.

        Raises:
            OSError: If it cannot be written.
        """
        count = self.count()
        self._cost = await anyio.to_thread.run_sync(self._timed)
        self._written = count

    async def go_on(self) -> None:
        """Write it anew, until it is cancelled; what keeps it from being written will be told in the end."""
        while True:
            await anyio.sleep(max(_LEAST, self._cost / _SHARE))
            if self.count() != self._written:
                with suppress(OSError):
                    await self.once()

    def _timed(self) -> float:
        began_at = time.thread_time()
        self.write()
        return time.thread_time() - began_at
