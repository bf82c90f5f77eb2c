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
from kie_async._core.lifecycle import can_follow
from kie_async.events import EventName

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.journals.journal import Changes, Journal
    from kie_async._io.runtime import Runtime
    from kie_async._io.supervisor import Supervisor
    from kie_async._io.timers import Timers
    from kie_async.states import JobState

__all__ = ["Transitions", "row_of"]

_log = logging.getLogger("kie_async")

#: How often, in seconds, it is tried again to write what could not be written.
RETRY_EVERY = 5.0


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
        self._behind: dict[str, LiveJob] = {}

    async def strictly(self, job: LiveJob, state: JobState, **changes: Unpack[Changes]) -> bool:
        """
        Move a job's row; what follows must not happen unless it is written down.

        Returns:
            Whether it was moved by this call; else somebody else had moved it, and ``job.row`` says where to.

        Raises:
            JournalError: If it could not be written; then nothing has changed.
        """
        await self._catch_up(job)
        seen = row_of(job)
        row = await self.journal.transition(seen, state, at=self._runtime.wall(), **changes)
        job.row = row or await self.journal.get(job.id) or seen
        return row is not None

    async def to(self, job: LiveJob, state: JobState, **changes: Unpack[Changes]) -> bool:
        """
        Move a job's row after the fact.

        Returns:
            Whether it was moved by this call; else somebody else had moved it, and ``job.row`` says where to.
        """
        try:
            return await self.strictly(job, state, **changes)
        except errors.JournalError:
            at, seen = self._runtime.wall(), row_of(job)
            if not can_follow(seen.state, state):
                raise  # a bug of ours is no trouble with the disk
            job.row = attrs.evolve(seen, state=state, updated_at=at, **changes)
            _log.critical(
                "%s is %s (task %s), and that could not be journaled.", job.id, state, job.row.task_id, exc_info=True
            )
            self._report(EventName.JOURNAL_FAILED, job, state=str(state))
            job.unwritten = [*(job.unwritten or [(seen, None)]), (job.row, changes)]
            if not self._behind:
                self._plan()
            self._behind[job.id] = job
            return True

    async def note(self, job: LiveJob, **changes: Unpack[Changes]) -> None:
        """
        Change a job's row without moving it.

        Where somebody else has moved it meanwhile, ``job.row`` does not say so yet: whoever follows the row has to see
        that it has changed.

        Raises:
            JournalError: If it could not be written.
        """
        at = self._runtime.wall()
        noted = await self.journal.update_fields(job.id, at=at, **changes)
        if noted is not None and job.row is not None and job.unwritten is None:
            job.row = attrs.evolve(job.row, updated_at=at, **changes)

    async def catch_up(self) -> None:
        """Try once more to write everything that could not be written."""
        for job in list(self._behind.values()):
            with suppress(errors.JournalError):  # told when it first failed
                await self._catch_up(job)
        if self._behind:
            self._plan()

    async def _catch_up(self, job: LiveJob) -> None:
        """Write a job's moves that could not be written, in their order."""
        while job.unwritten is not None and len(job.unwritten) > 1:
            (written, _), (row, changes) = job.unwritten[0], job.unwritten[1]
            moved = await self.journal.transition(written, row.state, at=row.updated_at, **(changes or {}))
            if moved is None:
                _log.critical(
                    "%s was moved by somebody else before it could be journaled that it is %s.", job.id, row.state
                )
                job.row = await self.journal.get(job.id) or row
                break
            job.unwritten = [(moved, None), *job.unwritten[2:]]
        else:
            if job.unwritten is not None:
                job.row = job.unwritten[0][0]
        job.unwritten = None
        self._behind.pop(job.id, None)

    def _plan(self) -> None:
        self._timers.at(self._runtime.now() + RETRY_EVERY, self._retry)

    def _retry(self) -> None:
        if self._supervisor.running:
            self._supervisor.start(self.catch_up)


def row_of(job: LiveJob) -> Intent:
    """The row of a job that is known to have one."""
    if job.row is None:
        msg = f"{job.id} was moved before it was written down"
        raise RuntimeError(msg)
    return job.row
