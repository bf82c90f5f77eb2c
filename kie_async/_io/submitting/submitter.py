"""
Starts the owners of intents, and stops them.

A create costs money and cannot be taken back, so its owner is a task of its own: it is started before the caller first
waits, and a caller who leaves only asks it to stop. It stops at once while nothing is on the wire, and else when it
turns out that nothing was accepted.
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
    from kie_async._io.supervisor import Supervisor
    from kie_async.records import JSON

__all__ = ["Submitter"]


class Submitter:
    """
    Starts owners and stops them.

    Args:
        context: What owners work with.

        registry: The jobs that are alive.

        tracker: Lets jobs go.

        follow: Follows a job afterwards.

        supervisor: What owners run in.

        owns: Whether a row is this process's.
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
        #: Whether no more owners are started.
        self.closing = False
        # An ordered set of jobs, not of ids: one that a callback has ended may still wait for its answer when another
        # one takes its row over, since its key came again.
        self._active: dict[LiveJob, None] = {}
        self._places = 0

    @property
    def active(self) -> int:
        """How many intents are on their way."""
        return len(self._active)

    @property
    def sending(self) -> int:
        """How many creates may be on the wire."""
        return sum(job.state is JobState.SENDING for job in self._active)

    async def wait_idle(self) -> None:
        """Wait until no owner is left."""
        while self._active:
            await next(iter(self._active)).wait_for_change()

    def start(
        self,
        job: LiveJob,
        write_down: Callable[[], Awaitable[tuple[Intent, Mapping[str, JSON]]]],
        submission: Submission | None = None,
    ) -> None:
        """
        Start the owner of a job, at the end of the queue; nothing waits in here.

        Args:
            job: The job.

            write_down: Brings the row into the journal (uploads come first), and returns it with the input to send.

            submission: How its owner is to go about it; None for the usual.

        Raises:
            ClientClosedError: If the client closes.
        """
        if self.closing:
            raise closed_error(job_id=job.id)
        self._places += 1
        job.submission = submission = submission or Submission()
        submission.position, submission.requested_at = self._places, self._context.runtime.now()
        job.remote, job.error = False, None
        self._registry.add(job)
        self._active[job] = None
        self._supervisor.start(self._submit, job, submission, write_down)

    def stop(self, job: LiveJob, reason: StopReason, error: errors.KieError) -> None:
        """
        Ask an owner to end; the first to ask is the one who is heard.

        Args:
            job: The job; if it has no owner any more, nothing happens.

            reason: The reason.

            error: What its waiters are told.
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
        End the owner of a job whose task was proved to exist before its create was answered, or is sent once more.

        A create that is on the wire goes through to its answer, which may name one more task.
        """
        if job.submission is not None:
            job.submission.cancel_unless_on_wire()

    def stop_for_account(self, jobs: Collection[LiveJob] | None, error: errors.KieError) -> None:
        """Tell the owners of *jobs*, or of all where it is None, that the account cannot pay."""
        for job in list(self._active) if jobs is None else jobs:
            own = error.copy()
            own.job_id = job.id
            self.stop(job, StopReason.ACCOUNT, own)

    async def _submit(
        self,
        job: LiveJob,
        submission: Submission,
        write_down: Callable[[], Awaitable[tuple[Intent, Mapping[str, JSON]]]],
    ) -> None:
        final = False
        try:
            with anyio.CancelScope() as submission.scope:
                if submission.stop_reason is None:
                    job.row, given = await write_down()
                    job.journaled = True
                    job.wake_waiters()
                    if self._is_ours_to_send(job):
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

    def _is_ours_to_send(self, job: LiveJob) -> bool:
        """Whether a job that was written down is to be sent, and by this process."""
        row = job.row
        return job.successor is None and row is not None and row.state is JobState.INTENT and self._owns(row)

    async def _take_slot(self, job: LiveJob) -> None:
        if job.holds_slot:
            return
        await self._context.admission.slots.acquire()
        if job.state is JobState.INTENT:
            job.holds_slot = True
        else:
            # In the turn of the grant a callback has proved that its task exists already, which has its own slot.
            self._context.admission.slots.release()

    async def _record_stop(self, job: LiveJob, reason: StopReason | None, error: errors.KieError) -> None:
        """Write down that an owner has ended before its create was accepted, if that is for good."""
        # With a key, the account's refusal leaves the intent where it is: it goes on with the same key, or recover().
        # A closed client leaves it, too: it is in the journal, and recover() sends it.
        if reason is StopReason.CANCELLED or (reason is StopReason.ACCOUNT and job.key is None):
            await self._context.results.record_cancelled(job, error)
