"""Requests of every class: the smallest, the fullest of each variant, and bad values of every field, by the facts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from kie_async import catalogue
from kie_async.requests._model import ModelRequest
from tests.contract.inputs import inputs_of, load_models
from tests.requests.samples import GIF, PNG

__all__ = ["CLASSES", "FACTS", "BadValue", "bad_values", "fullest", "is_single", "options_of", "schema", "smallest"]

FACTS = load_models()
#: Every class by its model.
CLASSES: dict[str, type[ModelRequest]] = {
    name: found for name in catalogue.MODELS if (found := catalogue.request_class(name)) is not None
}

URL = "https://example.com/file"
MP4 = b"\0\0\0\x20ftypisom".ljust(64, b"\0")
WAV = b"RIFF\x24\0\0\0WAVEfmt ".ljust(44, b"\0")


def is_single(facts: Mapping[str, Any]) -> bool:
    """Return True for a list of one address, which is one value in Python."""
    return facts["type"] == "array" and facts.get("max_items") == 1 and "format" in facts


def is_number_in_text(wire: str, facts: Mapping[str, Any]) -> bool:
    """Return True for a field that has integers in Python and digits on the wire."""
    digits = "enum" in facts and all(str(value).isdecimal() for value in facts["enum"])
    return facts["type"] == "string" and (digits or "min" in facts or wire == "duration")


def options_of(model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a model's class that give a body."""
    names = {rule.wire: rule.name for rule in CLASSES[model].field_rules()}
    options = {}
    for wire, written in body.items():
        facts = FACTS[model]["fields"][wire]
        value = written[0] if is_single(facts) else written
        options[names[wire]] = int(value) if is_number_in_text(wire, facts) else value
    return options


