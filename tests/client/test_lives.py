"""The lives of a client: in one event loop after another, closed and opened again, and never in two at once."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import socket
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import aiohttp
import anyio
import anyio.to_thread
import pytest

from kie_async import (
    ClientClosedError,
    ConfigurationError,
    Event,
    Generation,
    Job,
    KieClient,
    KieError,
    Limits,
    RetryPolicy,
    Statistics,
    SubmitInDoubtError,
    TaskTimeoutError,
)
from kie_async._io.memory import MemoryJournal
from kie_async.testing import FakeKie, Fault, VirtualLoop
from kie_async.testing.clock import START
from kie_async.testing.truth import busiest_window
from tests.client.world import KEY, Anything, a_world, ask, assert_ledger, assert_settled
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path


@pytest.fixture
def port() -> int:
    """A port that is free, for services that follow one another at one address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def run(main: Coroutine[object, object, Anything], *, later: float = 0.0) -> Anything:
    """Run *main* in a loop of its own, as ``asyncio.run`` does, on virtual time that begins *later*."""
    # What is seeded by the instant draws other ids in a later loop.
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed=round(later), start=START + later)) as runner:
        result = runner.run(main)
    gc.collect()  # what was not closed says so now, and pytest makes an error of it
    return result


def client(port: int, **options: Anything) -> tuple[KieClient, MemoryJournal]:
    journal = MemoryJournal()
    return KieClient(KEY, base_url=f"http://127.0.0.1:{port}", **{"journal": journal, **options}), journal


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


# -- one loop after another -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entered", [False, True], ids=["as it is", "async with"])
def test_one_client_works_in_three_loops_one_after_another(
    port: int, caplog: pytest.LogCaptureFixture, *, entered: bool
) -> None:
    """Three POSTs, three results, no warning, and no task or session is left in any of the loops."""
    kie, journal = client(port)
    truths, results = [], []

    async def main(number: int) -> None:
        async with FakeKie(port=port, seed=number) as fake:
            truths.append(fake.truth)
            async with AsyncExitStack() as stack:
                if entered:
                    await stack.enter_async_context(kie)
                results.append(await kie.generate(ask(number)))
                await assert_settled(kie)

    for number in range(3):
        run(main(number), later=100.0 * number)

    assert [1, 1, 1] == [len(truth.posts) for truth in truths]
    assert [next(iter(truth.tasks)) for truth in truths] == [result.task_id for result in results]
    assert [] == warnings_of(caplog)
    assert Statistics() == kie.statistics()
    assert repr(kie).endswith("idle>")
    rows = run(journal.rows())
    assert ["succeeded"] * 3 == [row.state for row in rows]


@pytest.mark.parametrize("entered", [False, True], ids=["as it is", "async with"])
def test_a_job_of_an_earlier_loop_is_awaited_in_a_later_one(port: int, *, entered: bool) -> None:
    """The journal lives as long as the client, and the client knows its jobs again."""
    kie, journal = client(port)
    tasks: dict[str, Anything] = {}

    async def first() -> Job:
        async with FakeKie(port=port, duration=1e6) as fake, AsyncExitStack() as stack:
            if entered:
                await stack.enter_async_context(kie)
            job = await kie.submit(ask())
            tasks.update(fake.truth.tasks)
            return job

    async def second(job: Job) -> Generation:
        async with FakeKie(port=port) as fake, AsyncExitStack() as stack:
            if entered:
                await stack.enter_async_context(kie)
            fake.truth.tasks.update(tasks)
            fake.finish(next(iter(tasks)))
            assert [] == fake.truth.posts
            return await job

    job = run(first())
    video = run(second(job), later=60.0)

    assert (next(iter(tasks)), job.id) == (video.task_id, video.intent_id)
    assert ["succeeded"] == [row.state for row in run(journal.rows())]


