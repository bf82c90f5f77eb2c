"""List prices: the formula against an oracle that is written from the rates of the facts, for every priced model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import ListPrice, MarketRequest, Wan22TurboImageToVideo
from kie_async.catalogue.prices import list_price
from tests.catalogue.facts import (
    CLIP,
    COMPLETE,
    MODELS,
    PRICED,
    ROOT,
    UNBOUNDED,
    choices,
    expected,
    named_in_prices,
    oracle,
    required_input,
)
from tests.strategies import json_values


def test_price_of_each_complete_input_is_that_of_the_rates() -> None:
    failures = []
    for name, given_input in COMPLETE:
        price, wanted = list_price(name, given_input), expected(PRICED[name], given_input)
        if wanted is None:
            assert price is None, (name, given_input)
        elif price is None or price.credits != pytest.approx(wanted):
            failures.append((name, given_input, price, wanted))

    assert not failures, failures[:5]
    assert len({name for name, _ in COMPLETE}) >= 138
    assert len(COMPLETE) > 1000


@st.composite
def inputs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Return a model, and an input in which fields are left out, have a documented value, or let the model choose."""
    model = draw(st.sampled_from(sorted(PRICED)))
    fields, given_input = MODELS[model]["fields"], dict[str, Any]()
    for name in {*named_in_prices(PRICED[model]), *fields}:
        field = fields.get(name, {"type": "none"})
        values: list[Any] = [None]
        if name == "multi_prompt":
            values += [[{"prompt": "x", "duration": 3}] * 2]
        elif field["type"] == "array":
            values += [[{"url": CLIP}] * count for count in (1, 3, 7)]
        elif name in ("n", "template_id"):
            values += ["1"] if name == "template_id" else [1, 3]
        else:
            values += [*choices(MODELS[model], name), *field.get("also", []), *field.get("enum", [])]
        if (value := draw(st.sampled_from(values))) is not None:
            given_input[name] = value
    return model, {name: value for name, value in given_input.items() if name in fields}


@given(inputs())
def test_price_is_the_highest_of_the_complete_inputs_that_fit(case: tuple[str, dict[str, Any]]) -> None:
    model, given_input = case
    price, wanted = list_price(model, given_input), oracle(model, given_input)

    assert (price is None) == (wanted is None)
    if price is not None and wanted is not None:
        assert price.credits == pytest.approx(wanted[0])
        assert price.upper_bound == wanted[1]


def test_every_price_has_a_known_shape() -> None:
    keys = {"currency", "unit", "rates", "date", "confidence"}
    extra = {
        "seconds", "frames", "shots", "length_of", "adds_length_of", "length_unknown_with", "images", "megapixels",
        "surcharge",
    }  # fmt: skip
    assert len(PRICED) == 148
    for name, facts in PRICED.items():
        price = facts["price"]
        assert keys <= price.keys() <= keys | extra, name
        assert price["unit"] in ("second", "task", "image", "megapixel")
        assert ("megapixels" in price) == (price["unit"] == "megapixel")
        for part in (price.get("images"), price.get("length_of"), price.get("adds_length_of"), price.get("surcharge")):
            assert part is None or part["field"] in facts["fields"], name
        for rate in price["rates"]:
            assert rate["credits"] > 0
            assert all(isinstance(value, (bool, int, str)) for value in rate["when"].values())
        lengths = {"seconds", "frames", "length_of"} & price.keys()
        assert (price["unit"] == "second") == bool(lengths or "duration" in facts["fields"]) or price[
            "unit"
        ] != "second"


def test_models_without_a_price_are_those_whose_length_has_no_bound() -> None:
    smallest = {name: list_price(name, required_input(facts)) for name, facts in PRICED.items()}

    assert {name for name, price in smallest.items() if price is None} - {
        "hailuo/2-3-image-to-video-pro",
        "hailuo/2-3-image-to-video-standard",
        "runway",
    } == UNBOUNDED


