"""
Waits for jobs: until they are journaled, answered, accepted, or ended.

``ResultReader`` says what a job's state means to its caller: a result, an error, or that the wait continues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kie_async import errors
from kie_async._core.job_errors import (
    closed_error,
    failed_task_error,
    has_result,
    load_error,
    no_result_error,
    poll_error,
)
from kie_async._core.lifecycle import OPEN
from kie_async._core.poll_results import PollVerdict
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.journals.journal import job_info
from kie_async.records import Generation
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.follower import JobFollower
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.poller import Poller
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.polling.watchlist import Watchlist
    from kie_async._io.runtime import Runtime, Supervisor
    from kie_async.job import Job
    from kie_async.records import Saver, TaskRecord
    from kie_async.states import JobInfo

__all__ = ["ResultReader", "Waiting"]

_IN_DOUBT = (JobState.IN_DOUBT, JobState.UNRESOLVED)


@attrs.define(eq=False, repr=False, kw_only=True)
class Waiting:
    """
    The waits for jobs. Any wait can be cancelled at any time without an effect on the job.

    Args:
        journal: The journal.

        registry: The live jobs.

        runtime: The clock.

        supervisor: Runs what must not be interrupted.

        poller: Polls tasks.

        watchlist: Polls jobs that have waiters more often.

        tracker: Applies what polls return.

        follower: Adopts jobs that were found in the journal.

        results: Reads results from jobs.
    """

    journal: Journal
    registry: Registry
    runtime: Runtime
    supervisor: Supervisor
    poller: Poller
    watchlist: Watchlist
    tracker: Tracker
    follower: JobFollower
    results: ResultReader

    async def wait_journaled(self, job: LiveJob) -> LiveJob:
        """Wait until a job is journaled; raise why it was not, or why it will not be accepted."""
        while job.final.in_progress and not job.final.journaled:
            raise_wait_error(job.final)
            await job.final.wait_for_change()
        if not job.final.in_progress:
            self.results.check_accepted(job.final)
        return job.final

    async def wait_answered(self, job: LiveJob) -> LiveJob:
        """Wait until the submission of a job has a response, or has ended."""
        while job.final.awaits_answer:
            raise_wait_error(job.final)
            await job.final.wait_for_change()
        return job.final

    async def wait_accepted(self, job: LiveJob) -> LiveJob:
        """Wait until the taskId of a job is known; raise why it is not."""
        job = await self.wait_answered(job)
        self.results.check_accepted(job)
        return job

    async def wait_ended(self, job: LiveJob, *, include_stalled: bool) -> Generation:
        """Wait until a job has ended and return its result; with *include_stalled*, wait for a stalled job, too."""
        while (done := self.results.result(job.final, include_stalled=include_stalled)) is None:
            job = job.final
            waiter = job.add_waiter()
            if job.waiters == 1:
                self.watchlist.reweigh(job)
            try:
                await waiter
            finally:
                job.remove_waiter(waiter)
        return done

    async def poll_status(self, job_id: str, *, own_only: bool) -> TaskRecord:
        """Poll a task now and return its record; see ``Job.status``."""
        job = await self.find_job(job_id, own_only=own_only)
        try:
            job = await self.wait_answered(job)
            if job.task_id is None:
                self.results.check_accepted(job)
                raise self.results.in_doubt_error(job)
            poll = await self.poller.poll_now(job.task_id)
            await self.tracker.handle_poll(job, poll)
            if poll.record is not None:
                return poll.record
            raise poll_error(poll.verdict, job_id=job.own_id, task_id=job.task_id)
        finally:
            self.release(job)

    async def read_info(self, job_id: str, *, own_only: bool) -> JobInfo | None:
        """Return a snapshot of a job, by its own id or its taskId; see ``Job.info``."""
        row = await self.journal.get(job_id) or await self.journal.by_task(job_id)
        if row is None:
            job = self.registry.by_task(job_id)  # it may not be written yet
            row = None if job is None else job.row
        if row is None or (own_only and row.origin != self.journal.service.origin):
            return None
        return job_info(self.registry.latest(row))

    async def stream_records(self, job_id: str, *, own_only: bool) -> AsyncGenerator[TaskRecord, None]:
        """Yield the record of a job's task each time that it changes; see ``Job.updates``."""
        job = await self.find_job(job_id, own_only=own_only)
        reader = job.add_reader()
        self.watchlist.reweigh(job)
        try:
            while True:
                while reader:
                    yield reader.popleft()
                try:
                    done = self.results.result(job, include_stalled=False)
                except errors.TaskFailedError:
                    return
                if done is not None:
                    return
                await job.wait_for_change()
        finally:
            job.drop_reader(reader)
            self.release(job)

    async def find_job(self, job_id: str, *, own_only: bool = False) -> LiveJob:
        """
        Return the job of an id; a task that the journal does not know is polled while it is awaited.

        Args:
            job_id: The job's own id, or its taskId.

            own_only: True to refuse what the journal does not know for this service.

        Raises:
            TaskNotFoundError: If the id is a job's own (``kj_…``) and the journal does not know it, or with *own_only*.

            ConfigurationError: If the job is for another service.
        """
        registry, journal = self.registry, self.journal
        job = registry.get(job_id)
        if job is not None and not (own_only and job.foreign):
            return job
        own = job_id.startswith("kj_")
        row = await (journal.get(job_id) if own else journal.by_task(job_id))
        job = registry.by_task(job_id) if row is None else registry.get(row.id)
        elsewhere = row is not None and row.origin != journal.service.origin
        if (row is None and own) or (own_only and (elsewhere or (row is None and (job is None or job.foreign)))):
            msg = (
                "The journal has no job with this id. Check the id, and use the journal that the job was written to:"
                " KieClient(journal=…), or --journal for a command."
            )
            if own_only:
                msg += " With own_only=True, other tasks of the account are not looked for."
            raise errors.TaskNotFoundError(msg, job_id=job_id if own else None, task_id=None if own else job_id)
        if row is not None and elsewhere:
            raise other_service_error(row, journal.service.origin)
        if job is not None:
            return job
        now = self.runtime.now()
        if row is None:
            if not self.supervisor.running:  # it has ended during the await, and no more waits
                raise closed_error(task_id=job_id)
            job = LiveJob(id=job_id, accepted_at=now)
            registry.add(job)
            self.tracker.track_foreign(job)
            return job
        if row.state not in OPEN:
            return LiveJob.from_row(row)
        if (job := await self.supervisor.run(self.follower.adopt_for_waiter, row.id)) is None:
            msg = "The job has just been deleted from the journal. Look for its task at kie.ai/logs."
            raise errors.TaskNotFoundError(msg, job_id=row.id, task_id=row.task_id)
        return job

    def release(self, job: LiveJob) -> None:
        """Stop polling a foreign task that is no longer awaited."""
        if job.foreign and not job.waiters and not job.readers:
            self.tracker.stop_tracking(job)


