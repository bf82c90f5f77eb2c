"""A client in one event loop after another, never in two at once."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from kie_async import (
    ConfigurationError,
    Generation,
    Job,
    KieClient,
    RetryPolicy,
    Statistics,
    SubmitInDoubtError,
    TaskTimeoutError,
)
from kie_async._io.journals.memory import MemoryJournal
from kie_async.testing import FakeKie, VirtualLoop
from kie_async.testing.clock import START
from kie_async.testing.truth import busiest_window
from tests.helpers import KEY, JournalClient, assert_ledger, assert_settled, client_and_fake, make_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path


@pytest.fixture
def port() -> int:
    """Return a free port, for consecutive services at one address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def run(main: Coroutine[object, object, Any], *, later: float = 0.0) -> Any:
    """Run *main* in a loop of its own, as ``asyncio.run`` does, on virtual time that begins *later*."""
    # Ids are seeded by the instant, so a later loop draws other ids.
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed=round(later), start=START + later)) as runner:
        result = runner.run(main)
    gc.collect()  # unclosed resources warn now, and pytest turns that into an error
    return result


def client(port: int, **options: Any) -> tuple[KieClient, MemoryJournal]:
    journal = MemoryJournal()
    return JournalClient(KEY, base_url=f"http://127.0.0.1:{port}", **{"journal": journal, **options}), journal


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("entered", [False, True], ids=["as it is", "async with"])
def test_one_client_works_in_three_loops(port: int, caplog: pytest.LogCaptureFixture, *, entered: bool) -> None:
    """Three POSTs, three results, no warning, and no task or session left in any loop."""
    kie, journal = client(port)
    truths, results = [], []

    async def main(number: int) -> None:
        async with FakeKie(port=port, seed=number) as fake:
            truths.append(fake.truth)
            async with AsyncExitStack() as stack:
                if entered:
                    await stack.enter_async_context(kie)
                results.append(await kie.generate(make_request(number)))
                await assert_settled(kie)

    for number in range(3):
        run(main(number), later=100.0 * number)

    assert [1, 1, 1] == [len(truth.create_requests) for truth in truths]
    assert [next(iter(truth.tasks)) for truth in truths] == [result.task_id for result in results]
    assert [] == warnings_of(caplog)
    assert Statistics() == kie.statistics()
    assert repr(kie).endswith("idle>")
    rows = run(journal.rows())
    assert ["succeeded"] * 3 == [row.state for row in rows]


@pytest.mark.parametrize("entered", [False, True], ids=["as it is", "async with"])
def test_job_of_earlier_loop_is_awaited_later(port: int, *, entered: bool) -> None:
    """The journal lives as long as the client, so the client still knows its jobs."""
    kie, journal = client(port)
    tasks: dict[str, Any] = {}

    async def first() -> Job:
        async with FakeKie(port=port, duration=1e6) as fake, AsyncExitStack() as stack:
            if entered:
                await stack.enter_async_context(kie)
            job = await kie.submit(make_request())
            tasks.update(fake.truth.tasks)
            return job

    async def second(job: Job) -> Generation:
        async with FakeKie(port=port) as fake, AsyncExitStack() as stack:
            if entered:
                await stack.enter_async_context(kie)
            fake.truth.tasks.update(tasks)
            fake.finish(next(iter(tasks)))
            assert [] == fake.truth.create_requests
            return await job

    job = run(first())
    video = run(second(job), later=60.0)

    assert (next(iter(tasks)), job.id) == (video.task_id, video.job_id)
    assert ["succeeded"] == [row.state for row in run(journal.rows())]


def test_deadline_spans_event_loops(port: int) -> None:
    """A job accepted in the first loop stalls in the second: ``max_age`` uses the wall clock."""
    kie, _ = client(port, retry=RetryPolicy(max_age=1000.0))
    tasks: dict[str, Any] = {}

    async def first() -> Job:
        async with FakeKie(port=port, duration=1e6) as fake:
            job = await kie.submit(make_request())
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


async def test_tasks_that_ended_while_no_process_ran_have_not_timed_out(tmp_path: Path) -> None:
    """The next process starts after ``max_age``, and polls each task before it says anything about it."""
    async with FakeKie(duration=60.0) as fake:
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            for number in range(30):
                await kie.submit(make_request(number))
        await anyio.sleep(8 * 3600.0)
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            before = anyio.current_time()
            videos = [await job for job in await kie.recover()]
            assert [*fake.truth.tasks] == [video.task_id for video in videos]
            assert anyio.current_time() <= before + 15.0
            await assert_settled(kie)


def test_recover_sends_job_unsent_at_loop_end(port: int) -> None:
    """The loop ends while a hundred jobs queue: none is lost, and none is sent twice."""
    kie, journal = client(port)
    truths = []

    async def first() -> None:
        async with FakeKie(port=port) as fake:
            truths.append(fake.truth)
            for number in range(50):
                await kie.submit(make_request(number), wait=False)
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

    assert [20, 30] == [len(truth.create_requests) for truth in truths]
    assert {"succeeded": 50} == Counter(row.state for row in run(journal.rows()))
    for post in truths[1].create_requests:
        post.at += 60.0
    truths[1].create_requests = truths[0].create_requests + truths[1].create_requests
    assert_ledger(run(journal.rows()), truths[1])