@pytest.mark.parametrize(
    ("model", "given_input", "credits", "upper_bound"),
    [
        ("wan/2-2-a14b-image-to-video-turbo", {}, 80.0, False),
        ("wan/2-2-a14b-image-to-video-turbo", {"resolution": "580p"}, 60.0, False),
        ("wan/2-2-a14b-speech-to-video-turbo", {"num_frames": 120, "frames_per_second": 24}, 60.0, False),
        ("kling/v2-1-pro", {"duration": 10}, 100.0, False),
        ("kling/v2-1-pro", {"duration": 10.0}, 100.0, False),
        ("bytedance/seedance-2", {"duration": 5}, 205.0, False),
        ("bytedance/seedance-2", {"duration": -1}, 615.0, True),
        ("bytedance/seedance-2", {"duration": 5, "reference_video_urls": [CLIP]}, 500.0, True),
        ("bytedance/seedance-2", {"duration": 5, "reference_video_urls": []}, 205.0, False),
        ("bytedance/seedance-2-5", {"duration": "-1", "reference_video_urls": [CLIP]}, 38.0 * 60, True),
        ("gemini-omni-video", {"duration": "4", "video_list": [{"url": CLIP}]}, 168.0, False),
        ("gemini-omni-video", {"duration": "4"}, 63.0, False),
        ("kling-3.0-omni/reference-to-video", {"duration": 5, "audio": True}, 90.0, False),
        ("kling-3.0-omni/reference-to-video", {"duration": 5}, 90.0, True),
        ("kling-3.0-omni/reference-to-video", {"duration": 5, "video_urls": [CLIP]}, 100.0, False),
        ("kling-3.0-omni/transformation", {"video_urls": [CLIP]}, 320.0, True),
        ("kling-3.0-omni/transformation", {"video_urls": [CLIP], "duration": "5"}, 100.0, False),
        ("kling-3.0/video", {"mode": "std", "duration": "5", "multi_shots": True}, 70.0, True),
        # The flag is on by default.
        ("kling-3.0-omni/text-to-video", {"multi_prompt": [{"prompt": "x", "duration": 15}]}, 210.0, True),
        (
            "kling-3.0-omni/text-to-video",
            {"customize_multi_shots": False, "multi_prompt": [{"prompt": "x", "duration": 15}]},
            70.0,
            False,
        ),
        (
            "kling-3.0/video",
            {"mode": "std", "duration": "5", "multi_shots": True, "multi_prompt": [{"duration": 3}, {"duration": 4}]},
            98.0,
            True,
        ),
        ("kling-3.0/motion-control", {"mode": "pro", "video_urls": [CLIP]}, 810.0, True),
        ("pixverse-v6/image-to-video", {"quality": "360p", "template_id": "12"}, 60.0, True),
        ("grok-imagine/image-to-video", {}, 72.0, True),
        ("grok-imagine/extend", {"extend_times": 6}, 27.0, True),
        ("grok-imagine/upscale", {}, 30.0, True),
        ("veo-3-1", {"model": "veo3_lite"}, 30.0, False),
        ("veo-3-1", {}, 250.0, True),  # the default tier is a guess
        ("veo/extend", {}, 250.0, True),
        ("flux1-kontext", {}, 10.0, True),
        ("seedream/5-pro-layer-decomposition", {"size": "auto"}, 14.0, True),
        ("bytedance/seedream-v4-edit", {"max_images": 3}, 15.0, True),
        ("bytedance/seedream-v4-edit", {"max_images": 1}, 5.0, False),
        ("ideogram/v3-remix", {"rendering_speed": "TURBO"}, 14.0, True),
        ("wan/2-7-image", {}, 57.6, True),
        ("qwen/image-edit", {"num_images": "2"}, 2 * 6 * 1.048576, True),
        ("qwen3/image-to-image", {"image_urls": [CLIP, CLIP]}, 5.8, False),
        ("minimax-h3/reference-to-video", {"duration": 4, "reference_image_urls": [CLIP] * 7}, 60.0, False),
        ("wan/2-7-videoedit", {"duration": 0}, 240.0, True),
        ("happyhorse/video-edit", {}, 2880.0, True),
    ],
    ids=str,
)
def test_price_of(model: str, given_input: dict[str, Any], credits: float, upper_bound: bool) -> None:  # noqa: FBT001
    price = MarketRequest(model=model, input=given_input).list_price()

    assert price is not None
    assert price.credits == pytest.approx(credits)
    assert upper_bound is price.upper_bound
    assert price.as_of == PRICED[model]["price"]["date"]


