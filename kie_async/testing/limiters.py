"""How the fake counts creates: the three ways in which a service may mean "20 per 10 seconds"."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal, Protocol, TypeAlias

__all__ = ["FixedWindow", "Limiter", "LimiterKind", "SlidingWindow", "TokenBucket", "make_limiter"]

LimiterKind: TypeAlias = Literal["sliding", "fixed", "bucket"]


class Limiter(Protocol):
    """
    Decides, request by request, at the instant of its arrival. A refused request does not count.

    Attributes:
        limit: How many requests a window takes; may be changed at any time.

        window: Length of the window, in seconds.
    """

    limit: int
    window: float

    def admit(self, now: float) -> bool:
        """Whether a request that arrives at *now* is taken; if so, it counts. *now* never goes back."""
        ...


class SlidingWindow:
    """
    At most *limit* requests in any *window* that ends now.

    >>> limiter = SlidingWindow(limit=2, window=10.0)
    >>> [limiter.admit(at) for at in (0.0, 4.0, 9.0, 10.0, 13.0, 14.0)]
    [True, True, False, True, False, True]
    """

    def __init__(self, *, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._taken: deque[float] = deque()

    def admit(self, now: float) -> bool:
        """Whether a request that arrives at *now* is taken."""
        while self._taken and self._taken[0] + self.window <= now:
            self._taken.popleft()
        if len(self._taken) >= self.limit:
            return False
        self._taken.append(now)
        return True


class FixedWindow:
    """
    At most *limit* requests in each of the windows that follow one another, whose borders are multiples of *window*.

    >>> limiter = FixedWindow(limit=2, window=10.0)
    >>> [limiter.admit(at) for at in (8.0, 9.0, 9.5, 10.0, 11.0, 12.0)]
    [True, True, False, True, True, False]
    """

    def __init__(self, *, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._index = -1
        self._count = 0

    def admit(self, now: float) -> bool:
        """Whether a request that arrives at *now* is taken."""
        index = math.floor(now / self.window)
        if index != self._index:
            self._index, self._count = index, 0
        if self._count >= self.limit:
            return False
        self._count += 1
        return True


class TokenBucket:
    """
    A bucket of *limit* tokens that is refilled evenly, *limit* in each *window*.

    >>> limiter = TokenBucket(limit=2, window=10.0)
    >>> [limiter.admit(at) for at in (0.0, 0.0, 4.0, 5.0, 9.0, 10.0)]
    [True, True, False, True, False, True]
    """

    def __init__(self, *, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._tokens = float(limit)
        self._counted_at = -math.inf

    def admit(self, now: float) -> bool:
        """Whether a request that arrives at *now* is taken."""
        refill = 0.0 if self._counted_at == -math.inf else (now - self._counted_at) * self.limit / self.window
        self._tokens = min(float(self.limit), self._tokens + refill)
        self._counted_at = now
        # Rounding must not refuse what comes exactly in time.
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens -= 1.0
        return True


def make_limiter(kind: LimiterKind, *, limit: int, window: float) -> Limiter:
    """
    The limiter of that *kind*.

    Raises:
        ValueError: If there is no such kind.
    """
    kinds: dict[str, type[SlidingWindow | FixedWindow | TokenBucket]] = {
        "sliding": SlidingWindow,
        "fixed": FixedWindow,
        "bucket": TokenBucket,
    }
    if kind not in kinds:
        msg = f"limiter must be one of {', '.join(kinds)}, got {kind!r}"
        raise ValueError(msg)
    return kinds[kind](limit=limit, window=window)
