"""Creates in doubt: a callback binds the task if ``recordInfo`` proves it, and only then."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import EventName, KieClient, KieError, Limits, RetryPolicy, ServerError, SubmitInDoubtError
from kie_async._core.callback_token import callback_secret, make_callback_url
from kie_async._io.journals.memory import MemoryJournal
from kie_async.testing import FakeKie, Fault
from tests.client.backend import callback_body, client_with_callbacks, post, reported_duplicates, running_backend
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
    from kie_async._core.lifecycle import Intent

JOBS = 50
AMBIGUOUS = "Internal Error, Please try again later."
KEYS = ("the-old-webhook-key", "the-webhook-key")


def lost_response(what: Any = "reset", **when: Any) -> Fault:
    return Fault("create", what, after=True, **when)


def ambiguous_error(**when: Any) -> Fault:
    """Answer a create with an ambiguous error, although the task exists."""
    return Fault("create", "code", code=500, msg=AMBIGUOUS, after=True, **when)


async def generate_all(setup: Setup) -> tuple[list[Generation], list[KieError]]:
    """Call ``generate()`` for fifty jobs; return results and errors."""
    videos: list[Generation] = []
    failures: list[KieError] = []

    async def one(number: int) -> None:
        try:
            videos.append(await setup.kie.generate(make_request(number)))
        except KieError as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        for number in range(JOBS):
            group.start_soon(one, number)
    return videos, failures


@pytest.mark.parametrize("what", ["reset", "silence", "html", "null_data", "truncated_json", "half_body"])
async def test_callbacks_settle_fifty_jobs_in_doubt(what: str) -> None:
    """Every create response is lost, every callback arrives: callers of ``generate()`` notice nothing."""
    async with client_with_callbacks(duration=(60.0, 0.35), faults=[lost_response(what)]) as (setup, backend):
        videos, failures = await generate_all(setup)

        assert (JOBS, []) == (len({video.task_id for video in videos}), failures)
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


async def test_a_job_in_doubt_can_fail_by_its_callback() -> None:
    async with client_with_callbacks(duration=60.0, faults=[lost_response()], fail_rate=1.0) as (setup, _):
        with pytest.raises(KieError) as raised:
            await setup.kie.generate(make_request())
        assert ("TaskFailedError", setup.tasks[0]) == (type(raised.value).__name__, raised.value.task_id)


FOREIGN = ["ours", "another job's in doubt", "another program's", "another account's token", "an unknown task's"]


@pytest.mark.parametrize("whose", FOREIGN)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
async def test_forged_callbacks_with_foreign_tasks_bind_nothing(whose: str, *, signed: bool) -> None:
    """
    The token is leaked, and the signature is the service's own.

    The named task is finished and belongs to the account: only the echo tells that it is another job's.
    """
    key = KEYS[0] if signed else None
    client = {"webhook_key": key, "retry": RetryPolicy(max_age=7200.0)}
    first_half = {"nth": range(1, JOBS + 1 if whose != "another job's in doubt" else JOBS + 2)}
    async with client_with_callbacks(
        client=client, webhook_key=key, duration=600.0, credits=1e6, faults=[lost_response(**first_half)]
    ) as (setup, backend):
        jobs = []
        for number in range(JOBS):
            with pytest.raises(SubmitInDoubtError) as raised:
                await setup.kie.submit(make_request(number))
            jobs.append(raised.value.job)
        foreign = await make_foreign_task(setup, backend.url, whose)
        if foreign in setup.tasks:
            setup.fake.finish(foreign)
            await anyio.sleep(1.0)
        before = len(backend.answers)
        async with anyio.create_task_group() as group:
            for number in range(JOBS):
                url, forged = setup.truth.create_requests[number].callback_url, callback_body(foreign, state="success")
                group.start_soon(post, url, forged, setup.fake.sign(foreign))
        assert JOBS * [200] == backend.answers[before:]
        await anyio.sleep(200.0)

        rows = {row.id: row for row in await setup.rows()}
        assert JOBS * [("in_doubt", None, (), ())] == [
            (rows[job.id].state, rows[job.id].task_id, rows[job.id].duplicate_task_ids, rows[job.id].callback_task_ids)
            for job in jobs
        ]
        assert 0 == setup.kie.statistics().confirming
        # The genuine callbacks still bind the tasks.
        bound = [(await job).task_id for job in jobs]
        assert [entry.task_id for entry in setup.truth.create_requests[:JOBS]] == bound
        assert [] == reported_duplicates(setup.events)
        for foreign_task in [task for task in setup.truth.created if PROMPT not in str(task.input)]:
            del setup.truth.tasks[foreign_task.task_id]  # not this client's


async def make_foreign_task(setup: Setup, base: str, whose: str) -> str:
    """Create a task that belongs to none of the jobs in doubt."""
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
async def test_a_forged_callback_does_not_change_a_known_task(state: str) -> None:
    """Its body claims a failure and a result; neither is read."""
    async with client_with_callbacks(duration=300.0) as (setup, _):
        job = await setup.kie.submit(make_request())
        if state == "succeeded":
            await job
        foreign = await create_foreign_task(setup.fake.url)
        setup.fake.finish(foreign)
        forged = {"state": "fail", "resultJson": '{"resultUrls":["https://example.com/evil.mp4"]}'}
        for task_id in (foreign, setup.tasks[0]):
            assert 200 == await post(setup.truth.create_requests[0].callback_url, callback_body(task_id, **forged))
        await anyio.sleep(100.0)

        assert state == job.state
        video = await job
        assert setup.truth.tasks[setup.tasks[0]].result_url == video.url
        assert () == (await setup.row()).duplicate_task_ids
        del setup.truth.tasks[foreign]


async def test_an_unknown_task_id_does_not_block_the_right_one() -> None:
    """Each task id has its own number of polls; together they have one in 90 s after the first ten."""
    async with client_with_callbacks(duration=110.0, invisible_seconds=200.0, faults=[lost_response()]) as (
        setup,
        backend,
    ):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        assert 200 == await post(setup.truth.create_requests[0].callback_url, callback_body("e" * 32))
        video = await raised.value.job

        assert setup.tasks == [video.task_id]
        assert [200, 200] == backend.answers
        assert anyio.current_time() < 200.0 + 90.0


async def test_a_new_task_id_replaces_the_least_likely_one() -> None:
    """The row has at most eight that are not proved; none is refused, and the genuine one is polled at once."""
    async with client_with_callbacks(duration=20.0, faults=[lost_response()]) as (setup, backend):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        url = setup.truth.create_requests[0].callback_url
        assert 30 * [200] == [await post(url, callback_body(f"{n:032x}")) for n in range(30)]
        row = await setup.row()
        assert [f"{n:032x}" for n in range(22, 30)] == sorted(row.callback_task_ids)
        assert setup.tasks == [(await raised.value.job).task_id]

        assert 20.0 == pytest.approx(anyio.current_time(), abs=0.1)
        assert [200] == backend.answers[30:]


async def test_a_callback_before_the_retry_prevents_it() -> None:
    """The submission waits for its next attempt; the callback proves that the first one was accepted."""
    busy = Fault("create", "code", code=500, msg=AMBIGUOUS, after=True, nth=1)
    # The only token is in use: the second attempt must wait for ten seconds.
    async with client_with_callbacks(duration=5.0, client={"limits": Limits(creates=1)}, faults=[busy]) as (setup, _):
        video = await setup.kie.generate(make_request())
        await anyio.sleep(100.0)

        assert 1 == len(setup.truth.create_requests)
        row = await setup.row()
        assert ("succeeded", setup.tasks[0], 1, 1) == (row.state, row.task_id, row.attempts, row.ambiguous_attempts)
        assert setup.tasks == [video.task_id]
        await assert_settled(setup.kie)


@pytest.mark.parametrize(("seconds", "own_index"), [(1.0, 1), (20.0, 0)], ids=["the second is faster", "the first is"])
async def test_a_callback_during_the_second_create(seconds: float, own_index: int) -> None:
    """Both were paid, unavoidably; the first to end is the job's, the other is reported as a duplicate."""
    faults = [ambiguous_error(nth=1), Fault("create", "slow", after=True, seconds=15.0, nth=2)]
    async with client_with_callbacks(duration=partial(next_duration, [5.0, seconds]), faults=faults) as (setup, _):
        video = await setup.kie.generate(make_request())
        assert anyio.current_time() < 7.0
        await anyio.sleep(100.0)
        own, other = setup.tasks[own_index], setup.tasks[1 - own_index]
        row = await setup.row()

        assert own == video.task_id == row.task_id
        assert ("succeeded", (other,), 2) == (row.state, row.duplicate_task_ids, row.attempts)
        assert [other] == reported_duplicates(setup.events)
        assert 2 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


