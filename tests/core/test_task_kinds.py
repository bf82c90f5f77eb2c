"""Test kinds of tasks, which share durations and prices."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from kie_async._core.durations import kind_of
from kie_async.records import JSON
from tests.core.strategies import job_ids


def test_only_relevant_fields_distinguish_kinds() -> None:
    first = kind_of("m", {"prompt": "a", "seed": 1, "resolution": "480p", "duration": 5})

    assert ("m", "duration=5", "resolution=480p") == first
    assert first == kind_of(
        "m", {"duration": "5", "resolution": "480p", "prompt": "b", "image_url": "https://a.example"}
    )
    assert first != kind_of("m", {"resolution": "720p", "duration": 5})
    assert first != kind_of("n", {"resolution": "480p", "duration": 5})


def test_input_may_be_json() -> None:
    given: dict[str, JSON] = {"resolution": "480p", "sound": True}

    assert kind_of("m", given) == kind_of("m", json.dumps(given)) == ("m", "resolution=480p", "sound=True")


@pytest.mark.parametrize("input", [None, "", "{", "[1]", "c0ffee", {}, {"resolution": None}, {"mode": ["a"]}])
def test_without_input_the_kind_is_the_model(input: JSON) -> None:  # noqa: A002 (the service's word)
    assert ("m",) == kind_of("m", input)


@given(job_ids)
def test_long_values_are_ignored(text: str) -> None:
    """It is not a setting, and would make every task a kind of its own."""
    assert ("",) == kind_of(None, {"mode": text})
