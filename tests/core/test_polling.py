"""Which task is looked at, and when: where most is to be gained, never without pause, and never not at all."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fixed_interval import FixedInterval
from kie_async._core.durations import Durations
from kie_async._core.polling import LagPolicy, PolledTask
from tests.core.strategies import durations as lengths
from tests.core.strategies import instants

weights = st.floats(0.001, 1.0)


def no_chance(_: int) -> int:
    raise AssertionError


def knows(*history: float) -> Durations:
    durations = Durations()
    for seconds in history:
        durations.learn(seconds)
    return durations


#: Twenty tasks around a minute: 34 to 107 s.
MINUTE = [60.0 * math.exp(0.35 * z) for z in (-1.64, -1.04, -0.67, -0.39, -0.13, 0.13, 0.39, 0.67, 1.04, 1.64)] * 10


def polls(policy: LagPolicy, task: PolledTask, until: float) -> list[float]:
    """When a task is looked at that does not end before *until*, if every look is answered at once."""
    seen = [task.running_at]
    while seen[-1] < until:
        seen.append(policy.next_poll_at(task, seen[-1]))
        task.running_at = seen[-1]
    return seen


@given(instants, st.floats(0.0, 3599.0), weights, st.lists(lengths, max_size=5))
def test_the_gap_is_half_a_second_at_least_and_bounded_by_the_age(
    accepted_at: float, age: float, weight: float, history: list[float]
) -> None:
    durations = knows(*history)
    seen_at = accepted_at + age
    task = PolledTask(total=durations, accepted_at=accepted_at, running_at=seen_at, weight=weight)
    gap = LagPolicy(randrange=no_chance).next_poll_at(task, seen_at) - seen_at

    assert 0.5 <= gap + 1e-6
    longest = max(30.0, age / 2.0, durations.mean)
    assert gap <= max(longest, min(longest / weight, 600.0)) + 1e-6


@given(st.floats(0.0, 1000.0))
def test_a_look_is_due_when_the_lag_is_worth_it(age: float) -> None:
    durations = knows(*MINUTE)
    task = PolledTask(total=durations, accepted_at=0.0, running_at=age)
    policy = LagPolicy(randrange=no_chance, min_interval=0.0, max_interval=1e6)
    at = policy.next_poll_at(task, age)

    assert durations.lag(age, at - 0.011) < policy.min_lag <= durations.lag(age, at) + 1e-6


@given(instants, lengths, lengths)
def test_the_answer_is_never_past(accepted_at: float, age: float, since: float) -> None:
    """However long ago the task was seen; what is overdue is due now."""
    task = PolledTask(total=knows(), accepted_at=accepted_at, running_at=accepted_at + age)
    now = accepted_at + age + since

    assert now <= LagPolicy(randrange=no_chance).next_poll_at(task, now)
    assert now <= FixedInterval(2.0).next_poll_at(task, now)


def test_a_task_of_a_minute_takes_few_looks_and_most_of_them_when_it_may_end() -> None:
    seen = polls(LagPolicy(randrange=no_chance), PolledTask(total=knows(*MINUTE), accepted_at=0.0), 60.0)

    assert 7 <= len(seen) - 1 <= 9
    assert seen[1] > 24.0
    assert all(1.0 <= later - earlier <= 8.0 for earlier, later in pairwise(seen[2:]))


@pytest.mark.parametrize(("history", "age", "gap"), [([], 0.0, 30.0), ([], 1000.0, 500.0), ([200.0] * 100, 0.0, 200.0)])
def test_what_a_look_must_be_worth_is_bounded_by_age(history: list[float], age: float, gap: float) -> None:
    """If hardly any lag were worth a look: every 30 s, or half of its age, or what such a task takes."""
    task = PolledTask(total=knows(*history), accepted_at=0.0, running_at=age)

    assert math.isclose(age + gap, LagPolicy(randrange=no_chance, min_lag=1e6).next_poll_at(task, age), rel_tol=0.02)


@given(st.floats(0.0, 1000.0), weights)
def test_the_less_a_look_is_worth_the_rarer_it_is_up_to_ten_minutes(age: float, weight: float) -> None:
    usual, weighed = (
        LagPolicy(randrange=no_chance).next_poll_at(
            PolledTask(total=knows(), accepted_at=0.0, running_at=age, weight=one), age
        )
        - age
        for one in (1.0, weight)
    )

    assert math.isclose(weighed, max(usual, min(usual / weight, 600.0)), rel_tol=0.02)


def test_a_task_that_is_overdue_is_looked_at_less_and_less_but_always() -> None:
    seen = polls(LagPolicy(randrange=no_chance), PolledTask(total=knows(*MINUTE), accepted_at=0.0), 3000.0)
    gaps = [later - earlier for earlier, later in pairwise(seen) if earlier > 300.0]

    assert all(shorter <= 1.2 * longer for shorter, longer in pairwise(gaps))
    assert 8.0 <= gaps[0] <= gaps[-1] <= 40.0


def test_a_task_that_is_most_likely_lost_is_looked_at_every_five_minutes() -> None:
    """Counted from its acceptance, whatever it has been doing since."""
    policy = LagPolicy(randrange=no_chance)
    task = PolledTask(total=knows(), accepted_at=0.0, phase_began_at=3000.0, running_at=3500.0)

    assert policy.next_poll_at(task, 3599.0) < 3602.0
    assert 3800.0 == policy.next_poll_at(task, 3600.0)
    assert 4000.0 == policy.next_poll_at(task, 4000.0)


@given(weights, weights)
def test_who_weighs_less_is_due_later(a: float, b: float) -> None:
    durations, policy = knows(*MINUTE), LagPolicy(randrange=no_chance)
    light, heavy = (
        policy.next_poll_at(PolledTask(total=durations, accepted_at=0.0, running_at=40.0, weight=weight), 40.0)
        for weight in sorted((a, b))
    )

    assert heavy <= light


@given(st.lists(st.tuples(st.floats(0.0, 200.0), st.floats(0.0, 200.0), weights), min_size=1, max_size=40))
def test_the_task_with_the_largest_weighted_lag_goes_first(tasks: list[tuple[float, float, float]]) -> None:
    durations = knows(*MINUTE)
    due = [
        PolledTask(total=durations, accepted_at=-before - since, running_at=-since, weight=weight)
        for before, since, weight in tasks
    ]
    lags = [weight * durations.lag(before, before + since) for before, since, weight in tasks]

    assert math.isclose(max(lags), lags[LagPolicy(randrange=no_chance).choose_next(due, 0.0)], abs_tol=1e-6)


@given(st.integers(513, 5000), st.data())
def test_of_very_many_a_sample_is_compared_and_each_has_its_turn(count: int, data: st.DataObject) -> None:
    """At most 512 at a time; whichever is worth most is found by one of the draws."""
    durations = knows(*MINUTE)
    best = data.draw(st.integers(0, count - 1))
    due = [
        PolledTask(total=durations, accepted_at=0.0, running_at=59.0 if place != best else 1.0)
        for place in range(count)
    ]
    bounds: set[int] = set()
    places: list[int] = []
    for drawn in range(-(-count // 512)):

        def draw(bound: int, drawn: int = drawn) -> int:
            bounds.add(bound)
            return drawn

        places.append(LagPolicy(randrange=draw).choose_next(due, 60.0))

    assert {-(-count // 512)} == bounds
    assert 1 == places.count(best)


def test_a_fixed_interval_counts_from_the_last_look_and_takes_the_longest_wait_first() -> None:
    due = [PolledTask(total=knows(), accepted_at=0.0, running_at=seen_at) for seen_at in (7.0, 3.0, 5.0)]

    assert [9.0, 8.0, 8.0] == [FixedInterval(2.0).next_poll_at(task, 8.0) for task in due]
    assert 1 == FixedInterval(2.0).choose_next(due, 8.0)


@pytest.mark.parametrize("queued", ["waiting", "queuing"])
def test_the_clock_starts_anew_when_the_queue_is_left(queued: str) -> None:
    """At the last instant at which it was in the queue; and what is learned then is learned by that clock, too."""
    whole = knows()
    task = PolledTask(total=whole, accepted_at=100.0)
    task.record_state(queued, 110.0)
    task.record_state(queued, 400.0)
    assert (100.0, 400.0, whole) == (task.phase_began_at, task.running_at, task.phase)
    task.record_state("generating", 430.0)
    assert (400.0, 430.0, whole.generating) == (task.phase_began_at, task.running_at, task.phase)
    task.record_state("generating", 440.0)
    assert 400.0 == task.phase_began_at

    task.record_duration(360.0)
    assert (1, 1) == (whole.learned, whole.generating.learned)
    assert whole.generating.survival(90.0) < 0.5 * knows().survival(60.0)
    assert whole.survival(300.0) > 0.4


def test_a_task_that_was_never_seen_in_the_queue_has_one_clock() -> None:
    whole = knows()
    task = PolledTask(total=whole, accepted_at=100.0)
    task.record_state("generating", 110.0)
    task.record_state("something new", 105.0)
    assert (100.0, 110.0, whole) == (task.phase_began_at, task.running_at, task.phase)

    task.record_duration(60.0)
    assert (1, 0) == (whole.learned, whole.generating.learned)


def test_what_is_told_late_of_a_task_is_taken_in() -> None:
    task, whole = PolledTask(total=knows(), accepted_at=100.0), knows()
    task.set_kind(whole, 40.0)

    assert (whole, whole, 40.0, 40.0) == (task.total, task.phase, task.accepted_at, task.phase_began_at)
