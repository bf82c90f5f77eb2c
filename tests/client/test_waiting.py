"""From a taskId to the end: looks, what they may show, and what a handle to a job can do meanwhile."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from kie_async import (
    AuthenticationError,
    ConfigurationError,
    EventName,
    KeyConflictError,
    KieError,
    Limits,
    MarketRequest,
    NoResultError,
    ProtocolError,
    Request,
    RetryPolicy,
    ServiceError,
    SubmitInDoubtError,
    TaskFailedError,
    TaskNotFoundError,
    TaskTimeoutError,
    TransportError,
)
from kie_async.testing import Fault
from kie_async.testing.truth import busiest_window
from tests.client.world import Anything, a_world, ask, assert_settled, somebody_elses

# -- looks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [0.0, 1.0, 29.0, 100.0, 800.0])
async def test_a_job_ends_soon_after_its_task(duration: float) -> None:
    """Known within one interval of the look, which grows with the task's age; told with all that the service says."""
    async with a_world(duration=duration, latency=(0.02, 0.2)) as world:
        video = await world.kie.generate(ask())
        (task,) = world.truth.created
        interval = 2.5 if duration < 30 else 5.0 if duration < 120 else 15.0

        assert anyio.current_time() - task.ends_at <= interval + 1.0
        assert (task.task_id, (task.result_url,), 80.0) == (video.task_id, video.urls, video.credits)
        assert task.result_url == video.url
        assert math.isclose(duration, video.seconds or 0.0, abs_tol=0.01)
        assert (task.model, task.task_id) == (video.record.model, video.record.raw["taskId"])
        await assert_settled(world.kie)


async def test_the_service_is_never_asked_faster_than_the_limit_for_looks() -> None:
    """Five looks in any second for 200 jobs, none of them refused, and every job ends."""
    async with a_world(latency=(0.02, 0.2), duration=(90.0, 0.5), credits=1e6) as world:
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(world.kie.generate, ask(number))
        asked_at = [poll.at for poll in world.truth.polls]

        assert busiest_window(asked_at, 1.0) <= 5
        assert [] == [poll for poll in world.truth.polls if poll.code == 429]
        assert {"succeeded": 200} == await world.states()


@pytest.mark.parametrize(
    ("polls_per_second", "seconds", "most"), [(0.5, 2.0, 1), (1.0, 1.0, 1), (2.5, 0.8, 2), (10.0, 1.0, 10)]
)
async def test_the_limit_for_looks_is_the_callers(polls_per_second: float, seconds: float, most: int) -> None:
    limits = Limits(polls_per_second=polls_per_second)
    async with a_world(client={"limits": limits}, duration=30.0, queries_per_second=1000.0) as world:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(world.kie.generate, ask(number))
        asked_at = [poll.at for poll in world.truth.polls]

        assert most == busiest_window(asked_at, seconds)


@pytest.mark.parametrize(
    "look",
    [
        {"what": "html"},
        {"what": "html", "status": 200},
        {"what": "html", "status": 404},
        {"what": "code", "code": 500},
        {"what": "code", "code": 501},
        {"what": "code", "code": 455},
        {"what": "code", "code": 429},
        {"what": "code", "code": 402},
        {"what": "code", "code": 777},
        {"what": "null_data"},
        {"what": "truncated_json"},
        {"what": "half_body"},
        {"what": "half_status_line"},
        {"what": "garbage"},
        {"what": "reset"},
        {"what": "silence"},
        {"what": "slow_body", "seconds": 1.0},
        {"what": "redirect"},
        {"what": "body", "body": "[1, 2]"},
        {"what": "body", "body": ""},
        {"what": "body", "body": '{"code":200,"data":[]}'},
        {"what": "alter", "data": {"taskId": "f" * 32, "state": "fail"}},
        {"what": "alter", "data": {"state": None}},
        {"what": "alter", "data": {"state": "reviewing"}},
        {"what": "alter", "data": {"state": "waiting", "completeTime": 1}},
    ],
    ids=lambda look: "-".join(str(value) for value in look.values()),
)
async def test_a_look_that_says_nothing_changes_nothing(look: dict[str, Any]) -> None:
    """Whatever comes instead of the record, the job goes on and ends well, and its create is not touched."""
    async with a_world(faults=[Fault("poll", times=4, **look)], duration=1.0) as world:
        job = await world.kie.submit(ask())
        await anyio.sleep(3.0)
        assert "submitted" == job.state
        video = await job

        assert world.tasks[0] == video.task_id
        assert (1, []) == (len(world.truth.posts), world.truth.strays)
        assert anyio.current_time() < 70.0
        await assert_settled(world.kie)


