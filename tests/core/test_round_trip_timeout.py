"""The poll timeout adapts to round trips."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.polling import RoundTripTimeout

trips = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=50)


def timeout_after(seconds: list[float]) -> RoundTripTimeout:
    timeout = RoundTripTimeout()
    for round_trip in seconds:
        timeout.record_round_trip(round_trip)
    return timeout


@given(trips)
def test_the_timeout_is_bounded_by_round_trips(seconds: list[float]) -> None:
    assert 1.0 <= timeout_after(seconds).seconds <= max(1.0, 5.0 * max(seconds)) + 1e-9


@given(st.floats(0.001, 10.0))
def test_a_constant_round_trip_never_times_out(seconds: float) -> None:
    """The timeout approaches the round trip, and is never less."""
    timeout = timeout_after([seconds] * 100).seconds

    assert math.isclose(max(1.0, seconds), timeout, rel_tol=1e-3)
    assert timeout >= seconds


def test_the_timeout_recovers_after_a_slow_start() -> None:
    assert timeout_after([5.0] + 40 * [0.2]).seconds < 1.2


@given(st.lists(st.floats(0.05, 0.4), min_size=10, max_size=50))
def test_one_slow_answer_is_forgotten_after_ten(seconds: list[float]) -> None:
    assert timeout_after([0.2, 8.0]).seconds > 8.0
    assert timeout_after([0.2, 8.0, *seconds]).seconds < 4.0


@given(st.lists(st.floats(0.04, 0.4), min_size=1, max_size=100))
def test_usual_latencies_keep_it_below_two_seconds(seconds: list[float]) -> None:
    assert timeout_after(seconds).seconds < 2.0
