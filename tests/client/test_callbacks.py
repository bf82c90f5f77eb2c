"""A callback ends a job whenever it comes: on time, early, twice, late or after the end, and once only."""

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
    a_backend,
    a_called_world,
    body_of,
    by_aiohttp,
    by_asgi,
    by_hand,
    duplicates,
    post,
)
from tests.helpers import KEY, Setup, assert_settled, make_request


def slow_answer(seconds: float, **when: Any) -> Fault:
    """The task is created at once, and the answer to its create comes later."""
    return Fault("create", "slow", after=True, seconds=seconds, **when)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_job_ends_by_its_callback_and_one_confirmation(adapter: str) -> None:
    """Within a moment of the task's end; the result is that of ``recordInfo``, and the next look would be far off."""
    async with a_called_world(ADAPTERS[adapter], duration=300.0) as (setup, backend):
        # So that callbacks are expected, however they are taken: the first one says that they come.
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


async def test_a_failed_task_is_told_by_its_callback() -> None:
    async with a_called_world(duration=300.0, fail_rate=1.0) as (setup, _):
        with pytest.raises(TaskFailedError) as raised:
            await setup.kie.generate(make_request())

        assert setup.tasks == [raised.value.task_id]
        assert 300.0 == pytest.approx(anyio.current_time(), abs=0.1)


@pytest.mark.parametrize("adapter", [by_aiohttp, by_asgi])
async def test_an_early_callback_ends_the_job_before_its_create_is_answered(adapter: Any) -> None:
    """It is bound from SENDING, by the token that ``recordInfo`` echoes; the answer then names the same task."""
    async with a_called_world(adapter, duration=5.0, faults=[slow_answer(30.0)]) as (setup, _):
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


async def test_submit_returns_with_the_task_of_an_early_callback() -> None:
    """Its taskId is known, whoever has told it."""
    async with a_called_world(duration=5.0, faults=[slow_answer(30.0)]) as (setup, _):
        job = await setup.kie.submit(make_request())

        assert anyio.current_time() < 6.0
        assert setup.tasks == [job.task_id]
        assert setup.tasks == [(await job).task_id]


ANSWERS: dict[str, tuple[Fault, ...]] = {
    "a reset": (Fault("create", "reset", after=True),),
    "a 502 page": (Fault("create", "html", after=True),),
    "data: null": (Fault("create", "null_data", after=True),),
    "code 429": (Fault("create", "code", code=429, after=True),),
    "code 455": (Fault("create", "code", code=455, after=True),),
    "code 402": (Fault("create", "code", code=402, after=True),),
    "code 422": (Fault("create", "code", code=422, after=True),),
    "code 500": (Fault("create", "code", code=500, msg="Internal Error, Please try again later.", after=True),),
}


@pytest.mark.parametrize("says", ANSWERS)
async def test_whatever_the_answer_says_after_an_early_callback_there_is_one_task(says: str) -> None:
    """The service contradicts itself: it has reported the end of a task that it then refuses. The task exists."""
    (answer,) = ANSWERS[says]
    async with a_called_world(duration=2.0, create_seconds=30.0, faults=[answer]) as (setup, backend):
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
        told = [event.name for event in setup.events]
        assert not {EventName.REJECTED, EventName.CANCELLED, EventName.IN_DOUBT, EventName.DUPLICATE} & {*told}
        await assert_settled(setup.kie)


async def test_an_answer_that_names_another_task_is_a_duplicate_and_told() -> None:
    """Both ids are kept: the one that was proved is the job's, the other one was paid, too."""
    other = "f" * 32
    faults = [Fault("create", "alter", after=True, data={"taskId": other})]
    async with a_called_world(duration=2.0, create_seconds=30.0, faults=faults) as (setup, _):
        video = await setup.kie.generate(make_request())
        await anyio.sleep(60.0)
        row = await setup.row()

        assert setup.tasks == [video.task_id] == [row.task_id]
        assert (other,) == row.duplicate_task_ids
        assert [other] == duplicates(setup.events)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("adapter", [by_aiohttp, by_asgi])