def test_a_deadline_counts_on_over_the_loops(port: int) -> None:
    """Accepted in the first, stalled in the second: ``max_age`` goes by the wall clock."""
    kie, _ = client(port, retry=RetryPolicy(max_age=1000.0))
    tasks: dict[str, Anything] = {}

    async def first() -> Job:
        async with FakeKie(port=port, duration=1e6) as fake:
            job = await kie.submit(ask())
            tasks.update(fake.truth.tasks)
            return job

    async def second(job: Job) -> float:
        async with FakeKie(port=port) as fake:
            fake.truth.tasks.update(tasks)
            with pytest.raises(TaskTimeoutError):
                await job
            return anyio.current_time()

    job = run(first())
    waited = run(second(job), later=900.0)

    assert 99.0 <= waited <= 101.0


def test_a_job_that_was_not_sent_when_its_loop_ended_is_sent_by_recover(port: int) -> None:
    """The loop ends while a hundred jobs queue; none is lost, and none is sent twice."""
    kie, journal = client(port)
    truths = []

    async def first() -> None:
        async with FakeKie(port=port) as fake:
            truths.append(fake.truth)
            for number in range(50):
                await kie.submit(ask(number), wait=False)
            await anyio.sleep(5.0)

    async def second() -> None:
        async with FakeKie(port=port, seed=1) as fake:
            truths.append(fake.truth)
            fake.truth.tasks.update(truths[0].tasks)
            for job in await kie.recover():
                await job
            await assert_settled(kie)

    run(first())
    run(second(), later=60.0)

    assert [20, 30] == [len(truth.posts) for truth in truths]
    assert {"succeeded": 50} == Counter(row.state for row in run(journal.rows()))
    for post in truths[1].posts:
        post.at += 60.0
    truths[1].posts = truths[0].posts + truths[1].posts
    assert_ledger(run(journal.rows()), truths[1])


def test_a_create_that_was_on_the_wire_when_its_loop_ended_is_in_doubt(port: int) -> None:
    """Nobody lived to see the answer, so it is not sent again."""
    kie, journal = client(port)
    posts = []

    async def first() -> None:
        fake = await FakeKie(port=port, create_seconds=30.0).__aenter__()  # it ends with the loop, as the client does
        await kie.submit(ask(), wait=False)
        await anyio.sleep(5.0)
        posts.extend(fake.truth.posts)

    async def second() -> None:
        async with FakeKie(port=port) as fake:
            (job,) = await kie.recover()
            with pytest.raises(SubmitInDoubtError):
                await job
            assert [] == fake.truth.posts
            await job.abandon()

    run(first())
    assert ["sending"] == [row.state for row in run(journal.rows())]
    run(second(), later=60.0)

    assert 1 == len(posts)
    assert ["abandoned"] == [row.state for row in run(journal.rows())]


