"""
``AdaptiveBucket``: the bucket that limits creates, and learns the account's real limit from refusals.

It answers with instants and never waits. All of it but ``deliveries`` may be shared by many workers; see
``account_state``. The learning rules and the measurements are in ``docs/explanation/limits.md``.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from heapq import merge
from itertools import chain, islice, repeat
from typing import Any

import attrs

from kie_async._core.token_buckets import NONE_FREE, NOT_LEASED, Deliveries, TokenLease, check_limit

__all__ = ["MAX_LEASES", "AdaptiveBucket"]

#: The number of leases at a time: a limit that is set too high is noticed by the answers to these. More would only add
#: connections, each with a handshake.
MAX_LEASES = 48
#: The number of refusals in a window that may be noise, such as a request that has overtaken an earlier one.
TOLERANCE = 1
#: The pause before the first probe, in windows. In long windows it is shorter, in seconds: just after the tokens have
#: returned and been used, a probe proves nothing about a service that counts in a shorter window.
FIRST_PAUSE = 2
LONGEST_FIRST_PAUSE = 45.0
#: The longest pause between probes, in seconds.
LONGEST_PAUSE = 60.0
#: The time for which a probe waits for the answers to all other requests, in windows.
PROBE_WAIT = 0.1
#: The number of tokens above which instants are rounded up to this part of a window, so that the state stays small.
_EXACT_UP_TO = 128
#: The gap between paced requests, in parts of an even distribution. A little less lets late requests catch up.
PACED_GAP = 0.95
#: The first pause in a blackout, and the longest unless the window is longer, in seconds.
BLACKOUT_PAUSE = 1.0
LONGEST_BLACKOUT_PAUSE = 10.0
#: A blackout indicates a longer window if it lasts for more windows than the first, and not for more windows than the
#: second or the seconds of the third.
MIN_BLACKOUT_WINDOWS = 1.5
MAX_BLACKOUT_WINDOWS = 6
MAX_BLACKOUT = 60.0


@attrs.define
class AdaptiveBucket:
    """
    A learned number of tokens, each back a window after the service must have counted the request that used it.

    Args:
        limit: The configured number of requests in any window, which is the maximum number of tokens.

        window: The window's length, in seconds.

    >>> bucket = AdaptiveBucket(limit=2, window=10.0)
    >>> first, second = bucket.lease_token(0.0), bucket.lease_token(0.0)
    >>> bucket.ready_at(0.5) is None
    True
    >>> bucket.consume_token(first, answered_at=1.0, passed=True)
    >>> bucket.ready_at(1.0)
    11.0
    >>> bucket.expire_token(second, now=1.5)
    >>> bucket.tokens
    1
    >>> bucket.ready_at(1.5)
    11.0
    >>> third = bucket.lease_token(11.0)
    >>> bucket.consume_token(third, answered_at=11.2, passed=True)
    >>> bucket.ready_at(11.2), bucket.ready_at(21.2)
    (21.2, 21.2)
    >>> bucket.lease_token(21.2).probe, bucket.lease_token(22.5).probe
    (False, True)
    """

    limit: int
    window: float
    #: The number of requests that a window is known to take.
    tokens: int = attrs.field(init=False)
    #: The window in which the service is known to count; never shorter than the configured one.
    learned_window: float = attrs.field(init=False)
    #: The instant since which all requests have been refused; None if the last one was not.
    refused_since: float | None = attrs.field(default=None, init=False)
    #: True while requests keep a gap.
    paced: bool = attrs.field(default=False, init=False)
    #: What this process knows of its own requests; no part of the state that is shared.
    deliveries: Deliveries = attrs.field(factory=Deliveries, init=False)
    _leases: dict[int, TokenLease] = attrs.field(factory=dict, init=False)
    _numbers: int = attrs.field(default=0, init=False)
    #: Leases that hold a token because it is not yet known when their request was counted.
    _uncounted: int = attrs.field(default=0, init=False)
    #: Latest instants at which requests were counted, sorted: those that hold a token for ``learned_window``, and all,
    #: refused ones included, for ``window``.
    _counted: deque[float] = attrs.field(factory=deque, init=False)
    _sent: deque[float] = attrs.field(factory=deque, init=False)
    #: The instants of refusals in the last window, without those of probes.
    _refused: deque[float] = attrs.field(factory=deque, init=False)
    #: The last instant at which a lower limit was learned, which explains refusals of requests leased until then.
    _lowered_at: float = attrs.field(default=-math.inf, init=False)
    _leased_at: float = attrs.field(default=-math.inf, init=False)
    _probing: bool = attrs.field(default=False, init=False)
    _probe_at: float = attrs.field(default=-math.inf, init=False)
    _pause: float = attrs.field(init=False)
    #: The number of tokens after the last refusal. Those that were regained since then are not certain.
    _proven: int = attrs.field(init=False)
    _blackout_since: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        check_limit(self.limit, self.window)
        self.tokens = self._proven = self.limit
        self.learned_window = self.window
        self._pause = self._first_pause

    # -- leasing ------------------------------------------------------------------------------------------------------

    @property
    def leased(self) -> int:
        """The number of leases that have not ended."""
        return len(self._leases)

    @property
    def leases(self) -> list[TokenLease]:
        """The leases that have not ended."""
        return list(self._leases.values())

    def ready_at(self, now: float) -> float | None:
        """
        Return the earliest instant, not before *now*, at which a lease can begin; None if that depends on an answer.
        """
        found = self._next_lease(now)
        return None if found is None else found[0]

    def _next_lease(self, now: float) -> tuple[float, bool] | None:
        """Return the instant of ``ready_at``, and True if the lease will be a probe."""
        self._release_due(now)
        if len(self._leases) >= MAX_LEASES:
            return None
        room_at = self._return_time(now, len(self._sent) + self._uncounted - self.limit, self._sent, self.window)
        if room_at is None:
            return None
        probe = False
        if self._held < self.tokens:
            ready_at = now
        else:
            excess = self._held - self.tokens
            token_at = self._return_time(now, excess, self._counted, self.learned_window) if self.tokens else None
            probe_at = self._probe_ready_at
            probe = probe_at is not None and (token_at is None or probe_at < token_at)
            known = probe_at if probe else token_at
            if known is None:
                return None
            ready_at = known
        if self.paced and self.tokens:
            ready_at = max(ready_at, self._leased_at + PACED_GAP * self.learned_window / (self.tokens + 1))
        return max(now, room_at, ready_at), probe

    def held(self, now: float) -> int:
        """
        Return the number of tokens in use.
        """
        self._release_due(now)
        return self._held

    def expected_at(self, now: float, ahead: int, round_trip: float, silence: float) -> float:
        """
        Return the instant at which *ahead* + 1 leases, or a probe, are expected to have begun.

        Args:
            now: The instant now.

            ahead: The number of leases before it.

            round_trip: The seconds that requests take.

            silence: The seconds after an answer within which it is reported: without a report by then there was none.
        """
        self._release_due(now)
        answers = (lease.leased_at + round_trip for lease in self._leases.values() if lease.counted_at is None)
        open_ends = sorted(at if at + silence > now else now + round_trip for at in answers)
        expected = [now]
        for excess, counted, span in (
            (self._held - self.tokens + ahead, self._counted, self.learned_window),
            (len(self._sent) + self._uncounted - self.limit + ahead, self._sent, self.window),
        ):
            ends = merge((at + span for at in counted), (at + span for at in open_ends))
            expected.append(next(islice(ends, excess, None), now + span) if excess >= 0 else now)
        at = max(expected)
        return at if self._probe_ready_at is None else min(at, max(now, self._probe_ready_at))

    def lease_token(self, now: float, *, horizon: float = 0.0) -> TokenLease:
        """
        Lease a token, or the right to probe for one more.

        Args:
            now: The instant now.

            horizon: The seconds by which the lease may begin later than now: it is a reservation then.

        Returns:
            The lease.

        Raises:
            ValueError: If neither is free; ask ``ready_at`` first.
        """
        lease = self.lease_if_ready(now + horizon, now)
        if not isinstance(lease, TokenLease):
            raise ValueError(NONE_FREE)  # noqa: TRY004 (a call at the wrong time)
        return lease

    def lease_if_ready(self, until: float, now: float) -> TokenLease | float | None:
        """
        Return a lease that begins at an instant at the latest; if there is none, the result of ``ready_at``.
        """
        found = self._next_lease(now)
        if found is None:
            return None
        if found[0] > until:
            return found[0]
        self._numbers += 1
        lease = TokenLease(found[0], probe=found[1], below_limit=self.tokens < self.limit, number=self._numbers)
        self._probing = self._probing or lease.probe
        self._leased_at = lease.leased_at
        self._leases[lease.number] = lease
        self._uncounted += 1
        return lease

    # -- ending a lease -----------------------------------------------------------------------------------------------

    def mark_written(self, lease: TokenLease, now: float) -> None:
        """
        Record that a request is being written to the wire; calls are made in the order of their instants.
        """
        self.deliveries.mark_written(lease.number, now)

    def count_lease(self, number: int, counted_at: float) -> None:
        """
        Record that the service has counted the request of a lease by an instant, although it was not answered yet.
        """
        lease = self._leases.get(number)
        if lease is not None and lease.counted_at is None:
            self._count(lease, counted_at)

    def find_lease(self, number: int) -> TokenLease | None:
        """
        Return a lease that has not ended.
        """
        return self._leases.get(number)

    def cancel_lease(self, lease: TokenLease) -> None:
        """
        End a lease whose request was never sent: its token is free at once.
        """
        self._end_lease(lease)
        self.deliveries.forget(lease.number)
        if lease.counted_at is None:
            self._uncounted -= 1

    def consume_token(self, lease: TokenLease, *, answered_at: float, passed: bool) -> None:
        """
        End a lease whose request was sent and not refused by the rate limit.

        Args:
            lease: The lease.

            answered_at: The instant at which the request ended, with an answer or without.

            passed: True if an answer shows that the rate limit let the request pass.
        """
        self._release_due(answered_at)
        self._end_lease(lease)
        oldest = self._counted[0] if self._counted else answered_at
        if lease.counted_at is None:
            self._count(lease, answered_at)
        if passed:
            self.deliveries.confirm(lease.number, answered_at)
            self.refused_since = None
            if lease.probe or self._blackout_since is not None:
                self._regain(answered_at, oldest)
        else:
            self.deliveries.forget(lease.number)
            if lease.probe:
                self._probe_at = answered_at + self._pause  # a probe without an answer shows nothing

    def expire_token(self, lease: TokenLease, *, now: float) -> None:
        """
        End a lease whose request was refused by the rate limit: its token expires.
        """
        self._release_due(now)
        self._end_lease(lease)
        if lease.counted_at is None:
            self._uncounted -= 1
            insort(self._sent, now)
        elif lease.counted_at in self._counted:
            self._counted.remove(lease.counted_at)
        self.deliveries.confirm(lease.number, now)
        if self.refused_since is None:
            self.refused_since = now
        was_regained = self.tokens > self._proven
        if lease.probe:
            self._proven = self.tokens
            self._probe_at = now + self._pause
            self._pause = self._next_pause
            return
        self._lower_limit(lease, now)
        if self.tokens or self._blackout_since is not None:
            self._probe_at = max(self._probe_at, now + self._pause)
            if was_regained:
                self._pause = self._next_pause
        else:
            self._blackout_since = now
            self._probe_at = now + BLACKOUT_PAUSE
            self._pause = 2 * BLACKOUT_PAUSE

    # -- other sources of knowledge -----------------------------------------------------------------------------------

    def learn_round_trip(self, seconds: float, *, answered_at: float) -> None:
        """
        Learn the round trip of a poll.

        Args:
            seconds: The time from the request to its answer.

            answered_at: The instant of the answer.
        """
        self._release_due(answered_at)
        self.deliveries.learn_round_trip(seconds, answered_at=answered_at)

    # -- the state that many processes share --------------------------------------------------------------------------

    def configure(self, limit: int, window: float) -> None:
        """
        Change the configured limit; what was learned below it stays.
        """
        if (limit, window) == (self.limit, self.window):
            return
        check_limit(limit, window)
        was_reduced = self._is_reduced
        learned_longer = self.learned_window > self.window
        self.limit, self.window = limit, window
        self.learned_window = max(window, self.learned_window) if learned_longer else window
        self.tokens = min(limit, self.tokens) if was_reduced else limit
        self._proven = min(limit, self._proven) if was_reduced else limit

    def shift(self, seconds: float) -> None:
        """
        Move all instants by *seconds*: the clock has been set.
        """
        for lease in self._leases.values():
            lease.leased_at += seconds
            lease.expires_at += seconds
            lease.counted_at = None if lease.counted_at is None else lease.counted_at + seconds
        for name in _QUEUES:
            setattr(self, name, deque(at + seconds for at in getattr(self, name)))
        for name in _INSTANTS:
            at = getattr(self, name)
            setattr(self, name, None if at is None else at + seconds)

    def dump(self) -> list[Any]:
        """
        Return the state, without ``deliveries``, as JSON values.
        """
        step = 0.0 if self.limit <= _EXACT_UP_TO else self.window / _EXACT_UP_TO
        queues = [_dump_instants(getattr(self, name), step) for name in _QUEUES]
        leases = [_dump_lease(lease) for lease in self._leases.values()]
        return [[_finite(getattr(self, name)) for name in _FIELDS], queues, leases]

    def restore(self, dumped: list[Any]) -> None:
        """
        Take over the state that ``dump`` has written.
        """
        fields, queues, leases = dumped
        for name, value in zip(_FIELDS, fields, strict=True):
            setattr(self, name, -math.inf if value is None and name not in _OPTIONAL else value)
        for name, instants in zip(_QUEUES, queues, strict=True):
            setattr(self, name, deque(chain.from_iterable(repeat(at, int(count)) for at, count in instants)))
        for values in leases:
            lease = TokenLease(*values)
            self._leases[lease.number] = lease
            self._uncounted += lease.counted_at is None

    # -- internals ----------------------------------------------------------------------------------------------------

    @property
    def _first_pause(self) -> float:
        return min(FIRST_PAUSE * self.window, LONGEST_FIRST_PAUSE)

    @property
    def _next_pause(self) -> float:
        in_blackout = self._blackout_since is not None
        return min(2 * self._pause, max(self.learned_window, LONGEST_BLACKOUT_PAUSE) if in_blackout else LONGEST_PAUSE)

    @property
    def _held(self) -> int:
        """The number of tokens in use."""
        return len(self._counted) + self._uncounted

    @property
    def _is_reduced(self) -> bool:
        """True if fewer requests are allowed than configured, so that probes are useful."""
        return self.tokens < self.limit or self.learned_window > self.window

    @property
    def _probe_ready_at(self) -> float | None:
        """The instant of the next probe; None if none is useful, or one is under way."""
        if not self._is_reduced or self._probing:
            return None
        # While another request is under way, an accepted probe may only have taken its place.
        return self._probe_at + PROBE_WAIT * self.learned_window if self._uncounted else self._probe_at

    def _return_time(self, now: float, excess: int, counted: deque[float], span: float) -> float | None:
        """Return the instant at which *excess* + 1 of all counted requests are *span* old; None if unknown."""
        if excess < 0:
            return now
        ends = merge((at + span for at in counted), (at + span for at in self.deliveries.upcoming()))
        end = next(islice(ends, excess, None), math.inf)
        return None if end == math.inf else end

    def _release_due(self, now: float) -> None:
        for number, counted_at in self.deliveries.counted(now):
            self.count_lease(number, counted_at)
        for instants_, span in (
            (self._counted, self.learned_window),
            (self._sent, self.window),
            (self._refused, self.window),
        ):
            while instants_ and instants_[0] + span <= now:
                instants_.popleft()

    def _count(self, lease: TokenLease, at: float) -> None:
        """Record that the service has counted a request by the instant *at*."""
        lease.counted_at = at
        self._uncounted -= 1
        insort(self._counted, at)
        insort(self._sent, at)

    def _end_lease(self, lease: TokenLease) -> None:
        if self._leases.pop(lease.number, None) is None:
            raise ValueError(NOT_LEASED)
        if lease.probe:
            self._probing = False

    def _lower_limit(self, lease: TokenLease, now: float) -> None:
        """Learn from the refusal of a request that was not a probe."""
        self._refused.append(now)
        held = self._held - sum(lease.leased_at > now for lease in self._leases.values())
        if held < self.tokens or lease.leased_at > self._lowered_at:
            self.tokens = max(0, self.tokens - 1)
        # The accepted requests of the window that ends now are the best estimate of the limit.
        estimate = min(held, self._proven)
        if len(self._refused) > TOLERANCE and estimate < self.tokens:
            self.tokens, self._lowered_at = estimate, now
        elif not lease.below_limit:
            self._lowered_at = now
        elif lease.leased_at > self._lowered_at:
            self.paced = True
        self._proven = min(self._proven, self.tokens)

    def _regain(self, now: float, oldest: float) -> None:
        """Add a token, or shorten the window, after a probe has passed while a token was in use since *oldest*."""
        self._probe_at = now
        if self._blackout_since is not None:
            blackout = now - self._blackout_since
            longest = max(MAX_BLACKOUT_WINDOWS * self.window, MAX_BLACKOUT)
            if MIN_BLACKOUT_WINDOWS * self.learned_window < blackout <= longest:
                self.learned_window += blackout
            self._blackout_since = None
            self._pause = self._first_pause
        if self.tokens < self.limit:
            self.tokens += 1
        else:
            self.learned_window = max(self.window, min(self.learned_window, now - oldest))
        if not self._is_reduced:
            self._proven = self.limit
            self._pause = self._first_pause
            self.paced = False


#: The fields of a bucket that are shared, those of them that are instants, and those that may be None.
_FIELDS = (
    "limit",
    "window",
    "tokens",
    "learned_window",
    "refused_since",
    "paced",
    "_numbers",
    "_lowered_at",
    "_leased_at",
    "_probing",
    "_probe_at",
    "_pause",
    "_proven",
    "_blackout_since",
)
_INSTANTS = ("refused_since", "_lowered_at", "_leased_at", "_probe_at", "_blackout_since")
_OPTIONAL = frozenset({"refused_since", "_blackout_since"})
_QUEUES = ("_counted", "_sent", "_refused")


def _finite(value: float | None) -> float | None:
    """Return a JSON value: None stands for the instant before all others, too."""
    return None if value == -math.inf else value


def _dump_instants(instants: deque[float], step: float) -> list[list[float]]:
    """Return sorted instants as pairs of an instant, rounded up to a multiple of *step*, and its number."""
    dumped: list[list[float]] = []
    for at in instants:
        rounded = math.ceil(at / step) * step if step else at
        if dumped and dumped[-1][0] == rounded:
            dumped[-1][1] += 1
        else:
            dumped.append([rounded, 1])
    return dumped


def _dump_lease(lease: TokenLease) -> list[Any]:
    return [
        lease.leased_at,
        lease.probe,
        lease.below_limit,
        lease.number,
        lease.worker,
        lease.gate_probe,
        lease.expires_at,
        lease.counted_at,
    ]
