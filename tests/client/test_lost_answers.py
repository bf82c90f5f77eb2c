"""A create whose response is lost may have been paid: it is never resent automatically, and never forgotten."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from kie_async import (
    AuthenticationError,
    ConfigurationError,
    EventName,
    KieError,
    ProtocolError,
    RateLimitError,
    RetryPolicy,
    SubmitInDoubtError,
    TaskNotFoundError,
    TaskTimeoutError,
    TransportError,
)
from kie_async.testing import Fault
from tests.helpers import (
    CALLBACKS,
    KEY,
    PROMPT,
    Setup,
    assert_settled,
    client_and_fake,
    create_foreign_task,
    make_request,
    no_keepalive,
)

HOURS = 3600.0

#: The service created the task. These faults lose the response.
LOST: dict[str, dict[str, Any]] = {
    "reset": {"kind": "reset"},
    "closed": {"kind": "close"},
    "silence": {"kind": "silence"},
    "half a status line, then closed": {"kind": "half_status_line"},
    "half a status line, then reset": {"kind": "half_status_line", "disconnect": "reset"},
    "no HTTP at all": {"kind": "garbage"},
    "half a body, then closed": {"kind": "half_body"},
    "half a body, then reset": {"kind": "half_body", "disconnect": "reset"},
    "a byte every five seconds": {"kind": "slow_body", "seconds": 5.0},
    "after 70 seconds": {"kind": "slow", "seconds": 70.0},
    "a 502 page": {"kind": "html"},
    "a 503 page": {"kind": "html", "status": 503},
    "a 504 page": {"kind": "html", "status": 504},
    "a 520 page": {"kind": "html", "status": 520},
    "a 500 page": {"kind": "html", "status": 500},
    "a page with status 200": {"kind": "html", "status": 200},
    "an empty body": {"kind": "body", "body": ""},
    "data: null": {"kind": "null_data"},
    "data without an id": {"kind": "no_task_id"},
    "an id that is true": {"kind": "alter", "data": {"taskId": True, "recordId": None}},
    "an id that is empty": {"kind": "alter", "data": {"taskId": "", "recordId": None}},
    "truncated JSON": {"kind": "truncated_json"},
    "JSON that is no envelope": {"kind": "body", "body": "[200]"},
    "an unknown code": {"kind": "code", "code": 777},
    "two megabytes": {"kind": "body", "body": b"{" + b" " * 2**21},
    "broken gzip": {"kind": "body", "body": b"\x1f\x8b\x08no", "headers": {"Content-Encoding": "gzip"}},
}


def lost(name: str = "reset", **when: Any) -> Fault:
    how = dict(LOST[name])
    return Fault("create", how.pop("kind"), after=True, **how, **when)


async def in_doubt(setup: Setup, number: int = 0) -> SubmitInDoubtError:
    """Submit a request whose response is lost."""
    with pytest.raises(SubmitInDoubtError) as raised:
        await setup.kie.submit(make_request(number))
    return raised.value


@pytest.mark.parametrize("call", ["submit", "generate"])
@pytest.mark.parametrize("name", LOST)
async def test_lost_response_is_reported_and_not_resent(name: str, call: str) -> None:
    """One POST, ``SubmitInDoubtError`` with the job, and no further request in two hours."""
    async with client_and_fake(faults=[lost(name)]) as setup:
        with pytest.raises(SubmitInDoubtError) as raised:
            await getattr(setup.kie, call)(make_request())
        error = raised.value
        row = await setup.row()

        assert anyio.current_time() <= 61.0
        assert (row.id, row.id, None) == (error.job.id, error.job_id, error.task_id)
        assert "not sent again" in str(error)
        assert "in_doubt" == error.job.state == row.state
        assert 1 == len(setup.truth.create_requests) == len(setup.truth.created)
        assert 1 == setup.kie.statistics().in_flight
        await anyio.sleep(2 * HOURS)
        assert 1 == len(setup.truth.create_requests)
        assert "unresolved" == (await setup.row()).state
        await assert_settled(setup.kie)


@pytest.mark.parametrize("how", ["reset", "close", "silence"])
async def test_connection_broken_before_read_is_in_doubt(how: str) -> None:
    """A byte may have been sent, and no exception tells if it arrived."""
    async with client_and_fake(faults=[Fault("connect", how, after_bytes=1, nth=1)]) as setup:  # type: ignore[arg-type]  # a parameter
        await in_doubt(setup)
        await anyio.sleep(2 * HOURS)

        assert [] == setup.truth.create_requests
        assert "unresolved" == (await setup.row()).state
        await assert_settled(setup.kie)


async def test_slot_is_released_after_in_doubt_timeout() -> None:
    """Until then the task may be running at the service, so it counts as in flight."""
    policy = RetryPolicy(in_doubt_timeout=300.0)
    async with client_and_fake(client={"retry": policy, "callback_url": CALLBACKS}, faults=[lost()]) as setup:
        await in_doubt(setup)
        await anyio.sleep(299.0)
        assert 1 == setup.kie.statistics().in_flight
        await anyio.sleep(2.0)
        assert 0 == setup.kie.statistics().in_flight
        assert "in_doubt" == (await setup.row()).state


@pytest.mark.parametrize(
    ("callback_url", "policy", "deadline"),
    [
        (None, RetryPolicy(), 600.0),
        (None, RetryPolicy(in_doubt_timeout=60.0), 60.0),
        (CALLBACKS, RetryPolicy(), 3600.0),
        (CALLBACKS, RetryPolicy(max_age=900.0), 900.0),
    ],
)
async def test_job_in_doubt_becomes_unresolved_at_deadline(
    callback_url: str | None, policy: RetryPolicy, deadline: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline counts from the send: ``max_age`` with a callback URL, ``in_doubt_timeout`` without."""
    async with client_and_fake(client={"retry": policy, "callback_url": callback_url}, faults=[lost()]) as setup:
        error = await in_doubt(setup)
        await anyio.sleep(deadline - 1.0)
        assert "in_doubt" == (await setup.row()).state
        await anyio.sleep(2.0)

        assert "unresolved" == (await setup.row()).state
        assert [error.job.id] == [event.job_id for event in setup.reported(EventName.UNRESOLVED)]
        assert any("is unresolved" in record.message for record in caplog.records)
        with pytest.raises(SubmitInDoubtError):
            await error.job.wait()
        await assert_settled(setup.kie)


