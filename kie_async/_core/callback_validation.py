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
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING

import attrs

from kie_async._core.callback_token import base_of, find_token
from kie_async._core.lenient_json import decode
from kie_async._core.lifecycle import Intent, encode_for_journal
from kie_async._core.wire import Param, read_param
from kie_async._keys import fingerprint, price_class
from kie_async.errors import CallbackRejectedError
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async.records import JSON, TaskRecord

__all__ = [
    "MAX_BODY",
    "MAX_BODY_SECONDS",
    "MAX_SIGNATURE_AGE",
    "SIGNATURE_HEADERS",
    "CallbackStep",
    "Signature",
    "echoes_input",
    "echoes_token",
    "lost_row",
    "named_ids",
    "named_tasks",
    "next_step",
    "read_signature",
    "shows_request",
]

#: The largest body that is accepted, in bytes. A callback echoes the request, so tens of kilobytes are usual.
MAX_BODY = 256 * 1024
#: The time within which a body must arrive, in seconds. The service gives up after 15 s.
MAX_BODY_SECONDS = 10.0
#: The largest difference between a signature's timestamp and our clock, in seconds. The service documents none; other
#: services use this one.
MAX_SIGNATURE_AGE = 300.0
SIGNATURE = "x-webhook-signature"
TIMESTAMP = "x-webhook-timestamp"
#: The headers that are read, in lower case.
SIGNATURE_HEADERS = frozenset({SIGNATURE, TIMESTAMP})
#: A member that names a task. Nothing is matched twice, so the time is linear in the length of the body.
_NAMED = re.compile(rb'"task(?:Id|_id)"\s*+:\s*+(?:"([A-Za-z0-9_.:-]{1,256}+)"|([0-9]{1,256}+)(?![0-9.eE]))')
#: The number of such members that are read.
_MAX_NAMES = 64
#: The number of ids that are taken from one body.
_MAX_IDS = 4
#: A body with more brackets or commas than this is not decoded: that would take more than a millisecond.
_MAX_MARKS = 2_000
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)
_UNREADABLE = 400
_UNSIGNED = 401


def named_ids(body: bytes) -> Iterator[str]:
    r"""
    Yield the ids that a callback's body has in members ``taskId`` and ``task_id``, each once, and at most four.

    The body is searched, not decoded: decoding 256 KiB of brackets would block the loop for 50 ms and more, and the
    search takes a millisecond. So it may also be broken. Strings that contain JSON have no such member, since quotes
    are escaped in them; where the service forgets that, the ids of the request's input are found, too.

    Args:
        body: The callback's body, of at most ``MAX_BODY`` bytes.

    >>> list(named_ids(b'{"code": 200, "data": {"taskId": "1a2b", "param": "{\\"taskId\\":\\"3c\\"}"}}'))
    ['1a2b']
    """
    found: set[bytes] = set()
    for match in islice(_NAMED.finditer(body), _MAX_NAMES):
        name = match[1] or match[2]
        if name not in found:
            found.add(name)
            yield name.decode()
        if len(found) == _MAX_IDS:
            return


@attrs.frozen
class Signature:
    """
    A recent signature of the service; the task that it covers is not known yet.

    Attributes:
        keys: Returns the account's keys: the current one, and the previous one during a rotation.

        stamp: Its timestamp.

        given: The signature.
    """

    keys: Callable[[], Collection[str]]
    stamp: str
    given: bytes = attrs.field(repr=False)

    def covers(self, task_id: str) -> bool:
        """
        Return True if it was made with one of the keys for a task.

        The signature is Base64 of HMAC-SHA256 under the account's ``webhookHmacKey``, in the standard alphabet and with
        padding. It is compared as text, in constant time: hexadecimal digits, the URL-safe alphabet and missing padding
        are refused.
        """
        signed = f"{task_id}.{self.stamp}".encode()
        # Try all keys, so that the time it takes does not tell which one matches.
        digests = [base64.b64encode(hmac.digest(key.encode(), signed, hashlib.sha256)) for key in self.keys()]
        return any(hmac.compare_digest(digest, self.given) for digest in digests)


