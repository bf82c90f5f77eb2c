"""
Seeing rows through: from a job that was begun or found to its end, its files, and the row's outcome.

Each row that has a job is seen through in a child of the client's root task of its own, from its create to its files.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

from kie_async import errors
from kie_async._io.jobs.live_job import Stop
from kie_async._io.mapping.row_files import RowFiles
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.mapping.budgeting import Budgeting
    from kie_async._io.mapping.row import Row
    from kie_async._io.mapping.row_jobs import RowJobs
    from kie_async._io.mapping.run_state import RunState
    from kie_async._io.parts import Parts
    from kie_async.outcomes import Outcome
    from kie_async.records import Generation

__all__ = ["FOR_ALL", "RowRunner"]

#: What concerns every row: none can be sent until the user has done something about it.
FOR_ALL = (errors.AuthenticationError, errors.InsufficientCreditsError, errors.KeyLimitError, errors.JournalError)
#: What the system says where nothing more can be written.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class RowRunner:
    """
    Sees rows through.

    Args:
        parts: The client's parts.

        beginning: Begins jobs, or finds them.

        waiting: Waits for jobs.

        till: Counts what they cost.

        plan: How the run is to go.

        sending: Whether it goes on.

        deliver: Takes what a row has come to, once; None where it has no outcome in this run.

    Attributes:
        rows: The rows that are on their way.

        ahead: How many of them were read and not sent.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        beginning: RowJobs,
        waiting: Waiting,
        till: Budgeting,
        plan: MapOptions,
        sending: RunState,
        deliver: Callable[[Row, Outcome | None], None],
    ) -> None:
        self._parts = parts
        self._beginning = beginning
        self._waiting = waiting
        self._till = till
        self._plan = plan
        self._sending = sending
        self._deliver = deliver
        self._saving = RowFiles(plan)
        self.rows: dict[Row, None] = {}  # an ordered set
        self.ahead = 0

    async def begin(self, row: Row) -> Outcome | None:
        """
        Begin what is to be done for a row; the outcome, where that is nothing.

        Raises:
            KieError: If it cannot be sent.
        """
        if not await self._beginning.find(row) and not await self._beginning.set_out(row):
            if self._sending.ends:
                return None
            if row.job is None:
                return row.skipped(late=self._sending.late)
            row.tries -= 1  # the next one cannot be sent: the last one, which has failed, is the row's
        if self._sending.late and row.unsent and not row.begun and not row.replayed:
            self._settle(row)  # whoever has begun it may send it at any time, or never
            return row.skipped(late=True)
        row.ahead = not row.replayed
        self.ahead += row.ahead
        self.rows[row] = None
        self._parts.supervisor.start(self._see_through, row)
        return None

    def withdraw(self) -> None:
        """Withdraw what this run has begun and not sent, and wait no longer for what others have not sent."""
        msg = "The row was not sent, since the run sends nothing more; nothing was paid. The same call again sends it."
        self._stop_owners(Stop.CANCELLED, lambda job: errors.TransportError(msg, job_id=job.id))

    def halt(self, verdict: errors.KieError) -> None:
        """Read nothing more and send nothing more, since the account cannot pay; what runs goes on to its end."""

        def own(job: LiveJob) -> errors.KieError:
            error = verdict.again()
            error.job_id = job.id
            return error

        self._sending.fail(verdict)
        self._stop_owners(Stop.ACCOUNT, own)

    def abandon(self) -> None:
        """See no row through any further; what was sent lives on."""
        for row in self.rows:
            row.scope.cancel()

    def _stop_owners(self, why: Stop, error: Callable[[LiveJob], errors.KieError]) -> None:
        for row in self.rows:
            if row.begun and row.job is not None and row.job.submission is not None:
                row.withdrawn = True
                self._parts.submitter.stop(row.job, why, error(row.job))
            elif row.unsent and _is_anothers(row):
                row.dropped = True
                row.scope.cancel()

    # -- to the end -------------------------------------------------------------------------------------------------

    async def _see_through(self, row: Row) -> None:
        outcome = None
        try:
            with row.scope:
                outcome = await self._outcome(row)
            if row.scope.cancelled_caught and row.dropped:
                self._settle(row)
                outcome = self._of_unsent(row)
        except Exception as error:
            msg = f"The row has failed within the client ({type(error).__name__}). This is a bug: please report it."
            outcome = row.failed(errors.KieError(msg))
            self._settle(row)  # another row of the same key may wait for that
            raise
        finally:
            self._sent(row)
            self._sending.mark_closing()
            del self.rows[row]
            self._deliver(row, outcome)

    async def _outcome(self, row: Row) -> Outcome | None:
        """See a row through; None where it has no outcome in this run."""
        while True:
            try:
                generation = await self._ended(row)
            except errors.KieError as raised:
                error = raised
                self._settle(row)
            else:
                self._settle(row)
                return await self._saved(row, generation)
            try:
                if await self._go_on(row, error):
                    continue
            except errors.KieError as raised:
                error = raised  # it was to be begun again, and cannot be
            return await self._without_result(row, error)

    def _settle(self, row: Row) -> None:
        self._till.settle(row)
        self._sending.bell.ring()

    async def _ended(self, row: Row) -> Generation:
        """The result of a row's job; what is in doubt is waited for until nobody can tell."""
        if row.job is None:
            msg = "a row without a job was followed"
            raise RuntimeError(msg)
        asked = row.job
        try:
            await self._waiting.answered(asked)
        finally:
            row.job = asked.final
            # Another run, or another process, may have been the first to begin it.
            row.begun = row.begun and row.job is asked and self._is_ours(asked)
        self._sent(row)
        if row.begun and row.job.task_id is not None:
            self._till.figures.created(self._parts.runtime.now())
        while True:
            try:
                return await self._waiting.ended(row.job, patient=False)
            except errors.TaskTimeoutError:
                if row.looked_at or row.state is not JobState.STALLED:
                    raise
                # It is looked at now and then only, and may have ended since.
                row.looked_at = True
                with suppress(errors.KieError):
                    await self._waiting.status(row.job.id)
            except errors.SubmitInDoubtError:
                row.job = row.job.final
                if row.state not in (JobState.SENDING, JobState.IN_DOUBT):
                    raise
                await row.job.changed()

    def _is_ours(self, job: LiveJob) -> bool:
        """Whether it is this process that has a job's row, or would have it."""
        return job.row is None or self._parts.journal.owns(job.row)

    def _sent(self, row: Row) -> None:
        """A row counts no longer among those that were read and not sent."""
        if row.ahead:
            row.ahead = False
            self.ahead -= 1
            self._sending.bell.ring()

    async def _go_on(self, row: Row, error: errors.KieError) -> bool:
        """Begin a row again, where that is allowed and may help."""
        if isinstance(error, (errors.ClientClosedError, *FOR_ALL)):
            return False
        if row.unsent and not row.begun:
            # Somebody else had begun it, and has given it up before it was sent.
            return await self._beginning.set_out(row)
        again = isinstance(error, errors.TaskFailedError) and error.worth_retrying
        if not again or row.tries >= self._plan.retry_failed:
            return False
        await self._release(row)
        row.tries += 1
        if not await self._beginning.set_out(row):
            row.tries -= 1
            return False
        row.failure = error
        return True

    # -- outcomes ---------------------------------------------------------------------------------------------------

    async def _saved(self, row: Row, generation: Generation) -> Outcome:
        try:
            files = await self._saving.save(row.key, generation, fresh=row.begun)
        except errors.KieError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
                self.halt(error)  # the next ones would be paid, and could not be written either
            return row.failed(error, generation)
        await self._release(row)
        return row.done(generation, files)

    async def _without_result(self, row: Row, error: errors.KieError) -> Outcome | None:
        """What a row comes to whose job has no result, or that has none; None where it has no outcome in this run."""
        if isinstance(error, errors.ClientClosedError):
            self._sending.closed = True
            return None
        if isinstance(error, FOR_ALL) and row.state is not JobState.REJECTED:
            self.halt(error)
            return None
        if row.unsent and (row.withdrawn or not row.begun) and not isinstance(error, errors.ConfigurationError):
            return self._of_unsent(row)
        if isinstance(error, errors.SubmitInDoubtError) and row.state is JobState.UNRESOLVED:
            return row.in_doubt(error)
        await self._release(row)
        return row.failed(error)

    def _of_unsent(self, row: Row) -> Outcome | None:
        """The outcome of a row that nobody has sent: it was withdrawn, the account has halted, or no money is left."""
        if row.failure is not None:
            return row.failed(row.failure)
        return None if self._sending.ends else row.skipped(late=self._sending.late)

    async def _release(self, row: Row) -> None:
        """Let a row of the journal go that nobody will ask for, where it must be small."""
        if row.job is not None and not self._parts.journal.durable and row.has_ended:
            await self._parts.journal.mark_delivered(row.job.id)


def _is_anothers(row: Row) -> bool:
    """Whether it is another run, another process or the caller who has begun a row's job, as far as that has shown."""
    return row.job is not None and (not row.begun or row.job.final is not row.job or row.job.remote)
