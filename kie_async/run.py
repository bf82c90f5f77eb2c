"""``Run``: the async context manager and iterator that ``KieClient.map()`` returns."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Self, TypeAlias

from kie_async.errors import ConfigurationError
from kie_async.outcomes import Outcome, RunSummary
from kie_async.requests.base import Request

if TYPE_CHECKING:
    from kie_async._binding import EngineBinding
    from kie_async._core.map_options import MapOptions
    from kie_async._io.mapping.map_run import MapRun

__all__ = ["Rows", "Run"]

#: The tables that ``KieClient.map()`` takes: requests, or pairs of a key and a request.
Rows: TypeAlias = "Iterable[Request | tuple[str, Request]] | AsyncIterable[Request | tuple[str, Request]]"


class Run:
    """
    One run of a table: an async context manager, and within it an async iterator of outcomes.

    Rows are read, sent and downloaded in the background as long as the outcomes are taken. A slow caller slows the run
    down; the outcomes that wait for it are bounded.

    When the service refuses the key (codes 401 and 433) or the account cannot pay (402), no more rows are read. What
    runs is followed to its end, and its outcomes are delivered: a row whose task can no longer be polled is ``Failed``,
    with its ``task_id``. Then the iterator raises that error. The same call again continues the table. An error
    of the table itself, of the journal, or of a full disk ends a run in the same way, and so does a client that closes
    (``ClientClosedError``).
    """

    def __init__(self, binding: EngineBinding, rows: Rows, options: MapOptions) -> None:
        self._binding = binding
        self._rows = rows
        self._options = options
        self._map_run: MapRun | None = None

    async def __aenter__(self) -> Self:
        if self._map_run is not None:
            msg = "A run can be entered only once. Call map() again: rows that are done are not paid again."
            raise ConfigurationError(msg)
        engine = await self._binding.engine()
        if self._options.share and not engine.journal.durable:
            msg = (
                "map(share=True) needs a journal that other workers read, and this client keeps its journal in memory."
                ' Use KieClient(journal="kie.db"), or share=False. Nothing was sent.'
            )
            raise ConfigurationError(msg)
        self._map_run = engine.map_run(self._rows, self._options)
        self._map_run.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        outcome = await self._entered().next_outcome()
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    def stop(self) -> None:
        """
        Read no more rows and send nothing more; the iterator continues until what runs has ended.

        Rows that were read and not sent have no outcome: the same call again sends them.

        Raises:
            ConfigurationError: If the run was not entered.
        """
        self._entered().stop()

    async def aclose(self, drain: float = 5.0) -> None:
        """
        Stop, and leave: creates on the wire are answered and downloads are completed, within *drain* seconds.

        Leaving ``async with`` does this automatically. Running tasks continue, the journal knows them, and the same
        call again waits for them.

        Args:
            drain: The time that what has begun may take to end, in seconds; ``math.inf`` waits for all that runs.

        Raises:
            ConfigurationError: If the run was not entered.
        """
        await self._entered().leave(drain)

    def summary(self) -> RunSummary:
        """
        Return the figures so far; they can be read before the end and after it.

        Raises:
            ConfigurationError: If the run was not entered.
        """
        return self._entered().summary()

    def _entered(self) -> MapRun:
        self._binding.check_process()
        if self._map_run is None:
            msg = "The run was not entered. Use it within `async with client.map(…) as run`."
            raise ConfigurationError(msg)
        return self._map_run
