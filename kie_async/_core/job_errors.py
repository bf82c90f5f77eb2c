"""
Errors of jobs: from rows, records and polls to typed errors, and from errors to the journal's text and back.

The journal keeps an error as text, so that a job that was refused yesterday raises the same error today.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from kie_async import errors
from kie_async._core.lifecycle import encode_for_journal
from kie_async._core.poll_results import PollVerdict
from kie_async._core.verdicts import names_content_fault, names_lost_media, shortened
from kie_async.records import TaskRecord

__all__ = [
    "closed_error",
    "dump_error",
    "failed_task_error",
    "has_result",
    "load_error",
    "no_result_error",
    "not_admitted_error",
    "poll_error",
    "worth_retrying",
]

#: The errors that a create can end with; the journal gives them back with their class.
_JOURNALED_BASES = (
    errors.APIError,
    errors.BudgetExceededError,
    errors.ConfigurationError,
    errors.TransportError,
    errors.UploadError,
)
_JOURNALED: dict[str, type[errors.KieError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, _JOURNALED_BASES)
}
#: Members of a result that are not results: the list of its URLs, and the envelope of results of music.
_NO_RESULTS = frozenset({"resultUrls", "code", "msg", "message", "task_id", "taskId"})
#: The number of parts of a dumped error: its class, its message, its code, the service's message.
_PARTS = 4


#: The next step if the service could not fetch a file of the request.
_LOST_UPLOAD = (
    "The service no longer has an uploaded file: a new task of the same request uploads it again; a job with a key"
    " needs a new key."
)
_LOST_URL = "Replace the URLs of the request; the service keeps uploads for 24 hours, so upload the file again."


def worth_retrying(record: TaskRecord, *, uploaded: bool = False) -> bool:
    """
    Return True if a new task of the same request may succeed.

    Recorded failures with code 500 that cost nothing are temporary, except those that name a fault of the content. A
    file that the service could not fetch is uploaded again if it is ours.

    Args:
        record: A record that reports failure.

        uploaded: True if files of the request were uploaded by this package.

    >>> worth_retrying(TaskRecord(task_id="1", state="fail", fail_code="500", fail_message="the server is busy"))
    True
    >>> worth_retrying(TaskRecord(task_id="1", state="fail", fail_code="422", fail_message="task id is blank"))
    True
    >>> worth_retrying(TaskRecord(task_id="1", state="fail", fail_code="400"))
    False
    """
    message = record.fail_message or ""
    if names_lost_media(message):
        return uploaded and not record.credits
    if record.fail_code == "500":
        return not record.credits and not names_content_fault(message)
    return "task id is blank" in message


def failed_task_error(record: TaskRecord, *, job_id: str | None, uploaded: bool = False) -> errors.TaskFailedError:
    """Return the error for a record that reports failure; see ``worth_retrying`` for the arguments."""
    again = worth_retrying(record, uploaded=uploaded)
    advice = "A new task of the same request may succeed." if again else "Change the request before you retry."
    if names_lost_media(record.fail_message or ""):
        advice = _LOST_UPLOAD if uploaded else _LOST_URL
    reason = shortened(record.fail_message or "no reason given")
    return errors.TaskFailedError(
        f"The generation has failed with code {record.fail_code}: {reason}. {advice}",
        fail_code=record.fail_code,
        fail_message=record.fail_message,
        worth_retrying=again,
        job_id=job_id,
        task_id=record.task_id,
    )


def closed_error(*, job_id: str | None = None, task_id: str | None = None) -> errors.ClientClosedError:
    """Return the error for a call on a closed client, and for a wait that the closing of the client ends."""
    msg = (
        "The client is closed. Enter `async with` again; accepted tasks continue, and jobs that were not sent stay in"
        " the journal for recover()."
    )
    return errors.ClientClosedError(msg, job_id=job_id, task_id=task_id)


def not_admitted_error(waited: float, *, limited: bool, job_id: str) -> errors.APIError:
    """Return the error of a job that has waited so many seconds for the rate limit, if *limited*, or maintenance."""
    if limited:
        msg = (
            f"The rate limit has refused every create for more than {waited:g} s. Nothing was paid: find out which"
            " other programs use the account, then submit again."
        )
        return errors.RateLimitError(msg, code=429, job_id=job_id)
    msg = f"The service has been under maintenance for more than {waited:g} s. Nothing was paid: try again later."
    return errors.MaintenanceError(msg, code=455, job_id=job_id)


def poll_error(verdict: PollVerdict, *, job_id: str | None, task_id: str | None) -> errors.KieError:
    """Return the error for a poll that returned no record."""
    match verdict:
        case PollVerdict.NOT_VISIBLE:
            msg = (
                "The service does not know this task, or not yet. Check the id, and that KIE_API_KEY is of its account."
            )
            return errors.TaskNotFoundError(msg, job_id=job_id, task_id=task_id)
        case PollVerdict.DENIED:
            msg = "The service does not accept the API key for polls. Check KIE_API_KEY; the task continues."
            return errors.AuthenticationError(msg, code=401, job_id=job_id, task_id=task_id)
        case PollVerdict.TIMED_OUT:
            msg = "The service has timed out (code 408), and the task may still end. Wait for it, or ask again later."
            return errors.ServerError(msg, code=408, job_id=job_id, task_id=task_id)
        case PollVerdict.RATE_LIMITED:
            msg = "The service refused the poll: too many requests. Try again in a few seconds."
            return errors.RateLimitError(msg, code=429, job_id=job_id, task_id=task_id)
        case _:
            msg = "The service's answer about the task could not be read. Try again."
            return errors.ProtocolError(msg, job_id=job_id, task_id=task_id)


def has_result(record: TaskRecord) -> bool:
    """Return True if a record that reports success has a result: URLs, or the object of a text model."""
    if isinstance(record.result, Mapping):
        # A list of URLs without a usable URL is not a result, nor is an envelope; other members that are not empty are.
        others = (value for name, value in record.result.items() if name not in _NO_RESULTS)
        return bool(record.result_urls) or any(others)
    return bool(record.result_urls) or bool(record.result)


def no_result_error(record: TaskRecord, *, job_id: str | None) -> errors.NoResultError:
    """Return the error for a record that reports success without a result."""
    msg = "The task has succeeded, and its record holds no result. Look it up at kie.ai/logs."
    return errors.NoResultError(msg, job_id=job_id, task_id=record.task_id)


def dump_error(error: errors.KieError) -> str:
    """Write an error as text for the journal."""
    code = error.code if isinstance(error, errors.APIError) else None
    message = error.service_message if isinstance(error, errors.APIError) else ""
    return encode_for_journal([type(error).__name__, error.message, code, message])


def load_error(text: str | None, *, job_id: str, task_id: str | None = None) -> errors.KieError:
    """
    Read an error from the journal.

    Returns:
        The error that ``dump_error`` wrote; for any other text, a plain ``KieError`` with the text as its message.

    >>> load_error(dump_error(errors.ServerError("Down.", code=500)), job_id="kj_1")
    ServerError('Down.')
    """
    try:
        parts = json.loads(text or "null")
    except (ValueError, RecursionError):
        parts = None
    name, message, code, quote = parts if isinstance(parts, list) and len(parts) == _PARTS else (None, None, None, "")
    if not isinstance(name, str) or not isinstance(message, str):
        message = text or "The job has ended, and the journal does not say why. Submit it again."
        return errors.KieError(message, job_id=job_id, task_id=task_id)
    kind = _JOURNALED.get(name, errors.KieError)
    if issubclass(kind, errors.APIError):
        return kind(message, code=code, service_message=quote, job_id=job_id, task_id=task_id)
    return kind(message, job_id=job_id, task_id=task_id)
