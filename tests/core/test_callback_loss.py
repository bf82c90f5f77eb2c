"""How likely a promised callback is to be lost: never taken for impossible, and soon learned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.polling import CallbackLoss

_pasts = st.lists(st.booleans(), max_size=300)


def after(past: list[bool], *, receiving: bool = True) -> CallbackLoss:
    """What is thought once each of *past* has come (true) or was lost."""
    trust = CallbackLoss(receiving=receiving)
    for came in past:
        if came:
            trust.record_received()
        else:
            trust.record_lost()
    return trust


@given(_pasts, st.booleans())
def test_the_chance_is_never_less_than_one_in_fifty(past: list[bool], receiving: bool) -> None:  # noqa: FBT001 (drawn)
    """Polling is the net: whatever was seen, a look is worth something, and no more than a look is worth."""
    assert 0.02 <= after(past, receiving=receiving).probability <= 1.0


@given(_pasts, st.booleans())
def test_a_callback_that_came_never_makes_looks_worth_more_nor_a_lost_one_less(
    past: list[bool],
    receiving: bool,  # noqa: FBT001 (drawn)
) -> None:
    before = after(past, receiving=receiving).probability

    # The means of fractions are rounded, in the last digits.
    assert after([*past, True], receiving=receiving).probability <= before * (1 + 1e-12)
    assert after([*past, False], receiving=receiving).probability >= before * (1 - 1e-12)


@given(_pasts)
def test_a_receiver_never_makes_looks_worth_more(past: list[bool]) -> None:
    assert after(past, receiving=True).probability <= after(past, receiving=False).probability


@given(_pasts)
def test_a_receiver_that_breaks_is_noticed_within_some_tens_of_jobs(past: list[bool]) -> None:
    """What was long ago fades, however much of it there was."""
    assert after([*past, *[False] * 50]).probability > 0.6


@given(_pasts)
def test_a_receiver_that_is_mended_is_trusted_again(past: list[bool]) -> None:
    assert after([*past, *[True] * 100]).probability < 0.15


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
def test_what_is_thought_after_the_first_ones(past: list[bool], receiving: bool, chance: float) -> None:  # noqa: FBT001 (a row)
    """Without a receiver of ours nothing is expected, until callbacks come to another process all the same."""
    assert chance == pytest.approx(after(past, receiving=receiving).probability)


def test_a_long_good_past_counts_as_fifty_callbacks() -> None:
    """Ten losses in a row weigh as much after a thousand good ones as after fifty."""
    assert after([*[True] * 1000, *[False] * 10]).probability == pytest.approx(
        after([*[True] * 50, *[False] * 10]).probability
    )
