"""
The service's JSON to values and back: the only module that knows Kie's field names.

Reading is tolerant: a value that is missing, empty, of another type or of another shape than documented becomes None.
Unknown members are kept in ``TaskRecord.raw``. No body makes a reader raise. Writing is strict: exactly Kie's names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import attrs

from kie_async._core.lenient_json import decode, decode_around, number, text, unwrap_json
from kie_async.records import JSON, TaskRecord

__all__ = [
    "UPLOAD_FOLDER",
    "Envelope",
    "Param",
    "callback_ids",
    "read_credit",
    "read_download_url",
    "read_envelope",
    "read_param",
    "read_record",
    "read_record_body",
    "read_upload",
    "task_id_of",
    "upload_fields",
    "write_base64_upload",
    "write_create",
    "write_download_url",
]

# Recorded ids are 32 hexadecimal digits, documented ones look like "task_wan_1765172522239". An id is used in URLs,
# logs and file names, so its characters are limited.
_TASK_ID = re.compile(r"[A-Za-z0-9_.:-]{1,256}", re.ASCII)
_CODE = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_URL = re.compile(r"https?://", re.IGNORECASE)
_SUCCESS = 200
#: The years 2001 and 5138, in seconds since the epoch; larger numbers are milliseconds.
_EARLIEST, _LATEST = 1e9, 1e11


@attrs.frozen
class Envelope:
    """
    The envelope of every answer of the service.

    Attributes:
        code: The service's own status, or None if there is no integer. The HTTP status is nearly always 200.

        message: The service's message, or an empty string.

        data: The answer itself, or None.
    """

    code: int | None
    message: str
    data: JSON = None


@attrs.frozen(kw_only=True)
class Param:
    """
    A create as it is sent, and as a record echoes it.

    Attributes:
        model: The model's name, or None if an echo has no model.

        callback_url: The URL to which the service reports the end of the task, or None.

        input: The ``input`` object, or None if an echo has no readable input.
    """

    model: str | None = None
    callback_url: str | None = None
    input: Mapping[str, JSON] | None = None


# -- answers --


def read_envelope(body: bytes) -> Envelope | None:
    """
    Read the envelope of an answer.

    Args:
        body: The answer's body.

    Returns:
        The envelope, or None if the body is not a JSON object in UTF-8.

    >>> read_envelope(b'{"code":422,"msg":"recordInfo is null","data":null}')
    Envelope(code=422, message='recordInfo is null', data=None)
    """
    try:
        return _envelope(decode(_unmarked(body)))
    except ValueError:
        return None


#: The byte order mark of UTF-8.
_MARK = b"\xef\xbb\xbf"


def _unmarked(body: bytes) -> str:
    """Decode a body without its byte order mark; the codec that does both takes as long as all other work."""
    return body.removeprefix(_MARK).decode()


def _envelope(document: JSON) -> Envelope | None:
    if not isinstance(document, Mapping):
        return None
    code = document.get("code")
    if isinstance(code, str) and _CODE.fullmatch(code):
        code = int(code)
    return Envelope(
        code=code if isinstance(code, int) and not isinstance(code, bool) else None,
        # Recorded answers say "msg"; older pages say "message".
        message=text(document.get("msg")) or text(document.get("message")) or "",
        data=document.get("data"),
    )


def _member(envelope: Envelope, name: str) -> JSON:
    return envelope.data.get(name) if isinstance(envelope.data, Mapping) else None


def task_id_of(envelope: Envelope) -> str | None:
    """
    Return the id of the task that an answer is about.

    Returns:
        The id; None unless ``data.taskId`` is an integer, or a string of at most 256 letters, digits and ``_-.:``.

    >>> task_id_of(Envelope(200, "success", {"taskId": "task_wan_1765172522239"}))
    'task_wan_1765172522239'
    """
    return _as_id(_member(envelope, "taskId"))


def _as_id(value: JSON) -> str | None:
    as_text = value if isinstance(value, str) else text(value) if isinstance(value, int) else None
    return as_text if as_text is not None and _TASK_ID.fullmatch(as_text) else None


def callback_ids(document: JSON) -> set[str]:
    """
    Return the ids of tasks that a callback names, in all places where the service has been seen to put them.

    >>> sorted(callback_ids({"taskId": "a", "data": {"taskId": "a", "task_id": "b"}}))
    ['a', 'b']
    """
    if not isinstance(document, Mapping):
        return set()
    data = document.get("data")
    inner = data if isinstance(data, Mapping) else {}
    found = (document.get("taskId"), inner.get("taskId"), inner.get("task_id"))
    return {known for value in found if (known := _as_id(value)) is not None}


def read_record(envelope: Envelope) -> TaskRecord | None:
    """
    Read a task's record from an answer to ``recordInfo``, or from a callback.

    Times become seconds, empty strings None, codes strings. ``result`` is the decoded ``resultJson`` (a string or an
    object), and None if it is broken. ``result_urls`` are the http(s) URLs of its ``resultUrls`` (a list or a single
    URL), or of the result itself if it is only URLs. Frames (``firstFrameUrl``) and texts (``resultObject``) stay in
    ``result``. ``raw`` is the unchanged data.

    Returns:
        The record, or None if the answer has no task id.
    """
    task_id = task_id_of(envelope)
    data = envelope.data
    if task_id is None or not isinstance(data, Mapping):
        return None
    found, state = data.get("resultJson"), data.get("state")
    result = unwrap_json(found)
    costs = (number(data.get(name)) for name in ("creditsConsumed", "consumeCredits"))
    return TaskRecord(
        task_id=task_id,
        state=state if isinstance(state, str) else text(state) or "",
        model=text(data.get("model")),
        result_urls=_urls(result),
        result=None if isinstance(found, str) and result is found else result,
        fail_code=text(data.get("failCode")),
        fail_message=text(data.get("failMsg")),
        created_at=_seconds(data.get("createTime")),
        completed_at=_seconds(data.get("completeTime")),
        cost_time=number(data.get("costTime")),
        progress=number(data.get("progress")),
        credits=next((cost for cost in costs if cost is not None), None),
        raw=data,
    )


def _seconds(value: JSON) -> float | None:
    milliseconds = number(value)
    return milliseconds / 1000 if milliseconds is not None and milliseconds > 0 else None


def _urls(result: JSON) -> tuple[str, ...]:
    if isinstance(result, Mapping):
        result = unwrap_json(result.get("resultUrls"))
    texts = result if isinstance(result, list) else [result]
    return tuple(url.strip() for url in texts if isinstance(url, str) and _URL.match(url.strip()))


def read_record_body(body: bytes) -> tuple[Envelope | None, TaskRecord | None]:
    """
    Read the whole body of an answer to ``recordInfo``, even if it is broken inside ``param``.

    The service echoes the request in ``param``, and has been seen to escape it so that the body is not JSON. No other
    member depends on it.

    Args:
        body: The answer's body.

    Returns:
        The envelope and its record, or None for each that is missing.
    """
    envelope = read_envelope(body)
    if envelope is None:
        try:
            envelope = _envelope(decode_around(_unmarked(body), "param"))
        except ValueError:
            return None, None
    return envelope, None if envelope is None else read_record(envelope)


def read_param(source: TaskRecord | JSON) -> Param | None:
    r"""
    Read the echo of the create, which the service encodes once or twice.

    Args:
        source: A record, whose ``paramJson`` is read if its ``param`` cannot be; or its unchanged ``param``.

    Returns:
        The create, or None if it is missing or cannot be read.

    >>> read_param(r'{"input": "{\"prompt\": \"A cat\"}", "callBackUrl": "https://a.example/1", "model": "z-image"}')
    Param(model='z-image', callback_url='https://a.example/1', input={'prompt': 'A cat'})
    """
    echoes = [source.raw.get(name) for name in ("param", "paramJson")] if isinstance(source, TaskRecord) else [source]
    echo = next((found for echo in echoes if isinstance(found := unwrap_json(echo), Mapping)), None)
    if echo is None:
        return None
    given = unwrap_json(echo.get("input"))
    return Param(
        model=text(echo.get("model")),
        callback_url=text(echo.get("callBackUrl")),
        input=given if isinstance(given, Mapping) else None,
    )


#: The service keeps uploads for 24 hours. They are used for 20 at most, and for five sixths of the time that an answer
#: says: a task may wait before the service fetches its files. Below a minute no job could use them.
_LONGEST_USE, _SHARE_USED, _SHORTEST_USE = 20 * 3600.0, 5 / 6, 60.0


def read_upload(body: bytes, *, now: float) -> tuple[str, float] | None:
    """
    Read the answer to an upload.

    Args:
        body: The answer.

        now: The current time, in seconds since the epoch.

    Returns:
        The URL of the uploaded file, and the instant until which it may be used in requests, in seconds since the
        epoch; None if the upload has failed or the answer has no http(s) URL.
    """
    envelope = read_envelope(body)
    if envelope is None or envelope.code not in {None, _SUCCESS}:
        return None
    url = _url(_member(envelope, "downloadUrl")) or _url(_member(envelope, "fileUrl"))
    if url is None:
        return None
    expires_at = _instant(_member(envelope, "expiresAt"))
    use = _LONGEST_USE
    # Both times are the service's, so that the difference is right whatever this host's clock says.
    for began_at in (_instant(_member(envelope, "uploadedAt")), _instant(_member(envelope, "uploadTime")), now):
        if expires_at is not None and began_at is not None and expires_at > began_at:
            use = min(_LONGEST_USE, max(_SHORTEST_USE, (expires_at - began_at) * _SHARE_USED))
            break
    return url, now + use


def _instant(value: JSON) -> float | None:
    """Read an instant: ISO 8601 (in UTC unless it says otherwise), or the seconds or milliseconds since the epoch."""
    since_epoch = number(value)
    if since_epoch is None and isinstance(value, str):
        try:
            since_epoch = float(value)
        except ValueError:
            try:
                parsed = datetime.fromisoformat(value.strip())
                return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                return None
    if since_epoch is None or not _EARLIEST <= since_epoch < _LATEST * 1000:
        return None
    return since_epoch if since_epoch < _LATEST else since_epoch / 1000


def read_download_url(envelope: Envelope) -> str | None:
    """Return the short-lived URL that the service made for a result, or None."""
    return _url(envelope.data)


def read_credit(envelope: Envelope) -> float | None:
    """Return the account's balance in credits, or None."""
    return number(envelope.data)


