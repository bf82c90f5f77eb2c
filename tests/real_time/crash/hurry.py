"""An event loop whose seconds are short, so that a process of its own waits for real and yet not for long."""

from __future__ import annotations

import asyncio
import selectors
import time

__all__ = ["HurriedLoop"]


class HurriedLoop(asyncio.SelectorEventLoop):
    """
    A loop on which everything but the clock is as usual.

    A client goes by the loop's clock alone, the wall clock included, so its looks, windows and deadlines come sooner;
    sockets, threads and the disk are as fast as ever.

    Args:
        speed: How many of the loop's seconds go into one.

        epoch: When all hurried clocks showed the right time, in seconds since the epoch: the same for all processes
            that are to agree about the time.
    """

    def __init__(self, speed: float, epoch: float) -> None:
        super().__init__(_HurriedSelector(speed))
        self._speed = speed
        self._epoch = epoch

    def time(self) -> float:
        """The loop's clock, in its own seconds."""
        return super().time() * self._speed

    def wall_time(self) -> float:
        """The wall clock that goes with it."""
        return self._epoch + (time.time() - self._epoch) * self._speed


class _HurriedSelector(selectors.DefaultSelector):
    """Waits in real seconds for what it is told in the loop's."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._speed)