async def test_a_429_on_a_look_slows_all_looks_and_ends_no_job() -> None:
    fault = Fault("poll", "code", code=429, between=(0.0, 60.0))
    async with a_world(faults=[fault], duration=1.0) as world:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(world.kie.generate, ask(number))
        refused = [poll for poll in world.truth.polls if poll.code == 429]

        assert len(refused) <= 35  # five in ten seconds, once the pauses have grown
        assert {"succeeded": 20} == await world.states()


async def test_a_task_may_be_invisible_at_first() -> None:
    """``recordInfo is null`` right after the create means "not yet"."""
    async with a_world(invisible_seconds=80.0, duration=20.0) as world:
        video = await world.kie.generate(ask())

        assert world.tasks[0] == video.task_id
        assert anyio.current_time() < 90.0


async def test_a_task_of_ours_that_stays_invisible_is_stalled_and_not_failed() -> None:
    """It was paid: whatever the service does not know now, it may know tomorrow."""
    async with a_world(invisible_seconds=5000.0, duration=20.0) as world:
        with pytest.raises(TaskTimeoutError):
            await world.kie.generate(ask())
        assert "stalled" == (await world.row()).state
        await anyio.sleep(3600.0)

        assert "succeeded" == (await world.row()).state
        await assert_settled(world.kie)


async def test_a_job_that_does_not_end_is_stalled_at_max_age_and_may_still_end() -> None:
    """Its slot is free, its waiters are told, and it is looked at now and then."""
    async with a_world(duration=9000.0) as world:
        job = await world.kie.submit(ask())
        with pytest.raises(TaskTimeoutError, match="may still end") as raised:
            await job
        assert 3600.0 <= anyio.current_time() < 3601.0
        assert (job.id, world.tasks[0]) == (raised.value.intent_id, raised.value.task_id)
        assert ("stalled", 0, 1) == (job.state, (now := world.kie.statistics()).in_flight, now.watched)
        assert [job.id] == [event.job_id for event in world.reported(EventName.STALLED)]

        polls = len(world.truth.polls)
        with pytest.raises(TaskTimeoutError):
            await job  # at once, since it would be for nothing
        assert anyio.current_time() < 3601.0
        video = await job.wait(timeout=10_000.0)
        assert world.tasks[0] == video.task_id
        assert 9000.0 <= anyio.current_time() <= 9301.0
        assert 10 <= len(world.truth.polls) - polls <= 20
        assert "succeeded" == (await world.row()).state
        await assert_settled(world.kie)


async def test_max_age_is_the_callers() -> None:
    async with a_world(client={"retry": RetryPolicy(max_age=100.0)}, duration=1e6) as world:
        with pytest.raises(TaskTimeoutError):
            await world.kie.generate(ask())

        assert 100.0 <= anyio.current_time() < 101.0


@pytest.mark.parametrize("empty", ["", None, "{}", '{"resultUrls":[]}', '{"resultUrls":[""]}', {"resultUrls": []}])
async def test_success_before_its_result_is_waited_for(empty: object) -> None:
    """Seen in the wild: the state runs ahead of the result."""
    fault = Fault("poll", "alter", data={"resultJson": empty}, times=2)  # type: ignore[dict-item]  # JSON, by a parameter
    async with a_world(faults=[fault], duration=0.0) as world:
        video = await world.kie.generate(ask())

        assert (world.truth.created[0].result_url,) == video.urls
        assert 3 == len(world.truth.polls)


async def test_success_that_stays_without_a_result_is_an_error_of_its_own() -> None:
    """It was paid, so it is not called failed: the error has the id to ask the service with."""
    async with a_world(faults=[Fault("poll", "alter", data={"resultJson": ""})], duration=0.0) as world:
        job = await world.kie.submit(ask())
        for _ in range(2):
            with pytest.raises(NoResultError) as raised:
                await job
            assert (job.id, world.tasks[0]) == (raised.value.intent_id, raised.value.task_id)
        assert "succeeded" == (await world.row()).state
        await assert_settled(world.kie)


