"""A callback ends a job once: on time, early, repeated, late or after the end."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kie_async import EventName, KieClient, KieError, RetryPolicy, SubmitInDoubtError, TaskFailedError
from kie_async._core.callback_token import callback_secret, make_callback_url
from kie_async.testing import FakeKie, Fault
from tests.client.backend import (
    ADAPTERS,
    Backend,
    callback_body,
    client_with_callbacks,
    post,
    reported_duplicates,
    running_backend,
    use_aiohttp,
    use_asgi,
    use_handle,
)
from tests.helpers import KEY, Setup, assert_settled, make_request


def slow_response(seconds: float, **when: Any) -> Fault:
    """Create the task at once, and answer later."""
    return Fault("create", "slow", after=True, seconds=seconds, **when)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_job_ends_by_callback_and_one_confirmation(adapter: str) -> None:
    """It ends at once; the result is from ``recordInfo``, and the next planned poll would be much later."""
    async with client_with_callbacks(ADAPTERS[adapter], duration=300.0) as (setup, backend):
        # Callbacks are expected after the first one, with any adapter.
        await setup.kie.generate(make_request(0))
        polls = setup.kie.statistics().polls
        submitted_at = anyio.current_time()
        video = await setup.kie.generate(make_request(1))

        assert 300.0 == pytest.approx(anyio.current_time() - submitted_at, abs=0.1)
        assert setup.truth.tasks[video.task_id].result_url == video.url
        assert [200, 200] == backend.answers
        assert [2, 2] == [setup.kie.statistics().callbacks, setup.kie.statistics().confirmations]
        assert (3 if adapter == "handle" else 2) >= setup.kie.statistics().polls - polls
        await anyio.sleep(2.0)
        await assert_settled(setup.kie)


async def test_a_callback_reports_a_failed_task() -> None:
    async with client_with_callbacks(duration=300.0, fail_rate=1.0) as (setup, _):
        with pytest.raises(TaskFailedError) as raised:
            await setup.kie.generate(make_request())

        assert setup.tasks == [raised.value.task_id]
        assert 300.0 == pytest.approx(anyio.current_time(), abs=0.1)


@pytest.mark.parametrize("adapter", [use_aiohttp, use_asgi])
async def test_a_callback_before_the_create_response(adapter: Any) -> None:
    """The job is bound from SENDING by the echoed token; the response then names the same task."""
    async with client_with_callbacks(adapter, duration=5.0, faults=[slow_response(30.0)]) as (setup, _):
        video = await setup.kie.generate(make_request())

        assert 5.0 == pytest.approx(anyio.current_time(), abs=0.1)
        assert [None] == [entry.answered_at for entry in setup.truth.create_requests]
        assert ("succeeded", video.task_id) == ((row := await setup.row()).state, row.task_id)
        await anyio.sleep(60.0)
        assert [200] == [entry.code for entry in setup.truth.create_requests]
        assert row == await setup.row()
        assert [1, 1, 0] == [
            len(setup.reported(name)) for name in (EventName.SUBMITTED, EventName.ENDED, EventName.DUPLICATE)
        ]
        await assert_settled(setup.kie)


async def test_submit_returns_after_an_early_callback() -> None:
    async with client_with_callbacks(duration=5.0, faults=[slow_response(30.0)]) as (setup, _):
        job = await setup.kie.submit(make_request())

        assert anyio.current_time() < 6.0
        assert setup.tasks == [job.task_id]
        assert setup.tasks == [(await job).task_id]


RESPONSES: dict[str, tuple[Fault, ...]] = {
    "a reset": (Fault("create", "reset", after=True),),
    "a 502 page": (Fault("create", "html", after=True),),
    "data: null": (Fault("create", "null_data", after=True),),
    "code 429": (Fault("create", "code", code=429, after=True),),
    "code 455": (Fault("create", "code", code=455, after=True),),
    "code 402": (Fault("create", "code", code=402, after=True),),
    "code 422": (Fault("create", "code", code=422, after=True),),
    "code 500": (Fault("create", "code", code=500, msg="Internal Error, Please try again later.", after=True),),
}


@pytest.mark.parametrize("response", RESPONSES)
async def test_an_early_callback_overrides_the_create_response(response: str) -> None:
    """The service reports the end of a task, and then refuses its create: the task exists, and is the only one."""
    (fault,) = RESPONSES[response]
    async with client_with_callbacks(duration=2.0, create_seconds=30.0, faults=[fault]) as (setup, backend):
        video = await setup.kie.generate(make_request())
        assert setup.tasks == [video.task_id]
        await anyio.sleep(120.0)

        assert 1 == len(setup.truth.create_requests) == len(setup.truth.created)
        row = await setup.row()
        assert ("succeeded", video.task_id, (), 0) == (
            row.state,
            row.task_id,
            row.duplicate_task_ids,
            row.ambiguous_attempts,
        )
        assert [200] == backend.answers
        reported = [event.name for event in setup.events]
        assert not {EventName.REJECTED, EventName.CANCELLED, EventName.IN_DOUBT, EventName.DUPLICATE} & {*reported}
        await assert_settled(setup.kie)


async def test_a_response_with_another_task_is_a_duplicate() -> None:
    """Both ids are kept: the proved one is the job's, the other one was paid, too."""
    other = "f" * 32
    faults = [Fault("create", "alter", after=True, data={"taskId": other})]
    async with client_with_callbacks(duration=2.0, create_seconds=30.0, faults=faults) as (setup, _):
        video = await setup.kie.generate(make_request())
        await anyio.sleep(60.0)
        row = await setup.row()

        assert setup.tasks == [video.task_id] == [row.task_id]
        assert (other,) == row.duplicate_task_ids
        assert [other] == reported_duplicates(setup.events)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("adapter", [use_aiohttp, use_asgi])
