"""
The responses of the service: texts, envelopes and bodies as recorded, and what faults make of them.

Comments mark the texts that are only documented, or that are neither documented nor recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.faults import Fault
    from kie_async.testing.tasks import FakeTask

__all__ = ["TEXTS", "FakeResponse", "apply_fault", "encode", "envelope", "json_response"]

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
MIXED_MEDIA = "first/last frame content cannot be mixed with reference media content"

#: The text of each code.
TEXTS: Mapping[int, str] = MappingProxyType(
    {
        200: SUCCESS,
        401: "You do not have access permissions",  # Documented; no response of this path was recorded.
        402: "Credits insufficient : Your current balance isn't enough to run this request. Please top up to continue.",
        422: (
            "The model name you specified is not supported. Please verify your input and use one of the supported"
            " models provided by KIE."
        ),
        429: "Your call frequency is too high. Please try again later.",
        433: "Request Limit - Sub-key Usage Exceeds Limit",  # The documentation's name of the code.
        455: "Service is under maintenance",  # The documentation's meaning of the code in our words.
        500: "Server exception, please try again later or contact customer service",
        501: "Generation failed",  # As for 455.
        505: "This interface is temporarily paused.",
    }
)

_JSON_TYPE = "application/json;charset=UTF-8"
_BAD_GATEWAY = 502
_TEMPORARY_REDIRECT = 307

#: The error page of a proxy.
_PAGE = """<!DOCTYPE html>
<html>
<head><title>api | {status}</title></head>
<body><h1>Error {status}</h1><p>The web server reported an error. Please try again in a few minutes.</p></body>
</html>
"""


@attrs.frozen(kw_only=True)
class FakeResponse:
    """
    A response before it is sent.

    Attributes:
        body: The body before any compression.

        code: The code in the body, or None if it has none.

        status: The HTTP status.

        content_type: The Content-Type header.

        headers: More headers.
    """

    body: bytes
    code: int | None = None
    status: int = 200
    content_type: str = _JSON_TYPE
    headers: Mapping[str, str] = attrs.field(factory=dict)


def not_in_range(field: str) -> str:
    """Return the text for a value that is not allowed; the word "This" was recorded for ``aspect_ratio`` only."""
    return f"{'This ' if field == 'aspect_ratio' else ''}{field} is not within the range of allowed options"


def wrong_file_type(field: str) -> str:
    """Return the text for a file of a wrong type, which is neither documented nor recorded."""
    return f"{field} file type is not supported"


def too_large(field: str) -> str:
    """Return the text for a file that is too large, which is neither documented nor recorded."""
    return f"{field} file size exceeds the limit"


def encode(value: JSON) -> str:
    """Encode *value* as the service writes JSON: without spaces, with unescaped letters of all scripts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def envelope(code: int, msg: str | None = None, data: JSON = None, *, with_data: bool = True) -> bytes:
    """
    Return the body of a response.

    Args:
        code: The code.

        msg: The text; by default the text of the code.

        data: The ``data``.

        with_data: False to omit ``data``: rate limit refusals were recorded with ``null`` and without the field.

    >>> envelope(422, NO_RECORD)
    b'{"code":422,"msg":"recordInfo is null","data":null}'
    """
    body: dict[str, JSON] = {"code": code, "msg": TEXTS.get(code, "") if msg is None else msg}
    if with_data:
        body["data"] = data
    return encode(body).encode()


def json_response(
    code: int, msg: str | None = None, data: JSON = None, *, status: int = 200, with_data: bool = True
) -> FakeResponse:
    """Return an envelope as a response; see ``envelope()``."""
    return FakeResponse(body=envelope(code, msg, data, with_data=with_data), code=code, status=status)


def created(task_id: str | int) -> FakeResponse:
    """Return the response to a create request that was accepted."""
    return json_response(200, data={"taskId": task_id, "recordId": task_id})


def encode_param(model: str, given: Mapping[str, JSON], callback_url: str | None) -> str:
    r"""
    Return a create request as a record echoes it.

    >>> print(encode_param("z-image", {"prompt": "A cat"}, None))
    {"input":"{\"prompt\":\"A cat\"}","model":"z-image"}
    """
    echo: dict[str, JSON] = {"input": encode(given)}
    if callback_url is not None:
        echo["callBackUrl"] = callback_url
    echo["model"] = model
    return encode(echo)


