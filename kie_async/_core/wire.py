"""
The service's JSON to values and back: the only module that knows Kie's field names.

Reading is tolerant: a value that is missing, empty, of another type or of another shape than documented becomes None.
Unknown members are kept in ``TaskRecord.raw``. No body makes a reader raise. Writing is strict: exactly Kie's names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import attrs

from kie_async._core.lenient_json import (
    Layout,
    decode,
    decode_unique,
    number,
    read_broken_object,
    text,
    unwrap_json,
)
from kie_async.records import JSON, TaskRecord, TaskState

__all__ = [
    "UPLOAD_FOLDER",
    "Envelope",
    "Param",
    "as_task_id",
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
#: The codes of success: 200 was recorded; public clients report 0, and 201 is that of HTTP.
_SUCCESSES = (200, 0, 201)
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
    return as_task_id(_member(envelope, "taskId"))


def as_task_id(value: JSON) -> str | None:
    """Return *value* as the id of a task; None if it is none."""
    as_text = value if isinstance(value, str) else text(value) if isinstance(value, int) else None
    return as_text if as_text is not None and _TASK_ID.fullmatch(as_text) else None


def read_record(envelope: Envelope, task_id: str | None = None) -> TaskRecord | None:
    """
    Read a task's record from an answer to ``recordInfo``, or from a callback.

    Times become seconds, empty strings None, codes strings. ``result`` is the decoded ``resultJson`` (a string or an
    object), or ``response`` where ``resultJson`` is empty or broken. ``result_urls`` are the http(s) URLs that the
    result names, each once and in its order: in members like ``resultUrls`` and ``audio_url``, however deep, and in
    plain lists. Frames (``firstFrameUrl``), streams, sources, texts (``resultObject``) and the URLs of the request are
    left out of them. ``raw`` is the unchanged data.

    Args:
        envelope: The answer.

        task_id: The task that the service was asked about, or None. A record without an id is then its record.

    Returns:
        The record, or None if the answer has no task id and none was given.
    """
    data = envelope.data
    if not isinstance(data, Mapping):
        return None
    found = task_id_of(envelope)
    if found is None and task_id is not None and _may_be_about(data, task_id):
        found = task_id
    if found is None:
        return None
    state = data.get("state")
    result, urls = _result(data)
    costs = (number(data.get(name)) for name in ("creditsConsumed", "consumeCredits"))
    return TaskRecord(
        task_id=found,
        state=state if isinstance(state, str) else text(state) or "",
        model=text(data.get("model")),
        result_urls=urls,
        result=result,
        fail_code=text(data.get("failCode")),
        fail_message=text(data.get("failMsg")),
        created_at=_seconds(data.get("createTime")),
        completed_at=_seconds(data.get("completeTime")),
        cost_time=number(data.get("costTime")),
        progress=number(data.get("progress")),
        credits=next((cost for cost in costs if cost is not None), None),
        raw=data,
    )


def _may_be_about(data: Mapping[str, JSON], task_id: str) -> bool:
    """Return True if a record with a state names no task, or *task_id* between white space."""
    given = data.get("taskId")
    ids = {text(value) for value in (given, data.get("task_id"))} - {None}
    return (given is None or isinstance(given, str)) and ids <= {task_id} and text(data.get("state")) is not None


def _seconds(value: JSON) -> float | None:
    milliseconds = number(value)
    return milliseconds / 1000 if milliseconds is not None and milliseconds > 0 else None


#: The last words of the names of members that hold URLs of files: "resultUrls", "audio_url", "images".
_FILES = re.compile(r".*urls?|(?:image|video|audio|file|output)s?")
#: Words in the names of members that do not, or only other forms of such a file: "firstFrameUrl", "stream_audio_url".
_NO_FILES = frozenset(
    {
        *(
            "frame",
            "frames",
            "stream",
            "source",
            "sources",
            "origin",
            "original",
            "input",
            "inputs",
            "request",
            "param",
        ),
        *("reference", "references", "citation", "citations", "annotations", "callback", "call", "webhook"),
    }
)
#: The borders of the words in a name.
_WORDS = re.compile(r"_|(?<=[a-z0-9])(?=[A-Z])")


def _result(data: Mapping[str, JSON]) -> tuple[JSON, tuple[str, ...]]:
    """Return a task's result and its URLs: the first result with URLs, else the first that is not empty."""
    results: list[JSON] = []
    for name in ("resultJson", "response"):
        found = data.get(name)
        result = unwrap_json(found)
        results.append(None if isinstance(found, str) and result is found else result)
        if urls := _urls(result):
            echoes = [read_param(data.get(name)) for name in ("param", "paramJson")]
            given = {text for echo in echoes if echo is not None for text in _strings(echo.input)}
            if left := tuple(url for url in urls if url not in given):
                return results[-1], left
    return results[0] or results[1] or results[0], ()


