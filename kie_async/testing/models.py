"""The models of the fake service."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from kie_async.catalogue.prices import list_price
from kie_async.testing.catalogue import ModelFacts, load_facts

if TYPE_CHECKING:
    from random import Random

    from kie_async.records import JSON
    from kie_async.testing.tasks import Output, Stages

__all__ = ["FakeModel", "choose_stages", "load_models", "other_model"]

#: The price in credits of a model without a list price; ``FakeKie(prices=...)`` overrides all prices.
OTHER_PRICE = 50.0

# Recorded: some models have only one state before the end, others have several.
WAITING: Stages = ((0.0, "waiting"),)
GENERATING: Stages = ((0.0, "generating"),)
ALL_STAGES: Stages = ((0.0, "waiting"), (0.15, "queuing"), (0.4, "generating"))
_ONLY_WAITING = ("bytedance/seedance-2", "wan/2-7-", "happyhorse", "grok-imagine/", "gpt-image-2-image")
_ONLY_GENERATING = ("kling-3.0/video", "seedream/5-lite", "gpt-image-2-text")

#: The result of a model whose kind does not tell it.
_OUTPUTS: Mapping[str, Output] = MappingProxyType({"ai-music-api/timeStamped-lyrics": "object"})


@attrs.frozen(kw_only=True)
class FakeModel:
    """
    A model.

    Attributes:
        name: The name.

        output: The result that it makes.

        facts: The facts about its inputs; None for a model that accepts every input.

    """

    name: str
    output: Output = "video"
    facts: ModelFacts | None = None

    @property
    def defaults(self) -> dict[str, JSON]:
        """The fields that the service adds to an ``input`` that lacks them."""
        fields = {} if self.facts is None else self.facts["fields"]
        return {
            name: facts["default"]
            for name, facts in fields.items()
            if "default" in facts and isinstance(facts["default"], str | float | int)
        }

    def price(self, given: Mapping[str, JSON]) -> float:
        """Return the list price of an ``input`` in credits; the highest one that fits if the input leaves it open."""
        price = list_price(self.name, given)
        return OTHER_PRICE if price is None else price.credits


def choose_stages(model: str, rng: Random) -> Stages:
    """Choose the states of a task of *model* before its end."""
    if model.startswith(_ONLY_WAITING):
        return WAITING
    if model.startswith(_ONLY_GENERATING):
        return GENERATING
    return ALL_STAGES if rng.random() < 0.3 else WAITING  # noqa: PLR2004 (a share; nothing recorded)


def _output_of(facts: ModelFacts) -> Output:
    kind = facts["kind"]
    if facts["model"] in _OUTPUTS:
        return _OUTPUTS[facts["model"]]
    if kind == "image-analysis":
        return "object"
    if kind in ("audio", "music"):
        return "audio" if kind == "audio" else "music"
    return "image" if kind.endswith("image") else "video"


@cache
def load_models() -> Mapping[str, FakeModel]:
    """Return every model of the catalogue by its name; the first call reads a file."""
    return MappingProxyType(
        {name: FakeModel(name=name, output=_output_of(facts), facts=facts) for name, facts in load_facts().items()}
    )


def other_model(name: str) -> FakeModel:
    """
    Return a model of which only the name is known, such as a model of a test.

    >>> other_model("acme/text-to-image").output
    'image'
    """
    return FakeModel(name=name, output="image" if "image" in name and "video" not in name else "video")
