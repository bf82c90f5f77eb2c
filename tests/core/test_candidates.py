"""The ids in odd answers to creates, and the proof whose tasks they are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.candidates import confirms_answer, read_candidates
from kie_async._core.lifecycle import Intent
from kie_async.records import JSON, TaskRecord
from tests.strategies import json_values

ID = "a" * 32
NOW = 1_800_000_000.0
SECRET = b"secret"
INPUT = {"prompt": "a cat"}
ROW = Intent(
    id="kj_1", model="m", input=json.dumps(INPUT), fingerprint="f", created_at=NOW, updated_at=NOW, sending_at=NOW
)


def record(param: JSON, created_at: float | None = NOW) -> TaskRecord:
    return TaskRecord(task_id=ID, state="waiting", created_at=created_at, raw={"param": param})


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"code":500,"data":{"taskId":"a","recordId":"b","task_id":3,"id":"d"}}', ("a", "3", "b", "d")),
        (b'{"taskId":"a","data":{"taskId":"a"}}', ("a",)),
        (b'{"data":[{"id":"a"},["task_wan_1"],"b"]}', ("a", "task_wan_1")),
        (b'["' + ID.encode() + b'"]', (ID,)),
        (b'{"data":"' + ID.encode() + b'"}', (ID,)),
        (b'{"taskId":["a","b",null]}', ("a", "b")),
        (b'{"data":["' + b'","'.join(b"task_%d" % n for n in range(9)) + b'"]}', tuple(f"task_{n}" for n in range(4))),
        (b'{"data":{"taskId":"a","ta', ("a",)),
        (b'{"data":{"taskId":12345}} x', ("12345",)),
        (b'{"data":{"taskId":12345', ()),
        (b'{"data":{"taskId":"abc', ()),
        (b'{"id":"request-7","error":"no route"}', ()),
        (b'{"data":"not found"}', ()),
        (b'{"data":{"taskId":"no task"}}', ()),
        (b'{"data":{"taskId":true,"id":1.5}}', ()),
        (b' <html>{"taskId":"a"}', ()),
        (b"", ()),
        (b"null", ()),
    ],
)
def test_ids_are_read_from_every_place(body: bytes, found: tuple[str, ...]) -> None:
    assert found == read_candidates(body)
    assert found == read_candidates(b"\xef\xbb\xbf" + body)


@given(st.binary() | json_values().map(lambda value: json.dumps(value).encode()))
def test_no_body_raises_and_candidates_are_few_ids(body: bytes) -> None:
    found = read_candidates(body)

    assert len(found) == len(set(found)) <= 4
    assert all(0 < len(task_id) <= 256 and task_id.isascii() and not task_id.isspace() for task_id in found)


@pytest.mark.parametrize(
    ("param", "created_at", "proved"),
    [
        (json.dumps({"model": "m", "input": {**INPUT, "seed": 0}}), NOW, True),
        (json.dumps({"model": "m", "input": json.dumps(INPUT)}), None, True),
        (json.dumps({"model": "m", "input": INPUT}), NOW - 3600.0, True),
        (json.dumps({"model": "m", "input": INPUT}), NOW - 86_400.0, False),
        (json.dumps({"model": "other", "input": INPUT}), NOW, False),
        (json.dumps({"model": "m", "input": {"prompt": "a dog"}}), NOW, False),
        (None, NOW, None),
        ("{broken", NOW, None),
    ],
)
def test_model_input_and_time_prove_whose_task_it_is(
    param: JSON, created_at: float | None, *, proved: bool | None
) -> None:
    assert proved is confirms_answer(record(param, created_at), ROW, SECRET)
