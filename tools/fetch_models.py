"""
Bring ``kie_async/catalogue/models.json`` up to date with the service's own list, schemas and prices.

``python tools/catalogue.py --fetch`` calls it; ``python tools/fetch_models.py --dry-run`` only prints the differences.
It needs ``KIE_API_KEY``, costs nothing, and takes four minutes, since the service allows one request per second.

What the answers lack stays as it is: sizes and types of files, bounds that the pages give in words, alternatives, older
values, formulas of prices. The service writes prices in words; a price changes only where they leave no choice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import anyio
import attrs

ROOT = Path(__file__).parents[1]
DATA = ROOT / "kie_async" / "catalogue" / "models.json"
BASE_URL = "https://api.kie.ai"
CREATE = "/api/v1/jobs/createTask"

_PAUSE = 1.05
_ATTEMPTS = 5
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_OK, _NOT_FOUND, _RATE_LIMITED = 200, 404, 429
_LONGEST_CHAIN = 50

#: JSON Schema's keys and ours.
_KEYS = {
    "enum": "enum",
    "default": "default",
    "minimum": "min",
    "maximum": "max",
    "multipleOf": "step",
    "minLength": "min_length",
    "maxLength": "max_length",
    "pattern": "pattern",
    "minItems": "min_items",
    "maxItems": "max_items",
    "deprecated": "deprecated",
}
_SIZE = re.compile(r"max(?:imum)? (?:file )?size: *(\d+(?:\.\d+)?) *MB", re.IGNORECASE)
_TYPES = re.compile(r"accepted (?:file )?types: *((?:[a-z]+/[\w.+-]+(?:, *)?)+)", re.IGNORECASE)
_CREDITS = re.compile(r"(\d+(?:\.\d+)?) credits?\b", re.IGNORECASE)
#: The names of keys that some items have as JSON Schema spells them.
_SPELLINGS = {"min": "minimum", "max_items": "maxItems"}
#: The kinds of files by words in the names of fields.
_FILES = (("video", "video"), ("clip", "video"), ("audio", "audio"), ("image", "image"), ("frame", "image"))

Facts = dict[str, Any]


class FetchError(Exception):
    """The service did not answer, or its answer has an unknown shape: nothing is written."""


@attrs.frozen
class Listed:
    """
    A model of the service's list.

    Attributes:
        task_types: What it does, in the service's words.

        price: Its price in words, or None.

        document: Its OpenAPI document, or None if the service has none yet.
    """

    task_types: Sequence[str]
    price: str | None
    document: Facts | None


@attrs.define
class Service:
    """The endpoints below ``/api/v1/models``, asked once per second."""

    session: aiohttp.ClientSession
    base_url: str
    key: str
    _ready_at: float = attrs.field(default=0.0, init=False)

    async def ask(self, path: str) -> Facts | None:
        """
        Return the ``data`` of an answer; None for an unknown model.

        Raises:
            FetchError: If the service refuses the request, or does not answer.
        """
        reason = ""
        for attempt in range(_ATTEMPTS):
            await anyio.sleep(max(0.0, self._ready_at - anyio.current_time()) + attempt)
            try:
                body = await self._get(path)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            finally:
                self._ready_at = anyio.current_time() + _PAUSE
            code, reason = body.get("code"), f"code {body.get('code')}: {body.get('msg')}"
            if code == _OK and isinstance(body.get("data"), dict):
                data: Facts = body["data"]
                return data
            if code == _NOT_FOUND:
                return None
            if code != _RATE_LIMITED:
                break
        msg = f"GET /api/v1/models{path} failed: {reason}. Nothing was written."
        raise FetchError(msg)

    async def _get(self, path: str) -> Facts:
        url = f"{self.base_url}/api/v1/models{path}"
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.session.get(url, headers=headers, timeout=_TIMEOUT, allow_redirects=False) as response:
            body = json.loads(await response.read())
        return body if isinstance(body, dict) else {}


async def read_service(base_url: str, key: str, names: Collection[str] = ()) -> dict[str, Listed]:
    """
    Return the models of the service, but for those that are not used by createTask.

    Args:
        base_url: The address of the service.

        key: The API key.

        names: The models to read; by default all.

    Raises:
        FetchError: If the service refuses a request, or does not answer.
    """
    found = {}
    async with aiohttp.ClientSession() as session:
        service = Service(session, base_url.rstrip("/"), key)
        listing = await service.ask("") or {}
        for entry in listing.get("models") or ():
            name = entry["model"].strip()
            if names and name not in names:
                continue
            document = (await service.ask(f"/{name}/schema") or {}).get("openapi")
            price = entry.get("pricingDesc")
            if price is None:
                price = (await service.ask(f"/{name}/price") or {}).get("pricingDesc")
            if document is None or CREATE in document.get("paths", {}):
                found[name] = Listed(entry.get("taskType") or (), price, document)
    return found


# -- schemas ----------------------------------------------------------------------------------------------------------


def resolve(document: Facts, node: Facts) -> Facts:
    """
    Follow a reference within a document. Its parts are percent-encoded; some names of components end with a blank.

    >>> resolve({"components": {"a b/c ": {"type": "string"}}}, {"$ref": "#/components/a%20b%2Fc%20"})
    {'type': 'string'}
    """
    for _ in range(_LONGEST_CHAIN):
        if "$ref" not in node:
            return node
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            names = (part, unquote(part), unquote(part).replace("~1", "/").replace("~0", "~"))
            key = next((name for name in names if name in target), None)
            if key is None:
                msg = f"The reference {node['$ref']!r} leads nowhere. Nothing was written."
                raise FetchError(msg)
            target = target[key]
        node = {**target, **{name: value for name, value in node.items() if name != "$ref"}}
    msg = "References lead in a circle. Nothing was written."
    raise FetchError(msg)


def body_of(document: Facts) -> Facts:
    """Return the schema of the body of a create request."""
    content = resolve(document, document["paths"][CREATE]["post"]["requestBody"])["content"]
    return resolve(document, content["application/json"]["schema"])


def branches_of(document: Facts) -> list[tuple[str, dict[str, Facts]]]:
    """Return the alternatives of an input, each with its title and its fields: usually there is one."""
    given = resolve(document, body_of(document)["properties"]["input"])
    options = given.get("oneOf") or given.get("anyOf")
    schemas = [resolve(document, option) for option in options] if options else [given]
    return [(schema.get("title", f"{number}"), _fields(document, schema)) for number, schema in enumerate(schemas, 1)]


def _fields(document: Facts, schema: Facts) -> dict[str, Facts]:
    parts = [schema, *(resolve(document, part) for part in schema.get("allOf", ()))]
    required = {name.strip() for part in parts for name in part.get("required", ())}
    return {
        name.strip(): {"required": name.strip() in required, **_facts(document, resolve(document, about))}
        for part in parts
        for name, about in part.get("properties", {}).items()
    }


def _facts(document: Facts, schema: Facts) -> Facts:
    """Return the facts about a field that its schema has."""
    types = schema.get("type", "array" if "items" in schema else "object" if "properties" in schema else "string")
    kind = next((name for name in types if name != "null"), "string") if isinstance(types, list) else types
    facts: Facts = {"type": kind}
    facts |= {ours: schema[theirs] for theirs, ours in _KEYS.items() if schema.get(theirs) is not None}
    if "enum" in facts:
        facts["enum"] = [value for value in facts["enum"] if value is not None]
    if "items" in schema:
        facts["items"] = _facts(document, resolve(document, schema["items"]))
    if "properties" in schema:
        facts["fields"] = _fields(document, schema)
    text = schema.get("description") or ""
    if (size := _SIZE.search(text)) is not None:
        facts["max_mb"] = float(size[1])
    if (accepted := _TYPES.search(text)) is not None:
        named = [name.strip().lower() for name in accepted[1].split(",") if name.strip()]
        facts["accepts"] = list(dict.fromkeys(name.replace("image/jpg", "image/jpeg") for name in named))
    return facts


# -- merging ----------------------------------------------------------------------------------------------------------


def merge_field(old: Facts, new: Facts) -> Facts:
    """
    Return the facts about a field: those of the schema, and those that only we have.

    >>> merge_field({"type": "string", "max_mb": 10, "enum": ["5"]}, {"type": "string", "enum": ["5", "10"]})
    {'type': 'string', 'max_mb': 10, 'enum': ['5', '10']}
    """
    merged = dict(old)
    for name, value in new.items():
        key = _SPELLINGS[name] if _SPELLINGS.get(name) in old else name
        if key == "items":
            merged[key] = merge_field(old.get(key, {}), value)
        elif key == "fields":
            merged[key] = {name: merge_field(old.get(key, {}).get(name, {}), about) for name, about in value.items()}
        elif key not in old or old[key] != value:
            merged[key] = int(value) if isinstance(value, float) and value.is_integer() else value
    return merged


def _new_field(name: str, facts: Facts) -> Facts:
    """Add the kind of the files that a new field takes, by its name."""
    if facts["type"] in ("string", "array") and re.search(r"_urls?$", name):
        facts = {**facts, "format": next((kind for word, kind in _FILES if word in name), "url")}
        facts |= {"url": True} if facts["type"] == "string" else {}
    return facts


def merge_fields(old: dict[str, Facts], branches: Sequence[Mapping[str, Facts]]) -> dict[str, Facts]:
    """Return the fields of a model: the schema's, and those that no schema has had."""
    kept = {name: about for name, about in old.items() if about.get("confidence") == "guessed"}
    new: dict[str, Facts] = {}
    for branch in branches:
        for name, about in branch.items():
            new[name] = about if name not in new else _union(new[name], about)
    if len(branches) > 1:
        for name, about in new.items():
            about["required"] = all(branch.get(name, {}).get("required", False) for branch in branches)
    names = [*(name for name in old if name in new or name in kept), *(name for name in new if name not in old)]
    return {
        name: _new_field(name, new[name]) if name not in old else merge_field(old[name], new.get(name, {}))
        for name in names
    }


