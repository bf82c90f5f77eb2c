"""A budget's ledger: what is set aside, spent and held never exceeds the limit by what ``reserve()`` has granted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.ledger import Ledger
from kie_async._core.lifecycle import Intent, IntentState

S = IntentState

amounts = st.floats(0.0, 200.0).map(lambda amount: round(amount, 2))


def row(state: IntentState, *, credits: float | None = None, suspects: int = 0) -> Intent:
    return Intent(
        id="kj_1", model="m", input="{}", fingerprint="f", created_at=0.0, updated_at=0.0, state=state,
        credits=credits, suspect_attempts=suspects,
    )  # fmt: skip


@given(st.floats(0.0, 2000.0), st.lists(st.tuples(amounts, st.floats(0.0, 1.0))))
def test_what_was_granted_never_exceeds_the_limit(limit: float, rows: list[tuple[float, float]]) -> None:
    """Where no task costs more than was set aside for it, all that was ever spent is within the limit."""
    ledger = Ledger(limit)
    granted: list[tuple[float, float]] = []
    for amount, share in rows:
        if ledger.reserve(amount):
            granted.append((amount, share * amount))
        elif granted:
            ledger.settle(*granted.pop())
        assert ledger.spent + ledger.held + ledger.reserved <= limit + 1e-3
    for amount, cost in granted:
        ledger.settle(amount, cost)
    assert ledger.reserved == pytest.approx(0.0, abs=1e-6)


def test_without_a_limit_everything_is_granted() -> None:
    ledger = Ledger(None)

    assert ledger.reserve(1e9)
    assert ledger.may_fit(1e12)


def test_what_runs_already_is_claimed_beyond_the_limit_and_nothing_more_is_granted() -> None:
    ledger = Ledger(100)
    ledger.claim(160)

    assert not ledger.reserve(0.01)
    assert ledger.may_fit(80)
    ledger.settle(160, 160)
    assert not ledger.may_fit(80)


@pytest.mark.parametrize(
    ("ended", "spent", "held"),
    [
        (None, 0.0, 0.0),
        (row(S.INTENT), 0.0, 0.0),
        (row(S.WITHDRAWN), 0.0, 0.0),
        (row(S.REJECTED), 0.0, 0.0),
        (row(S.REJECTED, suspects=3), 0.0, 240.0),
        (row(S.SUCCEEDED, credits=70.0), 70.0, 0.0),
        (row(S.SUCCEEDED), 80.0, 0.0),
        (row(S.SUCCEEDED, credits=70.0, suspects=1), 70.0, 80.0),
        (row(S.FAILED, credits=0.0), 0.0, 0.0),
        (row(S.FAILED), 0.0, 0.0),
        (row(S.UNKNOWN), 0.0, 80.0),
        (row(S.ABANDONED), 0.0, 80.0),
        (row(S.STALLED), 0.0, 80.0),
        (row(S.SUBMITTED), 0.0, 80.0),
    ],
    ids=str,
)
def test_what_a_job_that_goes_no_further_has_cost(ended: Intent | None, spent: float, held: float) -> None:
    ledger = Ledger(1000)
    ledger.reserve(160)
    ledger.close(80, 160, ended)

    assert (0.0, spent, held) == (ledger.reserved, ledger.spent, ledger.held)


def test_a_suspect_attempt_that_is_held_already_is_not_held_twice() -> None:
    ledger = Ledger(1000)
    ledger.hold(80)
    ledger.reserve(160)
    ledger.close(80, 160, row(S.SUCCEEDED, credits=70.0, suspects=2), held=1)

    assert (0.0, 70.0, 160.0) == (ledger.reserved, ledger.spent, ledger.held)
