"""The rules that a field of a request can have; a model's class names one for each of its fields."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import attrs

from kie_async._display import shown, shown_length
from kie_async._numbers import is_integer
from kie_async._urls import check_public_url, shown_url
from kie_async.errors import Problem
from kie_async.requests.images import ImageSource

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Rule", "choice", "flag", "image", "is_unicode", "text", "whole_number"]


class Rule(ABC):
    """
    What a field may hold.

    It hangs on the field as attrs metadata, under this class as the key. None gets here only as a mistake: a field that
    need not be given is not given when it is None.
    """

    #: The service's name of the field, where it is not the caller's.
    wire: str | None = None

    @abstractmethod
    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        """
        What is wrong with a value, or None.

        Args:
            field: The field's name, as the caller writes it.

            value: What was given; of any type.

            allowed_origins: Origins whose URLs need not be public.
        """

    def shown(self, value: object) -> str:
        """The value for a ``repr``: short, and without what is private."""
        return shown(value)


@attrs.frozen
class _Text(Rule):
    longest: int

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (no URL)
        allowed = f"a text of 1 to {self.longest} characters"
        if not isinstance(value, str):
            return Problem(field, shown(value), allowed)
        if not value.strip():
            return Problem(field, "blanks only" if value else "an empty text", allowed)
        if len(value) > self.longest:
            return Problem(field, shown_length(value), allowed)
        if not is_unicode(value):
            return Problem(field, "a text with half a surrogate pair", f"{allowed}, all of them Unicode")
        return None

    def shown(self, value: object) -> str:
        return f"<{shown_length(value)}>" if isinstance(value, str) else shown(value)


@attrs.frozen
class _Choice(Rule):
    values: tuple[str, ...]
    older: tuple[str, ...]
    gone: bool

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (no URL)
        if isinstance(value, str) and value in self.values + self.older:
            if self.gone or value in self.older:
                say_once_that_it_is_old(field, value)
            return None
        *others, last = self.values
        allowed = f"{', '.join(others)} or {last}" if others else last
        meant = [known for known in self.values if isinstance(value, str) and known == value.strip().lower()]
        return Problem(field, shown(value), f"{allowed} (it must be written {meant[0]!r})" if meant else allowed)


@attrs.frozen
class _WholeNumber(Rule):
    least: int
    most: int

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (no URL)
        if is_integer(value) and self.least <= value <= self.most:
            return None
        return Problem(field, shown(value), f"a whole number from {self.least} to {self.most}")


@attrs.frozen
class _Flag(Rule):
    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (no URL)
        return None if isinstance(value, bool) else Problem(field, shown(value), "True or False")


@attrs.frozen
class _Image(Rule):
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


# The answer is the same for ever, so that remembering it is no state that anybody could miss: a million requests with
# an old value make one line in the log, not a million.
@functools.cache
def say_once_that_it_is_old(field: str, value: str) -> None:
    import logging

    logging.getLogger("kie_async").warning(
        "%s=%r is not in the service's documentation any more; it is sent as it is, and may be ignored or refused",
        field,
        value,
    )


def is_unicode(value: str) -> bool:
    """Whether a text can be encoded at all: half a surrogate pair, as broken escapes leave it, cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def image(wire: str) -> Mapping[object, Rule]:
    """
    Metadata for an image: a public URL, or an image of the caller's that is uploaded first.

    Args:
        wire: The service's name of the field, which holds the URL.
    """
    return {Rule: _Image(wire)}


def text(*, longest: int) -> Mapping[object, Rule]:
    """
    Metadata for a text that says something.

    Args:
        longest: How many characters it may have; a character is a Unicode code point.
    """
    return {Rule: _Text(longest)}


def choice(*values: str, older: tuple[str, ...] = (), gone: bool = False) -> Mapping[object, Rule]:
    """
    Metadata for one of a few words; case counts, as it does for the service.

    Args:
        values: The documented words.

        older: Words that older pages documented: they pass, and each is logged as a warning, once a process.

        gone: Whether the whole field is documented on older pages only: every word is logged like that.
    """
    return {Rule: _Choice(values, older, gone)}


def whole_number(least: int, most: int) -> Mapping[object, Rule]:
    """
    Metadata for an integer.

    Args:
        least: The smallest allowed.

        most: The largest allowed.
    """
    return {Rule: _WholeNumber(least, most)}


def flag() -> Mapping[object, Rule]:
    """Metadata for a yes or no."""
    return {Rule: _Flag()}
