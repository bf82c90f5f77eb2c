"""
``Submitter``: starts and stops submissions, the tasks that take one intent to a taskId.

A create costs money and cannot be undone. So a submission is a task of its own, started before the caller first waits;
a caller who leaves can only ask it to stop. It stops at once while nothing is on the wire, otherwise when the response
shows that nothing was accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from kie_async import errors
from kie_async._core.job_errors import closed_error
from kie_async._io.jobs.live_job import StopReason, Submission
from kie_async._io.submitting.attempts import Attempts, SubmissionContext
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import LiveJob, Registry
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.runtime import Supervisor
    from kie_async.records import JSON

__all__ = ["Submitter"]


class Submitter:
    """
    Starts submissions and stops them.

    Args:
        context: What all submissions share.

        registry: The live jobs.

        tracker: Forgets jobs that are not tracked any more.

        follow: Resumes a job after its submission.

        supervisor: Runs the submissions.

        owns: Returns True if this process owns a row.
    """

    def __init__(
        self,
        *,
        context: SubmissionContext,
        registry: Registry,
        tracker: Tracker,
        follow: Callable[[LiveJob], Awaitable[None]],
        supervisor: Supervisor,
        owns: Callable[[Intent], bool],
    ) -> None:
        self._context = context
        self._registry = registry
        self._tracker = tracker
        self._follow = follow
        self._supervisor = supervisor
        self._owns = owns
        #: True once no more submissions are started.
        self.closing = False
        # An ordered set of jobs, not of ids: a job that a callback has ended may still wait for its response when a
        # new job with the same key adopts its row.
        self._active: dict[LiveJob, None] = {}
        self._positions = 0

    @property
    def active(self) -> int:
        """The number of submissions."""
        return len(self._active)

    @property
    def sending(self) -> int:
        """The number of creates that may be on the wire."""
        return sum(job.state is JobState.SENDING for job in self._active)

    async def wait_idle(self) -> None:
        """Wait until no submission is left."""
        while self._active:
            await next(iter(self._active)).wait_for_change()

    def start(
        self,
        job: LiveJob,
        write_intent: Callable[[], Awaitable[tuple[Intent, Mapping[str, JSON]]]],
        submission: Submission | None = None,
    ) -> None:
        """
        Start the submission of a job, at the end of the queue.

        Args:
            job: The job.

            write_intent: Uploads images, journals the row and returns it with the input to send.

            submission: The options of the submission; None for the defaults.

        Raises:
            ClientClosedError: If the client closes.
        """
        if self.closing:
            raise closed_error(job_id=job.id)
        self._positions += 1
        job.submission = submission = submission or Submission()
        submission.position, submission.requested_at = self._positions, self._context.runtime.now()
        job.remote, job.error = False, None
        self._registry.add(job)
        self._active[job] = None
        self._supervisor.start(self._submit, job, submission, write_intent)

    def stop(self, job: LiveJob, reason: StopReason, error: errors.KieError) -> None:
        """
        Ask a submission to end; only the first request counts.

        Args:
            job: The job; nothing happens if its submission has ended.

            reason: The reason.

            error: The error for its waiters.
        """
        submission = job.submission
        if submission is None or submission.stop_reason is not None:
            return
        submission.stop_reason = reason
        job.error = error
        if job.state is not JobState.SENDING:
            submission.cancel_unless_on_wire()

    def interrupt(self, job: LiveJob) -> None:
        """
        End the submission of a job whose task was confirmed before the response to its create.

        A create on the wire continues to its response, which may name another task.
        """
        if job.submission is not None:
            job.submission.cancel_unless_on_wire()

    def stop_for_account(self, jobs: Collection[LiveJob] | None, error: errors.KieError) -> None:
        """Stop the submissions of *jobs*, or all with None, because the account cannot pay."""
        for job in list(self._active) if jobs is None else jobs:
            own = error.copy()
            own.job_id = job.id
            self.stop(job, StopReason.ACCOUNT, own)

    async def _submit(
        self,
        job: LiveJob,
        submission: Submission,
        write_intent: Callable[[], Awaitable[tuple[Intent, Mapping[str, JSON]]]],
    ) -> None:
        final = False
        try:
            with anyio.CancelScope() as submission.scope:
                if submission.stop_reason is None:
                    job.row, given = await write_intent()
                    job.journaled = True
                    job.wake_waiters()
                    if self._is_sendable(job):
                        await self._take_slot(job)
                        final = await Attempts(
                            self._context, job, submission, given, stop_for_account=self.stop_for_account
                        ).run()
            if job.state is JobState.INTENT and job.error is not None:
                final = True
                with anyio.CancelScope(shield=True):
                    await self._record_stop(job, submission.stop_reason, job.error)
        except errors.KieError as error:
            final, job.error = True, error
        except Exception as error:
            msg = f"The job has failed within the client ({type(error).__name__}). This is a bug: please report it."
            final, job.error = True, errors.KieError(msg, job_id=job.id, task_id=job.task_id)
            raise
        finally:
            del self._active[job]
            job.submission = None
            if job.row is None or job.successor is not None or (final and job.state is JobState.INTENT):
                self._tracker.stop_tracking(job)
        if self._registry.get(job.id) is job:
            await self._follow(job)
        job.wake_waiters()

    def _is_sendable(self, job: LiveJob) -> bool:
        """Return True if this process is to send a job that was journaled."""
        row = job.row
        return job.successor is None and row is not None and row.state is JobState.INTENT and self._owns(row)

    async def _take_slot(self, job: LiveJob) -> None:
        if job.holds_slot:
            return
        await self._context.admission.slots.acquire()
        if job.state is JobState.INTENT:
            job.holds_slot = True
        else:
            # Just now a callback has confirmed its task, which has a slot of its own.
            self._context.admission.slots.release()

    async def _record_stop(self, job: LiveJob, reason: StopReason | None, error: errors.KieError) -> None:
        """Record that a submission has ended before its create was accepted, if that is final."""
        # After a refusal by the account, an intent with a key stays: the same key, or recover(), resumes it.
        # It also stays when the client closes: recover() sends it.
        if reason is StopReason.CANCELLED or (reason is StopReason.ACCOUNT and job.key is None):
            await self._context.results.record_cancelled(job, error)
