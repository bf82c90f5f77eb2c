"""``Run``: a table of requests on its way, which is entered, iterated over, and summed up."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from kie_async.errors import ConfigurationError
from kie_async.outcomes import Outcome
from kie_async.requests.base import Request
from kie_async.run_summary import RunSummary

if TYPE_CHECKING:
    from kie_async._core.map_options import MapOptions
    from kie_async._io.mapping.map_run import MapRun
    from kie_async.client import KieClient

__all__ = ["Rows", "Run"]

#: What ``KieClient.map()`` takes: requests, or pairs of a key and a request.
Rows: TypeAlias = "Iterable[Request | tuple[str, Request]] | AsyncIterable[Request | tuple[str, Request]]"


class Run:
    """
    What ``KieClient.map()`` returns: an async context manager, and within it an async iterator of outcomes.

    Rows are read, sent and fetched in the background as long as the outcomes are taken: a caller who is slow slows the
    run down, and nothing piles up.

    When the account cannot pay (codes 401, 402 and 433), no more rows are read; what runs goes on to its end, and its
    outcomes come. Then the iterator raises that error, and the same call again goes on.
    """

    def __init__(self, client: KieClient, rows: Rows, plan: MapOptions) -> None:
        self._client = client
        self._rows = rows
        self._plan = plan
        self._map_run: MapRun | None = None

    async def __aenter__(self) -> Self:
        if self._map_run is not None:
            msg = "A run is entered once. Call map() again: what is done is not paid again."
            raise ConfigurationError(msg)
        engine = await self._client._engine()  # noqa: SLF001 (a run is a part of its client)
        self._map_run = engine.map_run(self._rows, self._plan)
        self._map_run.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        outcome = await self._entered().next()
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    def stop(self) -> None:
        """
        Read no more rows and send nothing more; the iterator goes on until what runs has ended.

        Rows that were read and not sent have no outcome: the same call again takes them up.
        """
        self._entered().stop()

    async def aclose(self, drain: float = 5.0) -> None:
        """
        Stop, and leave: creates on the wire get their answer and downloads their end, within *drain* seconds.

        Leaving ``async with`` does this by itself. Tasks that run live on, the journal knows them, and the same call
        again waits for them.

        Args:
            drain: For how long what has begun may take to end, in seconds; ``math.inf`` waits for all that runs.
        """
        await self._entered().leave(drain)

    def summary(self) -> RunSummary:
        """The figures so far; before the end and after it, too."""
        return self._entered().summary()

    def _entered(self) -> MapRun:
        if self._map_run is None:
            msg = "A run works within `async with client.map(…) as run`. Enter it first."
            raise ConfigurationError(msg)
        return self._map_run
