"""Test errors of jobs: failures worth a retry, results, and errors in the journal."""

from __future__ import annotations

import inspect
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kie_async import errors
from kie_async._core.job_errors import (
    closed_error,
    dump_error,
    failed_task_error,
    has_result,
    load_error,
    no_result_error,
    not_admitted_error,
    poll_error,
    worth_retrying,
)
from kie_async._core.poll_results import PollVerdict
from kie_async._core.verdicts import MAX_SERVICE_MESSAGE
from kie_async._core.wire import read_envelope, read_record
from kie_async.records import TaskRecord
from tests.strategies import json_values, records, texts

ID = "a" * 32

#: Recorded failures: code, message, and True if a retry may succeed.
RECORDED = (
    ("500", "Internal Error, Please try again later.", True),
    ("500", "internal error, please try again later", True),
    ("500", "the server is busy", True),
    ("500", "The upstream API service timed out and no results were returned, please try again.", True),
    ("500", "Sora official service is currently under heavy load and not responding. Please try again later.", True),
    ("500", "the output video may be related to copyright restrictions", False),
    ("500", "first/last frame content cannot be mixed with reference media content", False),
    ("400", "The current content could not be processed", False),
    ("400", "No valid characters detected in the video", False),
    ("400", "When reference_video is given, ratio must be adaptive and duration must be -1", False),
    ("422", "CONTENT_POLICY_BLOCKED: The input or output was flagged as sensitive.", False),
    ("422", "Your media file is unavailable, please replace it.", False),
    ("422", "task id is blank", True),
    ("501", "Playground task failed.", False),
)


def failed(code: object, message: object, **more: object) -> TaskRecord:
    """Return a failed record as the wire reads it."""
    return recorded(state="fail", failCode=code, failMsg=message, **more)


def recorded(**data: object) -> TaskRecord:
    """Return a record as the wire reads it."""
    body = json.dumps({"code": 200, "msg": "success", "data": {"taskId": ID, **data}}).encode()
    envelope = read_envelope(body)
    assert envelope is not None
    record = read_record(envelope)
    assert record is not None
    return record


