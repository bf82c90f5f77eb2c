"""The interface of all requests: offline checks, local files, and the input of the create request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kie_async.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kie_async.errors import Problem
    from kie_async.records import JSON
    from kie_async.requests.media import MediaSource

__all__ = ["Request", "invalid_request"]


@runtime_checkable
class Request(Protocol):
    """The interface of requests that the client uses; ``Wan22TurboImageToVideo`` and ``MarketRequest`` implement it."""

    @property
    def model(self) -> str:
        """The model's name in the service."""
        ...

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:
        """
        Find all problems of the request without a network; local files are read.

        Args:
            allowed_origins: Origins (``"http://127.0.0.1:8080"``) that the caller configured the client for, whose
                URLs need not be public.

        Returns:
            The problems; none if the request can be sent.
        """
        ...

    def check(self) -> None:
        """
        Do nothing if the request can be sent.

        Raises:
            InvalidRequestError: If it cannot be sent; the error lists every problem.
        """
        ...

    def files(self) -> Mapping[str, MediaSource]:
        """Return the local files to upload first, by their paths in the input (``"image_urls[1]"``)."""
        ...

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:
        """
        Return the ``input`` object of the create request, in the service's field names; unset fields are left out.

        Args:
            uploaded: The URL of each of ``files()`` after its upload.
        """
        ...


def invalid_request(name: str, problems: Sequence[Problem]) -> InvalidRequestError:
    """
    Return one error for all problems of a request.

    Args:
        name: The name of the request in the message: its class's name.

        problems: At least one problem.

    >>> from kie_async.errors import Problem
    >>> print(invalid_request("Wan25TextToVideo", [Problem("seed", "-1", "0 to 9")]))
    Wan25TextToVideo has a problem: seed: got -1; allowed: 0 to 9. Nothing was sent: correct it and submit it again.
    """
    listed = [f"{problem}." for problem in problems]
    if len(listed) > 1:
        listed = [f"({number}) {line}" for number, line in enumerate(listed, 1)]
    count = "a problem" if len(listed) == 1 else f"{len(listed)} problems"
    message = f"{name} has {count}: {' '.join(listed)} Nothing was sent: correct it and submit it again."
    return InvalidRequestError(message, problems=problems)
