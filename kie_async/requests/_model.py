"""What requests of all documented models have in common: their fields' rules check them, show them and write them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar, Self

import attrs

from kie_async.requests._fields import Rule
from kie_async.requests.base import invalid_request
from kie_async.requests.images import ImageSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kie_async.errors import Problem
    from kie_async.records import JSON

__all__ = ["ModelRequest"]


@attrs.frozen(kw_only=True, repr=False)
class ModelRequest:
    """
    A request whose model is documented.

    A subclass names its model (``MODEL``) and gives each field a rule of ``_fields`` as its metadata; the rest is done
    here. A field with None as its value is not sent, so that the service's own default holds.
    """

    #: The model's name, as the service writes it.
    MODEL: ClassVar[str]

    @property
    def model(self) -> str:
        """The model's name, as the service writes it."""
        return self.MODEL

    def __new__(cls, *args: object, **options: object) -> Self:  # noqa: ARG004 (arguments are the business of __init__)
        """
        Make a request, if it has all of the options.

        Raises:
            TypeError: If an option is not known; the text names the nearest one and all others.
        """
        known = [name for name, _, _ in _rules(cls)]  # type: ignore[arg-type]  # as below
        for option in options:
            if option not in known:
                import difflib

                near = difflib.get_close_matches(option, known, n=1, cutoff=0.7)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                msg = f"{cls.__name__} has no option {option!r}{hint} Its options: {', '.join(known)}."
                raise TypeError(msg)
        return super().__new__(cls)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={rule.shown(value)}" for name, rule, value in self._given())
        return f"{type(self).__name__}({given})"

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:
        """
        Everything that is wrong with the request, found without a network; a local image is read.

        Args:
            allowed_origins: Origins (``"http://127.0.0.1:8080"``) that URLs may have although they are not public.
        """
        found = (rule.problem(name, value, allowed_origins) for name, rule, value in self._given())
        return [problem for problem in found if problem is not None]

    def check(self) -> None:
        """
        Do nothing if the request can be sent; works without a network.

        Raises:
            InvalidRequestError: If it cannot; it lists every problem.
        """
        problems = self.problems()
        if problems:
            raise invalid_request(self.model, problems)

    def images(self) -> Mapping[str, ImageSource]:
        """The images that must be uploaded first: the service's field name to where the bytes are."""
        return {rule.wire or name: value for name, rule, value in self._given() if isinstance(value, ImageSource)}

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:
        """
        The ``input`` object of the create, in the service's field names; fields that were not given are left out.

        Args:
            uploaded: For each of ``images()``, the URL that it was uploaded to.
        """
        fields = ((rule.wire or name, value) for name, rule, value in self._given())
        return {wire: uploaded[wire] if isinstance(value, ImageSource) else value for wire, value in fields}

    def _given(self) -> Iterator[tuple[str, Rule, JSON | ImageSource]]:
        """The fields that count: what must be given, and what was given."""
        for name, rule, needed in _rules(type(self)):  # type: ignore[arg-type]  # mypy does not see that types are hashable
            value = getattr(self, name)
            if value is not None or needed:
                yield name, rule, value


@cache
def _rules(model: type[attrs.AttrsInstance]) -> list[tuple[str, Rule, bool]]:
    """The fields of a model: name, rule, and whether it must be given."""
    return [(field.name, field.metadata[Rule], field.default is attrs.NOTHING) for field in attrs.fields(model)]
