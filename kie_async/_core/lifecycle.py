"""
The journal's row of a job: its fields, the legal transitions of its state, and its records as JSON.

``TRANSITIONS`` is the only table of legal transitions; nothing else decides.

::

                     ┌── not sent, 429, 455, ambiguous 500 (bounded) ──────┐
    INTENT ── slot, token ──> SENDING(n) ──> SUBMITTED(taskId) ──> SUCCEEDED | FAILED | STALLED (may still end)
       │                          ├──> REJECTED
       │                          └──> IN_DOUBT ── callback with our token, echoed by recordInfo ──> SUBMITTED
       └──> CANCELLED (free)            └── deadline ──> UNRESOLVED: resolve | resubmit | abandon -> ABANDONED
"""

from __future__ import annotations

import json

import attrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.json import make_converter

from kie_async.errors import JournalError
from kie_async.records import JSON, TaskRecord
from kie_async.states import JobState

__all__ = [
    "BINDABLE",
    "ENDED",
    "OPEN",
    "TRANSITIONS",
    "UNFINISHED",
    "Intent",
    "SourceFile",
    "can_follow",
    "dump_record",
    "encode_for_journal",
    "has_yielded",
    "load_record",
]

_S = JobState

#: The states that may follow each state. The journal refuses any other transition: it would be a bug.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # To SUBMITTED: an ambiguous attempt turns out to have been accepted.
    # To INTENT: its owner gives it up, and any process may send it.
    _S.INTENT: frozenset({_S.SENDING, _S.CANCELLED, _S.REJECTED, _S.SUBMITTED, _S.INTENT}),
    _S.SENDING: frozenset({_S.INTENT, _S.SUBMITTED, _S.REJECTED, _S.IN_DOUBT}),
    # A stalled job may still end, also one whose stall could not be journaled.
    _S.SUBMITTED: frozenset({_S.SUCCEEDED, _S.FAILED, _S.STALLED}),
    _S.STALLED: frozenset({_S.SUCCEEDED, _S.FAILED}),
    _S.IN_DOUBT: frozenset({_S.SUBMITTED, _S.UNRESOLVED, _S.INTENT, _S.ABANDONED}),
    _S.UNRESOLVED: frozenset({_S.SUBMITTED, _S.INTENT, _S.ABANDONED}),
    # The same key again sends these anew; a late, authentic callback proves that an ambiguous attempt was accepted.
    _S.REJECTED: frozenset({_S.INTENT, _S.SUBMITTED}),
    _S.CANCELLED: frozenset({_S.INTENT}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.ABANDONED: frozenset(),
}

#: The states that may change without a decision of the caller.
OPEN = frozenset({_S.INTENT, _S.SENDING, _S.SUBMITTED, _S.IN_DOUBT, _S.STALLED})
#: The states of a job that has ended.
ENDED = frozenset({_S.SUCCEEDED, _S.FAILED, _S.REJECTED, _S.CANCELLED, _S.ABANDONED})
#: The states of a job that has not ended: the open ones, and UNRESOLVED, which waits for a decision of the caller.
UNFINISHED = frozenset(JobState) - ENDED
#: The states in which proof may bind a task to the intent: a callback of ours that ``recordInfo`` echoes, or the
#: caller's ``resolve``.
BINDABLE = frozenset({_S.INTENT, _S.SENDING, _S.IN_DOUBT, _S.UNRESOLVED, _S.REJECTED})


def has_yielded(row: Intent) -> bool:
    """Return True if a shared run has yielded the outcome that a row has now."""
    return row.yielded == row.state


def can_follow(old: JobState, new: JobState) -> bool:
    """
    Return True if a job may change from *old* to *new*.

    >>> can_follow(JobState.INTENT, JobState.SENDING)
    True
    >>> can_follow(JobState.SUCCEEDED, JobState.INTENT)
    False
    """
    return new in TRANSITIONS[old]


@attrs.frozen(kw_only=True)
class SourceFile:
    """
    A local image of an intent, and the URL of its upload.

    Attributes:
        field: The service's name of the field that holds the URL.

        sha256: The hash of the image's bytes, in hexadecimal.

        origin: The path of the image, or None for an image given as bytes.

        url: The URL of the upload.

        usable_until: The instant from which the upload is not used in a create any more, in seconds since the epoch.
    """

    field: str
    sha256: str
    origin: str | None
    url: str
    usable_until: float


