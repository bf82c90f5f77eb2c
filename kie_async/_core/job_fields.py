"""What an outcome says of its job, read from the job's row and the service's last word."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from kie_async._core.lifecycle import ENDED
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent
    from kie_async.records import TaskRecord

__all__ = ["JobFields", "facts"]


class JobFields(TypedDict, total=False):
    """Fields that all outcomes have."""

    job_id: str
    task_id: str | None
    state: JobState
    credits: float | None
    seconds: float | None
    created_at: float | None
    ended_at: float | None


def facts(row: Intent | None, record: TaskRecord | None) -> JobFields:
    """
    What is known of a job.

    Args:
        row: Its row, or None where it was never written down.

        record: The service's last word about its task, or None.
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
