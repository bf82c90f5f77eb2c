"""Rows of the journal as values for callers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kie_async._core.job_errors import load_error
from kie_async._core.lifecycle import ENDED
from kie_async.states import JobState
from kie_async.summary import JobInfo

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent
    from kie_async._io.journals.journal import Journal

__all__ = ["summaries", "summary"]


async def summaries(journal: Journal, *, unfinished: bool) -> list[JobInfo]:
    """The rows of a journal, oldest first; *unfinished*, only those that have not ended."""
    states = frozenset(JobState) - ENDED if unfinished else None
    return [_of(row) for row in await journal.rows(states)]


async def summary(journal: Journal, known_id: str) -> JobInfo | None:
    """The row of a job's id or of a taskId, or None."""
    row = await journal.get(known_id) or await journal.by_task(known_id)
    return None if row is None else _of(row)


def _of(row: Intent) -> JobInfo:
    return JobInfo(
        id=row.id,
        state=row.state,
        model=row.model,
        task_id=row.task_id,
        key=row.key,
        created_at=row.created_at,
        updated_at=row.updated_at,
        credits=row.credits,
        error=None if row.error is None else load_error(row.error, job_id=row.id).message,
        duplicates=row.duplicate_task_ids,
    )