async def test_a_result_that_is_an_object_and_no_text_is_read() -> None:
    result = {"resultUrls": ["https://tempfile.aiquickdraw.com/a.mp4", "https://tempfile.aiquickdraw.com/b.mp4"]}
    async with a_world(faults=[Fault("poll", "alter", data={"resultJson": result})], duration=0.0) as world:  # type: ignore[dict-item]  # JSON
        video = await world.kie.generate(ask())

        assert tuple(result["resultUrls"]) == video.urls


async def test_a_record_whose_json_is_broken_inside_param_is_read() -> None:
    """Seen in the wild: quotes in ``param`` that nobody has escaped."""
    async with a_world(duration=1e6) as world:
        job = await world.kie.submit(ask())
        url = "https://tempfile.aiquickdraw.com/a.mp4"
        record = {
            "taskId": world.tasks[0],
            "state": "success",
            "param": "PARAM",
            "resultJson": json.dumps({"resultUrls": [url]}),
        }
        body = json.dumps({"code": 200, "msg": "success", "data": record})
        broken = body.replace("PARAM", '{"input":"{\\"prompt\\":\\"say "hi" to her\\"}","model":"m"}')
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken)
        world.fake.inject(Fault("poll", "body", body=broken))

        assert (url,) == (await job).urls
        await assert_settled(world.kie)


async def test_a_failed_task_is_told_in_the_services_words() -> None:
    """With its code, its text, and whether another try is worth it."""
    async with a_world(duration=1e6) as world:
        passing = await world.kie.submit(ask(0))
        lasting = await world.kie.submit(ask(1))
        world.fake.fail(world.tasks[0], "500", "Internal Error, Please try again later.")
        world.fake.fail(world.tasks[1], "422", "The input was flagged as sensitive.")
        errors: list[TaskFailedError] = []
        for job in (passing, lasting, passing):
            with pytest.raises(TaskFailedError) as raised:
                await job
            errors.append(raised.value)
        first, second, again = errors

        assert ("500", "Internal Error, Please try again later.", True) == (
            first.fail_code,
            first.fail_message,
            first.worth_retrying,
        )
        assert ("422", False) == (second.fail_code, second.worth_retrying)
        assert (passing.id, world.tasks[0]) == (first.intent_id, first.task_id)
        assert str(first) == str(again)
        assert {"failed": 2} == await world.states()
        assert 2 == len(world.truth.posts)
        await assert_settled(world.kie)


async def test_a_key_that_is_not_accepted_for_looks_is_told_and_the_task_lives_on() -> None:
    async with a_world(faults=[Fault("poll", "code", code=401, nth=[1, 2])], duration=20.0) as world:
        job = await world.kie.submit(ask())
        with pytest.raises(AuthenticationError, match="lives on"):
            await job
        assert "submitted" == job.state
        await anyio.sleep(10.0)

        assert world.tasks[0] == (await job).task_id
        await assert_settled(world.kie)


async def test_the_first_last_word_wins_and_a_later_one_is_counted() -> None:
    """A slow look is overtaken by another one; what it brings home changes nothing."""
    async with a_world(faults=[Fault("poll", "slow", seconds=8.0, nth=1)], duration=1.0) as world:
        job = await world.kie.submit(ask())
        await anyio.sleep(4.0)
        await job.refresh()
        assert world.tasks[0] == (await job).task_id
        row = await world.row()
        await anyio.sleep(20.0)

        assert row == await world.row()
        assert 1 == world.kie.statistics().late_records == len(world.reported(EventName.LATE_RECORD))
        assert 1 == len(world.reported(EventName.ENDED))
        await assert_settled(world.kie)


# -- handles ----------------------------------------------------------------------------------------------------------


async def test_a_job_keeps_its_task_id() -> None:
    """None until it is known, and then what it is, whatever becomes of the job."""
    async with a_world(create_seconds=5.0, duration=20.0) as world:
        job = await world.kie.submit(ask(0), wait=False)
        assert (None, "intent") == (job.task_id, job.state)
        assert job.id.startswith("kj_")
        await anyio.sleep(1.0)
        assert (None, "sending") == (job.task_id, job.state)
        await anyio.sleep(5.0)
        assert (world.tasks[0], "submitted") == (job.task_id, job.state)
        await job
        assert (world.tasks[0], "succeeded") == (job.task_id, job.state)

        waited = await world.kie.submit(ask(1))
        await anyio.sleep(100.0)
        assert world.tasks[1] == waited.task_id