def _strings(value: JSON) -> Iterator[str]:
    """Yield the strings in a value."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, (Mapping, list)):
        for member in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(member)


def _urls(value: JSON, *, named: bool = True, encoded: bool = True) -> Mapping[str, None]:
    """Return the URLs in the members of *value* that are *named* as such, each once; a list may be *encoded* once."""
    found: dict[str, None] = {}
    if isinstance(value, str):
        if named and _URL.match(value.strip()):
            found[value.strip()] = None
        elif named and encoded:
            found |= _urls(unwrap_json(value), encoded=False)
    elif isinstance(value, Mapping):
        for name, member in value.items():
            words = [word.lower() for word in _WORDS.split(name)]
            if _NO_FILES.isdisjoint(words):
                found |= _urls(member, named=_FILES.fullmatch(words[-1]) is not None, encoded=encoded)
    elif isinstance(value, list):
        for member in value:
            found |= _urls(member, named=named, encoded=encoded)
    return found


# -- broken records --

#: The members of records, as documented and recorded.
_NAMES = (
    *("taskId", "model", "state", "param", "paramJson", "resultJson", "response", "failCode", "failMsg"),
    *("costTime", "completeTime", "createTime", "updateTime", "progress", "creditsConsumed", "consumeCredits"),
    *("remainedCredits", "operationType", "successFlag", "status", "type", "errorCode", "errorMessage"),
    # Of the echoes alone: otherwise an echo could end before it, and a member of an unknown name hold what follows.
    "callBackUrl",
)
_RECORD = Layout(
    names=_NAMES,
    # Every recorded record has these, old ones, too. Of the others, only their surroundings prove that they are there.
    always=frozenset({*_NAMES[:4], "resultJson", "failCode", "failMsg", "costTime", "completeTime", "createTime"}),
    plain=frozenset({"taskId", "state", "operationType", "callBackUrl"}),
    documents=frozenset({"param", "paramJson", "resultJson", "response"}),
)
_SIMPLE = r'"\w+"\s*:\s*(?:-?\d+|null|true|false|"[^"\\]*")'
#: An envelope before and after its data.
_BEFORE_DATA = re.compile(rf'(\s*\{{\s*(?:{_SIMPLE}\s*,\s*)*)"data"\s*:\s*(?=\{{)')
_AFTER_DATA = re.compile(rf"\}}((?:\s*,\s*{_SIMPLE})*\s*\}}\s*)")


def read_record_body(body: bytes) -> tuple[Envelope | None, TaskRecord | None]:
    """
    Read the whole body of an answer to ``recordInfo``, even if strings in it are broken.

    The service echoes the request in ``param`` and ``paramJson``, and has been seen to escape them so that the body is
    not JSON. What the text of a request could have written is not read: see ``read_broken_object``.

    Args:
        body: The answer's body.

    Returns:
        The envelope and its record, or None for each that is missing. Both are None if the state or the result of a
        broken body is in doubt.
    """
    try:
        document = _unmarked(body)
        try:
            envelope = _read_sound(document)
        except ValueError:
            envelope = _repaired(document)
    except ValueError:
        return None, None
    return envelope, None if envelope is None else read_record(envelope)


def _read_sound(document: str) -> Envelope | None:
    """Decode an envelope in which no name occurs twice, only data has a record's members, and no JSON is broken."""
    decoded = decode_unique(document)
    others = {name: value for name, value in decoded.items() if name != "data"} if isinstance(decoded, Mapping) else {}
    nested = _encode([value for value in others.values() if isinstance(value, (Mapping, list))])
    if _RECORD.first.search(nested) or _RECORD.later.search(nested):
        msg = "a text has closed the data, and opened another object for the rest"
        raise ValueError(msg)
    envelope = _envelope(decoded)
    data = {} if envelope is None or not isinstance(envelope.data, Mapping) else envelope.data
    echoes = [echo for name in ("param", "paramJson") if isinstance(echo := data.get(name), str)]
    if any(_is_broken(echo) for echo in echoes if echo.lstrip().startswith("{")):
        msg = "an echo is broken, so its text may have written members"
        raise ValueError(msg)
    if data.get("state") == TaskState.SUCCESS and _is_broken(data.get("resultJson")) and _result(data) == (None, ()):
        # Strings in the result may be broken, too. It is there, so this is not a success without a result.
        msg = "the result is in doubt"
        raise ValueError(msg)
    return envelope


