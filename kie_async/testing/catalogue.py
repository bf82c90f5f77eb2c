"""The facts about the models as the fake reads them: the types of the package's one data file."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Required, TypedDict, cast

from kie_async.catalogue import _data

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kie_async.records import JSON

__all__ = ["FieldFacts", "ModelFacts", "PriceFacts", "RateFacts", "VariantFacts", "load_facts"]


class FieldFacts(TypedDict, total=False):
    """The facts about one field; ``kie_async/catalogue/models.json`` has the keys that are known."""

    type: Required[str]
    required: bool
    default: JSON
    send: JSON
    enum: list[JSON]
    open: bool
    older: list[JSON]
    also: list[float]
    min: float
    max: float
    minimum: float
    step: float
    min_length: int
    max_length: int
    pattern: str
    min_items: int
    max_items: int
    maxItems: int
    format: str
    max_mb: float
    accepts: list[str]
    deprecated: bool
    confidence: str
    items: FieldFacts
    fields: dict[str, FieldFacts]


class VariantFacts(TypedDict, total=False):
    """One of the alternatives of an input."""

    name: str
    required: list[str]
    excludes: list[str]
    fields: list[str]
    limits: dict[str, FieldFacts]


class RateFacts(TypedDict):
    """The price for inputs of one kind."""

    when: dict[str, JSON]
    credits: float


class PriceFacts(TypedDict):
    """The price of a model."""

    currency: str
    unit: str
    rates: list[RateFacts]
    date: str
    confidence: str


class ModelFacts(TypedDict, total=False):
    """The facts about one model."""

    model: Required[str]
    kind: Required[str]
    image_to_video: bool
    vendor: Required[str]
    status: Required[str]
    fields: Required[dict[str, FieldFacts]]
    variants: list[VariantFacts]
    never: list[dict[str, list[JSON]]]
    needs: dict[str, str]
    also_required_in_body: list[str]
    price: PriceFacts | None
    page: Required[str]
    required_seen: str
    fields_seen: str
    seen: str
    confidence: Required[str]


@cache
def load_facts() -> Mapping[str, ModelFacts]:
    """Return the facts about every live model by its name; the first call reads a file."""
    models = cast("Mapping[str, ModelFacts]", _data.models())
    return {name: facts for name, facts in models.items() if facts["status"] == "live"}