def _url(value: JSON) -> str | None:
    return value if isinstance(value, str) and _URL.match(value) else None


# -- requests --


def write_create(
    model: str,
    input: Mapping[str, JSON],  # noqa: A002 (the service's word)
    callback_url: str | None,
) -> bytes:
    """
    Write the body of a create.

    Args:
        model: The model's name.

        input: The ``input`` object, in the service's field names.

        callback_url: The URL to which the service shall report the end of the task, or None to omit the field.

    Raises:
        ValueError: If the input cannot be written in JSON and UTF-8.

    >>> write_create("z-image", {"prompt": "Ä"}, "https://a.example/1").decode()
    '{"model":"z-image","input":{"prompt":"Ä"},"callBackUrl":"https://a.example/1"}'
    """
    create = {"model": model, "input": input}
    return _encode(create if callback_url is None else {**create, "callBackUrl": callback_url}).encode()


#: The folder at the upload host; the schema requires one, without a slash at either end.
UPLOAD_FOLDER = "kie_async"


def upload_fields(name: str) -> dict[str, str]:
    """
    Return the form fields of a stream upload, except the file itself, which is ``file``.

    >>> upload_fields("a.png")
    {'uploadPath': 'kie_async', 'fileName': 'a.png'}
    """
    return {"uploadPath": UPLOAD_FOLDER, "fileName": name}


def write_base64_upload(data_url: str, name: str) -> bytes:
    """
    Write the body of a base64 upload.

    Args:
        data_url: The file as a data URL.

        name: The file's name at the upload host.
    """
    return json.dumps({"base64Data": data_url, **upload_fields(name)}).encode()


def write_download_url(url: str) -> bytes:
    """
    Write the body of a request for a fresh link to a result.

    >>> write_download_url("https://example.com/a.mp4")
    b'{"url": "https://example.com/a.mp4"}'
    """
    return json.dumps({"url": url}).encode()  # in ASCII: a URL from a record may hold half a surrogate pair


#: The encoder is made once: ``json.dumps`` would make one for each create.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=dict).encode
