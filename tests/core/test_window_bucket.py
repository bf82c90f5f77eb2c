"""
Test the bucket that limits polls: its tokens return a window after the answer.

The tests drive the bucket as a client does, with a list of requests and their travel times. Independent models of the
service count the arrivals.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.token_buckets import WindowBucket
from tests.core.strategies import durations, instants
from tests.core.traffic import most_in_a_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


# -- a client and three services ----------------------------------------------------------------------------------


@attrs.frozen
class Trip:
    """One request: its delay after the previous one, its travel time, and its answer's travel time."""

    after: float
    there: float
    back: float


@attrs.define
class Caller:
    """A client that asks a bucket before it sends, and the instants at which its requests arrive."""

    bucket: WindowBucket
    now: float = 0.0
    arrivals: list[float] = attrs.field(factory=list, init=False)
    _under_way: list[float] = attrs.field(factory=list, init=False)

    def send_all(self, trips: Iterable[Trip]) -> None:
        """Send one request after the other, each as soon as the bucket allows it."""
        for trip in trips:
            self.read_answers_until(self.now + trip.after)
            while (ready_at := self.bucket.ready_at(self.now)) != self.now:
                later = min([at for at in (ready_at,) if at is not None] + self._under_way[:1])
                assert later > self.now, "the client waits, and its clock stands still"
                self.read_answers_until(later)
            self.bucket.use_token(self.now)
            self.arrivals.append(self.now + trip.there)
            heapq.heappush(self._under_way, self.now + trip.there + trip.back)

    def read_answers_until(self, instant: float) -> None:
        """Read the answers that arrive until *instant*, and set the clock to it."""
        self.now = instant
        while self._under_way and self._under_way[0] <= instant:
            self.bucket.return_token(answered_at=heapq.heappop(self._under_way))


def arrivals_of(bucket: WindowBucket, trips: Iterable[Trip], *, start: float = 0.0) -> list[float]:
    """Return the sorted arrivals of a client that uses *bucket*; all requests are answered."""
    caller = Caller(bucket, start)
    caller.send_all(trips)
    caller.read_answers_until(float("inf"))
    return sorted(caller.arrivals)