async def test_wait_without_callback_url_raises_at_once() -> None:
    async with client_and_fake(faults=[lost()]) as setup:
        error = await in_doubt(setup)
        before = anyio.current_time()
        with pytest.raises(SubmitInDoubtError):
            await error.job
        assert anyio.current_time() - before < 1.0


@pytest.mark.parametrize("call", ["generate", "wait"])
async def test_wait_with_callback_url_lasts_until_deadline(call: str) -> None:
    """A callback may recover the task until then."""
    async with client_and_fake(client={"callback_url": CALLBACKS}, faults=[lost()]) as setup:
        wait = (await in_doubt(setup)).job.wait if call == "wait" else partial(setup.kie.generate, make_request())
        with pytest.raises(SubmitInDoubtError):
            await wait()

        assert 3600.0 <= anyio.current_time() < 3601.0
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("callback_url", [None, CALLBACKS])
@pytest.mark.parametrize("pause", [0.0, 2 * HOURS], ids=["in doubt", "unresolved"])
async def test_resolve_binds_task_and_job_ends(callback_url: str | None, pause: float) -> None:
    """The proof is our token in the echoed callback URL, or the model and input without one."""
    async with client_and_fake(client={"callback_url": callback_url}, faults=[lost()], duration=8 * HOURS) as setup:
        error = await in_doubt(setup)
        await anyio.sleep(pause)
        await error.job.resolve(setup.tasks[0])

        assert setup.tasks[0] == error.job.task_id == (await setup.row()).task_id
        assert "submitted" == error.job.state
        setup.fake.finish(setup.tasks[0])
        video = await error.job
        assert (setup.tasks[0], error.job.id) == (video.task_id, video.job_id)
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_resolve_ends_other_waits() -> None:
    async with client_and_fake(client={"callback_url": CALLBACKS}, faults=[lost()]) as setup:
        found: list[str] = []

        async def wait() -> None:
            found.append((await error.job).task_id)

        error = await in_doubt(setup)
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
            await anyio.sleep(200.0)
            await error.job.resolve(setup.tasks[0])
        assert 2 * setup.tasks == found
        assert anyio.current_time() < 300.0
        await assert_settled(setup.kie)


