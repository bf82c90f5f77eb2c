"""
Whether a callback may be believed as far as a callback can be: the task it names, and the service's signature.

The service signs ``taskId.timestamp`` and not the body, so a good signature proves nothing about what the body says.
Of the body, only the id of the task is read; how the task has ended is asked of ``recordInfo``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Mapping

from kie_async._core.lenient_json import decode
from kie_async._core.wire import callback_ids
from kie_async.errors import CallbackRejectedError

__all__ = ["MAX_AGE", "MAX_BODY", "MAX_SECONDS", "SIGNATURE_HEADERS", "check_signature", "read_task_id"]

#: The largest body that is taken, in bytes. A callback echoes the request, so tens of kilobytes are usual.
MAX_BODY = 256 * 1024
#: For how long, in seconds, a body may come in. The service gives up after 15 s.
MAX_SECONDS = 10.0
#: How far the time of a signature may be from ours either way, in seconds. The service names no bound; others use this.
MAX_AGE = 300.0

SIGNATURE = "x-webhook-signature"
TIMESTAMP = "x-webhook-timestamp"
#: All that is read of a callback's headers, in lower case.
SIGNATURE_HEADERS = frozenset({SIGNATURE, TIMESTAMP})
_BOM = "\ufeff".encode()
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)
_TOO_LARGE = 413
_UNREADABLE = 400
_UNSIGNED = 401


def read_task_id(body: bytes) -> str:
    """
    The id of the task that a callback is about: ``data.taskId``, ``data.task_id`` or ``taskId``.

    Args:
        body: The callback's body.

    Raises:
        CallbackRejectedError: If it is too large, is no JSON object in UTF-8, or does not name exactly one task.

    >>> read_task_id(b'{"code": 200, "data": {"taskId": "1a2b", "state": "success"}}')
    '1a2b'
    """
    if len(body) > MAX_BODY:
        msg = f"the body is larger than {MAX_BODY} bytes"
        raise CallbackRejectedError(msg, status=_TOO_LARGE)
    try:
        document = decode(body.removeprefix(_BOM).decode())
    except ValueError as error:
        msg = "the body is no JSON in UTF-8"
        raise CallbackRejectedError(msg, status=_UNREADABLE) from error
    ids = callback_ids(document)
    if len(ids) != 1:
        msg = "the body names no task" if not ids else "the body names two tasks"
        raise CallbackRejectedError(msg, status=_UNREADABLE)
    return ids.pop()


def check_signature(keys: Collection[str], task_id: str, headers: Mapping[str, str], *, wall: float) -> None:
    """
    Refuse a callback whose signature was not made with one of *keys*, or not just now.

    The signature is Base64 of HMAC-SHA256 under the account's ``webhookHmacKey``, in the standard alphabet and with
    padding. It is compared as it stands, in constant time: a digest in hex, in the alphabet for URLs or without padding
    is refused.

    Args:
        keys: The account's keys: the present one, and while it is being changed the one before.

        task_id: The task that the body names.

        headers: The request's headers, or ``SIGNATURE_HEADERS`` of them, with names in lower case.

        wall: Now, in seconds since the epoch.

    Raises:
        CallbackRejectedError: If a header is missing or cannot be read, the time is too far from ours, or no key fits.

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
        msg = "the time of the signature is no whole number of seconds"
        raise CallbackRejectedError(msg, status=_UNSIGNED)
    age = wall - int(stamp)
    if abs(age) > MAX_AGE:
        msg = f"the signature is {age:.0f} s old by this machine's clock, and {MAX_AGE:.0f} s are allowed either way"
        raise CallbackRejectedError(msg, status=_UNSIGNED)
    given = signature.encode("utf-8", "replace")  # a header may hold anything; comparing texts would raise
    # All keys are tried, so that the time it takes tells nothing about which one fits.
    fits = [hmac.compare_digest(_signature(key, task_id, stamp), given) for key in keys]
    if not any(fits):
        msg = "the signature was not made with webhook_key"
        raise CallbackRejectedError(msg, status=_UNSIGNED)


def _signature(key: str, task_id: str, stamp: str) -> bytes:
    return base64.b64encode(hmac.digest(key.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256))