def read_signature(keys: Callable[[], Collection[str]], headers: Mapping[str, str], *, wall: float) -> Signature:
    """
    Read the service's signature, if it was made within the last five minutes.

    Args:
        keys: Returns the account's keys.

        headers: The request's headers, or ``SIGNATURE_HEADERS`` of them, with names in lower case.

        wall: The current time, in seconds since the epoch.

    Raises:
        CallbackRejectedError: If a header is missing or invalid, or the timestamp is too far from *wall*.

    >>> signed = {
    ...     "x-webhook-timestamp": "1767225600",
    ...     "x-webhook-signature": "kEgM6OvYQJhzZEV8VWRyDo4wCQ5qxLYFMQ5WWAkH5bo=",
    ... }
    >>> read_signature(lambda: ["secret"], signed, wall=1767225600.0).covers("abc")
    True
    >>> read_signature(lambda: ["another"], signed, wall=1767225600.0).covers("abc")
    False
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
    # A header may hold any text; comparing strings would raise.
    return Signature(keys, stamp, signature.encode("utf-8", "replace"))


def named_tasks(row: Intent, body: bytes, signature: Signature | None) -> tuple[str, ...]:
    """
    Return the tasks that a genuine callback for *row* is about, at least one.

    A signed callback is about the one task that its signature covers; the body is read only if that is none of the
    row's tasks. An unsigned callback for a row with a task is about that task, whatever its body. If the body does not
    name it, but others, these may be further tasks of the job.

    Args:
        row: The job's row.

        body: The callback's body.

        signature: Its signature; None if callbacks are not signed.

    Raises:
        CallbackRejectedError: If the signature covers none of the tasks, or no task is known or named.
    """
    known = [task_id for task_id in (row.task_id, *row.duplicate_task_ids) if task_id is not None]
    if signature is not None:
        signed = next((task_id for task_id in chain(known, named_ids(body)) if signature.covers(task_id)), None)
        if signed is None:
            msg = "the signature was not made with webhook_key for a task of this callback"
            raise CallbackRejectedError(msg, status=_UNSIGNED)
        return (signed,)
    named = tuple(named_ids(body))
    own = next((task_id for task_id in named if task_id in known), None)
    if own is not None:
        return (own,)
    tasks = named if row.task_id is None else (row.task_id, *named)
    if not tasks:
        msg = "the body names no task"
        raise CallbackRejectedError(msg, status=_UNREADABLE)
    return tasks


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
    param = read_param(record) or Param()
    token = find_token(secret, param.callback_url or "", *older)
    return token is not None and token.job_id == job_id


def lost_row(record: TaskRecord, job_id: str, secrets: Sequence[bytes], *, now: float) -> Intent:
    """
    Return a row for a job that the journal has lost, with all that the record of its task shows.

    Args:
        record: The record, which echoes our token for the job; see ``echoes_token``.

        job_id: The job.

        secrets: The secrets of our tokens.

        now: The current time, in seconds since the epoch.
    """
    param = read_param(record) or Param()
    token = find_token(secrets[0], param.callback_url or "", *secrets[1:])
    model, given = param.model or record.model or "", dict(param.input or {})
    return Intent(
        id=job_id,
        model=model,
        input=encode_for_journal(given),
        fingerprint=fingerprint(model, given, {}),
        price_class=price_class(model, given),
        created_at=record.created_at or now,
        updated_at=now,
        callback_url=None if token is None else base_of(param.callback_url or ""),
        state=JobState.SUBMITTED,
        attempts=1 if token is None else token.attempt,
        sending_at=record.created_at,
        task_id=record.task_id,
        accepted_at=now,
    )


def shows_request(body: bytes, row: Intent) -> bool:
    """
    Return True if the body of a callback echoes the model and the input of a job.

    The service echoes the whole create, with its own defaults. That proves nothing, but an attacker who knows only the
    URL of the callback cannot do it.

    Args:
        body: The callback's body.

        row: The job's row. If the journal keeps only hashes of inputs, nothing shows its request.
    """
    if not row.input or any(body.count(mark) > _MAX_MARKS for mark in (b"[", b"{", b",")):
        return False
    try:
        document = decode(body.decode())
    except ValueError:
        return False
    data = document.get("data") if isinstance(document, Mapping) else None
    param = read_param(data.get("param")) if isinstance(data, Mapping) else None
    return param is not None and echoes_input(param, row)


def echoes_input(param: Param, row: Intent) -> bool:
    """Return True if an echo has a row's model and each member of its input."""
    given: dict[str, JSON] = json.loads(row.input)
    echoed = param.input
    return (
        param.model == row.model
        and echoed is not None
        and all(name in echoed and echoed[name] == value for name, value in given.items())
    )
