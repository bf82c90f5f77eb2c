"""Price classes and estimates: what a price may depend on, and what is reserved while it is unknown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.budget_ledger import Ledger, Price, PriceMemory, SeenPrices, estimate_price
from kie_async._core.lifecycle import Intent
from kie_async._keys import price_class
from kie_async.catalogue.prices import ListPrice
from kie_async.states import JobState
from tests.strategies import json_values

URL = "https://a.example/1.mp4"
BASE: dict[str, Any] = {
    "prompt": "A cat", "negative_prompt": "dogs", "seed": 1, "image_url": URL, "duration": 5,
    "shots": [{"Scene": "A cat", "duration": 5, "image_urls": [URL]}], "task_id": "0123456789abcdef0123456789abcdef",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "B"},
        {"prompt": "two words, and more words than any setting of the service could have in its value"},
        {"negative_prompt": None},
        {"seed": 2},
        {"seed": None},
        {"seeds": 12345},
        {"lyrics": "la"},
        {"image_url": "data:image/png;base64,AAAA"},
        {"image_url": "asset://abc"},
        {"duration": 5.0},
        {"shots": [{"Scene": "B", "duration": 5, "image_urls": ["http://b.example"]}]},
        {"task_id": "abcdef0123456789abcdef0123456789"},
        {"resolution": None},
    ],
    ids=str,
)
def test_text_seeds_and_addresses_do_not_change_the_class(change: dict[str, Any]) -> None:
    assert price_class("m", BASE) == price_class("m", {**BASE, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"audio": True},
        {"audio": False},
        {"generate_audio_switch": True},
        {"model": "veo3_lite"},
        {"extend_times": 6},
        {"enable_pro": True},
        {"reference_video_urls": [URL]},
        {"reference_video_urls": [URL, URL]},
        {"audio_url": URL},
        {"image_url": None},
        {"duration": "5"},
        {"duration": 10},
        {"aspect_ratio": "16:9"},
        {"shots": [*BASE["shots"], *BASE["shots"]]},
        {"shots": [{"Scene": "A cat", "duration": 10, "image_urls": [URL]}]},
        {"shots": [{"Scene": "A cat", "duration": 5, "image_urls": [URL, URL]}]},
        {"voice": "EkK5I93UQWFDigLMpZcX"},
        {"template_id": "12"},
        {"image": "iVBORw0KGgo" * 1000},
        {"options": {"tier": {"name": "pro"}}},
    ],
    ids=lambda change: str(change)[:60],
)
def test_any_other_value_changes_the_class(change: dict[str, Any]) -> None:
    assert price_class("m", BASE) != price_class("m", {**BASE, **change})
    assert price_class("m", BASE) != price_class("n", BASE)


@given(st.dictionaries(st.text(max_size=8), json_values()))
def test_class_depends_on_the_content_only(values: dict[str, Any]) -> None:
    backwards = dict(reversed(values.items()))

    assert price_class("m", values) == price_class("m", backwards)


def test_class_of_an_invalid_input_exists() -> None:
    """An estimate is made before the request is checked."""
    endless: dict[Any, Any] = {"a": float("nan"), 1: {2}, "b": b"x"}
    endless["self"] = endless

    assert price_class("m", endless) != price_class("m", {})


# -- estimates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "listed", "credits", "basis"),
    [
        ((None, None, None), None, None, "unknown"),
        ((None, None, 90.0), None, 90.0, "unknown"),
        ((None, None, 90.0), 40.0, 40.0, "listed"),
        ((30.0, 30.0, 90.0), None, 30.0, "seen"),
        ((30.0, 30.0, 90.0), 40.0, 30.0, "seen"),
        ((50.0, 50.0, 90.0), 40.0, 50.0, "seen"),
        ((30.0, 50.0, 90.0), None, 90.0, "seen"),
        ((30.0, 90.0, 90.0), 100.0, 100.0, "listed"),
        ((0.0, 0.0, 0.0), None, 0.0, "seen"),
    ],
)
def test_estimate_is_what_was_seen_and_else_the_list_price(
    seen: tuple[float | None, float | None, float | None], listed: float | None, credits: float | None, basis: str
) -> None:
    estimate = estimate_price(SeenPrices(*seen), None if listed is None else list_price(listed))

    assert (credits, basis) == (estimate.credits, estimate.basis)
    assert estimate.source
    assert not estimate.upper_bound


@pytest.mark.parametrize(
    ("seen", "bound", "credits", "basis"),
    [
        ((None, None, None), 300.0, 300.0, "listed"),
        ((None, None, 900.0), 300.0, 300.0, "listed"),
        ((30.0, 30.0, 900.0), 300.0, 30.0, "seen"),
        ((30.0, 60.0, 900.0), 300.0, 300.0, "listed"),
        ((30.0, 60.0, 90.0), 300.0, 90.0, "seen"),
        ((30.0, 600.0, 900.0), 300.0, 900.0, "seen"),
    ],
)
def test_upper_bound_is_used_while_nothing_better_is_known(
    seen: tuple[float | None, float | None, float | None], bound: float, credits: float, basis: str
) -> None:
    estimate = estimate_price(SeenPrices(*seen), list_price(bound, upper_bound=True))

    assert (credits, basis) == (estimate.credits, estimate.basis)
    assert estimate.upper_bound == (basis == "listed") == ("upper bound" in estimate.source)


def list_price(credits: float, *, upper_bound: bool = False) -> ListPrice:
    return ListPrice(credits=credits, upper_bound=upper_bound, as_of="2026-10-01")


def charged(price_class: str, credits: float | None, state: JobState = JobState.SUCCEEDED) -> Intent:
    return Intent(
        id="kj_1", model="m", input="{}", fingerprint="f", price_class=price_class, created_at=0.0, updated_at=0.0,
        state=state, credits=credits,
    )  # fmt: skip


def test_memory_has_the_range_of_each_class() -> None:
    memory = PriceMemory()
    for credits in (40.0, 30.0, None):
        memory.add(charged("a", credits))
    memory.add(charged("b", 90.0))
    memory.add(charged("a", 500.0, JobState.FAILED))

    assert SeenPrices(30.0, 40.0, 90.0) == memory.seen("m", "a")
    assert SeenPrices(None, None, 90.0) == memory.seen("m", "c")
    assert SeenPrices() == memory.seen("n", "d")


def test_memory_of_prices_is_bounded() -> None:
    memory = PriceMemory()
    for number in range(10_001):
        memory.add(charged(str(number), 1.0))

    assert None is memory.seen("m", "0").highest
    assert 1.0 == memory.seen("m", "1").highest


# -- the ledger -------------------------------------------------------------------------------------------------------


def test_unknown_class_has_one_task_until_it_is_charged() -> None:
    ledger = Ledger(100.0)
    first = Price(0.0, ("m", "a"), model_is_unseen=True)
    reservation = ledger.reserve("1", first)
    assert reservation is not None

    assert {"1"} == ledger.blocking(first) == ledger.blocking(Price(0.0, ("m", "b"), model_is_unseen=True))
    assert set() == ledger.blocking(Price(30.0, ("m", "b"))) == ledger.blocking(Price(30.0))
    assert set() == ledger.blocking(Price(0.0, ("n", "a"), model_is_unseen=True))
    assert not ledger.reserve_again(reservation)
    ledger.commit(reservation, charged("a", 100.0))
    assert set() == ledger.blocking(first)
    assert ledger.reserve("2", Price(0.0, ("m", "b"))) is None


def test_listed_class_has_more_tasks_if_there_is_room_for_their_margins() -> None:
    ledger, price = Ledger(100.0), Price(20.0, ("m", "a"), is_listed=True)
    first = ledger.reserve("1", price)
    assert first is not None
    assert {"1"} == ledger.blocking(price)
    assert (60.0, 20.0) == (price.margin, price.journaled)

    second = ledger.reserve("2", price, price.margin)
    assert second is not None
    assert ledger.reserve("3", Price(0.01)) is None
    assert ledger.may_fit_later(20.0)
    ledger.commit(second, charged("a", 80.0))
    assert (20.0, 80.0, 0.0) == (ledger.reserved, ledger.spent, ledger.margin)


def test_task_with_a_listed_price_is_sent_again_if_its_price_is_left() -> None:
    ledger = Ledger(50.0)
    reservation = ledger.reserve("1", Price(20.0, ("m", "a"), is_listed=True))
    assert reservation is not None

    assert ledger.reserve_again(reservation)
    assert not ledger.reserve_again(reservation)
    assert not ledger.may_fit_later(60.0)
    ledger.commit(reservation, None)
    assert not ledger.may_fit_later(20.0)
    assert ledger.may_fit_later(20.0, is_blocked=True)


@pytest.mark.parametrize("state", [JobState.UNRESOLVED, JobState.ABANDONED, JobState.SUCCEEDED, JobState.STALLED])
def test_unknown_charge_blocks_its_class(state: JobState) -> None:
    ledger, price = Ledger(100.0), Price(0.0, ("m", "a"))
    reservation = ledger.reserve("1", price)
    assert reservation is not None
    ledger.commit(reservation, charged("a", None, state))
    assert {"1"} == ledger.blocking(price)
    ledger.commit_ended("2", 0.0, charged("a", None, state), prior=False, unknown=price.unknown)
    assert {"1", "2"} == ledger.blocking(price)
    ledger.discard_uncharged("1")
    assert {"2"} == ledger.blocking(price)


@pytest.mark.parametrize("state", [None, JobState.INTENT, JobState.CANCELLED, JobState.FAILED, JobState.REJECTED])
def test_free_job_leaves_its_class_open(state: JobState | None) -> None:
    ledger, price = Ledger(100.0), Price(0.0, ("m", "a"))
    reservation = ledger.reserve("1", price)
    assert reservation is not None
    ledger.commit(reservation, None if state is None else charged("a", None, state))

    assert set() == ledger.blocking(price)
