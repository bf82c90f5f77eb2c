"""Requests of every class are sent as the facts say, and bad values are refused before anything is sent."""

from __future__ import annotations

import enum
import itertools
import json
import re
from pathlib import Path
from typing import Any, cast

import attrs
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import Done, InvalidRequestError, KeyConflictError, KieClient
from kie_async._keys import price_class
from kie_async.catalogue import Hailuo23ImageToVideoPro, Kling30Video, Seedance1ProImageToVideo, Seedance2
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


class Size(str, enum.Enum):  # noqa: UP042 (str() of a StrEnum is its value)
    """Choices of a caller, of the kind whose ``str()`` is its name."""

    HIGH = "1080p"


class Seconds(int, enum.Enum):
    """Integers of a caller."""

    TEN = 10


def test_members_of_enumerations_are_their_values() -> None:
    """``str()`` of such a member is its name, which the service does not know."""
    plain = Seedance1ProImageToVideo(image=URL, prompt="x", resolution="1080p", duration=10)
    named = Seedance1ProImageToVideo(image=URL, prompt="x", resolution=Size.HIGH, duration=Seconds.TEN)  # type: ignore[arg-type]  # the point
    named.check()

    assert json.dumps(plain.input({})) == json.dumps(named.input({}))
    assert plain.list_price() == named.list_price()
    assert plain.list_price() is not None


@pytest.mark.parametrize("model", CLASSES)
def test_number_of_many_digits_is_refused(model: str) -> None:
    """Floats end at 308 digits, and Python writes no more than 4300; nothing of that is an error here."""
    base, _ = next(fullest(model))
    for rule, digits in itertools.product(CLASSES[model].field_rules(), (400, 5000)):
        request = build(model, {**base, rule.name: 10**digits})
        price_class(model, request.input(dict.fromkeys(request.files(), URL)))
        request.list_price()

        assert rule.name in {problem.field for problem in request.problems()}
        assert repr(request)


async def test_field_of_extra_is_neither_checked_nor_uploaded(tmp_path: Path) -> None:
    """It replaces the given value, in the key of the request, too."""
    file = tmp_path / "a.png"
    file.write_bytes(b"no image")
    wrong = {"resolution": "1080P", "duration": "10", "image_url": URL}
    request = Hailuo23ImageToVideoPro(image=file, prompt="x", extra=wrong)
    request.check()
    async with FakeKie(models=[request.model]) as fake, KieClient(KEY, base_url=fake.url) as kie:
        await kie.submit(request, key="one")
        with pytest.raises(KeyConflictError) as raised:
            await kie.submit(attrs.evolve(request, extra={**wrong, "image_url": f"{URL}2"}), key="one")

        assert ("image_url",) == raised.value.differs
        assert [] == fake.truth.uploads
    with pytest.raises(InvalidRequestError, match="together"):
        Hailuo23ImageToVideoPro(image=URL, prompt="x", resolution="1080P", duration=10).check()


@pytest.mark.parametrize(
    "request_of",
    [
        lambda text: Seedance2(prompt="x", reference_images=text),
        lambda text: Kling30Video(prompt="x", elements=text),
        lambda text: Kling30Video(prompt="x", multi_prompt=[text]),
    ],
    ids=["list of files", "list of objects", "object"],
)
def test_value_in_place_of_a_list_is_not_shown(request_of: Any) -> None:
    """One address that belongs into a list, or a prompt that belongs into an object, is as private there."""
    request = request_of("https://a.example/x.png?signature=SECRET")
    with pytest.raises(InvalidRequestError) as raised:
        request.check()

    assert "SECRET" not in repr(request) + str(raised.value) + repr(raised.value)
