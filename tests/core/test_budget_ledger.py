"""The ledger of a budget: ``reserve()`` never lets the sum of reserved, held and spent credits exceed the limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.budget_ledger import Ledger, Price, Reservation, possible_cost
from kie_async._core.lifecycle import Intent
from kie_async.states import JobState

S = JobState

amounts = st.floats(0.0, 200.0).map(lambda amount: round(amount, 2))


def row(state: JobState, *, credits: float | None = None, ambiguous: int = 0, attempts: int | None = None) -> Intent:
    """Return a row; by default one attempt more was sent than were ambiguous."""
    return Intent(
        id="kj_1", model="m", input="{}", fingerprint="f", created_at=0.0, updated_at=0.0, state=state,
        credits=credits, ambiguous_attempts=ambiguous, attempts=ambiguous + 1 if attempts is None else attempts,
    )  # fmt: skip


def committed(ledger: Ledger) -> float:
    return ledger.spent + ledger.held + ledger.reserved + ledger.margin + ledger.prior


def must_reserve(ledger: Ledger, key: str, price: float) -> Reservation:
    reservation = ledger.reserve(key, Price(price))
    assert reservation is not None
    return reservation


@given(st.floats(0.0, 2000.0), st.lists(st.tuples(amounts, st.floats(0.0, 1.0))))
def test_reservations_never_exceed_the_limit(limit: float, rows: list[tuple[float, float]]) -> None:
    """If no task costs more than its reservation, all that was ever spent is within the limit."""
    ledger = Ledger(limit)
    granted: list[tuple[Reservation, float]] = []
    for number, (amount, share) in enumerate(rows):
        if (reservation := ledger.reserve(str(number), Price(amount))) is not None:
            granted.append((reservation, share * amount))
        elif granted:
            reservation, cost = granted.pop()
            ledger.commit(reservation, row(S.SUCCEEDED, credits=cost))
        assert committed(ledger) <= limit + 1e-3
    for reservation, cost in granted:
        ledger.commit(reservation, row(S.SUCCEEDED, credits=cost))
    assert ledger.reserved == pytest.approx(0.0, abs=1e-6)


#: The rows of a table: True if an earlier run has sent it, its price, and the share of the price that it costs.
tables = st.lists(st.tuples(st.booleans(), amounts, st.floats(0.0, 1.0)), max_size=30)


@given(st.floats(0.0, 2000.0), tables, st.data())
def test_known_prior_spend_keeps_the_limit_in_any_order(
    limit: float, rows: list[tuple[bool, float, float]], data: st.DataObject
) -> None:
    before = sum(share * price for earlier, price, share in rows if earlier)
    ledger = Ledger(limit)
    ledger.prior = before
    granted = 0.0
    for number, (earlier, price, share) in data.draw(st.permutations(list(enumerate(rows)))):
        if earlier:
            ledger.commit_ended(str(number), price, row(S.SUCCEEDED, credits=share * price), prior=True)
        elif ledger.reserve(str(number), Price(price)) is not None:
            granted += price
        assert granted == 0.0 or granted + before <= limit + 1e-3
    assert ledger.prior == pytest.approx(0.0, abs=1e-6)
    assert committed(ledger) == pytest.approx(before + granted, abs=1e-6)


def test_no_limit_grants_everything() -> None:
    ledger = Ledger(None)

    assert ledger.reserve("a", Price(1e9))
    assert ledger.may_fit_later(1e12)


def test_running_job_is_reserved_beyond_the_limit() -> None:
    ledger = Ledger(100)
    reservation = ledger.reserve_running("a", 160, prior=False)
    assert reservation is not None

    assert ledger.is_reserved("a")
    assert not ledger.reserve("b", Price(0.01))
    assert ledger.may_fit_later(80)
    ledger.commit(reservation, row(S.SUCCEEDED, credits=160))
    assert not ledger.is_reserved("a")
    assert not ledger.may_fit_later(80)


@pytest.mark.parametrize(
    ("ended", "spent", "held"),
    [
        (None, 0.0, 0.0),
        (row(S.INTENT), 0.0, 0.0),
        (row(S.CANCELLED), 0.0, 0.0),
        (row(S.REJECTED), 0.0, 0.0),
        (row(S.REJECTED, ambiguous=3), 0.0, 240.0),
        (row(S.SUCCEEDED, credits=70.0), 70.0, 0.0),
        (row(S.SUCCEEDED), 80.0, 0.0),
        (row(S.SUCCEEDED, credits=70.0, ambiguous=1), 70.0, 80.0),
        (row(S.SUCCEEDED, credits=70.0, ambiguous=1, attempts=1), 70.0, 0.0),
        (row(S.UNRESOLVED, ambiguous=1, attempts=1), 0.0, 80.0),
        (row(S.REJECTED, ambiguous=1, attempts=1), 0.0, 80.0),
        (row(S.FAILED, credits=0.0), 0.0, 0.0),
        (row(S.FAILED), 0.0, 0.0),
        (row(S.FAILED, credits=10.0), 10.0, 0.0),
        (row(S.UNRESOLVED), 0.0, 80.0),
        (row(S.ABANDONED), 0.0, 80.0),
        (row(S.STALLED), 0.0, 80.0),
        (row(S.SUBMITTED), 0.0, 80.0),
    ],
    ids=str,
)
def test_committed_cost_of_each_state(ended: Intent | None, spent: float, held: float) -> None:
    ledger = Ledger(1000)
    reservation = must_reserve(ledger, "a", 80)
    assert ledger.reserve_again(reservation)
    assert (160.0, 160.0) == (ledger.reserved, reservation.reserved)
    ledger.commit(reservation, ended)

    assert (0.0, spent, held) == (ledger.reserved, ledger.spent, ledger.held)
    assert spent + held == (0.0 if ended is None else possible_cost(ended, 80))


def test_reserve_again_respects_the_limit() -> None:
    ledger = Ledger(100)

    assert not ledger.reserve_again(must_reserve(ledger, "a", 80))
    assert 80.0 == ledger.reserved


def test_ambiguous_attempt_is_held_once() -> None:
    ledger = Ledger(1000)
    ledger.hold_ambiguous("a", 80, row(S.INTENT, ambiguous=1), prior=False)
    reservation = must_reserve(ledger, "a", 80)
    ledger.commit(reservation, row(S.SUCCEEDED, credits=70.0, ambiguous=2))
    ledger.hold_ambiguous("a", 80, row(S.SUCCEEDED, credits=70.0, ambiguous=2), prior=False)

    assert (0.0, 70.0, 160.0) == (ledger.reserved, ledger.spent, ledger.held)


def test_ambiguous_attempt_that_is_the_task_is_not_held() -> None:
    """A callback has proved that the attempt was accepted."""
    ledger = Ledger(1000)
    ledger.hold_ambiguous("a", 80, row(S.INTENT, ambiguous=1, attempts=1), prior=False)
    assert 80.0 == ledger.held
    ledger.commit(must_reserve(ledger, "a", 80), row(S.SUCCEEDED, credits=80.0, ambiguous=1, attempts=1))

    assert (0.0, 80.0, 0.0) == (ledger.reserved, ledger.spent, ledger.held)


@pytest.mark.parametrize("state", [S.SUCCEEDED, S.FAILED, S.UNRESOLVED, S.STALLED])
def test_key_counts_once(state: JobState) -> None:
    ledger = Ledger(1000)
    reservation = must_reserve(ledger, "a", 80)
    assert ledger.reserve_running("a", 80, prior=False) is None
    assert not ledger.commit_ended("a", 80, row(state), prior=False)
    ledger.commit(reservation, row(state, credits=80.0))
    once = (ledger.spent, ledger.held)

    assert ledger.reserve_running("a", 80, prior=False) is None
    assert not ledger.commit_ended("a", 80, row(state, credits=80.0), prior=False)
    assert once == (ledger.spent, ledger.held)
    assert 0.0 == ledger.reserved


@pytest.mark.parametrize("state", [S.INTENT, S.CANCELLED, S.REJECTED])
def test_unsent_key_counts_when_it_is_sent(state: JobState) -> None:
    ledger = Ledger(1000)
    ledger.commit(must_reserve(ledger, "a", 80), row(state))

    assert ledger.reserve_running("a", 80, prior=False) is not None
    assert 80.0 == ledger.reserved


def test_rows_reduce_the_prior_spend() -> None:
    ledger = Ledger(1000)
    ledger.prior = 400.0
    assert not ledger.reserve("new", Price(601))
    assert ledger.commit_ended("done", 80, row(S.SUCCEEDED, credits=100.0), prior=True)
    assert (100.0, 300.0) == (ledger.spent, ledger.prior)
    assert ledger.reserve_running("runs", 80, prior=True)
    assert (80.0, 220.0) == (ledger.reserved, ledger.prior)
    ledger.hold_ambiguous("unclear", 80, row(S.INTENT, ambiguous=1), prior=True)
    assert (80.0, 140.0) == (ledger.held, ledger.prior)
    assert ledger.commit_ended("of today", 80, row(S.SUCCEEDED, credits=90.0), prior=False)
    assert 140.0 == ledger.prior
    assert ledger.commit_ended("dear", 80, row(S.SUCCEEDED, credits=200.0), prior=True)
    assert 0.0 == ledger.prior


@pytest.mark.parametrize("cost", [30.0, 80.0, 200.0])
def test_ended_job_takes_its_share_of_prior_spend(
    cost: float,
) -> None:
    ledger = Ledger(1000)
    ledger.prior, ledger.prior_open = 400.0, {"a": 80.0, "b": 80.0}
    assert ledger.commit_ended("a", 80, row(S.SUCCEEDED, credits=cost), prior=True)
    assert (cost, 320.0) == (ledger.spent, ledger.prior)
    assert not ledger.commit_ended("a", 80, row(S.SUCCEEDED, credits=cost), prior=True)
    assert 320.0 == ledger.prior


def test_running_job_takes_its_share_once() -> None:
    ledger = Ledger(1000)
    ledger.prior, ledger.prior_open = 400.0, {"a": 80.0}
    reservation = ledger.reserve_running("a", 80, prior=True)
    assert reservation is not None
    ledger.commit(reservation, row(S.CANCELLED))
    assert ledger.commit_ended("a", 80, row(S.CANCELLED), prior=True)
    assert (0.0, 320.0) == (ledger.reserved, ledger.prior)


def test_dropped_key_is_held_once() -> None:
    ledger = Ledger(1000)
    ledger.prior = 80.0
    for _ in range(2):
        ledger.hold_dropped("a", 80)

    assert (80.0, 0.0) == (ledger.held, ledger.prior)
    assert not ledger.commit_ended("a", 80, row(S.SUCCEEDED, credits=80.0), prior=False)
