"""Checks of the numbers and options that callers give, and the one form of the error that refuses them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeGuard

import attrs

from kie_async._display import shown
from kie_async.errors import ConfigurationError

__all__ = ["check_credits", "credits_field", "integer_field", "is_integer", "is_number", "number_field", "refuse"]

#: Greater integers cannot be compared with floats by ``math``, or become infinite.
_MOST_BITS = 1023


def is_number(value: object, *, infinite: bool = False) -> TypeGuard[float]:
    """
    Return True for a float that is not NaN, or an integer that a float can express.

    Args:
        value: The value to check; a bool is not a number.

        infinite: True to allow infinities.
    """
    if isinstance(value, int):
        return not isinstance(value, bool) and value.bit_length() <= _MOST_BITS
    if not isinstance(value, float):
        return False
    return math.isfinite(value) or (infinite and not math.isnan(value))


def is_integer(value: object) -> TypeGuard[int]:
    """Return True for an integer that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def refuse(where: str, name: str, value: object, expected: str) -> NoReturn:
    """
    Refuse an option.

    Args:
        where: The class or the function that has the option.

        name: The option's name.

        value: The refused value.

        expected: A phrase that says what is allowed.

    Raises:
        ConfigurationError: Always.
    """
    msg = f"Invalid {where}({name}={shown(value)}): expected {expected}."
    raise ConfigurationError(msg)


def check_credits(where: str, name: str, value: object) -> None:
    """
    Refuse a value that is not an amount of credits.

    Raises:
        ConfigurationError: If *value* is not a finite number >= 0.
    """
    if not is_number(value) or value < 0:
        refuse(where, name, value, "a number of credits >= 0")


_Validator = Callable[[object, "attrs.Attribute[Any]", object], None]


def number_field(*, above: float | None = None, at_least: float = 0.0) -> _Validator:
    """
    Return an attrs validator for a finite number.

    Args:
        above: The exclusive lower bound, or None.

        at_least: The inclusive lower bound if *above* is None.
    """
    expected = f"a number > {above:g}" if above is not None else f"a number >= {at_least:g}"

    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not is_number(value) or (value <= above if above is not None else value < at_least):
            refuse(type(instance).__name__, attribute.name, value, expected)

    return check


def integer_field(*, at_least: int) -> _Validator:
    """Return an attrs validator for an integer that is not below *at_least*."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not is_integer(value) or value < at_least:
            refuse(type(instance).__name__, attribute.name, value, f"an integer >= {at_least}")

    return check


def credits_field(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse a value of an attrs field that is not an amount of credits."""
    check_credits(type(instance).__name__, attribute.name, value)