@attrs.frozen(kw_only=True)
class Intent:
    """
    One row of the journal.

    All instants are in seconds since the epoch, so that they mean the same after a restart.

    Attributes:
        id: The job's own id, ``kj_`` and 32 hexadecimal digits.

        model: The model's name.

        budget: The name of the budget that pays for the job, or None.

        price: The price of each of its creates in that budget; None if it is unknown.

        input: The create's ``input`` as JSON, with URLs in place of local images; empty if the journal keeps only
            hashes.

        fingerprint: The hash of model, input and image contents.

        price_class: The hash of all that its price may depend on; see ``price_class``.

        sources: The local images.

        created_at: The time at which the row was written.

        updated_at: The time of the last change of state.

        key: The caller's idempotency key, or None.

        callback_url: The base of the callback URL that the job's creates carry, or None.

        state: The state of the job.

        attempts: The number of the latest attempt: SENDING was entered that often.

        ambiguous_attempts: The number of attempts that were answered by an ambiguous 500 and may have been paid.

        sending_at: The time just before the latest attempt was written to the wire, or None.

        task_id: The service's id, or None while it is not known.

        accepted_at: The time at which the id became known, or None.

        record: The last record, written by ``dump_record``, or None.

        credits: The task's cost as far as known, or None.

        error: The reason for a rejection or cancellation, written by ``dump_error``, or None.

        duplicate_task_ids: Further tasks that turned out to belong to this intent.

        callback_task_ids: Tasks that authentic callbacks, or odd answers to its creates, have named while no task was
            known, and that are not proved yet.

        saved: For each result, the file that ``map()`` has saved of it, written by ``SavedFile.note``.

        owner: The name of the process that works on the job; None for a job that is free for any process.

        holder: The worker whose shared run of ``map()`` yields the row's outcome, or has yielded it; None if there is
            none.

        yielded: The state whose outcome a shared run has yielded; None if none has.

        origin: The service that the job is for; see ``service_origin``.

        account: The fingerprint of the API key that the job was journaled with, or was adopted with.

        number: The row's place in the journal, which the journal sets: later rows have larger numbers.

        version: The number of times that the row has changed: of two readings of a row, the higher is the later one.
    """

    id: str
    model: str
    input: str = attrs.field(repr=False)
    fingerprint: str
    price_class: str = ""
    budget: str | None = None
    price: float | None = None
    created_at: float
    updated_at: float
    sources: tuple[SourceFile, ...] = ()
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
    saved: tuple[str, ...] = ()
    owner: str | None = None
    holder: str | None = None
    yielded: str | None = None
    origin: str = ""
    account: str = ""
    number: int = attrs.field(default=0, eq=False)
    version: int = 0


# -- JSON in the journal ----------------------------------------------------------------------------------------------

#: Writes JSON in ASCII, because the service's texts may hold half a surrogate pair, which a file cannot. The encoder is
#: made once: ``json.dumps`` would make one for each call.
encode_for_journal = json.JSONEncoder(separators=(",", ":")).encode


def _unchanged(value: JSON, _: object = None) -> JSON:
    return value


_json = make_converter(detailed_validation=False)
_verbatim = override(struct_hook=_unchanged, unstruct_hook=_unchanged)
_json.register_structure_hook(TaskRecord, make_dict_structure_fn(TaskRecord, _json, result=_verbatim, raw=_verbatim))
_json.register_unstructure_hook(
    TaskRecord, make_dict_unstructure_fn(TaskRecord, _json, result=_verbatim, raw=_verbatim)
)


def dump_record(record: TaskRecord) -> str:
    """
    Write a task's record for the journal, with our own field names.

    Returns:
        JSON in ASCII, from which ``load_record`` makes an equal record.
    """
    return encode_for_journal(_json.unstructure(record))


def load_record(dumped: str) -> TaskRecord:
    """
    Read a task's record from the journal.

    Raises:
        JournalError: If ``dump_record`` did not write it.
    """
    try:
        return _json.structure(json.loads(dumped), TaskRecord)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        msg = f"A record in the journal cannot be read: {error!r}. Restore the journal from a copy."
        raise JournalError(msg) from error