def test_create_on_wire_at_loop_end_is_in_doubt(port: int) -> None:
    """The response was never read, so the create is not resent."""
    kie, journal = client(port)
    posts = []

    async def first() -> None:
        fake = await FakeKie(port=port, create_seconds=30.0).__aenter__()  # it ends with the loop, like the client
        await kie.submit(make_request(), wait=False)
        await anyio.sleep(5.0)
        posts.extend(fake.truth.create_requests)

    async def second() -> None:
        async with FakeKie(port=port) as fake:
            (job,) = await kie.recover()
            with pytest.raises(SubmitInDoubtError):
                await job
            assert [] == fake.truth.create_requests
            await job.abandon()

    run(first())
    assert ["sending"] == [row.state for row in run(journal.rows())]
    run(second(), later=60.0)

    assert 1 == len(posts)
    assert ["abandoned"] == [row.state for row in run(journal.rows())]


def test_loop_end_logs_unfinished_jobs(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """With a journal in memory, only the log survives the process."""
    kie, _ = client(port)

    async def main() -> tuple[Job, Job]:
        async with FakeKie(port=port, duration=1e6):
            await kie.submit(make_request(0))
            lost = await kie.submit(make_request(1), wait=False)
            return kie.job((await kie.jobs())[0].job_id), lost

    accepted, unsent = run(main())
    shown = "\n".join(warnings_of(caplog))

    assert accepted.id in shown
    assert unsent.id in shown
    assert "state submitted, task " in shown


async def test_close_logs_unfinished_jobs(caplog: pytest.LogCaptureFixture) -> None:
    async with client_and_fake(duration=1e6) as setup:
        job = await setup.kie.submit(make_request())
        await setup.kie.aclose()

        assert [True] == [job.id in text and setup.tasks[0] in text for text in warnings_of(caplog)]


async def test_close_logs_nothing_when_all_ended(caplog: pytest.LogCaptureFixture) -> None:
    async with client_and_fake() as setup:
        await setup.kie.generate(make_request())
        await setup.kie.aclose()
        assert [] == warnings_of(caplog)


def test_limit_holds_across_event_loops(port: int) -> None:
    """A script that calls ``asyncio.run`` for every batch stays under the limit."""
    kie, _ = client(port)
    sent_at: list[float] = []

    async def main(begins_at: float) -> float:
        async with FakeKie(port=port, seed=round(begins_at)) as fake:
            for number in range(15):
                await kie.submit(make_request(number))
            sent_at.extend(begins_at + post.at for post in fake.truth.create_requests)
            return anyio.current_time()

    first = run(main(0.0))
    run(main(first + 1.0), later=first + 1.0)

    assert 30 == len(sent_at)
    assert busiest_window(sent_at, 10.0) <= 20


def test_learned_durations_survive_the_loop(port: int) -> None:
    """The first task of a kind takes many polls. Ten tasks later, in a new loop, a task takes few."""
    kie, _ = client(port)

    async def main(jobs: int) -> int:
        async with FakeKie(port=port, seed=jobs, duration=60.0) as fake:
            for number in range(jobs):
                await kie.generate(make_request(number))
            return len(fake.truth.polls)

    first = run(main(1))
    run(main(10), later=1000.0)
    last = run(main(1), later=5000.0)

    assert last <= first / 2


async def test_limit_holds_across_processes(tmp_path: Path) -> None:
    """Creates of the previous process are in the journal and count, as do those of a live neighbor."""
    async with FakeKie(latency=(0.02, 0.2)) as fake:
        for number in range(2):
            async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
                for take in range(15):
                    await kie.submit(make_request(20 * number + take))
        assert 30 == len(fake.truth.created)
        assert [] == fake.truth.rate_limited
        assert 20 == fake.truth.busiest_window(10.0)

        before = anyio.current_time()
        async with (
            KieClient(KEY, base_url=fake.url, journal=tmp_path / "other.db") as kie,
            KieClient(KEY, base_url=fake.url, journal=tmp_path / "other.db") as neighbour,
        ):
            await anyio.sleep(20.0)
            before = anyio.current_time()
            for each in (kie, neighbour):
                for take in range(10):
                    await each.submit(make_request(take + 100))
        assert anyio.current_time() <= before + 10.0


@pytest.mark.parametrize("recovers", [False, True], ids=["asks for jobs", "recovers"])
async def test_client_without_recover_warns_of_orphaned_jobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, recovers: bool
) -> None:
    async with FakeKie() as fake:
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            await kie.submit(make_request())
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            await (kie.recover() if recovers else kie.jobs())

    said = [warning for warning in warnings_of(caplog) if "without an owner (1 submitted)" in warning]
    assert (not recovers) == bool(said)


async def test_use_from_another_thread_is_refused() -> None:
    """The first thread is not affected."""
    async with client_and_fake() as setup:
        job = await setup.kie.submit(make_request())

        def use(call: Callable[[], Awaitable[object]]) -> str:
            async def main() -> None:
                await call()

            try:
                asyncio.run(main())
            except ConfigurationError as error:
                return str(error)
            return "no error"

        for call in (lambda: setup.kie.generate(make_request(1)), setup.kie.credits, job.wait, setup.kie.__aenter__):
            assert "another thread" in await anyio.to_thread.run_sync(use, call)
        assert setup.tasks[0] == (await job).task_id
        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_unused_client_costs_nothing() -> None:
    kie = await anyio.to_thread.run_sync(lambda: KieClient(KEY))

    assert Statistics() == kie.statistics()
    assert "idle" in repr(kie)
    assert "kj_1" == kie.job("kj_1").id
    assert kie.job("kj_1").task_id is None
    assert "a1" == kie.job("a1").task_id
    await kie.aclose()
    await kie.aclose()
