"""Fingerprints of requests, and keys of rows and retries."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from kie_async._keys import DefaultKeys, differs, fingerprint, is_encodable, is_retry_key, retry_key, row_key
from tests.strategies import json_objects, json_values, texts

if TYPE_CHECKING:
    from kie_async import JSON

models = st.sampled_from(["wan/2-2", "z-image"])
names = st.sampled_from(["model", "image_url", "prompt", "seed"])
inputs = st.dictionaries(names, json_values(), max_size=4)
images = st.dictionaries(names, st.sampled_from(["c0ffee", "[1]"]), max_size=2)


def reordered(value: JSON) -> JSON:
    """Reverse the members of all objects of a value."""
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(texts, json_objects())
def test_fingerprint_ignores_order(model: str, given_input: dict[str, JSON]) -> None:
    again = json.loads(json.dumps(reordered(given_input)))

    assert fingerprint(model, given_input, {}) == fingerprint(model, again, {})
    assert () == differs(model, given_input, {}, model, again, {})


@given(models, inputs, images, models, inputs, images)
def test_fingerprints_differ_if_a_field_differs(
    model_a: str,
    input_a: dict[str, JSON],
    images_a: dict[str, str],
    model_b: str,
    input_b: dict[str, JSON],
    images_b: dict[str, str],
) -> None:
    named = differs(model_a, input_a, images_a, model_b, input_b, images_b)

    assert (fingerprint(model_a, input_a, images_a) == fingerprint(model_b, input_b, images_b)) == (named == ())
    assert named == differs(model_b, input_b, images_b, model_a, input_a, images_a)


@given(inputs, images, texts)
def test_fingerprint_ignores_upload_urls(given_input: dict[str, JSON], hashes: dict[str, str], url: str) -> None:
    elsewhere = given_input | dict.fromkeys(hashes, url)

    assert fingerprint("m", given_input, hashes) == fingerprint("m", elsewhere, hashes)


def test_differing_fields_are_named_model_first() -> None:
    a: tuple[str, dict[str, JSON], dict[str, str]]
    a = ("wan/2-2", {"seed": 1, "prompt": "A cat", "image_url": "https://a.example/1"}, {"image_url": "c0ffee"})

    assert () == differs(*a, *a)
    assert ("model",) == differs(*a, "z-image", *a[1:])
    assert ("prompt", "seed") == differs(*a, "wan/2-2", {"seed": True, "image_url": "https://b.example/2"}, a[2])
    assert ("image_url",) == differs(*a, *a[:2], {"image_url": "badcafe"})
    assert ("image_url",) == differs(*a, *a[:2], {})
    assert ("model", "image_url") == differs(*a, "z-image", a[1], {})


def test_fingerprint_is_stable_over_versions() -> None:
    """Journals contain it: another algorithm would make existing keys conflict."""
    found = fingerprint("z-image", {"seed": 1, "prompt": "Ä", "scale": 1.0}, {"image_url": "c0ffee"})

    assert found == "27de61e4db50f8c017f9582c850c61dea3c98cc6a99bbb810101b1c98c6c802c"


def test_default_keys_count_equal_content() -> None:
    keys = DefaultKeys()

    assert ["a" * 24, "b" * 24, "a" * 24 + ".2"] == [keys.next_key(digit * 64) for digit in "aba"]


@given(st.text(min_size=1).filter(lambda key: not is_retry_key(key)), st.integers(1, 1000))
def test_retry_key_contains_the_row_key(key: str, number: int) -> None:
    retry = retry_key(key, number)

    assert (key, False) == (retry_key(key, 0), is_retry_key(key))
    assert (True, key, key) == (is_retry_key(retry), row_key(retry), row_key(key))


@given(texts)
def test_only_half_surrogate_pairs_are_not_encodable(text: str) -> None:
    assert is_encodable(text) == (not any("\ud800" <= character <= "\udfff" for character in text))


def test_long_texts_are_not_checked_character_by_character() -> None:
    """The prompts of requests are checked in the event loop."""
    calls = []
    before = sys.getprofile()
    sys.setprofile(lambda _frame, event, _argument: calls.append(event))
    try:
        encodable = is_encodable("ä" * 5000)
    finally:
        sys.setprofile(before)

    assert encodable
    assert len(calls) < 20
