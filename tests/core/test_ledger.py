"""A budget's ledger: what is set aside, spent and held never exceeds the limit by what ``reserve()`` has granted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.budget_ledger import Account, Ledger, may_have_cost
from kie_async._core.lifecycle import Intent
from kie_async.states import JobState

S = JobState

amounts = st.floats(0.0, 200.0).map(lambda amount: round(amount, 2))


def row(state: JobState, *, credits: float | None = None, suspects: int = 0, attempts: int | None = None) -> Intent:
    """A row; unless it is said otherwise, an attempt more was sent than were answered unclearly."""
    return Intent(
        id="kj_1", model="m", input="{}", fingerprint="f", created_at=0.0, updated_at=0.0, state=state,
        credits=credits, ambiguous_attempts=suspects, attempts=suspects + 1 if attempts is None else attempts,
    )  # fmt: skip


def committed(ledger: Ledger) -> float:
    return ledger.spent + ledger.held + ledger.reserved + ledger.expected


def reserved(ledger: Ledger, key: str, price: float) -> Account:
    account = ledger.reserve(key, price)
    assert account is not None
    return account


@given(st.floats(0.0, 2000.0), st.lists(st.tuples(amounts, st.floats(0.0, 1.0))))
def test_what_was_granted_never_exceeds_the_limit(limit: float, rows: list[tuple[float, float]]) -> None:
    """Where no task costs more than was set aside for it, all that was ever spent is within the limit."""
    ledger = Ledger(limit)
    granted: list[tuple[Account, float]] = []
    for number, (amount, share) in enumerate(rows):
        if (account := ledger.reserve(str(number), amount)) is not None:
            granted.append((account, share * amount))
        elif granted:
            account, cost = granted.pop()
            ledger.settle(account, row(S.SUCCEEDED, credits=cost))
        assert committed(ledger) <= limit + 1e-3
    for account, cost in granted:
        ledger.settle(account, row(S.SUCCEEDED, credits=cost))
    assert ledger.reserved == pytest.approx(0.0, abs=1e-6)


#: Rows of a table: whether an earlier run has sent them, what they are taken to cost, what share of that they cost.
tables = st.lists(st.tuples(st.booleans(), amounts, st.floats(0.0, 1.0)), max_size=30)


@given(st.floats(0.0, 2000.0), tables, st.data())
def test_in_whatever_order_rows_are_read_the_limit_holds_where_all_is_expected_that_was_spent(
    limit: float, rows: list[tuple[bool, float, float]], data: st.DataObject
) -> None:
    before = sum(share * price for earlier, price, share in rows if earlier)
    ledger = Ledger(limit)
    ledger.expected = before
    granted = 0.0
    for number, (earlier, price, share) in data.draw(st.permutations(list(enumerate(rows)))):
        if earlier:
            ledger.count(str(number), price, row(S.SUCCEEDED, credits=share * price), expected=True)
        elif ledger.reserve(str(number), price) is not None:
            granted += price
        assert granted == 0.0 or granted + before <= limit + 1e-3
    assert ledger.expected == pytest.approx(0.0, abs=1e-6)
    assert committed(ledger) == pytest.approx(before + granted, abs=1e-6)


def test_without_a_limit_everything_is_granted() -> None:
    ledger = Ledger(None)

    assert ledger.reserve("a", 1e9)
    assert ledger.may_fit(1e12)


def test_what_runs_already_is_claimed_beyond_the_limit_and_nothing_more_is_granted() -> None:
    ledger = Ledger(100)
    account = ledger.claim("a", 160, expected=False)
    assert account is not None

    assert ledger.is_open("a")
    assert not ledger.reserve("b", 0.01)
    assert ledger.may_fit(80)
    ledger.settle(account, row(S.SUCCEEDED, credits=160))
    assert not ledger.is_open("a")
    assert not ledger.may_fit(80)


@pytest.mark.parametrize(
    ("ended", "spent", "held"),
    [
        (None, 0.0, 0.0),
        (row(S.INTENT), 0.0, 0.0),
        (row(S.CANCELLED), 0.0, 0.0),
        (row(S.REJECTED), 0.0, 0.0),
        (row(S.REJECTED, suspects=3), 0.0, 240.0),
        (row(S.SUCCEEDED, credits=70.0), 70.0, 0.0),
        (row(S.SUCCEEDED), 80.0, 0.0),
        (row(S.SUCCEEDED, credits=70.0, suspects=1), 70.0, 80.0),
        (row(S.SUCCEEDED, credits=70.0, suspects=1, attempts=1), 70.0, 0.0),
        (row(S.UNRESOLVED, suspects=1, attempts=1), 0.0, 80.0),
        (row(S.REJECTED, suspects=1, attempts=1), 0.0, 80.0),
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
def test_what_a_job_that_goes_no_further_has_cost(ended: Intent | None, spent: float, held: float) -> None:
    ledger = Ledger(1000)
    account = reserved(ledger, "a", 80)
    assert ledger.once_more(account)
    assert (160.0, 160.0) == (ledger.reserved, account.reserved)
    ledger.settle(account, ended)

    assert (0.0, spent, held) == (ledger.reserved, ledger.spent, ledger.held)
    assert spent + held == (0.0 if ended is None else may_have_cost(ended, 80))


def test_a_price_is_set_aside_once_more_only_where_that_much_is_left() -> None:
    ledger = Ledger(100)

    assert not ledger.once_more(reserved(ledger, "a", 80))
    assert 80.0 == ledger.reserved


def test_a_suspect_attempt_that_is_held_already_is_not_held_twice() -> None:
    ledger = Ledger(1000)
    ledger.hold("a", 80, row(S.INTENT, suspects=1), expected=False)
    account = reserved(ledger, "a", 80)
    ledger.settle(account, row(S.SUCCEEDED, credits=70.0, suspects=2))
    ledger.hold("a", 80, row(S.SUCCEEDED, credits=70.0, suspects=2), expected=False)

    assert (0.0, 70.0, 160.0) == (ledger.reserved, ledger.spent, ledger.held)


def test_a_suspect_attempt_that_turns_out_to_be_the_task_is_held_no_longer() -> None:
    """A callback has proved that it was accepted."""
    ledger = Ledger(1000)
    ledger.hold("a", 80, row(S.INTENT, suspects=1, attempts=1), expected=False)
    assert 80.0 == ledger.held
    ledger.settle(reserved(ledger, "a", 80), row(S.SUCCEEDED, credits=80.0, suspects=1, attempts=1))

    assert (0.0, 80.0, 0.0) == (ledger.reserved, ledger.spent, ledger.held)


@pytest.mark.parametrize("state", [S.SUCCEEDED, S.FAILED, S.UNRESOLVED, S.STALLED])
def test_a_key_counts_once_whoever_asks_for_it_again(state: JobState) -> None:
    ledger = Ledger(1000)
    account = reserved(ledger, "a", 80)
    assert ledger.claim("a", 80, expected=False) is None
    assert not ledger.count("a", 80, row(state), expected=False)
    ledger.settle(account, row(state, credits=80.0))
    once = (ledger.spent, ledger.held)

    assert ledger.claim("a", 80, expected=False) is None
    assert not ledger.count("a", 80, row(state, credits=80.0), expected=False)
    assert once == (ledger.spent, ledger.held)
    assert 0.0 == ledger.reserved


@pytest.mark.parametrize("state", [S.INTENT, S.CANCELLED, S.REJECTED])
def test_a_key_of_which_nothing_was_sent_counts_when_it_is(state: JobState) -> None:
    ledger = Ledger(1000)
    ledger.settle(reserved(ledger, "a", 80), row(state))

    assert ledger.claim("a", 80, expected=False) is not None
    assert 80.0 == ledger.reserved


def test_what_is_expected_is_not_left_and_is_taken_by_the_rows_that_it_was_for() -> None:
    ledger = Ledger(1000)
    ledger.expected = 400.0
    assert not ledger.reserve("new", 601)
    assert ledger.count("done", 80, row(S.SUCCEEDED, credits=100.0), expected=True)
    assert (100.0, 300.0) == (ledger.spent, ledger.expected)
    assert ledger.claim("runs", 80, expected=True)
    assert (80.0, 220.0) == (ledger.reserved, ledger.expected)
    ledger.hold("unclear", 80, row(S.INTENT, suspects=1), expected=True)
    assert (80.0, 140.0) == (ledger.held, ledger.expected)
    assert ledger.count("of today", 80, row(S.SUCCEEDED, credits=90.0), expected=False)
    assert 140.0 == ledger.expected
    assert ledger.count("dear", 80, row(S.SUCCEEDED, credits=200.0), expected=True)
    assert 0.0 == ledger.expected


@pytest.mark.parametrize("cost", [30.0, 80.0, 200.0])
def test_a_job_that_ended_before_its_row_was_read_takes_what_was_foreseen_for_it_whatever_it_has_cost(
    cost: float,
) -> None:
    ledger = Ledger(1000)
    ledger.expected, ledger.foreseen = 400.0, {"a": 80.0, "b": 80.0}
    assert ledger.count("a", 80, row(S.SUCCEEDED, credits=cost), expected=True)
    assert (cost, 320.0) == (ledger.spent, ledger.expected)
    assert not ledger.count("a", 80, row(S.SUCCEEDED, credits=cost), expected=True)
    assert 320.0 == ledger.expected


def test_a_job_that_runs_when_its_row_is_read_gives_back_once_what_was_foreseen_for_it() -> None:
    ledger = Ledger(1000)
    ledger.expected, ledger.foreseen = 400.0, {"a": 80.0}
    account = ledger.claim("a", 80, expected=True)
    assert account is not None
    ledger.settle(account, row(S.CANCELLED))
    assert ledger.count("a", 80, row(S.CANCELLED), expected=True)
    assert (0.0, 320.0) == (ledger.reserved, ledger.expected)


def test_what_nothing_more_is_known_of_is_held_once() -> None:
    ledger = Ledger(1000)
    ledger.expected = 80.0
    for _ in range(2):
        ledger.count_unknown("a", 80)

    assert (80.0, 0.0) == (ledger.held, ledger.expected)
    assert not ledger.count("a", 80, row(S.SUCCEEDED, credits=80.0), expected=False)
