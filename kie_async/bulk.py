"""``Run``: a table of requests on its way, which is entered, iterated over, and summed up."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

import attrs

from kie_async.outcomes import Outcome
from kie_async.requests.base import Request
from kie_async.run_summary import RunSummary

if TYPE_CHECKING:
    from kie_async._core.plan import Plan
    from kie_async._io.mapping import Mapper
    from kie_async.client import KieClient

__all__ = ["Rows", "Run"]

#: What ``KieClient.map()`` takes: requests, or pairs of a key and a request.
Rows: TypeAlias = "Iterable[Request | tuple[str, Request]] | AsyncIterable[Request | tuple[str, Request]]"


@attrs.define(eq=False, repr=False)
class Run:
    """
    What ``KieClient.map()`` returns: an async context manager, and within it an async iterator of outcomes.

    Rows are read, sent and fetched in the background as long as the outcomes are taken: a caller who is slow slows the
    run down, and nothing piles up.
    """

    _client: KieClient
    _rows: Rows
    _plan: Plan
    _mapper: Mapper | None = attrs.field(default=None, init=False)

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        raise NotImplementedError

    def stop(self) -> None:
        """
        Read no more rows and send nothing more; the iterator goes on until what runs has ended.

        Rows that were read and not sent have no outcome: the same call again takes them up.
        """
        raise NotImplementedError

    async def aclose(self, drain: float = 5.0) -> None:
        """
        Stop, and leave: creates on the wire get their answer and downloads their end, within *drain* seconds.

        Leaving ``async with`` does this by itself. Tasks that run live on, the journal knows them, and the same call
        again waits for them.

        Args:
            drain: For how long what has begun may take to end, in seconds; ``math.inf`` waits for all that runs.
        """
        raise NotImplementedError

    def summary(self) -> RunSummary:
        """The figures so far; before the end and after it, too."""
        raise NotImplementedError
