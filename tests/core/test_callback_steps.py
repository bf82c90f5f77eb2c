"""The next step after a genuine callback: at most a poll, and a proof if the task is not known to be the job's."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kie_async import JSON, TaskRecord
from kie_async._core.callback_token import make_callback_url
from kie_async._core.callback_validation import CallbackStep, echoes_token, lost_row, next_step
from kie_async._core.lifecycle import Intent
from kie_async.states import JobState
from tests.core.strategies import attempts, job_ids, secrets
from tests.strategies import hostile_data, json_values, task_ids

SECRET = b"a secret"
JOB = "kj_" + "0123456789abcdef" * 2
BASE = "https://app.example.com/kie"

_rows = st.builds(
    Intent,
    id=job_ids,
    model=st.just("wan/2-2"),
    input=st.just("{}"),
    fingerprint=st.just("f"),
    created_at=st.just(0.0),
    updated_at=st.just(0.0),
    state=st.sampled_from(JobState),
    task_id=st.none() | task_ids,
    record=st.none() | st.just("{}"),
    duplicate_task_ids=st.lists(task_ids, max_size=3).map(tuple),
    callback_task_ids=st.lists(task_ids, max_size=3).map(tuple),
)


def make_row(
    *, task_id: str | None = None, record: str | None = None, duplicate_task_ids: tuple[str, ...] = ()
) -> Intent:
    """Make a row with what is known of its task."""
    return Intent(
        id=JOB,
        model="wan/2-2",
        input="{}",
        fingerprint="f",
        created_at=0.0,
        updated_at=0.0,
        task_id=task_id,
        record=record,
        duplicate_task_ids=duplicate_task_ids,
    )


def record_with(param: JSON) -> TaskRecord:
    """Make the record of a task that was created with *param*."""
    return TaskRecord(task_id="a", state="success", raw={"taskId": "a", "param": param})


# -- steps --------------------------------------------------------------------------------------------------------


@given(_rows, task_ids)
def test_an_unknown_task_must_be_proved(intent: Intent, task_id: str) -> None:
    """Neither state, record nor an earlier callback binds a task: anyone may have posted the callback."""
    assume(task_id != intent.task_id and task_id not in intent.duplicate_task_ids)

    assert CallbackStep.PROVE is next_step(intent, task_id)
    assert CallbackStep.PROVE is next_step(
        attrs.evolve(intent, callback_task_ids=(*intent.callback_task_ids, task_id)), task_id
    )


@given(_rows, st.data())
def test_a_known_end_or_duplicate_needs_nothing(intent: Intent, data: st.DataObject) -> None:
    """A duplicate was reported when it was found; a journaled end is final."""
    ended = [intent.task_id] if intent.task_id is not None and intent.record is not None else []
    assume(ended or intent.duplicate_task_ids)

    assert CallbackStep.NOTHING is next_step(intent, data.draw(st.sampled_from([*ended, *intent.duplicate_task_ids])))


@given(_rows, task_ids)
def test_its_own_task_is_confirmed_until_it_has_ended(intent: Intent, task_id: str) -> None:
    """In any state of the row: a stalled job may still end."""
    assume(task_id not in intent.duplicate_task_ids)

    assert CallbackStep.CONFIRM is next_step(attrs.evolve(intent, task_id=task_id, record=None), task_id)
    assert CallbackStep.NOTHING is next_step(attrs.evolve(intent, task_id=task_id, record="{}"), task_id)


@pytest.mark.parametrize(
    ("known", "step"),
    [
        (make_row(), CallbackStep.PROVE),
        (make_row(task_id="other"), CallbackStep.PROVE),
        (make_row(task_id="other", record="{}"), CallbackStep.PROVE),
        (make_row(task_id="task"), CallbackStep.CONFIRM),
        (make_row(task_id="task", record="{}"), CallbackStep.NOTHING),
        (make_row(task_id="other", duplicate_task_ids=("third", "task")), CallbackStep.NOTHING),
        (make_row(task_id="other", duplicate_task_ids=("third",)), CallbackStep.PROVE),
        (make_row(duplicate_task_ids=("task",)), CallbackStep.NOTHING),
    ],
)
def test_steps_are_those_of_the_table(known: Intent, step: CallbackStep) -> None:
    assert step is next_step(known, "task")


# -- echoes -------------------------------------------------------------------------------------------------------


@given(secrets, job_ids, attempts, json_values())
def test_a_record_with_our_token_belongs_to_the_job(
    secret: bytes, job_id: str, attempt: int, given_input: JSON
) -> None:
    """The service encodes the echo once or twice; each attempt of the job has its own token."""
    param: JSON = {"model": "a", "callBackUrl": make_callback_url(BASE, secret, job_id, attempt), "input": given_input}

    assert echoes_token(record_with(param), job_id, secret)
    assert echoes_token(record_with(json.dumps(param)), job_id, secret)
    assert echoes_token(record_with(json.dumps(json.dumps(param))), job_id, secret)


@given(secrets, job_ids, job_ids, attempts)
def test_a_token_of_another_job_does_not_count(secret: bytes, job_id: str, other_id: str, attempt: int) -> None:
    """A task of another job of the account must not be bound to this one."""
    assume(job_id != other_id)
    param = json.dumps({"callBackUrl": make_callback_url(BASE, secret, other_id, attempt)})

    assert not echoes_token(record_with(param), job_id, secret)


@given(job_ids, attempts)
def test_a_token_of_another_secret_does_not_count(job_id: str, attempt: int) -> None:
    """The token of another account, or a guess."""
    param = json.dumps({"callBackUrl": make_callback_url(BASE, b"another secret", job_id, attempt)})

    assert not echoes_token(record_with(param), job_id, SECRET)


@given(hostile_data | st.builds(lambda param: {"param": param}, json_values() | json_values().map(json.dumps)))
def test_no_other_record_counts_or_fails(data: dict[str, JSON]) -> None:
    """No content of a record makes the check raise."""
    assert not echoes_token(TaskRecord(task_id="a", state="success", raw=data), JOB, SECRET)


URL = make_callback_url(BASE, SECRET, JOB, 1)


@pytest.mark.parametrize(
    "param",
    [
        None,
        "",
        "{broken",
        URL,
        [URL],
        json.dumps({"input": {"callBackUrl": URL}}),
        json.dumps({"input": json.dumps({"callBackUrl": URL})}),
        json.dumps({"input": {"prompt": f'","callBackUrl":"{URL}'}}),
        json.dumps({"model": URL}),
        json.dumps({"callbackurl": URL}),
        json.dumps({"callBackUrl": None}),
        json.dumps({"callBackUrl": [URL]}),
        json.dumps({"callBackUrl": {"url": URL}}),
        json.dumps({"callBackUrl": f"https://evil.example/?next={URL}"}),
        json.dumps({"callBackUrl": f"{URL}/more"}),
        json.dumps({"callBackUrl": BASE}),
    ],
)
def test_our_token_counts_only_as_the_callback_url(param: JSON) -> None:
    """A prompt is text of the caller's users: a token in it proves nothing."""
    assert not echoes_token(record_with(param), JOB, SECRET)


def test_lost_row_has_what_the_record_shows() -> None:
    """The attempt is that of the token, also of an older API key's."""
    older = b"older"
    param: JSON = {"model": "a/model", "input": {"prompt": "x"}, "callBackUrl": make_callback_url(BASE, older, JOB, 3)}
    record = attrs.evolve(record_with(param), created_at=5.0)
    row = lost_row(record, JOB, [SECRET, older], now=9.0)

    assert ("a/model", '{"prompt":"x"}', 3, record.task_id) == (row.model, row.input, row.attempts, row.task_id)
    assert BASE == row.callback_url
    assert (JOB, JobState.SUBMITTED, 5.0, 5.0, 9.0) == (
        row.id,
        row.state,
        row.created_at,
        row.sending_at,
        row.accepted_at,
    )


def test_lost_row_of_an_empty_echo_has_the_task() -> None:
    row = lost_row(TaskRecord(task_id="a", state="success", model="a/model"), JOB, [SECRET], now=9.0)

    assert ("a", "a/model", "{}", 1, 9.0) == (row.task_id, row.model, row.input, row.attempts, row.created_at)
