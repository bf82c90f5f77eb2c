"""Tasks of every class cost at the fake what an oracle says that is written from the rates."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kie_async import Done, KieClient, MarketRequest
from kie_async.requests._model import ModelRequest
from kie_async.testing import FakeKie
from tests.catalogue.facts import PRICED, oracle
from tests.catalogue.samples import CLASSES, fullest, smallest
from tests.figures import RecordFigures
from tests.helpers import CALLBACKS, KEY

#: What the fake takes for a task without a list price.
OTHER_PRICE = 50.0


def build(model: str, options: dict[str, Any]) -> ModelRequest:
    """Make a request of a model's class."""
    return cast("Any", CLASSES[model])(**options)  # type: ignore[no-any-return]  # the class is only known at run time


def samples() -> list[ModelRequest]:
    """Return the smallest request of each variant of each class, and the one with every field."""
    return [
        build(model, options)
        for model in CLASSES
        for options in [*smallest(model), *(options for options, _ in fullest(model))]
    ]


async def test_each_class_costs_what_the_rates_say(record_property: RecordFigures) -> None:
    requests = samples()
    async with (
        FakeKie(strict=True, duration=1.0, credits=1e6) as fake,
        KieClient(KEY, base_url=fake.url, callback_url=CALLBACKS) as kie,
        kie.map([(f"{n}", request) for n, request in enumerate(requests)]) as run,
    ):
        outcomes = [outcome async for outcome in run]
    priced = 0
    for found in outcomes:
        assert isinstance(found, Done)
        request = requests[int(found.key)]
        wanted = oracle(request.model, request.input({})) if request.model in PRICED else None
        listed = request.list_price()
        assert (listed is None) == (wanted is None), request
        if listed is None or wanted is None:
            assert OTHER_PRICE == found.credits
            continue
        assert found.credits == listed.credits == pytest.approx(wanted[0]), request
        assert listed.upper_bound == wanted[1], request
        priced += 1
    record_property("catalogue", {"requests priced": priced, "requests without a price": len(requests) - priced})


def test_price_is_that_of_the_model_without_its_class() -> None:
    for request in samples():
        assert request.list_price() == MarketRequest(model=request.model, input=request.input({})).list_price()
