"""``JobState``: the states of a job in the journal."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["JobState"]


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
    ABANDONED = "abandoned"  #: In doubt, and given up by the caller.
