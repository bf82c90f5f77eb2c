"""The meaning of an answer to ``recordInfo``: a record, or the reason why there is none."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

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
    """

    verdict: PollVerdict
    record: TaskRecord | None = None


_NOT_FOUND = (404, 422)


def judge_poll(*, task_id: str, status: int, envelope: Envelope | None, record: TaskRecord | None) -> PollResult:
    """
    Judge the answer to a poll of *task_id*.

    A record of the task counts, whatever the codes around it are. The service answers an unknown id with 422
    ``recordInfo is null`` (seen), 404 (documented) or code 200 with ``data: null`` (seen on neighboring endpoints); so
    it does for a task in its first moments.
    """
    if record is not None:
        own = record.task_id == task_id
        return PollResult(PollVerdict.RECORD, record) if own else PollResult(PollVerdict.UNREADABLE)
    inner = None if envelope is None else envelope.code
    # A proxy's error page tells nothing about the task, whatever its status is.
    if inner in _NOT_FOUND or (inner == 200 and envelope is not None and envelope.data is None):  # noqa: PLR2004 (the service's own code)
        return PollResult(PollVerdict.NOT_VISIBLE)
    code = status if inner is None else inner
    if code == 429:  # noqa: PLR2004
        return PollResult(PollVerdict.RATE_LIMITED)
    if code == 401:  # noqa: PLR2004
        return PollResult(PollVerdict.DENIED)
    return PollResult(PollVerdict.UNREADABLE)
