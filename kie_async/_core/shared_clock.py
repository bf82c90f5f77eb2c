"""``SharedClock``: the clock of the journal's server as a time that never steps, though that clock may be set."""

from __future__ import annotations

import attrs

__all__ = ["SharedClock"]

#: A smaller difference in seconds is no step; nor is what two good clocks may drift apart, in seconds a second.
_TOLERANCE = 0.01
_DRIFT = 0.0005


@attrs.frozen
class _Difference:
    """The server's clock less our own: between these bounds, at an instant of our own; and the sum of steps then."""

    lowest: float
    highest: float
    at: float
    steps: float

    def shift_from(self, before: _Difference, *, steps: float) -> float:
        """Return how far the difference has moved beside *steps* since an earlier reading; 0.0 if it may not have."""
        tolerance = _TOLERANCE + _DRIFT * (self.at - before.at)
        lowest, highest = before.lowest + steps - tolerance, before.highest + steps + tolerance
        if lowest <= self.highest and self.lowest <= highest:
            return 0.0
        return (self.lowest + self.highest - before.lowest - before.highest) / 2 - steps


@attrs.define(eq=False)
class SharedClock:
    """
    The shared time: the server's clock less the sum of its steps, which the journal keeps for all workers.

    A step is seen by comparing the server's clock with our own, which is never set: between two readings, the
    difference of the two stays within what is known of it, unless one was set. No other machine's clock is needed. The
    sum of steps is kept with the account's state, so that only the first worker that sees a step adds it. A worker that
    has not seen a step that the sum has gained believes it: it came after the step, or the other worker's own clock had
    stood still. If each undid what the other finds, the shared time would jump for ever.

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
        found, known, step = _Difference(time - after, time - before, after, steps), self._known, 0.0
        if known is not None and found.shift_from(known, steps=0.0):
            step = found.shift_from(known, steps=steps - known.steps)
        self._read = attrs.evolve(found, steps=steps + step)
        return time - steps - step, steps + step

    def keep(self) -> None:
        """Compare later readings with the latest one: what it has found is written, or it has found nothing."""
        self._known = self._read
