"""
The window bucket that learns: how many requests a service really takes, and in how long a window.

**What is safe.** A service that takes *limit* requests in any *window* counts arrivals. A client knows when it wrote a
request and when it read the answer, and the request was counted somewhere between. If no more than *limit* requests are
sent in any window that begins when the last of them *must* have been counted, then no window of the service's holds
more, whatever the network did, and however the service counts: by a sliding log, by fixed windows (each is a window),
or by a bucket of *limit* that is refilled evenly (which forgives more). The instant by which a request was counted is
the earlier of

* its answer: nothing is assumed, and the price is one round trip in a window, a use of ``window / (window + mean round
  trip)``, 97.8 % for 20 in 10 s and 20 to 200 ms each way;
* the instant at which it was written, and 1.25 times the longest of the last 64 round trips of *polls*, requests that
  cost the service no work: so a create that the service thinks about for seconds, or never answers, does not hold its
  place for as long. Until a look has been answered, there is only the answer; and the network may stand still, with the
  create in it, until something is answered that was written no earlier, or anything after the longest round trip.

A client that does not see the service's clock cannot do better than 99.1 % (``window / (window + mean time of travel -
least time of travel)``); subtracting a share of the least round trip gains 0.3 points, and is refused whenever the
first round trips were slow.

**What is learned.** A refusal is not queued, so it carries no latency to steer by; but it says exactly how many fit:

* A refusal **burns** its token. A real limit of 12 where 20 are configured costs 8 refusals, in one window, once.
* While there are fewer tokens than configured and somebody waits, **one probe at a time** asks for one more. Accepted,
  it is a token, and the next probe goes at once: a limit that was raised is regained in a round trip for each token.
  Refused, the next one waits: for two windows (what has taken the places may have left them by then), and then for
  twice as long each time, up to a minute. A token that is regained and refused again was luck, and counts as a refusal
  of the probe that brought it.
* **Blackout**: all tokens are burnt. A single prober goes after 1, 2, 4 … seconds, up to a window. If it was dark for
  longer than one and a half windows, then the service counts in a longer one, and the first success sets it; what is
  dark for more than six is out of order. An accepted probe while all tokens are in use proves that the oldest of them
  is not counted any more, and makes a window that was learned shorter again.
* **Pacing**: a lower limit explains why the first requests beyond it are refused. It does not explain why one is
  refused that was no probe, when a lower limit had been learned already: others use the account, or the service
  dislikes bursts. From then on requests keep a gap of ``window / (tokens + 1)``, until all tokens are back. (Measured
  over ten minutes, 20 configured. Without pacing: 26 refusals instead of 20 at a limit of 12, 0.090 requests wasted for
  each success by three clients of one account instead of 0.068, and 69 % of a service that refuses bursts instead of
  85 %. With pacing from the first refusal on: 85 % of what another program leaves, instead of 92 %.)

Whatever is learned, no window ever holds more requests than configured, the refused ones included: a service that
counts those, too, is not provoked.

Known controllers do not fit: AIMD and CUBIC forget that the limit's form is known (68 to 90 % of it, with 150 to 500
refusals in ten minutes), gradients steer by a latency that a refusal does not have, and a limit of concurrency cannot
express two a second at 0.2 s each.

The bucket answers with instants and never waits.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from heapq import merge
from itertools import chain, islice

import attrs

__all__ = ["AdaptiveBucket", "TokenLease"]

#: How many round trips of looks are remembered, and how much longer than the longest of them a request may travel.
ROUND_TRIPS = 64
SLACK = 1.25

#: The pause before the first probe, in windows, and the longest one, in seconds.
FIRST_PAUSE = 2
LONGEST_PAUSE = 60.0
#: The first pause in a blackout, in seconds.
BLACKOUT_PAUSE = 1.0
#: A blackout tells of a longer window if it lasts for more windows than the first, and not for more than the second.
PATIENT_WINDOWS = 1.5
OUTAGE_WINDOWS = 6


@attrs.define(eq=False)
class TokenLease:
    """
    A request that may be sent, or is under way; ended by one ``give_back``, ``spent`` or ``refused``.

    Attributes:
        taken_at: When it was taken.

        probe: Whether it asks for one more token, and has none.

        learned: Whether it was known when it was taken that fewer tokens are there than configured.

        written_at: When it was written to the wire, or None.

        counted: Whether the instant is known by which the service has counted it.
    """

    taken_at: float
    probe: bool
    learned: bool
    written_at: float | None = attrs.field(default=None, init=False)
    counted: bool = attrs.field(default=False, init=False)


@attrs.define
class AdaptiveBucket:
    """
    A learned number of tokens, each back a window after the service must have counted the request that spent it.

    Args:
        limit: Takes in any window: how many tokens there are at most.

        window: The window's length, in seconds.

    >>> bucket = AdaptiveBucket(limit=2, window=10.0)
    >>> first, second = bucket.take(0.0), bucket.take(0.0)
    >>> bucket.ready_at(0.5) is None
    True
    >>> bucket.spent(first, answered_at=1.0, passed=True)
    >>> bucket.ready_at(1.0)
    11.0
    >>> bucket.refused(second, now=1.5)
    >>> bucket.tokens
    1
    >>> bucket.ready_at(1.5)
    11.0
    >>> third = bucket.take(11.0)
    >>> bucket.spent(third, answered_at=11.2, passed=True)
    >>> bucket.ready_at(11.2), bucket.ready_at(21.2)
    (21.2, 21.2)
    >>> bucket.take(21.2).probe, bucket.take(21.5).probe
    (False, True)
    """

    limit: int
    window: float
    #: How many requests may be in a window, as far as is known.
    tokens: int = attrs.field(init=False)
    #: The window in which the service counts, as far as is known; never shorter than the one configured.
    span: float = attrs.field(init=False)
    #: Since when all requests have been refused; None if the last one was not.
    refused_since: float | None = attrs.field(default=None, init=False)
    #: Whether requests keep a gap.
    paced: bool = attrs.field(default=False, init=False)
    #: Loans that have not ended.
    lent: int = attrs.field(default=0, init=False)
    #: Of these, the ones that hold a token until it is known when they were counted.
    _uncounted: int = attrs.field(default=0, init=False)
    #: Of these, the ones that are written; first they are only that, then an answer has told that the network moves.
    #: Both in the order of writing, with that instant, and with the one of that answer.
    _written: OrderedDict[TokenLease, float] = attrs.field(factory=OrderedDict, init=False)
    _moving: OrderedDict[TokenLease, tuple[float, float]] = attrs.field(factory=OrderedDict, init=False)
    #: When requests were counted at the latest, in order: those that hold a token for ``span``, and all, refused or
    #: not, for ``window``.
    _counted: deque[float] = attrs.field(factory=deque, init=False)
    _sent: deque[float] = attrs.field(factory=deque, init=False)
    _round_trips: deque[float] = attrs.field(factory=lambda: deque(maxlen=ROUND_TRIPS), init=False)
    _margin: float = attrs.field(default=math.inf, init=False)
    _taken_at: float = attrs.field(default=-math.inf, init=False)
    _probing: bool = attrs.field(default=False, init=False)
    _probe_at: float = attrs.field(default=-math.inf, init=False)
    _pause: float = attrs.field(init=False)
    #: Whether a token was regained, but not all, and nothing has been refused since.
    _regained: bool = attrs.field(default=False, init=False)
    _dark_since: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.limit < 1:
            msg = f"limit must be at least 1, got {self.limit}"
            raise ValueError(msg)
        if not 0 < self.window < math.inf:
            msg = f"window must be a positive number of seconds, got {self.window}"
            raise ValueError(msg)
        self.tokens = self.limit
        self.span = self.window
        self._pause = self._first_pause

    # -- what may be sent, and when -----------------------------------------------------------------------------------

    @property
    def margin(self) -> float:
        """How long, in seconds, after it was written a request was counted at the latest; infinite if unknown."""
        return self._margin

    def available(self, now: float) -> int:
        """Tokens that could be taken at *now*."""
        self._collect(now)
        return max(0, self.tokens - self._held)

    def ready_at(self, now: float) -> float | None:
        """
        The earliest instant, not before *now*, at which a request may be taken; None if that depends on an answer.
        """
        self._collect(now)
        room_at = self._when(now, len(self._sent) + self._uncounted - self.limit, self._sent, self.window)
        if room_at is None:
            return None
        if self._held < self.tokens:
            ready_at = now
        else:
            token_at = self._when(now, self._held - self.tokens, self._counted, self.span) if self.tokens else None
            probe_at = self._probe_at if self._wanting and not self._probing else None
            known = [at for at in (token_at, probe_at) if at is not None]
            if not known:
                return None
            ready_at = min(known)
        if self.paced and self.tokens:
            ready_at = max(ready_at, self._taken_at + self.span / (self.tokens + 1))
        return max(now, room_at, ready_at)

    def take(self, now: float) -> TokenLease:
        """
        Lend a token at the instant *now*, or the right to ask for one more.

        Raises:
            ValueError: If there is none; ask ``ready_at`` first.
        """
        if self.ready_at(now) != now:
            msg = "no token is free"
            raise ValueError(msg)
        lease = TokenLease(now, probe=self._held >= self.tokens, learned=self.tokens < self.limit)
        self._probing = self._probing or lease.probe
        self._taken_at = now
        self.lent += 1
        self._uncounted += 1
        return lease

    # -- what became of it --------------------------------------------------------------------------------------------

    def wrote(self, lease: TokenLease, now: float) -> None:
        """
        Say that a request is being written to the wire; they are written in the order of their instants.
        """
        lease.written_at = now
        self._written[lease] = now

    def give_back(self, lease: TokenLease) -> None:
        """
        End a loan whose request was never sent: what it held is free at once.
        """
        self._end(lease)
        self._uncounted -= 1

    def spent(self, lease: TokenLease, *, answered_at: float, passed: bool) -> None:
        """
        End a loan whose request was sent and not refused by the rate limit.

        Args:
            lease: The loan.

            answered_at: When the request ended, with an answer or without.

            passed: Whether an answer has told that the rate limit let it pass.
        """
        self._collect(answered_at)
        self._end(lease)
        oldest = self._counted[0] if self._counted else answered_at
        if not lease.counted:
            self._count(lease, answered_at)
        if passed:
            self._answered(lease.written_at, answered_at)
            self.refused_since = None
            if lease.probe or self._dark_since is not None:
                self._regain(answered_at, oldest)
        elif lease.probe:
            self._probe_at = answered_at + self._pause  # it has told nothing

    def refused(self, lease: TokenLease, *, now: float) -> None:
        """
        End a loan whose request was refused by the rate limit: its token is burnt.
        """
        self._collect(now)
        self._end(lease)
        if not lease.counted:
            self._uncounted -= 1
            self._forget(lease)
            _insert(self._sent, now)
        self._answered(lease.written_at, now)
        if self.refused_since is None:
            self.refused_since = now
        lucky, self._regained = self._regained, False
        if lease.probe:
            self._probe_at = now + self._pause
            self._pause = self._next_pause
            return
        self.paced = self.paced or lease.learned
        self.tokens = max(0, self.tokens - 1)
        if self.tokens or self._dark_since is not None:
            self._probe_at = max(self._probe_at, now + self._pause)
            if lucky:
                self._pause = self._next_pause
        else:
            self._dark_since = now
            self._probe_at = now + BLACKOUT_PAUSE
            self._pause = min(2 * BLACKOUT_PAUSE, self.span)

    # -- what is known from elsewhere ---------------------------------------------------------------------------------

    def round_trip(self, seconds: float, *, answered_at: float) -> None:
        """
        Say how long a look has taken, from the request to its answer.

        Args:
            seconds: So long.

            answered_at: When the answer came.
        """
        self._collect(answered_at)
        self._round_trips.append(seconds)
        self._margin = SLACK * max(self._round_trips)
        self._answered(answered_at - seconds, answered_at)

    def carry(self, *, counted_at: float) -> None:
        """
        Count a request of an earlier bucket; more than there are tokens are not counted.

        Args:
            counted_at: When the service had counted it at the latest.
        """
        if self._held < self.tokens:
            _insert(self._counted, counted_at)
            _insert(self._sent, counted_at)

    def dues(self, now: float) -> list[float]:
        """
        When the tokens that are not free at *now* will be, if what is under way is answered now.
        """
        self._collect(now)
        return [at + self.span for at in chain(self._counted, [now] * self._uncounted)]

    # -- how ----------------------------------------------------------------------------------------------------------

    @property
    def _first_pause(self) -> float:
        return min(FIRST_PAUSE * self.window, LONGEST_PAUSE)

    @property
    def _next_pause(self) -> float:
        return min(2 * self._pause, self.span if self._dark_since is not None else LONGEST_PAUSE)

    @property
    def _held(self) -> int:
        """Tokens in use."""
        return len(self._counted) + self._uncounted

    @property
    def _wanting(self) -> bool:
        """Whether less is allowed than was configured, and so a probe is worth it."""
        return self.tokens < self.limit or self.span > self.window

    def _when(self, now: float, excess: int, counted: deque[float], span: float) -> float | None:
        """When one request more than *excess* of these, and of those under way, is *span* old; None if unknown."""
        if excess < 0:
            return now
        ends = merge((at + span for at in counted), (self._counted_at(*at) + span for at in self._moving.values()))
        end = next(islice(ends, excess, None), math.inf)
        return None if end == math.inf else end

    def _collect(self, now: float) -> None:
        while self._moving:
            lease, instants = next(iter(self._moving.items()))
            if (counted_at := self._counted_at(*instants)) > now:
                break
            self._count(lease, counted_at)
        while self._counted and self._counted[0] + self.span <= now:
            self._counted.popleft()
        while self._sent and self._sent[0] + self.window <= now:
            self._sent.popleft()

    def _counted_at(self, written_at: float, moving_at: float) -> float:
        return max(written_at + self._margin, moving_at)

    def _answered(self, asked_at: float | None, now: float) -> None:
        """What should have arrived by now, or was written before this request, is not stuck in the network."""
        while self._written:
            lease, written_at = next(iter(self._written.items()))
            later = asked_at is not None and written_at <= asked_at
            if not later and written_at + self._margin / SLACK > now:
                break
            del self._written[lease]
            self._moving[lease] = (written_at, now)

    def _count(self, lease: TokenLease, at: float) -> None:
        """The service has counted a request by the instant *at*."""
        lease.counted = True
        self._forget(lease)
        self._uncounted -= 1
        _insert(self._counted, at)
        _insert(self._sent, at)

    def _forget(self, lease: TokenLease) -> None:
        self._written.pop(lease, None)
        self._moving.pop(lease, None)

    def _end(self, lease: TokenLease) -> None:
        if not self.lent:
            msg = "no token is lent"
            raise ValueError(msg)
        self.lent -= 1
        if lease.probe:
            self._probing = False

    def _regain(self, now: float, oldest: float) -> None:
        """A probe has passed, while the *oldest* request that still holds a token was that old."""
        self._probe_at = now
        if self._dark_since is not None:
            dark = now - self._dark_since
            if PATIENT_WINDOWS * self.span < dark <= OUTAGE_WINDOWS * self.window:
                self.span += dark
            self._dark_since = None
            self._pause = self._first_pause
        if self.tokens < self.limit:
            self.tokens += 1
        else:
            self.span = max(self.window, min(self.span, now - oldest))
        self._regained = self._wanting
        if not self._wanting:
            self._pause = self._first_pause
            self.paced = False


def _insert(instants: deque[float], at: float) -> None:
    """Keep *instants* in order; nearly always the new one is the last."""
    place = len(instants)
    while place and instants[place - 1] > at:
        place -= 1
    instants.insert(place, at)