# -- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "message", "again"), RECORDED)
def test_temporary_recorded_failures_are_worth_retrying(code: str, message: str, again: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    record = failed(code, message, creditsConsumed=0)

    assert again is worth_retrying(record)
    assert again is failed_task_error(record, job_id=None).worth_retrying


@pytest.mark.parametrize(
    "message",
    [
        "Your media file is unavailable, please replace it.",
        "The image URL has expired",
        "input.image_url cannot be accessed",
        "Failed to download the reference image",
        "failed to fetch input file from url",
        "The link is no longer accessible.",
        "File not found",
    ],
)
def test_lost_upload_is_worth_retrying_if_it_is_ours(message: str) -> None:
    """A new task of the same request uploads it again; a URL of the caller stays lost."""
    for code in ("422", "400", "500"):
        record = failed(code, message, creditsConsumed=0)

        assert [True, False] == [worth_retrying(record, uploaded=uploaded) for uploaded in (True, False)]
        assert "uploads it again" in failed_task_error(record, job_id=None, uploaded=True).message
        assert "Replace the URLs" in failed_task_error(record, job_id=None).message
        assert not worth_retrying(failed(code, message, creditsConsumed=8.0), uploaded=True)


@pytest.mark.parametrize(
    "message", ["The model is unavailable", "the image is too large", "Image was flagged", "profile not found", ""]
)
def test_other_faults_are_no_lost_upload(message: str) -> None:
    record = failed("422", message)

    assert not worth_retrying(record, uploaded=True)
    assert failed_task_error(record, job_id=None, uploaded=True).message.endswith(
        "Change the request before you retry."
    )


@pytest.mark.parametrize("credits", [None, 0, 0.0])
def test_paid_failures_are_not_worth_retrying(credits: float | None) -> None:
    assert worth_retrying(failed("500", "the server is busy", creditsConsumed=credits))
    assert not worth_retrying(failed("500", "the server is busy", creditsConsumed=38.0))


@pytest.mark.parametrize(("code", "message", "again"), RECORDED)
def test_failure_quotes_the_service_and_a_next_step(
    code: str,
    message: str,
    again: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    error = failed_task_error(failed(code, message), job_id="kj_1")
    advice = "A new task of the same request may succeed." if again else "Change the request before you retry."
    if "media file" in message:
        advice = "Replace the URLs of the request; the service keeps uploads for 24 hours, so upload the file again."

    assert f"The generation has failed with code {code}: {message.rstrip('.')}. {advice}" == error.message
    assert (code, message, ID, "kj_1") == (error.fail_code, error.fail_message, error.task_id, error.job_id)


def test_failure_without_a_reason() -> None:
    error = failed_task_error(failed(None, ""), job_id=None)

    assert (None, None) == (error.fail_code, error.fail_message)
    assert "no reason given. Change the request" in error.message


@given(records)
def test_every_failure_has_a_next_step(record: TaskRecord) -> None:
    error = failed_task_error(record, job_id=None)

    assert worth_retrying(record) is error.worth_retrying
    assert error.message.endswith(("may succeed.", "before you retry."))


def test_long_service_messages_are_cut_in_the_text() -> None:
    error = failed_task_error(failed("500", "x" * 100_000), job_id=None)

    assert len(error.message) < MAX_SERVICE_MESSAGE + 200
    assert "x" * 100_000 == error.fail_message


# -- results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "there"),
    [
        ('{"resultUrls":["https://x.example/1.mp4"]}', True),
        ({"resultUrls": ["https://x.example/1.mp4"]}, True),
        ('{"resultUrls":"https://x.example/1.mp4"}', True),
        ('["https://x.example/1.mp4"]', True),
        ('"https://x.example/1.mp4"', True),
        ('{"resultObject":{"text":"A cat."}}', True),
        ('{"resultUrls":[],"resultObject":{"text":"A cat."}}', True),
        ("", False),
        (None, False),
        ("{broken", False),
        ("{}", False),
        ("[]", False),
        ("null", False),
        ('{"resultUrls":[]}', False),
        ('{"resultUrls":null}', False),
        ('{"resultUrls":[],"firstFrameUrl":[],"lastFrameUrl":[]}', False),
        ('{"resultUrls":[""]}', False),
        ('{"resultUrls":[null]}', False),
        ('{"resultObject":{}}', False),
        ('{"code":200,"data":[{"audio_url":"https://x.example/1.mp3"}],"msg":"success","task_id":"1"}', True),
        ('{"code":200,"data":[],"msg":"success","task_id":"1"}', False),
    ],
)
def test_a_result_is_urls_or_an_object(result: object, there: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    assert there is has_result(recorded(state="success", resultJson=result))


def test_a_record_without_result_json_has_no_result() -> None:
    assert not has_result(recorded(state="success"))


@given(records)
def test_urls_are_a_result(record: TaskRecord) -> None:
    assert has_result(record) or not record.result_urls


def test_no_result_error_points_to_the_logs() -> None:
    error = no_result_error(recorded(state="success"), job_id="kj_1")

    assert errors.NoResultError is type(error)
    assert (ID, "kj_1") == (error.task_id, error.job_id)
    assert error.message.endswith("Look it up at kie.ai/logs.")


@pytest.mark.parametrize(
    ("verdict", "kind", "code"),
    [
        (PollVerdict.NOT_VISIBLE, errors.TaskNotFoundError, None),
        (PollVerdict.DENIED, errors.AuthenticationError, 401),
        (PollVerdict.RATE_LIMITED, errors.RateLimitError, 429),
        (PollVerdict.UNREADABLE, errors.ProtocolError, None),
    ],
)
def test_each_poll_verdict_has_its_error(verdict: PollVerdict, kind: type[errors.KieError], code: int | None) -> None:
    error = poll_error(verdict, job_id="kj_1", task_id=ID)

    assert kind is type(error)
    assert code == getattr(error, "code", None)
    assert ("kj_1", ID) == (error.job_id, error.task_id)


def test_closed_error_has_the_ids_and_a_next_step() -> None:
    error = closed_error(job_id="kj_1", task_id=ID)

    assert ("kj_1", ID) == (error.job_id, error.task_id)
    assert "Enter `async with` again" in error.message


# -- errors in the journal ----------------------------------------------------------------------------------------

#: Every error that needs only its message; ``SubmitInDoubtError`` needs its job, which is a row of its own.
CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.KieError) and kind is not errors.SubmitInDoubtError
]
#: The errors that a create can end with; they keep their class in the journal.
ENDINGS = {
    errors.APIError,
    errors.AuthenticationError,
    errors.ConfigurationError,
    errors.BudgetExceededError,
    errors.InsufficientCreditsError,
    errors.InvalidRequestError,
    errors.KeyLimitError,
    errors.MaintenanceError,
    errors.ModelPausedError,
    errors.RateLimitError,
    errors.ServerError,
    errors.TransportError,
    errors.UploadError,
}


