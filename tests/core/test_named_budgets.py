"""The sums of a named budget: they are those of its rows after any change, and no create exceeds the limit."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import BudgetExceededError, BudgetInfo, ConfigurationError
from kie_async._core.budget_ledger import (
    Price,
    changed_budget,
    check_create,
    has_room,
    opened_budget,
    possible_cost,
    raised_budget,
)
from kie_async._core.lifecycle import ENDED, TRANSITIONS, Intent
from kie_async.states import JobState

S = JobState


def make_row(number: int = 1, **fields: Any) -> Intent:
    made: dict[str, Any] = {
        "id": f"kj_{number}", "model": "m", "input": "{}", "fingerprint": "f", "price_class": "a", "created_at": 0.0,
        "updated_at": 0.0, "budget": "b", "price": 80.0,
    }  # fmt: skip
    return Intent(**{**made, **fields})


def shares(row: Intent) -> tuple[float, float, float]:
    info = changed_budget(BudgetInfo(name="b", credits=100.0), None, row)
    return info.spent, info.running, info.held


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": S.INTENT}, (0.0, 0.0, 0.0)),
        ({"state": S.INTENT, "attempts": 1, "ambiguous_attempts": 1}, (0.0, 0.0, 80.0)),
        ({"state": S.SENDING, "attempts": 1}, (0.0, 80.0, 0.0)),
        ({"state": S.SENDING, "attempts": 2, "ambiguous_attempts": 1}, (0.0, 80.0, 80.0)),
        ({"state": S.SUBMITTED, "attempts": 1, "price": None}, (0.0, 0.0, 0.0)),
        ({"state": S.IN_DOUBT, "attempts": 1}, (0.0, 80.0, 0.0)),
        ({"state": S.UNRESOLVED, "attempts": 1}, (0.0, 0.0, 80.0)),
        ({"state": S.STALLED, "attempts": 1}, (0.0, 0.0, 80.0)),
        ({"state": S.SUCCEEDED, "attempts": 1, "credits": 70.0}, (70.0, 0.0, 0.0)),
        ({"state": S.SUCCEEDED, "attempts": 1}, (80.0, 0.0, 0.0)),
        ({"state": S.FAILED, "attempts": 1}, (0.0, 0.0, 0.0)),
        ({"state": S.ABANDONED, "attempts": 1}, (80.0, 0.0, 0.0)),
        ({"state": S.CANCELLED}, (0.0, 0.0, 0.0)),
        ({"state": S.REJECTED, "attempts": 2, "ambiguous_attempts": 2}, (160.0, 0.0, 0.0)),
    ],
    ids=str,
)
def test_share_of_each_state(fields: dict[str, Any], expected: tuple[float, float, float]) -> None:
    assert expected == shares(make_row(**fields))


@given(st.data())
def test_sums_are_those_of_the_rows_after_any_changes(data: st.DataObject) -> None:
    """Jobs take any path through their states, and nothing of an ended job stays reserved."""
    rows = [make_row(number, price=data.draw(st.floats(0.0, 99.0).map(lambda x: round(x, 2)))) for number in range(4)]
    info = BudgetInfo(name="b", credits=100.0)
    for _ in range(data.draw(st.integers(0, 25))):
        number = data.draw(st.integers(0, 3))
        row = rows[number]
        following = sorted(TRANSITIONS[row.state])
        if not following:
            continue
        state = data.draw(st.sampled_from(following))
        changes: dict[str, Any] = {"attempts": row.attempts + 1} if state is S.SENDING else {}
        if row.state is S.SENDING and state in (S.INTENT, S.REJECTED) and data.draw(st.booleans()):
            changes["ambiguous_attempts"] = row.ambiguous_attempts + 1
        if state in (S.SUCCEEDED, S.FAILED):
            changes["credits"] = data.draw(st.none() | st.just(12.34))
        rows[number] = attrs.evolve(row, state=state, **changes)
        info = changed_budget(info, row, rows[number])

    total = sum(possible_cost(row, row.price or 0.0) for row in rows)
    assert total == pytest.approx(info.spent + info.reserved, abs=1e-4)
    if all(row.state in ENDED for row in rows):
        assert (0.0, 0.0) == (info.running, info.held)


@pytest.mark.parametrize(
    ("left", "price", "others", "allowed"),
    [
        (0.0, 80.0, [], True),
        (-0.01, 80.0, [], False),
        (0.01, None, [], True),
        (0.0, None, [], False),
        (50.0, None, [make_row(2)], False),
        (50.0, None, [make_row(1)], True),
        (50.0, None, [make_row(2, price_class="other")], True),
    ],
)
def test_create_needs_room_and_a_known_price(
    left: float, price: float | None, others: list[Intent], *, allowed: bool
) -> None:
    info = BudgetInfo(name="b", credits=100.0, spent=100.0 - left)
    row = make_row(1, price=price)
    if allowed:
        check_create(info, row, others)
    else:
        with pytest.raises(BudgetExceededError, match=r"'b'.*100 credits") as caught:
            check_create(info, row, others)
        assert "kj_1" == caught.value.job_id


def test_room_is_what_is_left_beside_unsent_jobs() -> None:
    info = BudgetInfo(name="b", credits=100.0, spent=10.0, running=20.0, held=10.0)

    assert has_room(info, Price(60.0), unsent=0.0)
    assert not has_room(info, Price(60.0), unsent=1.0)
    assert has_room(info, Price(60.0), unsent=1.0, if_freed=21.0)
    assert has_room(info, Price(0.0, ("m", "a")), unsent=59.0)
    assert not has_room(info, Price(0.0, ("m", "a")), unsent=60.0)
    assert (30.0, 60.0) == (info.reserved, info.left)


def test_limit_of_a_name_changes_by_a_higher_total_only() -> None:
    info = BudgetInfo(name="b", credits=100.0, spent=10.0)

    assert BudgetInfo(name="b", credits=7.0) == opened_budget(None, "b", 7.0)
    assert info == opened_budget(info, "b", 100.0)
    assert attrs.evolve(info, credits=120.0) == raised_budget(info, "b", 120.0)
    assert info == raised_budget(info, "b", 100.0)
    with pytest.raises(ConfigurationError, match=r"100 credits.*99"):
        opened_budget(info, "b", 99.0)
    with pytest.raises(ConfigurationError, match="100"):
        raised_budget(info, "b", 99.0)
    with pytest.raises(ConfigurationError, match="no budget 'b'"):
        raised_budget(None, "b", 99.0)
