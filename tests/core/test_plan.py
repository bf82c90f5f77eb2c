"""The options of a run, and the names of its keys and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import ConfigurationError, Limits
from kie_async._core.durations import kind_of
from kie_async._core.map_options import MapOptions, file_name
from kie_async._core.prices import SeenPrices, listed

keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
names = keys | st.sampled_from([".", "..", "a~2", "a", "a-2", "CON", "nul.txt", "com1", "a/../b", "\0", "%2E", "~"])


def a_plan(save_to: str | None = "out/{key}.mp4") -> MapOptions:
    return MapOptions.of(
        Limits(), budget=None, stop_after=None, save_to=save_to, ordered=False, retry_failed=0, look_ahead=None
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": 5},
        {"stop_after": -1},
        {"stop_after": float("nan")},
        {"stop_after": True},
        {"retry_failed": -1},
        {"retry_failed": 1.5},
        {"look_ahead": 0},
        {"save_to": "out/video.mp4"},
    ],
)
def test_an_option_that_makes_no_sense_is_named(wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "budget": None, "stop_after": None, "save_to": None, "ordered": False, "retry_failed": 0, "look_ahead": None
    }  # fmt: skip
    assert 7 == MapOptions.of(Limits(), **{**options, "look_ahead": 7, "stop_after": 0}).look_ahead
    with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))}="):
        MapOptions.of(Limits(), **{**options, **wrong})


@given(names, names)
def test_no_two_keys_have_one_name_and_none_leaves_the_folder(a: str, b: str) -> None:
    for key in (a, b):
        name = file_name(key)
        assert name == Path(name).name
        assert name not in ("", ".", "..")
        assert len(name.encode()) <= 220
        assert name.isascii()
    assert (a == b) == (file_name(a) == file_name(b))


@given(names, names, st.integers(1, 12), st.integers(1, 12))
def test_no_file_of_a_row_is_a_file_of_another(a: str, b: str, first: int, second: int) -> None:
    plan = a_plan()
    ours, theirs = plan.files(a, first), plan.files(b, second)

    assert first == len(set(ours))
    assert a == b or not set(ours) & set(theirs)
    assert {Path("out")} == {path.parent for path in (*ours, *theirs)}


def test_without_a_place_there_are_no_files() -> None:
    assert () == a_plan(None).files("a", 3)


def test_the_key_may_be_a_folder() -> None:
    assert (Path("out/a%2Fb/video.mp4"),) == a_plan("out/{key}/video.mp4").files("a/b", 1)


def test_the_bounds_follow_from_the_limits() -> None:
    plan = a_plan()
    assert (40, 1040) == (plan.look_ahead, plan.window)


@pytest.mark.parametrize(
    ("given_input", "price"),
    [({}, 80.0), ({"resolution": "480p"}, 40.0), ({"resolution": "580p"}, 60.0), ({"resolution": "4k"}, None)],
)
def test_the_price_list_goes_by_model_and_resolution(given_input: dict[str, str], price: float | None) -> None:
    estimate = listed("wan/2-2-a14b-image-to-video-turbo", given_input)

    assert price == (estimate.credits if estimate else None)
    assert None is listed("another", given_input)


def test_what_was_seen_is_the_highest_of_the_last_few() -> None:
    seen = SeenPrices()
    seen.learn(("k",), None)
    assert None is seen.of(("k",))
    for credits in [90.0, 40.0, 60.0]:
        seen.learn(("k",), credits)
    estimate = seen.of(("k",))
    assert estimate is not None
    assert (90.0, "the highest of the last 3 such tasks in the journal") == (estimate.credits, estimate.source)
    for _ in range(20):
        seen.learn(("k",), 40.0)
    estimate = seen.of(("k",))
    assert estimate is not None
    assert 40.0 == estimate.credits


def test_of_many_kinds_those_are_kept_that_were_seen_last() -> None:
    seen = SeenPrices()
    for number in range(600):
        seen.learn(kind_of("m", {"duration": number}), 1.0)

    assert None is seen.of(kind_of("m", {"duration": 99}))
    assert None is not seen.of(kind_of("m", {"duration": 100}))


def test_prompts_and_seeds_make_no_other_kind() -> None:
    assert kind_of("m", {"prompt": "a", "seed": 1, "resolution": None}) == kind_of("m", {"prompt": "b"})
    assert kind_of("m", {"duration": 5}) != kind_of("m", {"duration": 10})
