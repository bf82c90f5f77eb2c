"""A tolerant JSON decoder: its only error is ValueError, for a document that is not JSON or too deep."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, cast

import attrs

if TYPE_CHECKING:
    from kie_async.records import JSON

__all__ = ["MAX_DEPTH", "Layout", "decode", "decode_unique", "number", "read_broken_object", "text", "unwrap_json"]

#: The deepest nesting that is accepted. Recorded documents have five levels; kept values must be encodable again.
MAX_DEPTH = 64

# More digits than a float can hold are a mistake or an attack, and Python refuses to convert thousands of digits.
_MOST_DIGITS = 300
_MOST_BITS = 1024
_MOST_WRAPPERS = 3

#: The bounds for broken objects: places of members, places of one name, and passes over the document.
_MOST_PLACES = 2000
_MOST_ALIKE = 8
_MOST_PASSES = 4


def _integer(digits: str) -> JSON:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _real(digits: str) -> JSON:
    value = float(digits)
    return value if math.isfinite(value) else digits


def _unique(pairs: list[tuple[str, JSON]]) -> Mapping[str, JSON]:
    members = dict(pairs)
    if len(members) < len(pairs):
        msg = "a name occurs twice in one object"
        raise ValueError(msg)
    return members


# Numbers that JSON or a float cannot hold (NaN, 1e999) are kept as strings.
_PLAIN = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=str)
# Within a string that the service did not escape well, line breaks may be bare.
_LOOSE = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=str, strict=False)
_UNIQUE = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=str, object_pairs_hook=_unique)


def decode(document: str, decoder: json.JSONDecoder = _PLAIN) -> JSON:
    """
    Decode one JSON document.

    The last of several members with the same name counts. NaN, infinities, and numbers too large for a float become
    strings.

    Raises:
        ValueError: If it is not JSON, or nested deeper than ``MAX_DEPTH``; no other error is raised.

    >>> decode('{"a": [1, 2.5, NaN]}')
    {'a': [1, 2.5, 'NaN']}
    """
    try:
        value = cast("JSON", decoder.decode(document))
    except RecursionError:
        value = None
        depth = MAX_DEPTH + 1
    else:
        # A document is not deeper than its number of opening brackets, so counting the depth is seldom needed.
        brackets = document.count("{") + document.count("[")
        depth = _depth(value) if brackets > MAX_DEPTH else brackets
    if depth > MAX_DEPTH:
        msg = f"nested deeper than {MAX_DEPTH} levels"
        raise ValueError(msg)
    return value


def _depth(value: JSON) -> int:
    """Return the nesting of mappings and lists, counted up to just beyond ``MAX_DEPTH``."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner: list[JSON] = []
        for outer in level:
            if isinstance(outer, Mapping):
                inner += outer.values()
            elif isinstance(outer, list):
                inner += outer
        depth += any(isinstance(outer, (Mapping, list)) for outer in level)
        level = inner
    return depth


def decode_unique(document: str) -> JSON:
    """
    Decode one JSON document in which no object has two members with the same name.

    Raises:
        ValueError: If it is not such a document, or nested deeper than ``MAX_DEPTH``.
    """
    return decode(document, _UNIQUE)


# -- broken objects ---------------------------------------------------------------------------------------------------

_SPACE = r"[ \t\r\n]*"
_SPACES = " \t\r\n"
#: The end of a string, and the name of the next member.
_BOUNDARY = rf'"{_SPACE},{_SPACE}"[^"\\]{{1,64}}"{_SPACE}:'
#: The boundaries after a text that begins with a bracket, and after any other text.
_BOUNDARIES = {
    "": re.compile(_BOUNDARY),
    "{": re.compile(rf"\}}{_SPACE}{_BOUNDARY}"),
    "[": re.compile(rf"\]{_SPACE}{_BOUNDARY}"),
}
_CLOSING = {"{": "}", "[": "]"}
#: The name of a member that is not known.
_UNKNOWN = re.compile(rf'[{{,]{_SPACE}"[^"\\]*"{_SPACE}:{_SPACE}')