async def test_a_hundred_copies_end_the_job_once(adapter: Any) -> None:
    """Each is answered with 200; the first one is confirmed, and the others find the end in the journal."""
    faults = [Fault("callback", "copies", copies=100)]
    async with client_with_callbacks(adapter, duration=300.0, faults=faults) as (setup, backend):
        await setup.kie.generate(make_request())
        await anyio.sleep(60.0)

        assert 100 * [200] == backend.answers
        assert 100 == len(setup.reported(EventName.CALLBACK)) == setup.kie.statistics().callbacks
        assert 1 == len(setup.reported(EventName.ENDED))
        assert 1 == setup.kie.statistics().confirmations
        assert 0 == setup.kie.statistics().duplicate_records
        await assert_settled(setup.kie)


async def test_a_hundred_callbacks_at_once_are_confirmed_once() -> None:
    """While the task is running, a leaked token causes one poll at a time, ever less often."""
    async with client_with_callbacks(duration=300.0) as (setup, backend):
        job = await setup.kie.submit(make_request())
        url, polls = setup.truth.create_requests[0].callback_url, len(setup.truth.polls)
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(post, url, callback_body(setup.tasks[0]))
        await anyio.sleep(0.5)
        assert 1 == len(setup.truth.polls) - polls
        await anyio.sleep(60.0)

        assert 100 * [200] == backend.answers
        assert 6 >= setup.kie.statistics().confirmations
        assert "submitted" == job.state
        await job
        assert 1 == len(setup.reported(EventName.ENDED))
        await anyio.sleep(2.0)
        await assert_settled(setup.kie)


async def test_a_callback_hours_after_the_end_changes_nothing() -> None:
    """Polling has found the end long ago; the callback is answered with 200, without a poll."""
    faults = [Fault("callback", "slow", seconds=7200.0)]
    async with client_with_callbacks(use_handle, duration=30.0, faults=faults) as (setup, backend):
        await setup.kie.generate(make_request())
        row, polls = await setup.row(), len(setup.truth.polls)
        await anyio.sleep(8000.0)

        assert [200] == backend.answers
        assert (row, polls) == (await setup.row(), len(setup.truth.polls))
        await assert_settled(setup.kie)


async def test_a_stalled_job_ends_by_its_late_callback() -> None:
    """The task takes longer than ``max_age``; its job is STALLED, and still ends."""
    policy = RetryPolicy(max_age=600.0)
    async with client_with_callbacks(client={"retry": policy}, duration=7000.0) as (setup, _):
        job = await setup.kie.submit(make_request())
        await anyio.sleep(6900.0)
        assert "stalled" == job.state
        assert setup.tasks == [(await job.wait(timeout=200.0)).task_id]

        assert 7000.0 == pytest.approx(anyio.current_time(), abs=0.2)


async def test_a_success_without_a_result_is_polled_again_soon() -> None:
    """Seen in practice: "success" before the result is there. Such a job must not wait for a rare poll."""
    empty = Fault("poll", "alter", data={"resultJson": "", "state": "success"}, nth=range(1, 3))
    async with client_with_callbacks(duration=50.0, faults=[empty]) as (setup, _):
        video = await setup.kie.generate(make_request())

        assert setup.truth.tasks[video.task_id].result_url == video.url
        assert 50.0 <= anyio.current_time() < 55.0


async def test_polling_speeds_up_when_the_record_lags() -> None:
    """The callback has arrived, so only polling can find the end: polls get the full weight."""
    running = {"state": "generating", "resultJson": "", "completeTime": None}
    lags = Fault("poll", "alter", data=running, between=(1000.0, 1100.0))
    async with client_with_callbacks(duration=1000.0, faults=[lags]) as (setup, _):
        await setup.kie.generate(make_request())

        assert 1100.0 <= anyio.current_time() <= 1100.0 + 15.1


