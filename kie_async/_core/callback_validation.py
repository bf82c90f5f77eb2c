"""
Callback checks: the task that a callback names, the service's signature, and the next step.

The service signs ``taskId.timestamp`` and not the body, so a valid signature proves nothing about the body. Only the
task id is read from it; ``recordInfo`` is asked how the task has ended. Our own token in the callback URL is in
``callback_token.py``. See docs/explanation/callbacks.md.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from kie_async._core.callback_token import find_token
from kie_async._core.wire import read_callback_ids, read_param
from kie_async.errors import CallbackRejectedError

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent
    from kie_async.records import TaskRecord

__all__ = [
    "MAX_BODY",
    "MAX_BODY_SECONDS",
    "MAX_CALLBACK_TASK_IDS",
    "MAX_SIGNATURE_AGE",
    "SIGNATURE_HEADERS",
    "CallbackStep",
    "check_signature",
    "confirmation_delay",
    "echoes_token",
    "next_step",
    "read_task_id",
]

#: The largest body that is accepted, in bytes. A callback echoes the request, so tens of kilobytes are usual.
MAX_BODY = 256 * 1024
#: The time within which a body must arrive, in seconds. The service gives up after 15 s.
MAX_BODY_SECONDS = 10.0
#: The largest difference between a signature's timestamp and our clock, in seconds. The service documents none; other
#: services use this one.
MAX_SIGNATURE_AGE = 300.0
#: The number of unconfirmed task ids that are kept for one job: a leaked token could be posted with any number of ids.
MAX_CALLBACK_TASK_IDS = 4

#: The longest delay between two confirmations, which grows as 1, 2, 4 ... seconds.
_MAX_DELAY = 60.0
#: The most confirmations after a callback, if its task is polled anyway.
_MAX_POLLS = 6
#: The most if it is not: within an hour. Ids that are not confirmed by then stay in the journal, for ``recover()``.
_MAX_POLLS_UNCONFIRMED = 64

SIGNATURE = "x-webhook-signature"
TIMESTAMP = "x-webhook-timestamp"
#: The headers that are read, in lower case.
SIGNATURE_HEADERS = frozenset({SIGNATURE, TIMESTAMP})
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)
_TOO_LARGE = 413
_UNREADABLE = 400
_UNSIGNED = 401


def read_task_id(body: bytes) -> str:
    """
    Return the id of the task that a callback names: ``data.taskId``, ``data.task_id`` or ``taskId``.

    Args:
        body: The callback's body.

    Raises:
        CallbackRejectedError: If the body is too large, is not JSON in UTF-8, or does not name exactly one task.

    >>> read_task_id(b'{"code": 200, "data": {"taskId": "1a2b", "state": "success"}}')
    '1a2b'
    """
    if len(body) > MAX_BODY:
        msg = f"the body is larger than {MAX_BODY} bytes"
        raise CallbackRejectedError(msg, status=_TOO_LARGE)
    try:
        ids = read_callback_ids(body)
    except ValueError as error:
        msg = "the body is not JSON in UTF-8"
        raise CallbackRejectedError(msg, status=_UNREADABLE) from error
    if len(ids) != 1:
        msg = "the body names no task" if not ids else "the body names two tasks"
        raise CallbackRejectedError(msg, status=_UNREADABLE)
    return ids.pop()


def check_signature(keys: Collection[str], task_id: str, headers: Mapping[str, str], *, wall: float) -> None:
    """
    Verify the service's signature: it was made with one of *keys*, and within the last five minutes.

    The signature is Base64 of HMAC-SHA256 under the account's ``webhookHmacKey``, in the standard alphabet and with
    padding. It is compared as text, in constant time: hexadecimal digits, the URL-safe alphabet and missing padding are
    refused.

    Args:
        keys: The account's keys: the current one, and the previous one during a rotation.

        task_id: The task that the body names.

        headers: The request's headers, or ``SIGNATURE_HEADERS`` of them, with names in lower case.

        wall: The current time, in seconds since the epoch.

    Raises:
        CallbackRejectedError: If a header is missing or invalid, the timestamp is too far from *wall*, or no key
            matches.

    >>> signed = {
    ...     "x-webhook-timestamp": "1767225600",
    ...     "x-webhook-signature": "kEgM6OvYQJhzZEV8VWRyDo4wCQ5qxLYFMQ5WWAkH5bo=",
    ... }
    >>> check_signature(["secret"], "abc", signed, wall=1767225600.0)
    >>> check_signature(["another"], "abc", signed, wall=1767225600.0)
    Traceback (most recent call last):
        ...
    kie_async.errors.CallbackRejectedError: the signature was not made with webhook_key
    """
    stamp, signature = headers.get(TIMESTAMP), headers.get(SIGNATURE)
    if stamp is None or signature is None:
        msg = "it is not signed, and webhook_key is set"
        raise CallbackRejectedError(msg, status=_UNSIGNED)
    if not _SECONDS.fullmatch(stamp):
        msg = "the timestamp of the signature is not a whole number of seconds"
        raise CallbackRejectedError(msg, status=_UNSIGNED)
    age = wall - int(stamp)
    if abs(age) > MAX_SIGNATURE_AGE:
        limit = f"{MAX_SIGNATURE_AGE:.0f} s are allowed either way"
        msg = f"the signature is {age:.0f} s old by this machine's clock, and {limit}"
        raise CallbackRejectedError(msg, status=_UNSIGNED)
    given = signature.encode("utf-8", "replace")  # a header may hold any text; comparing strings would raise
    # Try all keys, so that the time it takes does not tell which one matches.
    matches = [hmac.compare_digest(_signature(key, task_id, stamp), given) for key in keys]
    if not any(matches):
        msg = "the signature was not made with webhook_key"
        raise CallbackRejectedError(msg, status=_UNSIGNED)


def _signature(key: str, task_id: str, stamp: str) -> bytes:
    return base64.b64encode(hmac.digest(key.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256))


class CallbackStep(StrEnum):
    """The next step after a genuine callback."""

    NOTHING = "nothing"  #: The task is known, and so is its end.
    CONFIRM = "confirm"  #: The task is the job's own: poll it for its end.
    PROVE = "prove"  #: The task is not known to be the job's: poll it, and bind it only if it echoes our token.


def next_step(row: Intent, task_id: str) -> CallbackStep:
    """
    Return the next step after a callback for *row* that names *task_id*.

    ==============================  ==================  ===========
    the row                         the task            step
    ==============================  ==================  ===========
    has a terminal record           is the row's        nothing
    any                             a known duplicate   nothing
    has a task, no terminal record  is the row's        confirm
    any                             another, or none    prove
    ==============================  ==================  ===========
    """
    if task_id in row.duplicate_task_ids:
        return CallbackStep.NOTHING
    if row.task_id != task_id:
        return CallbackStep.PROVE
    return CallbackStep.CONFIRM if row.record is None else CallbackStep.NOTHING


def echoes_token(record: TaskRecord, job_id: str, secret: bytes, *older: bytes) -> bool:
    """
    Return True if a task was created by a job: its record echoes a callback URL with our token for that job.

    Args:
        record: The answer of ``recordInfo``, from a connection that only the service can answer on.

        job_id: The job.

        secret: The secret of our tokens.

        *older: The secrets of other API keys.
    """
    param = read_param(record)
    if param is None or param.callback_url is None:
        return False
    token = find_token(secret, param.callback_url, *older)
    return token is not None and token.job_id == job_id


def confirmation_delay(polls: int, *, proved: bool) -> float | None:
    """
    Return the delay before the next confirmation of a callback, in seconds; None if there is no further one.

    A callback may arrive before ``recordInfo`` agrees. A task that is polled anyway is soon left to that; for one that
    is not, the callback is the only evidence.

    Args:
        polls: The number of confirmations so far.

        proved: True if the task is known to be the job's, and polled.

    >>> [confirmation_delay(polls, proved=True) for polls in (1, 2, 3, 6)]
    [1.0, 2.0, 4.0, None]
    >>> confirmation_delay(63, proved=False), confirmation_delay(64, proved=False)
    (60.0, None)
    """
    if polls >= (_MAX_POLLS if proved else _MAX_POLLS_UNCONFIRMED):
        return None
    return min(2.0 ** min(polls - 1, 10), _MAX_DELAY)
