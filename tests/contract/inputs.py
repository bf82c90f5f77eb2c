"""Inputs of the models by the facts about them: the smallest, the fullest, and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kie_async

_SAMPLES = {
    "^.*\\S.*$": "A cat",
    "^(https?|oss)://": "https://example.com/a.png",
    "^#[0-9A-Fa-f]{6}$": "#00ff7f",
    "^\\d{1,3}\\.\\d{2}%$": "33.00%",
}


def load_models() -> dict[str, dict[str, Any]]:
    """Return the facts about every model by its name."""
    path = Path(kie_async.__file__).parent / "catalogue" / "models.json"
    return {facts["model"]: facts for facts in json.loads(path.read_text(encoding="utf-8"))["models"]}


def valid_value(facts: dict[str, Any], *, full: bool = False) -> Any:
    """Return a value that a field allows; a *full* object has all of its fields."""
    if "enum" in facts:
        return facts["enum"][-1]
    match facts["type"]:
        case "boolean":
            return True
        case "integer" | "number":
            return facts.get("min", facts.get("minimum", 1))
        case "array":
            items = facts.get("items", {})
            least = max(facts.get("min_items", 1), 1)
            # An item may lack a type: a list of numbers is one that the page describes in words only.
            return [valid_value({"type": "string", **items, "format": facts.get("format")}, full=full)] * least
        case "object":
            return {
                name: valid_value(inner, full=full)
                for name, inner in facts.get("fields", {}).items()
                if full or inner.get("required")
            }
        case _ if "min" in facts:
            return str(facts["min"])
        case _ if "pattern" in facts:
            return _SAMPLES[facts["pattern"]]
        case _ if facts.get("format"):
            return "https://example.com/file"
        case _:
            return "A cat that turns"[: facts.get("max_length", 10)].ljust(facts.get("min_length", 0), ".")


def inputs_of(model: dict[str, Any], *, full: bool) -> Iterator[dict[str, Any]]:
    """
    Yield one input for each alternative of a model.

    Args:
        model: The facts about it.

        full: True for inputs with every field, else for the smallest ones.
    """
    fields = model["fields"]
    for variant in model.get("variants") or [{}]:
        special = {name for other in model.get("variants", ()) for name in other.get("excludes", ())}
        excluded = set(variant.get("excludes", special))
        allowed = set(variant.get("fields", fields)) - excluded
        # A field that an alternative excludes is required by the others only.
        required = {name for name, facts in fields.items() if facts["required"] and name not in special}
        required |= set(variant.get("required", ()))
        names = allowed if full else required & allowed
        limits = variant.get("limits", {})
        given = {
            name: valid_value({**fields[name], **limits.get(name, {})}, full=full) for name in fields if name in names
        }
        for combination in model.get("never", ()):
            if all(name in given and (not values or given[name] in values) for name, values in combination.items()):
                last = list(combination)[-1]
                given[last] = fields[last]["enum"][0] if fields[last]["required"] else None
        needs = model.get("needs", {})
        yield {name: value for name, value in given.items() if value is not None and needs.get(name, name) in given}


def wrong_values(facts: dict[str, Any]) -> Iterator[Any]:
    """Yield values of a field that its page does not allow."""
    kind = facts["type"]
    yield from ("true", 1, [True]) if kind == "boolean" else ({"x": 1}, True)
    if kind == "string" and "min" not in facts:
        yield 5
    if facts.get("confidence") != "guessed":
        yield from _outside_limits(facts)
        yield from _wrong_lists(facts) if kind == "array" else ()


def _outside_limits(facts: dict[str, Any]) -> Iterator[Any]:
    is_text = facts["type"] == "string"
    if "enum" in facts and not facts.get("open"):
        yield "no such choice" if is_text else 987_654
    if "max_length" in facts:
        yield "x" * (facts["max_length"] + 1)
    if facts.get("min_length", 0) > 1:
        yield "x"
    beyond = [facts[bound] + step for bound, step in (("min", -1), ("max", 1)) if bound in facts]
    yield from (str(number) if is_text else number for number in beyond if number not in facts.get("also", ()))
    if facts["type"] == "integer":
        yield facts.get("min", 1) + 0.5


def _wrong_lists(facts: dict[str, Any]) -> Iterator[Any]:
    item = valid_value({"type": "string", **facts.get("items", {}), "format": facts.get("format")})
    if "max_items" in facts:
        yield [item] * (facts["max_items"] + 1)
    if facts.get("min_items", 0) > 1:
        yield [item]
    if "type" in facts.get("items", {}):
        yield [False]