@pytest.mark.parametrize("callback_url", [None, CALLBACKS])
async def test_resolve_refuses_task_of_another_job(callback_url: str | None) -> None:
    """No task is bound, and the right one still can be."""
    async with client_and_fake(client={"callback_url": callback_url}, faults=[lost(nth=1)]) as setup:
        error = await in_doubt(setup)
        other = await setup.kie.submit(make_request(1))
        assert other.task_id is not None
        with pytest.raises(ConfigurationError, match="another request"):
            await error.job.resolve(other.task_id)

        assert ("in_doubt", None) == (error.job.state, error.job.task_id)
        await error.job.resolve(setup.tasks[0])
        assert setup.tasks[0] == (await error.job).task_id
        assert setup.tasks[1] == (await other).task_id
        await assert_settled(setup.kie)


@pytest.mark.parametrize(
    ("ours", "prompt", "theirs"),
    [
        (None, f"{PROMPT}, take 1", None),
        (None, f"{PROMPT}, take 1", f"{CALLBACKS}/somewhere"),
        (CALLBACKS, f"{PROMPT}, take 1", None),
        (CALLBACKS, f"{PROMPT}, take 1", CALLBACKS),
        (CALLBACKS, f"{PROMPT}, take 0", f"{CALLBACKS}/kj_{'0' * 32}.1.{'A' * 22}"),
    ],
    ids=["another prompt", "another URL", "no URL", "no token", "a forged token"],
)
async def test_resolve_refuses_foreign_task(ours: str | None, prompt: str, theirs: str | None) -> None:
    """Without a token of ours in the echo, model and input are compared; a token that names another job decides."""
    async with client_and_fake(client={"callback_url": ours}, faults=[lost(nth=1)]) as setup:
        error = await in_doubt(setup)
        task_id = await create_foreign_task(setup.fake.url, prompt, theirs)
        with pytest.raises(ConfigurationError, match="another request"):
            await error.job.resolve(task_id)

        assert ("in_doubt", None) == (error.job.state, error.job.task_id)
        setup.truth.tasks.pop(task_id)  # the task is not this client's
        await error.job.resolve(setup.tasks[0])
        await error.job


async def test_resolve_refuses_callback_token_of_a_twin() -> None:
    """This client sent the same request twice, and each task belongs to one job."""
    async with client_and_fake(client={"callback_url": CALLBACKS}, faults=[lost(nth=1)]) as setup:
        error = await in_doubt(setup)
        twin = await setup.kie.submit(make_request(0))
        with pytest.raises(ConfigurationError, match="another request"):
            await error.job.resolve(twin.task_id or "")
        await error.job.resolve(setup.tasks[0])

        assert setup.tasks[0] == (await error.job).task_id
        assert setup.tasks[1] == (await twin).task_id
        setup.truth.tasks[setup.tasks[1]].input = {"prompt": "one prompt for two tasks is no fault here"}


async def test_resolve_refuses_unknown_task_id() -> None:
    async with client_and_fake(faults=[lost()]) as setup:
        error = await in_doubt(setup)
        with pytest.raises(TaskNotFoundError):
            await error.job.resolve("0" * 32)

        assert "in_doubt" == error.job.state


@pytest.mark.parametrize(
    ("poll", "expected"),
    [
        (Fault("poll", "reset", times=2), TransportError),  # aiohttp retries a GET once
        (Fault("poll", "silence", times=3), TransportError),  # a poll without a response is retried twice
        (Fault("poll", "html", times=1), ProtocolError),
        (Fault("poll", "code", code=429, times=1), RateLimitError),
        (Fault("poll", "code", code=401, times=1), AuthenticationError),
    ],
    ids=["reset", "silence", "html", "429", "401"],
)
async def test_unanswered_resolve_changes_nothing(poll: Fault, expected: type[KieError]) -> None:
    """The error does not claim that the service does not know the task."""
    async with client_and_fake(faults=[lost(), poll]) as setup:
        error = await in_doubt(setup)
        with pytest.raises(expected):
            await error.job.resolve(setup.tasks[0])

        assert "in_doubt" == error.job.state
        await error.job.resolve(setup.tasks[0])
        await error.job
        await assert_settled(setup.kie)


