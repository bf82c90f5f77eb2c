"""A tolerant JSON decoder: its only error is ValueError, for a document that is not JSON or too deep."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from kie_async.records import JSON

__all__ = ["MAX_DEPTH", "decode", "decode_around", "number", "text", "unwrap_json"]

#: The deepest nesting that is accepted. Recorded documents have five levels; kept values must be encodable again.
MAX_DEPTH = 64

# More digits than a float can hold are a mistake or an attack, and Python refuses to convert thousands of digits.
_MOST_DIGITS = 300
_MOST_BITS = 1024
_MOST_CANDIDATES = 1000
_MOST_WRAPPERS = 3


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


def decode_around(document: str, member: str) -> JSON:
    """
    Decode a document that is broken only inside one member's string, whose quotes were not escaped.

    The string ends at the first quote after which the rest of the document is valid: another member or the end of the
    object follows, and no name occurs twice. If the string is itself a JSON object, nothing inside it can be read as
    members of the document, not even text written to do so: any earlier end would leave the object's own closing brace
    and the quote after it, which are valid nowhere.

    Args:
        document: The document.

        member: The name of the broken member; its value is the unchanged text between its quotes.

    Raises:
        ValueError: If the document is not valid in this way either.

    >>> decode_around('{"id": "a", "param": "{"prompt":"x"}", "state": "fail"}', "param")
    {'id': 'a', 'param': '{"prompt":"x"}', 'state': 'fail'}
    """
    opening = re.search(rf'"{re.escape(member)}"\s*:\s*(?=")', document)
    if opening is not None:
        before, inside = document[: opening.end()], opening.end() + 1
        for quote in islice(_CLOSING.finditer(document, inside), _MOST_CANDIDATES):
            after = document[quote.end() :]
            try:
                decode(f"{before}null{after}", _UNIQUE)
            except ValueError:
                continue
            return decode(f"{before}{json.dumps(document[inside : quote.start()])}{after}", _UNIQUE)
    msg = f"not JSON, whatever {member} contains"
    raise ValueError(msg)


#: A quote that may end a member's string.
_CLOSING = re.compile(r'"(?=\s*(?:\}|,\s*"\w+"\s*:))')


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
            value = decode(value)
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
