"""An event loop with a fast clock, so that processes wait in real time but not for long."""

from __future__ import annotations

import asyncio
import selectors
import time

__all__ = ["AcceleratedLoop"]


class AcceleratedLoop(asyncio.SelectorEventLoop):
    """
    A loop whose clock runs faster than real time.

    A client uses only the loop's clock, including its wall clock, so that polls, windows and deadlines come sooner.
    Sockets, threads and the disk keep their speed.

    Args:
        speed: The number of the loop's seconds per real second.

        epoch: The instant at which the clocks showed the real time, in seconds since the epoch; equal in all processes
            that must agree about the time.
    """

    def __init__(self, speed: float, epoch: float) -> None:
        super().__init__(_AcceleratedSelector(speed))
        self._speed = speed
        self._epoch = epoch

    def time(self) -> float:
        """Return the loop's clock, in its own seconds."""
        return super().time() * self._speed

    def wall_time(self) -> float:
        """Return the wall clock at the same speed."""
        return self._epoch + (time.time() - self._epoch) * self._speed


class _AcceleratedSelector(selectors.DefaultSelector):
    """A selector that converts timeouts from the loop's seconds to real seconds."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._speed)