async def test_resubmit_requires_allow_duplicate() -> None:
    async with client_and_fake(faults=[lost(nth=1)], credits=1e4) as setup:
        error = await in_doubt(setup)
        with pytest.raises(ConfigurationError, match="allow_duplicate=True"):
            await error.job.resubmit()
        assert 1 == len(setup.truth.create_requests)
        await error.job.resubmit(allow_duplicate=True)
        video = await error.job
        first, second = setup.truth.create_requests

        assert second.task_id == video.task_id
        assert first.body == second.body
        assert ("succeeded", 2) == ((row := await setup.row()).state, row.attempts)
        await assert_settled(setup.kie)
        del setup.truth.tasks[setup.tasks[0]]  # the caller has accepted the first one


async def test_resubmitted_create_has_new_attempt_number() -> None:
    """The number distinguishes a duplicate from the wanted task."""
    async with client_and_fake(client={"callback_url": CALLBACKS}, faults=[lost(nth=1)]) as setup:
        error = await in_doubt(setup)
        await error.job.resubmit(allow_duplicate=True)
        await error.job
        first, second = [str(post.callback_url) for post in setup.truth.create_requests]

        assert first.startswith(f"{CALLBACKS}/{error.job.id}.1.")
        assert second.startswith(f"{CALLBACKS}/{error.job.id}.2.")
        del setup.truth.tasks[setup.tasks[0]]


@pytest.mark.parametrize("pause", [0.0, 2 * HOURS], ids=["in doubt", "unresolved"])
async def test_abandoned_job_is_left_alone(pause: float) -> None:
    async with client_and_fake(faults=[lost()]) as setup:
        error = await in_doubt(setup)
        await anyio.sleep(pause)
        await error.job.abandon()

        assert "abandoned" == (await setup.row()).state
        await assert_settled(setup.kie)
        with pytest.raises(SubmitInDoubtError):
            await error.job.wait()
        for settle in (error.job.abandon, lambda: error.job.resolve(setup.tasks[0])):
            with pytest.raises(ConfigurationError):
                await settle()
        with pytest.raises(ConfigurationError):
            await error.job.resubmit(allow_duplicate=True)
        assert 1 == len(setup.truth.create_requests)


async def test_only_job_in_doubt_can_be_resolved() -> None:
    async with client_and_fake() as setup:
        job = await setup.kie.submit(make_request())
        foreign = setup.kie.job(setup.tasks[0] if job.task_id is None else "f" * 32)
        for one in (job, foreign):
            with pytest.raises(ConfigurationError, match="Only a job in doubt"):
                await one.abandon()
            with pytest.raises(ConfigurationError, match="Only a job in doubt"):
                await one.resubmit(allow_duplicate=True)
            with pytest.raises(ConfigurationError, match="Only a job in doubt"):
                await one.resolve(setup.tasks[0])
        await job
        await assert_settled(setup.kie)


@pytest.mark.parametrize("name", ["reset", "silence"])
async def test_lost_response_affects_no_other_job(name: str) -> None:
    async with client_and_fake(faults=[lost(name, nth=3)]) as setup:
        ended: list[str] = []
        doubtful: list[KieError] = []

        async def one(number: int) -> None:
            try:
                ended.append((await setup.kie.generate(make_request(number))).task_id)
            except KieError as error:
                doubtful.append(error)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, number)
        assert (9, [SubmitInDoubtError]) == (len(ended), [type(error) for error in doubtful])
        assert 10 == len(setup.truth.create_requests)


