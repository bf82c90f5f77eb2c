"""
The states of an intent, one wish to create one task, with the moves between them.

``MOVES`` is the one table; nothing else decides whether a move is allowed.

::

                     ┌── provably unsent, 429, 455, unclear 500 (bounded) ──┐
    INTENT ── slot, token ──> SENDING(n) ──> SUBMITTED(taskId) ──> SUCCEEDED | FAILED | STALLED (may still end)
       │                          ├──> REJECTED
       │                          └──> IN_DOUBT ── callback with our token, echoed by recordInfo ──> SUBMITTED
       └──> CANCELLED (free)            └── deadline ──> UNRESOLVED: resolve | resubmit | abandon -> ABANDONED
"""

from __future__ import annotations

import attrs

from kie_async.states import JobState

__all__ = ["BINDABLE", "ENDED", "IN_FLIGHT", "MOVES", "OPEN", "UNSENT", "Intent", "Source", "may_move"]


_S = JobState

#: From each state, the states that may follow. A move that is not here is a bug of ours, and the journal refuses it.
MOVES: dict[JobState, frozenset[JobState]] = {
    # Submitted: a suspect attempt, answered by an unclear 500, turns out to have been accepted.
    _S.INTENT: frozenset({_S.SENDING, _S.CANCELLED, _S.REJECTED, _S.SUBMITTED}),
    _S.SENDING: frozenset({_S.INTENT, _S.SUBMITTED, _S.REJECTED, _S.IN_DOUBT}),
    # Succeeded and failed may follow at once: a stalled job, or one whose row could not be written in between.
    _S.SUBMITTED: frozenset({_S.SUCCEEDED, _S.FAILED, _S.STALLED}),
    _S.STALLED: frozenset({_S.SUCCEEDED, _S.FAILED}),
    _S.IN_DOUBT: frozenset({_S.SUBMITTED, _S.UNRESOLVED, _S.INTENT, _S.ABANDONED}),
    _S.UNRESOLVED: frozenset({_S.SUBMITTED, _S.INTENT, _S.ABANDONED}),
    # The same key again sends these anew; a late, authentic callback proves that a suspect attempt was accepted.
    _S.REJECTED: frozenset({_S.INTENT, _S.SUBMITTED}),
    _S.CANCELLED: frozenset({_S.INTENT}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.ABANDONED: frozenset(),
}

#: Nothing has been sent, or what was sent is known not to have been accepted.
UNSENT = frozenset({_S.INTENT})
#: The service may be working on it: it holds a slot.
IN_FLIGHT = frozenset({_S.SENDING, _S.SUBMITTED, _S.IN_DOUBT})
#: Something may still happen by itself.
OPEN = frozenset({_S.INTENT, _S.SENDING, _S.SUBMITTED, _S.IN_DOUBT, _S.STALLED})
#: The service has said its last word, or nobody waits for one.
ENDED = frozenset({_S.SUCCEEDED, _S.FAILED, _S.REJECTED, _S.CANCELLED, _S.ABANDONED})
#: A task may be bound to the intent by proof (a callback of ours that ``recordInfo`` echoes, or the caller's
#: ``resolve``).
BINDABLE = frozenset({_S.INTENT, _S.SENDING, _S.IN_DOUBT, _S.UNRESOLVED, _S.REJECTED})


def may_move(old: JobState, new: JobState) -> bool:
    """
    Whether *new* may follow *old*.

    >>> may_move(JobState.INTENT, JobState.SENDING)
    True
    >>> may_move(JobState.SUCCEEDED, JobState.INTENT)
    False
    """
    return new in MOVES[old]


@attrs.frozen(kw_only=True)
class Source:
    """
    A local image of an intent: what it was, and where it was uploaded to.

    Attributes:
        field: The service's name of the field that holds its URL.

        sha256: The hash of its bytes, in hex.

        origin: Where the bytes came from (a path), or None where they were given as bytes.

        url: Where it was uploaded to.

        uploaded_at: When, in seconds since the epoch; the service keeps uploads for three days.
    """

    field: str
    sha256: str
    origin: str | None
    url: str
    uploaded_at: float


@attrs.frozen(kw_only=True)
class Intent:
    """
    One row of the journal.

    All instants are in seconds since the epoch, so that they mean the same after a restart.

    Attributes:
        id: Our own id, ``kj_`` and 32 hex digits.

        model: The model's name.

        input: The create's ``input`` as JSON text, with URLs in place of local images; empty where only hashes are
            kept.

        fingerprint: The identity of model, input and image content.

        sources: The local images.

        created_at: When the intent was written.

        updated_at: When its state last changed.

        key: The caller's idempotency key, or None.

        callback_url: The base of the callback URL that its creates carry, or None.

        state: See ``JobState``.

        attempts: How many times SENDING was entered: the number of the latest attempt.

        ambiguous_attempts: How many attempts were answered by an unclear 500 and may have been paid.

        sending_at: When the latest attempt was about to be written to the wire, or None.

        task_id: The service's id, once it is known.

        accepted_at: When the id became known.

        record: The last record, as the wire floor dumps it, or None.

        credits: What the task has cost, as far as known.

        error: Why the intent was rejected or withdrawn, for people, or None.

        duplicate_task_ids: Further tasks that turned out to belong to this intent.

        callback_task_ids: Tasks that genuine callbacks have named while none was known, and that are not proved yet.

        owner: The name of the process that works on it, where several share a journal.
    """

    id: str
    model: str
    input: str = attrs.field(repr=False)
    fingerprint: str
    created_at: float
    updated_at: float
    sources: tuple[Source, ...] = ()
    key: str | None = None
    callback_url: str | None = None
    state: JobState = JobState.INTENT
    attempts: int = 0
    ambiguous_attempts: int = 0
    sending_at: float | None = None
    task_id: str | None = None
    accepted_at: float | None = None
    record: str | None = attrs.field(default=None, repr=False)
    credits: float | None = None
    error: str | None = None
    duplicate_task_ids: tuple[str, ...] = ()
    callback_task_ids: tuple[str, ...] = ()
    owner: str | None = None
