"""
What a genuine callback asks for: whose it is was decided by its token, how the task has ended is decided elsewhere.

A callback may come early (before the create was answered), twice, late, after the end, or for a task that turns out to
be a second one of the same intent. All of that is in the row of the intent, and in the table below.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from kie_async._core.callback_token import find_token
from kie_async._core.wire import read_param

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent
    from kie_async.records import TaskRecord

__all__ = ["MAX_CALLBACK_TASK_IDS", "Step", "again_after", "echoes", "step_of"]

#: How many unproved ids are kept of one intent: a genuine token that has leaked could be posted with any number.
MAX_CALLBACK_TASK_IDS = 4
#: After a look that did not settle the matter, the next one comes 1, 2, 4 ... seconds later, up to this.
_LONGEST_PAUSE = 60.0
#: Looks that a callback causes at most, where its task is polled anyway.
_LOOKS = 6
#: And where it is not: an hour. What is not proved by then stays in the journal, for ``recover()``.
_MOST_LOOKS = 64


class Step(StrEnum):
    """What is to be done about a genuine callback."""

    NOTHING = "nothing"  #: The task is known, and how it ended.
    CONFIRM = "confirm"  #: The task is the intent's own: look whether it has ended.
    PROVE = "prove"  #: The intent is not known to have this task: look, and bind it only if it echoes our token.


def step_of(row: Intent, task_id: str) -> Step:
    """
    What a callback for *row* that names *task_id* asks for.

    ==============================  ==================  ===========
    the row                         the task            step
    ==============================  ==================  ===========
    has a record of its end         is the row's        nothing
    any                             a known duplicate   nothing
    has a task, no end              is the row's        confirm
    any                             another, or none    prove
    ==============================  ==================  ===========
    """
    if task_id in row.duplicate_task_ids:
        return Step.NOTHING
    if row.task_id != task_id:
        return Step.PROVE
    return Step.CONFIRM if row.record is None else Step.NOTHING


def echoes(record: TaskRecord, job_id: str, secret: bytes) -> bool:
    """
    Whether a task was created by an intent: its record echoes a callback URL with our token for it.

    Args:
        record: What ``recordInfo`` says, over a connection that nobody else can speak on.

        job_id: The intent.

        secret: What our tokens are made with.
    """
    param = read_param(record)
    if param is None or param.callback_url is None:
        return False
    token = find_token(secret, param.callback_url)
    return token is not None and token.job_id == job_id


def again_after(polls: int, *, proved: bool) -> float | None:
    """
    How long after its *polls*-th poll, in seconds, a callback is looked into once more; None if it is left at that.

    A callback may come before ``recordInfo`` says the same. A task that is polled anyway is soon left to that; for one
    that nobody else would look at, the callback is the only way home.

    Args:
        polls: How many looks it has caused.

        proved: Whether the task is known to be the intent's, and polled.

    >>> [again_after(looks, proved=True) for looks in (1, 2, 3, 6)]
    [1.0, 2.0, 4.0, None]
    >>> again_after(63, proved=False), again_after(64, proved=False)
    (60.0, None)
    """
    if polls >= (_LOOKS if proved else _MOST_LOOKS):
        return None
    return min(2.0 ** min(polls - 1, 10), _LONGEST_PAUSE)