async def test_submit_without_waiting_returns_when_the_job_is_journaled() -> None:
    async with a_world(create_seconds=5.0) as world:
        job = await world.kie.submit(ask(), wait=False)

        assert anyio.current_time() < 0.1
        assert [] == world.truth.posts
        assert job.id == (await world.row()).id
        assert world.truth.posts is not None
        await job


async def test_wait_ends_at_its_time_out_and_the_task_lives_on() -> None:
    async with a_world(duration=100.0) as world:
        job = await world.kie.submit(ask())
        with pytest.raises(TaskTimeoutError, match="wait again") as raised:
            await job.wait(timeout=30.0)
        assert 30.0 <= anyio.current_time() < 31.0
        assert (job.id, world.tasks[0]) == (raised.value.intent_id, raised.value.task_id)
        assert 0 == world.kie.statistics().waiters

        await job
        assert world.tasks[0] == (await job.wait(timeout=0.0)).task_id
        await assert_settled(world.kie)


async def test_awaiting_a_job_again_asks_nobody() -> None:
    async with a_world() as world:
        job = await world.kie.submit(ask())
        first = await job
        polls = len(world.truth.polls)
        second = await world.kie.attach(job.id)
        third = await world.kie.attach(world.tasks[0])

        assert first.record == second.record == third.record
        assert job.id == second.intent_id == third.intent_id
        assert polls == len(world.truth.polls)


async def test_updates_yield_each_change_once_and_end_with_the_task() -> None:
    async with a_world(duration=100.0, seed=5) as world:
        states = ("waiting", "queuing", "generating")
        job = await world.kie.submit(ask())
        world.truth.created[0].stages = ((0.0, states[0]), (0.2, states[1]), (0.5, states[2]))
        seen = [record.state async for record in job.updates()]

        assert [*states, "success"] == seen
        assert [] == [record.state async for record in job.updates()][1:]
        await assert_settled(world.kie)


async def test_updates_of_a_failing_task_end_with_its_record() -> None:
    async with a_world(fail_rate=1.0) as world:
        job = await world.kie.submit(ask())

        assert "fail" == [record.state async for record in job.updates()][-1]
        await assert_settled(world.kie)


async def test_updates_show_states_that_nobody_has_heard_of() -> None:
    fault = Fault("poll", "alter", data={"state": "reviewing"}, times=3)
    async with a_world(faults=[fault], duration=1.0) as world:
        job = await world.kie.submit(ask())

        assert ["reviewing", "success"] == [record.state async for record in job.updates()]


async def test_updates_of_a_job_that_is_refused_raise_why() -> None:
    async with a_world(faults=[Fault("create", "reset", after=True)]) as world:
        job = await world.kie.submit(ask(), wait=False)
        with pytest.raises(SubmitInDoubtError):
            [record async for record in job.updates()]


@pytest.mark.parametrize("foreign", [False, True])
async def test_whoever_stops_reading_updates_leaves_nothing(*, foreign: bool) -> None:
    async with a_world(duration=50.0) as world:
        job = await world.kie.submit(ask())
        handle = world.kie.attach(await somebody_elses(world.fake.url)) if foreign else job
        async with aclosing(handle.updates()) as updates:
            async for record in updates:
                assert record.state in ("waiting", "queuing", "generating")
                break
        assert (1, 1) == ((now := world.kie.statistics()).jobs, now.watched)
        await job
        await assert_settled(world.kie)
        if foreign:
            world.truth.tasks.pop(handle.id)  # not this client's to account for


async def test_refresh_asks_now_and_moves_the_job() -> None:
    async with a_world(duration=1e6) as world:
        job = await world.kie.submit(ask())
        before = anyio.current_time()
        assert "waiting" == (await job.refresh()).state
        world.fake.finish(world.tasks[0])
        record = await job.refresh()

        assert anyio.current_time() - before < 0.1
        assert ("success", world.tasks[0]) == (record.state, record.task_id)
        assert record == (await job).record
        await assert_settled(world.kie)