def next_duration(seconds: list[float], _model: str, _random: object) -> float:
    return seconds.pop(0) if len(seconds) > 1 else seconds[0]


@pytest.mark.parametrize("leave", ["aclose", "halt"])
async def test_the_second_create_is_always_read_completely(leave: str) -> None:
    """
    A callback has bound the first task; the create on the wire may be accepted, and its response names the task.

    Neither closing the client nor a lack of credits interrupts it.
    """
    faults = [
        ambiguous_error(nth=1),
        Fault("create", "slow", after=True, seconds=4.0, nth=2),
        Fault("create", "code", code=402, nth=3),
    ]
    async with client_with_callbacks(duration=partial(next_duration, [1.5, 1000.0]), faults=faults) as (setup, _):
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


async def test_a_late_callback_revives_a_rejected_job() -> None:
    """The caller got a ServerError that it may have been paid; later the same key finds the task."""
    policy = RetryPolicy(server_error_attempts=2)
    faults = [ambiguous_error(nth=1), Fault("create", "code", code=500, msg=AMBIGUOUS, nth=2)]
    async with client_with_callbacks(duration=60.0, client={"retry": policy}, faults=faults) as (setup, _):
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


async def test_every_task_of_a_rejected_job_is_reported() -> None:
    """Three attempts, three ambiguous errors, three tasks: one is the job's, the others are duplicates."""
    async with client_with_callbacks(duration=(60.0, 0.2), faults=[ambiguous_error()]) as (setup, _):
        with pytest.raises(ServerError):
            await setup.kie.generate(make_request())
        await anyio.sleep(200.0)
        row = await setup.row()

        assert "succeeded" == row.state
        assert 3 == len(setup.tasks)
        assert {*setup.tasks} == {row.task_id, *row.duplicate_task_ids}
        assert 2 == len(setup.reported(EventName.DUPLICATE))
        await assert_settled(setup.kie)


