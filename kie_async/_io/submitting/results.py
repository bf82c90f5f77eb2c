"""What became of a create, written down before anybody is told: accepted, refused, in doubt, or never sent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kie_async import errors
from kie_async._core.job_errors import dump_error
from kie_async._core.lifecycle import BINDABLE
from kie_async._io.jobs.transitions import row_of
from kie_async.events import EventName
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.jobs.transitions import Transitions
    from kie_async._io.journals.journal import Changes
    from kie_async._io.runtime import Runtime

__all__ = ["ResultWriter"]

_log = logging.getLogger("kie_async")


class ResultWriter:
    """
    Makes the moves that end a create; whoever calls follows the job from its row afterwards.

    Args:
        transitions: Moves rows.

        runtime: The wall clock.

        report: Takes events.
    """

    def __init__(self, *, transitions: Transitions, runtime: Runtime, report: Callable[..., None]) -> None:
        self._transitions = transitions
        self._runtime = runtime
        self._report = report

    async def accepted(self, job: LiveJob, task_id: str) -> None:
        """Bind a taskId; one that cannot be written down still reaches the caller, and the log."""
        moved = False
        while not moved and row_of(job).task_id is None and job.state in BINDABLE:
            seen = job.row
            moved = await self._bind(job, task_id)
            if not moved and job.row is seen:
                break  # its row is gone
            # Else somebody has moved the row meanwhile, and does not know of the task.
        if not moved and row_of(job).task_id != task_id:
            await self.duplicate(job, task_id)
        job.error = None
        if moved:
            self._report(EventName.SUBMITTED, job)

    async def _bind(self, job: LiveJob, task_id: str) -> bool:
        at = self._runtime.wall()
        callback_task_ids = tuple(other for other in row_of(job).callback_task_ids if other != task_id)
        changes: Changes = {
            "task_id": task_id,
            "accepted_at": at,
            "error": None,
            "callback_task_ids": callback_task_ids,
        }
        return await self._transitions.to(job, JobState.SUBMITTED, **changes)

    async def duplicate(self, job: LiveJob, task_id: str) -> None:
        """Tie a further task to its intent, and say so: it was paid for nothing."""
        row = row_of(job)
        if task_id in row.duplicate_task_ids:
            return
        _log.critical("%s (state %s, task %s) has one more paid task: %s.", job.id, row.state, row.task_id, task_id)
        self._report(EventName.DUPLICATE, job, duplicate=task_id)
        try:
            await self._transitions.note(job, duplicate_task_ids=(*row.duplicate_task_ids, task_id))
        except errors.JournalError:
            _log.critical("That task %s belongs to %s could not be journaled.", task_id, job.id, exc_info=True)
            self._report(EventName.JOURNAL_FAILED, job, duplicate=task_id)

    async def rejected(self, job: LiveJob, error: errors.KieError, *, ambiguous_attempts: int | None = None) -> None:
        """Write down that the service has refused; *ambiguous_attempts*, where that is what the last attempt was."""
        job.error = error
        if ambiguous_attempts is None:
            ambiguous_attempts = row_of(job).ambiguous_attempts
        changes: Changes = {"error": dump_error(error), "ambiguous_attempts": ambiguous_attempts}
        await self._end(job, JobState.REJECTED, EventName.REJECTED, changes)

    async def doubted(self, job: LiveJob, reason: str, *, ambiguous_attempts: int | None = None) -> None:
        """Write down that the service may have accepted the create; *ambiguous_attempts* as for ``rejected``."""
        _log.warning("The create of %s may have been accepted (%s); it is not sent again.", job.id, reason)
        if ambiguous_attempts is None:
            ambiguous_attempts = row_of(job).ambiguous_attempts
        if await self._transitions.to(job, JobState.IN_DOUBT, error=reason, ambiguous_attempts=ambiguous_attempts):
            self._report(EventName.IN_DOUBT, job, reason=reason)

    async def withdrawn(self, job: LiveJob, error: errors.KieError) -> None:
        """
        Write down that the job is given up, and nothing was paid.

        Where a suspect attempt may have been paid, it is written down as refused instead.
        """
        row = row_of(job)
        if row.ambiguous_attempts:
            times = "1 attempt was" if row.ambiguous_attempts == 1 else f"{row.ambiguous_attempts} attempts were"
            message = f"{times} answered by an unclear error and may have been paid; then: {error.message}"
            await self.rejected(job, errors.ServerError(message, code=500, job_id=job.id))
            return
        job.error = error
        await self._end(job, JobState.CANCELLED, EventName.CANCELLED, {"error": dump_error(error)})

    async def _end(self, job: LiveJob, state: JobState, event: EventName, changes: Changes) -> None:
        if await self._transitions.to(job, state, **changes):
            self._report(event, job)
        else:
            job.error = None  # somebody else has moved it: a callback has proved that it was accepted, say