async def test_refresh_waits_for_the_task_id() -> None:
    async with a_world(create_seconds=5.0, duration=50.0) as world:
        job = await world.kie.submit(ask(), wait=False)

        record = await job.refresh()
        assert world.tasks == [record.task_id]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("poll", "reset"), TransportError),
        (Fault("poll", "silence"), TransportError),
        (Fault("poll", "html"), ProtocolError),
        (Fault("poll", "code", code=401), AuthenticationError),
        (Fault("poll", "code", code=422, msg="recordInfo is null"), TaskNotFoundError),
    ],
    ids=["reset", "silence", "html", "401", "422"],
)
async def test_refresh_says_why_there_is_no_record(fault: Fault, expected: type[KieError]) -> None:
    """With the ids, and without a change of the job."""
    async with a_world(faults=[fault], duration=1e6) as world:
        job = await world.kie.submit(ask())
        with pytest.raises(expected) as raised:
            await job.refresh()

        assert "submitted" == job.state
        if expected is not TransportError:
            assert (job.id, world.tasks[0]) == (raised.value.intent_id, raised.value.task_id)


async def test_refresh_of_a_job_in_doubt_says_so() -> None:
    async with a_world(faults=[Fault("create", "reset", after=True)]) as world:
        with pytest.raises(SubmitInDoubtError) as raised:
            await world.kie.submit(ask())
        with pytest.raises(SubmitInDoubtError):
            await raised.value.job.refresh()


async def test_a_task_of_another_program_can_be_awaited() -> None:
    """It is followed as long as somebody waits, and never enters the journal."""
    async with a_world(duration=50.0) as world:
        task_id = await somebody_elses(world.fake.url)
        job = world.kie.attach(task_id)
        assert (task_id, task_id, None) == (job.id, job.task_id, job.state)
        with pytest.raises(TaskTimeoutError) as raised:
            await job.wait(timeout=10.0)
        assert (None, task_id) == (raised.value.intent_id, raised.value.task_id)
        await assert_settled(world.kie)
        video = await job

        assert (task_id, None) == (video.task_id, video.intent_id)
        assert [] == await world.rows()
        await assert_settled(world.kie)
        world.truth.tasks.clear()  # not this client's to account for


async def test_two_wait_for_a_task_of_another_program() -> None:
    async with a_world(duration=50.0) as world:
        task_id = await somebody_elses(world.fake.url)
        results: list[str] = []

        async def wait(timeout: float | None) -> None:
            results.append((await world.kie.attach(task_id).wait(timeout)).task_id)

        async with anyio.create_task_group() as group:
            group.start_soon(wait, None)
            group.start_soon(wait, 500.0)
            with anyio.move_on_after(5.0):
                await wait(None)
        assert [task_id, task_id] == results
        await assert_settled(world.kie)
        world.truth.tasks.clear()


async def test_a_task_that_nobody_knows_is_not_waited_for_for_ever() -> None:
    """It may be so new that it is not visible yet; after 90 s it is not found."""
    async with a_world() as world:
        job = world.kie.attach("f" * 32)
        with pytest.raises(TaskNotFoundError) as raised:
            await job

        assert 90.0 <= anyio.current_time() <= 100.0
        assert "f" * 32 == raised.value.task_id
        await assert_settled(world.kie)
        with pytest.raises(TaskNotFoundError):
            await job.refresh()
        await assert_settled(world.kie)


async def test_a_job_that_the_journal_does_not_know_is_not_found_at_once() -> None:
    async with a_world() as world:
        job = world.kie.attach("kj_" + "0" * 32)
        assert (None, None) == (job.task_id, job.state)
        for call in (job.wait, job.refresh, job.abandon, lambda: anext(job.updates())):
            with pytest.raises(TaskNotFoundError, match="journal"):
                await call()
        assert [] == world.truth.polls
        await assert_settled(world.kie)


# -- the same key -----------------------------------------------------------------------------------------------------


