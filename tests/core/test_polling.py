"""When a task is looked at next: often while it is young, and never not at all."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.polling import ByAge
from tests.core.strategies import durations, instants


@given(instants, durations)
def test_the_next_look_is_later_and_never_more_than_five_minutes_away(accepted_at: float, age: float) -> None:
    now = accepted_at + age
    at = ByAge().next_look_at(accepted_at=accepted_at, now=now, weight=1.0)

    assert now + 2.5 <= at <= now + 300.0


@given(instants, durations, durations)
def test_an_older_task_is_not_looked_at_more_often(now: float, younger: float, more: float) -> None:
    policy = ByAge()

    assert policy.next_look_at(accepted_at=now - younger, now=now, weight=1.0) <= policy.next_look_at(
        accepted_at=now - younger - more, now=now, weight=1.0
    )


@pytest.mark.parametrize(
    ("age", "interval"),
    [
        (0.0, 2.5),
        (29.9, 2.5),
        (30.0, 5.0),
        (119.9, 5.0),
        (120.0, 15.0),
        (3599.9, 15.0),
        (3600.0, 300.0),
        (1e7, 300.0),
        (-60.0, 2.5),
    ],
)
def test_intervals_follow_the_services_advice(age: float, interval: float) -> None:
    """2 to 3 s in the first half minute, 5 to 10 s until two minutes, 15 to 30 s after; a clock may be behind."""
    assert interval == ByAge().next_look_at(accepted_at=0.0, now=age, weight=1.0) - age


def test_a_task_of_three_minutes_is_looked_at_34_times() -> None:
    """What an account with 360 such tasks at once asks for: 68 looks a second, which the pacer then bounds."""
    looks = [0.0]
    while looks[-1] < 180.0:
        looks.append(ByAge().next_look_at(accepted_at=0.0, now=looks[-1], weight=1.0))

    assert 34 == len(looks) - 1
    assert all(2.5 <= later - earlier <= 15.0 for earlier, later in pairwise(looks))


@given(durations)
def test_the_last_interval_holds_on_where_the_steps_end(age: float) -> None:
    assert age + 3.0 == ByAge(steps=((1.0, 3.0),)).next_look_at(accepted_at=0.0, now=age, weight=1.0)


@given(st.floats(0.0, 10.0))
def test_steps_are_the_callers_to_choose(age: float) -> None:
    policy = ByAge(steps=((5.0, 1.0), (float("inf"), 64.0)))

    assert age + (1.0 if age < 5.0 else 64.0) == policy.next_look_at(accepted_at=0.0, now=age, weight=1.0)


@given(durations, st.floats(0.02, 1.0))
def test_the_less_a_look_is_worth_the_rarer_it_is_and_it_never_ceases(age: float, weight: float) -> None:
    """A callback that is lost once in fifty times makes looks fifty times rarer, up to one in ten minutes."""
    usual = ByAge().next_look_at(accepted_at=0.0, now=age, weight=1.0)
    weighed = ByAge().next_look_at(accepted_at=0.0, now=age, weight=weight)

    assert usual <= weighed <= age + 600.0


def test_a_look_that_is_worth_a_fiftieth_is_fifty_times_rarer() -> None:
    assert 125.0 == ByAge().next_look_at(accepted_at=0.0, now=0.0, weight=0.02)
