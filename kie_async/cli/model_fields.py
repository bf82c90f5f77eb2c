"""The fields of a model for the command line: columns and options become the values of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from kie_async import Problem, Request, Wan22TurboImageToVideo
from kie_async._display import shown
from kie_async.cli.options import parse_json

if TYPE_CHECKING:
    from kie_async.requests._model import ModelRequest, NamedRule, OpenFile

__all__ = ["EXTRA", "ModelFields", "fields_of_model", "near_hint", "nearest_model", "parse_field_options"]

#: The option and column for fields that the service has added since; it is not a field of the model.
EXTRA = "extra"
#: Longer names are no misspelled ones.
_LONGEST_NAME = 60
#: The words that may follow the option of a boolean field.
_BOOLEANS = frozenset(("true", "yes", "1", "false", "no", "0"))


class ModelFields:
    """
    The fields of a model whose request class declares them.

    Attributes:
        names: The names of the fields, ``extra`` included.

        required: The fields that a request cannot do without.

        rules: The fields by their names.
    """

    def __init__(self, request_class: type[ModelRequest]) -> None:
        self._request_class = request_class
        self.rules: Mapping[str, NamedRule] = {rule.name: rule for rule in request_class.field_rules()}
        self._by_wire = {rule.wire: rule.name for rule in self.rules.values()}
        self.names: tuple[str, ...] = (*self.rules, EXTRA)
        defaults = {field.name: field.default for field in attrs.fields(request_class)}
        self.required: tuple[str, ...] = tuple(name for name in self.rules if defaults[name] is attrs.NOTHING)

    def find(self, name: str) -> str | None:
        """
        Return the name of a field, or None.

        Args:
            name: Its name, or the service's name of it.
        """
        return name if name in self.names else self._by_wire.get(name)

    def parse(self, name: str, text: str) -> object:
        """
        Return the value of a field that a text stands for.

        Args:
            name: The name of the field.

            text: The text; a list may be JSON, or its values separated by ``|``.

        Raises:
            ValueError: If the text is JSON that cannot be parsed.
        """
        if name == EXTRA:
            return parse_json(text)
        rule = self.rules[name].rule
        if rule.is_list and text.lstrip().startswith(("[", "{")):
            value = parse_json(text)
            return value if isinstance(value, list) else [value]
        return rule.parsed(text)

    def convert(self, name: str, value: object) -> object:
        """Return the value of a field for a typed value: 7.0 is 7, and digits may stand for an integer."""
        if name == EXTRA:
            return value
        rule = self.rules[name].rule
        if isinstance(value, float) and type(number := rule.parsed(repr(value))) is int:
            return number
        return rule.parsed(value) if isinstance(value, str) and getattr(rule, "as_text", False) else value

    def open(self, name: str, value: object, open_file: OpenFile) -> object:
        """Return the value of a field with its paths opened."""
        return value if name == EXTRA else self.rules[name].rule.opened(value, open_file)

    def build(self, values: Mapping[str, object]) -> Request:
        """Return a request, unchecked; a required field that is missing is empty."""
        missing = [name for name in self.required if name not in values]
        return cast("Request", cast("Any", self._request_class)(**dict.fromkeys(missing, ""), **values))


def fields_of_model(model: str | None) -> ModelFields | None:
    """
    Return the fields of a model, or None for a model that the catalogue does not have.

    Args:
        model: The model's name; None for Wan 2.2 Turbo.
    """
    if model in (None, Wan22TurboImageToVideo.MODEL):
        return ModelFields(Wan22TurboImageToVideo)
    from kie_async.catalogue import request_class  # only commands that name a model load it

    found = request_class(model)
    return None if found is None else ModelFields(found)


def nearest_model(name: str) -> str | None:
    """
    Return the model of the catalogue that a misspelled name may mean; None for a name that the facts have.

    Args:
        name: The name of a model that has no class.
    """
    from kie_async.catalogue import MODELS
    from kie_async.catalogue._data import model_facts

    if model_facts(name) is not None:
        return None
    import difflib

    for model, class_name in MODELS.items():
        if name == class_name or name.strip().lower() == model.lower():
            return model
    return next(iter(difflib.get_close_matches(name[:_LONGEST_NAME], MODELS, n=1, cutoff=0.8)), None)


def near_hint(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return a hint at the known name that is like *name*, or an empty string."""
    import difflib

    near = difflib.get_close_matches(name[:_LONGEST_NAME], list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse_field_options(
    fields: ModelFields, arguments: Sequence[str], given: Mapping[str, object], *, others: Sequence[str]
) -> tuple[Mapping[str, object], Sequence[Problem]]:
    """
    Return the values of the fields that a command line has, by their names, and the problems.

    Args:
        fields: The fields of the model.

        arguments: The options that are not the command's own, and their values.

        given: The values of the command's own options that may be fields; None for those without one.

        others: The other options of the command, for hints.
    """
    reader = _OptionReader(fields, others)
    for name, value in given.items():
        if value is not None:
            reader.add(f"--{name.replace('_', '-')}", name, [value])
    words = list(arguments)
    while words:
        words = reader.read(words.pop(0), words)
    return reader.values, reader.problems


class _OptionReader:
    """Reads the options of fields, one after another."""

    def __init__(self, fields: ModelFields, others: Sequence[str]) -> None:
        self._fields = fields
        self._others = others
        self.values: dict[str, object] = {}
        self.problems: list[Problem] = []

    def read(self, word: str, rest: list[str]) -> list[str]:
        """Read an option and its values, and return what follows."""
        option, has_value, text = word.partition("=")
        if not option.startswith("-"):
            self.problems.append(Problem("argument", shown(word), "options only, such as --prompt TEXT"))
            return rest
        name = option.lstrip("-").replace("-", "_")
        count = next((index for index, follower in enumerate(rest) if follower.startswith("--")), len(rest))
        if not option.startswith("--") or self._fields.find(name) is None:
            return self._read_unknown(option, name, rest, 0 if has_value else count)
        field = self._field(name)
        if has_value:
            words: list[str] = [text]
            count = 0
        elif self._is_flag(field):
            count = int(count > 0 and rest[0].lower() in _BOOLEANS)
            words = rest[:count] or ["true"]
        else:
            count = count if self._is_list(field) else min(count, 1)
            words = rest[:count]
        self.add(option, name, words)
        return rest[count:]

    def add(self, option: str, name: str, values: Sequence[object]) -> None:
        """Add the values of an option; those of a list are collected."""
        if self._fields.find(name) is None:
            self._read_unknown(option, name, [], 0)
            return
        field = self._field(name)
        if not values:
            self.problems.append(Problem(option, "nothing", self._expected(field)))
            return
        for value in values:
            try:
                parsed = self._fields.parse(field, value) if isinstance(value, str) else value
            except ValueError as error:
                self.problems.append(Problem(option, f"an unreadable value ({error})", self._expected(field)))
                continue
            before = self.values.get(field)
            if isinstance(before, list) and isinstance(parsed, list):
                parsed = [*before, *parsed]
            self.values[field] = parsed

    def _read_unknown(self, option: str, name: str, rest: list[str], count: int) -> list[str]:
        positive = name.removeprefix("no_")
        if positive != name and self._fields.find(positive) is not None and self._is_flag(self._field(positive)):
            self.values[self._field(positive)] = False
            return rest
        known = [f"--{known.replace('_', '-')}" for known in self._fields.names]
        hint = near_hint(option.replace("_", "-"), [*known, *self._others], cutoff=0.7)
        self.problems.append(Problem(option, "an option that the model does not have", ", ".join(known) + hint))
        return rest[count:]

    def _field(self, name: str) -> str:
        return cast("str", self._fields.find(name))

    def _is_flag(self, field: str) -> bool:
        return field != EXTRA and self._fields.rules[field].rule.is_flag

    def _is_list(self, field: str) -> bool:
        return field != EXTRA and self._fields.rules[field].rule.is_list

    def _expected(self, field: str) -> str:
        return "a JSON object, in the service's names" if field == EXTRA else self._fields.rules[field].rule.expected
