"""The figures of a run: quantiles within a third of a percent, counts, and the use of the limit."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import (
    Done,
    Failed,
    Generation,
    InDoubt,
    KieClient,
    KieError,
    Limits,
    Skipped,
    SubmitInDoubtError,
    TaskRecord,
    Wan22TurboImageToVideo,
)
from kie_async._core.budget_ledger import Ledger, Price
from kie_async._core.lifecycle import Intent
from kie_async._core.run_figures import Quantiles, RunFigures

REQUEST = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt="x")


async def save_nothing(*_: object) -> list[object]:
    """Save no file."""
    return []


GENERATION = Generation(record=TaskRecord(task_id="t", state="success"), saver=save_nothing)  # type: ignore[arg-type]


@given(st.lists(st.floats(0.01, 1e5), min_size=1), st.floats(0.01, 1.0))
def test_quantiles_are_exact_to_a_third_of_a_percent(durations: list[float], share: float) -> None:
    times = Quantiles()
    for seconds in durations:
        times.add(seconds)

    exact = sorted(durations)[max(1, ceil(share * len(durations))) - 1]
    assert exact == pytest.approx(times.of(share), rel=0.0031)


def test_quantiles_of_empty_and_extreme_values() -> None:
    times = Quantiles()
    assert None is times.of(0.5)
    for seconds in (-1.0, 0.0, 1e99):
        times.add(seconds)
    assert 0.001 == pytest.approx(times.of(0.1), rel=0.01)
    assert 1e7 == pytest.approx(times.of(1.0), rel=0.01)


def test_figures_add_up() -> None:
    ledger = Ledger(None)
    figures = RunFigures(Limits(creates=20, window=10.0), ledger, 100.0)
    assert 0.0 == figures.summary(100.0).used
    figures.count_create(110.0)
    assert 1.0 == figures.summary(115.0).used
    for number in range(1, 36):
        figures.count_create(110.0 + 10.0 * (number // 20))
    figures.credits += 80.0
    figures.replayed_credits += 80.0
    ledger.reserve("a", Price(40))
    unclear = Intent(
        id="kj_1",
        model="m",
        input="{}",
        fingerprint="f",
        created_at=1.0,
        updated_at=9.0,
        attempts=1,
        ambiguous_attempts=1,
    )
    ledger.hold_ambiguous("b", 7, unclear, prior=False)
    figures.retried += 1
    figures.count_outcome(Done(key="a", request=REQUEST, generation=GENERATION, seconds=60.0, credits=80.0))
    figures.count_outcome(
        Done(key="b", request=REQUEST, generation=GENERATION, seconds=9.0, credits=80.0, replayed=True)
    )
    figures.count_outcome(Done(key="c", request=REQUEST, generation=GENERATION))
    figures.count_outcome(Failed(key="d", request=REQUEST, error=KieError("why"), replayed=True))
    job = KieClient("a-key").job("kj_1")
    figures.count_outcome(InDoubt(key="f", request=REQUEST, job=job, error=SubmitInDoubtError("why", job=job)))
    figures.count_outcome(Skipped(key="e", request=REQUEST, reason="budget"))
    summary = figures.summary(160.0)

    assert (2, 3, 1, 1, 1, 1, 6) == (
        summary.replayed, summary.ok, summary.failed, summary.in_doubt, summary.skipped, summary.retried, summary.rows
    )  # fmt: skip
    assert (80.0, 80.0, 47.0, 36, 1.0, 60.0) == (
        summary.credits, summary.credits_replayed, summary.credits_held, summary.created, summary.used, summary.seconds
    )  # fmt: skip
    assert 60.0 == pytest.approx(summary.p50, rel=0.01) == pytest.approx(summary.p95, rel=0.01)
    assert str(summary) == (
        "2 replayed, 3 ok, 1 failed, 1 in doubt, 1 skipped, 1 retried; 80 credits (and 47 held); p50 60 s, p95 60 s;"
        " 36 created at 100 % of the limit"
    )
