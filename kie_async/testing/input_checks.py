"""
The service's checks of an input, by the facts about its model.

They are independent of the checks of the client: they see the body as it was sent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, cast

from kie_async.testing import responses
from kie_async.testing.tasks import TaskFailure

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.catalogue import FieldFacts, ModelFacts, VariantFacts
    from kie_async.testing.file_host import StoredFile

__all__ = ["Refusal", "check_input"]

#: The fields that only older pages have.
GONE_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType({"wan/2-2-a14b-image-to-video-turbo": ("aspect_ratio",)})

_BAD_REQUEST, _INVALID = 500, 422
_MEGABYTE = 2**20
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_TYPES: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "string": (str,),
        "boolean": (bool,),
        "integer": (int, float),
        "number": (int, float),
        "array": (list,),
        "object": (dict,),
    }
)

#: Media types by their other names.
_SAME_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "audio/x-wav": "audio/wav",
        "audio/mp3": "audio/mpeg",
        "audio/m4a": "audio/mp4",
        "audio/x-ms-wma": "video/x-ms-asf",
        "image/heif": "image/heic",
        # The first bytes of an MP4 file do not tell whether it has pictures.
        "video/mp4": "audio/mp4",
    }
)

#: Fields of frames and of references; a mix of both is accepted, and its task fails, as recorded.
_FRAMES = re.compile(r"(?:first|last)_frame\w*")
_REFERENCES = re.compile(r"reference_\w+")


class Refusal(NamedTuple):
    """
    The refusal of a create request.

    Attributes:
        code: The service's code.

        text: Its text.
    """

    code: int
    text: str


class _Problem(Exception):  # noqa: N818 (never leaves this module)
    """The first problem of an input."""

    def __init__(self, verdict: Refusal | TaskFailure) -> None:
        super().__init__(verdict)
        self.verdict = verdict


def check_input(
    model: ModelFacts, given: Mapping[str, JSON], *, strict: bool, find_file: Callable[[str], StoredFile | None]
) -> Refusal | TaskFailure | None:
    """
    Check the input of a create request.

    Fields that the page does not have are accepted, and so is everything that is only guessed.

    Args:
        model: The facts about the model.

        given: The input.

        strict: True to follow the newest page to the letter: refuse values that only older pages allow, and miss fields
            that it requires though it documents their default.

        find_file: Returns the upload at a URL of the service, or None for other URLs.

    Returns:
        The refusal, the failure of a task that is accepted first, or None for a valid input.
    """
    if model.get("confidence") == "guessed":
        return None
    present = {name: value for name, value in given.items() if value is not None}
    gone = present.keys() & GONE_FIELDS.get(model["model"], ())
    try:
        if strict and gone:
            return _not_in_range(min(gone))
        _check_fields(model["fields"], present, strict=strict, optional=_excludable(model))
        _check_variants(model, present)
        _check_combinations(model, present)
        for name, facts in model["fields"].items():
            _check_files(name, facts, present.get(name), find_file)
    except _Problem as problem:
        return problem.verdict
    return None


def _required() -> Refusal:
    return Refusal(_BAD_REQUEST, responses.REQUIRED)


def _not_in_range(name: str) -> Refusal:
    return Refusal(_BAD_REQUEST, responses.not_in_range(name))


def _out_of_range() -> Refusal:
    return Refusal(_BAD_REQUEST, responses.OUT_OF_RANGE)


def _check_fields(
    fields: Mapping[str, FieldFacts],
    present: Mapping[str, JSON],
    *,
    strict: bool,
    optional: AbstractSet[str] = frozenset(),
) -> None:
    """Check that required fields are given, but for *optional* ones, then each value."""
    for name, facts in fields.items():
        is_required = name not in optional and facts.get("required", False) and (strict or "default" not in facts)
        # An empty list counts where the page requires a field that its text calls optional.
        empty: tuple[JSON, ...] = (None, "") if "send" in facts else (None, "", [])
        if is_required and present.get(name) in empty:
            raise _Problem(_required())
    for name, facts in fields.items():
        value = present.get(name)
        if value is not None and (strict or value not in facts.get("older", ())):
            _check_value(name, facts, value)


def _check_value(name: str, facts: FieldFacts, value: JSON) -> None:
    is_number = facts["type"] in ("integer", "number")
    types = _TYPES.get(facts["type"])
    if types is not None and not (isinstance(value, types) and isinstance(value, bool) == (types == (bool,))):
        raise _Problem(_out_of_range() if is_number else _not_in_range(name))
    if facts.get("confidence") == "guessed":
        return
    match value:
        case str():
            _check_text(facts, value)
        case int() | float() if not isinstance(value, bool):
            _check_number(facts, value)
        case list():
            _check_list(name, facts, value)
        case Mapping() if "fields" in facts:
            given = {key: item for key, item in value.items() if item is not None}
            _check_fields(facts["fields"], given, strict=False)
        case _:
            pass
    if "enum" in facts and not facts.get("open") and not any(_equal(value, allowed) for allowed in facts["enum"]):
        raise _Problem(_not_in_range(name))


def _check_list(name: str, facts: FieldFacts, values: list[JSON]) -> None:
    # The page of one model spells the key as JSON Schema does.
    _check_length(len(values), facts.get("min_items"), facts.get("max_items", facts.get("maxItems")))
    if "items" in facts:
        for number, value in enumerate(values):
            _check_value(f"{name}[{number}]", facts["items"], value)


def _equal(value: JSON, allowed: JSON) -> bool:
    """Compare as JSON does, where true is not 1."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