async def test_a_late_callback_settles_an_unresolved_job() -> None:
    """It was in doubt past its deadline, and the caller got an error; its task is still bound."""
    policy = RetryPolicy(max_age=600.0)
    async with client_with_callbacks(duration=1000.0, client={"retry": policy}, faults=[lost_response()]) as (setup, _):
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.generate(make_request())
        assert "unresolved" == (await setup.row()).state
        await anyio.sleep(500.0)

        assert setup.tasks == [(await raised.value.job).task_id]
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_a_resubmitted_job_has_the_task_that_ends_first() -> None:
    async with client_with_callbacks(duration=(60.0, 0.2), faults=[lost_response(nth=1)]) as (setup, _):
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
async def test_a_slot_granted_as_a_callback_binds_counts_once(first: str) -> None:
    """The submission waits for a slot to resend; the task of its first create occupies one in any case."""
    policy = RetryPolicy(in_doubt_timeout=30.0)
    options = {"retry": policy, "limits": Limits(in_flight=1), "callback_url": CALLBACKS}
    async with client_and_fake(client=options, duration=600.0, faults=[lost_response(nth=1)]) as setup:
        with pytest.raises(SubmitInDoubtError) as raised:
            await setup.kie.submit(make_request())
        await anyio.sleep(40.0)
        running = await setup.kie.submit(make_request(1))
        await raised.value.job.resubmit(allow_duplicate=True)
        await anyio.sleep(1.0)
        assert (1, 1) == (setup.kie.statistics().in_flight, setup.kie.statistics().waiting_for_slot)

        engine = await setup.kie._binding.engine()  # noqa: SLF001 (two things must happen in one turn of the loop)
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


