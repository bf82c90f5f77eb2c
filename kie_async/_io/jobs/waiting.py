"""Waiting for jobs: until they are written down, accepted, or ended; and looking at them on the way."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import anyio

from kie_async import errors
from kie_async._core.job_errors import failed_task_error, has_result, load_error, no_result_error, poll_error
from kie_async._core.lifecycle import OPEN
from kie_async._core.poll_results import PollVerdict
from kie_async._io.jobs.live_job import UNANSWERED, LiveJob
from kie_async.records import Generation
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from kie_async._io.jobs.follower import JobFollower
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.poller import Poller
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.runtime import Runtime
    from kie_async._io.supervisor import Supervisor
    from kie_async.job import Job
    from kie_async.records import Saver, TaskRecord

__all__ = ["ResultReader", "Waiting"]

_DOUBTFUL = (JobState.IN_DOUBT, JobState.UNRESOLVED)


class Waiting:
    """
    Waits for jobs. Every wait can be left at any time and changes nothing by it.

    Args:
        journal: Holds the intents.

        registry: The jobs of this process.

        runtime: The clock.

        supervisor: Runs what must not be interrupted.

        poller: Polls tasks.

        tracker: Applies what polls return.

        follower: Adopts jobs that were found in the journal.

        results: Reads what a job's state means.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        registry: Registry,
        runtime: Runtime,
        supervisor: Supervisor,
        poller: Poller,
        tracker: Tracker,
        follower: JobFollower,
        results: ResultReader,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._runtime = runtime
        self._supervisor = supervisor
        self._poller = poller
        self._tracker = tracker
        self._follower = follower
        self._results = results

    async def wait_journaled(self, job: LiveJob) -> LiveJob:
        """Wait until a job is written down; raises why it was not, or why it will not be accepted."""
        while job.final.in_progress and not job.final.journaled:
            raise_wait_error(job.final)
            await job.final.wait_for_change()
        if not job.final.in_progress:
            self._results.check_accepted(job.final)
        return job.final

    async def wait_answered(self, job: LiveJob) -> LiveJob:
        """Wait until a job's owner has an answer, or has given up."""
        while job.final.in_progress and job.final.state in UNANSWERED:
            raise_wait_error(job.final)
            await job.final.wait_for_change()
        return job.final

    async def wait_accepted(self, job: LiveJob) -> LiveJob:
        """Wait until a job's taskId is known; raises why it is not."""
        job = await self.wait_answered(job)
        self._results.check_accepted(job)
        return job

    async def wait_ended(self, job: LiveJob, *, include_stalled: bool) -> Generation:
        """Wait until a job has ended; *patient* waits for a stalled one, too."""
        while (done := self._results.result(job.final, include_stalled=include_stalled)) is None:
            job = job.final
            waiter = job.add_waiter()
            if job.waiters == 1:
                self._poller.awaited(job)
            try:
                await waiter
            finally:
                job.remove_waiter(waiter)
        return done

    async def wait_by_id(self, job_id: str, timeout: float | None, *, found: Callable[[LiveJob], None]) -> Generation:
        """
        Wait for a job by its id; see ``Job.wait``.

        Args:
            job_id: The id.

            timeout: How long, in seconds; None for no bound. With one, a stalled job is waited for, too.

            found: Called with the job.
        """
        job: LiveJob | None = None
        with nullcontext() if timeout is None else anyio.move_on_after(timeout):
            job = await self.find_job(job_id)
            found(job)
            try:
                return await self.wait_ended(job, include_stalled=timeout is not None)
            finally:
                self.release(job)
        raise timeout_error(timeout or 0.0, job)

    async def poll_status(self, job_id: str) -> TaskRecord:
        """Look at a task now; see ``Job.refresh``."""
        job = await self.find_job(job_id)
        try:
            job = await self.wait_answered(job)
            if job.task_id is None:
                self._results.check_accepted(job)
                raise self._results.in_doubt_error(job)
            poll = await self._poller.poll_now(job.task_id)
            await self._tracker.on_poll(job, poll)
            if poll.record is not None:
                return poll.record
            raise poll_error(poll.verdict, job_id=job.own_id, task_id=job.task_id)
        finally:
            self.release(job)

    async def stream_records(self, job_id: str) -> AsyncGenerator[TaskRecord, None]:
        """The records of a job's task, each time that they say something new; see ``Job.updates``."""
        job = await self.find_job(job_id)
        reader = job.add_reader()
        self._poller.awaited(job)
        try:
            while True:
                while reader:
                    yield reader.popleft()
                try:
                    done = self._results.result(job, include_stalled=True)
                except errors.TaskFailedError:
                    return
                if done is not None:
                    return
                await job.wait_for_change()
        finally:
            job.drop_reader(reader)
            self.release(job)

    async def find_job(self, job_id: str) -> LiveJob:
        """
        The job of an id; for a task that the journal does not know, one that is followed while somebody waits.

        Raises:
            TaskNotFoundError: If it is an id of ours that the journal does not know.
        """
        registry, journal = self._registry, self._journal
        if (job := registry.get(job_id)) is not None:
            return job
        ours = job_id.startswith("kj_")
        row = await (journal.get(job_id) if ours else journal.by_task(job_id))
        if row is None and ours:
            msg = (
                "The journal does not know this job. Check the id, and that this is the journal that it was written to."
            )
            raise errors.TaskNotFoundError(msg, job_id=job_id)
        if (job := registry.by_task(job_id) if row is None else registry.get(row.id)) is not None:
            return job
        now = self._runtime.now()
        if row is None:
            job = LiveJob(id=job_id, accepted_at=now)
            registry.add(job)
            self._tracker.foreign(job)
            return job
        if row.state not in OPEN:
            return LiveJob.from_row(row)
        return await self._supervisor.run(self._follower.adopt_for_waiter, row)

    def release(self, job: LiveJob) -> None:
        """Follow a task of somebody else no longer than anybody waits."""
        if job.foreign and not job.waiters and not job.readers:
            self._tracker.let_go(job)


