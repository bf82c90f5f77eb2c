"""The events that a client reports to ``on_event``: ``Event`` and ``EventName``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

from kie_async.records import JSON

__all__ = ["Event", "EventName"]


class EventName(StrEnum):
    """
    The names of events.

    ``Event.detail`` has exactly these keys; keys after "optional" may be missing:

    =================  ===============================================================
    event              keys of ``Event.detail``
    =================  ===============================================================
    SUBMITTED          none
    ENDED              ``state``, ``credits``
    STALLED            none
    CANCELLED          none
    REJECTED           none
    IN_DOUBT           ``reason``
    UNRESOLVED         none
    RATE_LIMITED       none
    MAINTENANCE        none
    ACCOUNT_PAUSED     ``code``
    AMBIGUOUS          ``attempt``, ``message``
    DUPLICATE          ``duplicate_task_id``
    JOURNAL_FAILED     optional ``state``, ``duplicate_task_id``
    JOURNAL_WENT_BACK  ``state``, ``found_state``
    DUPLICATE_RECORD   ``state``
    CALLBACK           ``named_task_id``, ``attempt``, ``state``
    CALLBACK_REFUSED   ``reason``, ``status``, optional ``named_task_id``
    =================  ===============================================================

    * ``attempt`` is the number of the job's create request that the event is about.
    * ``code`` is the code in the service's answer, or the HTTP status if the body had none.
    * ``credits`` is the task's cost, or None if the service does not report it.
    * ``duplicate_task_id`` is the id of a further task of the job. JOURNAL_FAILED has it if that task could not be
      journaled.
    * ``found_state`` is the state in which the journal had the job, or None if the job was gone.
    * ``message`` is the service's message.
    * ``named_task_id`` is the id of the task that a callback names, or None. CALLBACK_REFUSED has it if the callback's
      token is authentic and the task is not the job's.
    * ``reason`` says in words why the outcome of a create is unknown, or why a callback was refused.
    * ``state`` is a state of the job (CALLBACK: its state when the callback arrived; JOURNAL_FAILED: the state that
      could not be journaled; JOURNAL_WENT_BACK: the state that was restored) or of the task's record (ENDED,
      DUPLICATE_RECORD).
    * ``status`` is the HTTP status of the answer to the callback.
    """

    SUBMITTED = "submitted"  #: The task's id is known.
    ENDED = "ended"  #: The service has reported the end of the task.
    STALLED = "stalled"  #: The task has not ended within ``RetryPolicy.max_age``.
    CANCELLED = "cancelled"  #: The job was cancelled before anything was sent.
    REJECTED = "rejected"  #: The service has refused the create.
    IN_DOUBT = "in_doubt"  #: The create was sent, and no answer says whether it was accepted.
    UNRESOLVED = "unresolved"  #: The job is in doubt past its deadline: the caller decides.
    RATE_LIMITED = "rate_limited"  #: A create was answered by 429.
    MAINTENANCE = "maintenance"  #: A create was answered by 455.
    ACCOUNT_PAUSED = "account_paused"  #: A create was answered by 401, 402 or 433.
    AMBIGUOUS = "ambiguous"  #: A create was answered by an ambiguous 500: it may have been paid.
    DUPLICATE = "duplicate"  #: A further task belongs to the job: it was paid twice.
    JOURNAL_FAILED = "journal_failed"  #: A paid task could not be journaled; its id is in the event and in the log.
    JOURNAL_WENT_BACK = "journal_went_back"  #: The journal had lost a change that it had acknowledged; it is restored.
    DUPLICATE_RECORD = "duplicate_record"  #: A further terminal record of a task that had ended.
    CALLBACK = "callback"  #: A callback with an authentic token has arrived; a poll confirms it.
    CALLBACK_REFUSED = "callback_refused"  #: A callback was refused, or names a task of another job.


@attrs.frozen(kw_only=True)
class Event:
    """
    One event.

    Attributes:
        name: The name of the event.

        job_id: The job's own id, or None.

        task_id: The service's id of the task, or None.

        detail: More values; the table in ``EventName`` lists the keys of each event.
    """

    name: EventName
    job_id: str | None = None
    task_id: str | None = None
    detail: Mapping[str, JSON] = attrs.field(factory=dict)