def _union(one: Facts, other: Facts) -> Facts:
    """Return the facts that hold in two alternatives: the wider limits, and all choices."""
    both = {key: value for key, value in one.items() if key in other}
    if "enum" in both:
        both["enum"] = [*one["enum"], *(value for value in other["enum"] if value not in one["enum"])]
    for key in both:
        if key.startswith("min"):
            both[key] = min(one[key], other[key])
        elif key.startswith("max"):
            both[key] = max(one[key], other[key])
    return both


def merge_alternatives(model: Facts, branches: Sequence[tuple[str, dict[str, Facts]]]) -> tuple[dict[str, Facts], Any]:
    """Return the fields and the variants of a model; both stay if each alternative is as it was."""
    old = [variant for variant in model.get("variants") or () if "fields" in variant]
    if len(branches) == 1:
        variants = None if old else model.get("variants")
        return merge_fields(model.get("fields", {}), [branches[0][1]]), variants
    if len(old) == len(branches) and all(
        _is_as_before(model, variant, fields) for variant, (_, fields) in zip(old, branches, strict=True)
    ):
        return model["fields"], model["variants"]
    fields = merge_fields(model.get("fields", {}), [dict(branch) for _, branch in branches])
    variants = [
        {
            "name": title,
            "required": [name for name, about in branch.items() if about["required"]],
            "fields": sorted(branch),
            "limits": {
                name: limits
                for name, about in branch.items()
                if (
                    limits := {
                        k: v for k, v in about.items() if k not in ("required", "type") and fields[name].get(k) != v
                    }
                )
            },
        }
        for title, branch in branches
    ]
    return fields, variants


