"""The models of the fake service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from kie_async.testing.catalogue import ModelFacts, load_facts

if TYPE_CHECKING:
    from random import Random

    from kie_async.records import JSON
    from kie_async.testing.tasks import Output, Stages

__all__ = ["WAN_22_TURBO", "FakeModel", "choose_stages", "load_models", "other_model"]

WAN_22_TURBO = "wan/2-2-a14b-image-to-video-turbo"

#: The price in credits of a model without a known price; ``FakeKie(prices=...)`` overrides it.
OTHER_PRICE = 50.0

#: The prices in credits of a clip of ``WAN_22_TURBO`` by resolution (price list of 2026-06-30).
CLIP_PRICES = MappingProxyType({"480p": 40.0, "580p": 60.0, "720p": 80.0})

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

        price: Returns the price of an ``input`` in credits.
    """

    name: str
    output: Output = "video"
    facts: ModelFacts | None = None
    price: Callable[[Mapping[str, JSON]], float] = lambda _given: OTHER_PRICE

    @property
    def defaults(self) -> dict[str, JSON]:
        """The fields that the service adds to an ``input`` that lacks them."""
        fields = {} if self.facts is None else self.facts["fields"]
        return {
            name: facts["default"]
            for name, facts in fields.items()
            if "default" in facts and isinstance(facts["default"], str | float | int)
        }


def choose_stages(model: str, rng: Random) -> Stages:
    """Choose the states of a task of *model* before its end."""
    if model.startswith(_ONLY_WAITING):
        return WAITING
    if model.startswith(_ONLY_GENERATING):
        return GENERATING
    return ALL_STAGES if rng.random() < 0.3 else WAITING  # noqa: PLR2004 (a share; nothing recorded)


def _price_wan_22_turbo(given: Mapping[str, JSON]) -> float:
    return CLIP_PRICES[str(given.get("resolution") or "720p")]


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
    models = {name: FakeModel(name=name, output=_output_of(facts), facts=facts) for name, facts in load_facts().items()}
    models[WAN_22_TURBO] = attrs.evolve(models[WAN_22_TURBO], price=_price_wan_22_turbo)
    return MappingProxyType(models)


def other_model(name: str) -> FakeModel:
    """
    Return a model of which only the name is known, such as a model of a test.

    >>> other_model("acme/text-to-image").output
    'image'
    """
    return FakeModel(name=name, output="image" if "image" in name and "video" not in name else "video")
