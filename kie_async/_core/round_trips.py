"""How long an answer may take before its request counts as silent."""

from __future__ import annotations

import attrs

__all__ = ["RoundTrips"]

#: No request is called silent earlier than this, in seconds, as in RFC 6298.
LEAST_PATIENCE = 1.0


@attrs.define
class RoundTrips:
    """
    Round trips, and the patience that follows from them.

    This is TCP's retransmission time-out (RFC 6298): a smoothed round trip and four times its smoothed deviation, at
    least a second. It is not doubled after silence; whoever asks again has a bound of his own.

    >>> trips = RoundTrips()
    >>> trips.patience
    1.0
    >>> trips.took(3.0)
    >>> trips.patience
    9.0
    """

    _smoothed: float | None = attrs.field(default=None, init=False)
    _deviation: float = attrs.field(default=0.0, init=False)

    @property
    def patience(self) -> float:
        """After how many seconds without an answer a request counts as silent."""
        if self._smoothed is None:
            return LEAST_PATIENCE
        return max(LEAST_PATIENCE, self._smoothed + 4.0 * self._deviation)

    def took(self, seconds: float) -> None:
        """Take in the round trip of a request that was answered, in seconds."""
        if self._smoothed is None:
            self._smoothed, self._deviation = seconds, seconds / 2.0
        else:
            self._deviation += (abs(self._smoothed - seconds) - self._deviation) / 4.0
            self._smoothed += (seconds - self._smoothed) / 8.0
