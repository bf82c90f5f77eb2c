"""``Resolution``: the caller's ways to end a doubt: name the task, send the create again, or abandon the job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kie_async import errors
from kie_async._core.candidates import confirms_answer, is_task_of
from kie_async._core.job_errors import closed_error, poll_error
from kie_async._core.lifecycle import Intent
from kie_async._io.jobs.transitions import require_row
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async._io.jobs.follower import JobFollower
    from kie_async._io.jobs.live_job import LiveJob, Registry
    from kie_async._io.jobs.transitions import ResultWriter
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.poller import Poller
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.submitting.submission import Submitter

__all__ = ["Resolution"]


@attrs.define(eq=False, repr=False, kw_only=True)
class Resolution:
    """
    The resolution of jobs in doubt by the caller.

    Args:
        journal: The journal.

        registry: The live jobs.

        poller: Polls the named task.

        tracker: Applies its record.

        results: Binds the task to the job.

        submitter: Knows if the client closes.

        waiting: Finds jobs.

        follower: Resumes jobs afterwards.

        secrets: The secrets of callback tokens; the first is that of the present API key.
    """

    journal: Journal
    registry: Registry
    poller: Poller
    tracker: Tracker
    results: ResultWriter
    submitter: Submitter
    waiting: Waiting
    follower: JobFollower
    secrets: list[bytes]

    async def resolve(self, job_id: str, task_id: str) -> None:
        """Bind a task to a job in doubt; see ``Job.resolve``."""
        _, row = await self._in_doubt(job_id)
        poll = await self.poller.poll_now(task_id)
        if poll.record is None:
            raise poll_error(poll.verdict, job_id=row.id, task_id=task_id)
        creators = await self.results.find_creators(row.id, task_id)
        own = is_task_of(poll.record, row, *self.secrets)
        if not own and task_id in row.callback_task_ids:  # the answer has named it, and the caller agrees
            own = confirms_answer(poll.record, row, *self.secrets) is None
        if creators or not own:
            creator = "".join(f" ({other})" for other in creators)
            msg = f"The task was created by another request{creator} and is not bound to this job. Check the id."
            raise errors.ConfigurationError(msg, job_id=row.id, task_id=task_id)
        job = self.follower.adopt(row)
        await self.results.record_accepted(job, task_id)
        await self.follower.follow(job)
        if job.task_id != task_id:
            msg = f"Another call has just resolved this job: it is {job.state} (task {job.task_id}). Read it again."
            raise errors.ConfigurationError(msg, job_id=row.id, task_id=task_id)
        await self.tracker.apply_record(job, poll.record)

    async def resubmit(self, job_id: str) -> None:
        """Send the create of a job in doubt again; see ``Job.resubmit``."""
        job, row = await self._in_doubt(job_id)
        # The create in doubt may have been paid: it counts as an ambiguous attempt.
        await self._end_doubt(job, JobState.INTENT, ambiguous_attempts=row.ambiguous_attempts + 1)

    async def abandon(self, job_id: str) -> None:
        """Abandon a job in doubt; see ``Job.abandon``."""
        job, row = await self._in_doubt(job_id)
        await self._end_doubt(job, JobState.ABANDONED, ambiguous_attempts=row.ambiguous_attempts)

    async def _in_doubt(self, job_id: str) -> tuple[LiveJob, Intent]:
        job = await self.waiting.find_job(job_id)
        self.waiting.release(job)
        if job.row is None or job.state not in (JobState.IN_DOUBT, JobState.UNRESOLVED):
            state = "not in this journal" if job.row is None else str(job.state)
            msg = f"Only a job in doubt can be resolved, and this one is {state}. Nothing was changed."
            raise errors.ConfigurationError(msg, job_id=job.own_id, task_id=job.task_id)
        return job, job.row

    async def _end_doubt(self, job: LiveJob, state: JobState, *, ambiguous_attempts: int) -> None:
        if self.submitter.closing:
            raise closed_error(job_id=job.id)
        moved = await self.results.transitions.require_transition(
            job, state, error=None, ambiguous_attempts=ambiguous_attempts
        )
        row = require_row(job)
        if moved or self.registry.get(job.id) is job:
            await self.follower.follow(self.follower.adopt(row))
        if not moved:
            msg = "Another call has just resolved this job. Read its state again."
            raise errors.ConfigurationError(msg, job_id=job.id)
