"""
Candidates: tasks that may belong to an intent: the ids in an odd answer to a create, and the proof whose they are.

An answer with a code of failure, without a code, or cut off may name the task that was paid for. ``recordInfo`` echoes
the create of a task, which proves whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kie_async._core.callback_token import find_token, named_job
from kie_async._core.callback_validation import echoes_input
from kie_async._core.lenient_json import decode, unwrap_json
from kie_async._core.wire import as_task_id, read_param

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent
    from kie_async.records import JSON, TaskRecord

__all__ = ["confirms_answer", "is_task_of", "read_candidates"]

#: The names of members that hold the id of a task; in data and in a list, "id" is one, too.
_NAMES = ("taskId", "task_id", "recordId")
#: An id in an answer that is not JSON: what follows proves that it is complete.
_BROKEN_ID = re.compile(
    r'"(?:taskId|task_id|recordId)"\s*:\s*(?:"([A-Za-z0-9_.:-]{1,256})"|([0-9]{1,256})\s*[,}\]])', re.ASCII
)
#: An id as the service makes them; a string without a name is an id only if it has this form.
_UNNAMED_ID = re.compile(r"[0-9a-f]{32}|task_[A-Za-z0-9_.:-]{1,250}", re.ASCII)
#: The number of candidates of one answer.
_MOST = 4
#: The largest difference between the service's clock and ours that is allowed for, in seconds.
_MAX_CLOCK_SKEW = 2 * 3600.0


def read_candidates(body: bytes) -> tuple[str, ...]:
    """
    Return the ids of tasks that any answer to a create may name, at most four of them, whatever its code is.

    They are read from ``taskId``, ``task_id`` and ``recordId``, at the top, in ``data`` and in lists, from ``data.id``,
    from ``data`` that is JSON in a string, and from a body that is cut off or is followed by other text. A page names
    no task.

    >>> read_candidates(b'{"code":0,"data":[{"id":"1a2b"}]}'), read_candidates(b'{"data":{"taskId":"1a2b","ta')
    (('1a2b',), ('1a2b',))
    """
    body_text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        document = decode(body_text)
    except ValueError:
        is_page = body_text.lstrip().startswith("<")
        found = [] if is_page else [quoted or digits for quoted, digits in _BROKEN_ID.findall(body_text)]
    else:
        found = []
        if isinstance(document, Mapping):
            found += _named_ids({name: document.get(name) for name in _NAMES})
            document = document.get("data")
            inner = unwrap_json(document)
            document = inner if isinstance(inner, (Mapping, list)) else document
        found += _named_ids(document)
    return tuple(dict.fromkeys(found))[:_MOST]


def _named_ids(value: JSON) -> Iterator[str]:
    """Yield the ids that data, or a list in its place, names."""
    if isinstance(value, list):
        for member in value:
            yield from _named_ids(member)
    elif isinstance(value, Mapping):
        for name in (*_NAMES, "id"):
            found = value.get(name)
            for member in found if isinstance(found, list) else [found]:
                if (known := as_task_id(member)) is not None:
                    yield known
    elif isinstance(value, str) and _UNNAMED_ID.fullmatch(value):
        yield value


def is_task_of(record: TaskRecord, row: Intent, secret: bytes, *older: bytes) -> bool:
    """
    Return True if a task was created by an intent.

    Args:
        record: The service's record, which echoes the request in ``param``.

        row: The intent.

        secret: The secret of callback tokens.

        *older: The secrets of other API keys.

    Returns:
        If the echo has a token that names a job: True if it names this one. Otherwise True if model and input are
        equal; the service adds its own defaults to the input. A token of an API key that is not known any more counts
        as proof only together with the model and, where the journal has it, the input.
    """
    param = read_param(record)
    if param is None:
        return False
    url = param.callback_url or ""
    if (token := find_token(secret, url, *older)) is not None:
        return token.job_id == row.id
    named = named_job(url)
    if named not in (None, row.id) or param.model != row.model:
        return False
    return echoes_input(param, row) if row.input else named == row.id


def confirms_answer(record: TaskRecord, row: Intent, secret: bytes, *older: bytes) -> bool | None:
    """
    Return True if a task that the answer to an intent's create has named was created by it; see ``is_task_of``.

    Returns:
        False if the echo has a token of another job, or the task is hours older than the create. None if neither is
        proved: the service may write an input or a model otherwise than it was sent, and to take the task for another
        request's would mean to send the create again, and to pay twice.
    """
    param = read_param(record)
    if param is None:
        return None
    url = param.callback_url or ""
    if (token := find_token(secret, url, *older)) is not None:
        return token.job_id == row.id
    sent_at, created_at = row.sending_at, record.created_at
    is_older = sent_at is not None and created_at is not None and created_at < sent_at - _MAX_CLOCK_SKEW
    if is_older or named_job(url) not in (None, row.id):
        return False
    return is_task_of(record, row, secret, *older) or None
