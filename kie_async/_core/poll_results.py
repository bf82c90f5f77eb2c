"""The meaning of an answer to ``recordInfo``: a record, or the reason why there is none."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from kie_async._core.wire import read_record
from kie_async.records import TaskRecord, TaskState

if TYPE_CHECKING:
    from kie_async._core.wire import Envelope

__all__ = ["PollResult", "PollVerdict", "judge_poll"]


class PollVerdict(StrEnum):
    """The meaning of the answer to one poll."""

    RECORD = "record"  #: The task's record.
    NOT_VISIBLE = "not visible"  #: The service does not know the id, or does not know it yet.
    RATE_LIMITED = "rate limited"  #: Too many polls.
    DENIED = "denied"  #: The service does not accept the key.
    TIMED_OUT = "timed out"  #: The service has waited too long for the model; the task may still end.
    UNREADABLE = "unreadable"  #: Anything else: nothing is known of the task.


@attrs.frozen
class PollResult:
    """
    The result of one poll.

    Attributes:
        verdict: The meaning of the answer.

        record: The task's record, if the answer has one.

        reason: The reason why there is no record, for the log.
    """

    verdict: PollVerdict
    record: TaskRecord | None = None
    reason: str = attrs.field(default="", eq=False)


_NOT_FOUND = (404, 422)
#: Codes of a task that has failed and has no record: 531 is that of the music models.
_FAILED = (501, 531)
#: Codes of too many requests: 430 is that of the music models.
_TOO_MANY = (429, 430)


def judge_poll(*, task_id: str, status: int, envelope: Envelope | None, record: TaskRecord | None) -> PollResult:
    """
    Judge the answer to a poll of *task_id*.

    A record of the task counts, whatever the codes around it are. One without an id counts, too: it is the answer to a
    question about this task. One with another id does not. The service answers an unknown id with 422
    ``recordInfo is null`` (seen), 404 (documented) or code 200 with ``data: null`` (seen on neighboring endpoints); so
    it does for a task in its first moments. Code 501 is the end of a task that has failed, and code 408 says that the
    model takes too long: the task may still end. Only a code in the body speaks of the key; a bare HTTP 401 does not.
    """
    if record is None and envelope is not None:
        record = read_record(envelope, task_id)
    # An envelope with data that could not be read may be about another task.
    if envelope is not None and envelope.code in _FAILED and not (envelope.data if record is None else record.state):
        record = _failure(task_id, envelope, record)
    if record is not None:
        if record.task_id == task_id:
            return PollResult(PollVerdict.RECORD, record)
        return PollResult(PollVerdict.UNREADABLE, reason=f"the record of another task, {record.task_id}")
    inner = None if envelope is None else envelope.code
    # A proxy's error page tells nothing about the task, whatever its status is.
    if inner in _NOT_FOUND or (inner == 200 and envelope is not None and envelope.data is None):  # noqa: PLR2004 (the service's own code)
        return PollResult(PollVerdict.NOT_VISIBLE, reason="the service does not know the task")
    if inner in _TOO_MANY or (inner is None and status == 429):  # noqa: PLR2004
        return PollResult(PollVerdict.RATE_LIMITED, reason="too many polls")
    if inner == 408:  # noqa: PLR2004
        return PollResult(PollVerdict.TIMED_OUT, reason="the service has timed out (code 408)")
    if inner == 401:  # noqa: PLR2004
        return PollResult(PollVerdict.DENIED, reason="the API key is not accepted")
    if envelope is None:
        return PollResult(PollVerdict.UNREADABLE, reason=f"HTTP {status} with a body that cannot be read without doubt")
    data = "no record" if envelope.data is None else "data without a state, or without an id of a task"
    return PollResult(PollVerdict.UNREADABLE, reason=f"code {inner} under HTTP {status} with {data}")


def _failure(task_id: str, envelope: Envelope, record: TaskRecord | None) -> TaskRecord:
    """Return the record of a task of which the service says only in the envelope that it has failed."""
    found = record or TaskRecord(task_id=task_id, state=TaskState.FAIL)
    return attrs.evolve(
        found,
        state=TaskState.FAIL,
        fail_code=found.fail_code or str(envelope.code),
        fail_message=found.fail_message or envelope.message or None,
    )
