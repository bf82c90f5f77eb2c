"""Polling: the results of polls, and their effect on jobs."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import (
    AuthenticationError,
    EventName,
    KieClient,
    Limits,
    NoResultError,
    RetryPolicy,
    TaskFailedError,
    TaskTimeoutError,
    TransportError,
)
from kie_async._core.lifecycle import ENDED, Intent
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from kie_async.testing.tasks import TaskFailure
from kie_async.testing.truth import busiest_window
from tests.helpers import KEY, assert_settled, client_and_fake, create_foreign_task, make_request

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("duration", [0.0, 1.0, 29.0, 100.0, 800.0])
async def test_a_job_ends_soon_after_its_task(duration: float) -> None:
    """
    The client has no experience with such tasks, and the result has all that the service reports.

    The first poll is after about five seconds; the interval grows with the task's age.
    """
    async with client_and_fake(duration=duration, latency=(0.02, 0.2)) as setup:
        video = await setup.kie.generate(make_request())
        (task,) = setup.truth.created

        assert anyio.current_time() - task.ends_at <= 6.0 + 0.02 * duration
        assert (task.task_id, (task.result_url,), 80.0) == (video.task_id, video.urls, video.credits)
        assert task.result_url == video.url
        assert math.isclose(duration, video.seconds or 0.0, abs_tol=0.01)
        assert (task.model, task.task_id) == (video.record.model, video.record.raw["taskId"])
        await assert_settled(setup.kie)


async def test_polls_never_exceed_the_limit() -> None:
    """At most five polls in any second for 200 jobs; none is refused, and every job ends."""
    async with client_and_fake(latency=(0.02, 0.2), duration=(90.0, 0.5), credits=1e6) as setup:
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(setup.kie.generate, make_request(number))
        polled_at = [poll.at for poll in setup.truth.polls]

        assert busiest_window(polled_at, 1.0) <= 5
        assert [] == [poll for poll in setup.truth.polls if poll.code == 429]
        assert {"succeeded": 200} == await setup.states()


@pytest.mark.parametrize(
    ("polls_per_second", "seconds", "most"), [(0.5, 2.0, 1), (1.0, 1.0, 1), (2.5, 0.8, 2), (10.0, 1.0, 10)]
)
async def test_the_limit_of_polls_is_configurable(polls_per_second: float, seconds: float, most: int) -> None:
    limits = Limits(polls_per_second=polls_per_second)
    async with client_and_fake(client={"limits": limits}, duration=30.0, queries_per_second=1000.0) as setup:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(setup.kie.generate, make_request(number))
        polled_at = [poll.at for poll in setup.truth.polls]

        assert most == busiest_window(polled_at, seconds)


@pytest.mark.parametrize(
    "poll",
    [
        {"kind": "html"},
        {"kind": "html", "status": 200},
        {"kind": "html", "status": 404},
        {"kind": "code", "code": 500},
        {"kind": "code", "code": 408},
        {"kind": "html", "status": 401},
        {"kind": "status", "status": 401},
        {"kind": "code", "code": 455},
        {"kind": "code", "code": 429},
        {"kind": "code", "code": 402},
        {"kind": "code", "code": 777},
        {"kind": "null_data"},
        {"kind": "truncated_json"},
        {"kind": "half_body"},
        {"kind": "half_status_line"},
        {"kind": "garbage"},
        {"kind": "reset"},
        {"kind": "silence"},
        {"kind": "slow_body", "seconds": 1.0},
        {"kind": "redirect"},
        {"kind": "body", "body": "[1, 2]"},
        {"kind": "body", "body": ""},
        {"kind": "body", "body": '{"code":200,"data":[]}'},
        {"kind": "alter", "data": {"taskId": "f" * 32, "state": "fail"}},
        {"kind": "alter", "data": {"state": None}},
        {"kind": "alter", "data": {"state": "reviewing"}},
        {"kind": "alter", "data": {"state": "waiting", "completeTime": 1}},
    ],
    ids=lambda poll: "-".join(str(value) for value in poll.values()),
)
async def test_an_unreadable_poll_changes_nothing(poll: dict[str, Any]) -> None:
    """With any answer instead of the record, the job continues and ends, and nothing is sent again."""
    async with client_and_fake(faults=[Fault("poll", times=4, **poll)], duration=1.0) as setup:
        job = await setup.kie.submit(make_request())
        await anyio.sleep(3.0)
        assert "submitted" == job.state
        video = await job

        assert setup.tasks[0] == video.task_id
        assert (1, []) == (len(setup.truth.create_requests), setup.truth.followed_redirects)
        assert anyio.current_time() < 70.0
        await assert_settled(setup.kie)


async def test_a_429_slows_polling_and_ends_no_job() -> None:
    fault = Fault("poll", "code", code=429, between=(0.0, 60.0))
    async with client_and_fake(faults=[fault], duration=1.0) as setup:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(setup.kie.generate, make_request(number))
        refused = [poll for poll in setup.truth.polls if poll.code == 429]

        assert len(refused) <= 35  # five in ten seconds, once the pauses have grown
        assert {"succeeded": 20} == await setup.states()


@pytest.mark.parametrize("seed", range(3))
async def test_slow_polls_block_no_other(seed: int) -> None:
    """5 % of polls take a minute; forty jobs of 3 s end at most 2 s later than without."""
    fault = Fault("poll", "slow", seconds=60.0, probability=0.05)
    async with client_and_fake(faults=[fault], duration=3.0, credits=1e6, seed=seed) as setup:
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(setup.kie.generate, make_request(number))

        assert anyio.current_time() <= 18.5
        assert {"succeeded": 40} == await setup.states()
        await assert_settled(setup.kie)


async def test_status_retries_a_slow_poll() -> None:
    """``status()`` returns after about a second, and the slow connection is abandoned."""
    async with client_and_fake(faults=[Fault("poll", "slow", seconds=60.0, nth=1)], duration=30.0) as setup:
        job = await setup.kie.submit(make_request())
        polled_at = anyio.current_time()
        assert setup.tasks[0] == (await job.status()).task_id

        assert anyio.current_time() - polled_at <= 1.2
        assert 1 == setup.kie.statistics().polls


async def test_status_times_out_despite_waits_for_the_pacer() -> None:
    """The pacer's only token returns eleven seconds after the first poll, later than the timeout of ten."""
    fault = Fault("poll", "slow", seconds=600.0, times=3)
    async with client_and_fake(
        client={"limits": Limits(polls_per_second=0.1)}, faults=[fault], duration=900.0
    ) as setup:
        job = await setup.kie.submit(make_request())
        polled_at = anyio.current_time()
        with pytest.raises(TransportError, match="timed out"):
            await job.status()

        # One, two and seven seconds on the wire, and ten between them.
        assert math.isclose(30.0, anyio.current_time() - polled_at, abs_tol=0.1)


