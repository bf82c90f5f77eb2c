"""JSON as services really send it: decoded without surprises, so that only "this is no JSON" has to be handled."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from kie_async.records import JSON

__all__ = ["MAX_DEPTH", "decode", "decode_around", "number", "text", "unwrapped"]

#: Deeper documents are refused: the recorded ones have five levels, and what is kept is written again elsewhere.
MAX_DEPTH = 64

# More digits than a float can hold are a mistake or an attack; and Python refuses to convert some thousands of them.
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


# Numbers beyond what JSON or a float knows (NaN, 1e999) are kept as the text that they were.
_PLAIN = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=str)
_UNIQUE = json.JSONDecoder(parse_int=_integer, parse_float=_real, parse_constant=str, object_pairs_hook=_unique)


def decode(document: str) -> JSON:
    """
    Decode one JSON document.

    Of members with the same name the last counts. NaN, infinities, and numbers too large for a float are kept as text.

    Raises:
        ValueError: If it is not JSON, or nested deeper than ``MAX_DEPTH``; nothing else is ever raised.

    >>> decode('{"a": [1, 2.5, NaN]}')
    {'a': [1, 2.5, 'NaN']}
    """
    return _decode(_PLAIN, document)


def _decode(decoder: json.JSONDecoder, document: str) -> JSON:
    try:
        value = cast("JSON", decoder.decode(document))
    except RecursionError:
        value = None
        depth = MAX_DEPTH + 1
    else:
        # No document is deeper than it has opening brackets, and most have few: what is counted next is seldom needed.
        brackets = document.count("{") + document.count("[")
        depth = _depth(value) if brackets > MAX_DEPTH else brackets
    if depth > MAX_DEPTH:
        msg = f"nested deeper than {MAX_DEPTH} levels"
        raise ValueError(msg)
    return value


def _depth(value: JSON) -> int:
    """How many mappings and lists are inside of each other, counted no further than just beyond ``MAX_DEPTH``."""
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
    Decode a document that is broken only inside of one member's text, whose quotes were not escaped as they should be.

    The text is taken to end at the first quote after which the rest makes sense: followed by another member or by the
    end of the object, all the way to the document's end, and without saying anything twice. Where the text is itself a
    JSON object, nothing inside of it can pass for members of the document, even if somebody has written it to: any
    earlier end leaves the object's own closing brace and the quote after it, which make sense nowhere.

    Args:
        document: The document.

        member: The name of the broken member; its value comes as the text between its quotes, unchanged.

    Raises:
        ValueError: If the document does not make sense that way either.

    >>> decode_around('{"id": "a", "param": "{"prompt":"x"}", "state": "fail"}', "param")
    {'id': 'a', 'param': '{"prompt":"x"}', 'state': 'fail'}
    """
    opening = re.search(rf'"{re.escape(member)}"\s*:\s*(?=")', document)
    if opening is not None:
        before, inside = document[: opening.end()], opening.end() + 1
        for quote in islice(_CLOSING.finditer(document, inside), _MOST_CANDIDATES):
            after = document[quote.end() :]
            try:
                _decode(_UNIQUE, f"{before}null{after}")
            except ValueError:
                continue
            return _decode(_UNIQUE, f"{before}{json.dumps(document[inside : quote.start()])}{after}")
    msg = f"not JSON, whatever {member} contains"
    raise ValueError(msg)


#: A quote that may end a member's text.
_CLOSING = re.compile(r'"(?=\s*(?:\}|,\s*"\w+"\s*:))')


def unwrapped(value: JSON) -> JSON:
    r"""
    Decode a text that is JSON, and a text in that one, up to three times.

    Returns:
        The value inside; *value* itself where it is no text, or no JSON.

    >>> unwrapped(r'"{\"a\": 1}"'), unwrapped("{broken"), unwrapped({"a": 1})
    ({'a': 1}, '{broken', {'a': 1})
    """
    for _ in range(_MOST_WRAPPERS):
        if not isinstance(value, str) or not value:  # a task that runs has an empty result
            break
        try:
            value = decode(value)
        except ValueError:
            break
    return value


def text(value: JSON) -> str | None:
    """
    A text, or a number as a text; None for an empty text and for all else.

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
    A finite number, be it given as a number or as a text; None for all else.

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