@attrs.frozen
class Layout:
    """
    The members of an object, as far as they are known.

    Attributes:
        names: The names of the known members.

        always: The members that each such object has once.

        plain: The strings that contain no quotes, so that they are never broken.

        documents: The strings that contain a JSON document: a bracket at their beginning is closed at their end.
    """

    names: tuple[str, ...]
    always: frozenset[str]
    plain: frozenset[str]
    documents: frozenset[str]

    @cached_property
    def first(self) -> re.Pattern[str]:
        """The opening bracket of the object, the name of a known member, and the colon."""
        return re.compile(rf'\{{{_SPACE}"({"|".join(self.names)})"{_SPACE}:{_SPACE}')

    @cached_property
    def later(self) -> re.Pattern[str]:
        """The comma before a known member, its name, and the colon."""
        return re.compile(rf',{_SPACE}"({"|".join(self.names)})"{_SPACE}:{_SPACE}')


@attrs.define(eq=False)
class _Place:
    """
    A place in the text at which a known member may begin. Sets of places are integers with one bit for each.

    Attributes:
        name: The member's name.

        comma: The index of the comma before it.

        at: The index of its value.

        value: The value, if it is intact.

        stop: The index after an intact value.

        intact: The places that may be next if the value is intact.

        broken: The places that may be next if the value is a broken string.
    """

    name: str
    comma: int
    at: int
    value: JSON = None
    stop: int = 0
    intact: int = 0
    broken: int = 0


def read_broken_object(
    document: str, start: int, end: int, layout: Layout
) -> tuple[dict[str, JSON], dict[str, str | None]]:
    """
    Read the members of an object with strings in which quotes were not escaped.

    A broken string ends at a quote that the end of the object or another member follows. Its text may contain such
    quotes, too, so an object can often be read in several ways. A member counts if it is the same in all of them: it
    begins at one place, and its value is intact and not the beginning of a longer, broken string. The time is linear in
    the length of the document. See docs/explanation/broken-answers.md.

    Args:
        document: The document.

        start: The index of the object's opening bracket.

        end: The index of its closing bracket.

        layout: The known members.

    Returns:
        The members, and those known members that are in doubt: with their text if only their end is, else with None.

    Raises:
        ValueError: If the object cannot be read in any way, or in too many.

    >>> layout = Layout(("id", "param"), frozenset({"id"}), frozenset({"id"}), frozenset({"param"}))
    >>> broken = '{"param": "{"prompt":"x"}", "id": "a"}'
    >>> read_broken_object(broken, 0, len(broken) - 1, layout)
    ({'id': 'a'}, {'param': '{"prompt":"x"}'})
    """
    places = _find_places(document, start, end, layout)
    beginning = _link_places(document, places, start, end, layout)
    possible, certain = _narrow(places, layout, beginning)
    members: dict[str, JSON] = {}
    doubtful: dict[str, str | None] = {place.name: None for place in _chosen(places, possible)}
    sure = _chosen(places, certain)
    borders = [*(place.comma for place in sure), end]
    members |= _unknown_members(document, start, borders[0], layout)
    for place, border in zip(sure, borders[1:], strict=True):
        if place.intact & possible and not place.broken & possible:
            members[place.name] = place.value
            members |= _unknown_members(document, place.stop, border, layout)
        elif document[place.at] == '"' and ((place.intact | place.broken) & possible).bit_count() == 1:
            quote = _before(document, border)
            bracket = _opening_bracket(document, place, layout)
            if bracket and document[_before(document, quote)] != _CLOSING[bracket]:
                # A member with an unknown name is between the text and the next known member.
                boundary = _BOUNDARIES[bracket].search(document, place.at, border)
                quote = quote if boundary is None else document.index('"', boundary.start())
                members |= _unknown_members(document, _after(document, quote + 1), border, layout)
            doubtful[place.name] = document[place.at + 1 : quote]
    number = Counter(place.name for place in sure)
    once = {name: value for name, value in members.items() if number[name] < 2}  # noqa: PLR2004 (twice)
    return once, {name: text if number[name] == 1 else None for name, text in doubtful.items() if name not in once}


def _chosen(places: list[_Place], chosen: int) -> list[_Place]:
    return [place for index, place in enumerate(places) if chosen >> index & 1]


