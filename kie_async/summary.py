"""``JobInfo``: what the journal says of one job, as a value."""

from __future__ import annotations

import attrs

from kie_async.states import JobState

__all__ = ["JobInfo"]


@attrs.frozen(kw_only=True)
class JobInfo:
    """
    What the journal said of a job when it was asked.

    Attributes:
        id: The job's own id (``kj_…``).

        state: The job's state in the journal.

        model: The model's name.

        created_at: When it was written down, in seconds since the epoch.

        updated_at: When it last changed, in seconds since the epoch.

        task_id: The service's id, or None while it is not known.

        key: The caller's idempotency key, or None.

        credits: What the task has cost, as far as known.

        error: Why it goes no further, for people, or None.

        duplicates: Further tasks that were paid for it.
    """

    id: str
    state: JobState
    model: str
    created_at: float
    updated_at: float
    task_id: str | None = None
    key: str | None = None
    credits: float | None = None
    error: str | None = None
    duplicates: tuple[str, ...] = ()
