"""
The token bucket whose tokens come back a window after the *response*.

A service that takes *limit* requests in any *window* counts arrivals. A client knows when it wrote a request and when
it read the answer, and the arrival lies somewhere between. If each of *limit* tokens comes back *window* seconds after
the answer, then the request that reuses a token arrives later than one *window* after the request that had it before,
whatever the network did: no stretch of *window* seconds holds more than *limit* arrivals. Nothing is assumed about
latency, and the price is one round trip in a window: a use of ``window / (window + mean round trip)`` of the limit.

The usual bucket (burst 20, refill 2 a second) lets 39 requests into the first ten seconds, and a log of send times
fails whenever a later request travels faster than an earlier one.

A token is in one of three places: *free* and due at an instant, *lent* to a request under way, or free now. The bucket
answers with instants and never waits.
"""

from __future__ import annotations

import heapq

import attrs

__all__ = ["WindowBucket"]

_NONE_LENT = "no token is lent"


@attrs.define
class WindowBucket:
    """
    Tokens that return a window after the answer to the request that spent them.

    Args:
        limit: Takes in any window: how many tokens there are.

        window: The window's length, in seconds.

    >>> bucket = WindowBucket(limit=2, window=10.0)
    >>> bucket.take(0.0), bucket.take(0.0)
    (0.0, 0.0)
    >>> bucket.ready_at(0.5) is None
    True
    >>> bucket.spent(answered_at=1.0)
    >>> bucket.ready_at(1.0)
    11.0
    >>> bucket.give_back()
    >>> bucket.ready_at(1.0)
    1.0
    """

    limit: int
    window: float
    _lent: int = attrs.field(default=0, init=False)
    _due: list[float] = attrs.field(factory=list, init=False)
    _free: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.limit < 1:
            msg = f"limit must be at least 1, got {self.limit}"
            raise ValueError(msg)
        if not 0 < self.window < float("inf"):
            msg = f"window must be a positive number of seconds, got {self.window}"
            raise ValueError(msg)
        self._free = self.limit

    @property
    def lent(self) -> int:
        """Tokens that a request under way holds."""
        return self._lent

    @property
    def cooling(self) -> int:
        """Tokens that will be free at a known instant; some may be due already."""
        return len(self._due)

    def available(self, now: float) -> int:
        """Tokens that could be taken at *now*."""
        self._collect(now)
        return self._free

    def ready_at(self, now: float) -> float | None:
        """
        The earliest instant, not before *now*, at which a token can be taken; None if that depends on an answer.
        """
        if self._due and self._due[0] <= now:
            self._collect(now)
        if self._free:
            return now
        return self._due[0] if self._due else None

    def take(self, now: float) -> float:
        """
        Lend a token at the instant *now* and return it; each is ended by one ``spent`` or ``give_back``.

        Raises:
            ValueError: If there is none; ask ``ready_at`` first.
        """
        if not self._free:
            self._collect(now)
        if not self._free:
            msg = "no token is free"
            raise ValueError(msg)
        self._free -= 1
        self._lent += 1
        return now

    def spent(self, *, answered_at: float) -> None:
        """
        End a loan whose request was sent: its token is free a window after *answered_at*, the end of the request.
        """
        if not self._lent:
            raise ValueError(_NONE_LENT)
        self._lent -= 1
        heapq.heappush(self._due, answered_at + self.window)

    def carry(self, *, due_at: float) -> None:
        """
        Take over a token from an earlier bucket, which is free at *due_at*; more than ``limit`` are not taken over.
        """
        if self._free:
            self._free -= 1
            heapq.heappush(self._due, due_at)

    def dues(self, now: float) -> list[float]:
        """
        When the tokens that are not free at *now* will be, if what is lent is answered now.
        """
        self._collect(now)
        return sorted(self._due) + [now + self.window] * self._lent

    def give_back(self) -> None:
        """
        End a loan whose request was never sent: its token is free at once.
        """
        if not self._lent:
            raise ValueError(_NONE_LENT)
        self._lent -= 1
        self._free += 1

    def _collect(self, now: float) -> None:
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
            self._free += 1
