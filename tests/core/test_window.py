"""
The token bucket whose tokens come back a window after the answer: never too many, hardly too few, none lost.

A bucket is driven here as a client drives it, by a list of requests with their travelling times, and what arrives is
counted by services that know nothing of the client.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.window import WindowBucket
from tests.core.strategies import durations, instants
from tests.core.traffic import most_in_a_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


# -- a client and three services ----------------------------------------------------------------------------------


@attrs.frozen
class Trip:
    """One request: how long it is after the one before, how long it travels, and how long its answer does."""

    after: float
    there: float
    back: float
    sent: bool = True


@attrs.define
class Caller:
    """A client that lives by a bucket, and when its requests arrive."""

    bucket: WindowBucket
    now: float = 0.0
    arrivals: list[float] = attrs.field(factory=list, init=False)
    _under_way: list[tuple[float, bool]] = attrs.field(factory=list, init=False)

    def go(self, trips: Iterable[Trip]) -> None:
        """Send one request after the other, each as soon as the bucket lets it."""
        for trip in trips:
            self.end_those_until(self.now + trip.after)
            while (ready_at := self.bucket.ready_at(self.now)) != self.now:
                later = min([at for at in (ready_at,) if at is not None] + [at for at, _ in self._under_way[:1]])
                assert later > self.now, "the client waits, and its clock stands still"
                self.end_those_until(later)
            self.bucket.take(self.now)
            if trip.sent:
                self.arrivals.append(self.now + trip.there)
            heapq.heappush(self._under_way, (self.now + trip.there + trip.back, trip.sent))

    def end_those_until(self, instant: float) -> None:
        """Read the answers that come until *instant*, which is now then."""
        self.now = instant
        while self._under_way and self._under_way[0][0] <= instant:
            at, sent = heapq.heappop(self._under_way)
            if sent:
                self.bucket.spent(answered_at=at)
            else:
                self.bucket.give_back()


def arrivals_of(bucket: WindowBucket, trips: Iterable[Trip], *, start: float = 0.0) -> list[float]:
    """When the requests of a client that lives by *bucket* arrive, in the order of arrival; all are answered."""
    caller = Caller(bucket, start)
    caller.go(trips)
    caller.end_those_until(float("inf"))
    return sorted(caller.arrivals)


def refused_by_sliding_log(arrivals: Sequence[float], limit: int, window: float) -> int:
    """How many a log of the last window's accepted requests refuses."""
    log, refused = deque[float](), 0
    for at in arrivals:
        while log and log[0] + window <= at:
            log.popleft()
        if len(log) < limit:
            log.append(at)
        else:
            refused += 1
    return refused