@attrs.define(eq=False, repr=False, kw_only=True)
class ResultReader:
    """
    Reads results and errors from jobs.

    Args:
        max_age: ``RetryPolicy.max_age``, in seconds.

        account: The fingerprint of the client's API key.

        job: Makes the handle of an id.

        saver: Saves a generation's results.
    """

    max_age: float
    account: str
    job: Callable[[str], Job]
    saver: Saver

    def result(self, job: LiveJob, *, include_stalled: bool) -> Generation | None:
        """
        Return the result of a job, or None while the wait continues.

        Args:
            job: The job.

            include_stalled: True if the wait continues for a stalled job.

        Raises:
            KieError: If the job has no result and the wait cannot change that.
        """
        row = job.row
        if row is None:
            if job.foreign:
                return self._result(job)
            self._raise_unless_in_progress(job)
            return None
        match row.state:
            case JobState.SUCCEEDED | JobState.FAILED:
                return self._result(job)
            case JobState.STALLED if not include_stalled:
                msg = f"The task has not ended within {self.max_age:g} s. It may still end: wait again, with a timeout."
                raise errors.TaskTimeoutError(msg, job_id=job.id, task_id=job.task_id)
            case JobState.SUBMITTED | JobState.STALLED:
                raise_wait_error(job)
                return None
            case JobState.IN_DOUBT if row.callback_url is not None:
                raise_wait_error(job)
                return None  # a callback may report the task until the deadline
            case JobState.SENDING | JobState.IN_DOUBT if job.awaits_answer:
                raise_wait_error(job)
                return None
            case JobState.SENDING | JobState.IN_DOUBT | JobState.UNRESOLVED:
                raise self.in_doubt_error(job)
            case JobState.ABANDONED:
                msg = "The job was in doubt and was abandoned. Submit the request again if you still want the result."
                raise errors.SubmitInDoubtError(msg, job=self.job(job.id), job_id=job.id)
            case _:
                self._raise_unless_in_progress(job)
                return None

    def check_accepted(self, job: LiveJob) -> None:
        """
        Return if a job whose submission has ended was accepted.

        Raises:
            KieError: If it was not accepted, or is in doubt.
        """
        state = job.state
        if state in _IN_DOUBT or state is JobState.SENDING:
            raise self.in_doubt_error(job)
        if state in (None, JobState.INTENT, JobState.CANCELLED, JobState.REJECTED):
            self._raise_unless_in_progress(job)

    def in_doubt_error(self, job: LiveJob) -> errors.SubmitInDoubtError:
        """Return the error for a job in doubt; it carries the job's handle."""
        reason = f" ({job.row.error})" if job.row is not None and job.row.error else ""
        return errors.SubmitInDoubtError(
            f"The create was sent, and it is unknown if the service has accepted it{reason}: it may have been paid and"
            " is not sent again. Look for the task at kie.ai/logs, then call resolve(task_id),"
            " resubmit(allow_duplicate=True) or abandon() on the job.",
            job=self.job(job.id),
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
            raise failed_task_error(record, job_id=job.own_id, uploaded=job.row is not None and bool(job.row.sources))
        if not has_result(record):
            raise no_result_error(record, job_id=job.own_id)
        return Generation(record=record, job_id=job.own_id, saver=self.saver)

    def _raise_unless_in_progress(self, job: LiveJob) -> None:
        """Raise why a job was not accepted; return while it is in progress."""
        if job.in_progress:
            raise_wait_error(job)
            return
        if job.error is not None:
            raise job.error.copy()
        row = job.row
        of_other_key = row is not None and row.state is JobState.INTENT and row.account != self.account
        if row is not None and row.error is not None and not of_other_key:
            raise load_error(row.error, job_id=job.id)
        msg = "The job was not sent and no process is sending it; nothing was paid. Call recover(), or submit it again."
        if of_other_key:
            msg = (
                "The job was journaled with another API key and was not sent; nothing was paid. Call"
                " recover(adopt_key=True), or submit the request with its key again, to send it with the present API"
                " key."
            )
        raise errors.TransportError(msg, job_id=job.id)


def other_service_error(row: Intent, origin: str) -> errors.ConfigurationError:
    """Return the error for a job of another service than *origin*: it is neither sent nor polled here."""
    msg = (
        f"The job is for {row.origin}, and this client speaks to {origin}: nothing was sent. Use a client with"
        f" base_url={row.origin!r} (KIE_BASE_URL) for it, or submit the request again here."
    )
    return errors.ConfigurationError(msg, job_id=row.id, task_id=row.task_id)


def raise_wait_error(job: LiveJob) -> None:
    """Raise the job's ``wait_error``, if it has one."""
    if job.wait_error is not None:
        raise job.wait_error.copy()


def timeout_error(seconds: float, job: LiveJob | None) -> errors.KieError:
    """Return the error for a wait that has reached its timeout: not found, if the service does not know the task."""
    if job is not None and job.not_visible:
        return poll_error(PollVerdict.NOT_VISIBLE, job_id=None, task_id=job.task_id)
    return errors.TaskTimeoutError(
        f"The task has not ended within {seconds:g} s and runs on. Call job() with its id to wait again.",
        job_id=None if job is None else job.own_id,
        task_id=None if job is None else job.task_id,
    )
