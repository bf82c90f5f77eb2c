"""Test the tolerant JSON decoder."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import JSON
from kie_async._core.lenient_json import (
    MAX_DEPTH,
    Layout,
    decode,
    decode_unique,
    number,
    read_broken_object,
    text,
    unwrap_json,
)
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
            decode_unique(document)


@given(st.text() | st.lists(st.sampled_from([*'{}[]":,\\ pqs1', '"q":', '"doc":"{'])).map("".join))
def test_a_broken_object_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        read("{" + text + "}")


def test_names_may_occur_once_only() -> None:
    assert {"a": [{"b": 1}, {"b": 2}]} == decode_unique('{"a":[{"b":1},{"b":2}]}')
    with pytest.raises(ValueError, match="twice"):
        decode_unique('{"a":[{"b":1,"b":2}]}')


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


LAYOUT = Layout(("p", "q", "s", "doc"), frozenset({"q"}), frozenset({"s"}), frozenset({"doc"}))


def read(document: str) -> tuple[dict[str, JSON], dict[str, str | None]]:
    """Read a broken object that is the whole document."""
    return read_broken_object(document, 0, len(document) - 1, LAYOUT)


@pytest.mark.parametrize(
    ("document", "members", "doubtful"),
    [
        ('{"q":1}', {"q": 1}, {}),
        ('{"p" : "a"b" , "q":1}', {"q": 1}, {"p": 'a"b'}),
        ('{"q":1,"p":"a"b"}', {"q": 1}, {"p": 'a"b'}),
        ('{"q":1 , "x":[2], "p":"a"b"}', {"q": 1, "x": [2]}, {"p": 'a"b'}),
        ('{"x":[2],"y":3,"p":"a"b","q":1}', {"x": [2], "y": 3, "q": 1}, {"p": 'a"b'}),
        ('{"p":"a"b","q":[1,{"s":2}]}', {"q": [1, {"s": 2}]}, {"p": 'a"b'}),
        ('{"p":"a\nb","q":1}', {"p": "a\nb", "q": 1}, {}),
        ('{"p":"","q":1}', {"p": "", "q": 1}, {}),
        ('{"doc":"","q":1}', {"doc": "", "q": 1}, {}),
        ('{"doc":"{"a":"b"}","x":"y","q":1}', {"x": "y", "q": 1}, {"doc": '{"a":"b"}'}),
        ('{"doc":"["a"]","q":1}', {"q": 1}, {"doc": '["a"]'}),
        ('{"doc":"{"a":"}","x":"{"b"}","q":1}', {"q": 1}, {"doc": '{"a":"}","x":"{"b"}'}),
        ('{"p":"a","p":"b","q":1}', {"q": 1}, {"p": 'a","p":"b'}),
        ('{"p":1,"p":2,"q":1}', {"q": 1}, {"p": None}),
        ('{"s":"a","s":"b","q":1}', {"q": 1}, {"s": None}),
        ('{"p":"a","s":"b","p":"c","q":1}', {"q": 1}, {"p": 'a","s":"b","p":"c'}),
        ('{"p":"a","s":1,"p":"b","s":2,"q":1}', {"s": 2, "q": 1}, {"p": 'a","s":1,"p":"b'}),
        ('{"p":"a","s":1,"x":"b","s":2,"q":1}', {"s": 2, "q": 1}, {"p": 'a","s":1,"x":"b'}),
        ('{"p":"a","s":"b","x":"c","s":"d","q":1}', {"q": 1}, {"p": None, "s": None}),
        ('{"p":"a","x":"b","doc":"c","q":1}', {"q": 1}, {"p": None, "doc": None}),
    ],
)
def test_members_that_are_the_same_in_all_ways_are_read(
    document: str, members: dict[str, JSON], doubtful: dict[str, str | None]
) -> None:
    assert (members, doubtful) == read(document)


@pytest.mark.parametrize(
    "document",
    [
        "{}",
        '{"p":5,}',
        '{"p":"a"b","s":}',
        '{"s":"a"b","q":1}',
        '{"q":}',
        '{"p":"a"b","q":' + "[" * 100 + "]" * 100 + "}",
        '{"p":"a"b","q":' + "[" * 100_000 + "}",
        '{"q":1,"p":"}',
        '{"p":"' + '","q":"' * 2001 + '"}',
    ],
)
def test_an_object_that_has_no_reading_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        read(document)


def test_nested_objects_are_read_a_few_times_at_most() -> None:
    with pytest.raises(ValueError, match="too many nested objects"):
        read('{"p":"a"b","doc":{"a":1' + ',"doc":{"a":1' * 7 + ',"b":[' + "1," * 5000 + '"}')


def test_a_name_that_is_found_often_counts_as_unknown() -> None:
    assert ({"q": 1}, {"p": '","s":"' * 9}) == read('{"p":"' + '","s":"' * 9 + '","q":1}')


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
