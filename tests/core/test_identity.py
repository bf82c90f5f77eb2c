"""When two requests are the same, and what makes them differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from kie_async._keys import DefaultKeys, differs, fingerprint
from tests.strategies import json_objects, json_values, texts

if TYPE_CHECKING:
    from kie_async import JSON

models = st.sampled_from(["wan/2-2", "z-image"])
names = st.sampled_from(["model", "image_url", "prompt", "seed"])
inputs = st.dictionaries(names, json_values(), max_size=4)
images = st.dictionaries(names, st.sampled_from(["c0ffee", "[1]"]), max_size=2)


def reordered(value: JSON) -> JSON:
    """The same value with the members of all objects in reverse order."""
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(texts, json_objects())
def test_order_does_not_count_and_the_journal_changes_nothing(model: str, given_input: dict[str, JSON]) -> None:
    again = json.loads(json.dumps(reordered(given_input)))

    assert fingerprint(model, given_input, {}) == fingerprint(model, again, {})
    assert () == differs(model, given_input, {}, model, again, {})


@given(models, inputs, images, models, inputs, images)
def test_fingerprints_differ_if_and_only_if_something_is_named(
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
def test_where_an_image_was_uploaded_to_does_not_count(
    given_input: dict[str, JSON], hashes: dict[str, str], url: str
) -> None:
    elsewhere = given_input | dict.fromkeys(hashes, url)

    assert fingerprint("m", given_input, hashes) == fingerprint("m", elsewhere, hashes)


def test_what_differs_is_named_model_first_and_then_by_name() -> None:
    a: tuple[str, dict[str, JSON], dict[str, str]]
    a = ("wan/2-2", {"seed": 1, "prompt": "A cat", "image_url": "https://a.example/1"}, {"image_url": "c0ffee"})

    assert () == differs(*a, *a)
    assert ("model",) == differs(*a, "z-image", *a[1:])
    assert ("prompt", "seed") == differs(*a, "wan/2-2", {"seed": True, "image_url": "https://b.example/2"}, a[2])
    assert ("image_url",) == differs(*a, *a[:2], {"image_url": "badcafe"})
    assert ("image_url",) == differs(*a, *a[:2], {})
    assert ("model", "image_url") == differs(*a, "z-image", a[1], {})


def test_a_fingerprint_stays_the_same_over_versions() -> None:
    """Journals hold it: another algorithm would make old keys conflict."""
    found = fingerprint("z-image", {"seed": 1, "prompt": "Ä", "scale": 1.0}, {"image_url": "c0ffee"})

    assert found == "27de61e4db50f8c017f9582c850c61dea3c98cc6a99bbb810101b1c98c6c802c"


def test_default_keys_count_equal_content() -> None:
    keys = DefaultKeys()

    assert ["a" * 24, "b" * 24, "a" * 24 + ".2"] == [keys.next_key(digit * 64) for digit in "aba"]