def _is_as_before(model: Facts, variant: Facts, branch: Mapping[str, Facts]) -> bool:
    if sorted(branch) != sorted(variant["fields"]):
        return False
    if {name for name, about in branch.items() if about["required"]} != set(variant["required"]):
        return False
    for name, about in branch.items():
        facts = {**model["fields"].get(name, {}), **variant.get("limits", {}).get(name, {})}
        if merge_field(facts, {key: value for key, value in about.items() if key != "required"}) != facts:
            return False
    return True


def merge_price(old: Facts | None, text: str | None, today: str) -> tuple[Facts | None, str | None]:
    """
    Compare a price with the service's words.

    Returns:
        The price, which changes only if both have one number, and what is to be reviewed by hand, or None.

    >>> price = {"rates": [{"when": {}, "credits": 4}], "date": "2026-01-01"}
    >>> merge_price(price, "An image costs 5 credits ($0.025).", "2026-02-02")[0]
    {'rates': [{'when': {}, 'credits': 5}], 'date': '2026-02-02'}
    """
    named = {float(number) for number in _CREDITS.findall(text or "")}
    if not named:
        return old, None
    listed = ", ".join(f"{number:g}" for number in sorted(named))
    if old is None:
        return None, f"the service names {listed} credits, and the data has no price: add it by hand"
    known = {float(rate["credits"]) for rate in old["rates"]}
    if known <= named:
        return {**old, "date": today}, None
    if len(old["rates"]) == len(named) == 1:
        number = named.pop()
        rate = {**old["rates"][0], "credits": int(number) if number.is_integer() else number}
        return {**old, "rates": [rate], "date": today}, None
    ours = ", ".join(f"{number:g}" for number in sorted(known))
    return old, f"the service names {listed} credits, the data {ours}: change it by hand"


