"""What every request can do, whatever its model: be checked offline, name its local images, and write its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kie_async.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kie_async.errors import Problem
    from kie_async.records import JSON
    from kie_async.requests.images import ImageSource

__all__ = ["Request", "invalid_request"]


@runtime_checkable
class Request(Protocol):
    """What the client needs to know of a request; ``Wan22TurboImageToVideo`` and ``MarketRequest`` are two of them."""

    @property
    def model(self) -> str:
        """The model's name, as the service writes it."""
        ...

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:
        """
        Everything that is wrong with the request, found without a network; a local image is read.

        Args:
            allowed_origins: Origins (``"http://127.0.0.1:8080"``) that URLs may have although they are not public,
                because the caller has configured the client for them.
        """
        ...

    def check(self) -> None:
        """Raise one ``InvalidRequestError`` that lists every problem, or do nothing."""
        ...

    def images(self) -> Mapping[str, ImageSource]:
        """The images that must be uploaded first: the service's field name to where the bytes are."""
        ...

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:
        """
        The ``input`` object of the create, in the service's field names; fields that were not given are left out.

        Args:
            uploaded: For each of ``images()``, the URL that it was uploaded to.
        """
        ...


def invalid_request(name: str, problems: Sequence[Problem]) -> InvalidRequestError:
    """
    One error for everything that is wrong with a request.

    Args:
        name: What the message calls the request: its model's name.

        problems: At least one.

    >>> from kie_async.errors import Problem
    >>> print(invalid_request("wan/2-5", [Problem("seed", "-1", "0 to 9")]))
    wan/2-5 has a problem: seed: got -1; allowed: 0 to 9. Nothing was sent: correct it and submit it again.
    """
    listed = [f"{problem}." for problem in problems]
    if len(listed) > 1:
        listed = [f"({number}) {line}" for number, line in enumerate(listed, 1)]
    count = "a problem" if len(listed) == 1 else f"{len(listed)} problems"
    message = f"{name} has {count}: {' '.join(listed)} Nothing was sent: correct it and submit it again."
    return InvalidRequestError(message, problems=problems)