@pytest.mark.parametrize("kind", CLASSES)
@given(message=texts, code=st.none() | st.integers(-1, 999), quote=texts)
def test_errors_survive_the_journal(kind: type[errors.KieError], message: str, code: int | None, quote: str) -> None:
    """An error that no create ends with is read as a plain ``KieError`` with the same message."""
    api = issubclass(kind, errors.APIError)
    error = kind(message, code=code, service_message=quote) if issubclass(kind, errors.APIError) else kind(message)
    loaded = load_error(dump_error(error), job_id="kj_1", task_id=ID)

    assert (kind if kind in ENDINGS else errors.KieError) is type(loaded)
    assert message == loaded.message
    assert ("kj_1", ID) == (loaded.job_id, loaded.task_id)
    if api and isinstance(loaded, errors.APIError):
        assert (code, quote) == (loaded.code, loaded.service_message)


#: JSON that does not begin with a class name and a message.
_other_json = (
    (json_values() | st.lists(json_values(), min_size=4, max_size=4))
    .filter(lambda found: not (isinstance(found, list) and all(isinstance(part, str) for part in found[:2])))
    .map(json.dumps)
)


@given(texts)
@example("\ud800")
def test_dumped_errors_are_valid_utf_8(message: str) -> None:
    """The service's JSON can hold half a surrogate pair, which UTF-8 cannot."""
    assert dump_error(errors.ServerError(message, service_message=message)).encode("utf-8")


@given(texts | _other_json)
def test_other_texts_become_plain_errors(text: str) -> None:
    error = load_error(text, job_id="kj_1")

    assert errors.KieError is type(error)
    assert (text or NO_REASON) == error.message


@pytest.mark.parametrize(
    "text",
    [
        "HTTP 502, code None",
        '"abcd"',
        "[1,2,3]",
        '[["a"],"b",3,"c"]',
        '["ServerError",1,null,""]',
        '{"a":1,"b":2,"c":3,"d":4}',
        "[" * 100_000,
    ],
)
def test_free_texts_are_kept(text: str) -> None:
    assert text == load_error(text, job_id="kj_1").message


NO_REASON = "The job has ended, and the journal does not say why. Submit it again."


@pytest.mark.parametrize("text", [None, ""])
def test_a_row_without_an_error_text(text: str | None) -> None:
    assert NO_REASON == load_error(text, job_id="kj_1").message


@pytest.mark.parametrize(
    ("limited", "kind", "code"), [(True, errors.RateLimitError, 429), (False, errors.MaintenanceError, 455)]
)
def test_a_job_that_was_not_admitted_cost_nothing(kind: type[errors.APIError], code: int, *, limited: bool) -> None:
    error = not_admitted_error(90.0, limited=limited, job_id="kj_1")

    assert (kind, code, "kj_1") == (type(error), error.code, error.job_id)
    assert "more than 90 s. Nothing was paid" in error.message


def test_a_poll_that_timed_out_at_the_service_says_that_the_task_continues() -> None:
    error = poll_error(PollVerdict.TIMED_OUT, job_id="kj_1", task_id=ID)

    assert isinstance(error, errors.ServerError)
    assert (408, "kj_1", ID) == (error.code, error.job_id, error.task_id)
    assert "may still end" in error.message
