"""What a run adds up to: quantiles within a third of a percent, counts, and the use of the limit."""

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
    Job,
    KieClient,
    KieError,
    Limits,
    Skipped,
    SubmitInDoubtError,
    TaskRecord,
    Wan22TurboImageToVideo,
)
from kie_async._core.budget_ledger import Ledger
from kie_async._core.job_fields import facts
from kie_async._core.lifecycle import Intent
from kie_async._core.occurrences import Occurrences, short_hash
from kie_async._core.run_figures import Quantiles, RunFigures
from kie_async.states import JobState

REQUEST = Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt="x")


async def nowhere(*_: object) -> list[object]:
    """Save nothing."""
    return []


GENERATION = Generation(record=TaskRecord(task_id="t", state="success"), saver=nowhere)  # type: ignore[arg-type]


@given(st.lists(st.floats(0.01, 1e5), min_size=1), st.floats(0.01, 1.0))
def test_quantiles_are_right_within_a_third_of_a_percent(durations: list[float], share: float) -> None:
    times = Quantiles()
    for seconds in durations:
        times.add(seconds)

    exact = sorted(durations)[max(1, ceil(share * len(durations))) - 1]
    assert exact == pytest.approx(times.of(share), rel=0.0031)


def test_quantiles_of_nothing_and_of_nonsense() -> None:
    times = Quantiles()
    assert None is times.of(0.5)
    for seconds in (-1.0, 0.0, 1e99):
        times.add(seconds)
    assert 0.001 == pytest.approx(times.of(0.1), rel=0.01)
    assert 1e7 == pytest.approx(times.of(1.0), rel=0.01)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5)))
def test_occurrences_are_counted_one_by_one(hashes: list[int]) -> None:
    counted, exact = Occurrences(), dict[int, int]()
    for hashed in hashes:
        exact[hashed] = exact.get(hashed, 0) + 1
        assert exact[hashed] == counted.add(hashed)
    assert len(exact) == len(counted)
    assert all(hashed in counted for hashed in exact)
    assert not any(hashed in counted for hashed in range(6, 100) if hashed not in exact)


def test_a_count_that_is_full_stays_full() -> None:
    seen = Occurrences()
    seen.add(1)
    seen._counts[0][0] = 2**32 - 1  # noqa: SLF001 (four billion additions take too long)

    assert 2**32 - 1 == seen.add(1)


def test_hashes_are_of_the_text_whatever_it_holds() -> None:
    assert short_hash("\ud800") != short_hash("\ud801")
    assert 0 <= short_hash("") < 2**64


def test_figures_add_up() -> None:
    ledger = Ledger(None)
    figures = RunFigures(Limits(creates=20, window=10.0), ledger, 100.0)
    assert 0.0 == figures.summary(100.0).used
    figures.created(110.0)
    assert 1.0 == figures.summary(115.0).used
    for number in range(1, 36):
        figures.created(110.0 + 10.0 * (number // 20))
    figures.paid(80.0)
    figures.paid(None)
    figures.paid_before(80.0)
    figures.paid_before(None)
    ledger.reserve("a", 40)
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
    ledger.hold("b", 7, unclear, expected=False)
    figures.retried += 1
    figures.count(Done(key="a", request=REQUEST, generation=GENERATION, seconds=60.0, credits=80.0))
    figures.count(Done(key="b", request=REQUEST, generation=GENERATION, seconds=9.0, credits=80.0, replayed=True))
    figures.count(Done(key="c", request=REQUEST, generation=GENERATION))
    figures.count(Failed(key="d", request=REQUEST, error=KieError("why"), replayed=True))
    job = Job(KieClient("a-key"), "kj_1")
    figures.count(InDoubt(key="f", request=REQUEST, job=job, error=SubmitInDoubtError("why", job=job)))
    figures.count(Skipped(key="e", request=REQUEST, reason="budget"))
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


def test_facts_are_the_services_own_where_it_says_them_and_the_journals_else() -> None:
    row = Intent(
        id="kj_1", model="m", input="{}", fingerprint="f", created_at=1.0, updated_at=9.0, state=JobState.SUCCEEDED,
        task_id="t", accepted_at=3.0, sending_at=2.0, credits=80.0,
    )  # fmt: skip
    record = TaskRecord(task_id="t", state="success", created_at=2.5, completed_at=8.0)

    assert {} == facts(None, None)
    said = facts(row, record)
    assert (2.5, 8.0, 5.5, "succeeded", 80.0) == (
        said["created_at"], said["ended_at"], said["seconds"], said["state"], said["credits"]
    )  # fmt: skip
    unsaid = facts(row, TaskRecord(task_id="t", state="success"))
    assert (3.0, 9.0, None) == (unsaid["created_at"], unsaid["ended_at"], unsaid["seconds"])


@pytest.mark.parametrize(
    ("state", "created_at", "ended_at"),
    [(JobState.UNRESOLVED, 2.0, None), (JobState.REJECTED, 2.0, 9.0), (JobState.CANCELLED, 2.0, None)],
)
def test_facts_of_a_job_without_a_task(state: JobState, created_at: float, ended_at: float | None) -> None:
    row = Intent(
        id="kj_1", model="m", input="{}", fingerprint="f", created_at=1.0, updated_at=9.0, state=state, sending_at=2.0
    )
    said = facts(row, None)
    assert (created_at, ended_at) == (said["created_at"], said["ended_at"])
