"""A create whose answer is lost: its callback brings the task home if ``recordInfo`` proves it, and only then."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import EventName, KieClient, KieError, Limits, RetryPolicy, ServerError, SubmitInDoubtError
from kie_async._core.callback_token import callback_secret, make_callback_url
from kie_async.testing import FakeKie, Fault
from tests.client.backend import a_backend, a_called_world, body_of, duplicates, post
from tests.helpers import (
    CALLBACKS,
    KEY,
    PROMPT,
    Setup,
    assert_settled,
    client_and_fake,
    create_foreign_task,
    make_request,
)

if TYPE_CHECKING:
    from kie_async import Generation

JOBS = 50
UNCLEAR = "Internal Error, Please try again later."
KEYS = ("the-old-webhook-key", "the-webhook-key")


def lost(what: Any = "reset", **when: Any) -> Fault:
    return Fault("create", what, after=True, **when)


def suspect(**when: Any) -> Fault:
    """The create is answered by an unclear error, and the task exists all the same."""
    return Fault("create", "code", code=500, msg=UNCLEAR, after=True, **when)


async def all_generated(setup: Setup) -> tuple[list[Generation], list[KieError]]:
    """What the callers of fifty ``generate()`` get."""
    videos: list[Generation] = []
    troubles: list[KieError] = []

    async def one(number: int) -> None:
        try:
            videos.append(await setup.kie.generate(make_request(number)))
        except KieError as error:
            troubles.append(error)

    async with anyio.create_task_group() as group:
        for number in range(JOBS):
            group.start_soon(one, number)
    return videos, troubles


@pytest.mark.parametrize("what", ["reset", "silence", "html", "null_data", "truncated_json", "half_body"])
async def test_fifty_jobs_in_doubt_are_fifty_results_by_their_callbacks(what: str) -> None:
    """Every answer is lost, every callback comes: whoever waits for ``generate()`` never notices."""
    async with a_called_world(duration=(60.0, 0.35), faults=[lost(what)]) as (setup, backend):
        videos, troubles = await all_generated(setup)

        assert (JOBS, []) == (len({video.task_id for video in videos}), troubles)
        rows = {row.task_id: row for row in await setup.rows()}
        assert {"succeeded": JOBS} == Counter(row.state for row in rows.values())
        assert {*setup.tasks} == {*rows}
        for video in videos:
            row, task = rows[video.task_id], setup.truth.tasks[video.task_id]
            assert (row.id, task.result_url) == (video.job_id, video.url)
            assert row.id in str(task.callback_url)
            assert str(task.input["prompt"]) in row.input
        assert JOBS == len(setup.truth.create_requests)
        assert JOBS * [200] == backend.answers
        await anyio.sleep(60.0)
        await assert_settled(setup.kie)


async def test_a_job_in_doubt_whose_callback_says_that_it_failed_fails() -> None:
    async with a_called_world(duration=60.0, faults=[lost()], fail_rate=1.0) as (setup, _):
        with pytest.raises(KieError) as raised:
            await setup.kie.generate(make_request())
        assert ("TaskFailedError", setup.tasks[0]) == (type(raised.value).__name__, raised.value.task_id)


FOREIGN = ["ours", "another job's in doubt", "another program's", "another account's token", "nobody's"]


@pytest.mark.parametrize("whose", FOREIGN)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
async def test_fifty_forged_callbacks_with_a_foreign_task_bind_nothing(whose: str, *, signed: bool) -> None:
    """
    With a token of ours that has leaked, and a signature that is the service's own.

    The task that the callback names is finished, and the account's: nothing but the echo tells that it is another's.
    """
    key = KEYS[0] if signed else None
    client = {"webhook_key": key, "retry": RetryPolicy(max_age=7200.0)}
    first_half = {"nth": range(1, JOBS + 1 if whose != "another job's in doubt" else JOBS + 2)}
    async with a_called_world(
        client=client, webhook_key=key, duration=600.0, credits=1e6, faults=[lost(**first_half)]
    ) as (setup, backend):
        jobs = []
        for number in range(JOBS):
            with pytest.raises(SubmitInDoubtError) as raised:
                await setup.kie.submit(make_request(number))
            jobs.append(raised.value.job)
        foreign = await a_foreign_task(setup, backend.url, whose)
        if foreign in setup.tasks:
            setup.fake.finish(foreign)
            await anyio.sleep(1.0)
        before = len(backend.answers)
        async with anyio.create_task_group() as group:
            for number in range(JOBS):
                url, forged = setup.truth.create_requests[number].callback_url, body_of(foreign, state="success")
                group.start_soon(post, url, forged, setup.fake.sign(foreign))
        assert JOBS * [200] == backend.answers[before:]
        await anyio.sleep(200.0)

        rows = {row.id: row for row in await setup.rows()}
        assert JOBS * [("in_doubt", None, (), ())] == [
            (rows[job.id].state, rows[job.id].task_id, rows[job.id].duplicate_task_ids, rows[job.id].callback_task_ids)
            for job in jobs
        ]
        assert 0 == setup.kie.statistics().confirming
        # And what is right still comes home.
        homes = [(await job).task_id for job in jobs]
        assert [entry.task_id for entry in setup.truth.create_requests[:JOBS]] == homes
        assert [] == duplicates(setup.events)
        for stranger in [task for task in setup.truth.created if PROMPT not in str(task.input)]:
            del setup.truth.tasks[stranger.task_id]  # not this client's to account for


async def a_foreign_task(setup: Setup, base: str, whose: str) -> str:
    """A task that is not of any of the jobs that are in doubt."""
    match whose:
        case "ours":
            return str((await setup.kie.submit(make_request(JOBS))).task_id)
        case "another job's in doubt":
            with pytest.raises(SubmitInDoubtError):
                await setup.kie.submit(make_request(JOBS))
            return setup.tasks[-1]
        case "another program's":
            return await create_foreign_task(setup.fake.url)
        case "another account's token":
            theirs = make_callback_url(base, callback_secret("another key"), (await setup.rows())[0].id, 1)
            return await create_foreign_task(setup.fake.url, callback_url=theirs)
        case _:
            return "f" * 32


@pytest.mark.parametrize("state", ["submitted", "succeeded"])
async def test_a_forged_callback_does_not_touch_a_job_that_has_its_task(state: str) -> None:
    """Its body says that the task has failed, and with which result; neither is read."""
    async with a_called_world(duration=300.0) as (setup, _):
        job = await setup.kie.submit(make_request())
        if state == "succeeded":
            await job
        foreign = await create_foreign_task(setup.fake.url)
        setup.fake.finish(foreign)
        forged = {"state": "fail", "resultJson": '{"resultUrls":["https://example.com/evil.mp4"]}'}
        for task_id in (foreign, setup.tasks[0]):
            assert 200 == await post(setup.truth.create_requests[0].callback_url, body_of(task_id, **forged))
        await anyio.sleep(100.0)

        assert state == job.state
        video = await job
        assert setup.truth.tasks[setup.tasks[0]].result_url == video.url
        assert () == (await setup.row()).duplicate_task_ids
        del setup.truth.tasks[foreign]


async def test_a_task_that_nobody_knows_does_not_take_the_looks_of_the_right_one() -> None:
    """Each id has looks of its own to be found in, however long another one has been looked for."""
    async with a_called_world(duration=110.0, invisible_seconds=200.0, faults=[lost()]) as (setup, backend):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        assert 200 == await post(setup.truth.create_requests[0].callback_url, body_of("e" * 32))
        video = await raised.value.job

        assert setup.tasks == [video.task_id]
        assert [200, 200] == backend.answers
        assert anyio.current_time() < 260.0


async def test_a_job_has_room_for_four_tasks_that_are_not_proved_and_says_so_to_the_fifth() -> None:
    """What is not noted is not answered by 200: the service would never tell again what is the only way home."""
    async with a_called_world(duration=20.0, callback_retry_delay=100.0, faults=[lost()]) as (setup, _):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        url = setup.truth.create_requests[0].callback_url
        assert 6 * [200] == [await post(url, body_of(f"{n % 4:032x}")) for n in range(6)]
        assert 429 == await post(url, body_of("f" * 32))
        assert 4 == len((await setup.row()).callback_task_ids)
        assert setup.tasks == [(await raised.value.job).task_id]

        assert [429, 429, 200] == [entry.status for entry in setup.truth.callbacks]


async def test_a_suspect_create_that_was_accepted_is_not_sent_again_if_its_callback_is_faster() -> None:
    """The owner waits for its next try; the callback proves that there is nothing to be tried."""
    busy = Fault("create", "code", code=500, msg=UNCLEAR, after=True, nth=1)
    # The one token that the limit allows is spent: the second try has to wait for ten seconds.
    async with a_called_world(duration=5.0, client={"limits": Limits(creates=1)}, faults=[busy]) as (setup, _):
        video = await setup.kie.generate(make_request())
        await anyio.sleep(100.0)

        assert 1 == len(setup.truth.create_requests)
        row = await setup.row()
        assert ("succeeded", setup.tasks[0], 1, 1) == (row.state, row.task_id, row.attempts, row.ambiguous_attempts)
        assert setup.tasks == [video.task_id]
        await assert_settled(setup.kie)


@pytest.mark.parametrize(("seconds", "home"), [(1.0, 1), (20.0, 0)], ids=["the second is faster", "the first is"])
async def test_a_callback_that_comes_while_the_second_create_is_on_the_wire_ties_the_duplicate(
    seconds: float, home: int
) -> None:
    """Both were paid, which nobody could prevent; what ends first is the job's, the other is told, neither is lost."""
    faults = [suspect(nth=1), Fault("create", "slow", after=True, seconds=15.0, nth=2)]
    async with a_called_world(duration=partial(by_turns, [5.0, seconds]), faults=faults) as (setup, _):
        video = await setup.kie.generate(make_request())
        assert anyio.current_time() < 7.0
        await anyio.sleep(100.0)
        own, other = setup.tasks[home], setup.tasks[1 - home]
        row = await setup.row()

        assert own == video.task_id == row.task_id
        assert ("succeeded", (other,), 2) == (row.state, row.duplicate_task_ids, row.attempts)
        assert [other] == duplicates(setup.events)
        assert 2 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


