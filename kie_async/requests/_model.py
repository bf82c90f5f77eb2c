"""The base class of documented models: rules of the fields check, show and write their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Self

import attrs

from kie_async._display import shown, shown_length
from kie_async._keys import is_encodable
from kie_async._numbers import is_integer
from kie_async._urls import check_public_url, shown_url
from kie_async.errors import Problem
from kie_async.requests.base import invalid_request
from kie_async.requests.images import ImageSource

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from kie_async.catalogue.prices import ListPrice
    from kie_async.records import JSON

__all__ = ["Choice", "FieldRule", "Flag", "Image", "Integer", "ModelRequest", "Text"]


#: Stands for the URL of a file that is not uploaded yet: the price does not depend on it.
_ANY_URL = "https://file.invalid"
#: The number of characters of an unknown option that are compared with the known ones.
_LONGEST_NAME = 60


@attrs.frozen(kw_only=True, repr=False)
class ModelRequest:
    """
    A request whose model is documented.

    A subclass names its model (``MODEL``) and gives each field a ``FieldRule`` as its metadata. A field whose value is
    None is not sent, so that the service's default applies.
    """

    #: The model's name in the service.
    MODEL: ClassVar[str]

    @property
    def model(self) -> str:
        """The model's name in the service."""
        return self.MODEL

    def __new__(cls, *args: object, **options: object) -> Self:  # noqa: ARG004 (arguments are handled by __init__)
        """
        Create a request if all options are known.

        Raises:
            TypeError: If an option is unknown; the message contains the nearest option and all others.
        """
        known = _names(cls)  # type: ignore[arg-type]  # as below
        for option in options:
            if option not in known:
                import difflib

                # A long name is no misspelled one, and would take long to compare.
                near = difflib.get_close_matches(option[:_LONGEST_NAME], known, n=1, cutoff=0.7)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                msg = f"{cls.__name__} has no option {shown(option)}{hint} Its options: {', '.join(known)}."
                raise TypeError(msg)
        return super().__new__(cls)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={rule.shown(value)}" for name, rule, value in self._given())
        return f"{type(self).__name__}({given})"

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:
        """
        Find all problems of the request without a network; a local image is read.

        Args:
            allowed_origins: Origins (``"http://127.0.0.1:8080"``) whose URLs need not be public.

        Returns:
            The problems, in the order of the fields.
        """
        return [
            problem
            for name, rule, value in self._given()
            if (problem := rule.problem(name, value, allowed_origins)) is not None
        ]

    def check(self) -> None:
        """
        Do nothing if the request can be sent; works without a network.

        Raises:
            InvalidRequestError: If it cannot be sent; the error lists every problem.
        """
        problems = self.problems()
        if problems:
            raise invalid_request(self.model, problems)

    def images(self) -> Mapping[str, ImageSource]:
        """Return the images to upload first, by the service's field names."""
        return {rule.wire or name: value for name, rule, value in self._given() if isinstance(value, ImageSource)}

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:
        """
        Return the ``input`` object of the create request, in the service's field names; unset fields are left out.

        Args:
            uploaded: The URL of each of ``images()`` after its upload.
        """
        return {
            (wire := rule.wire or name): uploaded[wire] if isinstance(value, ImageSource) else value
            for name, rule, value in self._given()
        }

    def list_price(self) -> ListPrice | None:
        """
        Return the price of the task by the price list; works without a network.

        Returns:
            The price, in credits; an upper bound if the request leaves something open on which the price depends. None
            if the list has none for such a task, or if it cannot be computed.
        """
        from kie_async.catalogue.prices import list_price  # a request that is not asked reads no data

        return list_price(self.model, self.input(dict.fromkeys(self.images(), _ANY_URL)))

    def _given(self) -> Iterator[tuple[str, FieldRule, JSON | ImageSource]]:
        """Yield the required fields and the fields that are set."""
        for name, rule, needed in _rules(type(self)):  # type: ignore[arg-type]  # mypy does not see that types are hashable
            value = getattr(self, name)
            if value is not None or needed:
                yield name, rule, value


