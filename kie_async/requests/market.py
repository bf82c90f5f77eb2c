"""Requests for any model of Kie.ai's market, sent without interpretation."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard, cast

import attrs

from kie_async._display import shortened, shown
from kie_async._keys import is_encodable
from kie_async.errors import Problem
from kie_async.requests.base import invalid_request

if TYPE_CHECKING:
    from kie_async.catalogue.prices import ListPrice
    from kie_async.records import JSON
    from kie_async.requests.media import MediaSource

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_VALUES",
    "MarketRequest",
    "copied_input",
    "is_mapping",
    "json_problems",
    "step_name",
]

# The form of all names in the catalogue, and some more.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}", re.ASCII)

# Limits that stop mistakes. The service documents none; the largest documented input (a prompt of 30,000 characters and
# dozens of URLs) is far below these, and the depth is four times that of the deepest documented input.
MAX_DEPTH = 16
MAX_VALUES = 10_000
MAX_BYTES = 1_000_000

_MOST_BITS = 64
_MOST_PROBLEMS = 20
_LONGEST_NAME = 60
_SCALARS = (str, int, float, type(None))
_PLAIN = "strings, numbers, True, False, None, lists, and mappings with strings as keys"


def copied_input(given: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Copy mappings and lists at all levels, so that later changes of them have no effect."""
    return cast("Mapping[str, JSON]", _copied(given, {}, 0))


@attrs.frozen(kw_only=True, repr=False)
class MarketRequest:
    """
    A request for a model without a class of its own.

    Only the form is checked: the model's name must be possible, and the input must be expressible in JSON. The service
    judges the meaning of the input. Upload a local image with ``KieClient.upload()`` first, and pass its URL.

    Args:
        model: The model's name in the service.

        input: The ``input`` object, in the service's field names. It is copied: later changes have no effect.

    >>> MarketRequest(model="wan/2-5-image-to-video", input={"prompt": "A dog", "duration": "5"})
    MarketRequest(model='wan/2-5-image-to-video', input=<prompt, duration>)
    """

    model: str
    _input: Mapping[str, JSON] = attrs.field(converter=copied_input, hash=False, alias="input")

    def __repr__(self) -> str:
        given: object = self._input
        names = ", ".join(map(step_name, given)) if is_mapping(given) else shown(given)
        return f"MarketRequest(model={shown(self.model)}, input=<{shortened(names)}>)"

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:  # noqa: ARG002 (URLs are not checked)
        """
        Find all problems of the request's form.

        Args:
            allowed_origins: Ignored: the meaning of the input is not checked.

        Returns:
            The problems of the model's name and of the input.
        """
        model: object = self.model
        problems = []
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            problems.append(Problem("model", shown(model), "a model's name, such as 'wan/2-5-image-to-video'"))
        if is_mapping(self._input):
            return problems + json_problems("input", self._input)
        return [*problems, Problem("input", shown(self._input), "a mapping, in the service's field names")]

    def check(self) -> None:
        """
        Do nothing if the request can be sent; works without a network.

        Raises:
            InvalidRequestError: If it cannot be sent; the error lists every problem.
        """
        problems = self.problems()
        if problems:
            raise invalid_request(type(self).__name__, problems)

    def files(self) -> Mapping[str, MediaSource]:
        """Return nothing: media files are given as URLs."""
        return {}

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:  # noqa: ARG002 (there are no images)
        """
        Return the ``input`` object of the create request, unchanged.

        Args:
            uploaded: Ignored: there are no ``files()``.
        """
        return dict(copied_input(self._input))

    def list_price(self) -> ListPrice | None:
        """
        Return the price of the task by the price list; works without a network.

        Returns:
            The price, in credits; an upper bound if the input leaves something open on which the price depends. None if
            the list does not have the model, or no price for such a task, or if the price cannot be computed.

        >>> request = MarketRequest(model="kling/v2-1-pro", input={"prompt": "A dog", "duration": "10"})
        >>> request.list_price()
        ListPrice(credits=100.0, upper_bound=False, as_of='2026-10-01')
        """
        from kie_async.catalogue.prices import list_price  # a request that is not asked reads no data

        return list_price(self.model, self._input)


def json_problems(field: str, value: object) -> list[Problem]:
    """
    Find the parts of a value that cannot be written as JSON, in the order of the value.

    Args:
        field: The value's name; a problem inside is named by its path (``input.shots[2].text``).

        value: A value of any type; it may even contain itself.

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
        allowed = _allowed_instead(inner) if depth <= MAX_DEPTH else f"at most {MAX_DEPTH} levels"
        if allowed is not None:
            problems.append(Problem(path, shown(inner), allowed))
        elif not isinstance(inner, _SCALARS):
            remaining += [(path + step, depth + 1, child) for step, child in reversed(list(_children(inner)))]
    else:
        problems.append(Problem(field, f"more than {MAX_VALUES} values", f"at most {MAX_VALUES}"))
    if not problems and (size := len(json.dumps(value, default=dict))) > MAX_BYTES:
        return [Problem(field, f"{size} bytes", f"at most {MAX_BYTES} bytes as JSON")]
    return problems


def is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    """Return True for a mapping."""
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))


def _copied(value: object, seen: dict[int, object], depth: int) -> object:
    """Copy mappings and lists at all levels; values that are not JSON are kept for ``json_problems``."""
    if isinstance(value, _SCALARS):
        return value
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


def step_name(key: object) -> str:
    """Return a key of a mapping, so short that a path of such names stays short."""
    return key if isinstance(key, str) and len(key) <= _LONGEST_NAME and key.isidentifier() else shown(key)


def _children(value: object) -> Iterator[tuple[str, object]]:
    """Yield the direct children of a mapping or a list, each with its step of the path."""
    if is_mapping(value):
        for key, child in value.items():
            name = step_name(key)
            yield f".{name}" if name == key else f"[{name}]", child
    elif _is_list(value):
        for index, child in enumerate(value):
            yield f"[{index}]", child


def _allowed_instead(value: object) -> str | None:
    """Describe the values that are allowed instead of one that JSON cannot express; None for a good one."""
    if isinstance(value, str):
        return None if is_encodable(value) else "a string without half a surrogate pair"
    rules = (
        (isinstance(value, (bytes, bytearray)), f"{_PLAIN}; bytes go through upload(), which gives a URL"),
        (not isinstance(value, (*_SCALARS, Mapping, list, tuple)), _PLAIN),
        (isinstance(value, float) and not math.isfinite(value), "a finite number"),
        (isinstance(value, int) and value.bit_length() > _MOST_BITS, f"a number of at most {_MOST_BITS} bits"),
        (
            is_mapping(value) and not all(isinstance(key, str) and is_encodable(key) for key in value),
            "a mapping with strings as keys",
        ),
    )
    return next((allowed for broken, allowed in rules if broken), None)
