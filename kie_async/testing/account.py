"""The account at the fake service: its keys, its credits and its rate limits."""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from itertools import count
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from kie_async.testing.tasks import FakeTask

__all__ = ["FakeAccount", "FixedWindow", "LimiterKind", "RateLimiter", "SlidingWindow", "TokenBucket", "make_limiter"]

LimiterKind: TypeAlias = Literal["sliding", "fixed", "bucket"]


@attrs.define(kw_only=True, eq=False)
class RateLimiter(ABC):
    """
    The base of the rate limiters: three meanings that "20 per 10 seconds" may have at a service.

    A limiter decides at the instant of a request's arrival. A refused request does not count.

    Attributes:
        limit: The number of requests that a window allows; may be changed at any time.

        window: The length of the window, in seconds.
    """

    limit: int
    window: float

    @abstractmethod
    def admit(self, now: float) -> bool:
        """Return True, and count the request, if a request at *now* is admitted. *now* never decreases."""


@attrs.define(kw_only=True, eq=False)
class SlidingWindow(RateLimiter):
    """
    A limiter that admits at most *limit* requests in any *window* that ends now.

    >>> limiter = SlidingWindow(limit=2, window=10.0)
    >>> [limiter.admit(at) for at in (0.0, 4.0, 9.0, 10.0, 13.0, 14.0)]
    [True, True, False, True, False, True]
    """

    _admitted: deque[float] = attrs.field(factory=deque, init=False)

    def admit(self, now: float) -> bool:
        """Return True, and count the request, if a request at *now* is admitted."""
        while self._admitted and self._admitted[0] + self.window <= now:
            self._admitted.popleft()
        if len(self._admitted) >= self.limit:
            return False
        self._admitted.append(now)
        return True


@attrs.define(kw_only=True, eq=False)
class FixedWindow(RateLimiter):
    """
    A limiter that admits at most *limit* requests in each of consecutive windows that begin at multiples of *window*.

    >>> limiter = FixedWindow(limit=2, window=10.0)
    >>> [limiter.admit(at) for at in (8.0, 9.0, 9.5, 10.0, 11.0, 12.0)]
    [True, True, False, True, True, False]
    """

    _index: int = attrs.field(default=-1, init=False)
    _count: int = attrs.field(default=0, init=False)

    def admit(self, now: float) -> bool:
        """Return True, and count the request, if a request at *now* is admitted."""
        index = math.floor(now / self.window)
        if index != self._index:
            self._index, self._count = index, 0
        if self._count >= self.limit:
            return False
        self._count += 1
        return True


@attrs.define(kw_only=True, eq=False)
class TokenBucket(RateLimiter):
    """
    A bucket of *limit* tokens that is refilled evenly, *limit* in each *window*.

    >>> limiter = TokenBucket(limit=2, window=10.0)
    >>> [limiter.admit(at) for at in (0.0, 0.0, 4.0, 5.0, 9.0, 10.0)]
    [True, True, False, True, False, True]
    """

    _tokens: float = attrs.field(default=math.inf, init=False)
    _counted_at: float = attrs.field(default=0.0, init=False)

    def admit(self, now: float) -> bool:
        """Return True, and count the request, if a request at *now* is admitted."""
        refill = (now - self._counted_at) * self.limit / self.window
        self._tokens = min(float(self.limit), self._tokens + refill)
        self._counted_at = now
        # The tolerance admits a request that arrives exactly in time in spite of rounding.
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens -= 1.0
        return True


def make_limiter(kind: LimiterKind, *, limit: int, window: float) -> RateLimiter:
    """
    Return a new limiter of *kind*.

    Raises:
        ValueError: If *kind* is unknown.
    """
    kinds: dict[str, type[RateLimiter]] = {"sliding": SlidingWindow, "fixed": FixedWindow, "bucket": TokenBucket}
    if kind not in kinds:
        msg = f"Invalid limiter {kind!r}: expected one of {', '.join(kinds)}."
        raise ValueError(msg)
    return kinds[kind](limit=limit, window=window)


class FakeAccount:
    """
    An account.

    All its keys share its credits, its limit of creates and its limit of one query about models per second
    (``model_queries``), and each has its own limit of other queries. Credits are charged when a task is created and
    refunded when it fails.

    Args:
        api_keys: The valid keys; None if every non-empty key is valid.

        credits: Its credits.

        creates: Its limiter of creates.

        queries_per_second: The number of queries that each key may make in any second.
    """

    def __init__(
        self, *, api_keys: Collection[str] | None, credits: float, creates: RateLimiter, queries_per_second: float
    ) -> None:
        self.creates = creates
        self.model_queries: RateLimiter = SlidingWindow(limit=1, window=1.0)
        self._api_keys = None if api_keys is None else set(api_keys)
        self._revoked: set[str] = set()
        self._credits = credits
        self._queries_per_second = queries_per_second
        self._queries: dict[str, SlidingWindow] = {}
        self._refunds: list[tuple[float, int, FakeTask]] = []
        self._numbers = count()

    def valid_key(self, authorization: str) -> str | None:
        """Return the valid key of an ``Authorization`` header, or None."""
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or key in self._revoked:
            return None
        return key if self._api_keys is None or key in self._api_keys else None

    def revoke_key(self, key: str) -> None:
        """Refuse *key* from now on."""
        self._revoked.add(key)

    def admit_query(self, key: str, now: float) -> bool:
        """Return True, and count the query, if *key* may make one more query at *now*."""
        if key not in self._queries:
            # Rates below one per second are counted over the time in which one query is allowed.
            window = max(1.0, 1.0 / self._queries_per_second)
            self._queries[key] = SlidingWindow(limit=round(self._queries_per_second * window), window=window)
        return self._queries[key].admit(now)

    def credits(self, now: float) -> float:
        """Return the credits at *now*."""
        while self._refunds and self._refunds[0][0] <= now:
            at, _, task = heapq.heappop(self._refunds)
            # A task whose end was moved is queued more than once.
            if task.failure is not None and task.ends_at == at:
                self._credits += task.charged
        return self._credits

    def set_credits(self, amount: float, now: float) -> None:
        """Set the credits to *amount* at *now*."""
        self.credits(now)
        self._credits = amount

    def charge(self, task: FakeTask) -> None:
        """Charge the price of *task*."""
        self._credits -= task.charged
        self.schedule_refund(task)

    def schedule_refund(self, task: FakeTask) -> None:
        """Refund the price of *task* at its end if it is going to fail."""
        if task.failure is not None:
            heapq.heappush(self._refunds, (task.ends_at, next(self._numbers), task))