def refused_by_fixed_window(arrivals: Sequence[float], limit: int, window: float) -> int:
    """How many a counter refuses that begins anew with every window of the clock."""
    counts: dict[float, int] = {}
    for at in arrivals:
        counts[at // window] = counts.get(at // window, 0) + 1
    return sum(max(0, count - limit) for count in counts.values())


def refused_by_token_bucket(arrivals: Sequence[float], limit: int, window: float) -> int:
    """How many a bucket refuses that holds *limit* tokens and is refilled evenly."""
    tokens, last, refused = float(limit), 0.0, 0
    for at in arrivals:
        tokens, last = min(limit, tokens + (at - last) * limit / window), at
        if tokens >= 1:
            tokens -= 1
        else:
            refused += 1
    return refused


# -- never too many -----------------------------------------------------------------------------------------------

limits = st.integers(1, 5)
windows = st.floats(1e-3, 1e3)
#: Travelling times from none at all to several windows, and some that are the same: ties are where rounding bites.
legs = st.sampled_from([0.0, 0.1, 0.2, 10.0]) | durations
trips = st.lists(
    st.builds(Trip, st.just(0.0) | legs, legs, legs, st.sampled_from([True, True, True, False])), max_size=40
)


@given(limits, windows, trips, instants)
def test_no_window_ever_has_more_arrivals_than_the_limit(
    limit: int, window: float, trips: list[Trip], start: float
) -> None:
    """
    Whatever the network does to requests and answers, and however takes are spread.

    Instants are compared, not differences: ``a + window <= b`` holds exactly, ``b - a >= window`` fails by rounding.
    """
    arrivals = arrivals_of(WindowBucket(limit, window), trips, start=start)

    assert most_in_a_window(arrivals, window) <= limit


@given(limits, windows, trips, instants)
def test_a_window_after_the_last_answer_every_token_is_back(
    limit: int, window: float, trips: list[Trip], start: float
) -> None:
    bucket = WindowBucket(limit, window)
    arrivals_of(bucket, trips, start=start)
    end = start + sum(trip.after + trip.there + trip.back + window for trip in trips) * 2 + window

    assert 0 == bucket.lent
    assert limit == bucket.available(end)
    assert 0 == bucket.cooling


@given(limits, windows, trips, trips, instants, durations)
def test_a_bucket_that_takes_over_from_another_keeps_the_limit_with_it(
    limit: int, window: float, before: list[Trip], after: list[Trip], start: float, idle: float
) -> None:
    """A client that is closed and opened again; what it had sent has arrived by then, answered or not."""
    first = Caller(WindowBucket(limit, window), start)
    first.go(before)
    first.end_those_until(max([first.now, *first.arrivals]) + idle)
    second = Caller(WindowBucket(limit, window), first.now)
    for due_at in first.bucket.dues(first.now):
        second.bucket.carry(due_at=due_at)
    second.go(after)

    assert most_in_a_window(sorted(first.arrivals + second.arrivals), window) <= limit


# -- hardly too few -----------------------------------------------------------------------------------------------


def burst(seed: int, leg: Callable[[random.Random], float]) -> list[Trip]:
    """Four hundred requests at once."""
    rng = random.Random(seed)
    return [Trip(0.0, leg(rng), leg(rng)) for _ in range(400)]


def evenly(rng: random.Random) -> float:
    return rng.uniform(0.020, 0.200)


def heavy(rng: random.Random) -> float:
    return rng.lognormvariate(-2.8, 0.8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("refused", [refused_by_sliding_log, refused_by_fixed_window, refused_by_token_bucket])
@pytest.mark.parametrize("leg", [evenly, heavy])
def test_the_limit_is_used_to_97_percent_and_nothing_is_refused(
    seed: int, refused: Callable[[Sequence[float], int, float], int], leg: Callable[[random.Random], float]
) -> None:
    """20 in 10 s. The bound of any client that trusts answers alone is window / (window + mean round trip), 97.8 %."""
    arrivals = arrivals_of(WindowBucket(20, 10.0), burst(seed, leg))
    rate = (len(arrivals) - 20) / (arrivals[-1] - arrivals[19])

    assert 0 == refused(arrivals, 20, 10.0)
    assert rate >= 0.97 * 2
    assert 20 == most_in_a_window(arrivals, 10.0)


# -- every answer is an instant that holds ------------------------------------------------------------------------

#: What is done to a bucket, and how much later than the thing before.
deeds = st.lists(st.tuples(st.sampled_from(["take", "spent", "give_back", "carry", "nothing"]), durations), max_size=40)


@given(limits, windows | st.floats(5e-324, 1e308), instants, deeds)
def test_tokens_are_taken_exactly_when_it_says_and_are_never_lost(
    limit: int, window: float, now: float, deeds: list[tuple[str, float]]
) -> None:
    bucket, lent = WindowBucket(limit, window), 0
    for deed, pause in deeds:
        now += pause
        if deed == "take" and bucket.ready_at(now) == now:
            assert now == bucket.take(now)
            lent += 1
        elif deed == "spent" and lent:
            bucket.spent(answered_at=now)
            lent -= 1
        elif deed == "give_back" and lent:
            bucket.give_back()
            lent -= 1
        elif deed == "carry":
            bucket.carry(due_at=now + pause)

        available, ready_at = bucket.available(now), bucket.ready_at(now)
        assert lent == bucket.lent
        assert limit == bucket.lent + bucket.cooling + available == len(bucket.dues(now)) + available
        assert all(due_at > now for due_at in bucket.dues(now)) or now + window == now
        if available:
            assert now == ready_at
        else:
            with pytest.raises(ValueError, match="no token is free"):
                bucket.take(now)
            assert (ready_at is None) is (lent == limit)
            assert ready_at is None or ready_at > now
            # Sleeping until then makes progress, in one step.
            assert ready_at is None or ready_at == bucket.ready_at(ready_at)


@given(limits, windows, instants, durations)
def test_a_token_whose_request_was_never_sent_is_free_at_once(
    limit: int, window: float, taken_at: float, held: float
) -> None:
    bucket = WindowBucket(limit, window)
    for _ in range(limit):
        bucket.take(taken_at)

    assert bucket.ready_at(taken_at + held) is None
    bucket.give_back()
    assert taken_at + held == bucket.ready_at(taken_at + held)


def test_what_is_not_there_cannot_be_taken() -> None:
    bucket = WindowBucket(1, 10.0)
    bucket.take(0.0)
    bucket.spent(answered_at=1.0)

    with pytest.raises(ValueError, match="no token is free"):
        bucket.take(10.999)
    assert 11.0 == bucket.take(11.0)


def test_tokens_come_back_in_the_order_of_their_answers() -> None:
    """The one that was answered late blocks none that was answered early."""
    bucket = WindowBucket(3, 10.0)
    for _ in range(3):
        bucket.take(0.0)
    for answered_at in (0.7, 0.2, 0.5):
        bucket.spent(answered_at=answered_at)

    seen = []
    for _ in range(3):
        ready_at = bucket.ready_at(1.0)
        assert ready_at is not None
        seen.append(bucket.take(ready_at))
    assert [10.2, 10.5, 10.7] == seen


def test_of_what_an_earlier_bucket_had_no_more_is_taken_over_than_there_is() -> None:
    bucket = WindowBucket(2, 10.0)
    for due_at in (1.0, 2.0, 3.0):
        bucket.carry(due_at=due_at)

    assert [1.0, 2.0] == bucket.dues(0.0)
    assert 1.0 == bucket.ready_at(0.0)


def test_what_is_lent_counts_as_answered_when_it_is_handed_over() -> None:
    bucket = WindowBucket(3, 10.0)
    for _ in range(2):
        bucket.take(0.0)
    bucket.spent(answered_at=1.0)

    assert [11.0, 15.0] == bucket.dues(5.0)
    assert [22.0] == bucket.dues(12.0)


def test_a_loan_that_was_never_made_cannot_be_ended() -> None:
    bucket = WindowBucket(2, 10.0)
    bucket.take(0.0)
    bucket.give_back()

    with pytest.raises(ValueError, match="no token is lent"):
        bucket.give_back()
    with pytest.raises(ValueError, match="no token is lent"):
        bucket.spent(answered_at=1.0)
    assert 2 == bucket.available(1.0)


@pytest.mark.parametrize(
    ("limit", "window", "named"),
    [
        (0, 10.0, "limit"),
        (-1, 10.0, "limit"),
        (20, 0.0, "window"),
        (20, -10.0, "window"),
        (20, float("inf"), "window"),
        (20, float("nan"), "window"),
    ],
)
def test_a_bucket_that_could_not_work_is_not_made(limit: int, window: float, named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be"):
        WindowBucket(limit, window)
