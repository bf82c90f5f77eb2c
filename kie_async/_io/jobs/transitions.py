"""
Moving a job's row, first in the journal and then here.

What has happened has happened, whether it can be written down or not. A move that the journal does not take is logged
and kept, and written as soon as the journal takes moves again; meanwhile the job goes on from what is true. And
somebody else may have moved the row: then it is taken as it is now.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Unpack

import attrs

from kie_async import errors
from kie_async._core.job_errors import dump_error
from kie_async._core.lifecycle import BINDABLE, can_follow
from kie_async.events import EventName
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.journals.journal import Changes, Journal
    from kie_async._io.runtime import Runtime
    from kie_async._io.supervisor import Supervisor
    from kie_async._io.timers import Timers

__all__ = ["ResultWriter", "Transitions", "require_row"]

_log = logging.getLogger("kie_async")

#: How often, in seconds, it is tried again to write what could not be written.
RETRY_INTERVAL = 5.0


class Transitions:
    """
    Moves rows.

    Args:
        journal: Where they are.

        runtime: The wall clock.

        timers: Where the next try goes.

        supervisor: What the next try runs in.

        report: Takes events.
    """

    def __init__(
        self, *, journal: Journal, runtime: Runtime, timers: Timers, supervisor: Supervisor, report: Callable[..., None]
    ) -> None:
        self.journal = journal
        self._runtime = runtime
        self._timers = timers
        self._supervisor = supervisor
        self._report = report
        self._pending: dict[str, LiveJob] = {}

    async def require_transition(self, job: LiveJob, state: JobState, **changes: Unpack[Changes]) -> bool:
        """
        Move a job's row; what follows must not happen unless it is written down.

        Returns:
            Whether it was moved by this call; else somebody else had moved it, and ``job.row`` says where to.

        Raises:
            JournalError: If it could not be written; then nothing has changed.
        """
        await self._catch_ready(job)
        seen = require_row(job)
        row = await self.journal.transition(seen, state, at=self._runtime.wall(), **changes)
        job.row = row or await self.journal.get(job.id) or seen
        return row is not None

    async def record_transition(self, job: LiveJob, state: JobState, **changes: Unpack[Changes]) -> bool:
        """
        Move a job's row after the fact.

        Returns:
            Whether it was moved by this call; else somebody else had moved it, and ``job.row`` says where to.
        """
        try:
            return await self.require_transition(job, state, **changes)
        except errors.JournalError:
            at, seen = self._runtime.wall(), require_row(job)
            if not can_follow(seen.state, state):
                raise  # a bug of ours is no trouble with the disk
            job.row = attrs.evolve(seen, state=state, updated_at=at, **changes)
            _log.critical(
                "%s is %s (task %s), and that could not be journaled.", job.id, state, job.row.task_id, exc_info=True
            )
            self._report(EventName.JOURNAL_FAILED, job, state=str(state))
            job.unjournaled = [*(job.unjournaled or [(seen, None)]), (job.row, changes)]
            if not self._pending:
                self._plan()
            self._pending[job.id] = job
            return True

    async def record_fields(self, job: LiveJob, **changes: Unpack[Changes]) -> None:
        """
        Change a job's row without moving it.

        Where somebody else has moved it meanwhile, ``job.row`` does not say so yet: whoever follows the row has to see
        that it has changed.

        Raises:
            JournalError: If it could not be written.
        """
        at = self._runtime.wall()
        noted = await self.journal.update_fields(job.id, at=at, **changes)
        if noted is not None and job.row is not None and job.unjournaled is None:
            job.row = attrs.evolve(job.row, updated_at=at, **changes)

    async def flush_pending(self) -> None:
        """Try once more to write everything that could not be written."""
        for job in list(self._pending.values()):
            with suppress(errors.JournalError):  # told when it first failed
                await self._catch_ready(job)
        if self._pending:
            self._plan()

    async def _catch_ready(self, job: LiveJob) -> None:
        """Write a job's moves that could not be written, in their order."""
        while job.unjournaled is not None and len(job.unjournaled) > 1:
            (written, _), (row, changes) = job.unjournaled[0], job.unjournaled[1]
            moved = await self.journal.transition(written, row.state, at=row.updated_at, **(changes or {}))
            if moved is None:
                _log.critical(
                    "%s was moved by somebody else before it could be journaled that it is %s.", job.id, row.state
                )
                job.row = await self.journal.get(job.id) or row
                break
            job.unjournaled = [(moved, None), *job.unjournaled[2:]]
        else:
            if job.unjournaled is not None:
                job.row = job.unjournaled[0][0]
        job.unjournaled = None
        self._pending.pop(job.id, None)

    def _plan(self) -> None:
        self._timers.at(self._runtime.now() + RETRY_INTERVAL, self._retry)

    def _retry(self) -> None:
        if self._supervisor.running:
            self._supervisor.start(self.flush_pending)


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

    async def record_accepted(self, job: LiveJob, task_id: str) -> None:
        """Bind a taskId; one that cannot be written down still reaches the caller, and the log."""
        moved = False
        while not moved and require_row(job).task_id is None and job.state in BINDABLE:
            seen = job.row
            moved = await self._bind(job, task_id)
            if not moved and job.row is seen:
                break  # its row is gone
            # Else somebody has moved the row meanwhile, and does not know of the task.
        if not moved and require_row(job).task_id != task_id:
            await self.record_duplicate(job, task_id)
        job.error = None
        if moved:
            self._report(EventName.SUBMITTED, job)

    async def _bind(self, job: LiveJob, task_id: str) -> bool:
        at = self._runtime.wall()
        callback_task_ids = tuple(other for other in require_row(job).callback_task_ids if other != task_id)
        changes: Changes = {
            "task_id": task_id,
            "accepted_at": at,
            "error": None,
            "callback_task_ids": callback_task_ids,
        }
        return await self._transitions.record_transition(job, JobState.SUBMITTED, **changes)

    async def record_duplicate(self, job: LiveJob, task_id: str) -> None:
        """Tie a further task to its intent, and say so: it was paid for nothing."""
        row = require_row(job)
        if task_id in row.duplicate_task_ids:
            return
        _log.critical("%s (state %s, task %s) has one more paid task: %s.", job.id, row.state, row.task_id, task_id)
        self._report(EventName.DUPLICATE, job, duplicate_task_id=task_id)
        try:
            await self._transitions.record_fields(job, duplicate_task_ids=(*row.duplicate_task_ids, task_id))
        except errors.JournalError:
            _log.critical("That task %s belongs to %s could not be journaled.", task_id, job.id, exc_info=True)
            self._report(EventName.JOURNAL_FAILED, job, duplicate_task_id=task_id)

    async def record_rejected(
        self, job: LiveJob, error: errors.KieError, *, ambiguous_attempts: int | None = None
    ) -> None:
        """Write down that the service has refused; *ambiguous_attempts*, where that is what the last attempt was."""
        job.error = error
        if ambiguous_attempts is None:
            ambiguous_attempts = require_row(job).ambiguous_attempts
        changes: Changes = {"error": dump_error(error), "ambiguous_attempts": ambiguous_attempts}
        await self._end(job, JobState.REJECTED, EventName.REJECTED, changes)

    async def record_in_doubt(self, job: LiveJob, reason: str, *, ambiguous_attempts: int | None = None) -> None:
        """Write down that the service may have accepted the create; *ambiguous_attempts* as for ``rejected``."""
        _log.warning("The create of %s may have been accepted (%s); it is not sent again.", job.id, reason)
        if ambiguous_attempts is None:
            ambiguous_attempts = require_row(job).ambiguous_attempts
        if await self._transitions.record_transition(
            job, JobState.IN_DOUBT, error=reason, ambiguous_attempts=ambiguous_attempts
        ):
            self._report(EventName.IN_DOUBT, job, reason=reason)

    async def record_cancelled(self, job: LiveJob, error: errors.KieError) -> None:
        """
        Write down that the job is given up, and nothing was paid.

        Where a suspect attempt may have been paid, it is written down as refused instead.
        """
        row = require_row(job)
        if row.ambiguous_attempts:
            times = "1 attempt was" if row.ambiguous_attempts == 1 else f"{row.ambiguous_attempts} attempts were"
            message = f"{times} answered by an unclear error and may have been paid; then: {error.message}"
            await self.record_rejected(job, errors.ServerError(message, code=500, job_id=job.id))
            return
        job.error = error
        await self._end(job, JobState.CANCELLED, EventName.CANCELLED, {"error": dump_error(error)})

    async def _end(self, job: LiveJob, state: JobState, event: EventName, changes: Changes) -> None:
        if await self._transitions.record_transition(job, state, **changes):
            self._report(event, job)
        else:
            job.error = None  # somebody else has moved it: a callback has proved that it was accepted, say


def require_row(job: LiveJob) -> Intent:
    """The row of a job that is known to have one."""
    if job.row is None:
        msg = f"{job.id} was moved before it was written down"
        raise RuntimeError(msg)
    return job.row
