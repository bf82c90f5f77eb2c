"""Learned durations: never certain, soon right."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.durations import MAX_KINDS, Durations, DurationsByKind, ended_task
from tests.core.strategies import durations as lengths

#: Durations that tasks may have had, by clocks that may disagree.
histories = st.lists(st.floats(-5.0, 2e4), max_size=30)
#: Ages, in pairs of which the second is not less.
spans = st.tuples(st.floats(0.0, 2e4), st.floats(0.0, 1e4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def make_durations(history: list[float], prior_median: float = 15.0) -> Durations:
    durations = Durations(prior_median)
    for seconds in history:
        durations.learn(seconds)
    return durations


@given(histories, spans)
def test_survival_falls_with_age_but_never_to_zero(history: list[float], span: tuple[float, float]) -> None:
    durations = make_durations(history)
    younger, older = span

    assert 1.0 >= durations.survival(younger) >= durations.survival(older) > 0.0
    assert math.isclose(1.0, durations.survival(0.0))


@given(histories, spans, st.floats(0.0, 100.0))
def test_the_lag_grows_from_zero_at_most_as_time_does(
    history: list[float], span: tuple[float, float], more: float
) -> None:
    """A second adds at most a second of lag, except at the step where the closed form of great ages begins."""
    durations = make_durations(history)
    seen, age = span
    lag, later = durations.lag(seen, age), durations.lag(seen, age + more)

    assert math.isclose(0.0, durations.lag(seen, seen), abs_tol=1e-6)
    assert -1e-6 <= lag <= age - seen + 1e-6
    if age >= 16_384.0 or age + more < 16_384.0:
        assert lag - 1e-6 <= later <= lag + more + 1e-6


#: The probabilities that a callback is lost.
losses = st.floats(0.001, 1.0)


@given(histories, spans, losses, st.floats(0.0, 100.0), st.integers(0, 100))
def test_without_a_callback_the_lag_to_expect_grows_with_age(
    history: list[float], span: tuple[float, float], loss: float, more: float, began: int
) -> None:
    """And with the loss rate; it is never more than without callbacks, however many tasks still run."""
    durations = make_durations(history)
    durations.began = began
    seen, age = span
    lag = durations.lag(seen, age, loss)

    assert -1e-6 <= lag <= durations.lag(seen, age) + 1e-6
    assert lag <= durations.lag(seen, age, min(1.0, 2.0 * loss)) + 1e-6
    if age >= 16_384.0 or age + more < 16_384.0:
        assert lag <= durations.lag(seen, age + more, loss) + 1e-6


@given(st.lists(st.floats(1.0, 100.0), min_size=5, max_size=50), st.floats(0.01, 1.0))
def test_an_overdue_task_counts_as_if_no_callback_came(history: list[float], loss: float) -> None:
    """The probability that it has ended tends to 1 with its age."""
    durations = make_durations(history)
    shares = [durations.lag(0.0, age, loss) / durations.lag(0.0, age) for age in (10.0, 100.0, 1000.0, 10_000.0)]

    assert all(earlier <= later + 1e-6 for earlier, later in pairwise(shares))
    assert 0.98 <= shares[-1] <= 1.0 + 1e-9


@given(st.integers(1, 30), st.integers(0, 30))
def test_a_lost_callback_is_suspected_less_while_more_tasks_run(known: int, running: int) -> None:
    """The tasks that have ended first were the short ones."""
    settled, growing = make_durations([60.0] * known), make_durations([60.0] * known)
    settled.began, growing.began = known, known + running

    assert growing.lag(0.0, 100.0, 0.02) <= settled.lag(0.0, 100.0, 0.02) + 1e-9
    assert growing.lag(0.0, 100.0) == settled.lag(0.0, 100.0)


@given(histories, st.floats(0.0, 1e4), st.floats(0.1, 1e3))
def test_the_lag_is_the_integral_of_the_definition(history: list[float], seen: float, seconds: float) -> None:
    """Compare with a sum of 2,000 strips."""
    durations = make_durations(history)
    width = seconds / 2000
    strips = sum(durations.survival(seen + (number + 0.5) * width) * width for number in range(2000))

    assert math.isclose(
        seconds - strips / durations.survival(seen), durations.lag(seen, seen + seconds), rel_tol=1e-2, abs_tol=1e-3
    )


@pytest.mark.parametrize("hairs", range(4))
def test_the_lag_just_below_the_oldest_age(hairs: int) -> None:
    """Its logarithm may equal that of the oldest age of the grid."""
    age = 16_384.0
    for _ in range(hairs):
        age = math.nextafter(age, 0.0)
    durations = make_durations([60.0])

    assert math.isclose(durations.lag(16_000.0, age), durations.lag(16_000.0, 16_383.9), rel_tol=0.1)
    assert 0.0 <= durations.lag(age, age) < 1e-6


@given(st.lists(st.floats(0.0, 1000.0), max_size=30), st.floats(4000.0, 1e6))
def test_an_old_task_may_end_soon_or_not(history: list[float], age: float) -> None:
    """Four times older than all others, it has neither certainly ended after a while nor certainly not."""
    lag = make_durations(history).lag(age, 1.5 * age)

    assert 0.01 * age < lag <= 0.5 * age
    assert make_durations([]).lag(age, age + 0.5) < 0.3


@pytest.mark.parametrize("prior_median", [12.0, 60.0, 300.0])
def test_a_wrong_prior_is_forgotten_after_100_tasks(prior_median: float) -> None:
    true = [60.0 * math.exp(0.35 * z) for z in (-1.28, -0.67, -0.25, 0.0, 0.25, 0.67, 1.28)] * 15
    durations = make_durations(true, prior_median)

    assert 0.95 <= durations.survival(30.0)
    assert math.isclose(0.5, durations.survival(60.0), abs_tol=0.06)
    assert durations.survival(120.0) <= 0.06
    assert 58.0 <= durations.mean <= 72.0
    assert len(true) == durations.learned


@given(st.lists(st.floats(0.3, 4000.0), max_size=250), st.floats(0.3, 4000.0))
def test_survival_is_the_mixture_of_the_definition(history: list[float], age: float) -> None:
    """Compute the prior and a step for each task, one after the other, without the grid."""
    share = 0.5 + 0.5 * math.erf(math.log(age / 15.0) / math.sqrt(2.0))
    for number, seconds in enumerate(history):
        weight = max(1.0 / (number + 2), 1.0 / 200.0)
        step = 0.5 + 0.5 * math.erf(math.log(age / seconds) / 0.1 / math.sqrt(2.0))
        share += weight * (step - share)
    durations = make_durations(history)
    tail = min(1.0, durations.mean / age) ** 2

    # Between two ages of the grid, 9 % apart, a step of one task is not much more than a straight line.
    assert math.isclose(0.97 * (1.0 - share) + 0.03 * tail, durations.survival(age), abs_tol=0.08)


def test_a_learned_task_counts_at_once() -> None:
    durations = Durations()
    before = durations.survival(30.0), durations.lag(20.0, 30.0), durations.mean
    durations.learn(90.0)

    assert durations.survival(30.0) > before[0]
    assert durations.lag(20.0, 30.0) < before[1]
    assert durations.mean > before[2]


def test_old_durations_fade() -> None:
    """A service that has become three times as fast is recognized after some hundreds of tasks."""
    durations = make_durations([90.0] * 500 + [30.0] * 500)

    assert durations.survival(60.0) < 0.15


def test_rescaling_the_shares_changes_nothing() -> None:
    """After 5,000 tasks the shares have been rescaled; the last ones show that nothing drifted."""
    durations = make_durations([*([10.0, 100.0] * 2500), *([20.0, 200.0] * 50)])
    newest = 1.0 - 0.995**100

    assert math.isclose(1.0 - 0.5 * (1.0 - newest), durations.survival(14.0), abs_tol=0.04)
    assert math.isclose(0.5, durations.survival(50.0), abs_tol=0.04)
    assert math.isclose(0.5 * newest, durations.survival(140.0), abs_tol=0.04)


@given(lengths)
def test_the_first_task_weighs_as_much_as_the_prior(seconds: float) -> None:
    before, after = Durations(), make_durations([seconds])
    late = max(seconds, 0.25) * 2.0

    assert after.survival(late) <= 0.5 * before.survival(late) + 0.05


def test_the_time_after_the_queue_is_learned_separately() -> None:
    durations = make_durations([600.0] * 20)
    durations.generating.learn(30.0)

    assert durations.generating is durations.generating
    assert durations.survival(100.0) > 0.9
    assert durations.generating.survival(100.0) < 0.2


def test_recently_used_kinds_are_kept() -> None:
    known = DurationsByKind(prior_median=40.0)
    kept, forgotten = known.of_kind(("kept",)), known.of_kind(("forgotten",))
    kept.learn(5.0)
    for number in range(MAX_KINDS - 1):
        known.of_kind((f"m{number}",))
        assert kept is known.of_kind(("kept",))

    assert MAX_KINDS == len(known)
    assert forgotten is not known.of_kind(("forgotten",))
    assert (1, 0, 40.0) == (kept.learned, forgotten.learned, forgotten.prior_median)


def test_survival_is_continuous_between_grid_ages() -> None:
    """The share never jumps by more than a step of the grid allows."""
    durations = make_durations([60.0] * 50)
    shares = [durations.survival(number / 10) for number in range(1, 20_000)]

    assert max(more - less for more, less in pairwise(shares)) < 0.02


def test_tasks_of_two_percent_weight_count_at_once() -> None:
    """One task in 200 may be pending; the fourth one makes all of them count."""
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


@pytest.mark.parametrize(
    ("record", "task"),
    [
        ('{"created_at":100.0,"completed_at":160}', (("m", "duration=5"), 60.0)),
        ('{"created_at":100.0,"completed_at":null}', None),
        ('{"created_at":"then","completed_at":160.0}', None),
        ("[]", None),
        ("broken", None),
        ("", None),
    ],
)
def test_a_journaled_task_has_a_kind_and_a_duration(record: str, task: object) -> None:
    assert task == ended_task("m", '{"prompt":"The cat","duration":5}', record)