async def test_an_ended_job_leaves_no_timers() -> None:
    """Neither a poll nor a deadline, which would hold the job for an hour."""
    async with client_and_fake(duration=5.0) as setup:
        timers = (await setup.kie._binding.engine()).timers  # noqa: SLF001 (timers are not public)
        await setup.kie.submit(make_request())
        assert 2 <= len(timers)
        await anyio.sleep(60.0)

        assert 0 == len(timers)
        await assert_settled(setup.kie)


async def test_status_postpones_the_next_poll() -> None:
    async with client_and_fake(duration=30.0) as setup:
        job = await setup.kie.submit(make_request())
        await anyio.sleep(3.0)
        assert [] == setup.truth.polls
        await job.status()
        await anyio.sleep(1.9)

        assert 1 == len(setup.truth.polls)


async def test_a_foreign_task_is_polled_by_its_real_age() -> None:
    """A task of ten minutes is not polled every few seconds, as a new one is."""
    async with client_and_fake(duration=1000.0) as setup:
        task_id = await create_foreign_task(setup.fake.url)
        await anyio.sleep(600.0)
        with pytest.raises(TaskTimeoutError):
            await setup.kie.job(task_id).wait(timeout=60.0)

        assert 3 <= len(setup.truth.polls) <= 7
        setup.truth.tasks.clear()  # not this client's


async def test_an_old_foreign_task_may_be_invisible_once() -> None:
    """It was visible before: one contradicting answer ends no wait."""
    fault = Fault("poll", "code", code=422, msg="recordInfo is null", nth=2)
    async with client_and_fake(duration=700.0, faults=[fault]) as setup:
        task_id = await create_foreign_task(setup.fake.url)
        await anyio.sleep(600.0)
        assert task_id == (await setup.kie.job(task_id)).task_id

        assert {422, 200} == {poll.code for poll in setup.truth.polls}
        setup.truth.tasks.clear()  # not this client's


async def test_status_of_a_foreign_task_polls_once() -> None:
    """Without a waiter it is not polled again."""
    async with client_and_fake(duration=1000.0) as setup:
        task_id = await create_foreign_task(setup.fake.url)
        await setup.kie.job(task_id).status()
        await anyio.sleep(60.0)

        assert 1 == len(setup.truth.polls)
        await assert_settled(setup.kie)
        setup.truth.tasks.clear()  # not this client's


