"""The base class of documented models: rules of the fields check, show and write their values."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias, cast

import attrs

from kie_async._display import shortened, shown, shown_length
from kie_async._keys import is_encodable
from kie_async._numbers import is_integer
from kie_async._urls import check_public_url, looks_like_url, shown_url
from kie_async.errors import Problem
from kie_async.records import JSON
from kie_async.requests.base import invalid_request
from kie_async.requests.market import copied_input, is_mapping, json_problems, step_name
from kie_async.requests.media import IMAGES, MediaLimits, MediaSource, as_media, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from kie_async.catalogue.prices import ListPrice

__all__ = [
    "Choice",
    "FieldRule",
    "Flag",
    "Integer",
    "MediaFile",
    "ModelRequest",
    "NamedRule",
    "OpenFile",
    "Text",
    "listed",
    "parsed_integer",
]


#: Finds the local file that a string names.
OpenFile: TypeAlias = "Callable[[str], Path | MediaSource]"

#: Stands for the URL of a file that is not uploaded yet: the price does not depend on it.
_ANY_URL = "https://file.invalid"
#: A word of an open field, and an address that is not an http URL.
_WORD, _ADDRESS = re.compile(r"[\w.:/+-]{1,100}", re.ASCII), re.compile(r"[a-z]+://[\x21-\x7e]{1,500}")
#: The number of characters of an unknown option that are compared with the known ones.
_LONGEST_NAME = 60
#: An integer; pandas writes 7.0 for 7 in a column with missing cells.
_INTEGER = re.compile(r"([+-]?[0-9]{1,30})(?:\.0*)?", re.ASCII)
_BOOLEANS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}


def parsed_integer(text: str) -> object:
    """
    Return the integer that a text stands for, or the text without blanks around it.

    >>> parsed_integer(" 7.0"), parsed_integer("7.5")
    (7, '7.5')
    """
    found = _INTEGER.fullmatch(text := text.strip())
    return text if found is None else int(found[1])


def _copied_extra(given: Mapping[str, JSON]) -> Mapping[str, JSON]:
    return copied_input(given) if given != {} else {}


@attrs.frozen
class NamedRule:
    """
    A field of a model.

    Attributes:
        name: Its name in Python.

        wire: Its name in the service.

        rule: The rule for its values.

        required: True if None is not a value of it.
    """

    name: str
    wire: str
    rule: FieldRule
    required: bool


@attrs.frozen(kw_only=True, repr=False)
class ModelRequest:
    """
    A request whose model is documented.

    A subclass names its model (``MODEL``) and gives each field a ``FieldRule`` as its metadata. A field whose value is
    None is not sent, so that the service's default applies.

    Args:
        extra: Fields that the service has added since ``AS_OF``, in its own names and values. They are not checked,
            and replace fields of the same name: a local file of such a field is neither checked nor uploaded.
    """

    #: The model's name in the service.
    MODEL: ClassVar[str]
    #: The date on which the fields were last compared with the service's documentation.
    AS_OF: ClassVar[str]

    extra: Mapping[str, JSON] = attrs.field(factory=dict, converter=_copied_extra, hash=False)

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
        if not options.keys() <= (known := _names(cls)).keys():  # type: ignore[arg-type]  # mypy does not see that types are hashable
            import difflib

            option = next(option for option in options if option not in known)
            # A long name is no misspelled one, and would take long to compare.
            near = difflib.get_close_matches(option[:_LONGEST_NAME], known, n=1, cutoff=0.7)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            msg = f"{cls.__name__} has no option {shown(option)}{hint} Its options: {', '.join(known)}."
            raise TypeError(msg)
        return super().__new__(cls)

    def __repr__(self) -> str:
        given = [f"{field.name}={field.rule.shown(value)}" for field, value in self._given()]
        extra: object = self.extra
        if extra != {}:
            names = ", ".join(map(step_name, extra)) if is_mapping(extra) else shown(extra)
            given.append(f"extra=<{shortened(names)}>")
        return f"{type(self).__name__}({', '.join(given)})"

    @classmethod
    def field_rules(cls) -> Sequence[NamedRule]:
        """Return the fields of the model, with their rules; ``extra`` is not among them."""
        return _rules(cls)  # type: ignore[arg-type]  # as above

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:
        """
        Find all problems of the request without a network; local files are read.

        Args:
            allowed_origins: Origins (``"http://127.0.0.1:8080"``) whose URLs need not be public.

        Returns:
            The problems, in the order of the fields.
        """
        problems = [
            problem
            for field, value in self._sent()
            for problem in field.rule.problems(field.name, value, allowed_origins)
        ]
        extra: object = self.extra
        if extra == {}:
            return problems
        if not is_mapping(extra):
            return [*problems, Problem("extra", shown(extra), "a mapping, in the service's field names")]
        return problems + json_problems("extra", extra)

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
        """Return the local files to upload first, by their paths in the input (``"image_urls[1]"``)."""
        return {path: file for field, value in self._sent() for path, file in field.rule.files(field.wire, value)}

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:
        """
        Return the ``input`` object of the create request, in the service's field names; unset fields are left out.

        Args:
            uploaded: The URL of each of ``files()`` after its upload.
        """
        given = {field.wire: field.rule.written(field.wire, value, uploaded) for field, value in self._sent()}
        extra: object = self.extra  # may be of any type in a request that was not checked
        return {**given, **copied_input(self.extra)} if extra != {} and is_mapping(extra) else given

    def list_price(self) -> ListPrice | None:
        """
        Return the price of the task by the price list; works without a network.

        Returns:
            The price, in credits; an upper bound if the request leaves something open on which the price depends. None
            if the list has none for such a task, or if it cannot be computed.
        """
        from kie_async.catalogue.prices import list_price  # a request that is not asked reads no data

        return list_price(self.model, self.input(dict.fromkeys(self.files(), _ANY_URL)))

    def _sent(self) -> Iterator[tuple[NamedRule, JSON | MediaSource]]:
        """Yield the given fields whose values are sent: those that ``extra`` does not replace."""
        extra: object = self.extra
        if extra == {} or not is_mapping(extra):
            return self._given()
        return ((field, value) for field, value in self._given() if field.wire not in extra)

    def _given(self) -> Iterator[tuple[NamedRule, JSON | MediaSource]]:
        """Yield the required fields and the fields that are set, with their values."""
        for field in self.field_rules():
            value = getattr(self, field.name)
            if value is not None or field.required:
                yield field, value


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

    @property
    @abstractmethod
    def expected(self) -> str:
        """The allowed values, as a phrase for messages and documentation."""

    @abstractmethod
    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        """
        Return the problem of a value, or None.

        Args:
            field: The field's name for the caller.

            value: The given value, of any type.

            allowed_origins: Origins whose URLs need not be public.
        """

    def problems(self, field: str, value: object, allowed_origins: Collection[str]) -> Iterable[Problem]:
        """Return all problems of a value; see ``problem()``."""
        found = self.problem(field, value, allowed_origins)
        return () if found is None else (found,)

    def files(self, path: str, value: object) -> Iterable[tuple[str, MediaSource]]:  # noqa: ARG002 (used by subclasses)
        """
        Return the local files of a value, by their paths in the input.

        Args:
            path: The path of the value.

            value: The given value.
        """
        return ()

    def written(self, path: str, value: object, uploaded: Mapping[str, str]) -> JSON:  # noqa: ARG002 (used by subclasses)
        """
        Return the value as the service reads it.

        Args:
            path: The path of the value in the input.

            value: The given value.

            uploaded: The URL of each local file, by its path.
        """
        return cast("JSON", value)

    def shown(self, value: object) -> str:
        """Return the value for a ``repr``: short, and without private content."""
        return shown(value)

    @property
    def media(self) -> tuple[str, ...]:
        """The kinds of the local files that the field takes, such as ``"image"``; empty for other fields."""
        return ()

    @property
    def is_list(self) -> bool:
        """True if its values are lists."""
        return False

    @property
    def is_flag(self) -> bool:
        """True if its values are booleans."""
        return False

    def parsed(self, text: str) -> object:
        """
        Return the value that a text stands for, such as a cell of a table or an option of a command.

        Args:
            text: The text.

        Returns:
            The value; a text that stands for none is returned unchanged, so that ``problem()`` refuses it. The values
            of a list are separated by ``|``.
        """
        return text.strip()

    def opened(self, value: object, open_file: OpenFile) -> object:  # noqa: ARG002 (used by subclasses)
        """
        Return the value with its paths opened.

        Args:
            value: The given value.

            open_file: Finds the file that a string names which is not an address.
        """
        return value


@attrs.frozen
class Text(FieldRule):
    """
    The rule for a string that is not blank.

    Args:
        longest: The greatest number of characters, or None; a character is a Unicode code point.

        shortest: The least number of characters.
    """

    longest: int | None
    shortest: int = 1

    @property
    def expected(self) -> str:
        least = f"{self.shortest} or more" if self.longest is None else f"{self.shortest} to {self.longest}"
        return f"a string of {least} characters"

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        allowed = self.expected
        if not isinstance(value, str):
            return Problem(field, shown(value), allowed)
        if not value.strip():
            return Problem(field, "blanks only" if value else "an empty string", allowed)
        if len(value) < self.shortest or (self.longest is not None and len(value) > self.longest):
            return Problem(field, shown_length(value), allowed)
        if not is_encodable(value):
            return Problem(field, "a string with half a surrogate pair", f"{allowed}, all of them Unicode")
        return None

    def shown(self, value: object) -> str:
        return f"<{shown_length(value)}>" if isinstance(value, str) else shown(value)

    def parsed(self, text: str) -> object:
        return text  # blanks around it may mean something


@attrs.frozen
class Choice(FieldRule):
    """
    The rule for one of a few words; case counts, as for the service.

    Args:
        values: The documented words.

        older: Words of older documentation: they pass, and each is logged as a warning once per process.

        gone: True if the whole field is in older documentation only: every word is logged like that.

        open: True if other words are known or likely: they pass, and are logged like that.
    """

    values: tuple[str, ...]
    older: tuple[str, ...] = ()
    gone: bool = False
    open: bool = False

    @property
    def expected(self) -> str:
        return listed(self.values)

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if not isinstance(value, str):
            return Problem(field, shown(value), self.expected)
        if value in self.values + self.older:
            if self.gone or value in self.older:
                warn_of_old_value_once(field, value)
            return None
        meant = [known for known in self.values if known.lower() == value[:100].strip().lower()]
        if self.open and _WORD.fullmatch(value) and not meant:
            warn_of_unknown_value_once(field, value)
            return None
        if meant:
            return Problem(field, shown(value), f"{self.expected} (it must be written {meant[0]!r})")
        import difflib

        near = difflib.get_close_matches(value[:_LONGEST_NAME], self.values, n=1, cutoff=0.7)
        return Problem(field, shown(value), self.expected + (f" (did you mean {near[0]!r}?)" if near else ""))


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

    @property
    def expected(self) -> str:
        return f"an integer from {self.least} to {self.most}"

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        if is_integer(value) and self.least <= value <= self.most:
            return None
        return Problem(field, shown(value), self.expected)

    def parsed(self, text: str) -> object:
        return parsed_integer(text)


@attrs.frozen
class Flag(FieldRule):
    """The rule for a boolean."""

    @property
    def expected(self) -> str:
        return "True or False"

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:  # noqa: ARG002 (not a URL)
        return None if isinstance(value, bool) else Problem(field, shown(value), self.expected)

    @property
    def is_flag(self) -> bool:
        return True

    def parsed(self, text: str) -> object:
        return _BOOLEANS.get(text.strip().lower(), text)


@attrs.frozen
class MediaFile(FieldRule):
    """
    The rule for a media file, by default an image: a public URL, or a local file that is uploaded first.

    Args:
        wire: The service's name of the field that holds the URL, or None for the same name.

        limits: The local files that the field takes; None for the limits of most images.

        schemes: The schemes of other addresses that the service knows, such as ``"asset"``.
    """

    wire: str | None
    limits: MediaLimits | None = None
    schemes: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        return f"a public http or https URL, or {(self.limits or IMAGES).wanted}"

    def problem(self, field: str, value: object, allowed_origins: Collection[str]) -> Problem | None:
        value = self._converted(value)
        if isinstance(value, MediaSource):
            return next(iter(value.problems(field)), None)
        if _ADDRESS.fullmatch(str(value)) and str(value).partition("://")[0] in self.schemes:
            return None
        fault = check_public_url(str(value), allowed_origins=allowed_origins)
        if fault is None:
            return None
        kind = "image" if self.limits is None else listed(self.limits.kinds)
        local = f"a local {kind} file" if kind == "audio" else f"a local {kind}"
        return Problem(field, shown_url(str(value)), f"a public http or https URL, or {local}; in this one, {fault}")

    def files(self, path: str, value: object) -> Iterable[tuple[str, MediaSource]]:
        value = self._converted(value)
        return ((path, value),) if isinstance(value, MediaSource) else ()

    def written(self, path: str, value: object, uploaded: Mapping[str, str]) -> JSON:
        value = self._converted(value)
        return uploaded[path] if isinstance(value, MediaSource) else cast("JSON", value)

    def _converted(self, value: object) -> object:
        """Return a local file with the limits of this field; a string of an object may be a path."""
        if not isinstance(value, MediaSource):
            value = as_media(cast("str", value))
        return value.limited(self.limits) if isinstance(value, MediaSource) and self.limits is not None else value

    def shown(self, value: object) -> str:
        return shown_url(value) if isinstance(value, str) else repr(value)

    @property
    def media(self) -> tuple[str, ...]:
        return (self.limits or IMAGES).kinds

    def parsed(self, text: str) -> object:
        return text.strip() if looks_like_url(text.strip()) else text

    def opened(self, value: object, open_file: OpenFile) -> object:
        if not isinstance(value, str) or not value or looks_like_url(value.strip()) or _ADDRESS.fullmatch(value):
            return value
        return open_file(value)


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
def warn_of_unknown_value_once(field: str, value: str) -> None:
    """Log a value that the documentation does not name, of a field that has others than those which it names."""
    import logging

    logging.getLogger("kie_async").warning(
        "%s=%r is not in the service's documentation; it is sent unchanged, and may be refused", field, value
    )


@cache
def _names(model: type[attrs.AttrsInstance]) -> Mapping[str, None]:
    """Return the options of a model; ``extra``, which the base class has, is the last."""
    _, *own = attrs.fields(model)
    return dict.fromkeys([*(field.name for field in own), "extra"])


@cache
def _rules(model: type[attrs.AttrsInstance]) -> list[NamedRule]:
    return [
        NamedRule(field.name, rule.wire or field.name, rule, field.default is attrs.NOTHING)
        for field in attrs.fields(model)
        if (rule := field.metadata.get(FieldRule)) is not None
    ]
