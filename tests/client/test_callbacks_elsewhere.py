"""A callback lands on another process, on one that is starting again, or on one that cannot write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import anyio
import pytest

from kie_async import Event, EventName, JournalError, KieClient, RetryPolicy, SubmitInDoubtError
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import FakeKie, Fault
from tests.client.backend import Backend, a_backend, body_of, duplicates, post
from tests.helpers import KEY, JournalClient, assert_ledger, assert_settled, make_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kie_async._core.lifecycle import Intent
    from kie_async._io.journals.journal import Changes

LOST = Fault("create", "reset", after=True)


class Workers:
    """Clients of one journal, as the workers of one host; the service posts to them by turns, or to one of them."""

    def __init__(self, fake: FakeKie, backend: Backend, path: Path) -> None:
        self.fake = fake
        self.backend = backend
        self.path = path
        self.events: list[Event] = []

    def worker(self, **options: Any) -> KieClient:
        """One more worker, which takes no callbacks yet."""
        return JournalClient(
            KEY,
            base_url=self.fake.url,
            callback_url=self.backend.url,
            on_event=self.events.append,
            **{"journal": self.path, **options},
        )

    async def rows(self) -> list[Intent]:
        """What the journal knows."""
        journal = SqliteStore(self.path)
        await journal.open()
        rows = list(await journal.rows())
        await journal.close()
        return rows

    async def row(self) -> Intent:
        """The only row."""
        (row,) = await self.rows()
        return row


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with a_backend() as serving:
        yield serving


async def test_a_callback_that_lands_on_another_worker_ends_the_job_here(tmp_path: Path, backend: Backend) -> None:
    """It confirms and writes down; whoever waits in the worker that has sent the job is told within half a second."""
    async with FakeKie(duration=300.0) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours, host.worker() as theirs:
            backend.serve(theirs)
            ours.callbacks.asgi_app()
            video = await ours.generate(make_request())

            assert 300.0 <= anyio.current_time() <= 301.0
            assert fake.truth.tasks[video.task_id].result_url == video.url
            assert (1, 0) == (theirs.statistics().confirmations, ours.statistics().confirmations)
            assert 2 >= ours.statistics().polls
            assert video.url == (await theirs.job(str(video.job_id)).wait()).url
            await anyio.sleep(5.0)
            for worker in (ours, theirs):
                await assert_settled(worker)
        assert 1 == len([event for event in host.events if event.name is EventName.ENDED])
        assert_ledger(await host.rows(), fake.truth)


async def test_workers_that_take_each_others_callbacks_learn_that_callbacks_come(
    tmp_path: Path, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback counts as come for whoever took it and for whoever owns the job; nobody counts it as lost."""
    async with FakeKie(duration=(60.0, 0.35), seed=3) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours, host.worker() as theirs:
            ours.callbacks.asgi_app()
            backend.serve(theirs)
            for _ in range(3):
                async with anyio.create_task_group() as group:
                    for number in range(20):
                        group.start_soon(ours.generate, make_request(number))
                await anyio.sleep(60.0)
            assert [] == [record.message for record in caplog.records if "No callbacks arrive" in record.message]
            polls = len(fake.truth.polls)
            async with anyio.create_task_group() as group:
                for number in range(20, 40):
                    group.start_soon(theirs.generate, make_request(number))

            # Nearly all are confirmations: the workers trust the callbacks.
            assert 20 + 4 >= len(fake.truth.polls) - polls


async def test_a_job_in_doubt_comes_home_by_a_callback_that_lands_on_another_worker(
    tmp_path: Path, backend: Backend
) -> None:
    async with FakeKie(duration=60.0, faults=[LOST]) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours, host.worker() as theirs:
            backend.serve(theirs)
            video = await ours.generate(make_request())

            assert [task.task_id for task in fake.truth.created] == [video.task_id]
            assert 60.0 <= anyio.current_time() <= 61.0
            assert 1 == len(fake.truth.create_requests)
            await anyio.sleep(5.0)
            await assert_settled(ours)
            await assert_settled(theirs)


SAYS = {
    "the same id": Fault("create", "slow", after=True, seconds=0.0),
    "a reset": LOST,
    "code 429": Fault("create", "code", code=429, after=True),
    "code 500": Fault("create", "code", code=500, msg="Internal Error, Please try again later.", after=True),
    "code 422": Fault("create", "code", code=422, after=True),
    "code 402": Fault("create", "code", code=402, after=True),
}


