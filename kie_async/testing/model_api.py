"""
The service's list of models, their schemas and their prices.

The shapes are those of the service's own instructions of September 2026. The texts are ours; those of the service are
written by hand, as is the name of the one model that is not used by createTask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import attrs

from kie_async.testing import responses
from kie_async.testing.catalogue import FieldFacts, ModelFacts, PriceFacts, VariantFacts, load_facts
from kie_async.testing.responses import FakeResponse, json_response

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.account import FakeAccount

__all__ = ["CHAT_MODEL", "ModelApi"]

#: A model with a path of its own.
CHAT_MODEL = "gemini-3-flash"

_CREDIT = 0.005  # US dollars
_NOT_FOUND = 404

#: The name of a field in the schemas of some vendors, which has a blank at its end.
_WITH_BLANK = ("image_urls", frozenset({"happyhorse", "wan"}))

#: Our keys and those of JSON Schema.
_KEYS: Mapping[str, str] = {
    "enum": "enum",
    "default": "default",
    "min": "minimum",
    "minimum": "minimum",
    "max": "maximum",
    "step": "multipleOf",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
    "min_items": "minItems",
    "max_items": "maxItems",
    "maxItems": "maxItems",
    "deprecated": "deprecated",
}
#: Keys that a schema does not have for a number in a string, or where the text has more than the schema.
_BOUNDS = frozenset({"min", "max"})


@attrs.define(kw_only=True, eq=False)
class ModelApi:
    """
    The endpoints below ``/api/v1/models``.

    Attributes:
        account: The account, whose keys share one request per second.
    """

    account: FakeAccount

    def list_models(self, now: float, query: Mapping[str, str], *, key: str | None) -> FakeResponse:
        """
        Return the models that match a query; without one, all of them.

        Args:
            now: The loop's clock.

            query: The parameters ``taskType`` (several, separated by commas), ``provider`` and ``q``.

            key: The API key if it is valid, else None.
        """
        if (refusal := self._refuse(now, key)) is not None:
            return refusal
        types = {name.strip().lower() for name in query.get("taskType", "").split(",") if name.strip()}
        provider, words = query.get("provider", "").lower(), query.get("q", "").lower()
        models = [
            entry
            for entry in (*map(_entry, load_facts().values()), _chat_entry())
            if (not types or types.intersection(name.lower() for name in _strings(entry["taskType"])))
            and provider in ("", str(entry["provider"]).lower())
            and words in str(entry["model"]).lower()
        ]
        return json_response(200, data={"total": len(models), "models": [*models]})

    def describe(self, now: float, path: str, *, key: str | None) -> FakeResponse:
        """
        Return the schema, the price or the success rate of a model.

        Args:
            now: The loop's clock.

            path: The path below ``/api/v1/models/``: the model's name, whose slash is not encoded, and what is asked.

            key: The API key if it is valid, else None.
        """
        if (refusal := self._refuse(now, key)) is not None:
            return refusal
        name, _, wanted = path.rpartition("/")
        facts = load_facts().get(name)
        if (facts is None and name != CHAT_MODEL) or wanted not in ("schema", "price", "success-rate"):
            return json_response(_NOT_FOUND, responses.TEXTS[422])
        match wanted:
            case "schema":
                return json_response(
                    200, data={"model": name, "openapi": _chat_schema() if facts is None else _schema(facts)}
                )
            case "price":
                price = None if facts is None else _price_text(facts.get("price"))
                return json_response(200, data={"model": name, "pricingDesc": price})
            case _:
                return json_response(200, data={"model": name, "points": []})

    def _refuse(self, now: float, key: str | None) -> FakeResponse | None:
        if key is None:
            return json_response(401)
        return None if self.account.model_queries.admit(now) else json_response(429)


def _strings(value: JSON) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _entry(facts: ModelFacts) -> dict[str, JSON]:
    name = facts["model"]
    return {
        "model": name,
        "slug": name,
        "title": f"{name} API",
        "provider": facts["vendor"].capitalize(),
        "taskType": [*_task_types(facts["kind"])],
        "description": None,
        "pricingDesc": _price_text(facts.get("price")),
    }


def _chat_entry() -> dict[str, JSON]:
    return {
        "model": CHAT_MODEL,
        "slug": CHAT_MODEL,
        "title": f"{CHAT_MODEL} API",
        "provider": "Google",
        "taskType": ["Chat"],
        "description": None,
        "pricingDesc": None,
    }


def _task_types(kind: str) -> list[str]:
    """
    Return the names of what a model of a kind does.

    >>> _task_types("text-or-image-to-video"), _task_types("audio")
    (['Text to Video', 'Image to Video'], ['Audio'])
    """
    given, to, made = kind.partition("-to-")
    if not to:
        return [kind.replace("-", " ").title()]
    return [f"{part.title()} to {made.title()}" for part in given.replace("+", "-or-").split("-or-")]


def _price_text(price: PriceFacts | None) -> str | None:
    """Return the price of a model in words; None if it has none."""
    if price is None:
        return None
    return " ".join(
        f"Each {price['unit']}{_condition(rate['when'])} costs {rate['credits']:g} credits"
        f" (${rate['credits'] * _CREDIT:.6g})."
        for rate in price["rates"]
    )


def _condition(when: Mapping[str, JSON]) -> str:
    return " with" + " and".join(f" {name} {responses.encode(value)}" for name, value in when.items()) if when else ""


# -- schemas ------------------------------------------------------------------------------------------------------


def _ref(group: str, name: str) -> dict[str, JSON]:
    """Return a reference to a component, whose name is percent-encoded."""
    return {"$ref": f"#/components/{group}/{quote(name, safe='')}"}


def _schema(facts: ModelFacts) -> JSON:
    """Return the OpenAPI document of a model; None for models that have none, which are those without a page."""
    if facts["confidence"] != "documented":
        return None
    name = facts["model"]
    components: dict[str, JSON] = {}
    body_required: list[JSON] = ["model", "input", *facts.get("also_required_in_body", ())]
    components["createTask request"] = {
        "type": "object",
        "properties": {
            "model": {"type": "string", "enum": [name], "default": name},
            "callBackUrl": {"type": "string", "format": "uri"},
            "input": _ref("schemas", f"input of {name}"),
        },
        "required": body_required,
    }
    components[f"input of {name}"] = _input_schema(facts, components)
    return _document(name, "/api/v1/jobs/createTask", components)


def _chat_schema() -> JSON:
    return _document(CHAT_MODEL, f"/{CHAT_MODEL}/v1/chat/completions", {"createTask request": {"type": "object"}})


def _document(name: str, path: str, components: dict[str, JSON]) -> dict[str, JSON]:
    components["response not with recordId"] = {"type": "object"}
    content: JSON = {"application/json": {"schema": _ref("schemas", "createTask request")}}
    answer: JSON = {
        "description": "",
        "content": {"application/json": {"schema": _ref("schemas", "response not with recordId")}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": "1.0.0"},
        "servers": [{"url": "https://api.kie.ai"}],
        "paths": {
            path: {
                "post": {
                    "requestBody": {"content": content},
                    "responses": {"200": answer, "500": _ref("responses", "Error ")},
                }
            }
        },
        "components": {"schemas": components, "responses": {"Error ": {"description": "Error"}}},
    }


def _input_schema(facts: ModelFacts, components: dict[str, JSON]) -> JSON:
    """Return the schema of an input: an object, or alternatives that list their fields."""
    variants = [variant for variant in facts.get("variants", []) if "fields" in variant]
    if not variants:
        return _object_schema(
            facts, facts["fields"], [n for n, f in facts["fields"].items() if f.get("required")], components
        )
    branches: list[JSON] = []
    for variant in variants:
        branch = _object_schema(facts, _fields_of(facts, variant), variant.get("required", []), components)
        branches.append({"title": variant.get("name", ""), **branch})
    return {"oneOf": branches}


def _fields_of(facts: ModelFacts, variant: VariantFacts) -> dict[str, FieldFacts]:
    limits, names = variant.get("limits", {}), variant.get("fields", [])
    return {
        name: cast("FieldFacts", {**field, **limits.get(name, {})})
        for name, field in facts["fields"].items()
        if name in names
    }


def _object_schema(
    facts: ModelFacts, fields: Mapping[str, FieldFacts], required: list[str], components: dict[str, JSON]
) -> dict[str, JSON]:
    def spelled(name: str) -> str:
        return f"{name} " if name == _WITH_BLANK[0] and facts["vendor"] in _WITH_BLANK[1] else name

    properties = {spelled(name): _field_schema(f"{name} item", field, components) for name, field in fields.items()}
    return {"type": "object", "properties": properties, "required": [spelled(name) for name in required]}


def _field_schema(item_name: str, field: FieldFacts, components: dict[str, JSON]) -> dict[str, JSON]:
    """Return the schema of a field: what the page says in words only is in its description, or left out."""
    left_out = _BOUNDS if field["type"] == "string" or "also" in field else frozenset[str]()
    schema: dict[str, JSON] = {"type": field["type"], "description": _description(field)}
    schema |= {theirs: _value(field, ours) for ours, theirs in _KEYS.items() if ours in field and ours not in left_out}
    if "items" in field:
        items = field["items"]
        if "fields" in items:
            components[item_name] = _nested_schema(item_name, items, components)
            schema["items"] = _ref("schemas", item_name)
        else:
            schema["items"] = _field_schema(item_name, items, components)
    return schema


def _nested_schema(item_name: str, items: FieldFacts, components: dict[str, JSON]) -> dict[str, JSON]:
    fields = items.get("fields", {})
    return {
        "type": "object",
        "properties": {name: _field_schema(f"{item_name} {name}", field, components) for name, field in fields.items()},
        "required": [name for name, field in fields.items() if field.get("required")],
    }


def _value(field: FieldFacts, key: str) -> JSON:
    facts: Mapping[str, object] = field
    value = facts[key]
    return value if isinstance(value, str | float | int | list) else None


def _description(field: FieldFacts) -> str:
    if "format" not in field:
        return ""
    accepted = "; Accepted types: " + ", ".join(field["accepts"]) if "accepts" in field else ""
    size = f"; Max size: {field['max_mb']:.1f}MB" if "max_mb" in field else ""
    return f"(The URL of a file{accepted}{size})"
