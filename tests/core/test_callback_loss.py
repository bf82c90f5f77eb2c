"""The callback-loss estimate: a wrong URL is noticed at once, and a rare loss is not forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.polling import CallbackLoss

#: Callbacks that arrived (true) or were lost.
_pasts = st.lists(st.booleans(), max_size=300)


def loss_after(past: list[bool]) -> CallbackLoss:
    """Return the estimate of a receiver after these callbacks."""
    loss = CallbackLoss(receiving=True)
    for received in past:
        if received:
            loss.record_received()
        else:
            loss.record_lost()
    return loss


@given(_pasts)
def test_the_estimate_is_a_probability_and_never_zero(past: list[bool]) -> None:
    assert 0.0015 <= loss_after(past).probability <= 1.0


@given(_pasts)
def test_the_estimate_moves_towards_the_observation(past: list[bool]) -> None:
    """Except for the chance that the rate has changed since."""
    before = loss_after(past).probability

    assert loss_after([*past, True]).probability <= before + 1e-4
    assert loss_after([*past, False]).probability >= before - 1e-3


@given(_pasts)
def test_a_broken_receiver_is_noticed_within_ten_losses(past: list[bool]) -> None:
    assert loss_after([*past, *[False] * 10]).probability > 0.6


@given(_pasts)
def test_a_repaired_receiver_is_trusted_within_30_callbacks(past: list[bool]) -> None:
    assert loss_after([*past, *[True] * 30]).probability < 0.12


@pytest.mark.parametrize("received", [0, 1, 20, 300, 1000, 5000])
def test_a_receiver_that_breaks_is_noticed_after_six_losses(received: int) -> None:
    """However many callbacks came before; and one loss alone proves little."""
    before = [True] * received

    assert loss_after([*before, False]).probability < 0.35
    assert loss_after([*before, *[False] * 6]).probability > 0.75


@pytest.mark.parametrize(("every", "low", "high"), [(100, 0.005, 0.04), (50, 0.015, 0.04), (10, 0.05, 0.2)])
def test_a_rare_loss_is_not_forgotten(every: int, low: float, high: float) -> None:
    """Through all the callbacks between two losses, the estimate stays near the true rate."""
    past = [*[True] * (every - 1), False] * 12
    estimates = [loss_after([*past, *[True] * more]).probability for more in range(0, every, 5)]

    assert low <= min(estimates) <= max(estimates) <= high


@pytest.mark.parametrize(("past", "chance"), [([], 0.04), ([False], 0.32), ([False] * 2, 0.83), ([True] * 300, 0.005)])
def test_the_first_estimates(past: list[bool], chance: float) -> None:
    assert chance == pytest.approx(loss_after(past).probability, rel=0.1)


@given(st.integers(0, 50), st.integers(1, 5))
def test_without_a_receiver_each_end_is_polled_for(lost: int, received: int) -> None:
    """A loss tells nothing then; a callback that arrives shows that there is a receiver."""
    loss = CallbackLoss()
    for _ in range(lost):
        loss.record_lost()
    assert 1.0 == loss.probability

    for _ in range(received):
        loss.record_received()
    assert loss_after([True] * received).probability == loss.probability