async def test_failed_polls_delay_a_proof_only() -> None:
    """Timeouts, proxy pages, refusals and a task that is not visible yet do not disprove it."""
    kinds = ["null_data", "reset", "html", "silence"]
    faults = [
        lost_response(),
        Fault("poll", "code", code=429, nth=1),
        Fault("poll", "code", code=401, nth=2),
        *(Fault("poll", what, nth=range(3 + 2 * n, 5 + 2 * n)) for n, what in enumerate(kinds)),  # type: ignore[arg-type]
    ]
    async with client_with_callbacks(duration=60.0, faults=faults) as (setup, _):
        video = await setup.kie.generate(make_request())
        assert setup.tasks == [video.task_id]


async def test_closing_during_a_confirmation_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Close at each turn of the loop after the post; the row is unchanged, or as the task has ended."""
    states = Counter[str]()

    async def close_after(turns: int) -> bool:
        over = False
        async with running_backend() as backend, FakeKie(duration=60.0, faults=[lost_response()]) as fake:
            kie = KieClient(KEY, base_url=fake.url, callback_url=backend.url)
            backend.serve(kie)
            with pytest.raises(SubmitInDoubtError):
                await kie.submit(make_request())
            await anyio.sleep(59.9)
            answered = anyio.Event()

            async def take() -> None:
                await post(fake.truth.create_requests[0].callback_url, callback_body(fake.truth.created[0].task_id))
                answered.set()

            async with anyio.create_task_group() as group:
                group.start_soon(take)
                for _ in range(turns):
                    await anyio.sleep(0.0)
                now = kie.statistics()
                over = answered.is_set() and now.confirmations == 1 and not now.loop_tasks
                await kie.aclose()
            async with kie:
                states.update(row.state for row in await kie.jobs())
        return over

    turns = 0
    while not await close_after(turns):
        turns += 1
    assert {"in_doubt", "submitted"} == {*states}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


class Hesitant(MemoryJournal):
    """A journal that answers every other read late, so that writes happen between a read and what follows it."""

    reads = 0

    async def get(self, job_id: str) -> Intent | None:
        self.reads += 1
        row = await super().get(job_id)
        await anyio.sleep(0.05 * (self.reads % 3))
        return row


async def test_task_ids_that_gave_way_are_not_written_back() -> None:
    """Callbacks journal a job's task ids at once, and some have read the row before others wrote it."""
    journal = Hesitant()
    async with (
        client_with_callbacks(client={"journal": journal}, duration=60.0, faults=[lost_response()]) as (setup, _),
        anyio.create_task_group() as group,
    ):
        job = await setup.kie.submit(make_request(), wait=False)
        await anyio.sleep(5.0)
        url = str(setup.truth.created[0].callback_url)
        for number in range(60):
            group.start_soon(post, url, callback_body(f"{number:032x}"))
            await anyio.sleep(0.01)
        await anyio.sleep(3.0)
        row = await MemoryJournal.get(journal, job.id)
        assert row is not None
        assert 1 <= len(row.callback_task_ids) <= 8
        await job
