"""The meaning of an answer to ``recordInfo``, from its bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kie_async._core.poll_results import PollResult, PollVerdict, judge_poll
from kie_async._core.wire import read_record_body
from kie_async.records import JSON
from tests.core.strategies import statuses
from tests.strategies import json_objects, json_values

ID = "a" * 32


def poll(body: bytes, status: int = 200) -> PollResult:
    """Judge an answer to a poll of ``ID``."""
    envelope, record = read_record_body(body)
    return judge_poll(task_id=ID, status=status, envelope=envelope, record=record)


def answer(code: object, data: object, message: str = "") -> bytes:
    return json.dumps({"code": code, "msg": message, "data": data}).encode()


@given(st.integers(100, 599), st.integers(-1, 999) | st.none(), st.text(max_size=10))
def test_a_record_counts_whatever_the_codes_are(status: int, code: int | None, state: str) -> None:
    """A failed task was recorded with code 501 around it; unknown states are states, but an empty one under 501."""
    assume(state or code != 501)
    shown = poll(answer(code, {"taskId": ID, "state": state}), status)

    assert PollVerdict.RECORD is shown.verdict
    assert shown.record is not None
    assert (ID, state) == (shown.record.task_id, shown.record.state)


@given(st.text("0123456789abcdef", min_size=1, max_size=32).filter(lambda other: other != ID))
def test_the_record_of_another_task_is_unreadable(other: str) -> None:
    assert PollResult(PollVerdict.UNREADABLE) == poll(answer(200, {"taskId": other, "state": "success"}))


@pytest.mark.parametrize("state", ["waiting", "generating", "success", "fail", "a new state"])
@pytest.mark.parametrize(
    "ids",
    [
        {},
        {"taskId": None},
        {"taskId": ""},
        {"taskId": " \n"},
        {"taskId": f" {ID} "},
        {"task_id": ID},
        {"recordId": "another"},
        {"taskId": None, "response": {"taskId": "of the provider"}, "resultJson": '{"task_id":"of the provider"}'},
    ],
)
@pytest.mark.parametrize("code", [200, 501])
def test_a_record_without_an_id_answers_our_question(code: int, ids: dict[str, object], state: str) -> None:
    shown = poll(answer(code, {**ids, "state": state}))

    assert PollVerdict.RECORD is shown.verdict
    assert shown.record is not None
    assert (ID, state) == (shown.record.task_id, shown.record.state)


@pytest.mark.parametrize(
    "ids",
    [
        {"taskId": "another"},
        {"taskId": 5},
        {"taskId": f"{ID} {ID}"},
        {"taskId": True},
        {"taskId": [ID]},
        {"taskId": {"id": ID}},
        {"task_id": "another"},
        {"taskId": "", "task_id": "another"},
    ],
)
def test_a_record_with_another_id_is_refused_with_a_reason(ids: dict[str, object]) -> None:
    shown = poll(answer(200, {**ids, "state": "success"}))

    assert PollResult(PollVerdict.UNREADABLE) == shown
    assert "task" in shown.reason


def test_an_id_may_be_a_number() -> None:
    body = answer(200, {"taskId": 42, "state": "fail"})
    envelope, record = read_record_body(body)

    assert PollVerdict.RECORD is judge_poll(task_id="42", status=200, envelope=envelope, record=record).verdict


@given(
    statuses,
    st.binary() | json_values().map(json.dumps).map(str.encode) | json_objects().map(json.dumps).map(str.encode),
)
def test_any_answer_is_judged(status: int, body: bytes) -> None:
    """Only the verdict RECORD has a record."""
    shown = poll(body, status)

    assert (shown.record is not None) is (shown.verdict is PollVerdict.RECORD)
    assert bool(shown.reason) is (shown.record is None)


@pytest.mark.parametrize(
    "body",
    [
        answer(422, None, "recordInfo is null"),
        answer(404, None, "Task not found"),
        answer(200, None, "success"),
        b'{"code":200,"msg":"success"}',
        answer(422, None, "The record does not exist"),
    ],
)
@pytest.mark.parametrize("status", [200, 404, 422])
def test_an_unknown_task_is_not_visible(status: int, body: bytes) -> None:
    """All recorded or documented forms; the code in the body decides, whatever the HTTP status is."""
    assert PollResult(PollVerdict.NOT_VISIBLE) == poll(body, status)


@pytest.mark.parametrize("status", [200, 400, 404, 422, 500, 502, 503, 504, 520])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><h1>Not Found</h1></html>",
        b"{}",
        b"[]",
        b"null",
        b'{"error":"bad gateway"}',
        b'{"code":200,"data":{"taskId":"aaa',
        b'{"code":null,"msg":"recordInfo is null","data":null}',
        answer(200, "success"),
        answer(200, {}),
        answer(200, {"model": "suno"}),
        answer(200, {"state": ""}),
        answer(200, {"state": None, "successFlag": 1}),
        answer(500, None, "Server exception"),
        answer(455, None, "maintenance"),
        answer(777, None, "what?"),
    ],
)
def test_other_answers_are_unreadable(status: int, body: bytes) -> None:
    """A proxy's page is not an answer of the service, even with status 404."""
    assert PollResult(PollVerdict.UNREADABLE) == poll(body, status)


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, answer(429, None, "Your call frequency is too high."), PollVerdict.RATE_LIMITED),
        (429, b"<html>", PollVerdict.RATE_LIMITED),
        (429, b"{}", PollVerdict.RATE_LIMITED),
        (200, answer(401, None, "You do not have access permissions"), PollVerdict.DENIED),
        (401, b"", PollVerdict.UNREADABLE),
        (401, b"<html>", PollVerdict.UNREADABLE),
        (401, b'{"error":"unauthorized"}', PollVerdict.UNREADABLE),
        (401, b'{"code":"UNAUTHENTICATED"}', PollVerdict.UNREADABLE),
        (401, answer(200, {}), PollVerdict.UNREADABLE),
        (407, b"", PollVerdict.UNREADABLE),
        (200, answer("401", None), PollVerdict.DENIED),
        (200, answer(402, None), PollVerdict.UNREADABLE),
        (200, answer(433, None), PollVerdict.UNREADABLE),
        (200, answer(430, None, "Your call frequency is too high."), PollVerdict.RATE_LIMITED),
        (200, answer(408, None, "upstream"), PollVerdict.TIMED_OUT),
        (504, answer(408, None, "upstream"), PollVerdict.TIMED_OUT),
        (408, b"", PollVerdict.UNREADABLE),
        (429, answer(401, None), PollVerdict.DENIED),
        (401, answer(429, None), PollVerdict.RATE_LIMITED),
    ],
)
def test_refusals_are_judged_by_body_then_status(status: int, body: bytes, verdict: PollVerdict) -> None:
    assert PollResult(verdict) == poll(body, status)


