"""What the journal has of a row: the job of its last try, and what else there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kie_async._core.job_errors import worth_retrying
from kie_async._core.lifecycle import OPEN
from kie_async._io.jobs.live_job import LiveJob
from kie_async._settings import retry_key
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent
    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.mapping.row import Row
    from kie_async._io.parts import Parts
    from kie_async._io.submitting.intake import Intake

__all__ = ["Finding"]


class Finding:
    """
    Looks rows up.

    Args:
        parts: The client's parts.

        intake: Says what differs between two requests of one key.

        waiting: Takes up jobs that were found in the journal.

        plan: How the run is to go.
    """

    def __init__(self, parts: Parts, *, intake: Intake, waiting: Waiting, plan: MapOptions) -> None:
        self._parts = parts
        self._intake = intake
        self._waiting = waiting
        self._plan = plan

    async def job(self, row: Row) -> LiveJob | None:
        """
        The job that a row has already, the one of its last try; None where it is to be sent.

        What else the journal has of the row is left in ``row.other_tries``.

        Raises:
            KeyConflictError: If its key belongs to another request.
        """
        while (found := await self._job(row)) is not None and await self._is_made_again(row, found):
            if found.row is not None:
                row.other_tries.append(found.row)
            row.job, row.replayed = found, True  # what there is to tell, if the next try cannot be sent
            row.tries += 1
        return found

    async def _job(self, row: Row) -> LiveJob | None:
        key, parts = row.journal_key, self._parts
        job = parts.registry.by_key(key)
        if job is None:
            intent = await parts.journal.by_key(key)
            if intent is None:
                return None
            job = LiveJob.of(intent)
        if job.fingerprint != row.identity:
            raise await self._intake.conflict(job.row, row.request, key=row.key, job_id=job.id)
        if job.attended or job.row is None:
            return job
        if _is_unsent(job.row):
            row.other_tries.append(job.row)  # of which attempts may have been paid all the same
            return None
        return job if job.row.state not in OPEN else await self._waiting.find(job.id)

    async def _is_made_again(self, row: Row, found: LiveJob) -> bool:
        """Whether a job has failed, and the next try is in the journal or allowed."""
        record = found.last_record()
        if found.state is not JobState.FAILED or record is None or not worth_retrying(record):
            return False
        if row.tries < self._plan.retry_failed:
            return True
        # Whoever retries no more gets what a retry has made, and sends none that was left behind.
        key, parts = retry_key(row.key, row.tries + 1), self._parts
        if (live := parts.registry.by_key(key)) is not None and live.attended:
            return True
        left = await parts.journal.by_key(key)
        if left is None or not _is_unsent(left):
            return left is not None
        row.other_tries.append(left)
        return False


def _is_unsent(row: Intent) -> bool:
    """Whether a job that nobody works on is sent by whoever asks for its key."""
    if row.state is JobState.REJECTED:
        return not row.ambiguous_attempts
    return row.state in (JobState.INTENT, JobState.CANCELLED)