def _check_text(facts: FieldFacts, text: str) -> None:
    _check_length(len(text), facts.get("min_length"), facts.get("max_length"))
    if "pattern" in facts and re.search(facts["pattern"], text) is None:
        raise _Problem(_out_of_range())
    if "min" in facts or "max" in facts:  # a number in a string
        if re.fullmatch(r"-?\d{1,15}(?:\.\d{1,15})?", text) is None:
            raise _Problem(_out_of_range())
        _check_number(facts, float(text))


def _check_number(facts: FieldFacts, number: float) -> None:
    if not math.isfinite(number) or (facts["type"] == "integer" and number != int(number)):
        raise _Problem(_out_of_range())
    if number in facts.get("also", ()):
        return
    low, high = facts.get("min", facts.get("minimum", -math.inf)), facts.get("max", math.inf)
    if not low <= number <= high or ("step" in facts and not _is_multiple(number, facts["step"])):
        raise _Problem(_out_of_range())


def _is_multiple(number: float, step: float) -> bool:
    return math.isclose(number / step, round(number / step), abs_tol=1e-9)


def _check_length(length: int, least: int | None, greatest: int | None) -> None:
    if length < (least or 0) or (greatest is not None and length > greatest):
        raise _Problem(_out_of_range())


def _check_variants(model: ModelFacts, present: Mapping[str, JSON]) -> None:
    """Check that the input is one of the alternatives."""
    variants = model.get("variants", [])
    verdicts = [_variant_problem(model, variant, present) for variant in variants]
    if not verdicts or None in verdicts:
        return
    frames, references = (any(map(pattern.fullmatch, _given(present))) for pattern in (_FRAMES, _REFERENCES))
    if frames and references:
        raise _Problem(TaskFailure("500", responses.MIXED_MEDIA))
    # The most specific problem is that of the alternative whose required fields are given.
    raise _Problem(next((verdict for verdict in verdicts if verdict != _required()), None) or _required())


def _check_combinations(model: ModelFacts, present: Mapping[str, JSON]) -> None:
    """Check that no fields are given together that exclude each other, and none without the one that it needs."""
    given = _given(present)
    for combination in model.get("never", []):
        if all(name in given and (not values or present[name] in values) for name, values in combination.items()):
            raise _Problem(_not_in_range(list(combination)[-1]))
    if any(name in given and other not in given for name, other in model.get("needs", {}).items()):
        raise _Problem(_required())


def _given(present: Mapping[str, JSON]) -> set[str]:
    """Return the names of the fields that are not empty."""
    return {name for name, value in present.items() if value not in ("", [])}


def _variant_problem(model: ModelFacts, variant: VariantFacts, present: Mapping[str, JSON]) -> Refusal | None:
    """Return the reason why the input is not this alternative, or None."""
    given = _given(present)
    if not given.issuperset(variant.get("required", ())):
        return _required()
    if excluded := sorted(given.intersection(_excluded_by(model, variant))):
        return _not_in_range(excluded[0])
    try:
        for name, limits in variant.get("limits", {}).items():
            if name in given:
                # The type of the field stays; the limits of the alternative replace those of the field.
                _check_value(name, cast("FieldFacts", {"type": model["fields"][name]["type"], **limits}), present[name])
    except _Problem as problem:
        return cast("Refusal", problem.verdict)
    return None


def _excludable(model: ModelFacts) -> set[str]:
    """Return the fields that some alternative does not take: only the others may require them."""
    return {name for variant in model.get("variants", []) for name in variant.get("excludes", ())}


def _excluded_by(model: ModelFacts, variant: VariantFacts) -> set[str]:
    """
    Return the fields that an alternative does not take.

    One that names neither its fields nor what it excludes takes nothing that is special to the others: text to video
    takes neither frames nor references.
    """
    if "fields" in variant:
        return set(model["fields"]).difference(variant["fields"])
    if "excludes" in variant:
        return set(variant["excludes"])
    return _excludable(model)


def _check_files(name: str, facts: FieldFacts, value: JSON, find_file: Callable[[str], StoredFile | None]) -> None:
    """Check the files that a field names: their URLs, types and sizes."""
    for inner_name, inner in {**facts.get("fields", {}), **facts.get("items", {}).get("fields", {})}.items():
        for item in value if isinstance(value, list) else [value]:
            _check_files(inner_name, inner, item.get(inner_name) if isinstance(item, Mapping) else None, find_file)
    for url in _texts(value) if "format" in facts else ():
        if _URL.fullmatch(url) is None:
            raise _Problem(TaskFailure("422", responses.UNAVAILABLE_MEDIA))
        if facts.get("confidence") == "guessed" or (file := find_file(url)) is None:
            continue
        if len(file.content) > facts.get("max_mb", math.inf) * _MEGABYTE:
            raise _Problem(Refusal(_INVALID, responses.too_large(name)))
        if not _is_accepted(file.mime, facts):
            raise _Problem(Refusal(_INVALID, responses.wrong_file_type(name)))


def _texts(value: JSON) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item:
            yield item


def _is_accepted(mime: str, facts: FieldFacts) -> bool:
    mime = _SAME_TYPES.get(mime, mime)
    if "accepts" in facts:
        return mime in {_SAME_TYPES.get(accepted, accepted) for accepted in facts["accepts"]}
    kinds = facts.get("format", "").split("|")
    return mime.split("/")[0] in kinds or "url" in kinds or (mime == "audio/mp4" and "video" in kinds)