def merge(data: Facts, service: Mapping[str, Listed], today: str, *, partial: bool = False) -> tuple[Facts, list[str]]:
    """
    Return the data with what the service says, and the differences as lines of text.

    Args:
        data: The content of ``models.json``, which stays unchanged.

        service: The models of the service.

        today: The date in ISO form.

        partial: True if models that the service does not have stay as they are.

    Raises:
        FetchError: If the service lacks most of the models.
    """
    live = [model["model"] for model in data["models"] if model["status"] == "live"]
    missing = [] if partial else [name for name in live if name not in service]
    if len(missing) > len(live) / 2:
        msg = f"The service lists {len(service)} models, and lacks {len(missing)} of ours. Nothing was written."
        raise FetchError(msg)
    models = {model["model"]: model for model in data["models"]}
    lines: list[str] = []
    for name in missing:
        models[name] = {**models[name], "status": "retired"}
        lines.append(f"- {name}: the service does not list it any more; its status is retired")
    for name, listed in service.items():
        old = models.get(name)
        if old is None and listed.document is None:
            lines.append(f"? {name}: new, and without a schema; not added")
            continue
        models[name], remark = _merge_model(name, old, listed, today)
        lines.extend(_differences(name, old, models[name]))
        lines.extend([] if remark is None else [f"? {name}: price: {remark}"])
    return {**data, "models": [models[name] for name in sorted(models)]}, lines


def _merge_model(name: str, old: Facts | None, listed: Listed, today: str) -> tuple[Facts, str | None]:
    model = _new_model(name, listed) if old is None else dict(old)
    model |= {"status": "live", "seen": today}
    if listed.document is not None:
        fields, variants = merge_alternatives(model, branches_of(listed.document))
        extra = [key for key in body_of(listed.document).get("required", ()) if key.strip() not in ("model", "input")]
        model |= {"fields": fields, "required_seen": today, "fields_seen": today, "confidence": "documented"}
        for key, value in (("variants", variants), ("also_required_in_body", extra)):
            if value:
                model[key] = value
            else:
                model.pop(key, None)
    model["price"], remark = merge_price(model["price"], listed.price, today)
    return model, remark


