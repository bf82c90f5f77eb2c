"""Test the tolerant JSON decoder."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import JSON
from kie_async._core.lenient_json import MAX_DEPTH, decode, decode_around, number, text, unwrap_json
from tests.strategies import json_values


@given(json_values())
def test_json_is_decoded_as_by_the_standard_library(value: JSON) -> None:
    assert decode(json.dumps(value)) == value


@given(st.text())
def test_other_documents_raise_value_error(document: str) -> None:
    try:
        decode(document)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            decode_around(document, "param")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 900, 100_000])
def test_too_deep_documents_are_refused(opening: str, levels: int) -> None:
    closing = "]" if opening == "[" else "}"
    with pytest.raises(ValueError, match=f"deeper than {MAX_DEPTH} levels"):
        decode(opening * levels + "1" + closing * levels)


def test_depth_counts_objects_and_arrays() -> None:
    assert decode("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert decode('[{"a":' * (MAX_DEPTH // 2) + "1" + "}]" * (MAX_DEPTH // 2)) is not None
    with pytest.raises(ValueError, match="deeper"):
        decode("[1, [" + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "], 2]")


def test_siblings_and_strings_add_no_depth() -> None:
    wide = [[], {"a": "[{" * MAX_DEPTH}] * MAX_DEPTH
    assert wide == decode(json.dumps(wide))


@pytest.mark.parametrize(
    ("document", "value"),
    [
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("1e309", "1e309"),
        ("9" * 301, "9" * 301),
        ("9" * 300, 10**300 - 1),
        ("-0.0", -0.0),
        ('{"a":1,"a":2}', {"a": 2}),
    ],
)
def test_unusual_numbers_and_names(document: str, value: JSON) -> None:
    assert decode(document) == value


def test_a_broken_member_ends_at_the_first_valid_quote() -> None:
    assert decode_around('{"p" : "a"b" , "q":1}', "p") == {"p": 'a"b', "q": 1}
    assert decode_around('{"q":1,"p":"a"b"}', "p") == {"p": 'a"b', "q": 1}
    assert decode_around('{"p":"","q":1}', "p") == {"p": "", "q": 1}


@pytest.mark.parametrize("document", ['{"q":1}', '{"p":5,}', '{"p":"a"b', '{"p":"a"b","q":1,"q":2}'])
def test_a_document_that_is_still_broken_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="not JSON, whatever p contains"):
        decode_around(document, "p")


@given(json_values(), st.integers(0, 3))
def test_three_levels_of_encoding_are_decoded(value: JSON, times: int) -> None:
    inside = unwrap_json(value)
    wrapped = value
    for _ in range(times):
        wrapped = json.dumps(wrapped)

    if not isinstance(value, str):
        assert inside == value
        assert unwrap_json(wrapped) == value


def test_a_fourth_level_stays_encoded() -> None:
    value = "[]"
    for _ in range(3):
        value = json.dumps(value)

    assert unwrap_json(value) == "[]"


@given(json_values() | st.integers() | st.floats())
def test_strings_and_numbers_are_converted_or_none(value: JSON) -> None:
    assert text(value) != ""
    figure = number(value)
    assert figure is None or math.isfinite(figure)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        assert figure == float(value)


def test_numbers_too_large_for_a_float_are_none() -> None:
    assert number(10**400) is None
    assert text(10**400) is None
    assert text(10**300) == "1" + "0" * 300
