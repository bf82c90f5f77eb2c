"""What is known of how long tasks take: learned from those that ended, never certain, soon right."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.durations import MAX_KINDS, Durations, DurationsByKind
from tests.core.strategies import durations as lengths

#: Durations that tasks may have had, by clocks that may disagree.
histories = st.lists(st.floats(-5.0, 2e4), max_size=30)
#: Ages, in pairs of which the second is not less.
spans = st.tuples(st.floats(0.0, 2e4), st.floats(0.0, 1e4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def learned(history: list[float], prior_median: float = 15.0) -> Durations:
    durations = Durations(prior_median)
    for seconds in history:
        durations.learn(seconds)
    return durations


@given(histories, spans)
def test_the_share_that_lasts_longer_falls_with_age_and_never_to_nothing(
    history: list[float], span: tuple[float, float]
) -> None:
    durations = learned(history)
    younger, older = span

    assert 1.0 >= durations.survival(younger) >= durations.survival(older) > 0.0
    assert math.isclose(1.0, durations.survival(0.0))


@given(histories, spans, st.floats(0.0, 100.0))
def test_the_lag_grows_with_time_from_nothing_and_never_faster_than_time(
    history: list[float], span: tuple[float, float], more: float
) -> None:
    """A second that passes adds at most a second of lag; but for a step where the closed form of great ages begins."""
    durations = learned(history)
    seen, age = span
    lag, later = durations.lag(seen, age), durations.lag(seen, age + more)

    assert math.isclose(0.0, durations.lag(seen, seen), abs_tol=1e-6)
    assert -1e-6 <= lag <= age - seen + 1e-6
    if age >= 16_384.0 or age + more < 16_384.0:
        assert lag - 1e-6 <= later <= lag + more + 1e-6


@given(histories, st.floats(0.0, 1e4), st.floats(0.1, 1e3))
def test_the_lag_is_the_integral_that_it_is_said_to_be(history: list[float], seen: float, seconds: float) -> None:
    """Against a sum of two thousand strips."""
    durations = learned(history)
    width = seconds / 2000
    strips = sum(durations.survival(seen + (number + 0.5) * width) * width for number in range(2000))

    assert math.isclose(
        seconds - strips / durations.survival(seen), durations.lag(seen, seen + seconds), rel_tol=1e-2, abs_tol=1e-3
    )


@pytest.mark.parametrize("hairs", range(4))
def test_the_last_age_before_the_closed_form_has_a_lag_too(hairs: int) -> None:
    """Its logarithm may be that of the oldest age that is kept."""
    age = 16_384.0
    for _ in range(hairs):
        age = math.nextafter(age, 0.0)
    durations = learned([60.0])

    assert math.isclose(durations.lag(16_000.0, age), durations.lag(16_000.0, 16_383.9), rel_tol=0.1)
    assert 0.0 <= durations.lag(age, age) < 1e-6


@given(st.lists(st.floats(0.0, 1000.0), max_size=30), st.floats(4000.0, 1e6))
def test_a_task_however_old_may_end_soon_and_may_not(history: list[float], age: float) -> None:
    """Four times older than all others, it is neither sure to have ended after a while nor sure not to have."""
    lag = learned(history).lag(age, 1.5 * age)

    assert 0.01 * age < lag <= 0.5 * age
    assert learned([]).lag(age, age + 0.5) < 0.3


@pytest.mark.parametrize("prior_median", [12.0, 60.0, 300.0])
def test_a_prior_that_is_wrong_by_five_is_forgotten_after_a_hundred_tasks(prior_median: float) -> None:
    true = [60.0 * math.exp(0.35 * z) for z in (-1.28, -0.67, -0.25, 0.0, 0.25, 0.67, 1.28)] * 15
    durations = learned(true, prior_median)

    assert 0.95 <= durations.survival(30.0)
    assert math.isclose(0.5, durations.survival(60.0), abs_tol=0.06)
    assert durations.survival(120.0) <= 0.06
    assert 58.0 <= durations.mean <= 72.0
    assert len(true) == durations.learned


@given(st.lists(st.floats(0.3, 4000.0), max_size=250), st.floats(0.3, 4000.0))
def test_what_is_known_is_the_mixture_that_it_is_said_to_be(history: list[float], age: float) -> None:
    """Of what was believed at first and a step for each task, computed one after the other, without the grid."""
    share = 0.5 + 0.5 * math.erf(math.log(age / 15.0) / math.sqrt(2.0))
    for number, seconds in enumerate(history):
        weight = max(1.0 / (number + 2), 1.0 / 200.0)
        step = 0.5 + 0.5 * math.erf(math.log(age / seconds) / 0.1 / math.sqrt(2.0))
        share += weight * (step - share)
    durations = learned(history)
    tail = min(1.0, durations.mean / age) ** 2

    # Between two ages of the grid, 9 % apart, a step of one task is not much more than a straight line.
    assert math.isclose(0.97 * (1.0 - share) + 0.03 * tail, durations.survival(age), abs_tol=0.08)


def test_what_was_learned_counts_from_the_next_question_on() -> None:
    durations = Durations()
    before = durations.survival(30.0), durations.lag(20.0, 30.0), durations.mean
    durations.learn(90.0)

    assert durations.survival(30.0) > before[0]
    assert durations.lag(20.0, 30.0) < before[1]
    assert durations.mean > before[2]


def test_what_is_old_fades() -> None:
    """A service that has become three times as fast is known to be after some hundreds of tasks."""
    durations = learned([90.0] * 500 + [30.0] * 500)

    assert durations.survival(60.0) < 0.15


def test_what_is_known_does_not_drift_however_much_was_learned() -> None:
    """Shares are written anew now and then, which changes nothing; the last ones show whether it does."""
    durations = learned([*([10.0, 100.0] * 2500), *([20.0, 200.0] * 50)])
    newest = 1.0 - 0.995**100

    assert math.isclose(1.0 - 0.5 * (1.0 - newest), durations.survival(14.0), abs_tol=0.04)
    assert math.isclose(0.5, durations.survival(50.0), abs_tol=0.04)
    assert math.isclose(0.5 * newest, durations.survival(140.0), abs_tol=0.04)


@given(lengths)
def test_one_task_is_half_of_what_is_known_after_it(seconds: float) -> None:
    """The first one counts for as much as all that was believed before."""
    before, after = Durations(), learned([seconds])
    late = max(seconds, 0.25) * 2.0

    assert after.survival(late) <= 0.5 * before.survival(late) + 0.05


def test_the_clock_from_the_end_of_the_queue_is_learned_by_itself() -> None:
    durations = learned([600.0] * 20)
    durations.generating.learn(30.0)

    assert durations.generating is durations.generating
    assert durations.survival(100.0) > 0.9
    assert durations.generating.survival(100.0) < 0.2


def test_kinds_are_learned_apart_and_the_ones_used_last_are_remembered() -> None:
    known = DurationsByKind(prior_median=40.0)
    kept, forgotten = known.of_kind(("kept",)), known.of_kind(("forgotten",))
    kept.learn(5.0)
    for number in range(MAX_KINDS - 1):
        known.of_kind((f"m{number}",))
        assert kept is known.of_kind(("kept",))

    assert MAX_KINDS == len(known)
    assert forgotten is not known.of_kind(("forgotten",))
    assert (1, 0, 40.0) == (kept.learned, forgotten.learned, forgotten.prior_median)


def test_ages_between_the_ones_that_are_kept_are_on_a_straight_line() -> None:
    """No age is passed over: the share never jumps by more than a step of the grid allows."""
    durations = learned([60.0] * 50)
    shares = [durations.survival(number / 10) for number in range(1, 20_000)]

    assert max(more - less for more, less in pairwise(shares)) < 0.02


def test_what_weighs_two_in_a_hundred_is_taken_into_account_at_once() -> None:
    """One task in two hundred may be ignored; the fourth of its sort brings all of them in."""
    durations = Durations()
    for _ in range(1000):
        durations.learn(60.0)
    before, seen = durations.survival(30.0), []
    for _ in range(8):
        durations.learn(10.0)
        seen.append(durations.survival(30.0))

    assert all(before - heard / 200 - 0.02 <= now <= before for heard, now in enumerate(seen, 1))
    assert seen[-1] <= before - 4 / 200 * 0.97
    assert len(set(seen)) <= 3
