"""A job as the journal holds it: ``JobState``, its states, and ``JobInfo``, a snapshot of its row."""

from __future__ import annotations

from enum import StrEnum

import attrs

__all__ = ["JobInfo", "JobState"]


class JobState(StrEnum):
    """The state of a job, as the journal holds it."""

    INTENT = "intent"  #: Journaled; nothing has been sent.
    SENDING = "sending"  #: A create request may be on the wire; found after a crash, the job is in doubt.
    SUBMITTED = "submitted"  #: The service has answered with a taskId.
    SUCCEEDED = "succeeded"  #: The service reports success.
    FAILED = "failed"  #: The service reports failure.
    STALLED = "stalled"  #: Not ended within ``RetryPolicy.max_age``; the task may still end.
    REJECTED = "rejected"  #: The service has refused the create request.
    IN_DOUBT = "in_doubt"  #: Sent; the service may or may not have accepted the create request.
    UNRESOLVED = "unresolved"  #: In doubt past the deadline: the caller decides.
    CANCELLED = "cancelled"  #: Ended before anything was sent: nothing was paid.
    ABANDONED = "abandoned"  #: Ended by the caller while in doubt.


@attrs.frozen(kw_only=True)
class JobInfo:
    """
    A snapshot of a job in the journal.

    Attributes:
        job_id: The job's own id (``kj_…``).

        state: The job's state.

        model: The model's name.

        created_at: The instant at which the job was journaled, in seconds since the epoch.

        updated_at: The instant of the row's last change, in seconds since the epoch.

        task_id: The service's id, or None while it is not known.

        key: The caller's idempotency key, or None.

        credits: The cost of the task in credits, as far as it is known.

        error: A description of why the job goes no further, or None.

        duplicates: Further tasks that were paid for this job.

        origin: The service that the job is for: the base URL of its client. Only a client of that service works on it.
    """

    job_id: str
    state: JobState
    model: str
    created_at: float
    updated_at: float
    task_id: str | None = None
    key: str | None = None
    credits: float | None = None
    error: str | None = None
    duplicates: tuple[str, ...] = ()
    origin: str = ""
