"""The job of each row: found in the journal, shared with another run, or started and paid for."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async import errors
from kie_async._core.budget_ledger import may_cost_more
from kie_async._core.job_errors import worth_retrying
from kie_async._core.lifecycle import OPEN
from kie_async._io.jobs.live_job import LiveJob, Submission
from kie_async._io.submitting.intake import conflict_error
from kie_async._keys import ContentKey, retry_key
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Collection

    from kie_async._core.budget_ledger import Price
    from kie_async._core.lifecycle import Intent
    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.journals.journal import Journal
    from kie_async._io.mapping.budgeting import Budgeting
    from kie_async._io.mapping.rows import Row
    from kie_async._io.mapping.run_state import RunState
    from kie_async._io.mapping.shared_rows import SharedRows
    from kie_async._io.submitting.intake import Intake

__all__ = ["RowJobs"]

#: The interval at which the journal is asked whether a cost has become known, in seconds.
_CHECK_INTERVAL = 1.0


@attrs.define(eq=False, repr=False, kw_only=True)
class RowJobs:
    """
    The component that gives each row its job.

    Args:
        options: The options of the run.

        journal: The journal.

        registry: The jobs that are alive.

        intake: Starts jobs.

        waiting: Resumes jobs that were found in the journal.

        budgeting: Counts what jobs cost.

        state: The phase of the run.

        shared: Holds the jobs' rows, if the run is shared.
    """

    options: MapOptions
    journal: Journal
    registry: Registry
    intake: Intake
    waiting: Waiting
    budgeting: Budgeting
    state: RunState
    shared: SharedRows

    async def find_job(self, row: Row) -> bool:
        """
        Use the job that a row already has; return True if there is one.

        Raises:
            KeyConflictError: If the row's key belongs to another request.

            HeldElsewhereError: If the run is shared, and another worker yields the row.
        """
        try:
            found = await self._find_last_job(row)
        except errors.KeyConflictError:
            await self.budgeting.count_dropped(row)
            raise
        await self.budgeting.count_other_intents(row)
        if found is None:
            return False
        price = await self.budgeting.price(row.request)
        await self.budgeting.adopt(found.row, row.request)
        self._use_job(row, found, price)
        return True

    async def start_job(self, row: Row) -> bool:
        """
        Start a row's job, or use the one that another caller has started in the meantime.

        Returns:
            True if there is a job now. False if the budget does not allow it, or if nothing more is sent.

        Raises:
            ConfigurationError: If the budget could not be kept, because the cost of a similar job stays unknown.

            KeyConflictError: If the row's key belongs to another request by now.

            HeldElsewhereError: If the run is shared, and another worker has started the row and yields it.
        """
        key, ledger, waited, ignored = row.journal_key, self.budgeting.ledger, False, set[str]()
        while self.state.sends:
            price = await self.budgeting.price(row.request)
            shared = await self.budgeting.read_shared()
            uncharged = await self.budgeting.uncharged_keys(price)
            # From here to the start nothing awaits, so the row that reserves also starts the job.
            live = self.registry.by_key(key)
            if live is not None and live.is_answered and live.in_progress and live.fingerprint == row.fingerprint:
                self._use_job(row, live, price)
                self._count_retry(row)
                return True
            blocking = (ledger.blocking(price) | uncharged) - ignored
            # Another row with a reservation for the same key will soon know what the job has cost.
            if not ledger.is_reserved(key) and (price.is_listed or not blocking) and self.state.sends:
                margin = price.margin if blocking else 0.0
                if shared is None or self.budgeting.fits(shared, price, margin):
                    row.reservation = ledger.reserve(key, price, margin)
                if row.reservation is not None:
                    self._start(row, price)
                    self._count_retry(row)
                    return True
                if not self.budgeting.may_fit_later(shared, price, is_blocked=bool(blocking)):
                    break
                if shared is not None:
                    await self._resume_orphans(shared.name)
            if blocking and not await self._cost_becomes_known(blocking):
                if not price.is_listed:
                    raise _unknown_price_error(row.request.model)
                ignored |= blocking  # there is the list at least
                continue
            # Other processes do not notify this one.
            with anyio.move_on_after(_CHECK_INTERVAL if blocking or shared is not None else math.inf):
                await self.state.wait_for_change()
            waited = True
        # In the meantime another run may have sent the row, and its job may even have ended.
        return waited and not self.state.stopped and await self.find_job(row)

    async def _cost_becomes_known(self, keys: Collection[str]) -> bool:
        """Return True if the cost of one of these jobs is known or may still become known; resume those that may."""
        ledger = self.budgeting.ledger
        found = {intent.key: intent for intent in await self.journal.by_keys(keys)}
        becomes_known = False
        for key in keys:
            intent = found.get(key)
            if ledger.is_reserved(key):
                becomes_known = True
            elif not may_cost_more(intent):
                ledger.discard_uncharged(key)
                becomes_known = True
            elif intent is not None and intent.state in OPEN and intent.state is not JobState.STALLED:
                job = await self.waiting.find_job(intent.id)
                # An ambiguous attempt may have been paid, and no process sends the job again.
                becomes_known = becomes_known or job.in_progress or job.state is not JobState.INTENT
        return becomes_known

    async def _resume_orphans(self, budget: str) -> None:
        """Resume the running jobs of a named budget whose process has ended: their reservations end with them."""
        for row in await self.journal.uncharged_rows(budget):
            is_known = self.registry.get(row.id) is not None or row.state not in OPEN
            if not is_known and not await self.journal.is_owner_alive(row):
                await self.waiting.find_job(row.id)

    def _start(self, row: Row, price: Price) -> None:
        row.job = self.intake.start_submission(
            row.request,
            row.journal_key,
            row.fingerprint,
            Submission(
                outlasts_maintenance=True,
                may_pay_again=partial(self.budgeting.reserve_resend, row),
                key_of_content=isinstance(row.key, ContentKey),
                budget=self.budgeting.name,
                shared=self.options.share,
                price=price.journaled,
            ),
        )
        row.started_here, row.replayed = True, False
        self.budgeting.unsent_rows[row] = None

    def _use_job(self, row: Row, found: LiveJob, price: Price) -> None:
        row.job, row.started_here = found, False
        row.replayed = not found.in_progress and found.state not in OPEN
        self.budgeting.count_found_job(row, found, price)

    def _count_retry(self, row: Row) -> None:
        if row.retry > row.counted_retry:
            row.retries += 1
            row.counted_retry = row.retry
            self.budgeting.figures.retried += row.started_here

    async def _find_last_job(self, row: Row) -> LiveJob | None:
        """
        Return the job of a row's last retry; None if the row is to be sent.

        Everything else that the journal has of the row is added to ``row.other_intents``.

        Raises:
            KeyConflictError: If the row's key belongs to another request.
        """
        while (found := await self._find_current_job(row)) is not None and await self._is_retried(row, found):
            if found.row is not None:
                row.other_intents.append(found.row)
            row.job, row.replayed = found, True  # for the outcome, if the retry cannot be sent
            row.retry += 1
        return found

    async def _find_current_job(self, row: Row) -> LiveJob | None:
        key = row.journal_key
        job = self.registry.by_key(key)
        if job is None:
            intent = await self.journal.by_key(key)
            if intent is None:
                return None
            job = LiveJob.from_row(intent)
        if job.fingerprint != row.fingerprint:
            raise await conflict_error(job.row, row.request, key=row.key, job_id=job.id)
        if job.state is not JobState.FAILED:  # it may have a retry, whose row is the one to hold
            await self.shared.hold(row, job)
        if job.row is None or (job.in_progress and job.is_answered):
            return job
        if _is_sent_anew(job.row):
            row.other_intents.append(job.row)  # its ambiguous attempts may have been paid all the same
            return None
        return job if job.row.state not in OPEN else await self.waiting.find_job(job.id)

    async def _is_retried(self, row: Row, found: LiveJob) -> bool:
        """Return True if a job has failed, and its retry is either in the journal or allowed."""
        record = found.last_record()
        if found.row is None or found.state is not JobState.FAILED or record is None:
            return False
        if not worth_retrying(record, uploaded=bool(found.row.sources)):
            return False
        if row.retry < self.options.retry_failed:
            return True
        # Without further retries, the row has the result of a retry that was made; an unsent one is not sent.
        key = retry_key(row.key, row.retry + 1)
        if (live := self.registry.by_key(key)) is not None and live.in_progress:
            return True
        intent = await self.journal.by_key(key)
        if intent is None or not _is_sent_anew(intent):
            return intent is not None
        row.other_intents.append(intent)
        return False


def _is_sent_anew(intent: Intent) -> bool:
    """Return True if a job without an owner is sent when its key is submitted again."""
    if intent.state is JobState.REJECTED:
        return not intent.ambiguous_attempts
    return intent.state in (JobState.INTENT, JobState.CANCELLED)


def _unknown_price_error(model: str) -> errors.ConfigurationError:
    msg = (
        f"No price is known for this request to {model}, and the cost of an earlier one stays unknown: the service has"
        " not reported it, or the create is in doubt. So the budget could not be kept. Nothing was sent: pass"
        " Budget(price=…), the highest price of such a task."
    )
    return errors.ConfigurationError(msg)
