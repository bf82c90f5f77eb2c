"""
What the service says, word by word: texts, envelopes, bodies of answers, as recorded.

Where only the documentation has a text, or nobody has, the comment says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.tasks import FakeTask

__all__ = [
    "AUTHENTICATION_FAILED",
    "BAD_URL",
    "NO_RECORD",
    "NO_TASK_ID",
    "NO_UPLOAD_PATH",
    "REQUIRED",
    "SUCCESS",
    "TEXTS",
    "UNAVAILABLE_MEDIA",
    "UPLOADED",
    "callback",
    "compact",
    "created",
    "envelope",
    "not_in_range",
    "param",
    "record",
    "uploaded",
]

SUCCESS = "success"
NO_RECORD = "recordInfo is null"
NO_TASK_ID = "taskId parameter is required"
BAD_URL = "url is wrong"
REQUIRED = "This field is required"
OUT_OF_RANGE = "Value must be within the specified range"
UPLOADED = "File uploaded successfully"
NO_UPLOAD_PATH = "Missing required parameter: uploadPath"
AUTHENTICATION_FAILED = "Authentication failed: Invalid API Key"
UNAVAILABLE_MEDIA = "Your media file is unavailable, please replace it."

#: The text that goes with a code.
TEXTS: Mapping[int, str] = MappingProxyType(
    {
        200: SUCCESS,
        401: "You do not have access permissions",  # Documented; no answer of this path was recorded.
        402: "Credits insufficient : Your current balance isn't enough to run this request. Please top up to continue.",
        422: (
            "The model name you specified is not supported. Please verify your input and use one of the supported"
            " models provided by KIE."
        ),
        429: "Your call frequency is too high. Please try again later.",
        433: "Request Limit - Sub-key Usage Exceeds Limit",  # The documentation's name of the code.
        455: "Service is under maintenance",  # The documentation's meaning of the code; the words are ours.
        500: "Server exception, please try again later or contact customer service",
        501: "Generation failed",  # As for 455.
        505: "This interface is temporarily paused.",
    }
)


def not_in_range(field: str) -> str:
    """What is said of a value that is not one of those allowed; "This" stands before ``aspect_ratio`` alone."""
    return f"{'This ' if field == 'aspect_ratio' else ''}{field} is not within the range of allowed options"


def compact(value: JSON) -> str:
    """*value* as the service writes JSON: without blanks, with letters of all scripts as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def envelope(code: int, msg: str | None = None, data: JSON = None, *, with_data: bool = True) -> bytes:
    """
    The body of an answer.

    Args:
        code: The code.

        msg: The text; what belongs to the code unless given.

        data: The ``data``.

        with_data: Whether there is a ``data`` at all: refusals of the rate limit were seen with ``null`` and without.

    >>> envelope(422, NO_RECORD)
    b'{"code":422,"msg":"recordInfo is null","data":null}'
    """
    body: dict[str, JSON] = {"code": code, "msg": TEXTS.get(code, "") if msg is None else msg}
    if with_data:
        body["data"] = data
    return compact(body).encode()


def created(task_id: str | int) -> bytes:
    """The answer to a create that was taken."""
    return envelope(200, SUCCESS, {"taskId": task_id, "recordId": task_id})


def param(model: str, given: Mapping[str, JSON], callback_url: str | None) -> str:
    r"""
    The create as a record echoes it.

    >>> print(param("z-image", {"prompt": "A cat"}, None))
    {"input":"{\"prompt\":\"A cat\"}","model":"z-image"}
    """
    echo: dict[str, JSON] = {"input": compact(given)}
    if callback_url is not None:
        echo["callBackUrl"] = callback_url
    echo["model"] = model
    return compact(echo)


def record(task: FakeTask, now: float) -> dict[str, JSON]:
    """The ``data`` of ``recordInfo`` about *task* at *now*, in the recorded order of its keys."""
    state = task.state(now)
    over = task.ended(now)
    failure = task.failure if over else None
    return {
        "taskId": task.task_id,
        "model": task.model,
        "state": state,
        "param": task.param,
        "resultJson": compact({"resultUrls": [task.result_url]}) if state == "success" else "",
        "failCode": None if failure is None else failure.code,
        "failMsg": None if failure is None else failure.message,
        # Seconds, whatever the documentation says.
        "costTime": round(task.ends_at - task.created_at) if over else None,
        "completeTime": task.ended_ms if over else None,
        "createTime": task.created_ms,
        "creditsConsumed": task.credits(now),
    }


def callback(task: FakeTask, forged: Mapping[str, JSON] | None = None) -> dict[str, JSON]:
    """
    The body of the callback about *task*, with what is true at its end, in the shape of August 2026.

    Times are rounded to full seconds; a failure has neither times nor results, and its top code is 501.

    Args:
        task: The task.

        forged: What is laid over the truth.
    """
    data = record(task, task.ends_at)
    consumed = data.pop("creditsConsumed")
    if task.failure is not None:
        for absent in ("resultJson", "costTime", "completeTime", "createTime"):
            del data[absent]
        data = {**data, "creditsConsumed": consumed, **(forged or {})}
        return {"code": 501, "msg": "Playground task failed.", "data": data}
    times: dict[str, JSON] = {
        "completeTime": task.ended_ms // 1000 * 1000,
        "createTime": task.created_ms // 1000 * 1000,
        "updateTime": task.ended_ms // 1000 * 1000,
    }
    data = {**data, **times, "creditsConsumed": consumed, **(forged or {})}
    return {"code": 200, "msg": "Playground task completed successfully.", "data": data}


def uploaded(*, path: str, url: str, size: int, mime: str, at: str) -> bytes:
    """The answer of the upload host; *at* is an instant in ISO 8601."""
    data: JSON = {
        "success": True,
        "fileName": path.rpartition("/")[2],
        "filePath": path,
        "downloadUrl": url,
        "fileSize": size,
        "mimeType": mime,
        "uploadedAt": at,
    }
    return compact({"success": True, "code": 200, "msg": UPLOADED, "data": data}).encode()