def _new_model(name: str, listed: Listed) -> Facts:
    kind = kind_of(listed.task_types)
    return {
        "model": name,
        "kind": kind,
        "image_to_video": "image" in kind and kind.endswith("to-video"),
        "vendor": re.split(r"[/-]", name)[0],
        "status": "live",
        "fields": {},
        "price": None,
        "page": f"https://docs.kie.ai/market/{name}",
    }


def kind_of(task_types: Sequence[str]) -> str:
    """
    Return the kind of a model by what it does in the service's words.

    >>> kind_of(["Text to Video", "Image to Video"]), kind_of(["Video Upscale"])
    ('text-or-image-to-video', 'video-upscale')
    """
    words = [name.lower().partition(" to ") for name in task_types]
    if words and len({made for _, to, made in words if to}) == 1 and all(to for _, to, _ in words):
        given = "-or-".join(dict.fromkeys(part for part, _, _ in words))
        return f"{given}-to-{words[0][2]}".replace(" ", "-")
    return task_types[0].lower().replace(" ", "-") if task_types else "unknown"


def _differences(name: str, old: Facts | None, new: Facts) -> Iterator[str]:
    if old is None:
        fields = ", ".join(new["fields"])
        yield f"+ {name}: new, {new['kind']}, with {fields}; review its kind, its files and its price"
        return
    for field in old["fields"].keys() - new["fields"].keys():
        yield f"- {name}: {field}"
    for field, about in new["fields"].items():
        before = old["fields"].get(field)
        if before is None:
            yield f"+ {name}: {field}: {json.dumps(about, ensure_ascii=False)}"
            continue
        for key in sorted(before.keys() | about.keys()):
            if before.get(key) != about.get(key):
                yield f"~ {name}: {field}: {key}: {_shown(before.get(key))} -> {_shown(about.get(key))}"
    for key in ("status", "confidence", "variants", "also_required_in_body"):
        if old.get(key) != new.get(key):
            yield f"~ {name}: {key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
    rates, before_rates = ((model["price"] or {}).get("rates") for model in (new, old))
    if rates != before_rates:
        yield f"~ {name}: price: {_shown(before_rates)} -> {_shown(rates)}"


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def dump(data: Facts) -> str:
    """Return the text of ``models.json``: one line for each model."""
    lines = ",\n".join(f"  {json.dumps(model, ensure_ascii=False)}" for model in data["models"])
    rest = "".join(
        f' "{key}": {json.dumps(value, ensure_ascii=False)},\n' for key, value in data.items() if key != "models"
    )
    return f'{{\n{rest} "models": [\n{lines}\n ]\n}}\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the data, and print the differences."""
    parser = argparse.ArgumentParser(prog="fetch_models", description=__doc__)
    parser.add_argument(
        "--base-url", default=os.environ.get("KIE_BASE_URL", BASE_URL), help="the address of the service"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the file to rewrite")
    parser.add_argument("--model", action="append", default=[], help="fetch this model only; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="print the differences, and write nothing")
    options = parser.parse_args(arguments)
    key = os.environ.get("KIE_API_KEY")
    if not key:
        print("Set KIE_API_KEY: the service lists its models for its users only.", file=sys.stderr)
        return 2
    data = json.loads(options.data.read_text(encoding="utf-8"))
    try:
        service = asyncio.run(read_service(options.base_url, key, options.model))
        data, lines = merge(data, service, datetime.now(UTC).date().isoformat(), partial=bool(options.model))
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join([*lines, f"{len(service)} models read, {len(lines)} differences"]))
    if not options.dry_run:
        written = options.data.with_suffix(".new")
        written.write_text(dump(data), encoding="utf-8")
        written.replace(options.data)
        _forget_data()
    return 0


def _forget_data() -> None:
    """Let the generator, which runs next, read the new file."""
    reader = sys.modules.get("kie_async.catalogue._data")
    if reader is not None:
        reader.models.cache_clear()


if __name__ == "__main__":
    sys.exit(main())
