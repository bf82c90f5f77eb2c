"""What a row of a table is: its key, what it costs, and the job that it has already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kie_async import errors
from kie_async._core.lifecycle import OPEN, IntentState
from kie_async._core.occurrences import Occurrences
from kie_async._core.outcomes import worth_retrying
from kie_async._core.plan import default_key, retry_key
from kie_async._io.jobs.live import LiveJob
from kie_async._io.mapping.row import Row
from kie_async._settings import check_key

if TYPE_CHECKING:
    from kie_async._core.plan import Plan
    from kie_async._io.creating.intake import Intake
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.mapping.prices import Prices
    from kie_async._io.parts import Parts
    from kie_async.requests.base import Request

__all__ = ["Finding"]

#: 64 bits of a fingerprint, in hexadecimal digits.
_SHORT = 16


class Finding:
    """
    Looks rows up.

    Args:
        parts: The client's parts.

        intake: Checks requests.

        waiting: Takes up jobs that were found in the journal.

        prices: Estimates prices.

        plan: How the run is to go.
    """

    def __init__(self, parts: Parts, *, intake: Intake, waiting: Waiting, prices: Prices, plan: Plan) -> None:
        self._parts = parts
        self._intake = intake
        self._waiting = waiting
        self._prices = prices
        self._plan = plan
        self._occurrences = Occurrences()

    async def identify(self, row: Row, key: str | None) -> None:
        """
        Check what a row asks for, and give it its identity and its key.

        Args:
            row: The row.

            key: The caller's key, or None for one of the content and its occurrence.

        Raises:
            KieError: If the request or the key is no good.
        """
        check_key(key)
        await self._intake.check(row.request)
        row.identity = await self._intake.identify(row.request)
        if key is None:
            row.key = default_key(row.identity, self._occurrences.add(int(row.identity[:_SHORT], 16)))

    async def job(self, row: Row) -> LiveJob | None:
        """
        The job that a row has already, the one of its last try; None where it is to be sent.

        Raises:
            KeyConflictError: If its key belongs to another request.
        """
        while (found := await self._job(row)) is not None and await self._is_made_again(row, found):
            row.tries += 1
        return found

    async def price(self, request: Request) -> float:
        """
        What a create is taken to cost; nothing, where nobody counts.

        Raises:
            ConfigurationError: If there is a budget, and no price.
        """
        budget = self._plan.budget
        if budget is None:
            return 0.0
        if budget.price is not None:
            return budget.price
        estimate = await self._prices.of(request)
        if estimate is None:
            msg = (
                f"No price is known for {request.model}, so that the budget could not hold. Nothing was sent: give"
                " Budget(price=…), what such a task costs at most."
            )
            raise errors.ConfigurationError(msg)
        return estimate.credits

    async def _job(self, row: Row) -> LiveJob | None:
        key, parts = row.journal_key, self._parts
        job = parts.registry.by_key(key)
        if job is None:
            intent = await parts.journal.by_key(key)
            if intent is None:
                row.suspects = 0
                return None
            job = LiveJob.of(intent)
        row.suspects = 0 if job.row is None else job.row.suspect_attempts
        if job.fingerprint != row.identity:
            raise await self._intake.conflict(job.row, row.request, key=row.key, job_id=job.id)
        if job.attended or job.row is None:
            return job
        if job.row.state in (IntentState.INTENT, IntentState.WITHDRAWN):
            return None
        if job.row.state is IntentState.REJECTED and not job.row.suspect_attempts:
            return None
        return job if job.row.state not in OPEN else await self._waiting.find(job.id)

    async def _is_made_again(self, row: Row, found: LiveJob) -> bool:
        """Whether a job has failed, and the next try is in the journal or allowed."""
        record = found.last_record()
        if found.state is not IntentState.FAILED or record is None or not worth_retrying(record):
            return False
        if row.tries < self._plan.retry_failed:
            return True
        return await self._parts.journal.by_key(retry_key(row.key, row.tries + 1)) is not None
