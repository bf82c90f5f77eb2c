"""
How a job has ended, in the words of its caller: from rows and records to errors, and from errors to text and back.

The journal keeps an error as text, so that a job that was refused yesterday raises the same error today.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from kie_async import errors
from kie_async._core.lifecycle import encode_for_journal
from kie_async._core.poll_results import PollVerdict
from kie_async._core.verdicts import shortened
from kie_async.records import TaskRecord

__all__ = [
    "closed_error",
    "dump_error",
    "error_of_poll",
    "failure_of",
    "has_result",
    "load_error",
    "no_result",
    "worth_retrying",
]

_KINDS: dict[str, type[errors.KieError]] = {
    kind.__name__: kind
    for kind in (
        errors.APIError,
        errors.AuthenticationError,
        errors.ConfigurationError,
        errors.InsufficientCreditsError,
        errors.InvalidRequestError,
        errors.KeyLimitError,
        errors.MaintenanceError,
        errors.ModelPausedError,
        errors.RateLimitError,
        errors.ServerError,
        errors.TransportError,
        errors.UploadError,
    )
}

# Recorded texts under failCode 500 that another try will not change.
_PERMANENT = re.compile(
    r"copyright|cannot be mixed|content polic|sensitive|could not be processed|unavailable, please replace",
    re.IGNORECASE,
)


#: Of what a dumped error consists: its class, its message, its code, the service's words.
_PARTS = 4


def worth_retrying(record: TaskRecord) -> bool:
    """
    Whether the same request may succeed when it is made again.

    Recorded failures with code 500 that cost nothing are passing, but for two that name the content.

    >>> worth_retrying(TaskRecord(task_id="1", state="fail", fail_code="500", fail_message="the server is busy"))
    True
    >>> worth_retrying(TaskRecord(task_id="1", state="fail", fail_code="422", fail_message="task id is blank"))
    True
    >>> worth_retrying(TaskRecord(task_id="1", state="fail", fail_code="400"))
    False
    """
    message = record.fail_message or ""
    if record.fail_code == "500":
        return not record.credits and _PERMANENT.search(message) is None
    return "task id is blank" in message


def failure_of(record: TaskRecord, *, job_id: str | None) -> errors.TaskFailedError:
    """The error for a record that says fail."""
    again = worth_retrying(record)
    advice = (
        "The same request may succeed when it is made again." if again else "Change the request before another try."
    )
    said = shortened(record.fail_message or "no reason given")
    return errors.TaskFailedError(
        f"The generation has failed with code {record.fail_code}: {said}. {advice}",
        fail_code=record.fail_code,
        fail_message=record.fail_message,
        worth_retrying=again,
        job_id=job_id,
        task_id=record.task_id,
    )


def closed_error(*, job_id: str | None = None, task_id: str | None = None) -> errors.ClientClosedError:
    """The error for what is asked of a client that is closed, or waited for when it closes."""
    return errors.ClientClosedError(
        "The client is closed. Enter `async with` again; what was accepted lives on, and what was not sent stays in the"
        " journal for recover().",
        job_id=job_id,
        task_id=task_id,
    )


def error_of_poll(verdict: PollVerdict, *, job_id: str | None, task_id: str | None) -> errors.KieError:
    """The error for a look that has shown no record."""
    match verdict:
        case PollVerdict.NOT_VISIBLE:
            msg = "The service does not know this task, or not yet. Check the id, and that the key is of its account."
            return errors.TaskNotFoundError(msg, job_id=job_id, task_id=task_id)
        case PollVerdict.DENIED:
            msg = "The service does not accept the API key for looking at tasks. Check KIE_API_KEY; the task lives on."
            return errors.AuthenticationError(msg, code=401, job_id=job_id, task_id=task_id)
        case PollVerdict.RATE_LIMITED:
            msg = "The service refused to look: it was asked too often. Try again in a few seconds."
            return errors.RateLimitError(msg, code=429, job_id=job_id, task_id=task_id)
        case _:
            msg = "The service's answer about the task could not be read. Try again."
            return errors.ProtocolError(msg, job_id=job_id, task_id=task_id)


def has_result(record: TaskRecord) -> bool:
    """Whether a record that says success holds something: URLs, or the object that text models answer with."""
    if isinstance(record.result, Mapping):
        # A list of URLs without a usable one is no result; what text models answer with is.
        return bool(record.result_urls) or any(value for name, value in record.result.items() if name != "resultUrls")
    return bool(record.result_urls) or bool(record.result)


def no_result(record: TaskRecord, *, job_id: str | None) -> errors.NoResultError:
    """The error for a record that says success and holds nothing."""
    return errors.NoResultError(
        "The task has succeeded, and its record holds no result. Look it up at kie.ai/logs.",
        job_id=job_id,
        task_id=record.task_id,
    )


def dump_error(error: errors.KieError) -> str:
    """An error as text for the journal."""
    code = error.code if isinstance(error, errors.APIError) else None
    said = error.service_message if isinstance(error, errors.APIError) else ""
    return encode_for_journal([type(error).__name__, error.message, code, said])


def load_error(text: str | None, *, job_id: str, task_id: str | None = None) -> errors.KieError:
    """
    The error that ``dump_error`` made a text of.

    A text that it did not make becomes the message of a plain ``KieError``.

    >>> load_error(dump_error(errors.ServerError("Down.", code=500)), job_id="kj_1")
    ServerError('Down.')
    """
    try:
        found = json.loads(text or "null")
    except ValueError:
        found = None
    name, message, code, said = found if isinstance(found, list) and len(found) == _PARTS else (None, None, None, "")
    if not isinstance(name, str) or not isinstance(message, str):
        message = text or "The job went no further, and the journal does not say why. Submit it again."
        return errors.KieError(message, job_id=job_id, task_id=task_id)
    kind = _KINDS.get(name, errors.KieError)
    if issubclass(kind, errors.APIError):
        return kind(message, code=code, service_message=said, job_id=job_id, task_id=task_id)
    return kind(message, job_id=job_id, task_id=task_id)
