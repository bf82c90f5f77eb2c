"""Which tasks are expected to take as long as each other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from kie_async._core.durations import kind_of
from kie_async.records import JSON
from tests.core.strategies import job_ids


def test_what_makes_a_task_longer_tells_kinds_apart_and_all_else_does_not() -> None:
    first = kind_of("m", {"prompt": "a", "seed": 1, "resolution": "480p", "duration": 5})

    assert ("m", "duration=5", "resolution=480p") == first
    assert first == kind_of(
        "m", {"duration": "5", "resolution": "480p", "prompt": "b", "image_url": "https://a.example"}
    )
    assert first != kind_of("m", {"resolution": "720p", "duration": 5})
    assert first != kind_of("n", {"resolution": "480p", "duration": 5})


def test_the_input_may_be_json() -> None:
    given: dict[str, JSON] = {"resolution": "480p", "sound": True}

    assert kind_of("m", given) == kind_of("m", json.dumps(given)) == ("m", "resolution=480p", "sound=True")


@pytest.mark.parametrize("input", [None, "", "{", "[1]", "c0ffee", {}, {"resolution": None}, {"mode": ["a"]}])
def test_where_the_input_is_not_known_the_model_alone_counts(input: JSON) -> None:  # noqa: A002 (the service's word)
    assert ("m",) == kind_of("m", input)


@given(job_ids)
def test_a_long_value_makes_no_kind(text: str) -> None:
    """It is no setting, and every task would be a kind of its own."""
    assert ("",) == kind_of(None, {"mode": text})