async def test_polling_improves_with_experience() -> None:
    """After ten similar tasks, the eleventh takes half as many polls as the first, and its end is found sooner."""
    async with client_and_fake(duration=60.0, credits=1e6) as setup:
        polls, lags = [0], []
        for number in range(11):
            await setup.kie.generate(make_request(number))
            polls.append(len(setup.truth.polls))
            lags.append(anyio.current_time() - setup.truth.created[number].ends_at)
        first, last = polls[1] - polls[0], polls[-1] - polls[-2]

        assert last <= first / 2
        assert lags[-1] <= 2.5


async def test_a_restarted_client_knows_how_long_its_models_take(tmp_path: Path) -> None:
    """It reads the durations of earlier jobs from its journal: the first poll comes when a task may end."""
    first_polls = []
    async with FakeKie(duration=300.0, credits=1e6) as fake:
        for number in range(2):
            async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
                polls, began_at = len(fake.truth.polls), anyio.current_time()
                async with anyio.create_task_group() as group:
                    for job in range(60 if number == 0 else 1):
                        group.start_soon(kie.generate, make_request(job))
                first_polls.append(fake.truth.polls[polls].at - began_at)
                assert anyio.current_time() - fake.truth.created[-1].ends_at <= 15.0

    assert first_polls[0] <= 6.0
    assert 15.0 <= first_polls[1]


async def test_a_task_may_be_invisible_at_first() -> None:
    """``recordInfo is null`` right after the create means "not yet"."""
    async with client_and_fake(invisible_seconds=80.0, duration=20.0) as setup:
        video = await setup.kie.generate(make_request())

        assert setup.tasks[0] == video.task_id
        assert anyio.current_time() < 90.0


async def test_an_invisible_task_of_ours_is_stalled_not_failed() -> None:
    """It was paid, and may become visible later."""
    async with client_and_fake(invisible_seconds=5000.0, duration=20.0) as setup:
        with pytest.raises(TaskTimeoutError):
            await setup.kie.generate(make_request())
        assert "stalled" == (await setup.row()).state
        await anyio.sleep(3600.0)

        assert "succeeded" == (await setup.row()).state
        await assert_settled(setup.kie)


async def test_a_job_is_stalled_at_max_age_and_may_still_end() -> None:
    """Its slot is released, its waiters get an error, and it is polled rarely."""
    async with client_and_fake(duration=9000.0) as setup:
        job = await setup.kie.submit(make_request())
        with pytest.raises(TaskTimeoutError, match="may still end") as raised:
            await job
        assert 3600.0 <= anyio.current_time() < 3601.0
        assert (job.id, setup.tasks[0]) == (raised.value.job_id, raised.value.task_id)
        assert ("stalled", 0, 1) == (job.state, (now := setup.kie.statistics()).in_flight, now.watched)
        assert [job.id] == [event.job_id for event in setup.reported(EventName.STALLED)]

        polls = len(setup.truth.polls)
        with pytest.raises(TaskTimeoutError):
            await job  # at once
        assert anyio.current_time() < 3601.0
        video = await job.wait(timeout=10_000.0)
        assert setup.tasks[0] == video.task_id
        assert 9000.0 <= anyio.current_time() <= 9301.0
        assert 10 <= len(setup.truth.polls) - polls <= 20
        assert "succeeded" == (await setup.row()).state
        await assert_settled(setup.kie)


async def test_max_age_is_configurable() -> None:
    async with client_and_fake(client={"retry": RetryPolicy(max_age=100.0)}, duration=1e6) as setup:
        with pytest.raises(TaskTimeoutError):
            await setup.kie.generate(make_request())

        assert 100.0 <= anyio.current_time() < 101.0


@pytest.mark.parametrize("empty", ["", None, "{}", '{"resultUrls":[]}', '{"resultUrls":[""]}', {"resultUrls": []}])
async def test_success_before_its_result_is_awaited(empty: object) -> None:
    """Seen in practice: the state precedes the result."""
    fault = Fault("poll", "alter", data={"resultJson": empty}, times=2)  # type: ignore[dict-item]  # JSON, by a parameter
    async with client_and_fake(faults=[fault], duration=0.0) as setup:
        video = await setup.kie.generate(make_request())

        assert (setup.truth.created[0].result_url,) == video.urls
        assert 3 == len(setup.truth.polls)


async def test_success_without_a_result_raises() -> None:
    """It was paid, so it is not FAILED: the error has the task id for the service's support."""
    async with client_and_fake(faults=[Fault("poll", "alter", data={"resultJson": ""})], duration=0.0) as setup:
        job = await setup.kie.submit(make_request())
        for _ in range(2):
            with pytest.raises(NoResultError) as raised:
                await job
            assert (job.id, setup.tasks[0]) == (raised.value.job_id, raised.value.task_id)
        assert "succeeded" == (await setup.row()).state
        await assert_settled(setup.kie)