def refused_by_sliding_log(arrivals: Sequence[float], limit: int, window: float) -> int:
    """Count what a log of the last window's accepted requests refuses."""
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
    """Count what a counter refuses that restarts with every window of the clock."""
    counts: dict[float, int] = {}
    for at in arrivals:
        counts[at // window] = counts.get(at // window, 0) + 1
    return sum(max(0, count - limit) for count in counts.values())


def refused_by_token_bucket(arrivals: Sequence[float], limit: int, window: float) -> int:
    """Count what a bucket of *limit* tokens refuses that is refilled evenly."""
    tokens, last, refused = float(limit), 0.0, 0
    for at in arrivals:
        tokens, last = min(limit, tokens + (at - last) * limit / window), at
        if tokens >= 1:
            tokens -= 1
        else:
            refused += 1
    return refused


# -- the limit holds ----------------------------------------------------------------------------------------------

limits = st.integers(1, 5)
windows = st.floats(1e-3, 1e3)
#: Travel times from zero to several windows, some of them equal: ties expose rounding errors.
legs = st.sampled_from([0.0, 0.1, 0.2, 10.0]) | durations
trips = st.lists(st.builds(Trip, st.just(0.0) | legs, legs, legs), max_size=40)


@given(limits, windows, trips, instants)
def test_no_window_exceeds_the_limit(limit: int, window: float, trips: list[Trip], start: float) -> None:
    """
    Any travel times are allowed, for requests and answers.

    Instants are compared, not differences: ``a + window <= b`` holds exactly, ``b - a >= window`` fails by rounding.
    """
    arrivals = arrivals_of(WindowBucket(limit, window), trips, start=start)

    assert most_in_a_window(arrivals, window) <= limit


@given(limits, windows, trips, instants)
def test_all_tokens_return(limit: int, window: float, trips: list[Trip], start: float) -> None:
    bucket = WindowBucket(limit, window)
    arrivals_of(bucket, trips, start=start)
    end = start + sum(trip.after + trip.there + trip.back + window for trip in trips) * 2 + window

    assert 0 == bucket.in_use
    for _ in range(limit):
        assert end == bucket.use_token(end)


# -- the limit is used --------------------------------------------------------------------------------------------


def burst(seed: int, leg: Callable[[random.Random], float]) -> list[Trip]:
    """Return four hundred requests at once."""
    rng = random.Random(seed)
    return [Trip(0.0, leg(rng), leg(rng)) for _ in range(400)]


def uniform_leg(rng: random.Random) -> float:
    return rng.uniform(0.020, 0.200)


def heavy_tailed_leg(rng: random.Random) -> float:
    return rng.lognormvariate(-2.8, 0.8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("refused", [refused_by_sliding_log, refused_by_fixed_window, refused_by_token_bucket])
@pytest.mark.parametrize("leg", [uniform_leg, heavy_tailed_leg])
def test_97_percent_are_used_and_none_refused(
    seed: int, refused: Callable[[Sequence[float], int, float], int], leg: Callable[[random.Random], float]
) -> None:
    """20 in 10 s. A client that relies on answers alone can use window / (window + mean round trip), 97.8 %."""
    arrivals = arrivals_of(WindowBucket(20, 10.0), burst(seed, leg))
    rate = (len(arrivals) - 20) / (arrivals[-1] - arrivals[19])

    assert 0 == refused(arrivals, 20, 10.0)
    assert rate >= 0.97 * 2
    assert 20 == most_in_a_window(arrivals, 10.0)


# -- ready_at is exact --------------------------------------------------------------------------------------------

#: The calls made on a bucket, each with its delay after the previous one.
calls = st.lists(st.tuples(st.sampled_from(["use", "return", "nothing"]), durations), max_size=40)


@given(limits, windows | st.floats(5e-324, 1e308), instants, calls)
def test_ready_at_is_exact_and_no_token_is_lost(
    limit: int, window: float, now: float, calls: list[tuple[str, float]]
) -> None:
    bucket, in_use, returning = WindowBucket(limit, window), 0, list[float]()
    for call, pause in calls:
        now += pause
        if call == "use" and bucket.ready_at(now) == now:
            assert now == bucket.use_token(now)
            in_use += 1
        elif call == "return" and in_use:
            bucket.return_token(answered_at=now)
            returning.append(now + window)
            in_use -= 1

        returning, ready_at = [at for at in returning if at > now], bucket.ready_at(now)
        assert in_use == bucket.in_use
        if in_use + len(returning) < limit:
            assert now == ready_at
        else:
            with pytest.raises(ValueError, match="no token is free"):
                bucket.use_token(now)
            assert ready_at == min(returning, default=None)
            # Sleeping until then makes progress, in one step.
            assert ready_at is None or ready_at == deepcopy(bucket).ready_at(ready_at)


def test_a_token_cannot_be_used_early() -> None:
    bucket = WindowBucket(1, 10.0)
    bucket.use_token(0.0)
    bucket.return_token(answered_at=1.0)

    with pytest.raises(ValueError, match="no token is free"):
        bucket.use_token(10.999)
    assert 11.0 == bucket.use_token(11.0)


def test_tokens_return_in_the_order_of_answers() -> None:
    """A late answer blocks no token whose answer was earlier."""
    bucket = WindowBucket(3, 10.0)
    for _ in range(3):
        bucket.use_token(0.0)
    for answered_at in (0.7, 0.2, 0.5):
        bucket.return_token(answered_at=answered_at)

    seen = []
    for _ in range(3):
        ready_at = bucket.ready_at(1.0)
        assert ready_at is not None
        seen.append(bucket.use_token(ready_at))
    assert [10.2, 10.5, 10.7] == seen


def test_a_token_is_returned_once() -> None:
    bucket = WindowBucket(2, 10.0)
    bucket.use_token(0.0)
    bucket.return_token(answered_at=1.0)

    with pytest.raises(ValueError, match="no token is leased"):
        bucket.return_token(answered_at=1.0)
    assert 1.0 == bucket.use_token(1.0)


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
def test_invalid_arguments_are_refused(limit: int, window: float, named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be"):
        WindowBucket(limit, window)