def _find_places(document: str, start: int, end: int, layout: Layout) -> list[_Place]:
    found = list(islice(layout.later.finditer(document, start, end), _MOST_PLACES + 1))
    if len(found) > _MOST_PLACES:
        msg = "not JSON, and too many names of members"
        raise ValueError(msg)
    if (first := layout.first.match(document, start, end)) is not None:
        found.insert(0, first)
    # A name that is found very often counts as unknown.
    number = Counter(match[1] for match in found)
    often = {name for name, times in number.items() if times > _MOST_ALIKE}
    return [_Place(match[1], match.start(), match.end()) for match in found if match[1] not in often]


def _link_places(document: str, places: list[_Place], start: int, end: int, layout: Layout) -> int:
    """Set the places that may be next after each place, and return the first ones; the last place is the end."""
    commas = [*(place.comma for place in places), end]
    closed = _places_after_quotes(document, commas)
    _read_intact_values(document, places, commas)
    # A value that is not a string belongs to the name before it, so no other member ends where it ends.
    ends = {place.stop: document[place.at] == '"' for place in places if place.intact}
    owned = sum((not ends.get(comma, True)) << index for index, comma in enumerate(commas))
    brackets = [_opening_bracket(document, place, layout) for place in places]
    # The places after the next boundary with an unknown name, by the bracket that begins the string.
    beyond = {bracket: 0 for bracket in brackets if bracket is not None}
    for index in reversed(range(len(places))):
        place, bracket, border = places[index], brackets[index], commas[index + 1]
        later = (2 << len(places)) - (2 << index)
        if bracket is not None:
            # An intact string may end before an unknown member.
            unknown = _BOUNDARIES[bracket].search(document, place.stop if place.intact else place.at, border)
            place.broken = closed[bracket] & later | (later & ~owned if unknown else beyond[bracket])
            # One quote is not both the beginning and the end; and an intact string is not broken if it ends here, too.
            if border == place.stop or _before(document, border) == place.at:
                place.broken &= ~(1 << index + 1)
        for bracket in beyond:
            if _BOUNDARIES[bracket].search(document, place.at, border):
                beyond[bracket] = later & ~owned
        if place.stop not in commas:
            place.intact &= ~owned
    return _next_places(document, start, commas)


def _places_after_quotes(document: str, commas: list[int]) -> dict[str, int]:
    """Return the places after a quote, and those after a quote and the counterpart of a bracket."""
    closed = dict.fromkeys(_BOUNDARIES, 0)
    for index, comma in enumerate(commas):
        if document[quote := _before(document, comma)] == '"':
            closed[""] |= 1 << index
            for opening, closing in _CLOSING.items():
                closed[opening] |= (document[_before(document, quote)] == closing) << index
    return closed


def _read_intact_values(document: str, places: list[_Place], commas: list[int]) -> None:
    """Set the values that are intact, and the places that may be next: one, or all after an unknown member."""
    end, characters = commas[-1], 0
    for place in places:
        try:
            place.value, stop = _LOOSE.raw_decode(document, place.at)
        except json.JSONDecodeError as error:
            stop = -error.pos
        except RecursionError:
            stop = -end
        characters += abs(stop) - place.at
        if characters > _MOST_PASSES * len(document):
            msg = "not JSON, and too many nested objects"
            raise ValueError(msg)
        if 0 < stop <= end and _depth(place.value) < MAX_DEPTH:
            place.stop = _after(document, stop)
            place.intact = _next_places(document, place.stop, commas)


def _next_places(document: str, stop: int, commas: list[int]) -> int:
    """Return the places that may be next if a value ends at *stop*: one, or all that may be after an unknown string."""
    while True:
        following = bisect_left(commas, stop)
        if stop == commas[following]:
            return 1 << following
        name = _UNKNOWN.match(document, stop, commas[-1])
        if name is None:
            return 0
        try:
            value, stop = _LOOSE.raw_decode(document, name.end())
        except (ValueError, RecursionError):
            value = ""
        if isinstance(value, str) or stop > commas[-1]:
            return (1 << len(commas)) - (1 << following)
        stop = _after(document, stop)


def _before(document: str, index: int) -> int:
    """Return the index of the last character before *index* that is not white space."""
    index -= 1
    while document[index] in _SPACES:
        index -= 1
    return index


def _after(document: str, index: int) -> int:
    """Return the index of the first character from *index* on that is not white space."""
    while document[index] in _SPACES:
        index += 1
    return index