def by_turns(seconds: list[float], _model: str, _random: object) -> float:
    return seconds.pop(0) if len(seconds) > 1 else seconds[0]


@pytest.mark.parametrize("leave", ["aclose", "halt"])
async def test_the_second_create_is_read_to_its_end_whoever_stops(leave: str) -> None:
    """
    A callback has bound the first task; the create that is on the wire may be paid, and its answer says which task.

    Neither a client that closes nor another job that the account cannot pay cuts it off.
    """
    faults = [
        suspect(nth=1),
        Fault("create", "slow", after=True, seconds=4.0, nth=2),
        Fault("create", "code", code=402, nth=3),
    ]
    async with a_called_world(duration=partial(by_turns, [1.5, 1000.0]), faults=faults) as (setup, _):
        await setup.kie.generate(make_request())
        assert 2 == len(setup.truth.create_requests)
        if leave == "aclose":
            await setup.kie.aclose()
        else:
            with pytest.raises(KieError):
                await setup.kie.submit(make_request(1))
            await anyio.sleep(5.0)
        row = (await setup.rows())[0]

        assert (setup.tasks[0], (setup.tasks[1],)) == (row.task_id, row.duplicate_task_ids)


async def test_a_refused_job_with_suspect_attempts_comes_home_by_a_late_callback() -> None:
    """The caller was told ServerError, and that it may have been paid; the same key finds the task then."""
    policy = RetryPolicy(server_error_attempts=2)
    faults = [suspect(nth=1), Fault("create", "code", code=500, msg=UNCLEAR, nth=2)]
    async with a_called_world(duration=60.0, client={"retry": policy}, faults=faults) as (setup, _):
        with pytest.raises(ServerError):
            await setup.kie.generate(make_request(), key="order-7")
        row = await setup.row()
        assert ("rejected", 2) == (row.state, row.ambiguous_attempts)
        with pytest.raises(ServerError):
            await setup.kie.submit(make_request(), key="order-7")
        await anyio.sleep(80.0)

        assert ("succeeded", setup.tasks[0]) == ((row := await setup.row()).state, row.task_id)
        assert setup.tasks == [(await setup.kie.job(row.id)).task_id]
        assert setup.tasks == [(await setup.kie.generate(make_request(), key="order-7")).task_id]
        assert 2 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_every_paid_task_of_a_refused_job_is_told() -> None:
    """Three attempts, three unclear errors, three tasks: one is the job's, and the callbacks of the others say so."""
    async with a_called_world(duration=(60.0, 0.2), faults=[suspect()]) as (setup, _):
        with pytest.raises(ServerError):
            await setup.kie.generate(make_request())
        await anyio.sleep(200.0)
        row = await setup.row()

        assert "succeeded" == row.state
        assert 3 == len(setup.tasks)
        assert {*setup.tasks} == {row.task_id, *row.duplicate_task_ids}
        assert 2 == len(setup.reported(EventName.DUPLICATE))
        await assert_settled(setup.kie)


