"""Simulated clients with buckets and models of the service, which record what was accepted and refused."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from kie_async._core.adaptive_bucket import AdaptiveBucket
from kie_async._core.token_buckets import TokenLease

__all__ = ["Limit", "Service", "SlidingLog", "Traffic", "TwoCounters", "available", "most_in_a_window"]

#: The number of requests that a window takes, at an instant.
Limit = Callable[[float], int]


class Service(Protocol):
    """A model of the service, which decides at the instant of arrival."""

    def admits(self, now: float) -> bool:
        """Return True if a request that arrives at *now* is accepted."""
        ...


@attrs.define
class SlidingLog:
    """A service that takes *limit* requests in any *window*; refused requests do not count."""

    limit: Limit
    window: float = 10.0
    _taken: deque[float] = attrs.field(factory=deque, init=False)

    def admits(self, now: float) -> bool:
        while self._taken and self._taken[0] + self.window <= now:
            self._taken.popleft()
        if len(self._taken) >= self.limit(now):
            return False
        self._taken.append(now)
        return True


@attrs.define
class TwoCounters:
    """A service that estimates a sliding window from two fixed ones, as some proxies do: it refuses bursts."""

    limit: int
    window: float = 10.0
    _counts: dict[int, int] = attrs.field(factory=dict, init=False)

    def admits(self, now: float) -> bool:
        index, into = divmod(now, self.window)
        current = self._counts.get(int(index), 0)
        if self._counts.get(int(index) - 1, 0) * (1 - into / self.window) + current + 1 > self.limit:
            return False
        self._counts[int(index)] = current + 1
        return True


@attrs.define
class Traffic:
    """
    Clients with an endless backlog, each with its own bucket, at one service.

    Attributes:
        way: The range of the travel time each way, in seconds.

        create_seconds: The time that the service takes for a create after it was counted.

        accepted: The instants of accepted requests, a list for each client.

        refused: The instants of refused requests.
    """

    service: Service
    buckets: Sequence[AdaptiveBucket]
    seed: int = 0
    way: tuple[float, float] = (0.02, 0.2)
    create_seconds: float = 0.0
    accepted: list[list[float]] = attrs.field(init=False)
    refused: list[float] = attrs.field(factory=list, init=False)
    _events: list[tuple[float, int, Callable[[float], None]]] = attrs.field(factory=list, init=False)
    _numbers: itertools.count[int] = attrs.field(factory=itertools.count, init=False)

    def __attrs_post_init__(self) -> None:
        self.accepted = [[] for _ in self.buckets]

    def run(self, seconds: float) -> None:
        """Let all clients send for *seconds*."""
        rng = random.Random(self.seed)
        wakes: dict[int, float] = {}

        def send(number: int, now: float) -> None:
            bucket = self.buckets[number]
            while (ready_at := bucket.ready_at(now)) == now:
                lease = bucket.lease_token(now)
                bucket.mark_written(lease, now)
                self._at(now + rng.uniform(*self.way), lambda at, lease=lease: arrive(number, lease, at))  # type: ignore[misc]  # its default
            if ready_at is not None and not now < wakes.get(number, now) <= ready_at:
                wakes[number] = ready_at
                self._at(ready_at, lambda at: send(number, at))

        def arrive(number: int, lease: TokenLease, now: float) -> None:
            fine = self.service.admits(now)
            (self.accepted[number] if fine else self.refused).append(now)
            answered_at = now + (self.create_seconds if fine else 0.0) + rng.uniform(*self.way)
            self._at(answered_at, lambda at: answer(number, lease, at, fine=fine))

        def answer(number: int, lease: TokenLease, now: float, *, fine: bool) -> None:
            if fine:
                self.buckets[number].consume_token(lease, answered_at=now, passed=True)
            else:
                self.buckets[number].expire_token(lease, now=now)
            send(number, now)

        for number in range(len(self.buckets)):
            self._at(0.0, lambda at, number=number: send(number, at))  # type: ignore[misc]  # its default
        while self._events and self._events[0][0] < seconds:
            at, _, event = heapq.heappop(self._events)
            event(at)

    def _at(self, instant: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (instant, next(self._numbers), event))


def most_in_a_window(arrivals: Sequence[float], window: float) -> int:
    """Return the largest number of arrivals in any window; an arrival that is a window old does not count."""
    log, most = deque[float](), 0
    for at in arrivals:
        while log and log[0] + window <= at:
            log.popleft()
        log.append(at)
        most = max(most, len(log))
    return most


def available(bucket: AdaptiveBucket, now: float) -> int:
    """Return the number of tokens that are free at *now*."""
    return max(0, bucket.tokens - len(return_times(bucket, now)))


def return_times(bucket: AdaptiveBucket, now: float) -> list[float]:
    """Return the instants at which the tokens in use are free, if what is under way is answered now."""
    bucket.ready_at(now)
    fields, (counted, _, _), leases = bucket.dump()
    under_way = sum(lease[-1] is None for lease in leases)
    ends = [at for at, number in counted for _ in range(number)] + [now] * under_way
    return [at + fields[3] for at in ends]
