"""The command ``models``: list the models of the catalogue, or show the fields and the price of one."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from kie_async._display import shown
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.model_fields import ModelFields, near_hint
from kie_async.cli.options import JsonOption
from kie_async.cli.running import run_command
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from kie_async import JSON
    from kie_async.requests._model import ModelRequest, NamedRule

__all__ = ["example_command", "model_fields", "models", "run_models"]

#: The greatest length of a line, except for a name that is longer.
_WIDTH = 80
#: The fields whose limits are listed beside a model, besides those of files.
_LIMITED = ("prompt", "duration", "resolution")
_FILES = {"image": "image.png", "video": "video.mp4", "audio": "audio.mp3"}
#: Strings that have a form, for examples.
_FORMS = {r"^#[0-9A-Fa-f]{6}$": "#1A2B3C", r"^\d{1,3}\.\d{2}%$": "25.00%"}
_TEXT = "The cat turns its head"
_URL = "https://example.com/"
#: An example gets the fields that the others need in so many steps.
_MOST_STEPS = 5

_Facts = Mapping[str, "JSON"]


class _Model:
    """A model of the catalogue: its class and the facts about it."""

    def __init__(self, request_class: type[ModelRequest], facts: _Facts) -> None:
        self.name = request_class.MODEL
        self.request_class = request_class
        self.facts = facts
        self.fields = ModelFields(request_class)

    def of(self, rule: NamedRule) -> _Facts:
        """Return the facts about a field; there are none about a field of older documentation."""
        return cast("Mapping[str, _Facts]", self.facts["fields"]).get(rule.wire, {})

    def matches(self, words: Sequence[str]) -> bool:
        """Return True if each of the words is part of a name, the kind or the vendor."""
        names = (self.name, self.request_class.__name__, str(self.facts["kind"]), str(self.facts["vendor"]))
        return all(any(word in name.lower() for name in names) for word in words)


def _all_models() -> Mapping[str, _Model]:
    from kie_async.catalogue import MODELS, request_class
    from kie_async.catalogue._data import models as all_facts

    facts, found = all_facts(), ((name, request_class(name)) for name in sorted(MODELS))
    return {name: _Model(model, facts[name]) for name, model in found if model is not None}


async def run_models(session: Session, text: str) -> ExitCode:
    """
    List the models that a text finds, or show the one that it names.

    Args:
        session: The command's session.

        text: A model's name, or words that are searched for; empty for all models.
    """
    known = _all_models()
    named = next((model for model in known.values() if text in (model.name, model.request_class.__name__)), None)
    if named is not None:
        session.output.result(_describe(named), model_fields(named.name))
        return ExitCode.DONE
    found = [model for model in known.values() if model.matches(text.lower().split())]
    for model in found:
        session.output.result(_summarize(model), _listed_fields(model))
    if not found:
        hint = near_hint(text.lower(), known, cutoff=0.6)
        session.output.error(f"No model has {shown(text)} in its name, kind or vendor{hint}.")
        return ExitCode.USAGE
    count = "1 model" if len(found) == 1 else f"{len(found)} models"
    session.output.info(f"{count}. `kie-async models NAME` shows the fields and the price of one.")
    return ExitCode.DONE


def models(
    context: typer.Context,
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="A model's name, or words of its name, kind or vendor.")
    ] = "",
    *,
    as_json: JsonOption = False,
) -> None:
    """List the models with their prices, or show the fields, the price and an example of one."""
    run_command(context, lambda session: run_models(session, text), as_json=as_json)


def _listed_fields(model: _Model) -> dict[str, JSON]:
    return {
        "model": model.name,
        "class": model.request_class.__name__,
        "kind": model.facts["kind"],
        "vendor": model.facts["vendor"],
        "as_of": model.request_class.AS_OF,
        "page": model.facts["page"],
        "price": model.facts["price"],
    }


def model_fields(name: str) -> Mapping[str, JSON]:
    """
    Return a model as JSON, with its fields and an example.

    Args:
        name: The name of a model of the catalogue.
    """
    model = _all_models()[name]
    fields: list[JSON] = [
        {
            "name": rule.name,
            "wire": rule.wire,
            "required": rule.name in model.fields.required,
            "allowed": rule.rule.expected,
            "default": model.of(rule).get("default"),
        }
        for rule in model.fields.rules.values()
    ]
    return {**_listed_fields(model), "fields": fields, "example": shlex.join(example_command(name))}


# -- lines --------------------------------------------------------------------------------------------------------


def _wrapped(text: str, *, indent: int = 0, hanging: int = 0) -> list[str]:
    first, rest = " " * indent, " " * (indent + hanging)
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _summarize(model: _Model) -> list[str]:
    """Return the lines of a model in a list."""
    kind, limits = str(model.facts["kind"]), "; ".join(_limits(model))
    text = _price_range(model.facts) + (f"; {limits}" if limits else "")
    return [f"{model.name:<38}{kind:<24}{model.request_class.AS_OF:>18}", *_wrapped(text, indent=4)]


def _price_range(facts: _Facts) -> str:
    price = cast("_Facts | None", facts["price"])
    if price is None:
        return "no listed price"
    credits = [cast("float", rate["credits"]) for rate in cast("Sequence[_Facts]", price["rates"])]
    least, most = min(credits), max(credits)
    amount = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    return f"{amount} credits {_per(price)} ({price['date']})"


def _per(price: _Facts) -> str:
    return f"{'an' if price['unit'] == 'image' else 'a'} {price['unit']}"


def _limits(model: _Model) -> list[str]:
    """Return the limits of the most important fields, and of files."""
    limits = []
    for rule in model.fields.rules.values():
        facts = model.of(rule)
        if rule.rule.media:
            count = f"up to {facts['max_items']}, " if rule.rule.is_list and "max_items" in facts else ""
            limits.append(f"{rule.name} {count}{facts.get('max_mb', 100)} MB")
        elif rule.name in _LIMITED and (limit := _limit(facts)):
            limits.append(f"{rule.name} {limit}")
    return limits


def _limit(facts: _Facts) -> str:
    if values := [str(value) for value in cast("Sequence[JSON]", facts.get("enum") or ())]:
        numbers = [int(value) for value in values if value.isdecimal()]
        if len(numbers) == len(values) > 2 and numbers == [*range(numbers[0], numbers[-1] + 1)]:  # noqa: PLR2004
            return f"{numbers[0]} to {numbers[-1]}"
        return " or ".join(values)
    if "max_length" in facts:
        return f"up to {facts['max_length']} characters"
    return f"{facts.get('min', 0)} to {facts['max']}" if "max" in facts else ""


def _describe(model: _Model) -> list[str]:
    """Return the lines of a model that is shown alone."""
    does, between, meanings = _documentation(model.request_class)
    lines = [model.name, *_wrapped(does)]
    lines += _wrapped(f"The class is kie_async.catalogue.{model.request_class.__name__}.")
    lines += _wrapped(f"Fields as of {model.request_class.AS_OF}: {model.facts['page']}")
    lines += ["", "Fields"]
    for rule in model.fields.rules.values():
        notes = ["required"] if rule.name in model.fields.required else []
        notes += [f"{rule.wire} at the service"] if rule.wire != rule.name else []
        lines += _wrapped(_usage(rule) + (f"  ({', '.join(notes)})" if notes else ""), indent=2, hanging=4)
        lines += _wrapped(meanings.get(rule.name, rule.rule.expected), indent=6)
    lines += _wrapped("--extra JSON", indent=2)
    lines += _wrapped("Fields that the service has added since, in its own names, unchecked.", indent=6)
    for sentence in between:
        lines += ["", *_wrapped(sentence)]
    return [*lines, "", *_price_lines(model), "", "Example", *_continued(example_command(model.name))]


def _usage(rule: NamedRule) -> str:
    option = f"--{rule.name.replace('_', '-')}"
    if rule.rule.is_flag:
        return f"{option} or --no-{option[2:]}"
    value = "FILE|URL" if rule.rule.media else "VALUE"
    return f"{option} {value}" + (" …" if rule.rule.is_list else "")


def _documentation(request_class: type[ModelRequest]) -> tuple[str, Sequence[str], Mapping[str, str]]:
    """Return what a model does, the rules between its fields, and the meaning of each field, by its documentation."""
    text = (inspect.getdoc(request_class) or "").replace("``", "")
    before, _, after = text.partition("\nArgs:\n")
    does, *between = [" ".join(part.split()) for part in before.strip().split("\n\n")]
    fields = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", after, re.MULTILINE)
    _, _, phrase = does.partition(", which ")
    does = phrase[:1].upper() + phrase[1:] or does
    return does, between, {name: " ".join(meaning.split()) for name, meaning in fields}


def _price_lines(model: _Model) -> Iterable[str]:
    price = cast("_Facts | None", model.facts["price"])
    if price is None:
        return ["The price is not listed."]
    names = {rule.wire: rule.name for rule in model.fields.rules.values()}
    lines = [f"Price by the list of {price['date']}"]
    for rate in cast("Sequence[Mapping[str, JSON]]", price["rates"]):
        when = [
            f"{names.get(wire, wire)}={_condition(value)}"
            for key, value in cast("_Facts", rate["when"]).items()
            for wire in (key.removeprefix("input."),)
        ]
        amount = f"{rate['credits']:g} credits {_per(price)}"
        lines += _wrapped(f"{amount}{' with ' + ', '.join(when) if when else ''}", indent=2, hanging=4)
    if (added := cast("_Facts | None", price.get("adds_length_of"))) is not None:
        field = str(added["field"])
        lines += _wrapped(f"The seconds of {names.get(field, field)} are charged, too.", indent=2)
    if (surcharge := cast("_Facts | None", price.get("surcharge"))) is not None:
        field = names.get(str(surcharge["field"]), str(surcharge["field"]))
        text = f"{surcharge['credits']:g} credits more for each of {field} beyond {surcharge['beyond']}."
        lines += _wrapped(text, indent=2)
    return lines


def _condition(value: JSON) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace("|", " or ")


def _continued(words: Sequence[str]) -> list[str]:
    """Return a shell command on lines that fit, each with a backslash before the next."""
    lines, line = [], "  "
    for word in map(shlex.quote, words):
        if len(line) + len(word) + 3 > _WIDTH and line.strip():
            lines.append(f"{line}\\")
            line = "    "
        line += f"{word} "
    return [*lines, line.rstrip()]


# -- examples -----------------------------------------------------------------------------------------------------


def example_command(name: str) -> Sequence[str]:
    """
    Return a command that makes a result with a model, with few options.

    Args:
        name: The name of a model of the catalogue.
    """
    from kie_async.catalogue import request_class
    from kie_async.catalogue._data import models as all_facts

    found = request_class(name)
    if found is None:
        raise KeyError(name)
    model = _Model(found, all_facts()[name])
    wanted = [*model.fields.required, *(["prompt"] if "prompt" in model.fields.rules else [])]
    options: dict[str, list[str]] = {field: _example(model, field) for field in wanted}
    for _ in range(_MOST_STEPS):
        values = {field: _parsed(model, field, words) for field, words in options.items()}
        problems = model.fields.build(values).problems()
        missing = [problem.field for problem in problems if problem.value == "nothing"]
        options |= {field: _example(model, field) for field in missing if field in model.fields.rules}
    words = ["kie-async", "generate", "--model", name]
    for field, given in options.items():
        words += [f"--{field.replace('_', '-')}", *given]
    return words


def _parsed(model: _Model, field: str, words: Sequence[str]) -> object:
    """Return the value that the words of an example stand for, with URLs in place of files, which need not exist."""
    rule = model.fields.rules[field].rule
    given = [f"{_URL}{word}" for word in words] if rule.media else words or ["true"]
    values = [model.fields.parse(field, word) for word in given]
    return [item for value in values for item in cast("list[object]", value)] if rule.is_list else values[0]


def _example(model: _Model, field: str) -> list[str]:
    """Return the words of a value of a field; none for a boolean field."""
    named = model.fields.rules[field]
    facts = model.of(named)
    if named.rule.is_flag:
        return []
    if named.rule.media:
        return [_FILES[named.rule.media[0]]] * max(1, cast("int", facts.get("min_items", 1)) * named.rule.is_list)
    value = _example_value(facts)
    return [value if isinstance(value, str) else json.dumps(value)]


def _example_value(facts: _Facts) -> JSON:
    """Return a value by the facts about a field."""
    if (items := cast("_Facts | None", facts.get("items"))) is not None and facts.get("type") == "array":
        return [_example_value(items)] * max(1, cast("int", facts.get("min_items", 1)))
    if "fields" in facts:
        fields = cast("Mapping[str, _Facts]", facts["fields"])
        return {name: _example_value(about) for name, about in fields.items() if about.get("required")}
    if values := cast("Sequence[JSON]", facts.get("enum") or ()):
        return facts["default"] if facts.get("default") in values else values[0]
    if facts.get("type") in ("integer", "number"):
        return facts.get("default", facts.get("min", facts.get("minimum", 5)))
    if facts.get("type") == "boolean":
        return True
    kind = str(facts.get("format", "")).partition("|")[0]
    return _URL + _FILES.get(kind, "page") if kind else _FORMS.get(str(facts.get("pattern")), _TEXT)