async def test_an_unknown_job_comes_home_by_a_late_callback() -> None:
    """It was in doubt for too long, and the caller was told; nothing has been given up."""
    policy = RetryPolicy(max_age=600.0)
    async with a_called_world(duration=1000.0, client={"retry": policy}, faults=[lost()]) as (setup, _):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.generate(make_request())
        assert "unresolved" == (await setup.row()).state
        await anyio.sleep(500.0)

        assert setup.tasks == [(await raised.value.job).task_id]
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_a_job_that_was_sent_again_by_hand_has_the_task_that_ends_first_and_tells_of_the_other() -> None:
    async with a_called_world(duration=(60.0, 0.2), faults=[lost(nth=1)]) as (setup, _):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        await raised.value.job.resubmit(allow_duplicate=True)
        video = await raised.value.job
        await anyio.sleep(200.0)
        row = await setup.row()

        assert {*setup.tasks} == {video.task_id, *row.duplicate_task_ids}
        assert 1 == len(row.duplicate_task_ids) == row.ambiguous_attempts
        await assert_settled(setup.kie)


@pytest.mark.parametrize("first", ["grant", "proof"])
async def test_a_slot_that_is_granted_in_the_turn_in_which_a_callback_brings_the_task_is_one_slot(first: str) -> None:
    """The owner waits for a slot to send the job again; the task of its first create takes one whether there is one."""
    policy = RetryPolicy(in_doubt_timeout=30.0)
    options = {"retry": policy, "limits": Limits(in_flight=1), "callback_url": CALLBACKS}
    async with client_and_fake(client=options, duration=600.0, faults=[lost(nth=1)]) as setup:
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        await anyio.sleep(40.0)
        running = await setup.kie.submit(make_request(1))
        await raised.value.job.resubmit(allow_duplicate=True)
        await anyio.sleep(1.0)
        assert (1, 1) == (setup.kie.statistics().in_flight, setup.kie.statistics().waiting_for_slot)

        engine = await setup.kie._binding.engine()  # noqa: SLF001 (two things must happen in one turn)
        waits, runs = engine.registry.get(raised.value.job.id), engine.registry.get(running.id)
        assert waits is not None
        assert runs is not None
        await engine.results.record_accepted(waits, setup.tasks[0])
        if first == "grant":
            engine.tracker.release_slot(runs)
        engine.tracker.track_submitted(waits)
        engine.submitter.interrupt(waits)
        if first == "proof":
            engine.tracker.release_slot(runs)
        await anyio.sleep(1.0)

        assert (1, 0) == (setup.kie.statistics().in_flight, setup.kie.statistics().waiting_for_slot)
        await raised.value.job
        await running
        await assert_settled(setup.kie)