def test_a_loop_that_ends_under_an_open_client_names_what_is_unfinished(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With a journal in memory the log is the only thing that outlives the process."""
    kie, _ = client(port)

    async def main() -> tuple[Job, Job]:
        async with FakeKie(port=port, duration=1e6):
            await kie.submit(ask(0))
            lost = await kie.submit(ask(1), wait=False)
            return kie.attach((await kie.jobs())[0].id), lost

    accepted, unsent = run(main())
    shown = "\n".join(warnings_of(caplog))

    assert accepted.id in shown
    assert unsent.id in shown
    assert "state submitted, task " in shown


async def test_leaving_the_client_names_what_is_unfinished(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world(duration=1e6) as world:
        job = await world.kie.submit(ask())
        await world.kie.aclose()

        assert [True] == [job.id in text and world.tasks[0] in text for text in warnings_of(caplog)]


async def test_leaving_the_client_when_all_is_done_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        await world.kie.generate(ask())
        await world.kie.aclose()
        assert [] == warnings_of(caplog)


# -- only one loop at a time ------------------------------------------------------------------------------------------


async def test_use_from_another_thread_is_a_clear_error() -> None:
    """And it disturbs nobody in the first."""
    async with a_world() as world:
        job = await world.kie.submit(ask())

        def use(call: Callable[[], Awaitable[object]]) -> str:
            async def main() -> None:
                await call()

            try:
                asyncio.run(main())
            except ConfigurationError as error:
                return str(error)
            return "no error"

        for call in (lambda: world.kie.generate(ask(1)), world.kie.credits, job.wait, world.kie.__aenter__):
            assert "another thread" in await anyio.to_thread.run_sync(use, call)
        assert world.tasks[0] == (await job).task_id
        assert 1 == len(world.truth.posts)
        await assert_settled(world.kie)


async def test_a_client_can_be_made_anywhere_and_costs_nothing_until_it_is_used() -> None:
    kie = await anyio.to_thread.run_sync(lambda: KieClient(KEY))

    assert Statistics() == kie.statistics()
    assert "idle" in repr(kie)
    assert "kj_1" == kie.attach("kj_1").id
    assert kie.attach("kj_1").task_id is None
    assert "a1" == kie.attach("a1").task_id
    await kie.aclose()
    await kie.aclose()


# -- closed, and opened again -----------------------------------------------------------------------------------------


async def test_a_closed_client_says_so_until_it_is_entered_again() -> None:
    async with a_world(duration=30.0) as world:
        kie = world.kie
        job = await kie.submit(ask(0))
        await kie.aclose()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: kie.generate(ask(1)),
            lambda: kie.submit(ask(1)),
            lambda: kie.submit(ask(1), wait=False),
            kie.recover,
            kie.jobs,
            lambda: kie.forget(before=0.0),
            kie.credits,
            lambda: kie.upload(PNG),
            job.wait,
            job.refresh,
            lambda: anext(job.updates()),
            job.abandon,
            lambda: job.resolve("a1"),
            lambda: job.resubmit(allow_duplicate=True),
        ]
        for call in calls:
            with pytest.raises(ClientClosedError, match="async with"):
                await call()
        assert 1 == len(world.truth.posts)

        async with kie:
            assert world.tasks[0] == (await job).task_id
            await kie.generate(ask(1))
            await assert_settled(kie)
        with pytest.raises(ClientClosedError):
            await kie.credits()


async def test_whoever_waits_when_the_client_closes_is_told() -> None:
    """In every state a job can be in, with its ids, and never by an ``ExceptionGroup``."""
    policy = RetryPolicy(maintenance_patience=1e5)
    async with a_world(client={"limits": Limits(in_flight=30), "retry": policy}, duration=1e6) as world:
        told: list[BaseException] = []

        async def one(number: int) -> None:
            try:
                await world.kie.generate(ask(number), key=f"{number}" if number % 2 else None)
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is looked at)
                told.append(error)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(one, number)
            await anyio.sleep(15.0)
            assert (30, 20) == ((now := world.kie.statistics()).in_flight, now.waiting_for_slot)
            await world.kie.aclose()

        assert {"ClientClosedError": 50} == Counter(type(error).__name__ for error in told)
        assert 30 == len([error for error in told if isinstance(error, KieError) and error.task_id is not None])
        assert 50 == len({error.intent_id for error in told if isinstance(error, KieError)})
        assert {"submitted": 30, "intent": 20} == await world.states()


async def test_closing_lets_creates_on_the_wire_end() -> None:
    """Within *drain* seconds: their ids are worth the wait."""
    async with a_world(create_seconds=3.0, duration=1e6) as world:
        await world.kie.submit(ask(), wait=False)
        await anyio.sleep(1.0)
        assert 1 == world.kie.statistics().sending
        await world.kie.aclose()

        assert world.tasks[0] == (row := await world.row()).task_id
        assert "submitted" == row.state
        assert 2.0 < anyio.current_time() < 4.0


@pytest.mark.parametrize("drain", [0.0, 2.0])
async def test_closing_waits_no_longer_than_it_is_told(drain: float) -> None:
    """The row says that a create was on the wire; after ``recover()`` it is in doubt, and not sent again."""
    async with a_world(create_seconds=30.0) as world:
        await world.kie.submit(ask(), wait=False)
        await anyio.sleep(1.0)
        await world.kie.aclose(drain=drain)

        assert 1.0 + drain <= anyio.current_time() < 1.5 + drain
        assert "sending" == (await world.row()).state
        async with world.kie as kie:
            (job,) = await kie.recover()
            with pytest.raises(SubmitInDoubtError):
                await job
            assert 1 == len(world.truth.posts)


async def test_closing_does_not_wait_for_what_was_never_sent() -> None:
    async with a_world() as world:
        world.fake.maintenance = True
        for number in range(30):
            await world.kie.submit(ask(number), wait=False)
        await anyio.sleep(10.0)
        before = anyio.current_time()
        await world.kie.aclose()

        assert anyio.current_time() - before < 0.1
        assert {"intent": 30} == await world.states()


async def test_closing_cannot_be_interrupted_half_way() -> None:
    """Who is cancelled while he closes leaves no session behind."""
    async with a_world(create_seconds=4.0, duration=1e6) as world:
        await world.kie.submit(ask(), wait=False)
        await anyio.sleep(1.0)
        with anyio.move_on_after(0.5) as scope:
            await world.kie.aclose()

        assert scope.cancelled_caught or scope.cancel_called
        assert "submitted" == (await world.row()).state
        assert Statistics() == world.kie.statistics()


async def test_a_client_can_be_closed_at_every_turn_of_the_loop() -> None:
    """Whatever it is at: every caller is told, nothing fails in the background, and what was paid is known."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    outcomes: Counter[str] = Counter()

    async def one(kie: KieClient, number: int) -> None:
        try:
            await kie.generate(ask(number, image=PNG) if number == 2 else ask(number), key="7" if number == 1 else None)
            outcomes["done"] += 1
        except KieError as error:
            outcomes[type(error).__name__] += 1

    for turn in range(1, 1000):
        ended_before = outcomes["done"]
        async with a_world(duration=3.0, create_seconds=0.5) as world:
            now = anyio.Event()
            loop.at_turn(loop.turns + turn, now.set)
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(one, world.kie, number)
                with anyio.move_on_after(60.0):
                    await now.wait()
                await world.kie.aclose(drain=1.0)
            assert Statistics() == world.kie.statistics()
        if outcomes["done"] == ended_before + 3:
            break
    assert turn > 30
    assert {"ClientClosedError", "done"} == set(outcomes)


async def test_recover_after_reopening_goes_on_with_everything_once() -> None:
    async with a_world(duration=100.0) as world:
        for number in range(50):
            await world.kie.submit(ask(number), wait=False)
        await anyio.sleep(1.0)
        await world.kie.aclose()
        async with world.kie as kie:
            jobs, again = await kie.recover(), await kie.recover()
            assert 50 == len(jobs)
            assert [job.id for job in jobs] == [job.id for job in again]
            for job in jobs:
                await job
            await assert_settled(kie)

        assert 50 == len(world.truth.posts)
        assert {"succeeded": 50} == await world.states()


async def test_the_limit_holds_over_closing_and_opening_again() -> None:
    """The account does not forget what was spent a second ago because the client was closed in between."""
    async with a_world() as world:
        for number in range(60):
            async with world.kie as kie:
                await kie.submit(ask(number))

        assert [] == world.truth.refused
        assert world.truth.busiest_window(10.0) <= 20
        assert 20.0 <= anyio.current_time() <= 30.0


def test_the_limit_holds_from_one_loop_to_the_next(port: int) -> None:
    """A script that calls ``asyncio.run`` for every batch stays under the limit, too."""
    kie, _ = client(port)
    sent_at: list[float] = []

    async def main(begins_at: float) -> float:
        async with FakeKie(port=port, seed=round(begins_at)) as fake:
            for number in range(15):
                await kie.submit(ask(number))
            sent_at.extend(begins_at + post.at for post in fake.truth.posts)
            return anyio.current_time()

    first = run(main(0.0))
    run(main(first + 1.0), later=first + 1.0)

    assert 30 == len(sent_at)
    assert busiest_window(sent_at, 10.0) <= 20


async def test_what_has_ended_is_known_after_reopening() -> None:
    """No question is asked again whose answer is in the journal."""
    async with a_world() as world:
        video = await world.kie.generate(ask(0))
        job = world.kie.attach(video.intent_id or "")
        await world.kie.aclose()
        async with world.kie as kie:
            polls = len(world.truth.polls)
            again = await job
            by_task = await kie.attach(video.task_id)
            assert polls == len(world.truth.polls)
            await assert_settled(kie)

        assert video.record == again.record == by_task.record
        assert video.record.raw == again.record.raw


async def test_a_session_factory_that_fails_is_told_to_the_caller() -> None:
    """As it is; and the client can be used once it works."""
    broken = True

    def factory(**kwargs: Anything) -> aiohttp.ClientSession:
        if broken:
            msg = "no proxy"
            raise RuntimeError(msg)
        return aiohttp.ClientSession(**kwargs)

    async with FakeKie() as fake:
        kie = KieClient(KEY, base_url=fake.url, session_factory=factory)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no proxy"):
                await kie.generate(ask())
        broken = False
        await kie.generate(ask())
        await kie.aclose()


async def test_session_factory_is_called_once_for_creates_and_once_for_the_rest() -> None:
    made: list[dict[str, object]] = []

    def factory(**kwargs: Anything) -> aiohttp.ClientSession:
        made.append(kwargs)
        return aiohttp.ClientSession(**{**kwargs, "headers": {**kwargs["headers"], "X-Mine": "1"}})

    async with a_world(client={"session_factory": factory}) as world:
        await world.kie.generate(ask(image=PNG))
        await world.kie.generate(ask(1))

        assert 2 == len(made)
        assert KEY not in str(made)


async def test_the_callers_context_is_not_inherited_by_what_outlives_it() -> None:
    """What a web framework keeps for one request must not turn up in the next one's."""
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
    seen: list[str] = []

    def on_event(_: Event) -> None:
        seen.append(request_id.get())

    def factory(**kwargs: Anything) -> aiohttp.ClientSession:
        seen.append(request_id.get())
        return aiohttp.ClientSession(**kwargs)

    async with FakeKie() as fake:
        request_id.set("the first request")
        kie = KieClient(KEY, base_url=fake.url, session_factory=factory, on_event=on_event)
        await kie.generate(ask())
        await kie.aclose()

    assert ["none"] * 4 == seen


# -- what callers bring along -----------------------------------------------------------------------------------------


async def test_an_on_event_that_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def on_event(event: Event) -> None:
        msg = f"cannot take {event.name}"
        raise ValueError(msg)

    faults = [Fault("create", "code", code=429, nth=1), Fault("create", "reset", after=True, nth=3)]
    async with a_world(client={"on_event": on_event}, faults=faults) as world:
        await world.kie.generate(ask(0))
        with pytest.raises(SubmitInDoubtError):
            await world.kie.generate(ask(1))
        await anyio.sleep(700.0)
        await assert_settled(world.kie)

        failures = [record for record in caplog.records if record.message == "on_event has failed."]
        assert len(failures) >= 4
        assert all(record.levelname == "ERROR" and record.exc_info for record in failures)


async def test_a_result_is_saved_after_the_client_was_closed(tmp_path: Path) -> None:
    async with a_world() as world:
        video = await world.kie.generate(ask())
        await world.kie.aclose()
        (file,) = await video.save(tmp_path / "cat.mp4")

        assert b"ftyp" == file.read_bytes()[4:8]
        assert [False] == [download.authorized for download in world.truth.downloads]


async def test_a_failed_job_that_nobody_awaits_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is in the journal; the log is not a mailbox for it."""
    async with a_world(fail_rate=1.0, faults=[Fault("create", "code", code=422, nth=1)]) as world:
        for number in range(3):
            await world.kie.submit(ask(number), wait=False)
        await anyio.sleep(600.0)

        assert {"rejected": 1, "failed": 2} == await world.states()
        assert [] == warnings_of(caplog)
        await assert_settled(world.kie)
        gc.collect()
