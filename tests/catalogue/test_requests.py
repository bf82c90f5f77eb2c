"""Requests of every class are sent as the facts say, and bad values are refused before anything is sent."""

from __future__ import annotations

import re
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import Done, InvalidRequestError, KieClient
from kie_async.requests._model import ModelRequest
from kie_async.requests.base import Request
from kie_async.testing import FakeKie
from tests.catalogue.samples import CLASSES, URL, bad_values, fullest, schema, smallest
from tests.figures import RecordFigures
from tests.helpers import CALLBACKS, KEY


def build(model: str, options: dict[str, Any]) -> ModelRequest:
    """Make a request of a model's class."""
    return cast("Any", CLASSES[model])(**options)  # type: ignore[no-any-return]  # the class is only known at run time


@pytest.mark.parametrize("model", CLASSES)
def test_every_field_is_written_as_the_facts_say(model: str) -> None:
    """The checker is made of the facts, and knows nothing of the classes."""
    validator = jsonschema.Draft202012Validator(schema(model))
    for options, body in fullest(model):
        request = build(model, options)
        request.check()
        sent = request.input({})

        assert body == sent
        validator.validate(sent)
    for options in smallest(model):
        request = build(model, options)
        request.check()

        validator.validate(request.input({}))


async def test_smallest_and_fullest_requests_of_all_classes_succeed() -> None:
    """A service that follows the pages to the letter accepts them, and each task ends."""
    requests = [
        build(model, options)
        for model in CLASSES
        for options in [*smallest(model), *(options for options, _ in fullest(model))]
    ]
    # The pages of two models require a callback URL.
    async with (
        FakeKie(strict=True, duration=1.0, credits=1e6) as fake,
        KieClient(KEY, base_url=fake.url, callback_url=CALLBACKS) as kie,
    ):
        rows = [(f"{number}", cast("Request", request)) for number, request in enumerate(requests)]
        async with kie.map(rows) as run:
            outcomes = [outcome async for outcome in run]
        failed = [(requests[int(found.key)], found) for found in outcomes if not isinstance(found, Done)]

        assert [] == failed
        assert len(requests) == len(fake.truth.created)
        assert set(CLASSES) == {create.model for create in fake.truth.create_requests}


VALUES: st.SearchStrategy[object] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.just(URL),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "name", "x y"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.data(), st.sampled_from(sorted(CLASSES)))
def test_any_value_is_checked_and_shown(data: st.DataObject, model: str) -> None:
    """No value makes a method fail: a price is asked for and a message is made before the request is checked."""
    options, _ = next(fullest(model))
    names = [rule.name for rule in CLASSES[model].field_rules()]
    wrong = data.draw(st.dictionaries(st.sampled_from([*names, "extra"]), VALUES, max_size=3))
    request = build(model, {**options, **wrong})
    body = request.input(dict.fromkeys(request.files(), URL))

    assert isinstance(body, dict)
    assert repr(request).startswith(CLASSES[model].__name__)
    assert {re.split(r"[.[]", problem.field)[0] for problem in request.problems()} <= {*names, "extra"}
    assert all(str(problem).isprintable() for problem in request.problems())
    request.list_price()


async def test_bad_values_of_every_field_are_refused_offline(record_property: RecordFigures) -> None:
    """The message names the field and what is allowed; nothing is sent."""
    cases, fields = 0, set[tuple[str, str]]()
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url) as kie:
        for model in CLASSES:
            base, _ = next(fullest(model))
            for bad in bad_values(model):
                with pytest.raises(InvalidRequestError) as raised:
                    await kie.submit(cast("Request", build(model, {**base, bad.field: bad.value})))
                named = [problem for problem in raised.value.problems if problem.field.split("[")[0] == bad.field]

                assert named, (bad, str(raised.value))
                assert all(problem.allowed for problem in named)
                assert f"{named[0].field}: got " in str(raised.value)
                cases += 1
                fields.add((model, bad.field))

        assert [] == fake.truth.create_requests
        assert [] == fake.truth.uploads
    assert {(model, rule.name) for model, found in CLASSES.items() for rule in found.field_rules()} == fields
    assert cases >= 1000
    record_property("catalogue", {"bad values refused": cases, "fields": len(fields)})
