"""What a job's state means to a caller who waits for it: a result, an error, or nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kie_async import errors
from kie_async._core.job_errors import failed_task_error, has_result, load_error, no_result_error
from kie_async.records import Generation
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.parts import Settings

__all__ = ["Outcomes"]

_DOUBTFUL = (JobState.IN_DOUBT, JobState.UNRESOLVED)


class Outcomes:
    """
    Reads jobs for their callers.

    Args:
        settings: What the client was made with.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def of(self, job: LiveJob, *, patient: bool) -> Generation | None:
        """
        The result of a job, or None while it is worth waiting for.

        Args:
            job: The job.

            patient: Whether a stalled job is worth waiting for.

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
            case JobState.STALLED if not patient:
                patience = self._settings.retry.max_age
                msg = f"The task has not ended within {patience:g} s. It may still end: wait again, with a time-out."
                raise errors.TaskTimeoutError(msg, job_id=job.id, task_id=job.task_id)
            case JobState.SUBMITTED | JobState.STALLED:
                raise_trouble(job)
                return None
            case JobState.IN_DOUBT if row.callback_url is not None:
                raise_trouble(job)
                return None  # a callback may bring the task home until the deadline
            case JobState.SENDING if job.attended:
                raise_trouble(job)
                return None
            case JobState.SENDING | JobState.IN_DOUBT | JobState.UNRESOLVED:
                raise self.doubt(job)
            case JobState.ABANDONED:
                msg = "The job was in doubt, and was given up by abandon(). Submit the request again if it is wanted."
                raise errors.SubmitInDoubtError(msg, job=self._settings.job(job.id), job_id=job.id)
            case _:
                self._raise_unless_owned(job)
                return None

    def accepted(self, job: LiveJob) -> None:
        """
        Do nothing if a job that its owner has left was accepted.

        Raises:
            KieError: If it was not, or if nobody can tell.
        """
        state = job.state
        if state in _DOUBTFUL or state is JobState.SENDING:
            raise self.doubt(job)
        if state in (None, JobState.INTENT, JobState.CANCELLED, JobState.REJECTED):
            self._raise_unless_owned(job)

    def doubt(self, job: LiveJob) -> errors.SubmitInDoubtError:
        """The error for a job in doubt, with the job in it."""
        reason = f" ({job.row.error})" if job.row is not None and job.row.error else ""
        return errors.SubmitInDoubtError(
            f"The create was sent, and nobody can tell whether it was accepted{reason}: it may have been paid, and is"
            " not sent again. Look for it at kie.ai/logs, then resolve(task_id), resubmit(allow_duplicate=True) or"
            " abandon() the job.",
            job=self._settings.job(job.id),
            job_id=job.id,
        )

    def _result(self, job: LiveJob) -> Generation | None:
        record = job.last_record()
        if record is None or not record.ended:
            if job.error is not None:
                raise job.error.again()
            raise_trouble(job)
            return None
        if record.failed:
            raise failed_task_error(record, job_id=job.own_id)
        if not has_result(record):
            raise no_result_error(record, job_id=job.own_id)
        return Generation(record=record, job_id=job.own_id, saver=self._settings.saver)

    def _raise_unless_owned(self, job: LiveJob) -> None:
        """Say why a job was not accepted; nothing while its owner is at it."""
        if job.attended:
            raise_trouble(job)
            return
        if job.error is not None:
            raise job.error.again()
        if job.row is not None and job.row.error is not None:
            raise load_error(job.row.error, job_id=job.id)
        msg = "The job was never sent, and nobody is sending it; nothing was paid. Call recover(), or submit it again."
        raise errors.TransportError(msg, job_id=job.id)


def raise_trouble(job: LiveJob) -> None:
    """
    Do nothing unless a job cannot be looked at just now.
    """
    if job.trouble is not None:
        raise job.trouble.again()