def test_a_body_broken_within_param_has_a_record() -> None:
    body = f'{{"code":200,"msg":"success","data":{{"taskId":"{ID}","param":"{{"input":"x"}}","state":"fail"}}}}'
    shown = poll(body.encode())

    assert PollVerdict.RECORD is shown.verdict
    assert shown.record is not None
    assert shown.record.failed


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("data", [None, {}, "", {"taskId": ID}, {"taskId": ID, "state": ""}])
@pytest.mark.parametrize("code", [501, 531, "501"])
def test_a_failure_in_the_code_alone_is_the_end_of_the_task(code: int | str, data: JSON, status: int) -> None:
    record = poll(answer(code, data, "Playground task failed."), status).record

    assert record is not None
    assert (ID, True, str(code), "Playground task failed.") == (
        record.task_id,
        record.failed,
        record.fail_code,
        record.fail_message,
    )


@pytest.mark.parametrize(
    "data", [{"taskId": "other"}, {"task_id": "other"}, {"taskId": "other", "state": "fail"}, {"model": "suno"}, [1]]
)
def test_a_failure_of_another_task_is_not_ours(data: JSON) -> None:
    assert PollVerdict.UNREADABLE is poll(answer(501, data)).verdict


@pytest.mark.parametrize("state", ["generating", "success"])
def test_a_state_counts_more_than_a_code_of_failure(state: str) -> None:
    record = poll(answer(501, {"taskId": ID, "state": state})).record

    assert record is not None
    assert state == record.state
