"""Whether a value can be said in JSON and where it cannot, within bounds that keep a mistake from becoming a flood."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

from kie_async._display import shown
from kie_async.errors import Problem
from kie_async.requests._fields import is_unicode

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_VALUES", "is_mapping", "json_problems", "snapshot"]

# The service documents no bounds. The largest documented input (a prompt of 30,000 characters, and some dozens of URLs)
# stays far below these; the depth is four times that of the deepest documented one.
MAX_DEPTH = 16
MAX_VALUES = 10_000
MAX_BYTES = 1_000_000

_MOST_BITS = 64
_MOST_PROBLEMS = 20
_PLAIN = "text, numbers, True, False, None, lists, and mappings with text as keys"


def json_problems(field: str, value: object) -> list[Problem]:
    """
    What keeps a value from being written as JSON, in the order of the value.

    Args:
        field: The value's name; a problem further in is named by its path (``input.shots[2].text``).

        value: Of any type; it may even contain itself.

    Returns:
        At most 20 problems.

    >>> [str(problem) for problem in json_problems("input", {"shots": [{"seconds": float("nan")}]})]
    ['input.shots[0].seconds: got nan; allowed: a finite number']
    """
    problems: list[Problem] = []
    remaining = [(field, 0, value)]
    for _ in range(MAX_VALUES + 1):
        if not remaining or len(problems) == _MOST_PROBLEMS:
            break
        path, depth, inner = remaining.pop()
        allowed = _unsayable(inner) if depth <= MAX_DEPTH else f"at most {MAX_DEPTH} levels"
        if allowed is not None:
            problems.append(Problem(path, shown(inner), allowed))
        else:
            remaining += [(path + step, depth + 1, child) for step, child in reversed(list(_children(inner)))]
    else:
        problems.append(Problem(field, f"more than {MAX_VALUES} values", f"at most {MAX_VALUES}"))
    if not problems and (size := len(json.dumps(value, default=dict))) > MAX_BYTES:
        return [Problem(field, f"{size} bytes", f"at most {MAX_BYTES} bytes as JSON")]
    return problems


def is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    """Whether a value is a mapping, of whatever it may be."""
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))


def snapshot(value: object) -> object:
    """
    Copy mappings and lists all the way down, so that later changes by the caller change nothing.

    What is no JSON is kept as it is, for ``json_problems`` to name.
    """
    return _copied(value, {}, 0)


def _copied(value: object, seen: dict[int, object], depth: int) -> object:
    if id(value) in seen or depth > MAX_DEPTH:
        return seen.get(id(value), value)
    if is_mapping(value):
        mapping: dict[object, object] = {}
        seen[id(value)] = mapping
        mapping.update((key, _copied(child, seen, depth + 1)) for key, child in value.items())
        return mapping
    if _is_list(value):
        items: list[object] = []
        seen[id(value)] = items
        items += [_copied(child, seen, depth + 1) for child in value]
        return items
    return value


def _children(value: object) -> Iterator[tuple[str, object]]:
    """The values right inside of a mapping or a list, each with its step of the path."""
    if is_mapping(value):
        for key, child in value.items():
            yield f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{shown(key)}]", child
    elif _is_list(value):
        for index, child in enumerate(value):
            yield f"[{index}]", child


def _unsayable(value: object) -> str | None:
    """What would be allowed instead of a value that JSON cannot say, its children apart; None if it can."""
    rules = (
        (isinstance(value, (bytes, bytearray)), f"{_PLAIN}; bytes go through upload(), which gives a URL"),
        (not isinstance(value, (str, int, float, Mapping, list, tuple, type(None))), _PLAIN),
        (isinstance(value, float) and not math.isfinite(value), "a finite number"),
        (isinstance(value, int) and value.bit_length() > _MOST_BITS, f"a number of at most {_MOST_BITS} bits"),
        (isinstance(value, str) and not is_unicode(value), "text without half a surrogate pair"),
        (
            is_mapping(value) and not all(isinstance(key, str) and is_unicode(key) for key in value),
            "a mapping with text as keys",
        ),
    )
    return next((allowed for broken, allowed in rules if broken), None)