@pytest.mark.parametrize("says", SAYS)
async def test_an_early_callback_on_another_worker_wins_over_whatever_the_answer_says(
    says: str, tmp_path: Path, backend: Backend
) -> None:
    """The row is moved under the hands of the worker that waits for the answer; it takes it as it is now."""
    async with FakeKie(duration=5.0, create_seconds=30.0, faults=[SAYS[says]]) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours, host.worker() as theirs:
            backend.serve(theirs)
            video = await ours.generate(make_request())
            await anyio.sleep(100.0)

            row = await host.row()
            assert ("succeeded", video.task_id, ()) == (row.state, row.task_id, row.duplicate_task_ids)
            assert 1 == len(fake.truth.create_requests) == len(fake.truth.created)
            assert not {EventName.REJECTED, EventName.CANCELLED, EventName.DUPLICATE} & {e.name for e in host.events}
            await assert_settled(ours)
            await assert_settled(theirs)


async def test_an_answer_that_names_another_task_than_the_callback_on_another_worker_is_told(
    tmp_path: Path, backend: Backend
) -> None:
    faults = [Fault("create", "alter", after=True, data={"taskId": "f" * 32})]
    async with FakeKie(duration=5.0, create_seconds=30.0, faults=faults) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours, host.worker() as theirs:
            backend.serve(theirs)
            video = await ours.generate(make_request())

            row = await host.row()
            assert (video.task_id, ("f" * 32,)) == (row.task_id, row.duplicate_task_ids)
            assert ["f" * 32] == duplicates(host.events)


@pytest.mark.parametrize("says", ["slow", "reset"])
async def test_whoever_waits_anywhere_is_told_when_a_callback_lands_on_two_workers_at_once(
    says: str, tmp_path: Path, backend: Backend
) -> None:
    """Both confirm, one is faster; the other one finds the row moved, and follows it."""
    faults = [Fault("create", says, after=True, seconds=30.0)]  # type: ignore[arg-type]  # a parameter
    async with FakeKie(duration=60.0 if says == "reset" else 5.0, faults=faults) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours, host.worker() as theirs:
            found: list[str] = []

            async def wait(worker: KieClient) -> None:
                await anyio.sleep(1.0)
                job_id = (await host.row()).id
                found.append((await worker.job(job_id).wait(timeout=300.0)).task_id)

            async def generate() -> None:
                found.append((await ours.generate(make_request())).task_id)

            async with anyio.create_task_group() as group:
                group.start_soon(generate)
                for worker in (ours, theirs):
                    group.start_soon(wait, worker)
                await anyio.sleep(60.0 if says == "reset" else 5.0)
                (task,) = fake.truth.created
                for worker in (ours, theirs, theirs, ours):
                    group.start_soon(
                        worker.callbacks.handle, str(task.callback_url), fake.sign(task.task_id), body_of(task.task_id)
                    )
            assert 3 * [task.task_id] == found
            assert anyio.current_time() < 63.0
            assert 1 == len([event for event in host.events if event.name is EventName.ENDED])
            await anyio.sleep(60.0)
            await assert_settled(ours)
            await assert_settled(theirs)


async def test_a_callback_for_the_job_of_a_dead_worker_is_written_down(tmp_path: Path, backend: Backend) -> None:
    """Whoever takes it need not have taken the job up."""
    async with FakeKie(duration=300.0) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as dead:
            await dead.submit(make_request())
        async with host.worker() as alive:
            backend.serve(alive)
            await anyio.sleep(301.0)
            assert "succeeded" == (await host.row()).state
            assert [200] == backend.answers
            await assert_settled(alive)


@pytest.mark.parametrize("what", ["reset", "silence"])
async def test_a_callback_that_was_answered_and_not_looked_into_is_not_lost_with_the_process(
    what: str, tmp_path: Path, backend: Backend
) -> None:
    """For a job in doubt nothing else would lead to the task: the next process finds its id in the journal."""
    faults = [LOST, Fault("poll", what, between=(0.0, 70.0))]  # type: ignore[arg-type]  # a parameter
    async with FakeKie(duration=60.0, faults=faults) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours:
            backend.serve(ours)
            with pytest.raises(SubmitInDoubtError) as raised:
                await ours.submit(make_request())
            await anyio.sleep(65.0)
        backend.take = None
        row = await host.row()
        (task,) = fake.truth.created
        assert [200] == backend.answers
        assert ("in_doubt", (task.task_id,)) == (row.state, row.callback_task_ids)
        await anyio.sleep(10.0)

        async with host.worker() as again:
            (job,) = await again.recover()
            assert (raised.value.job.id, task.task_id) == (job.id, (await job).task_id)
            assert anyio.current_time() < 80.0
            await anyio.sleep(5.0)
            await assert_settled(again)
        row = await host.row()
        assert ("succeeded", ()) == (row.state, row.callback_task_ids)
        assert 1 == len(fake.truth.create_requests)


