"""An account at the service: who may ask, for what money, how fast."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from itertools import count
from typing import TYPE_CHECKING

from kie_async.testing.limiters import Limiter, SlidingWindow

if TYPE_CHECKING:
    from kie_async.testing.tasks import FakeTask

__all__ = ["FakeAccount"]


class FakeAccount:
    """
    One account; all keys share its credits and its limit of creates, and each has its own limit of queries.

    Credits are taken when a task is created and given back when it fails.

    Args:
        api_keys: The keys that are good; None if any but an empty one is.

        credits: What it has, in credits.

        creates: Its limit of creates.

        queries_per_second: How many queries each key may make in any second.
    """

    def __init__(
        self, *, api_keys: Collection[str] | None, credits: float, creates: Limiter, queries_per_second: float
    ) -> None:
        self.creates = creates
        self._api_keys = None if api_keys is None else set(api_keys)
        self._revoked: set[str] = set()
        self._credits = credits
        self._queries_per_second = queries_per_second
        self._queries: dict[str, SlidingWindow] = {}
        self._refunds: list[tuple[float, int, FakeTask]] = []
        self._numbers = count()

    def key_of(self, authorization: str) -> str | None:
        """The good key in an ``Authorization`` header, or None."""
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or key in self._revoked:
            return None
        return key if self._api_keys is None or key in self._api_keys else None

    def revoke_key(self, key: str) -> None:
        """Refuse *key* from now on."""
        self._revoked.add(key)

    def admit_query(self, key: str, now: float) -> bool:
        """Whether *key* may make one more query at *now*."""
        if key not in self._queries:
            # Rates below one a second are counted over the time in which one query is allowed.
            window = max(1.0, 1.0 / self._queries_per_second)
            self._queries[key] = SlidingWindow(limit=round(self._queries_per_second * window), window=window)
        return self._queries[key].admit(now)

    def credits(self, now: float) -> float:
        """What the account has at *now*."""
        while self._refunds and self._refunds[0][0] <= now:
            at, _, task = heapq.heappop(self._refunds)
            # A task whose end was moved stands here more than once.
            if task.failure is not None and task.ends_at == at:
                self._credits += task.charged
        return self._credits

    def set_credits(self, amount: float, now: float) -> None:
        """Top up, or take away: the account has *amount* from *now* on."""
        self.credits(now)
        self._credits = amount

    def charge(self, task: FakeTask) -> None:
        """Take what *task* costs."""
        self._credits -= task.charged
        self.expect_refund(task)

    def expect_refund(self, task: FakeTask) -> None:
        """Give back what *task* costs when it ends, if it is to fail."""
        if task.failure is not None:
            heapq.heappush(self._refunds, (task.ends_at, next(self._numbers), task))
