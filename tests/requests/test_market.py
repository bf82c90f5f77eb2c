"""Requests for any other model: sent unchanged if they can be expressed in JSON."""

from __future__ import annotations

import json
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import InvalidRequestError, MarketRequest, Request
from kie_async.requests.market import MAX_BYTES, MAX_DEPTH, MAX_VALUES, json_problems
from tests.strategies import json_objects, texts, unicode_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kie_async import JSON


def market(given_input: object) -> MarketRequest:
    """Return a request with the given input."""
    return MarketRequest(model="z-image", input=cast("Any", given_input))


def test_market_request_is_a_request() -> None:
    assert isinstance(market({}), Request)
    assert market({}).files() == {}


@pytest.mark.parametrize(
    "model", ["wan/2-5-image-to-video", "kling-2.6/image-to-video", "sora-2", "z", "a:b@c+d_E", "z" * 128]
)
def test_catalogue_names_pass(model: str) -> None:
    MarketRequest(model=model, input={}).check()


@given(json_objects(unicode_texts))
def test_json_object_is_sent_unchanged(given_input: Mapping[str, JSON]) -> None:
    request = market(given_input)
    request.check()

    assert request.input({}) == given_input


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=3) | st.builds(object),
    lambda children: (
        st.lists(children, max_size=3)
        | st.tuples(children)
        | st.dictionaries(texts | st.integers() | st.none(), children, max_size=3)
        | st.frozensets(st.integers(), max_size=1)
    ),
    max_leaves=10,
)


@given(st.dictionaries(texts | st.integers(), _anything, max_size=4) | _anything)
def test_unsendable_values_are_named(given_input: object) -> None:
    request = market(given_input)
    problems = request.problems()

    if problems:
        assert all(problem.field.startswith("input") for problem in problems)
        with pytest.raises(InvalidRequestError, match="Nothing was sent"):
            request.check()
    else:
        assert json.loads(json.dumps(request.input({}), allow_nan=False)) == json.loads(json.dumps(given_input))
        json.dumps(request.input({}), ensure_ascii=False).encode()
    assert repr(request).startswith("MarketRequest(model='z-image', input=<")


def test_input_is_copied() -> None:
    shots = [{"prompt": "A cat"}]
    given_input: dict[str, Any] = {"shots": shots}
    request = market(given_input)
    shots[0]["prompt"] = "A dog"
    shots.append({})
    given_input["seed"] = 1
    sent = request.input({})
    sent["seed"] = 2

    assert request.input({}) == {"shots": [{"prompt": "A cat"}]}


def test_tuples_and_mappings_become_json() -> None:
    assert market(MappingProxyType({"a": (1, MappingProxyType({"b": 2}))})).input({}) == {"a": [1, {"b": 2}]}


def test_value_may_occur_twice() -> None:
    shared = {"prompt": "A cat"}
    request = market({"shots": [shared, shared]})
    request.check()
    shared["prompt"] = "A dog"

    assert request.input({}) == {"shots": [{"prompt": "A cat"}, {"prompt": "A cat"}]}


def test_problem_is_named_by_its_path() -> None:
    request = market({"a": [{"b c": math.nan, "d": b"x"}], "e": {2: 1}, "f": object()})

    assert ["input.a[0]['b c']", "input.a[0].d", "input.e", "input.f"] == [
        problem.field for problem in request.problems()
    ]


def nested(levels: int) -> object:
    """Return an input with a value at a depth."""
    value: object = 1
    for _ in range(levels - 1):
        value = [value]
    return {"a": value}


def test_limits_of_depth_count_and_size_are_exact() -> None:
    text = "x" * (MAX_BYTES - len('{"a": ""}'))

    assert [] == json_problems("input", nested(MAX_DEPTH))
    assert ["at most 16 levels"] == [problem.allowed for problem in json_problems("input", nested(MAX_DEPTH + 1))]
    assert [] == json_problems("input", [0] * (MAX_VALUES - 1))
    assert ["at most 10000"] == [problem.allowed for problem in json_problems("input", [0] * MAX_VALUES)]
    assert [] == json_problems("input", {"a": text})
    assert ["at most 1000000 bytes as JSON"] == [
        problem.allowed for problem in json_problems("input", {"a": text + "x"})
    ]


def test_problem_list_is_short() -> None:
    assert len(json_problems("input", [math.nan] * 1000)) == 20


def test_recursive_value_is_refused_quickly() -> None:
    knot: list[Any] = []
    knot += [knot, knot]

    assert market({"knot": knot}).problems()
    assert market(nested(10_000)).problems()


def test_equal_requests_are_equal() -> None:
    request = market({"a": [1]})

    assert request == market({"a": [1]})
    assert request != market({"a": [2]})
    assert hash(request) == hash(market({"a": [1]}))


def test_problems_of_model_and_input_are_reported() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        MarketRequest(model="", input={"a": math.inf}).check()

    assert ["model", "input.a"] == [problem.field for problem in raised.value.problems]