async def test_the_end_is_reported_once() -> None:
    """Callback and poll are at the same instant, for many jobs, with slow answers."""
    async with client_with_callbacks(use_handle, duration=(20.0, 0.5), latency=(0.0, 3.0)) as (setup, _):
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(setup.kie.generate, make_request(number))
        await anyio.sleep(120.0)

        assert 20 == len(setup.reported(EventName.ENDED)) == len({row.task_id for row in await setup.rows()})
        assert [] == reported_duplicates(setup.events)
        await assert_settled(setup.kie)


async def test_a_reused_key_finds_the_job_during_its_create() -> None:
    """The callback was early, and the create is still on the wire; nothing is lost or counted twice."""
    async with client_with_callbacks(duration=5.0, faults=[slow_response(30.0)]) as (setup, _):
        first = await setup.kie.generate(make_request(), key="order-7")
        again = await setup.kie.generate(make_request(), key="order-7")

        assert anyio.current_time() < 6.0
        assert setup.tasks == [first.task_id] == [again.task_id]
        assert 1 == setup.kie.statistics().submitting
        await anyio.sleep(60.0)
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def submit_and_close(fake: FakeKie, backend: Backend) -> str:
    """Submit a job and close its client; return the callback URL."""
    kie = KieClient(KEY, base_url=fake.url, callback_url=backend.url)
    backend.serve(kie)
    async with kie:
        await kie.submit(make_request())
    return str(fake.truth.create_requests[0].callback_url)


async def test_a_closed_client_answers_503() -> None:
    """All adapters answer 503, and the service retries; the job is in the journal, and the next client polls."""
    async with running_backend() as backend, FakeKie(duration=5.0) as fake:
        url = await submit_and_close(fake, backend)
        await anyio.sleep(60.0)

        assert [503, 503, 503] == backend.answers == [entry.status for entry in fake.truth.callbacks]
        for adapter in ADAPTERS.values():
            kie = KieClient(KEY, base_url=fake.url, callback_url=backend.url)
            await kie.aclose()
            backend.serve(kie, adapter)
            assert 503 == await post(url, callback_body("f" * 32))


async def test_an_unknown_job_is_404_without_a_poll() -> None:
    """The token is genuine, from another journal of the same account; nothing is kept."""
    async with client_with_callbacks(duration=60.0) as (setup, backend):
        foreign_url = make_callback_url(backend.url, callback_secret(KEY), f"kj_{'5' * 32}", 1)
        assert 404 == await post(foreign_url, callback_body("f" * 32))

        assert ([], 0, 0) == (setup.truth.polls, setup.kie.statistics().callbacks, setup.kie.statistics().confirming)
        (refused,) = setup.reported(EventName.CALLBACK_REFUSED)
        assert 404 == refused.detail["status"]


async def test_a_callback_for_a_cancelled_job_is_a_duplicate() -> None:
    """
    The service refuses the create for lack of credits, and accepts it nevertheless.

    The caller was told that nothing was paid. The row stays cancelled; the task is recorded with it and reported.
    """
    faults = [Fault("create", "code", code=402, after=True, nth=1)]
    async with client_with_callbacks(duration=60.0, faults=faults) as (setup, backend):
        with pytest.raises(KieError):
            await setup.kie.generate(make_request())
        assert "cancelled" == (await setup.row()).state
        await anyio.sleep(100.0)

        row = await setup.row()
        assert ("cancelled", None, tuple(setup.tasks)) == (row.state, row.task_id, row.duplicate_task_ids)
        assert setup.tasks == reported_duplicates(setup.events)
        assert [200] == backend.answers
        await assert_settled(setup.kie)


async def test_a_callback_for_an_abandoned_job_is_a_duplicate() -> None:
    faults = [Fault("create", "reset", after=True)]
    async with client_with_callbacks(duration=60.0, faults=faults) as (setup, backend):
        error = await submit_in_doubt(setup)
        await error.job.abandon()
        await anyio.sleep(100.0)

        row = await setup.row()
        assert ("abandoned", None, tuple(setup.tasks), ()) == (
            row.state,
            row.task_id,
            row.duplicate_task_ids,
            row.callback_task_ids,
        )
        assert setup.tasks == reported_duplicates(setup.events)
        assert [200] == backend.answers
        with pytest.raises(SubmitInDoubtError):
            await error.job
        await assert_settled(setup.kie)


async def submit_in_doubt(setup: Setup) -> SubmitInDoubtError:
    """Submit a request whose create response is lost."""
    with pytest.raises(SubmitInDoubtError) as raised:
        await setup.kie.submit(make_request())
    return raised.value