async def test_a_hint_that_names_a_foreign_task_is_forgotten_by_the_next_process(
    tmp_path: Path, backend: Backend
) -> None:
    """It was forged, and answered by 200; it binds nothing after a restart either."""
    faults = [Fault("create", "reset", after=True, nth=1), Fault("poll", "reset", between=(0.0, 70.0))]
    async with FakeKie(duration=1000.0, faults=faults) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours:
            backend.serve(ours)
            with pytest.raises(SubmitInDoubtError):
                await ours.submit(make_request())
            other = await ours.submit(make_request(1))
            assert 200 == await post(fake.truth.create_requests[0].callback_url, body_of(str(other.task_id)))
        await anyio.sleep(70.0)
        async with host.worker() as again:
            await again.recover()
            await anyio.sleep(10.0)

            doubtful = (await host.rows())[0]
            assert ("in_doubt", None, ()) == (doubtful.state, doubtful.task_id, doubtful.callback_task_ids)


@pytest.mark.parametrize("ended", [False, True], ids=["it runs", "it has ended"])
async def test_a_job_of_an_earlier_run_is_looked_at_soon_since_its_callback_may_have_been_missed(
    tmp_path: Path, backend: Backend, *, ended: bool
) -> None:
    """Posted three times while nobody was there, never again; later, callbacks are trusted as ever."""
    async with FakeKie(duration=40.0 if ended else 300.0) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker() as ours:
            backend.serve(ours)
            await ours.submit(make_request())
        backend.take = None
        await anyio.sleep(100.0)
        async with host.worker() as again:
            backend.serve(again)
            (job,) = await again.recover()
            await job
            assert anyio.current_time() <= (106.0 if ended else 300.2)
            # One look after the restart, and the confirmation.
            assert (1 if ended else 2) == len(fake.truth.polls)


class Broken(SqliteStore):
    """A journal on a disk that fails for a while."""

    broken = False

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        self._fail()
        return await super().update_fields(job_id, at=at, **changes)

    async def get(self, job_id: str) -> Intent | None:
        self._fail()
        return await super().get(job_id)

    def _fail(self) -> None:
        if self.broken:
            msg = "The disk has failed."
            raise JournalError(msg)


@pytest.mark.parametrize("state", ["in_doubt", "unresolved"])
async def test_what_cannot_be_noted_is_answered_by_503_and_comes_again(
    state: str, tmp_path: Path, backend: Backend
) -> None:
    """Three tries, and the third finds the disk mended: the task comes home."""
    journal = Broken(tmp_path / "kie.db")
    async with FakeKie(duration=60.0, faults=[LOST], callback_retry_delay=5.0) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        policy = RetryPolicy(max_age=3600.0 if state == "in_doubt" else 30.0)
        async with host.worker(journal=journal, retry=policy) as ours:
            backend.serve(ours)
            with pytest.raises(SubmitInDoubtError) as raised:
                await ours.submit(make_request())
            await anyio.sleep(50.0)
            assert state == (await host.row()).state
            journal.broken = True
            await anyio.sleep(16.0)
            assert [503, 503] == backend.answers
            journal.broken = False
            await anyio.sleep(10.0)

            assert [503, 503, 200] == backend.answers
            assert [task.task_id for task in fake.truth.created] == [(await raised.value.job).task_id]
            refused = [event for event in host.events if event.name is EventName.CALLBACK_REFUSED]
            assert [503, 503] == [event.detail["status"] for event in refused]


async def test_a_disk_that_fails_during_the_confirmation_only_delays_it(tmp_path: Path, backend: Backend) -> None:
    """The callback was taken; what it has brought is looked into again until it can be written down."""
    journal = Broken(tmp_path / "kie.db")
    async with FakeKie(duration=60.0, faults=[LOST], latency=(1.0, 1.0)) as fake:
        host = Workers(fake, backend, tmp_path / "kie.db")
        async with host.worker(journal=journal, retry=RetryPolicy(max_age=30.0)) as ours:
            backend.serve(ours)
            with pytest.raises(SubmitInDoubtError) as raised:
                await ours.submit(make_request())
            await anyio.sleep(60.5)
            while not backend.answers:
                await anyio.sleep(0.1)
            journal.broken = True
            await anyio.sleep(20.0)
            assert "unresolved" == (await host.row()).state
            journal.broken = False

            await anyio.sleep(40.0)
            assert [200] == backend.answers
            assert [task.task_id for task in fake.truth.created] == [(await raised.value.job).task_id]
            await assert_settled(ours)