async def test_a_callback_that_comes_a_hundred_times_ends_the_job_once(adapter: Any) -> None:
    """Each is answered with 200; the first one is looked into, and the others find the end written down."""
    faults = [Fault("callback", "copies", copies=100)]
    async with a_called_world(adapter, duration=300.0, faults=faults) as (setup, backend):
        await setup.kie.generate(make_request())
        await anyio.sleep(60.0)

        assert 100 * [200] == backend.answers
        assert 100 == len(setup.reported(EventName.CALLBACK)) == setup.kie.statistics().callbacks
        assert 1 == len(setup.reported(EventName.ENDED))
        assert 1 == setup.kie.statistics().confirmations
        assert 0 == setup.kie.statistics().duplicate_records
        await assert_settled(setup.kie)


async def test_a_hundred_callbacks_at_once_are_one_confirmation_at_a_time() -> None:
    """While the task is still running: whoever has a token can cause a look now and then, and no more."""
    async with a_called_world(duration=300.0) as (setup, backend):
        job = await setup.kie.submit(make_request())
        url, polls = setup.truth.create_requests[0].callback_url, len(setup.truth.polls)
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(post, url, body_of(setup.tasks[0]))
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
    """Polling has seen the end long ago; the callback is answered with 200, and nobody is asked."""
    faults = [Fault("callback", "slow", seconds=7200.0)]
    async with a_called_world(by_hand, duration=30.0, faults=faults) as (setup, backend):
        await setup.kie.generate(make_request())
        row, polls = await setup.row(), len(setup.truth.polls)
        await anyio.sleep(8000.0)

        assert [200] == backend.answers
        assert (row, polls) == (await setup.row(), len(setup.truth.polls))
        await assert_settled(setup.kie)


async def test_a_stalled_job_ends_by_its_late_callback() -> None:
    """The task takes longer than ``max_age``; its job is STALLED, and still its own."""
    policy = RetryPolicy(max_age=600.0)
    async with a_called_world(client={"retry": policy}, duration=7000.0) as (setup, _):
        job = await setup.kie.submit(make_request())
        await anyio.sleep(6900.0)
        assert "stalled" == job.state
        assert setup.tasks == [(await job.wait(timeout=200.0)).task_id]

        assert 7000.0 == pytest.approx(anyio.current_time(), abs=0.2)


async def test_a_task_without_its_result_is_looked_at_again_soon() -> None:
    """Seen in the wild: "success" before the result is there. A callback must not leave such a job to a rare poll."""
    empty = Fault("poll", "alter", data={"resultJson": "", "state": "success"}, nth=range(1, 3))
    async with a_called_world(duration=50.0, faults=[empty]) as (setup, _):
        video = await setup.kie.generate(make_request())

        assert setup.truth.tasks[video.task_id].result_url == video.url
        assert 50.0 <= anyio.current_time() < 55.0


async def test_when_the_record_lags_behind_the_callback_polling_goes_on_at_its_usual_pace() -> None:
    """The callback has come, so nothing else will tell of the end: a look is worth all it can be."""
    running = {"state": "generating", "resultJson": "", "completeTime": None}
    lags = Fault("poll", "alter", data=running, between=(1000.0, 1100.0))
    async with a_called_world(duration=1000.0, faults=[lags]) as (setup, _):
        await setup.kie.generate(make_request())

        assert 1100.0 <= anyio.current_time() <= 1100.0 + 15.1


async def test_the_end_is_told_once_whether_callback_or_poll_is_first() -> None:
    """Both at the same instant, job after job, and the answers of the service take a while."""
    async with a_called_world(by_hand, duration=(20.0, 0.5), latency=(0.0, 3.0)) as (setup, _):
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(setup.kie.generate, make_request(number))
        await anyio.sleep(120.0)

        assert 20 == len(setup.reported(EventName.ENDED)) == len({row.task_id for row in await setup.rows()})
        assert [] == duplicates(setup.events)
        await assert_settled(setup.kie)