class FieldRule(ABC):
    """
    The rule for the values of a field.

    ``metadata`` stores it in the attrs metadata of the field, under this class as the key. The value None reaches a
    rule only by mistake: an optional field whose value is None is unset.
    """

    #: The service's name of the field if it differs from ours.
    wire: str | None = None

    @property
    def metadata(self) -> Mapping[object, FieldRule]:
        """The attrs metadata of a field with this rule."""
        return {FieldRule: self}

    @abstractmethod
    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        """
        Return the problem of a value, or None.

        Args:
            field: The field's name for the caller.

            value: The given value, of any type.

            allowed_origins: Origins whose URLs need not be public.
        """

    def shown(self, value: object) -> str:
        """Return the value for a ``repr``: short, and without private content."""
        return shown(value)


@attrs.frozen
class Text(FieldRule):
    """
    The rule for a string that is not blank.

    Args:
        longest: The greatest number of characters; a character is a Unicode code point.
    """

    longest: int

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        allowed = f"a string of 1 to {self.longest} characters"
        if not isinstance(value, str):
            return Problem(field, shown(value), allowed)
        if not value.strip():
            return Problem(field, "blanks only" if value else "an empty string", allowed)
        if len(value) > self.longest:
            return Problem(field, shown_length(value), allowed)
        if not is_encodable(value):
            return Problem(field, "a string with half a surrogate pair", f"{allowed}, all of them Unicode")
        return None

    def shown(self, value: object) -> str:
        return f"<{shown_length(value)}>" if isinstance(value, str) else shown(value)


@attrs.frozen
class Choice(FieldRule):
    """
    The rule for one of a few words; case counts, as for the service.

    Args:
        values: The documented words.

        older: Words of older documentation: they pass, and each is logged as a warning once per process.

        gone: True if the whole field is in older documentation only: every word is logged like that.
    """

    values: tuple[str, ...]
    older: tuple[str, ...] = ()
    gone: bool = False

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if isinstance(value, str) and value in self.values + self.older:
            if self.gone or value in self.older:
                warn_of_old_value_once(field, value)
            return None
        *others, last = self.values
        allowed = f"{', '.join(others)} or {last}" if others else last
        meant = [known for known in self.values if isinstance(value, str) and known == value.strip().lower()]
        return Problem(field, shown(value), f"{allowed} (it must be written {meant[0]!r})" if meant else allowed)


@attrs.frozen
class Integer(FieldRule):
    """
    The rule for an integer.

    Args:
        least: The smallest allowed value.

        most: The greatest allowed value.
    """

    least: int
    most: int

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if is_integer(value) and self.least <= value <= self.most:
            return None
        return Problem(field, shown(value), f"an integer from {self.least} to {self.most}")


@attrs.frozen
class Flag(FieldRule):
    """The rule for a boolean."""

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        return None if isinstance(value, bool) else Problem(field, shown(value), "True or False")


@attrs.frozen
class Image(FieldRule):
    """
    The rule for an image: a public URL, or a local image that is uploaded first.

    Args:
        wire: The service's name of the field that holds the URL.
    """

    wire: str | None

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        if isinstance(value, ImageSource):
            return next(iter(value.problems(field)), None)
        fault = check_public_url(str(value), allowed_origins=allowed_origins)
        if fault is None:
            return None
        return Problem(
            field, shown_url(str(value)), f"a public http or https URL, or a local image; in this one, {fault}"
        )

    def shown(self, value: object) -> str:
        return shown_url(value) if isinstance(value, str) else repr(value)


# Cached, so that a million requests with an old value log one line. The result never changes, so the cache is not
# state that a client could miss.
@cache
def warn_of_old_value_once(field: str, value: str) -> None:
    import logging

    logging.getLogger("kie_async").warning(
        "%s=%r is no longer in the service's documentation; it is sent unchanged, and may be ignored or refused",
        field,
        value,
    )


@cache
def _names(model: type[attrs.AttrsInstance]) -> tuple[str, ...]:
    return tuple(name for name, _, _ in _rules(model))


@cache
def _rules(model: type[attrs.AttrsInstance]) -> list[tuple[str, FieldRule, bool]]:
    """Return the fields of a model: name, rule, and True if the field is required."""
    return [(field.name, field.metadata[FieldRule], field.default is attrs.NOTHING) for field in attrs.fields(model)]
