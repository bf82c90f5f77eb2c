"""What the rows of a table have cost already, or may have, by the journal: counted before the first is sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio.lowlevel

from kie_async import errors
from kie_async._core.budget_ledger import may_have_cost
from kie_async._core.lifecycle import OPEN
from kie_async._core.occurrences import Occurrences, short_hash
from kie_async._io.mapping.row_keys import RowKeys
from kie_async._settings import retry_key
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kie_async._core.lifecycle import Intent
    from kie_async._io.mapping.prices import Prices
    from kie_async._io.mapping.row_source import RowSource
    from kie_async._io.parts import Parts
    from kie_async._io.submitting.intake import Intake
    from kie_async.requests.base import Request

__all__ = ["PriorSpend"]

#: So many rows are looked up in one go.
_AT_ONCE = 256


class PriorSpend:
    """
    Looks rows up that are not begun.

    Args:
        parts: The client's parts.

        intake: Checks requests.

        prices: Estimates prices.

        price: What each task is taken to cost where the service has not said; None for the estimate.

        until: What was sent after this instant is left out, in seconds since the epoch.

    Attributes:
        foreseen: What jobs were taken to cost that had not ended, by the journal's key.
    """

    def __init__(
        self, parts: Parts, *, intake: Intake, prices: Prices, price: float | None, until: float = math.inf
    ) -> None:
        self._parts = parts
        self._intake = intake
        self._prices = prices
        self._price = price
        self._until = until
        self.foreseen: dict[str, float] = {}

    async def cost(self, reader: RowSource, *, wanted: Callable[[], bool] = lambda: True) -> float:
        """
        What the tasks of a table have cost, or may have, in credits; each key counts once, with its retries.

        A row that is no good counts nothing: it is told of in its turn, and costs nothing then.

        Args:
            reader: The table, which is read to its end.

            wanted: Whether anybody still wants to know.

        Raises:
            JournalError: If the journal cannot be read.

            Exception: What the table raises, whatever that is.
        """
        total, count = 0.0, 0
        naming, seen = RowKeys(self._intake), Occurrences()
        if not await self._parts.journal.has_keys():
            return total
        while wanted() and (given := await reader.read(_AT_ONCE)):
            requests: dict[str, Request] = {}
            for one in given:
                row = naming.row(one, count)
                count += 1
                try:
                    await naming.name(row)
                except errors.KieError:
                    continue
                if seen.add(short_hash(row.key)) == 1:
                    requests[row.key] = row.request
            total += await self._of(requests)
            await anyio.lowlevel.checkpoint()  # a journal in memory waits for nothing
        return total

    async def _of(self, requests: Mapping[str, Request]) -> float:
        """What the tasks of these keys have cost, try by try."""
        total, number, left = 0.0, 0, dict(requests)
        while left:
            tries = {retry_key(key, number): key for key in left}
            found = {tries[row.key]: row for row in await self._parts.journal.by_keys(list(tries)) if row.key in tries}
            for key, row in found.items():
                amount = await self._of_one(row, left[key])
                total += amount
                if amount and row.state in OPEN:
                    self.foreseen[retry_key(key, number)] = amount
            for key in await self._parts.journal.dropped_keys(list(tries)):
                total += await self._price_of(left[tries[key]])
            left = {key: left[key] for key, row in found.items() if row.state is JobState.FAILED}
            number += 1
        return total

    async def _of_one(self, row: Intent, request: Request) -> float:
        live = self._parts.registry.get(row.id)
        if live is not None and live.row is not None:
            row = live.row  # what could not be written down is known here
        late = row.sending_at is not None and row.sending_at > self._until
        if late or not may_have_cost(row, 1.0):
            return 0.0
        return may_have_cost(row, await self._price_of(request))

    async def _price_of(self, request: Request) -> float:
        return await self._prices.at_most(request, self._price) or 0.0
