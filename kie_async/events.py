"""What a client reports to ``on_event`` while it works."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

from kie_async.records import JSON

__all__ = ["Event", "EventName"]


class EventName(StrEnum):
    """What may be reported."""

    SUBMITTED = "submitted"  #: A taskId is known.
    ENDED = "ended"  #: The service has said its last word.
    STALLED = "stalled"  #: Not ended within ``max_age``.
    CANCELLED = "cancelled"  #: Given up before anything was sent.
    REJECTED = "rejected"  #: Refused by the service.
    IN_DOUBT = "in_doubt"  #: Sent, and nobody can tell whether it was accepted.
    UNRESOLVED = "unresolved"  #: In doubt for too long: the caller decides.
    RATE_LIMITED = "rate_limited"  #: A create was answered by 429.
    MAINTENANCE = "maintenance"  #: A create was answered by 455.
    ACCOUNT_PAUSED = "account_paused"  #: A create was answered by 401, 402 or 433.
    AMBIGUOUS = "ambiguous"  #: A create was answered by an ambiguous 500: it may have been paid.
    DUPLICATE = "duplicate"  #: A further task belongs to an intent: it was paid twice.
    JOURNAL_FAILED = "journal_failed"  #: A paid task could not be written down; its id is here and in the log.
    DUPLICATE_RECORD = "duplicate_record"  #: A further last word about a task that had ended.
    CALLBACK = "callback"  #: A callback with a token of ours has come; what it means is asked of the service.
    CALLBACK_REFUSED = "callback_refused"  #: A callback was not taken, or names a foreign task; the detail says why.


@attrs.frozen(kw_only=True)
class Event:
    """
    One thing that happened.

    Attributes:
        name: What.

        job_id: The job's own id, or None.

        task_id: The service's id, or None.

        detail: More, by name.
    """

    name: EventName
    job_id: str | None = None
    task_id: str | None = None
    detail: Mapping[str, JSON] = attrs.field(factory=dict)