def possible(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without the combinations that the service refuses."""
    facts = FACTS[model]
    for wire, about in facts["fields"].items():
        if wire in body and wire == "duration" and about["type"] == "string" and "enum" not in about:
            body[wire] = str(about.get("min", 5))
    for combination in facts.get("never", ()):
        *_, last = combination
        if not all(name in body and (not values or body[name] in values) for name, values in combination.items()):
            continue
        if combination[last]:
            about = facts["fields"][last]
            body[last] = next(value for value in about.get("enum", [False, True]) if value not in combination[last])
        else:
            del body[last]
    return body


def fullest(model: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the options with every field, for each variant, and the body that they give."""
    for generated in inputs_of(FACTS[model], full=True):
        body = possible(model, generated)
        yield options_of(model, body), body


def smallest(model: str) -> Iterator[dict[str, Any]]:
    """Yield the options that a caller must give, for each variant; one that requires nothing needs what is its own."""
    signature = inspect.signature(CLASSES[model].__init__)
    needed = {name for name, option in signature.parameters.items() if option.default is option.empty} - {"self"}
    variants = FACTS[model].get("variants") or [{}]
    bodies = (inputs_of(FACTS[model], full=full) for full in (False, True))
    for variant, generated, full in zip(variants, *bodies, strict=True):
        options = options_of(model, possible(model, generated))
        wires = {rule.name: rule.wire for rule in CLASSES[model].field_rules()}
        chosen = {
            name: value
            for name, value in options.items()
            if name in needed
            or (wires[name] in variant.get("required", ()) and "default" not in FACTS[model]["fields"][wires[name]])
        }
        if variant.get("required") == []:
            excluded = [name for other in variants for name in other.get("excludes", ())]
            own = {name: full[name] for name in excluded if name in full and name not in variant["excludes"]}
            chosen |= options_of(model, dict([*own.items()][:1]))
        yield chosen


def _schema_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a field."""
    same = {
        "min_length": "minLength",
        "max_length": "maxLength",
        "min_items": "minItems",
        "max_items": "maxItems",
        "maxItems": "maxItems",
        "min": "minimum",
        "minimum": "minimum",
        "max": "maximum",
        "step": "multipleOf",
        "pattern": "pattern",
    }
    found: dict[str, Any] = {same[key]: value for key, value in facts.items() if key in same}
    if "type" in facts:
        found["type"] = facts["type"]
    if "enum" in facts and not facts.get("open"):
        found["enum"] = facts["enum"]
    if facts.get("type") == "string" and "min" in facts:
        found = {"enum": [str(number) for number in range(facts["min"], facts["max"] + 1)]}
    if "items" in facts:
        found["items"] = _schema_of(facts["items"])
    if "fields" in facts:
        found |= _object_schema(facts["fields"], [name for name, about in facts["fields"].items() if about["required"]])
    if facts.get("format") and facts.get("type") == "string":
        found["pattern"] = "^https?://"
    return {"anyOf": [found, {"enum": facts["also"]}]} if "also" in facts else found


def _object_schema(fields: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _schema_of(about) for name, about in fields.items()},
        "required": required,
        "additionalProperties": False,
    }


def schema(model: str) -> dict[str, Any]:
    """Return the JSON Schema of a model's input, made of the facts alone; every field that the page requires counts."""
    facts = FACTS[model]
    variants = facts.get("variants", [])
    special = {name for variant in variants for name in variant.get("excludes", ())}
    required = [name for name, about in facts["fields"].items() if about["required"] and name not in special]
    found = _object_schema(facts["fields"], required)
    if variants:
        found["anyOf"] = [
            {
                "required": variant.get("required", []),
                "not": {"anyOf": [{"required": [name]} for name in variant.get("excludes", special)] or [False]},
                "properties": {name: _schema_of(limits) for name, limits in variant.get("limits", {}).items()},
                **({"propertyNames": {"enum": variant["fields"]}} if "fields" in variant else {}),
            }
            for variant in variants
        ]
    return found


@attrs.frozen
class BadValue:
    """
    A bad value of a field.

    Attributes:
        model: The model.

        field: The name of the field in Python.

        value: The value.

        fault: A description of the fault.
    """

    model: str
    field: str
    value: object = attrs.field(repr=False)
    fault: str


def bad_values(model: str) -> Iterator[BadValue]:
    """Yield bad values of every field of a class."""
    for rule in CLASSES[model].field_rules():
        facts = FACTS[model]["fields"].get(rule.wire, {"type": "string", "enum": ["auto"]})
        for fault, value in _bad(rule.wire, facts):
            yield BadValue(model, rule.name, value, fault)


def _bad(wire: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    if "format" in facts:
        yield from _bad_media(facts)
    elif facts["type"] == "array":
        yield from _bad_lists(wire, facts)
    elif facts["type"] == "boolean":
        yield from (("text", "yes"), ("a number", 1), ("a list", [True]))
    elif facts["type"] in ("integer", "number") or is_number_in_text(wire, facts):
        yield from _bad_numbers(facts)
    else:
        yield from (("a number", 7), ("a list", ["word"]), ("empty", ""), ("blanks", "  "))
        if "enum" in facts:
            yield "no such option", "no such option"
        if "max_length" in facts:
            yield "too long", "x" * (facts["max_length"] + 1)
        if facts.get("min_length", 1) > 1:
            yield "too short", "x" * (facts["min_length"] - 1)


def _bad_numbers(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield from (("text", "5"), ("a boolean", True), ("a list", [5]), ("not a number", float("nan")))
    if "enum" in facts:
        yield "no such option", max(int(value) for value in facts["enum"]) + 1
    if "min" in facts:
        yield (
            "too small",
            next(value for value in (facts["min"] - 1, facts["min"] - 2) if value not in facts.get("also", ())),
        )
    if "max" in facts:
        yield "too great", facts["max"] + 1


def _bad_media(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    bad: list[tuple[str, object]] = [
        ("a number", 7),
        ("a private address", "http://127.0.0.1/a"),
        ("a file that is not there", "missing.file"),
    ]
    kinds = facts["format"].split("|")
    if "url" not in kinds:
        bad += [("a text file", b"This is not a picture."), ("no bytes", b"")]
        accepts = facts.get("accepts", ())
        samples = {"image/gif": GIF, "image/png": PNG, "video/mp4": MP4, "audio/wav": WAV}
        wrong = [mime for mime in samples if mime.split("/")[0] not in kinds or (accepts and mime not in accepts)]
        if "audio" in kinds:
            wrong = [mime for mime in wrong if mime != "video/mp4"]  # may be a sound
        bad += [(f"a file of type {mime}", samples[mime]) for mime in wrong]
    if facts["type"] == "array" and not is_single(facts):
        yield from ((fault, [value]) for fault, value in bad)
        yield from (("not a list", URL), ("a number in place of a list", 7))
        if "max_items" in facts:
            yield "too many", [URL] * (facts["max_items"] + 1)
        if facts.get("min_items", 0) > 0 or facts["required"]:
            yield "none", []
    else:
        yield from bad
        yield "a list", [URL]


def _bad_lists(wire: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield from (("text", "text"), ("a mapping", {"a": 1}))
    items = facts.get("items", {})
    if items.get("type") != "array":
        yield "a list of nothing", [None]
    if items.get("type") == "object":
        yield "a field too many", [{"no such field": 1}]
        yield "fields missing", [{}]
    if items.get("type") == "array":
        yield "too long a list", [list(range(items["maxItems"] + 1))]
    if "max_items" in facts:
        yield "too many", ["text"] * (facts["max_items"] + 1)
    if facts.get("min_items", 0) > 0:
        yield "none", []
    del wire
