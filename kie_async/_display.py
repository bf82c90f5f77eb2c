"""Short, one-line forms of values for messages and ``repr``, without private content."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["sealed", "shortened", "shown", "shown_length"]

_T = TypeVar("_T")

_MOST_BITS = 64


def shown(value: object, *, longest: int = 60) -> str:
    """
    Describe a value for a message: numbers and short strings by their value, other objects by their type.

    Contents are left out on purpose: a message may be logged, and an unexpected value may be a secret.

    Args:
        value: A value of any type.

        longest: The number of characters of a string to show.

    >>> shown("1080p"), shown(b"abc"), shown([1, 2]), shown(10**400)
    ("'1080p'", '3 bytes', 'a value of type list', 'a number of 1329 bits')
    """
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, str):
        return ascii(value) if len(value) <= longest else f"{value[:longest]!a}… ({len(value)} characters)"
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    return f"a value of type {type(value).__name__}"


def shortened(text: str, longest: int = 400) -> str:
    """
    Return a text unchanged, or its beginning and its length if it is longer than *longest* characters.

    >>> shortened("seed"), shortened("n" * 1_000_000, 4)
    ('seed', 'nnnn… (1000000 characters)')
    """
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


def shown_length(text: str) -> str:
    """
    Describe a private string for a message by its length only.

    >>> shown_length("The cat turns its head")
    '22 characters'
    """
    return "1 character" if len(text) == 1 else f"{len(text)} characters"


def sealed(value: _T) -> Callable[[], _T]:
    """
    Return a function that returns a secret value.

    Error trackers show the variables of every frame and the attributes of what these hold. The value is in a closure,
    where they do not look; so no variable and no attribute of the package holds it.
    """
    return lambda: value
