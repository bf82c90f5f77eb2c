"""``SharedClock``: the clock of the journal's server as a time that never steps, though that clock may be set."""

from __future__ import annotations

import attrs

__all__ = ["SharedClock"]

#: A smaller difference in seconds is no step; nor is what two good clocks may drift apart, in seconds a second.
_TOLERANCE = 0.01
_DRIFT = 0.0005


@attrs.frozen
class _Difference:
    """The server's time less our own: between these bounds, at an instant of our own clock."""

    lowest: float
    highest: float
    at: float

    @property
    def middle(self) -> float:
        return (self.lowest + self.highest) / 2


@attrs.define
class SharedClock:
    """
    The shared time: the server's clock less the sum of its steps, which the journal keeps for all workers.

    A step is seen by comparing the server's clock with our own, which is never set: between two readings, the
    difference of the two stays within what is known of it, unless one was set. No other machine's clock is needed. The
    sum of steps is kept with the account's state, so that only the first worker that sees a step adds it.

    >>> clock = SharedClock()
    >>> clock.read(1000.0, steps=0.0, before=5.0, after=5.1)
    (1000.0, 0.0)
    >>> clock.keep()
    >>> clock.read(4601.0, steps=0.0, before=6.0, after=6.1)  # it was set by an hour
    (1001.0, 3600.0)
    """

    _known: _Difference | None = attrs.field(default=None, init=False)
    _read: _Difference | None = attrs.field(default=None, init=False)

    def read(self, time: float, *, steps: float, before: float, after: float) -> tuple[float, float]:
        """
        Return the shared time and the sum of steps, which is to be written if it has changed.

        Args:
            time: The server's clock.

            steps: The sum of its steps, as the journal has it.

            before: An instant of our own clock before the server's was read.

            after: One after that.
        """
        shared = time - steps
        found, known = _Difference(shared - after, shared - before, after), self._known
        step = 0.0
        if known is not None:
            tolerance = _TOLERANCE + _DRIFT * (after - known.at)
            if found.lowest > known.highest + tolerance or found.highest < known.lowest - tolerance:
                step = found.middle - known.middle
        self._read = attrs.evolve(found, lowest=found.lowest - step, highest=found.highest - step)
        return shared - step, steps + step

    def keep(self) -> None:
        """Compare later readings with the latest one: what it has found is written, or it has found nothing."""
        self._known = self._read
