"""The callback-loss estimate: never zero, and soon learned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.polling import CallbackLoss

_pasts = st.lists(st.booleans(), max_size=300)


def loss_after(past: list[bool], *, receiving: bool = True) -> CallbackLoss:
    """Return the estimate after callbacks that arrived (true) or were lost."""
    loss = CallbackLoss(receiving=receiving)
    for received in past:
        if received:
            loss.record_received()
        else:
            loss.record_lost()
    return loss


@given(_pasts, st.booleans())
def test_the_estimate_is_never_below_two_percent(past: list[bool], receiving: bool) -> None:  # noqa: FBT001 (drawn)
    assert 0.02 <= loss_after(past, receiving=receiving).probability <= 1.0


@given(_pasts, st.booleans())
def test_the_estimate_moves_towards_the_observation(
    past: list[bool],
    receiving: bool,  # noqa: FBT001 (drawn)
) -> None:
    before = loss_after(past, receiving=receiving).probability

    # The means of fractions are rounded, in the last digits.
    assert loss_after([*past, True], receiving=receiving).probability <= before * (1 + 1e-12)
    assert loss_after([*past, False], receiving=receiving).probability >= before * (1 - 1e-12)


@given(_pasts)
def test_a_receiver_never_raises_the_estimate(past: list[bool]) -> None:
    assert loss_after(past, receiving=True).probability <= loss_after(past, receiving=False).probability


@given(_pasts)
def test_a_broken_receiver_is_noticed_within_50_jobs(past: list[bool]) -> None:
    """Old callbacks fade, however many there were."""
    assert loss_after([*past, *[False] * 50]).probability > 0.6


@given(_pasts)
def test_a_repaired_receiver_is_trusted_again(past: list[bool]) -> None:
    assert loss_after([*past, *[True] * 100]).probability < 0.15


@pytest.mark.parametrize(
    ("past", "receiving", "chance"),
    [
        ([], False, 1.0),
        ([], True, 0.02),
        ([False], True, 0.51),
        ([False], False, 1.0),
        ([True], False, 0.5),
        ([True] * 9, False, 0.1),
        ([True], True, 0.02),
        ([False] * 9, True, 0.902),
        ([False] * 1000, False, 1.0),
    ],
)
def test_the_first_estimates(past: list[bool], receiving: bool, chance: float) -> None:  # noqa: FBT001 (a row)
    """Without a receiver, no callback is expected until some arrive at another process."""
    assert chance == pytest.approx(loss_after(past, receiving=receiving).probability)


def test_a_long_good_past_counts_as_fifty_callbacks() -> None:
    """Ten losses in a row weigh as much after 1,000 received callbacks as after 50."""
    assert loss_after([*[True] * 1000, *[False] * 10]).probability == pytest.approx(
        loss_after([*[True] * 50, *[False] * 10]).probability
    )