class ResultReader:
    """
    Reads jobs for their callers.

    Args:
        max_age: How long a task may take, in seconds.

        job: Makes the handle of an id.

        saver: Saves a generation's results.
    """

    def __init__(self, *, max_age: float, job: Callable[[str], Job], saver: Saver) -> None:
        self._max_age = max_age
        self._job = job
        self._saver = saver

    def result(self, job: LiveJob, *, include_stalled: bool) -> Generation | None:
        """
        The result of a job, or None while it is worth waiting for.

        Args:
            job: The job.

            include_stalled: Whether a stalled job is worth waiting for.

        Raises:
            KieError: If it has no result, and waiting will not change that.
        """
        row = job.row
        if row is None:
            if job.foreign:
                return self._result(job)
            self._raise_unless_owned(job)
            return None
        match row.state:
            case JobState.SUCCEEDED | JobState.FAILED:
                return self._result(job)
            case JobState.STALLED if not include_stalled:
                patience = self._max_age
                msg = f"The task has not ended within {patience:g} s. It may still end: wait again, with a time-out."
                raise errors.TaskTimeoutError(msg, job_id=job.id, task_id=job.task_id)
            case JobState.SUBMITTED | JobState.STALLED:
                raise_wait_error(job)
                return None
            case JobState.IN_DOUBT if row.callback_url is not None:
                raise_wait_error(job)
                return None  # a callback may bring the task home until the deadline
            case JobState.SENDING if job.in_progress:
                raise_wait_error(job)
                return None
            case JobState.SENDING | JobState.IN_DOUBT | JobState.UNRESOLVED:
                raise self.in_doubt_error(job)
            case JobState.ABANDONED:
                msg = "The job was in doubt, and was given up by abandon(). Submit the request again if it is wanted."
                raise errors.SubmitInDoubtError(msg, job=self._job(job.id), job_id=job.id)
            case _:
                self._raise_unless_owned(job)
                return None

    def check_accepted(self, job: LiveJob) -> None:
        """
        Do nothing if a job that its owner has left was accepted.

        Raises:
            KieError: If it was not, or if nobody can tell.
        """
        state = job.state
        if state in _DOUBTFUL or state is JobState.SENDING:
            raise self.in_doubt_error(job)
        if state in (None, JobState.INTENT, JobState.CANCELLED, JobState.REJECTED):
            self._raise_unless_owned(job)

    def in_doubt_error(self, job: LiveJob) -> errors.SubmitInDoubtError:
        """The error for a job in doubt, with the job in it."""
        reason = f" ({job.row.error})" if job.row is not None and job.row.error else ""
        return errors.SubmitInDoubtError(
            f"The create was sent, and nobody can tell whether it was accepted{reason}: it may have been paid, and is"
            " not sent again. Look for it at kie.ai/logs, then resolve(task_id), resubmit(allow_duplicate=True) or"
            " abandon() the job.",
            job=self._job(job.id),
            job_id=job.id,
        )

    def _result(self, job: LiveJob) -> Generation | None:
        record = job.last_record()
        if record is None or not record.ended:
            if job.error is not None:
                raise job.error.copy()
            raise_wait_error(job)
            return None
        if record.failed:
            raise failed_task_error(record, job_id=job.own_id)
        if not has_result(record):
            raise no_result_error(record, job_id=job.own_id)
        return Generation(record=record, job_id=job.own_id, saver=self._saver)

    def _raise_unless_owned(self, job: LiveJob) -> None:
        """Say why a job was not accepted; nothing while its owner is at it."""
        if job.in_progress:
            raise_wait_error(job)
            return
        if job.error is not None:
            raise job.error.copy()
        if job.row is not None and job.row.error is not None:
            raise load_error(job.row.error, job_id=job.id)
        msg = "The job was never sent, and nobody is sending it; nothing was paid. Call recover(), or submit it again."
        raise errors.TransportError(msg, job_id=job.id)


def raise_wait_error(job: LiveJob) -> None:
    """
    Do nothing unless a job cannot be looked at just now.
    """
    if job.wait_error is not None:
        raise job.wait_error.copy()


def timeout_error(seconds: float, job: LiveJob | None) -> errors.KieError:
    """Return the error for a wait that has reached its timeout; a task that the service does not know is not found."""
    if job is not None and job.not_visible:
        return poll_error(PollVerdict.NOT_VISIBLE, job_id=None, task_id=job.task_id)
    return errors.TaskTimeoutError(
        f"The task has not ended within {seconds:g} s. What was sent lives on: job() to it and wait again.",
        job_id=None if job is None else job.own_id,
        task_id=None if job is None else job.task_id,
    )
