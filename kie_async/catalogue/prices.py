"""
List prices: a formula computes the price of a task from the facts about its model and the ``input`` that is sent.

The facts have a unit (second, task, image or megapixel) and the rates of one unit, each with the values of the fields
for which it holds. Where an input leaves something open, the highest price that fits is an upper bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Required, TypedDict, cast

import attrs

from kie_async.catalogue._data import model_facts

if TYPE_CHECKING:
    from kie_async.records import JSON

__all__ = ["ListPrice", "list_price"]

_NUMBER = re.compile(r"-?[0-9]{1,6}(?:\.[0-9]{1,6})?", re.ASCII)
#: No length and no count is as large.
_TOO_LARGE = 1_000_000
#: Prices have so many digits after the point.
_DIGITS = 6
#: With this value, the model chooses.
_AUTO = "auto"
#: How a condition names a field of the ``input`` that is also a name outside.
_PREFIX = "input."


@attrs.frozen(kw_only=True)
class ListPrice:
    """
    The price of a task by the price list. The service alone sets prices, and may have changed them.

    Attributes:
        credits: The price, in credits.

        upper_bound: True if the input leaves something open on which the price depends, such as the seconds of a
            reference video: the task costs ``credits`` at most.

        as_of: The day on which the price list was read, in ISO form.
    """

    credits: float
    upper_bound: bool
    as_of: str


class _Rate(TypedDict):
    when: dict[str, JSON]
    credits: float


class _InputFile(TypedDict):
    field: str
    most: float | None


class _Images(TypedDict, total=False):
    field: Required[str]
    most: Required[float]
    up_to: bool


class _Frames(TypedDict):
    count: str
    per_second: str


class _Shots(TypedDict):
    when: str
    list: str


class _Surcharge(TypedDict):
    field: str
    beyond: int
    credits: float


class _PriceFacts(TypedDict, total=False):
    """
    The price of a model, as ``models.json`` has it.

    Attributes:
        unit: The unit of the rates.

        rates: The rates of one unit, and the conditions of each.

        date: The day on which the rates were read.

        seconds: The length of every result.

        frames: The fields from which the length follows.

        shots: The list of shots, whose lengths add up if a flag is set.

        length_of: The file that is as long as the result, and its greatest length.

        adds_length_of: The files whose seconds are charged beside those of the result, and their greatest length.

        length_unknown_with: The field with which the length cannot be given.

        images: The field that has the number of images; with ``up_to``, there may be fewer.

        megapixels: The greatest size of an image.

        surcharge: The price of each file beyond a number.
    """

    unit: Required[str]
    rates: Required[list[_Rate]]
    date: Required[str]
    seconds: float
    frames: _Frames
    shots: _Shots
    length_of: _InputFile
    adds_length_of: _InputFile
    length_unknown_with: str
    images: _Images
    megapixels: float
    surcharge: _Surcharge


@attrs.frozen
class _Quantity:
    """A number of units, and True if it is an upper bound."""

    amount: float
    upper_bound: bool = attrs.field(default=False, kw_only=True)


def list_price(model: str, input: Mapping[str, JSON]) -> ListPrice | None:  # noqa: A002 (the service's word)
    """
    Return the list price of a task.

    Args:
        model: The model's name in the service.

        input: The ``input`` object of the create request; any URLs may stand for files that are not uploaded yet.

    Returns:
        The price; None if the list has none for such a task, or if it cannot be computed from the input.

    >>> list_price("kling/v2-1-pro", {"duration": "10"}).credits
    100.0
    >>> price = list_price("bytedance/seedance-2", {"resolution": "480p", "duration": -1})
    >>> price.credits, price.upper_bound  # the model chooses 4 to 15 seconds
    (285.0, True)
    """
    # An estimate is made before the request is checked, so that any value may come.
    name: object = model
    given: object = input
    facts = model_facts(name) if isinstance(name, str) else None
    if facts is None or facts["price"] is None or not isinstance(given, Mapping):
        return None
    return _Formula(facts, input).price()


class _Formula:
    """The price of one task."""

    def __init__(self, facts: Mapping[str, JSON], given: Mapping[str, JSON]) -> None:
        self._fields = cast("Mapping[str, Mapping[str, JSON]]", facts["fields"])
        self._facts = cast("_PriceFacts", facts["price"])
        self._given = given

    def price(self) -> ListPrice | None:
        """Return the price, or None."""
        rates, quantity = self._rates(), self._quantity()
        if not rates or quantity is None:
            return None
        highest, surcharge = max(rates), self._surcharge()
        credits = round(float(highest * quantity.amount + surcharge), _DIGITS)
        # A task with a price is never free, however short it is.
        least = 10.0**-_DIGITS if highest > 0 else 0.0
        return ListPrice(
            credits=max(credits, least),
            upper_bound=quantity.upper_bound or len(rates) > 1,
            as_of=self._facts["date"],
        )

    # -- rates ----------------------------------------------------------------------------------------------------

    def _rates(self) -> set[float]:
        """Return the different rates that fit the input: several if the input leaves open which one holds."""
        conditions = [rate["when"] for rate in self._facts["rates"]]
        # A rate that does not name a list that another one asks for holds without it.
        absent = {name: False for when in conditions for name, wanted in when.items() if wanted and self._is_list(name)}
        return {
            rate["credits"]
            for rate in self._facts["rates"]
            if all(self._may_be(name, wanted) for name, wanted in {**absent, **rate["when"]}.items())
        }

    def _may_be(self, name: str, wanted: JSON) -> bool:
        """Return True if a field has, or may have, the wanted value; unknown fields may have any."""
        name = name.removeprefix(_PREFIX)
        if self._is_list(name):
            return bool(self._given.get(name)) is wanted
        value = self._value(name)
        if value is None or value == _AUTO:
            return True
        if isinstance(wanted, bool):
            return value is wanted or not isinstance(value, bool)
        return _text(value) in str(wanted).split("|")

    def _is_list(self, name: str) -> bool:
        return self._fields.get(name, {}).get("type") == "array"

    def _value(self, name: str) -> JSON:
        """Return the value of a field, or its documented default; None if the value is unknown."""
        value = self._given.get(name)
        if value is not None:
            return value
        field = self._fields.get(name, {})
        return None if field.get("confidence") == "guessed" else field.get("default")

    # -- quantities -----------------------------------------------------------------------------------------------

    def _quantity(self) -> _Quantity | None:
        """Return the number of units; None if it has no bound."""
        match self._facts["unit"]:
            case "task":
                return _Quantity(1.0)
            case "second":
                return self._seconds()
            case "image":
                return self._images()
            case "megapixel":
                images = self._images()
                return (
                    None
                    if images is None
                    else _Quantity(images.amount * self._facts.get("megapixels", 1.0), upper_bound=True)
                )
            case _:
                return None

    def _seconds(self) -> _Quantity | None:
        seconds = self._length()
        added = self._facts.get("adds_length_of")
        if seconds is None or added is None or not self._given.get(added["field"]):
            return seconds
        return None if added["most"] is None else _Quantity(seconds.amount + added["most"], upper_bound=True)

    def _length(self) -> _Quantity | None:
        """Return the length of the result, in seconds."""
        if (fixed := self._facts.get("seconds")) is not None:
            return _Quantity(fixed)
        if (frames := self._facts.get("frames")) is not None:
            count, rate = (_number(self._value(frames[part])) for part in ("count", "per_second"))
            if count is None or rate is None or min(count, rate) <= 0:
                return None
            seconds = count / rate
            return _Quantity(seconds) if seconds < _TOO_LARGE else None
        file, unknown_with = self._facts.get("length_of"), self._facts.get("length_unknown_with")
        is_open = unknown_with is not None and self._given.get(unknown_with) is not None
        value = None if is_open else self._value("duration")
        number = _number(value)
        if value is not None and value != _AUTO and number is None:
            return None
        if number is None or number <= 0:  # -1 and 0 let the model choose
            most = self._longest() if file is None else file["most"]
            return None if most is None else _Quantity(most, upper_bound=True)
        return self._with_shots(number)

    def _longest(self) -> float | None:
        field = self._fields.get("duration", {})
        choices = cast("Sequence[JSON]", field.get("enum") or ())
        numbers = [_number(value) for value in (field.get("max"), *choices)]
        return max((number for number in numbers if number is not None), default=None)

    def _with_shots(self, seconds: float) -> _Quantity:
        """Return the larger of the length and the sum of the shots: which one counts is not documented."""
        shots = self._facts.get("shots")
        if shots is None:
            return _Quantity(seconds)
        given = self._given.get(shots["list"])
        listed = given if isinstance(given, (list, tuple)) else ()
        # A list may count where the flag is not given, too.
        if self._value(shots["when"]) is False or not (listed or self._given.get(shots["when"]) is True):
            return _Quantity(seconds)
        lengths = [_number(shot.get("duration")) for shot in listed if isinstance(shot, Mapping)]
        total = sum(length for length in lengths if length is not None and length > 0)
        return _Quantity(max(seconds, total), upper_bound=total != seconds)

    def _images(self) -> _Quantity | None:
        images = self._facts.get("images")
        if images is None:
            return _Quantity(1.0)
        value = self._value(images["field"])
        number = _number(value)
        if value is None:
            return _Quantity(images["most"], upper_bound=True)
        if number is None or number < 1:
            return None
        return _Quantity(number, upper_bound=images.get("up_to", False) and number > 1)

    def _surcharge(self) -> float:
        surcharge = self._facts.get("surcharge")
        if surcharge is None:
            return 0.0
        files = self._given.get(surcharge["field"])
        count = len(files) if isinstance(files, (list, tuple)) else int(files is not None)
        return max(0, count - surcharge["beyond"]) * surcharge["credits"]


def _text(value: JSON) -> str | None:
    """Return a value as conditions write it: 5, 5.0 and "5" are the same; None for what none can be."""
    if isinstance(value, str):
        return str.__str__(value)  # str() of a member of an enumeration may be its name
    number = _number(value)
    return None if number is None else f"{number:g}"


def _number(value: JSON) -> float | None:
    """Return the number that a value is or has the digits of; None if it is none, or too large."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -_TOO_LARGE < value < _TOO_LARGE else None
