"""The polling policy: poll where the lag is largest, never without a pause, and never stop."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fixed_interval import FixedInterval
from kie_async._core.durations import Durations
from kie_async._core.polling import LagPolicy, PolledTask
from tests.core.strategies import durations as lengths
from tests.core.strategies import instants

weights = st.floats(0.001, 1.0)
losses = st.floats(0.001, 1.0)
#: A number of tasks in flight at which polls are scarce.
MANY = 50


def no_random(_: int) -> int:
    raise AssertionError


def make_durations(*history: float) -> Durations:
    durations = Durations()
    for seconds in history:
        durations.learn(seconds)
    return durations


#: Twenty tasks around a minute: 34 to 107 s.
MINUTE = [60.0 * math.exp(0.35 * z) for z in (-1.64, -1.04, -0.67, -0.39, -0.13, 0.13, 0.39, 0.67, 1.04, 1.64)] * 10


def poll_times(policy: LagPolicy, task: PolledTask, until: float, in_flight: int = MANY) -> list[float]:
    """Return the polls of a task that runs at least until *until*, if every poll is answered at once."""
    seen = [task.running_at]
    while seen[-1] < until:
        seen.append(policy.next_poll_at(task, seen[-1], in_flight))
        task.running_at = seen[-1]
    return seen


@given(instants, st.floats(0.0, 3599.0), weights, st.lists(lengths, max_size=5))
def test_the_interval_has_bounds_that_grow_with_age(
    accepted_at: float, age: float, weight: float, history: list[float]
) -> None:
    durations = make_durations(*history)
    seen_at = accepted_at + age
    task = PolledTask(total=durations, accepted_at=accepted_at, running_at=seen_at, weight=weight)
    gap = LagPolicy(randrange=no_random).next_poll_at(task, seen_at, MANY) - seen_at

    assert 2.0 <= gap + 1e-6
    longest = max(30.0, age / 2.0, durations.mean)
    assert gap <= max(longest, min(longest / weight, 600.0)) + 1e-6


@given(st.floats(0.0, 1000.0))
def test_a_poll_is_due_at_the_minimum_lag(age: float) -> None:
    durations = make_durations(*MINUTE)
    task = PolledTask(total=durations, accepted_at=0.0, running_at=age)
    policy = LagPolicy(randrange=no_random, min_interval=0.0, max_interval=1e6)
    at = policy.next_poll_at(task, age, MANY)

    assert durations.lag(age, at - 0.011) < policy.min_lag <= durations.lag(age, at) + 1e-6


@given(instants, lengths, lengths)
def test_the_next_poll_is_never_in_the_past(accepted_at: float, age: float, since: float) -> None:
    """An overdue task is due now, whenever it was last polled."""
    task = PolledTask(total=make_durations(), accepted_at=accepted_at, running_at=accepted_at + age)
    now = accepted_at + age + since

    assert now <= LagPolicy(randrange=no_random).next_poll_at(task, now, MANY)
    assert now <= FixedInterval(2.0).next_poll_at(task, now, MANY)


def test_a_task_of_a_minute_takes_seven_to_nine_polls() -> None:
    seen = poll_times(LagPolicy(randrange=no_random), PolledTask(total=make_durations(*MINUTE), accepted_at=0.0), 60.0)

    assert 7 <= len(seen) - 1 <= 9
    assert seen[1] > 24.0
    assert all(1.0 <= later - earlier <= 8.0 for earlier, later in pairwise(seen[2:]))


@pytest.mark.parametrize(("history", "age", "gap"), [([], 0.0, 30.0), ([], 1000.0, 500.0), ([200.0] * 100, 0.0, 200.0)])
def test_the_longest_interval_depends_on_age_and_mean(history: list[float], age: float, gap: float) -> None:
    """If no lag is worth a poll: every 30 s, or half of its age, or the mean duration."""
    task = PolledTask(total=make_durations(*history), accepted_at=0.0, running_at=age)

    assert math.isclose(
        age + gap, LagPolicy(randrange=no_random, min_lag=1e6).next_poll_at(task, age, MANY), rel_tol=0.02
    )


@given(st.floats(0.0, 1000.0), weights)
def test_a_low_weight_stretches_the_interval_to_600_s(age: float, weight: float) -> None:
    usual, weighed = (
        LagPolicy(randrange=no_random).next_poll_at(
            PolledTask(total=make_durations(), accepted_at=0.0, running_at=age, weight=value), age, MANY
        )
        - age
        for value in (1.0, weight)
    )

    assert math.isclose(weighed, max(usual, min(usual / weight, 600.0)), rel_tol=0.02)


def test_an_overdue_task_is_polled_less_often_but_always() -> None:
    seen = poll_times(
        LagPolicy(randrange=no_random), PolledTask(total=make_durations(*MINUTE), accepted_at=0.0), 3000.0
    )
    gaps = [later - earlier for earlier, later in pairwise(seen) if earlier > 300.0]

    assert all(shorter <= 1.2 * longer for shorter, longer in pairwise(gaps))
    assert 8.0 <= gaps[0] <= gaps[-1] <= 40.0


def test_an_old_task_is_polled_every_five_minutes() -> None:
    """Its age counts from its acceptance, also if its clock has restarted."""
    policy = LagPolicy(randrange=no_random)
    task = PolledTask(total=make_durations(), accepted_at=0.0, phase_began_at=3000.0, running_at=3500.0)

    assert policy.next_poll_at(task, 3599.0, MANY) < 3602.0
    assert 3800.0 == policy.next_poll_at(task, 3600.0, MANY)
    assert 4000.0 == policy.next_poll_at(task, 4000.0, MANY)


@given(weights, weights)
def test_a_lower_weight_is_due_later(a: float, b: float) -> None:
    durations, policy = make_durations(*MINUTE), LagPolicy(randrange=no_random)
    light, heavy = (
        policy.next_poll_at(PolledTask(total=durations, accepted_at=0.0, running_at=40.0, weight=weight), 40.0, MANY)
        for weight in sorted((a, b))
    )

    assert heavy <= light


@given(losses, losses, st.integers(1, 200))
def test_a_likelier_loss_is_due_sooner(a: float, b: float, in_flight: int) -> None:
    durations, policy = make_durations(*MINUTE), LagPolicy(randrange=no_random)
    likely, unlikely = (
        policy.next_poll_at(PolledTask(total=durations, accepted_at=0.0, loss=loss), 0.0, in_flight)
        for loss in sorted((a, b), reverse=True)
    )

    assert likely <= unlikely + 0.02


@given(st.floats(0.0, 3000.0), losses, weights, st.integers(1, 1000), st.lists(lengths, max_size=5))
def test_a_task_with_a_callback_is_polled_at_last(
    age: float, loss: float, weight: float, in_flight: int, history: list[float]
) -> None:
    """Within 600 s, or half of its age, or the mean duration; never two polls within two seconds."""
    durations = make_durations(*history)
    task = PolledTask(total=durations, accepted_at=0.0, running_at=age, loss=loss, weight=weight)
    gap = LagPolicy(randrange=no_random).next_poll_at(task, age, in_flight) - age

    assert 2.0 - 1e-6 <= gap <= max(600.0, age / 2.0, durations.mean) + 1e-6


def test_a_minute_of_callbacks_takes_one_poll_after_its_time() -> None:
    """At a loss rate of 2 %: the first at about a minute, and the others in ever longer intervals."""
    task = PolledTask(total=make_durations(*MINUTE), accepted_at=0.0, loss=0.02)
    seen = poll_times(LagPolicy(randrange=no_random), task, 200.0)

    assert 55.0 <= seen[1] <= 70.0
    assert all(later - earlier >= 8.0 for earlier, later in pairwise(seen))
    assert 1.0 >= sum(task.total.survival(at) for at in seen[1:])


@given(st.integers(1, 49), st.floats(0.0, 100.0))
def test_fewer_tasks_are_polled_more_often(in_flight: int, age: float) -> None:
    """From 50 on, polls are scarce, and the number does not matter."""
    task = PolledTask(total=make_durations(*MINUTE), accepted_at=0.0, running_at=age)
    policy = LagPolicy(randrange=no_random)
    few, more, many, most = (policy.next_poll_at(task, age, count) for count in (in_flight, in_flight + 1, 50, 10_000))

    assert few <= more + 0.02 <= many + 0.04
    assert most == many


@pytest.mark.parametrize(("in_flight", "most"), [(1, 1.3), (10, 2.0)])
def test_few_tasks_of_a_minute_are_seen_to_end_at_once(in_flight: int, most: float) -> None:
    """The mean lag with known durations, over all durations that are as likely."""
    policy, known = LagPolicy(randrange=no_random), make_durations(*MINUTE)
    polls = poll_times(policy, PolledTask(total=known, accepted_at=0.0), 200.0, in_flight)
    ends = [60.0 * math.exp(0.35 * NormalDist().inv_cdf((place + 0.5) / 200)) for place in range(200)]
    lags = [polls[bisect_left(polls, end)] - end for end in ends]

    assert sum(lags) / len(lags) <= most


@given(st.floats(600.0, 3000.0))
def test_a_long_task_is_not_polled_every_few_seconds(age: float) -> None:
    task = PolledTask(total=make_durations(), accepted_at=0.0, running_at=age)

    assert 8.0 <= LagPolicy(randrange=no_random).next_poll_at(task, age, 1) - age


@given(st.lists(st.tuples(st.floats(0.0, 200.0), st.floats(0.0, 200.0), weights), min_size=1, max_size=40))
def test_the_largest_weighted_lag_goes_first(tasks: list[tuple[float, float, float]]) -> None:
    durations = make_durations(*MINUTE)
    due = [
        PolledTask(total=durations, accepted_at=-before - since, running_at=-since, weight=weight)
        for before, since, weight in tasks
    ]
    lags = [weight * durations.lag(before, before + since) for before, since, weight in tasks]

    assert math.isclose(max(lags), lags[LagPolicy(randrange=no_random).choose_next(due, 0.0)], abs_tol=1e-6)


@given(st.integers(513, 5000), st.data())
def test_of_many_due_tasks_each_is_sampled(count: int, data: st.DataObject) -> None:
    """At most 512 are compared at a time; exactly one of the samples has the best task."""
    durations = make_durations(*MINUTE)
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


def test_a_fixed_interval_polls_the_oldest_poll_first() -> None:
    due = [PolledTask(total=make_durations(), accepted_at=0.0, running_at=seen_at) for seen_at in (7.0, 3.0, 5.0)]

    assert [9.0, 8.0, 8.0] == [FixedInterval(2.0).next_poll_at(task, 8.0, MANY) for task in due]
    assert 1 == FixedInterval(2.0).choose_next(due, 8.0)


@pytest.mark.parametrize("queued", ["waiting", "queuing"])
def test_the_clock_restarts_when_the_queue_is_left(queued: str) -> None:
    """It restarts at the last instant in the queue, and the duration is learned by both clocks."""
    whole = make_durations()
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
    assert whole.generating.survival(90.0) < 0.5 * make_durations().survival(60.0)
    assert whole.survival(300.0) > 0.4


def test_a_task_never_seen_in_the_queue_has_one_clock() -> None:
    whole = make_durations()
    task = PolledTask(total=whole, accepted_at=100.0)
    task.record_state("generating", 110.0)
    task.record_state("something new", 105.0)
    assert (100.0, 110.0, whole) == (task.phase_began_at, task.running_at, task.phase)

    task.record_duration(60.0)
    assert (1, 0) == (whole.learned, whole.generating.learned)


def test_kind_and_acceptance_may_be_set_later() -> None:
    task, whole = PolledTask(total=make_durations(), accepted_at=100.0), make_durations()
    task.set_kind(whole, 40.0)

    assert (whole, whole, 40.0, 40.0) == (task.total, task.phase, task.accepted_at, task.phase_began_at)
