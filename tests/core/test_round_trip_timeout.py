"""How long an answer is waited for: as long as answers take, and a good deal more."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.polling import RoundTripTimeout

trips = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=50)


def after(seconds: list[float]) -> RoundTripTimeout:
    made = RoundTripTimeout()
    for one in seconds:
        made.record_round_trip(one)
    return made


@given(trips)
def test_patience_is_a_second_at_least_and_bounded_by_what_answers_took(seconds: list[float]) -> None:
    assert 1.0 <= after(seconds).seconds <= max(1.0, 5.0 * max(seconds)) + 1e-9


@given(st.floats(0.001, 10.0))
def test_a_service_that_is_always_as_slow_is_not_called_silent(seconds: float) -> None:
    """The patience closes in on the round trip, and is never less."""
    patience = after([seconds] * 100).seconds

    assert math.isclose(max(1.0, seconds), patience, rel_tol=1e-3)
    assert patience >= seconds


def test_a_service_that_was_slow_once_is_soon_known_to_be_fast() -> None:
    assert after([5.0] + 40 * [0.2]).seconds < 1.2


@given(st.lists(st.floats(0.05, 0.4), min_size=10, max_size=50))
def test_one_slow_answer_is_forgotten_after_ten(seconds: list[float]) -> None:
    assert after([0.2, 8.0]).seconds > 8.0
    assert after([0.2, 8.0, *seconds]).seconds < 4.0


@given(st.lists(st.floats(0.04, 0.4), min_size=1, max_size=100))
def test_usual_latencies_leave_it_below_two_seconds(seconds: list[float]) -> None:
    assert after(seconds).seconds < 2.0
