"""The rules of the catalogue's fields, made of the facts about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard, cast

import attrs

from kie_async._display import shown, shown_length
from kie_async._numbers import is_integer, is_number
from kie_async._urls import check_public_url, shown_url
from kie_async.errors import Problem
from kie_async.requests._model import Choice, FieldRule, Flag, MediaFile, OpenFile, Text, listed, parsed_integer
from kie_async.requests.market import is_mapping, json_problems, step_name
from kie_async.requests.media import MediaLimits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from kie_async.records import JSON
    from kie_async.requests.media import MediaSource

__all__ = ["Facts", "is_single", "make_rule"]

#: The facts about a field.
Facts = Mapping[str, "JSON"]

_MEGABYTE = 1024 * 1024
#: The size of a file where the documentation gives none: the service advises no more for uploads.
_DEFAULT_MEGABYTES = 100
#: The names under which the first bytes of a file are known here.
_MIME_NAMES = {
    "audio/x-wav": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/m4a": "audio/mp4",
    "image/heif": "image/heic",
}
#: Fields of type number that have only integers.
_WHOLE = frozenset(
    {"duration", "frames_per_second", "max_images", "n", "num_frames", "num_inference_steps", "seed", "seeds"}
)
#: The forms of strings, for messages.
_FORMS = {
    r"^#[0-9A-Fa-f]{6}$": "a color of the form #1A2B3C",
    r"^\d{1,3}\.\d{2}%$": "a share of the form 25.00%",
}
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
#: It separates the values of a list in a text.
_SEPARATOR = "|"
#: Lists of more problems are cut.
_MOST_PROBLEMS = 20
#: Longer integers are refused; Python writes the digits of the longest of them with an error.
_MOST_BITS = 64


def _number(facts: Facts, name: str) -> float | None:
    return cast("float | None", facts.get(name))


def _count(facts: Facts, name: str) -> int | None:
    return cast("int | None", facts.get(name))


def _kinds(facts: Facts) -> tuple[str, ...]:
    """Return the kinds of the media files of a field."""
    kinds = str(facts.get("format", "")).split("|")
    return tuple(kind for kind in kinds if kind in ("image", "video", "audio"))


def is_single(facts: Facts) -> bool:
    """Return True for an array of at most one address, which has one value in Python."""
    return facts.get("type") == "array" and facts.get("max_items") == 1 and "format" in facts


@attrs.frozen
class Whole(FieldRule):
    """
    The rule for an integer.

    Args:
        least: The smallest allowed value, or None.

        most: The greatest allowed value, or None.

        also: Other allowed values.

        step: The allowed values are multiples of it.

        as_text: True if the service reads it as a string.
    """

    least: float | None
    most: float | None
    also: tuple[int, ...] = ()
    step: int = 1
    as_text: bool = False

    @property
    def expected(self) -> str:
        unit = "an integer" if self.step == 1 else f"a multiple of {self.step}"
        return unit + _range(self.least, self.most) + "".join(f", or {value}" for value in self.also)

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if is_integer(value) and value.bit_length() > _MOST_BITS:
            return Problem(field, shown(value), f"{self.expected}, of at most {_MOST_BITS} bits")
        if is_integer(value) and (
            value in self.also or (_fits(value, self.least, self.most) and value % self.step == 0)
        ):
            return None
        return Problem(field, shown(value), self.expected)

    def written(self, path: str, value: object, uploaded: Mapping[str, str]) -> JSON:  # noqa: ARG002 (not a file)
        return _digits(value) if self.as_text else cast("JSON", value)

    def parsed(self, text: str) -> object:
        return parsed_integer(text)


@attrs.frozen
class WholeChoice(FieldRule):
    """
    The rule for one of a few integers.

    Args:
        values: The documented integers.

        as_text: True if the service reads them as strings.
    """

    values: tuple[int, ...]
    as_text: bool = False

    @property
    def expected(self) -> str:
        return listed([str(value) for value in self.values])

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if is_integer(value) and value in self.values:
            return None
        return Problem(field, shown(value), f"the integer {self.expected}")

    def written(self, path: str, value: object, uploaded: Mapping[str, str]) -> JSON:  # noqa: ARG002 (not a file)
        return _digits(value) if self.as_text else cast("JSON", value)

    def parsed(self, text: str) -> object:
        return parsed_integer(text)


@attrs.frozen
class Real(FieldRule):
    """
    The rule for a number.

    Args:
        least: The smallest allowed value, or None.

        most: The greatest allowed value, or None.
    """

    least: float | None
    most: float | None

    @property
    def expected(self) -> str:
        return "a number" + _range(self.least, self.most)

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if is_number(value) and _fits(value, self.least, self.most):
            return None
        return Problem(field, shown(value), self.expected)

    def parsed(self, text: str) -> object:
        return float(text) if _DECIMAL.fullmatch(text.strip()) else text


@attrs.frozen
class Pattern(FieldRule):
    """
    The rule for a string of a form.

    Args:
        form: The regular expression of the whole string.
    """

    form: str

    @property
    def expected(self) -> str:
        return _FORMS.get(self.form, f"a string of the form {self.form}")

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if isinstance(value, str) and re.fullmatch(self.form, value):
            return None
        return Problem(field, shown(value), self.expected)


@attrs.frozen
class PublicURL(FieldRule):
    """The rule for a public URL of a document or a page, which is not uploaded."""

    @property
    def expected(self) -> str:
        return "a public http or https URL"

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        if not isinstance(value, str):
            return Problem(field, shown(value), self.expected)
        fault = check_public_url(value, allowed_origins=allowed_origins)
        return None if fault is None else Problem(field, shown_url(value), f"{self.expected}; in this one, {fault}")

    def shown(self, value: object) -> str:
        return shown_url(value) if isinstance(value, str) else shown(value)


@attrs.frozen
class Single(FieldRule):
    """
    The rule for one value that the service reads as a list of one.

    Args:
        item: The rule for the value.
    """

    item: FieldRule

    @property
    def expected(self) -> str:
        return self.item.expected

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        return self.item.problem(field, value, allowed_origins)

    def files(self, path: str, value: object) -> Iterable[tuple[str, MediaSource]]:
        return self.item.files(f"{path}[0]", value)

    def written(self, path: str, value: object, uploaded: Mapping[str, str]) -> JSON:
        return [self.item.written(f"{path}[0]", value, uploaded)]

    def shown(self, value: object) -> str:
        return self.item.shown(value)

    @property
    def media(self) -> tuple[str, ...]:
        return self.item.media

    def parsed(self, text: str) -> object:
        return self.item.parsed(text)

    def opened(self, value: object, open_file: OpenFile) -> object:
        # The service's own form is a list of one.
        value = value[0] if _is_list(value) and len(value) == 1 else value
        return self.item.opened(value, open_file)


@attrs.frozen
class ListOf(FieldRule):
    """
    The rule for a list.

    Args:
        item: The rule for each value.

        least: The least number of values.

        most: The greatest number of values, or None.
    """

    item: FieldRule
    least: int
    most: int | None

    @property
    def expected(self) -> str:
        return f"{self._expected_count}, each {self.item.expected}"

    @property
    def _expected_count(self) -> str:
        if self.most is None:
            return f"a list of {self.least} or more" if self.least else "a list"
        return f"a list of {self.least} to {self.most}"

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        return next(iter(self.problems(field, value, allowed_origins)), None)

    def problems(self, field: str, value: object, allowed_origins: Collection[str]) -> Iterable[Problem]:
        if not _is_list(value):
            return (Problem(field, self.shown(value), self.expected),)
        if len(value) < self.least or (self.most is not None and len(value) > self.most):
            return (Problem(field, f"a list of {len(value)}", self._expected_count),)
        found = (
            problem
            for index, item in enumerate(value)
            for problem in self.item.problems(f"{field}[{index}]", item, allowed_origins)
        )
        return [problem for _, problem in zip(range(_MOST_PROBLEMS), found, strict=False)]

    def files(self, path: str, value: object) -> Iterator[tuple[str, MediaSource]]:
        if _is_list(value):
            for index, item in enumerate(value):
                yield from self.item.files(f"{path}[{index}]", item)

    def written(self, path: str, value: object, uploaded: Mapping[str, str]) -> JSON:
        if not _is_list(value):
            return cast("JSON", value)
        return [self.item.written(f"{path}[{index}]", item, uploaded) for index, item in enumerate(value)]

    def shown(self, value: object) -> str:
        if not _is_list(value):
            return self.item.shown(value) if isinstance(value, str) else shown(value)
        first = [self.item.shown(item) for item in value[:3]]
        return f"[{', '.join([*first, *(['…'] if len(value) > len(first) else [])])}]"

    @property
    def media(self) -> tuple[str, ...]:
        return self.item.media

    @property
    def is_list(self) -> bool:
        return True

    def parsed(self, text: str) -> object:
        return [self.item.parsed(part) for part in text.split(_SEPARATOR)]

    def opened(self, value: object, open_file: OpenFile) -> object:
        return [self.item.opened(item, open_file) for item in value] if _is_list(value) else value


@attrs.frozen
class Object(FieldRule):
    """
    The rule for a mapping.

    Args:
        fields: The rules of its values.

        required: The fields that it must have.
    """

    fields: Mapping[str, FieldRule]
    required: frozenset[str]

    @property
    def expected(self) -> str:
        return "a mapping with " + ", ".join(
            f"{name} ({rule.expected}{'' if name in self.required else '; optional'})"
            for name, rule in self.fields.items()
        )

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        return next(iter(self.problems(field, value, allowed_origins)), None)

    def problems(self, field: str, value: object, allowed_origins: Collection[str]) -> Iterator[Problem]:
        if not is_mapping(value):
            yield Problem(field, self.shown(value), f"a mapping with the fields {', '.join(self.fields)}")
            return
        for name, rule in self.fields.items():
            if name in value:
                yield from rule.problems(f"{field}.{name}", value[name], allowed_origins)
            elif name in self.required:
                yield Problem(f"{field}.{name}", "nothing", rule.expected)
        for key in value:
            if key not in self.fields:
                yield Problem(f"{field}.{step_name(key)}", "a value", f"only the fields {', '.join(self.fields)}")

    def files(self, path: str, value: object) -> Iterator[tuple[str, MediaSource]]:
        if is_mapping(value):
            for name, rule in self.fields.items():
                if name in value:
                    yield from rule.files(f"{path}.{name}", value[name])

    def written(self, path: str, value: object, uploaded: Mapping[str, str]) -> JSON:
        if not is_mapping(value):
            return cast("JSON", value)
        return {
            str(name): self.fields[str(name)].written(f"{path}.{name}", inner, uploaded)
            if name in self.fields
            else cast("JSON", inner)
            for name, inner in value.items()
        }

    def shown(self, value: object) -> str:
        if isinstance(value, str):  # it may be a prompt
            return f"<{shown_length(value)}>"
        return f"<{', '.join(map(step_name, value))}>" if is_mapping(value) else shown(value)

    def opened(self, value: object, open_file: OpenFile) -> object:
        if not is_mapping(value):
            return value
        return {
            name: self.fields[str(name)].opened(inner, open_file) if name in self.fields else inner
            for name, inner in value.items()
        }


@attrs.frozen
class Lists(FieldRule):
    """
    The rule for a list of anything that JSON can express.

    Args:
        most: The greatest number of values, or None.
    """

    most: int | None

    @property
    def expected(self) -> str:
        return "a list" if self.most is None else f"a list of 0 to {self.most}"

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if not _is_list(value) or (self.most is not None and len(value) > self.most):
            return Problem(field, f"a list of {len(value)}" if _is_list(value) else shown(value), self.expected)
        return next(iter(json_problems(field, value)), None)

    def written(self, path: str, value: object, uploaded: Mapping[str, str]) -> JSON:  # noqa: ARG002 (not a file)
        return list(cast("Sequence[JSON]", value)) if _is_list(value) else cast("JSON", value)


def make_rule(name: str, facts: Facts) -> FieldRule:
    """
    Return the rule of a field.

    Args:
        name: Its name in the service.

        facts: The facts about it.

    >>> make_rule("duration", {"type": "string", "enum": ["5", "10"]}).expected
    '5 or 10'
    """
    if "enum" in facts and facts["type"] != "boolean":
        return _choice(facts)
    return _MAKERS[str(facts["type"])](name, facts)


def _choice(facts: Facts) -> FieldRule:
    values = cast("Sequence[str | int]", facts["enum"])
    if all(isinstance(value, int) or value.isdecimal() for value in values):
        return WholeChoice(tuple(int(value) for value in values), as_text=facts["type"] == "string")
    return Choice(
        tuple(str(value) for value in values),
        older=tuple(cast("Sequence[str]", facts.get("older", ()))),
        open=bool(facts.get("open")),
    )


def _string(name: str, facts: Facts) -> FieldRule:
    if "format" in facts:
        return _file(facts)
    if name == "duration":
        return Whole(_number(facts, "min") or 1, _number(facts, "max"), as_text=True)
    if "pattern" in facts and "max_length" not in facts:
        return Pattern(str(facts["pattern"]))
    return Text(_count(facts, "max_length"), _count(facts, "min_length") or 1)


def _file(facts: Facts) -> FieldRule:
    if not (kinds := _kinds(facts)):
        return PublicURL()
    size = int((_number(facts, "max_mb") or _DEFAULT_MEGABYTES) * _MEGABYTE)
    mimes = [_MIME_NAMES.get(mime, mime) for mime in cast("Sequence[str]", facts.get("accepts", ()))]
    schemes = tuple(cast("Sequence[str]", facts.get("schemes", ())))
    return MediaFile(None, MediaLimits(kinds, tuple(dict.fromkeys(mimes)), size), schemes)


def _numeric(name: str, facts: Facts) -> FieldRule:
    least, most = _number(facts, "min"), _number(facts, "max")
    if facts["type"] == "number" and name not in _WHOLE:
        return Real(least, most)
    also = tuple(cast("Sequence[int]", facts.get("also", ())))
    return Whole(least, most, also, int(_number(facts, "step") or 1))


def _array(name: str, facts: Facts) -> FieldRule:
    items = cast("Facts", facts.get("items", {"type": "string"}))
    item: FieldRule
    if "format" in facts:
        item = _file(facts)
    elif items["type"] == "object":
        fields = cast("Mapping[str, Facts]", items["fields"])
        rules = {inner: make_rule(inner, about) for inner, about in fields.items()}
        item = Object(rules, frozenset(inner for inner, about in fields.items() if about.get("required")))
    elif items["type"] == "array":
        item = Lists(_count(items, "maxItems"))
    elif items["type"] == "integer":
        item = Whole(_number(items, "minimum"), None)
    else:
        item = make_rule(name, {"type": "string"})
    if is_single(facts):
        return Single(item)
    # A list that the service requires needs a value, unless an empty one is written in its place.
    least = 1 if facts.get("required") and "send" not in facts else 0
    return ListOf(item, max(least, _count(facts, "min_items") or 0), _count(facts, "max_items"))


_MAKERS: Mapping[str, Callable[[str, Facts], FieldRule]] = {
    "string": _string,
    "boolean": lambda _name, _facts: Flag(),
    "integer": _numeric,
    "number": _numeric,
    "array": _array,
}


def _digits(value: object) -> JSON:
    """Return the digits of an integer; a member of an enumeration is its number, and too long a number is kept."""
    return str(int(value)) if is_integer(value) and value.bit_length() <= _MOST_BITS else cast("JSON", value)


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return "" if most is None else f" of at most {most}"
    return f" of at least {least}" if most is None else f" from {least} to {most}"


def _fits(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))