async def test_a_result_may_be_an_object_instead_of_text() -> None:
    result = {"resultUrls": ["https://tempfile.aiquickdraw.com/a.mp4", "https://tempfile.aiquickdraw.com/b.mp4"]}
    async with client_and_fake(faults=[Fault("poll", "alter", data={"resultJson": result})], duration=0.0) as setup:  # type: ignore[dict-item]  # JSON
        video = await setup.kie.generate(make_request())

        assert tuple(result["resultUrls"]) == video.urls


async def test_a_record_with_broken_json_in_param_is_read() -> None:
    """Seen in practice: unescaped quotes in ``param``."""
    async with client_and_fake(duration=1e6) as setup:
        job = await setup.kie.submit(make_request())
        url = "https://tempfile.aiquickdraw.com/a.mp4"
        record = {
            "taskId": setup.tasks[0],
            "state": "success",
            "param": "PARAM",
            "resultJson": json.dumps({"resultUrls": [url]}),
        }
        body = json.dumps({"code": 200, "msg": "success", "data": record})
        broken = body.replace("PARAM", '{"input":"{\\"prompt\\":\\"say "hi" to her\\"}","model":"m"}')
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken)
        setup.fake.inject(Fault("poll", "body", body=broken))

        assert (url,) == (await job).urls
        await assert_settled(setup.kie)


async def test_a_failed_task_has_the_services_message() -> None:
    """The error has the code, the text, and if a retry is worthwhile."""
    async with client_and_fake(duration=1e6) as setup:
        passing = await setup.kie.submit(make_request(0))
        lasting = await setup.kie.submit(make_request(1))
        setup.fake.fail(setup.tasks[0], "500", "Internal Error, Please try again later.")
        setup.fake.fail(setup.tasks[1], "422", "The input was flagged as sensitive.")
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
        assert (passing.id, setup.tasks[0]) == (first.job_id, first.task_id)
        assert str(first) == str(again)
        assert {"failed": 2} == await setup.states()
        assert 2 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_a_refused_key_raises_and_the_task_continues() -> None:
    async with client_and_fake(faults=[Fault("poll", "code", code=401, nth=[1, 2])], duration=20.0) as setup:
        job = await setup.kie.submit(make_request())
        with pytest.raises(AuthenticationError, match="the task continues"):
            await job
        assert "submitted" == job.state
        await anyio.sleep(30.0)

        assert setup.tasks[0] == (await job).task_id
        await assert_settled(setup.kie)


async def test_the_first_terminal_record_wins() -> None:
    """A slow poll is overtaken by another one; its terminal record is counted and ignored."""
    async with client_and_fake(faults=[Fault("poll", "slow", seconds=0.8, nth=1)], duration=1.0) as setup:
        job = await setup.kie.submit(make_request())
        while not setup.truth.polls:
            await anyio.sleep(0.1)
        await job.status()
        assert setup.tasks[0] == (await job).task_id
        row = await setup.row()
        await anyio.sleep(20.0)

        assert row == await setup.row()
        assert 1 == setup.kie.statistics().duplicate_records == len(setup.reported(EventName.DUPLICATE_RECORD))
        assert 1 == len(setup.reported(EventName.ENDED))
        await assert_settled(setup.kie)


class SlowJournal(MemoryJournal):
    """A journal that takes a second to write an end."""

    async def transition(self, seen: Intent, state: JobState, **changes: Any) -> Intent | None:
        if state in ENDED:
            await anyio.sleep(1.0)
        return await super().transition(seen, state, **changes)


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
async def test_older_answer_that_arrives_after_the_end_changes_nothing(*, fails: bool) -> None:
    """It arrives while the end is being journaled; the wait would never end."""
    slow = Fault("poll", "slow", after=True, seconds=0.5, between=(9.5, 9.99))
    async with client_and_fake(client={"journal": SlowJournal()}, duration=10.0, faults=[slow]) as setup:
        job = await setup.kie.submit(make_request())
        setup.fake.truth.tasks[job.task_id or ""].failure = TaskFailure("500", "busy") if fails else None
        async with anyio.create_task_group() as group:
            await anyio.sleep(9.8 - anyio.current_time())
            group.start_soon(job.status)
            await anyio.sleep(10.1 - anyio.current_time())
            group.start_soon(job.status)
            with pytest.raises(TaskFailedError) if fails else nullcontext():
                await job.wait(timeout=60.0)
        assert anyio.current_time() < 12.0