async def test_an_early_task_is_proved_although_looks_fail_at_first() -> None:
    """No answer, pages of a proxy, refusals, and an id that is not visible yet say nothing against it."""
    troubles = ["null_data", "reset", "html", "silence"]
    faults = [
        lost(),
        Fault("poll", "code", code=429, nth=1),
        Fault("poll", "code", code=401, nth=2),
        *(Fault("poll", what, nth=range(3 + 2 * n, 5 + 2 * n)) for n, what in enumerate(troubles)),  # type: ignore[arg-type]
    ]
    async with a_called_world(duration=60.0, faults=faults) as (setup, _):
        video = await setup.kie.generate(make_request())
        assert setup.tasks == [video.task_id]


async def test_a_client_that_closes_during_a_confirmation_logs_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    """At each turn of the loop, from the post on; the row stays as it was, or is as the task has ended."""
    found = Counter[str]()

    async def once(turns: int) -> bool:
        over = False
        async with a_backend() as backend, FakeKie(duration=60.0, faults=[lost()]) as fake:
            kie = KieClient(KEY, base_url=fake.url, callback_url=backend.url)
            backend.serve(kie)
            with pytest.raises(SubmitInDoubtError):
                await kie.submit(make_request())
            await anyio.sleep(59.9)
            answered = anyio.Event()

            async def take() -> None:
                await post(fake.truth.create_requests[0].callback_url, body_of(fake.truth.created[0].task_id))
                answered.set()

            async with anyio.create_task_group() as group:
                group.start_soon(take)
                for _ in range(turns):
                    await anyio.sleep(0.0)
                now = kie.statistics()
                over = answered.is_set() and now.confirmations == 1 and not now.loop_tasks
                await kie.aclose()
            async with kie:
                found.update(row.state for row in await kie.jobs())
        return over

    turns = 0
    while not await once(turns):
        turns += 1
    assert {"in_doubt", "submitted"} == {*found}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
