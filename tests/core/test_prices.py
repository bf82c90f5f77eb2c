"""Price estimates, from the price list and from the prices that were seen."""

from __future__ import annotations

import pytest

from kie_async._core.budget_ledger import SeenPrices, listed_price
from kie_async._core.durations import kind_of


@pytest.mark.parametrize(
    ("given_input", "price"),
    [({}, 80.0), ({"resolution": "480p"}, 40.0), ({"resolution": "580p"}, 60.0), ({"resolution": "4k"}, None)],
)
def test_price_list_is_by_model_and_resolution(given_input: dict[str, str], price: float | None) -> None:
    estimate = listed_price("wan/2-2-a14b-image-to-video-turbo", given_input)

    assert price == (estimate.credits if estimate else None)
    assert None is listed_price("another", given_input)


def test_estimate_is_the_highest_recent_price() -> None:
    seen = SeenPrices()
    seen.add_price(("k",), None)
    assert None is seen.estimate_kind(("k",))
    for credits in [90.0, 40.0, 60.0]:
        seen.add_price(("k",), credits)
    estimate = seen.estimate_kind(("k",))
    assert estimate is not None
    assert (90.0, "the highest of the last 3 such tasks in the journal") == (estimate.credits, estimate.source)
    for _ in range(20):
        seen.add_price(("k",), 40.0)
    estimate = seen.estimate_kind(("k",))
    assert estimate is not None
    assert 40.0 == estimate.credits


def test_only_the_latest_kinds_are_kept() -> None:
    seen = SeenPrices()
    for number in range(600):
        seen.add_price(kind_of("m", {"duration": number}), 1.0)

    assert None is seen.estimate_kind(kind_of("m", {"duration": 99}))
    assert None is not seen.estimate_kind(kind_of("m", {"duration": 100}))


def test_prompt_and_seed_do_not_change_the_kind() -> None:
    assert kind_of("m", {"prompt": "a", "seed": 1, "resolution": None}) == kind_of("m", {"prompt": "b"})
    assert kind_of("m", {"duration": 5}) != kind_of("m", {"duration": 10})