def record(task: FakeTask, now: float) -> dict[str, JSON]:
    """Return the ``data`` of ``recordInfo`` about *task* at *now*, with its keys in the recorded order."""
    state, ended = task.state(now), task.ended(now)
    failure = task.failure if ended else None
    return {
        "taskId": task.task_id,
        "model": task.model,
        "state": state,
        "param": task.param,
        "resultJson": encode(task.result) if state == "success" else "",
        "failCode": None if failure is None else failure.code,
        "failMsg": None if failure is None else failure.message,
        # In seconds, contrary to the documentation.
        "costTime": round(task.ends_at - task.created_at) if ended else None,
        "completeTime": task.ended_ms if ended else None,
        "createTime": task.created_ms,
        "creditsConsumed": task.credits(now),
        **(_new_members(task, state) if task.new_members else {}),
    }


#: The values of ``successFlag`` at the end; before, it is 0.
_SUCCESS_FLAGS: Mapping[str, int] = MappingProxyType({"success": 1, "fail": 3})


def _new_members(task: FakeTask, state: str) -> dict[str, JSON]:
    """Return the members that records have since September 2026; the operation's name is not recorded."""
    return {
        "operationType": "generate",
        **({"response": task.result} if state == "success" else {}),
        "successFlag": _SUCCESS_FLAGS.get(state, 0),
        "paramJson": task.param,
    }


def callback_body(task: FakeTask, replaced: Mapping[str, JSON] | None = None) -> dict[str, JSON]:
    """
    Return the body of the callback about *task* at its end, in the format of August 2026 with the members of records.

    Times are rounded to full seconds. A failure has neither times nor results, and its top-level code is 501.

    Args:
        task: The task.

        replaced: Fields of a fault that replace those of ``data``.
    """
    data = record(task, task.ends_at)
    consumed = data.pop("creditsConsumed")
    if task.failure is not None:
        for absent in ("resultJson", "costTime", "completeTime", "createTime"):
            del data[absent]
        code, msg = 501, "Playground task failed."
    else:
        ended = task.ended_ms // 1000 * 1000
        data |= {"completeTime": ended, "createTime": task.created_ms // 1000 * 1000, "updateTime": ended}
        code, msg = 200, "Playground task completed successfully."
    return {"code": code, "msg": msg, "data": _alter({**data, "creditsConsumed": consumed}, replaced or {})}


def _alter(data: Mapping[str, JSON], replaced: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return *data* with other members; ``response`` goes with ``resultJson``, whose content it is."""
    altered = {**data, **replaced}
    if "resultJson" in replaced and "response" in data and "response" not in replaced:
        result = replaced["resultJson"]
        try:
            altered["response"] = json.loads(result) if isinstance(result, str) else result
        except ValueError:
            del altered["response"]
    return altered


def uploaded(*, path: str, url: str, size: int, mime: str, at: str) -> FakeResponse:
    """Return the response of the upload host; *at* is an instant in ISO 8601."""
    data: JSON = {
        "success": True,
        "fileName": path.rpartition("/")[2],
        "filePath": path,
        "downloadUrl": url,
        "fileSize": size,
        "mimeType": mime,
        "uploadedAt": at,
    }
    return FakeResponse(body=encode({"success": True, "code": 200, "msg": UPLOADED, "data": data}).encode(), code=200)


def apply_fault(response: FakeResponse, fault: Fault, *, redirect_to: str) -> FakeResponse:
    """
    Return what *fault* makes of *response*; faults of the connection leave it unchanged.

    Args:
        response: The real response.

        fault: The fault.

        redirect_to: The URL of a redirect.
    """
    match fault.kind:
        case "code":
            return json_response(fault.code or 500, fault.msg, status=fault.status or 200)
        case "status":
            return attrs.evolve(response, status=fault.status or response.status)
        case "body":
            body = fault.body.encode() if isinstance(fault.body, str) else fault.body or b""
            return FakeResponse(
                body=body, status=fault.status or 200, content_type=fault.content_type, headers=fault.headers
            )
        case "html":
            status = fault.status or _BAD_GATEWAY
            page = _PAGE.format(status=status).encode()
            return FakeResponse(body=page, status=status, content_type="text/html; charset=UTF-8")
        case "redirect":
            status = fault.status or _TEMPORARY_REDIRECT
            return FakeResponse(body=b"", status=status, content_type="text/html", headers={"Location": redirect_to})
        case "null_data":
            return _with_data(response, None)
        case "no_task_id":
            return _with_data(response, {})
        case "alter":
            data = json.loads(response.body).get("data")
            return _with_data(response, _alter(data if isinstance(data, dict) else {}, fault.data or {}))
        case "truncated_json":
            return attrs.evolve(response, body=response.body[: len(response.body) // 2], code=None)
        case _:
            return response


def _with_data(response: FakeResponse, data: JSON) -> FakeResponse:
    return attrs.evolve(response, body=encode({**json.loads(response.body), "data": data}).encode())