def _opening_bracket(document: str, place: _Place, layout: Layout) -> str | None:
    """Return the bracket at which a string begins that may be broken, "" for other such strings, else None."""
    if document[place.at] != '"' or place.name in layout.plain:
        return None
    begins = document[_after(document, place.at + 1)]
    return begins if begins in _CLOSING and place.name in layout.documents else ""


def _narrow(places: list[_Place], layout: Layout, beginning: int) -> tuple[int, int]:
    """
    Return the places that are members in at least one way to read the object, and those that are in all ways.

    A member of ``layout.always`` that has only one place is there, so no string contains that place. Where a member is
    certain, its other places are text. Each such step may decide others.
    """
    allowed, pins = (1 << len(places)) - 1, 0
    while True:
        possible, certain = _walk(places, beginning, allowed, pins)
        named: dict[str, int] = {}
        for index, place in enumerate(places):
            if possible >> index & 1:
                named[place.name] = named.get(place.name, 0) | 1 << index
        left = {name: where & certain or where for name, where in named.items()}
        narrowed = sum(left.values())
        pinned = sum(where for name, where in left.items() if name in layout.always and where.bit_count() == 1)
        if (narrowed, pinned) == (allowed, pins):
            return possible, certain
        allowed, pins = narrowed, pinned


def _walk(places: list[_Place], beginning: int, allowed: int, pins: int) -> tuple[int, int]:
    """Return the places on at least one way from the beginning to the end, and those on all, and drop other steps."""
    last = 1 << len(places)
    steps, barrier = (allowed | last), last
    for index in reversed(range(len(places))):
        # No step leads beyond a pin.
        place, most = places[index], (barrier << 1) - 1 & steps
        place.intact &= most
        place.broken &= most
        barrier = 1 << index if pins >> index & 1 else barrier
    beginning &= (barrier << 1) - 1 & steps
    reached, possible = beginning, last
    for index, place in enumerate(places):
        if reached >> index & 1:
            reached |= place.intact | place.broken
    for index, place in reversed(list(enumerate(places))):
        if reached >> index & 1 and (place.intact | place.broken) & possible:
            possible |= 1 << index
    if not reached & beginning & possible:
        msg = "not JSON, whatever the strings contain"
        raise ValueError(msg)
    # A place is on all ways if no step leads past it.
    certain, farthest = 0, (beginning & possible).bit_length() - 1
    for index, place in enumerate(places):
        if possible >> index & 1:
            certain |= (farthest <= index) << index
            farthest = max(farthest, ((place.intact | place.broken) & possible).bit_length() - 1)
    return possible, certain


def _unknown_members(document: str, start: int, end: int, layout: Layout) -> Mapping[str, JSON]:
    """Return the members with unknown names in the text between two known members, if all of them are intact."""
    if start >= end:
        return {}
    try:
        members = decode_unique(f"{{{document[start + 1 : end]}}}")
    except ValueError:
        return {}
    return {name: value for name, value in cast("Mapping[str, JSON]", members).items() if name not in layout.names}


def unwrap_json(value: JSON) -> JSON:
    r"""
    Decode a string that is JSON, and a string inside it, up to three times.

    Returns:
        The value inside, or *value* itself if it is not a string or not JSON.

    >>> unwrap_json(r'"{\"a\": 1}"'), unwrap_json("{broken"), unwrap_json({"a": 1})
    ({'a': 1}, '{broken', {'a': 1})
    """
    for _ in range(_MOST_WRAPPERS):
        if not isinstance(value, str) or not value:  # a running task has an empty result
            break
        try:
            value = decode(value, _LOOSE)
        except ValueError:
            break
    return value


def text(value: JSON) -> str | None:
    """
    Return a string, or a number as a string; None for an empty string and for any other value.

    >>> text(" fail "), text(500), text(""), text(True)
    ('fail', '500', None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _MOST_BITS):
        return str(value)
    return (value.strip() or None) if isinstance(value, str) else None


def number(value: JSON) -> float | None:
    """
    Return a finite number from a number or a string; None for any other value.

    >>> number(38), number("5916.25"), number(""), number(True)
    (38.0, 5916.25, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        converted = float(value)
    except (ValueError, OverflowError):
        return None
    return converted if math.isfinite(converted) else None