async def test_the_same_key_is_the_same_job() -> None:
    """Before, during and after: one POST, one result, for as long as the journal remembers."""
    async with a_world(duration=30.0) as world:
        first = await world.kie.submit(ask(), key="order 7", wait=False)
        second = await world.kie.submit(ask(), key="order 7")
        video = await world.kie.generate(ask(), key="order 7")
        third = await world.kie.submit(ask(), key="order 7")

        assert first.id == second.id == third.id == video.intent_id
        assert video.record == (await third).record
        assert 1 == len(world.truth.posts) == len(await world.rows())
        await assert_settled(world.kie)


async def test_ten_at_once_with_one_key_are_one_job() -> None:
    async with a_world(latency=(0.02, 0.2)) as world:
        results: list[tuple[str | None, str]] = []

        async def one() -> None:
            video = await world.kie.generate(ask(), key="order 7")
            results.append((video.intent_id, video.task_id))

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)
        assert 1 == len(set(results))
        assert 10 == len(results)
        assert 1 == len(world.truth.posts) == len(await world.rows())
        await assert_settled(world.kie)


async def test_other_keys_and_none_are_other_jobs() -> None:
    async with a_world() as world:
        for key in ("a", "b", None, None):
            await world.kie.submit(ask({"a": 0, "b": 1}.get(key or "", 2 + len(world.truth.posts))), key=key)

        assert 4 == len(world.truth.posts)


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
async def test_the_same_key_for_another_request_is_a_conflict_that_names_what_differs(*, ended: bool) -> None:
    async with a_world() as world:
        job = await world.kie.submit(ask(0, seed=1), key="order 7")
        if ended:
            await job
        others: dict[tuple[str, ...], Request] = {
            ("prompt",): ask(1, seed=1),
            ("seed",): ask(0, seed=2),
            ("resolution", "seed"): ask(0, resolution="480p"),
            ("image_url",): ask(0, seed=1, image="https://example.com/dog.png"),
            ("model",): MarketRequest(model="z-image", input=ask(0, seed=1).input({})),
        }
        for differs, request in others.items():
            with pytest.raises(KeyConflictError) as raised:
                await world.kie.submit(request, key="order 7")
            assert differs == raised.value.differs
            assert job.id == raised.value.intent_id
            assert all(name in str(raised.value) for name in (*differs, "order 7"))
        assert 1 == len(world.truth.posts)
        await job
        await assert_settled(world.kie)


async def test_the_order_of_fields_makes_no_other_request() -> None:
    async with a_world() as world:
        given: Anything = {"prompt": "x", "n": 1, "nested": {"a": 1, "b": [1, 2]}}
        turned: Anything = {"nested": {"b": [1, 2], "a": 1}, "n": 1, "prompt": "x"}
        first = await world.kie.submit(MarketRequest(model="z-image", input=given), key="k")
        second = await world.kie.submit(MarketRequest(model="z-image", input=turned), key="k")

        assert first.id == second.id


async def test_a_withdrawn_job_is_sent_anew_by_its_key() -> None:
    """Nothing was paid, so nothing stands in the way; it is the same job."""
    async with a_world() as world:
        world.fake.maintenance = True
        with pytest.raises(KieError) as raised:
            await world.kie.submit(ask(), key="order 7")
        assert {"withdrawn": 1} == await world.states()
        world.fake.maintenance = False
        await anyio.sleep(100.0)
        video = await world.kie.generate(ask(), key="order 7")

        assert raised.value.intent_id == video.intent_id
        assert {"succeeded": 1} == await world.states()
        assert 1 == len(world.truth.created)
        await assert_settled(world.kie)


async def test_a_rejected_job_is_sent_anew_by_its_key() -> None:
    async with a_world(faults=[Fault("create", "code", code=422, nth=1)]) as world:
        with pytest.raises(KieError) as raised:
            await world.kie.submit(ask(), key="order 7")
        video = await world.kie.generate(ask(), key="order 7")

        assert raised.value.intent_id == video.intent_id
        assert 2 == len(world.truth.posts)
        assert None is (await world.row()).error
        await assert_settled(world.kie)


async def test_a_job_rejected_after_suspect_attempts_is_not_sent_anew() -> None:
    """It may have been paid three times over; the same key must not make it four."""
    async with a_world(faults=[Fault("create", "code", code=500)]) as world:
        for _ in range(2):
            with pytest.raises(ServiceError):
                await world.kie.submit(ask(), key="order 7")
            assert 3 == len(world.truth.posts)
        await assert_settled(world.kie)


