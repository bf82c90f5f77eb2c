"""What an answer to ``recordInfo`` means: a record, or one of the reasons why there is none."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from kie_async.records import TaskRecord

if TYPE_CHECKING:
    from kie_async._core.wire import Envelope

__all__ = ["PollResult", "PollVerdict", "judge_poll"]


class PollVerdict(StrEnum):
    """What one look has shown."""

    RECORD = "record"  #: The task's record.
    NOT_VISIBLE = "not visible"  #: The service does not know the id, or does not know it yet.
    RATE_LIMITED = "rate limited"  #: Too many looks.
    DENIED = "denied"  #: The key is not accepted.
    UNREADABLE = "unreadable"  #: Anything else: it says nothing about the task.


@attrs.frozen
class PollResult:
    """
    One look.

    Attributes:
        verdict: What it has shown.

        record: The record, if it has shown one.
    """

    verdict: PollVerdict
    record: TaskRecord | None = None


_NOT_FOUND = (404, 422)


def judge_poll(*, task_id: str, status: int, envelope: Envelope | None, record: TaskRecord | None) -> PollResult:
    """
    Judge the answer to a look at *task_id*.

    A record counts whatever the codes around it say, as long as it is the record of the task that was asked for. An
    unknown id is answered by 422 ``recordInfo is null`` (seen), 404 (documented) or code 200 with ``data: null`` (seen
    on neighbouring endpoints); so is a task in its first moments.
    """
    if record is not None:
        return (
            PollResult(PollVerdict.RECORD, record) if record.task_id == task_id else PollResult(PollVerdict.UNREADABLE)
        )
    told = None if envelope is None else envelope.code
    # A page of a proxy says nothing about the task, whatever its status is.
    if told in _NOT_FOUND or (told == 200 and envelope is not None and envelope.data is None):  # noqa: PLR2004 (the service's own code)
        return PollResult(PollVerdict.NOT_VISIBLE)
    code = status if told is None else told
    if code == 429:  # noqa: PLR2004
        return PollResult(PollVerdict.RATE_LIMITED)
    if code == 401:  # noqa: PLR2004
        return PollResult(PollVerdict.DENIED)
    return PollResult(PollVerdict.UNREADABLE)