@pytest.mark.parametrize(
    ("model", "given_input"),
    [
        ("acme/unknown", {}),
        ("sora-2-image-to-video", {}),
        ("elevenlabs/audio-isolation", {}),
        ("grok-imagine-video-1-5-preview", {"resolution": "1080p"}),
        ("seedream/5-pro-layer-decomposition", {"size": "1.5K"}),
        ("hailuo/2-3-image-to-video-pro", {"resolution": "1080P", "duration": "10"}),
        ("wan/3-0-video", {"resolution": "720p"}),  # the service writes 720P
        ("wan/2-7-r2v", {"duration": "long"}),
        ("wan/2-7-r2v", {"duration": [5]}),
        ("wan/2-7-r2v", {"duration": True}),
        ("wan/2-7-r2v", {"duration": float("nan")}),
        ("wan/2-7-r2v", {"duration": 10**400}),
        ("wan/2-7-image", {"n": 0}),
        ("wan/2-2-animate-move", {"video_url": CLIP}),
        ("wan/2-2-a14b-speech-to-video-turbo", {"frames_per_second": 0}),
    ],
    ids=str,
)
def test_no_price_where_none_is_listed_or_can_be_computed(model: str, given_input: dict[str, Any]) -> None:
    assert MarketRequest(model=model, input=given_input).list_price() is None


@pytest.mark.parametrize("seconds", [9.9e-307, 1e-9, 5e-324])
def test_price_of_a_tiny_duration_is_not_zero(seconds: float) -> None:
    for model in PRICED:
        price = list_price(model, {"duration": seconds})

        assert price is None or price.credits > 0


def test_no_price_for_frames_without_end() -> None:
    given_input: dict[str, Any] = {"num_frames": 120, "frames_per_second": 1e-307}

    assert list_price("wan/2-2-a14b-speech-to-video-turbo", given_input) is None


@given(st.sampled_from(sorted(PRICED)), st.data())
def test_any_input_has_a_price_or_none(model: str, data: st.DataObject) -> None:
    """A price is computed before the request is checked."""
    facts = PRICED[model]
    names = st.sampled_from([*facts["fields"], "duration", "n"])
    price = list_price(model, data.draw(st.dictionaries(names, json_values())))

    assert price is None or 0 < price.credits < 1e10


@given(st.sampled_from(COMPLETE), st.data())
def test_upper_bound_is_not_lower_than_any_price_that_fits(
    case: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    """Leave out values that have no documented default: the price becomes a bound, which the price keeps."""
    model, complete = case
    without_default = [
        name for name in complete if "default" not in MODELS[model]["fields"][name] and complete[name] is not None
        and MODELS[model]["fields"][name]["type"] != "array"
    ]  # fmt: skip
    left_out = data.draw(st.sets(st.sampled_from(without_default))) if without_default else set()
    price, bound = (
        list_price(model, complete),
        list_price(model, {k: v for k, v in complete.items() if k not in left_out}),
    )

    if price is not None:
        assert bound is not None
        assert bound.credits >= price.credits


def test_request_of_a_wrong_type_has_no_price() -> None:
    wrong: Any = 5
    assert MarketRequest(model=wrong, input={}).list_price() is None
    assert MarketRequest(model="kling/v2-1-pro", input=wrong).list_price() is None


def test_documented_model_has_its_price() -> None:
    image = b"\x89PNG"  # not even checked
    request = Wan22TurboImageToVideo(image=image, prompt="x", resolution="480p")

    assert request.list_price() == ListPrice(credits=40.0, upper_bound=False, as_of="2026-10-01")


def test_data_are_read_when_a_price_is_asked_for() -> None:
    program = """
import sys
from kie_async import KieClient, MarketRequest, Wan22TurboImageToVideo
request = MarketRequest(model="kling/v2-1-pro", input={"duration": "5"})
request.check(), request.input({}), request.problems()
assert "kie_async.catalogue" not in sys.modules
request.list_price()
assert "kie_async.catalogue._data" in sys.modules
assert "aiohttp" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
