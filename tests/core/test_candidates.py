"""The ids in odd answers to creates, and the proof whose tasks they are."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.callback_token import make_callback_url
from kie_async._core.candidates import confirms_answer, is_task_of, read_candidates
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
        (b'{"data":"{\\"taskId\\":\\"a\\"}"}', ("a",)),
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
        (json.dumps({"model": "other", "input": INPUT}), NOW, None),
        (json.dumps({"model": "m", "input": {"prompt": "a cat "}}), NOW, None),
        (json.dumps({"model": "m", "input": {}}), NOW, None),
        (json.dumps({"model": "m"}), NOW, None),
        (json.dumps({"model": "other", "input": {"prompt": "a dog"}}), NOW, None),
        (json.dumps({"model": "other", "input": {"prompt": "a dog"}}), NOW - 86_400.0, False),
        (None, NOW, None),
        ("{broken", NOW, None),
    ],
)
def test_model_input_and_time_prove_whose_task_it_is(
    param: JSON, created_at: float | None, *, proved: bool | None
) -> None:
    assert proved is confirms_answer(record(param, created_at), ROW, SECRET)


OTHER = "kj_" + "1" * 32
OURS = "kj_" + "0" * 32


@pytest.mark.parametrize(
    ("secret", "job_id", "given", "proved"),
    [
        (SECRET, OURS, {"prompt": "written otherwise"}, True),
        (b"older", OURS, {"prompt": "written otherwise"}, True),
        (b"unknown", OURS, INPUT, True),
        (b"unknown", OURS, {"prompt": "written otherwise"}, None),
        (SECRET, OTHER, INPUT, False),
        (b"older", OTHER, INPUT, False),
        (b"unknown", OTHER, INPUT, False),
    ],
)
@pytest.mark.parametrize("created_at", [NOW, NOW - 86_400.0], ids=["now", "a day before"])
def test_a_known_token_decides_before_input_and_time(
    secret: bytes, job_id: str, given: JSON, created_at: float, *, proved: bool | None
) -> None:
    """An earlier attempt of the job may be older than the latest one."""
    url = make_callback_url("https://app.example.com/kie", secret, job_id, 1)
    found = record(json.dumps({"model": "m", "input": given, "callBackUrl": url}), created_at)
    known = secret != b"unknown"
    expected = proved if known or created_at == NOW else False

    assert expected is confirms_answer(found, attrs.evolve(ROW, id=OURS), SECRET, b"older")


def test_a_journal_without_inputs_needs_a_token() -> None:
    row = attrs.evolve(ROW, id=OURS, input="")
    plain = record(json.dumps({"model": "m", "input": INPUT}))
    url = make_callback_url("https://app.example.com/kie", b"unknown", OURS, 1)
    named = record(json.dumps({"model": "m", "callBackUrl": url}))

    assert (None, True) == (confirms_answer(plain, row, SECRET), confirms_answer(named, row, SECRET))
    assert (False, True) == (is_task_of(plain, row, SECRET), is_task_of(named, row, SECRET))
    assert is_task_of(record(None), row, SECRET) is False


@pytest.mark.parametrize(("job_id", "own"), [(OURS, True), (OTHER, False)])
def test_a_genuine_token_alone_says_whose_task_it_is(job_id: str, *, own: bool) -> None:
    url = make_callback_url("https://app.example.com/kie", SECRET, job_id, 1)
    found = record(json.dumps({"model": "x", "callBackUrl": url}))

    assert own is is_task_of(found, attrs.evolve(ROW, id=OURS), SECRET)
