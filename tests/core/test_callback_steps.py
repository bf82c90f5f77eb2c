"""What a genuine callback asks for: a look at most, and a proof wherever the task is not known to be the job's own."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kie_async import JSON, TaskRecord
from kie_async._core.callback_token import make_callback_url
from kie_async._core.callback_validation import CallbackStep, confirmation_delay, echoes_token, next_step
from kie_async._core.lifecycle import Intent
from kie_async.states import JobState
from tests.core.strategies import attempts, job_ids, secrets
from tests.strategies import json_values, task_ids, wild_data

SECRET = b"a secret"
INTENT = "kj_" + "0123456789abcdef" * 2
BASE = "https://app.example.com/kie"

_intents = st.builds(
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


def row(*, task_id: str | None = None, record: str | None = None, duplicate_task_ids: tuple[str, ...] = ()) -> Intent:
    """A row that knows so much of its task."""
    return Intent(
        id=INTENT,
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
    """What the service says of a task that was created like that."""
    return TaskRecord(task_id="a", state="success", raw={"taskId": "a", "param": param})


# -- steps --------------------------------------------------------------------------------------------------------


@given(_intents, task_ids)
def test_a_task_that_is_not_known_to_be_the_jobs_is_proved_whatever_the_row_says(intent: Intent, task_id: str) -> None:
    """No state, no record and no earlier hint makes a task the job's: a hint is what somebody has posted."""
    assume(task_id != intent.task_id and task_id not in intent.duplicate_task_ids)

    assert CallbackStep.PROVE is next_step(intent, task_id)
    assert CallbackStep.PROVE is next_step(
        attrs.evolve(intent, callback_task_ids=(*intent.callback_task_ids, task_id)), task_id
    )


@given(_intents, st.data())
def test_what_is_known_already_asks_for_nothing(intent: Intent, data: st.DataObject) -> None:
    """A duplicate was reported when it was found; a job whose end is written down has ended."""
    ended = [intent.task_id] if intent.task_id is not None and intent.record is not None else []
    assume(ended or intent.duplicate_task_ids)

    assert CallbackStep.NOTHING is next_step(intent, data.draw(st.sampled_from([*ended, *intent.duplicate_task_ids])))


@given(_intents, task_ids)
def test_the_jobs_own_task_is_confirmed_until_its_end_is_written_down(intent: Intent, task_id: str) -> None:
    """In whatever state the row is: a stalled job may still end."""
    assume(task_id not in intent.duplicate_task_ids)

    assert CallbackStep.CONFIRM is next_step(attrs.evolve(intent, task_id=task_id, record=None), task_id)
    assert CallbackStep.NOTHING is next_step(attrs.evolve(intent, task_id=task_id, record="{}"), task_id)


@pytest.mark.parametrize(
    ("known", "step"),
    [
        (row(), CallbackStep.PROVE),
        (row(task_id="other"), CallbackStep.PROVE),
        (row(task_id="other", record="{}"), CallbackStep.PROVE),
        (row(task_id="task"), CallbackStep.CONFIRM),
        (row(task_id="task", record="{}"), CallbackStep.NOTHING),
        (row(task_id="other", duplicate_task_ids=("third", "task")), CallbackStep.NOTHING),
        (row(task_id="other", duplicate_task_ids=("third",)), CallbackStep.PROVE),
        (row(duplicate_task_ids=("task",)), CallbackStep.NOTHING),
    ],
)
def test_steps_are_those_of_the_table(known: Intent, step: CallbackStep) -> None:
    assert step is next_step(known, "task")


# -- echoes -------------------------------------------------------------------------------------------------------


@given(secrets, job_ids, attempts, json_values())
def test_a_record_that_echoes_our_token_is_the_intents(
    secret: bytes, job_id: str, attempt: int, given_input: JSON
) -> None:
    """The service encodes the echo once or twice; each attempt of the intent has a token of its own."""
    param: JSON = {"model": "a", "callBackUrl": make_callback_url(BASE, secret, job_id, attempt), "input": given_input}

    assert echoes_token(record_with(param), job_id, secret)
    assert echoes_token(record_with(json.dumps(param)), job_id, secret)
    assert echoes_token(record_with(json.dumps(json.dumps(param))), job_id, secret)


@given(secrets, job_ids, job_ids, attempts)
def test_a_record_that_echoes_the_token_of_another_intent_is_not(
    secret: bytes, job_id: str, other_id: str, attempt: int
) -> None:
    """A real task of the account, created by another job: it must not be bound to this one."""
    assume(job_id != other_id)
    param = json.dumps({"callBackUrl": make_callback_url(BASE, secret, other_id, attempt)})

    assert not echoes_token(record_with(param), job_id, secret)


@given(job_ids, attempts)
def test_a_token_that_was_made_without_our_secret_proves_nothing(job_id: str, attempt: int) -> None:
    """What another account's key makes, or a guess."""
    param = json.dumps({"callBackUrl": make_callback_url(BASE, b"another secret", job_id, attempt)})

    assert not echoes_token(record_with(param), job_id, SECRET)


@given(wild_data | st.builds(lambda param: {"param": param}, json_values() | json_values().map(json.dumps)))
def test_whatever_a_record_echoes_it_is_not_ours_by_accident(data: dict[str, JSON]) -> None:
    """And nothing that a record may hold makes the question fail."""
    assert not echoes_token(TaskRecord(task_id="a", state="success", raw=data), INTENT, SECRET)


URL = make_callback_url(BASE, SECRET, INTENT, 1)


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
def test_our_token_counts_only_where_the_create_has_named_its_callback(param: JSON) -> None:
    """A prompt is somebody else's text: what is written there proves nothing."""
    assert not echoes_token(record_with(param), INTENT, SECRET)


# -- pauses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("proved", "most", "within"), [(True, 6, 31.0), (False, 64, 3600.0)])
def test_looks_become_rarer_and_come_to_an_end(proved: bool, most: int, within: float) -> None:  # noqa: FBT001 (a row)
    """A task that is polled anyway is left to that after half a minute; another one is given about an hour."""
    pauses = [confirmation_delay(polls, proved=proved) for polls in range(1, most)]

    assert all(pause is not None for pause in pauses)
    assert pauses == sorted(pauses, key=lambda pause: pause or 0.0)
    assert [1.0, 2.0, 4.0, 8.0] == pauses[:4]
    assert within * 0.9 <= sum(pause or 0.0 for pause in pauses) <= within * 1.1
    assert confirmation_delay(most, proved=proved) is None


@given(st.integers(1, 10_000), st.booleans())
def test_a_pause_is_a_second_to_a_minute_whatever_was_looked_at_before(polls: int, proved: bool) -> None:  # noqa: FBT001 (drawn)
    """So a token that has leaked causes a look a second at most, however often it is posted."""
    pause = confirmation_delay(polls, proved=proved)

    assert pause is None or 1.0 <= pause <= 60.0
    assert pause is not None or confirmation_delay(polls + 1, proved=proved) is None
