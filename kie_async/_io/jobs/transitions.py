"""
Transitions of a job's row, first in the journal and then in memory; ``ResultWriter`` records the result of a create.

A result that cannot be journaled is still true: it is logged, kept in memory and written as soon as the journal can be
written again. If another process has changed the row meanwhile, its row is adopted.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Unpack

import anyio
import attrs

from kie_async import errors
from kie_async._core.job_errors import dump_error
from kie_async._core.lifecycle import BINDABLE, can_follow
from kie_async._io.jobs.live_job import Unwritten
from kie_async.events import EventName
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import LiveJob, Registry
    from kie_async._io.journals.journal import Changes, Journal
    from kie_async._io.runtime import Runtime, Supervisor
    from kie_async._io.timers import Timers

__all__ = ["ResultWriter", "Transitions", "require_row"]

_log = logging.getLogger("kie_async")

#: The pause between two attempts to write what could not be written, in seconds.
RETRY_INTERVAL = 5.0


@attrs.define(eq=False, repr=False, kw_only=True)
class Transitions:
    """
    The transitions of rows.

    Args:
        journal: The journal.

        registry: The live jobs: a job with unwritten transitions is one of them.

        runtime: The clocks.

        timers: Schedules the next attempt to write.

        supervisor: Runs it.

        report: Reports events.

        resume: Resumes a job whose transitions were written late, with its task, and True if its row was deleted.
    """

    journal: Journal
    registry: Registry
    runtime: Runtime
    timers: Timers
    supervisor: Supervisor
    report: Callable[..., None]
    resume: Callable[[LiveJob, str | None, bool], Awaitable[None]]
    _pending: dict[str, LiveJob] = attrs.field(factory=dict, init=False)

    async def require_transition(
        self, job: LiveJob, state: JobState, *, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> bool:
        """
        Change the state of a job's row before something that must not happen unless it is journaled.

        Args:
            job: The job.

            state: The new state.

            account_epoch: Change it only if the account's state still has this epoch; None for any.

            **changes: Other fields to change in the same write.

        Returns:
            True if this call has changed the state; False if another one has, and ``job.row`` is its row.

        Raises:
            JournalError: If the transition could not be written; then nothing has changed.
        """
        await self.write_pending(job)
        changed, latest = await self._transition(
            require_row(job), state, at=self.runtime.wall(), account_epoch=account_epoch, **changes
        )
        if latest is not None:
            job.learn(latest)
        return changed

    async def _transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> tuple[bool, Intent | None]:
        """
        Change the state of a row in the journal; try again if only its owner has changed since it was read.

        What is known of a create or a task is true, also if another worker owns the row: one that others have taken for
        ended still binds its late answer. But a row that was not sent belongs to its new owner alone.

        Returns:
            True if this call has changed the state; and the latest row, or None if it does not exist any more.
        """
        while True:
            row = await self.journal.transition(seen, state, at=at, account_epoch=account_epoch, **changes)
            latest = row or await self.journal.get(seen.id)
            if row is not None or latest is None or latest.owner == seen.owner:
                return row is not None, latest
            if (latest.state, latest.attempts) != (seen.state, seen.attempts) or (
                seen.state is JobState.INTENT and state is not JobState.SUBMITTED
            ):
                return False, latest
            seen = latest

    async def record_transition(self, job: LiveJob, state: JobState, **changes: Unpack[Changes]) -> bool:
        """
        Change the state of a job's row after the fact; if the journal cannot be written, in memory for now.

        Returns:
            True if this call has changed the state; False if another one has, and ``job.row`` is its row.
        """
        seen = require_row(job)
        try:
            return await self.require_transition(job, state, **changes)
        except errors.JournalError:
            if not can_follow(seen.state, state):
                raise  # a bug, not a failure of the disk
            now = require_row(job)
            if (now.state, now.attempts) != (seen.state, seen.attempts):
                return False  # changed while this call waited for the disk
            job.row = attrs.evolve(now, state=state, updated_at=self.runtime.wall(), **changes)
            _log.critical(
                "%s is %s (task %s), which could not be journaled.", job.id, state, job.row.task_id, exc_info=True
            )
            self.report(EventName.JOURNAL_FAILED, job, state=str(state))
            if job.unwritten is None:
                job.unwritten = Unwritten(row=now, steps=[])
            job.unwritten.steps.append((job.row, changes))
            if self.registry.get(job.id) is None:
                self.registry.add(job)  # a callback was for a job that had ended here, or is another process's
            if not self._pending:
                self._schedule_flush()
            self._pending[job.id] = job
            return True

    async def record_fields(self, job: LiveJob, **changes: Unpack[Changes]) -> None:
        """
        Change fields of a job's row, but not its state.

        If another process has changed the state meanwhile, ``job.row`` keeps the old one: the journal watch must see
        that the row has changed.

        Raises:
            JournalError: If the change could not be written.
        """
        at = self.runtime.wall()
        updated, row = await self.journal.update_fields(job.id, at=at, **changes), job.row
        if updated is None or row is None or job.unwritten is not None:
            return
        if (updated.state, updated.attempts, updated.owner) == (row.state, row.attempts, row.owner):
            job.learn(updated)
        else:
            job.row = attrs.evolve(row, updated_at=at, **changes)

    def is_unwritten(self, task_id: str) -> bool:
        """Return True if a job has a task, and that could not be written."""
        return any(job.task_id == task_id for job in self._pending.values())

    async def flush_pending(self) -> None:
        """Try to write everything that could not be written."""
        # All at once: while another process holds the file, each attempt takes as long as the journal waits for it.
        async with anyio.create_task_group() as group:
            for job in list(self._pending.values()):
                group.start_soon(self._try_to_write, job)
        if self._pending:
            self._schedule_flush()

    async def _try_to_write(self, job: LiveJob) -> None:
        with suppress(errors.JournalError):  # logged when it first failed
            await self.write_pending(job)

    async def write_all(self) -> None:
        """
        Write everything that could not be written.

        Raises:
            JournalError: If the journal still cannot be written.
        """
        for job in list(self._pending.values()):
            await self.write_pending(job)

    def log_pending(self) -> None:
        """Log what could not be written, at the end of the process that knows it."""
        for job in self._pending.values():
            _log.critical(
                "The client closes, and the journal does not know that %s is %s (task %s).",
                job.id,
                job.state,
                job.task_id,
            )

    async def write_pending(self, job: LiveJob) -> None:
        """
        Write the transitions of a job that could not be written, in order.

        Raises:
            JournalError: If the journal still cannot be written; the job stays the only truth about its row.
        """
        unwritten = job.unwritten
        if unwritten is None:
            return
        async with unwritten.lock:
            latest: Intent | None = unwritten.row
            while unwritten.steps and latest is not None:
                row, changes = unwritten.steps[0]
                _, latest = await self._transition(latest, row.state, at=row.updated_at, **changes)
                # Without a row written: it has reached the disk all the same, or another process knew it, too.
                if latest is None or (latest.state, latest.task_id) != (row.state, row.task_id):
                    _log.critical("Another process changed %s before its state %s was journaled.", job.id, row.state)
                    break
                unwritten.row = latest
                del unwritten.steps[0]
            if job.unwritten is unwritten:  # otherwise another call has written it
                task_id, job.unwritten = job.task_id, None
                del self._pending[job.id]
                job.row = latest or job.row
                if self.supervisor.running:
                    self.supervisor.start(self.resume, job, task_id, latest is None)

    def _schedule_flush(self) -> None:
        self.timers.at(self.runtime.now() + RETRY_INTERVAL, self._start_flush)

    def _start_flush(self) -> None:
        if self.supervisor.running:
            self.supervisor.start(self.flush_pending)


@attrs.define(eq=False, repr=False, kw_only=True)
class ResultWriter:
    """
    Records the result of a create in the row; the caller resumes the job from the row afterwards.

    Args:
        transitions: Changes rows.

        runtime: The wall clock.

        report: Reports events.
    """

    transitions: Transitions
    runtime: Runtime
    report: Callable[..., None]

    async def record_accepted(self, job: LiveJob, task_id: str) -> bool:
        """
        Bind a taskId; if it cannot be journaled, it still reaches the caller and the log.

        Returns:
            False if another job has the task and this one does not get it; any other end of the job is True.
        """
        try:
            return await self._record_accepted(job, task_id)
        except BaseException:  # also the end of the event loop
            _log.warning("%s was accepted as task %s, which may not be in the journal.", job.id, task_id)
            raise

    async def _record_accepted(self, job: LiveJob, task_id: str) -> bool:
        moved = False
        while not moved and require_row(job).task_id is None and job.state in BINDABLE:
            seen = job.row
            moved = await self._bind(job, task_id)
            if not moved and job.row is seen:
                break  # the row was deleted, or another row has the task
            # Otherwise another process has changed the row meanwhile without knowing of the task.
        if not moved and require_row(job).task_id != task_id:
            if others := await self._known_creators(job, task_id):
                _log.error("%s does not get task %s, which is that of %s.", job.id, task_id, ", ".join(others))
                return False
            await self.record_duplicate(job, task_id)
        job.error = None
        if moved:
            self.report(EventName.SUBMITTED, job)
        return True

    async def _known_creators(self, job: LiveJob, task_id: str) -> set[str]:
        try:
            return await self.find_creators(job.id, task_id)
        except errors.JournalError:
            return set()  # a duplicate too many is better than a task that nothing knows

    async def _bind(self, job: LiveJob, task_id: str) -> bool:
        if job.state is JobState.SENDING and self.transitions.is_unwritten(task_id):
            return False  # another job has it, and the journal does not know that yet
        at = self.runtime.wall()
        callback_task_ids = tuple(other for other in require_row(job).callback_task_ids if other != task_id)
        changes: Changes = {
            "task_id": task_id,
            "accepted_at": at,
            "error": None,
            "callback_task_ids": callback_task_ids,
        }
        return await self.transitions.record_transition(job, JobState.SUBMITTED, **changes)

    async def find_creators(self, job_id: str, task_id: str) -> set[str]:
        """Return the ids of other jobs than *job_id* that a task belongs to."""
        stored = await self.transitions.journal.by_task(task_id)
        live = self.transitions.registry.by_task(task_id)  # it may not be written yet
        here = stored is not None and stored.origin == self.transitions.journal.service.origin
        found = (stored.id if stored is not None and here else None, None if live is None else live.own_id)
        return {creator for creator in found if creator not in (None, job_id)}

    async def record_duplicate(self, job: LiveJob, task_id: str) -> None:
        """Record a further task of an intent, which was paid in vain, and report it."""
        row = require_row(job)
        if task_id in row.duplicate_task_ids:
            return
        _log.critical("%s (state %s, task %s) has a duplicate paid task: %s.", job.id, row.state, row.task_id, task_id)
        self.report(EventName.DUPLICATE, job, duplicate_task_id=task_id)
        try:
            await self.transitions.record_fields(job, duplicate_task_ids=(*row.duplicate_task_ids, task_id))
        except errors.JournalError:
            _log.critical("The duplicate task %s of %s could not be journaled.", task_id, job.id, exc_info=True)
            self.report(EventName.JOURNAL_FAILED, job, duplicate_task_id=task_id)

    async def record_rejected(
        self, job: LiveJob, error: errors.KieError, *, ambiguous_attempts: int | None = None
    ) -> None:
        """Record that the service has refused the create, and the number of ambiguous attempts if it has changed."""
        job.error = error
        changes: Changes = {} if ambiguous_attempts is None else {"ambiguous_attempts": ambiguous_attempts}
        await self._end(job, JobState.REJECTED, EventName.REJECTED, changes)

    async def record_in_doubt(self, job: LiveJob, reason: str, *, ambiguous_attempts: int | None = None) -> None:
        """Record that the service may have accepted the create, with *ambiguous_attempts* as in ``record_rejected``."""
        _log.warning("The create of %s may have been accepted (%s); it is not sent again.", job.id, reason)
        changes: Changes = {"error": reason}
        if ambiguous_attempts is not None:
            changes["ambiguous_attempts"] = ambiguous_attempts
        if await self.transitions.record_transition(job, JobState.IN_DOUBT, **changes):
            self.report(EventName.IN_DOUBT, job, reason=reason)

    async def record_cancelled(self, job: LiveJob, error: errors.KieError) -> None:
        """Record that the job ends and nothing was paid; after ambiguous attempts, record it as rejected instead."""
        row = require_row(job)
        if row.ambiguous_attempts:
            times = "1 attempt was" if row.ambiguous_attempts == 1 else f"{row.ambiguous_attempts} attempts were"
            message = f"{times} answered by an ambiguous error and may have been paid; then: {error.message}"
            await self.record_rejected(job, errors.ServerError(message, code=500, job_id=job.id))
            return
        job.error = error
        await self._end(job, JobState.CANCELLED, EventName.CANCELLED, {})

    async def _end(self, job: LiveJob, state: JobState, event: EventName, changes: Changes) -> None:
        if job.error is not None:
            changes["error"] = dump_error(job.error)
        if await self.transitions.record_transition(job, state, **changes):
            self.report(event, job)
        else:
            job.error = None  # the row has changed: for example, a callback has proved that the create was accepted


def require_row(job: LiveJob) -> Intent:
    """Return the row of a job that must have one."""
    if job.row is None:
        msg = f"The job {job.id} has no row yet. This is a bug: please report it."
        raise RuntimeError(msg)
    return job.row
