"""
Moving a job's row, first in the journal and then here.

Two things can go wrong, and neither changes what is true. Somebody else may have moved the row: then it is taken as it
is now. Or the journal cannot be written: then that is logged, and the job goes on from what is known.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Unpack

import attrs

from kie_async import errors
from kie_async.events import EventName

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._core.lifecycle import Intent, IntentState
    from kie_async._io.clock import Surroundings
    from kie_async._io.journal import Changes, Journal
    from kie_async._io.live import LiveJob

__all__ = ["Moves"]

_log = logging.getLogger("kie_async")


class Moves:
    """
    Moves rows.

    Args:
        journal: Where they are.

        surroundings: The wall clock.

        report: Takes events.
    """

    def __init__(self, journal: Journal, surroundings: Surroundings, report: Callable[..., None]) -> None:
        self.journal = journal
        self._wall = surroundings.wall
        self._report = report

    async def strictly(self, job: LiveJob, state: IntentState, **changes: Unpack[Changes]) -> bool:
        """
        Move a job's row; what follows must not happen unless it is written down.

        Returns:
            Whether it was moved by this call; else somebody else had moved it, and ``job.row`` says where to.

        Raises:
            JournalError: If it could not be written; then nothing has changed.
        """
        seen = row_of(job)
        row = await self.journal.move(seen, state, at=self._wall(), **changes)
        job.row = row or await self.journal.get(job.id) or seen
        return row is not None

    async def to(self, job: LiveJob, state: IntentState, **changes: Unpack[Changes]) -> bool:
        """
        Move a job's row after the fact: what has happened has happened, whether it can be written down or not.

        Returns:
            Whether it was moved by this call; else somebody else had moved it, and ``job.row`` says where to.
        """
        seen = row_of(job)
        try:
            return await self.strictly(job, state, **changes)
        except errors.JournalError:
            task_id = changes.get("task_id", seen.task_id)
            _log.critical("%s is %s (task %s), and that could not be journaled.", job.id, state, task_id, exc_info=True)
            job.row = attrs.evolve(seen, state=state, updated_at=self._wall(), **changes)
            self._report(EventName.JOURNAL_FAILED, job, state=str(state))
            return True


def row_of(job: LiveJob) -> Intent:
    """The row of a job that is known to have one."""
    if job.row is None:
        msg = f"{job.id} was moved before it was written down"
        raise RuntimeError(msg)
    return job.row