@pytest.mark.parametrize("pause", [0.0, 700.0], ids=["in doubt", "unknown"])
async def test_a_job_in_doubt_is_not_sent_anew_by_its_key(pause: float) -> None:
    async with a_world(faults=[Fault("create", "reset", after=True)]) as world:
        with pytest.raises(SubmitInDoubtError) as first:
            await world.kie.submit(ask(), key="order 7")
        await anyio.sleep(pause)
        for call in (world.kie.submit, world.kie.generate):
            with pytest.raises(SubmitInDoubtError) as again:
                await call(ask(), key="order 7")
            assert first.value.job.id == again.value.job.id
        assert 1 == len(world.truth.posts)
        await first.value.job.resolve(world.tasks[0])
        assert world.tasks[0] == (await world.kie.generate(ask(), key="order 7")).task_id
        await assert_settled(world.kie)


async def test_a_failed_job_is_not_sent_anew_by_its_key() -> None:
    """The wish was fulfilled as far as it could be; another try is another key."""
    async with a_world(fail_rate=1.0) as world:
        for _ in range(2):
            with pytest.raises(TaskFailedError):
                await world.kie.generate(ask(), key="order 7")
        assert 1 == len(world.truth.posts)


async def test_a_stalled_job_is_not_sent_anew_by_its_key() -> None:
    async with a_world(client={"retry": RetryPolicy(max_age=100.0)}, duration=1000.0) as world:
        for _ in range(2):
            with pytest.raises(TaskTimeoutError):
                await world.kie.generate(ask(), key="order 7")
        job = await world.kie.submit(ask(), key="order 7")
        await job.wait(timeout=2000.0)

        assert 1 == len(world.truth.posts)


# -- the journal seen from outside ------------------------------------------------------------------------------------


async def test_jobs_lists_all_and_forget_deletes_what_has_ended() -> None:
    async with a_world() as world:
        start = asyncio.get_running_loop().wall_time()  # type: ignore[attr-defined]  # the virtual loop has one
        old = await world.kie.submit(ask(0), key="old")
        await old
        await anyio.sleep(1000.0)
        recent = await world.kie.submit(ask(1))
        await recent
        running = await world.kie.submit(ask(2))

        assert [old.id, recent.id, running.id] == [job.id for job in await world.kie.jobs()]
        assert 0 == await world.kie.forget(before=start)
        assert 1 == await world.kie.forget(before=start + 900.0)
        assert [recent.id, running.id] == [job.id for job in await world.kie.jobs()]
        assert 1 == await world.kie.forget(before=math.inf)
        assert [running.id] == [job.id for job in await world.kie.jobs()]
        with pytest.raises(TaskNotFoundError):
            await old
        world.truth.tasks.pop(world.tasks[0])
        world.truth.tasks.pop(world.tasks[0])
        await running


async def test_recover_takes_up_what_is_unfinished_and_only_once() -> None:
    async with a_world(duration=50.0) as world:
        done = await world.kie.generate(ask(0))
        job = await world.kie.submit(ask(1))

        assert [job.id] == [each.id for each in await world.kie.recover()]
        assert done.intent_id != job.id
        await job
        assert [] == await world.kie.recover()
        assert 2 == len(world.truth.posts)


async def test_credits_are_the_accounts() -> None:
    async with a_world(credits=1234.5) as world:
        assert 1234.5 == await world.kie.credits()
        await world.kie.submit(ask())
        assert 1154.5 == await world.kie.credits()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("credit", "code", code=401), AuthenticationError),
        (Fault("credit", "html", status=401), AuthenticationError),
        (Fault("credit", "html"), ProtocolError),
        (Fault("credit", "null_data"), ProtocolError),
        (Fault("credit", "reset"), TransportError),
        (Fault("credit", "silence"), TransportError),
        (Fault("credit", "redirect"), ConfigurationError),
    ],
    ids=["401", "bare 401", "html", "null", "reset", "silence", "redirect"],
)
async def test_credits_say_why_there_is_no_answer(fault: Fault, expected: type[KieError]) -> None:
    async with a_world(faults=[fault]) as world:
        with pytest.raises(expected) as raised:
            await world.kie.credits()
        assert expected is type(raised.value)
        assert [] == world.truth.strays
