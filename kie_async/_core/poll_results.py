"""The meaning of an answer to ``recordInfo``: a record, or the reason why there is none."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from kie_async._core.wire import read_record
from kie_async.records import TaskRecord

if TYPE_CHECKING:
    from kie_async._core.wire import Envelope

__all__ = ["PollResult", "PollVerdict", "judge_poll"]


class PollVerdict(StrEnum):
    """The meaning of the answer to one poll."""

    RECORD = "record"  #: The task's record.
    NOT_VISIBLE = "not visible"  #: The service does not know the id, or does not know it yet.
    RATE_LIMITED = "rate limited"  #: Too many polls.
    DENIED = "denied"  #: The key is not accepted.
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


def judge_poll(*, task_id: str, status: int, envelope: Envelope | None, record: TaskRecord | None) -> PollResult:
    """
    Judge the answer to a poll of *task_id*.

    A record of the task counts, whatever the codes around it are. One without an id counts, too: it is the answer to a
    question about this task. One with another id does not. The service answers an unknown id with 422
    ``recordInfo is null`` (seen), 404 (documented) or code 200 with ``data: null`` (seen on neighboring endpoints); so
    it does for a task in its first moments.
    """
    if record is None and envelope is not None:
        record = read_record(envelope, task_id)
    if record is not None:
        if record.task_id == task_id:
            return PollResult(PollVerdict.RECORD, record)
        return PollResult(PollVerdict.UNREADABLE, reason=f"the record of another task, {record.task_id}")
    inner = None if envelope is None else envelope.code
    # A proxy's error page tells nothing about the task, whatever its status is.
    if inner in _NOT_FOUND or (inner == 200 and envelope is not None and envelope.data is None):  # noqa: PLR2004 (the service's own code)
        return PollResult(PollVerdict.NOT_VISIBLE, reason="the service does not know the task")
    code = status if inner is None else inner
    if code == 429:  # noqa: PLR2004
        return PollResult(PollVerdict.RATE_LIMITED, reason="too many polls")
    if code == 401:  # noqa: PLR2004
        return PollResult(PollVerdict.DENIED, reason="the API key is not accepted")
    if envelope is None:
        return PollResult(PollVerdict.UNREADABLE, reason=f"HTTP {status} with a body that cannot be read without doubt")
    data = "no record" if envelope.data is None else "data without a state, or without an id of a task"
    return PollResult(PollVerdict.UNREADABLE, reason=f"code {inner} under HTTP {status} with {data}")
