"""What a task will probably cost, by what the journal has seen and by the price list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from kie_async._core.durations import kind_of
from kie_async._core.prices import SeenPrices, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kie_async._core.lifecycle import Intent
    from kie_async._io.journals.journal import Journal
    from kie_async.budget import Estimate
    from kie_async.records import JSON
    from kie_async.requests.base import Request

__all__ = ["Prices"]

#: So many rows of a model are read when it is first asked about.
_ROWS = 100


class Prices:
    """
    Estimates prices.

    Args:
        journal: What is asked for what was seen before, once for each model.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._seen = SeenPrices()
        self._asked: set[str] = set()
        self._asking = anyio.Lock()

    async def of(self, request: Request) -> Estimate | None:
        """The estimate for a request, or None where there is none."""
        if request.model not in self._asked:
            async with self._asking:
                await self._ask(request.model)
        given: Mapping[str, JSON] = request.input({field: field for field in request.images()})
        return self._seen.of(kind_of(request.model, given)) or listed(request.model, given)

    async def _ask(self, model: str) -> None:
        if model in self._asked:
            return  # somebody else has asked meanwhile
        for row in reversed(await self._journal.recent_successes(model, _ROWS)):
            self.learn(row)
        self._asked.add(model)

    async def at_most(self, request: Request, price: float | None) -> float | None:
        """What a task of a request is taken to cost: *price*, or else the estimate; None where there is neither."""
        if price is not None:
            return price
        estimate = await self.of(request)
        return None if estimate is None else estimate.credits

    def learn(self, row: Intent) -> None:
        """Take what a task that has succeeded has cost."""
        if row.input:
            self._seen.learn(kind_of(row.model, row.input), row.credits)
