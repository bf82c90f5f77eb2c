"""Any model of Kie.ai's market, sent as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import attrs

from kie_async._display import shown
from kie_async.errors import Problem
from kie_async.requests._json import is_mapping, json_problems, snapshot
from kie_async.requests.base import invalid_request

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.requests.images import ImageSource

__all__ = ["MarketRequest"]

# The form of all names in the catalogue, with room to spare.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}", re.ASCII)


def _model_problems(model: object) -> list[Problem]:
    if isinstance(model, str) and _MODEL.fullmatch(model):
        return []
    return [Problem("model", shown(model), "a model's name, such as 'wan/2-5-image-to-video'")]


def _input_problems(given: object) -> list[Problem]:
    if is_mapping(given):
        return json_problems("input", given)
    return [Problem("input", shown(given), "a mapping, in the service's field names")]


def _names(given: object) -> str:
    return ", ".join(map(str, given)) if is_mapping(given) else shown(given)


def _copied(given: Mapping[str, JSON]) -> Mapping[str, JSON]:
    return cast("Mapping[str, JSON]", snapshot(given))


@attrs.frozen(kw_only=True, repr=False)
class MarketRequest:
    """
    A request for a model that has no class of its own here.

    Only its form is checked: the model's name is one, and the input can be written as JSON. What the model makes of the
    input is the service's to judge. A local image goes through ``KieClient.upload()`` first, which gives its URL.

    Args:
        model: The model's name, as the service writes it.

        input: The ``input`` object, in the service's field names. It is copied: later changes do not count.

    >>> MarketRequest(model="wan/2-5-image-to-video", input={"prompt": "A dog", "duration": "5"})
    MarketRequest(model='wan/2-5-image-to-video', input=<prompt, duration>)
    """

    model: str
    _input: Mapping[str, JSON] = attrs.field(converter=_copied, hash=False, alias="input")

    def __repr__(self) -> str:
        return f"MarketRequest(model={shown(self.model)}, input=<{_names(self._input)}>)"

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:  # noqa: ARG002 (no URL is judged)
        """
        Everything that is wrong with the request's form.

        Args:
            allowed_origins: Not looked at: the input's meaning is not judged.
        """
        return [*_model_problems(self.model), *_input_problems(self._input)]

    def check(self) -> None:
        """
        Do nothing if the request can be sent; works without a network.

        Raises:
            InvalidRequestError: If it cannot; it lists every problem.
        """
        problems = self.problems()
        if problems:
            raise invalid_request(type(self).__name__, problems)

    def images(self) -> Mapping[str, ImageSource]:
        """Nothing: images are given as URLs."""
        return {}

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:  # noqa: ARG002 (there are no images)
        """
        The ``input`` object of the create, as it was given.

        Args:
            uploaded: Not looked at: there are no ``images()``.
        """
        return dict(_copied(self._input))
