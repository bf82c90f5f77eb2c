"""
Token buckets whose tokens return a window after the service must have counted the request that used them.

``WindowBucket`` limits polls. ``TokenLease`` and ``Deliveries`` belong to the ``AdaptiveBucket`` that limits creates:
the second is the knowledge of one process about its requests on the wire. All answer with instants and never wait. The
proof that no window exceeds the limit is in ``docs/explanation/limits.md``.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Iterator

import attrs

__all__ = ["NONE_FREE", "NOT_LEASED", "UNANSWERED_TRAVEL", "Deliveries", "TokenLease", "WindowBucket", "check_limit"]

#: The number of round trips of polls that are remembered, and the factor by which a request may travel longer than the
#: longest of them.
ROUND_TRIPS = 64
SLACK = 1.25
#: The number of round trips from which on the longest of them counts: of fewer, all may have been short by chance.
LEAST_ROUND_TRIPS = 4

#: The seconds after its writing for which a request without an answer may travel: the end of its connection does not
#: stop it.
UNANSWERED_TRAVEL = 2.0

NONE_FREE = "no token is free"
NOT_LEASED = "no token is leased"


def check_limit(limit: int, window: float) -> None:
    if limit < 1 or not 0 < window < math.inf:
        msg = f"limit must be >= 1 and window must be > 0 and finite: got limit={limit}, window={window}"
        raise ValueError(msg)


@attrs.define
class WindowBucket:
    """
    A fixed number of tokens, each back a window after the answer to the request that used it.

    Args:
        limit: The number of tokens, which is the number of requests in any window.

        window: The window's length, in seconds.

    >>> bucket = WindowBucket(limit=2, window=10.0)
    >>> bucket.use_token(0.0), bucket.use_token(0.0)
    (0.0, 0.0)
    >>> bucket.ready_at(0.5) is None
    True
    >>> bucket.return_token(answered_at=1.0)
    >>> bucket.ready_at(1.0)
    11.0
    """

    limit: int
    window: float
    #: The number of tokens that requests under way hold.
    in_use: int = attrs.field(default=0, init=False)
    _returning: list[float] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        check_limit(self.limit, self.window)

    def resize(self, limit: int, window: float) -> None:
        """
        Change the number of tokens and the window; tokens that are on their way back keep their instants.

        Raises:
            ValueError: If a value is not allowed.
        """
        check_limit(limit, window)
        self.limit, self.window = limit, window

    def ready_at(self, now: float) -> float | None:
        """
        Return the earliest instant, not before *now*, at which a token is free; None if that depends on an answer.
        """
        while self._returning and self._returning[0] <= now:
            heapq.heappop(self._returning)
        if self.in_use + len(self._returning) < self.limit:
            return now
        return self._returning[0] if self._returning else None

    def use_token(self, now: float) -> float:
        """
        Reserve a token from the instant *now* until ``return_token``.

        Returns:
            The instant *now*.

        Raises:
            ValueError: If no token is free; ask ``ready_at`` first.
        """
        if self.ready_at(now) != now:
            raise ValueError(NONE_FREE)
        self.in_use += 1
        return now

    def return_token(self, *, answered_at: float) -> None:
        """
        Release the token of a request that ended at *answered_at*; it is free a window later.

        Raises:
            ValueError: If no token is in use.
        """
        if not self.in_use:
            raise ValueError(NOT_LEASED)
        self.in_use -= 1
        heapq.heappush(self._returning, answered_at + self.window)


@attrs.define(eq=False)
class TokenLease:
    """
    A request that may be sent, or is under way; ended by one cancel_lease, consume_token or expire_token.

    Attributes:
        leased_at: The instant from which the request may be sent.

        probe: True if the request has no token and asks for one more.

        below_limit: True if fewer tokens than configured were known when the lease began.

        number: The number of the lease in its bucket.

        worker: The worker that has the lease.

        gate_probe: True if the request is the only one that a closed gate lets through.

        expires_at: The instant at which other workers take the request for counted, if its worker reports nothing.

        counted_at: The instant by which the service has counted the request, or None if it is not known yet.
    """

    leased_at: float
    probe: bool
    below_limit: bool
    number: int = 0
    worker: str = ""
    gate_probe: bool = False
    expires_at: float = math.inf
    counted_at: float | None = None


@attrs.define
class Deliveries:
    """
    The requests of one process whose answers have not come, and the instants by which the service has counted them.

    A create may be answered seconds after it was counted. Polls are answered at once, so their round trips show how
    long a request travels at most.
    """

    #: The seconds after its writing by which a request was counted; infinite until ``LEAST_ROUND_TRIPS`` are known.
    margin: float = attrs.field(default=math.inf, init=False)
    #: The requests that were written, by the numbers of their leases, in the order of writing. They are in ``_written``
    #: (with the instant of writing) until an answer shows that the network delivers, then in ``_delivered`` (with that
    #: answer's instant).
    _written: OrderedDict[int, float] = attrs.field(factory=OrderedDict, init=False)
    _delivered: OrderedDict[int, tuple[float, float]] = attrs.field(factory=OrderedDict, init=False)
    _written_at: dict[int, float] = attrs.field(factory=dict, init=False)
    _round_trips: deque[float] = attrs.field(factory=lambda: deque(maxlen=ROUND_TRIPS), init=False)

    def mark_written(self, number: int, now: float) -> None:
        """Record that a request is being written to the wire; calls are made in the order of their instants."""
        self._written[number] = self._written_at[number] = now

    def learn_round_trip(self, seconds: float, *, answered_at: float) -> None:
        """Learn the round trip of a poll that was answered at an instant."""
        self._round_trips.append(seconds)
        if len(self._round_trips) >= LEAST_ROUND_TRIPS:
            self.margin = SLACK * max(self._round_trips)
        self._confirm(answered_at - seconds, answered_at)

    def counted_unanswered(self, number: int, now: float) -> float:
        """Return the instant by which the service has counted a request that has just ended without an answer."""
        return max(now, self._written_at.get(number, -math.inf) + UNANSWERED_TRAVEL)

    def forget(self, number: int) -> None:
        """Forget a request that was never sent."""
        self._written_at.pop(number, None)
        self._written.pop(number, None)
        self._delivered.pop(number, None)

    def confirm(self, number: int, now: float) -> None:
        """Record that a request was answered: it and all that were written before it have been delivered."""
        written_at = self._written_at.get(number)
        self.forget(number)
        self._confirm(written_at, now)

    def counted(self, now: float) -> Iterator[tuple[int, float]]:
        """Yield, and forget, the requests that the service has counted by now, with the instants, in order."""
        while self._delivered:
            number, instants = next(iter(self._delivered.items()))
            if (counted_at := self._counted_at(*instants)) > now:
                return
            del self._delivered[number]
            yield number, counted_at

    def upcoming(self) -> Iterator[float]:
        """Yield the instants by which the delivered requests will have been counted, in order."""
        return (self._counted_at(*instants) for instants in self._delivered.values())

    def _counted_at(self, written_at: float, delivered_at: float) -> float:
        return max(written_at + self.margin, delivered_at)

    def _confirm(self, asked_at: float | None, now: float) -> None:
        """Mark requests as delivered that are overdue, or were written no later than an answered one."""
        while self._written:
            number, written_at = next(iter(self._written.items()))
            later = asked_at is not None and written_at <= asked_at
            if not later and written_at + self.margin / SLACK > now:
                break
            del self._written[number]
            self._delivered[number] = (written_at, now)