async def test_numeric_id_or_bad_status_is_accepted() -> None:
    """Code 200 with an id means that the task exists, whatever else the response says."""
    faults = [
        Fault("create", "numeric_task_id", after=True, nth=1),
        Fault("create", "status", after=True, status=403, nth=2),
        Fault("create", "status", after=True, status=502, nth=3),
    ]
    async with client_and_fake(faults=faults) as setup:
        for number in range(3):
            video = await setup.kie.generate(make_request(number))
            assert setup.tasks[number] == video.task_id
        assert 3 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_refused_connection_is_retried() -> None:
    """Nothing was sent, so nothing was paid: one POST in the end."""
    async with client_and_fake() as setup:
        await setup.fake.refuse_connections()
        async with anyio.create_task_group() as group:
            group.start_soon(setup.kie.generate, make_request())
            await anyio.sleep(60.0)
            assert "intent" == (await setup.row()).state
            assert 0 == setup.kie.statistics().tokens_in_use
            await setup.fake.accept_connections()
        assert 1 == len(setup.truth.create_requests)
        assert ("succeeded", 1) == ((row := await setup.row()).state, row.attempts)
        await assert_settled(setup.kie)


async def test_unsent_timeout_ends_in_transport_error() -> None:
    """The job is cancelled, and the service received nothing."""
    async with client_and_fake() as setup:
        await setup.fake.refuse_connections()
        with pytest.raises(TransportError, match="Nothing was paid") as raised:
            await setup.kie.generate(make_request())
        row = await setup.row()

        assert row.id == raised.value.job_id
        assert "cancelled" == row.state
        assert 120.0 <= anyio.current_time() <= 150.1  # the longest backoff is 30 s
        assert [] == setup.truth.create_requests
        await assert_settled(setup.kie)


async def test_zero_unsent_timeout_means_one_attempt() -> None:
    async with client_and_fake(client={"retry": RetryPolicy(unsent_timeout=0.0)}) as setup:
        await setup.fake.refuse_connections()
        with pytest.raises(TransportError):
            await setup.kie.submit(make_request())
        assert anyio.current_time() < 1.0
        await assert_settled(setup.kie)


async def test_unsent_timeout_counts_from_first_failure() -> None:
    """The last of a hundred jobs wait 40 s for their tokens, and then meet a short outage."""
    options = {"retry": RetryPolicy(unsent_timeout=60.0), "session_factory": no_keepalive}
    async with client_and_fake(client=options) as setup:
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(setup.kie.submit, make_request(number))
            await anyio.sleep(35.0)
            await setup.fake.refuse_connections()
            await anyio.sleep(40.0)
            assert 80 == len(setup.truth.create_requests)
            await setup.fake.accept_connections()
        assert 100 == len(setup.truth.create_requests) == len(setup.truth.created)
        assert anyio.current_time() > 75.0


async def test_unsent_timeout_restarts_after_a_response() -> None:
    """Two outages of 40 s with a response between them are not one of 80 s."""
    options = {"retry": RetryPolicy(unsent_timeout=60.0), "session_factory": no_keepalive}
    async with client_and_fake(client=options, faults=[Fault("create", "code", code=429, nth=1)]) as setup:
        await setup.fake.refuse_connections()
        async with anyio.create_task_group() as group:
            group.start_soon(setup.kie.submit, make_request())
            await anyio.sleep(40.0)
            await setup.fake.accept_connections()
            while not setup.truth.create_requests:
                await anyio.sleep(0.1)
            await setup.fake.refuse_connections()
            await anyio.sleep(40.0)
            await setup.fake.accept_connections()
        assert 1 == len(setup.truth.created)


async def test_timeout_names_job_in_doubt() -> None:
    """With a callback URL ``generate`` waits for the callback. Its timeout error names the job."""
    async with client_and_fake(client={"callback_url": CALLBACKS}, faults=[lost()]) as setup:
        with pytest.raises(TaskTimeoutError) as raised:
            await setup.kie.generate(make_request(), timeout=100.0)
        assert ((await setup.row()).id, None) == (raised.value.job_id, raised.value.task_id)
        assert "in_doubt" == (await setup.row()).state


async def test_in_doubt_error_shows_no_secret() -> None:
    async with client_and_fake(client={"callback_url": CALLBACKS}, faults=[lost("a 502 page")]) as setup:
        error = await in_doubt(setup)
        for shown in (str(error), repr(error), repr(error.job), repr(setup.kie), repr(setup.events)):
            assert KEY not in shown
            assert PROMPT not in shown
