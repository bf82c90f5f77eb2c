"""One row of a table: its request, its key, its job, and the outcome made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import attrs

from kie_async import errors
from kie_async._core.lifecycle import ENDED
from kie_async._keys import retry_key
from kie_async.outcomes import Done, Failed, InDoubt, Skipped
from kie_async.states import JobState

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async._core.budget_ledger import Reservation
    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async.records import Generation, TaskRecord
    from kie_async.requests.base import Request

__all__ = ["Row", "job_fields"]


@attrs.define(eq=False, kw_only=True)
class Row:
    """
    A row that was read.

    Attributes:
        index: The row's position in the table.

        key: The row's key.

        own_key: The caller's key, or None if the key is made of the content.

        request: The request.

        fingerprint: The fingerprint of the request.

        retry: The number of the current retry, over all runs; 0 for the first job.

        retries: The number of retries in this run.

        counted_retry: The last retry that was counted; a retry that is started twice counts once.

        other_intents: What the journal has of the row beside its job: failed jobs, and jobs that were not accepted.

        reservation: The credits reserved for the job; None if nothing is, or if another row with this key counts.

        job: The job, once there is one.

        started_here: True if this run has started the job, and may cancel it.

        cancel_requested: True if this run has asked for the job to be cancelled before it is sent.

        wait_given_up: True if this run no longer waits for another one to send the job.

        stall_checked: True if the task was polled once more after it stalled.

        unsent_counted: True if the row counts among those that were read and not sent.

        replayed: True if the job had ended before this run asked for it.

        last_failure: The error of the last job that failed and was retried.

        scope: The scope in which the row is followed.
    """

    index: int
    key: str
    request: Request
    own_key: str | None = None
    fingerprint: str = ""
    retry: int = 0
    retries: int = 0
    counted_retry: int = 0
    other_intents: list[Intent] = attrs.field(factory=list)
    reservation: Reservation | None = None
    job: LiveJob | None = None
    started_here: bool = False
    cancel_requested: bool = False
    wait_given_up: bool = False
    stall_checked: bool = False
    unsent_counted: bool = False
    replayed: bool = False
    last_failure: errors.KieError | None = None
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)

    @property
    def journal_key(self) -> str:
        """The journal's key of the current job."""
        return retry_key(self.key, self.retry)

    @property
    def state(self) -> JobState | None:
        """The state of the job, or None without a job."""
        return None if self.job is None else self.job.state

    @property
    def unsent(self) -> bool:
        """True if nothing was sent that may have been accepted."""
        intent = None if self.job is None else self.job.final.row
        if intent is None:
            return True
        return intent.state in (JobState.INTENT, JobState.CANCELLED) and not intent.ambiguous_attempts

    @property
    def has_ended(self) -> bool:
        """True if the job has reached a final state in the journal."""
        return self.state in ENDED

    @property
    def started_elsewhere(self) -> bool:
        """True if another run, another process, or a ``submit()`` is known to have started the job."""
        return self.job is not None and (not self.started_here or self.job.final is not self.job or self.job.remote)

    def done(self, generation: Generation, files: tuple[Path, ...]) -> Done:
        """Return the outcome of a task that has succeeded and whose files are on disk."""
        return Done(generation=generation, files=files, **self._fields(generation))

    def failed(self, error: errors.KieError, generation: Generation | None = None) -> Failed:
        """Return the outcome of a row without a result, or without its files."""
        # A run may keep thousands of errors; their tracebacks through this package would only take memory.
        return Failed(error=error.with_traceback(None), generation=generation, **self._fields(generation))

    def in_doubt(self, error: errors.SubmitInDoubtError) -> InDoubt:
        """Return the outcome of an unresolved job."""
        return InDoubt(error=error, job=error.job, **self._fields(None))

    def skipped(self, *, late: bool) -> Skipped:
        """Return the outcome of a row that was not sent: *late* because of ``stop_after``, else of the budget."""
        return Skipped(reason="stop_after" if late else "budget", key=self.key, request=self.request)

    def _fields(self, generation: Generation | None) -> dict[str, Any]:
        job = self.job
        record = generation.record if generation is not None else None if job is None else job.last_record()
        return {
            "key": self.key,
            "request": self.request,
            "replayed": self.replayed,
            "retries": self.retries,
            **job_fields(None if job is None else job.row, record),
        }


def job_fields(row: Intent | None, record: TaskRecord | None) -> dict[str, Any]:
    """
    Return the fields of an outcome that describe the job.

    Args:
        row: The job's row, or None if it was never journaled.

        record: The terminal record of its task, or None.
    """
    if row is None:
        return {}
    created_at = None if record is None else record.created_at
    if created_at is None:
        created_at = row.accepted_at if row.accepted_at is not None else row.sending_at
    ended_at = None if record is None else record.completed_at
    if ended_at is None and row.state in ENDED and row.state is not JobState.CANCELLED:
        ended_at = row.updated_at
    return {
        "job_id": row.id,
        "task_id": row.task_id,
        "state": row.state,
        "credits": row.credits,
        "seconds": None if record is None else record.seconds,
        "created_at": created_at,
        "ended_at": ended_at,
    }
