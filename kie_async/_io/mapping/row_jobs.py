"""Beginning a row's job: going on with the one that it has, joining what somebody else has begun, or paying for one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kie_async import errors
from kie_async._core.lifecycle import OPEN

if TYPE_CHECKING:
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.mapping.budgeting import Budgeting
    from kie_async._io.mapping.finding import Finding
    from kie_async._io.mapping.row import Row
    from kie_async._io.mapping.run_state import RunState
    from kie_async._io.parts import Parts
    from kie_async._io.submitting.intake import Intake

__all__ = ["RowJobs"]


class RowJobs:
    """
    Gives rows their jobs.

    Args:
        parts: The client's parts.

        intake: Takes requests in.

        finding: Finds the jobs that rows have already.

        till: Counts what they cost.

        sending: Whether the run goes on.
    """

    def __init__(self, parts: Parts, *, intake: Intake, finding: Finding, till: Budgeting, sending: RunState) -> None:
        self._parts = parts
        self._intake = intake
        self._finding = finding
        self._till = till
        self._sending = sending

    async def find(self, row: Row) -> bool:
        """
        Go on with the job that a row has already; return whether there is one.

        Raises:
            KeyConflictError: If its key belongs to another request.
        """
        try:
            found = await self._finding.job(row)
        except errors.KeyConflictError:
            await self._till.count_let_go(row)
            raise
        await self._till.count_others(row)
        if found is None:
            return False
        self._join(row, found, await self._till.price_of_found(row.request))
        return True

    async def set_out(self, row: Row) -> bool:
        """
        Begin a row's job, or join whoever has begun it meanwhile.

        Returns:
            Whether there is a job now; else there is no money for it, or nothing more is sent.

        Raises:
            ConfigurationError: If there is a budget, and no price.

            KeyConflictError: If its key belongs to another request by now.
        """
        price, waited = await self._till.price(row.request), False
        # Between the last ring and the start nothing waits: whoever is paid for begins the job in the same turn.
        while not self._sending.late and not self._sending.ends:
            there = self._parts.registry.by_key(row.journal_key)
            if there is not None and there.attended and there.fingerprint == row.identity:
                self._join(row, there, price)
                self._count_retry(row)
                return True
            if not self._till.is_busy(row):
                if self._till.pay(row, price):
                    self._start(row)
                    self._count_retry(row)
                    return True
                if not self._till.may_pay(price):
                    break
            await self._sending.bell.rung()
            waited = True
        # Meanwhile another run may have sent it, and it may have ended, too.
        return waited and not self._sending.ends and await self.find(row)

    def _start(self, row: Row) -> None:
        row.job = self._intake.start(
            row.request, row.journal_key, row.identity, patient=True, afford=partial(self._till.pay_again, row)
        )
        row.begun, row.replayed = True, False

    def _join(self, row: Row, found: LiveJob, price: float) -> None:
        """Go on with a job that there is: wait for it, or tell how it has ended."""
        row.job, row.begun = found, False
        row.replayed = not found.attended and found.state not in OPEN
        self._till.count_found(row, found, price)

    def _count_retry(self, row: Row) -> None:
        """Count a try that is not the first, once."""
        if row.tries > row.counted_tries:
            row.retries += 1
            row.counted_tries = row.tries
            self._till.figures.retried += row.begun