async def test_a_key_that_comes_again_while_the_answer_is_awaited_finds_the_job_that_has_ended() -> None:
    """The callback was early, and the create is still on the wire; nothing of either is lost or counted twice."""
    async with a_called_world(duration=5.0, faults=[slow_answer(30.0)]) as (setup, _):
        first = await setup.kie.generate(make_request(), key="order-7")
        again = await setup.kie.generate(make_request(), key="order-7")

        assert anyio.current_time() < 6.0
        assert setup.tasks == [first.task_id] == [again.task_id]
        assert 1 == setup.kie.statistics().submitting
        await anyio.sleep(60.0)
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def a_backend_and_a_dead_client(fake: FakeKie, backend: Backend) -> str:
    """The callback URL of a job that was submitted, and whose client was closed."""
    kie = KieClient(KEY, base_url=fake.url, callback_url=backend.url)
    backend.serve(kie)
    async with kie:
        await kie.submit(make_request())
    return str(fake.truth.create_requests[0].callback_url)


async def test_while_the_client_is_closed_the_service_is_asked_to_try_again() -> None:
    """503, three times, from both adapters and by hand; the job is in the journal, and the next client polls."""
    async with a_backend() as backend, FakeKie(duration=5.0) as fake:
        url = await a_backend_and_a_dead_client(fake, backend)
        await anyio.sleep(60.0)

        assert [503, 503, 503] == backend.answers == [entry.status for entry in fake.truth.callbacks]
        for adapter in ADAPTERS.values():
            kie = KieClient(KEY, base_url=fake.url, callback_url=backend.url)
            await kie.aclose()
            backend.serve(kie, adapter)
            assert 503 == await post(url, body_of("f" * 32))


async def test_no_job_of_ours_is_404_and_nobody_is_asked() -> None:
    """The token is genuine, from another journal of the same account; nothing is kept of it."""
    async with a_called_world(duration=60.0) as (setup, backend):
        strange = make_callback_url(backend.url, callback_secret(KEY), f"kj_{'5' * 32}", 1)
        assert 404 == await post(strange, body_of("f" * 32))

        assert ([], 0, 0) == (setup.truth.polls, setup.kie.statistics().callbacks, setup.kie.statistics().confirming)
        (refused,) = setup.reported(EventName.CALLBACK_REFUSED)
        assert 404 == refused.detail["status"]


async def test_a_withdrawn_job_is_told_of_a_task_that_should_not_exist() -> None:
    """
    The service refuses the create for want of credits, and takes it all the same.

    The caller was told that nothing was paid. The row stays as it is, and the task is tied to it and reported.
    """
    faults = [Fault("create", "code", code=402, after=True, nth=1)]
    async with a_called_world(duration=60.0, faults=faults) as (setup, backend):
        with pytest.raises(KieError):
            await setup.kie.generate(make_request())
        assert "cancelled" == (await setup.row()).state
        await anyio.sleep(100.0)

        row = await setup.row()
        assert ("cancelled", None, tuple(setup.tasks)) == (row.state, row.task_id, row.duplicate_task_ids)
        assert setup.tasks == duplicates(setup.events)
        assert [200] == backend.answers
        await assert_settled(setup.kie)


async def test_an_abandoned_job_is_told_of_its_task_and_stays_abandoned() -> None:
    faults = [Fault("create", "reset", after=True)]
    async with a_called_world(duration=60.0, faults=faults) as (setup, backend):
        job = await doubtful(setup)
        await job.job.abandon()
        await anyio.sleep(100.0)

        row = await setup.row()
        assert ("abandoned", None, tuple(setup.tasks), ()) == (
            row.state,
            row.task_id,
            row.duplicate_task_ids,
            row.callback_task_ids,
        )
        assert setup.tasks == duplicates(setup.events)
        assert [200] == backend.answers
        with pytest.raises(SubmitInDoubtError):
            await job.job
        await assert_settled(setup.kie)


async def doubtful(setup: Setup) -> SubmitInDoubtError:
    """Submit a request whose answer is lost."""
    with pytest.raises(SubmitInDoubtError) as raised:
        await setup.kie.submit(make_request())
    return raised.value