def _read_broken(document: str) -> tuple[Mapping[str, JSON], dict[str, JSON], dict[str, str | None]]:
    """Return the members of a broken envelope other than its data, and the members of its data, sure and in doubt."""
    before = _BEFORE_DATA.match(document)
    end = document.rfind("}", 0, document.rfind("}"))
    after = _AFTER_DATA.fullmatch(document, max(end, 0))
    if before is None or after is None:
        msg = "not an envelope"
        raise ValueError(msg)
    outer = decode_unique(f'{before[1]}"data":null{after[1]}')
    data, doubtful = read_broken_object(document, before.end(), end, _RECORD)
    return outer if isinstance(outer, Mapping) else {}, data, doubtful


def _repaired(document: str) -> Envelope:
    outer, data, doubtful = _read_broken(document)
    # Each record has a resultJson: one that is not found is not known to be missing.
    found, sure = data.get("resultJson"), "resultJson" in data
    if _is_broken(found):
        sure = False
    elif (shown := doubtful.get("resultJson")) is not None and _only_urls(unwrap_json(shown)):
        data["resultJson"], sure = shown, True
    # The text of an echo is kept: it proves which job a task belongs to, and decides nothing else.
    data |= {name: echo for name in ("param", "paramJson") if (echo := doubtful.get(name)) is not None}
    result, urls = _result(data)
    known = bool(text(data.get("state"))) and {"taskId", "state"}.isdisjoint(doubtful)
    if data.get("state") == TaskState.SUCCESS:
        # The place of resultJson must be known, and where it is broken or empty, response is needed.
        known &= doubtful.get("resultJson", "") is not None
        known &= bool(urls) or (sure and (result is not None or "response" not in doubtful))
    envelope = _envelope({**outer, "data": data})
    if not known or envelope is None:
        msg = "the state or the result is in doubt"
        raise ValueError(msg)
    return envelope


def _is_broken(found: JSON) -> bool:
    """Return True if a result has a text that cannot be read."""
    return isinstance(found, str) and bool(found.strip()) and unwrap_json(found) is found and not _URL.match(found)


def _only_urls(result: JSON) -> bool:
    """Return True for lists of URLs in an object: such a result has no text in which other members could be written."""
    lists = list(result.values()) if isinstance(result, Mapping) else []
    return bool(lists) and all(
        isinstance(urls, list) and all(isinstance(url, str) and _URL.match(url) for url in urls) for urls in lists
    )


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
    if envelope is None or envelope.code not in {None, *_SUCCESSES}:
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
    """Return the account's balance in credits, or None if there is none, or no success."""
    return number(envelope.data) if envelope.code in _SUCCESSES else None


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
