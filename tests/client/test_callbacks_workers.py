"""Callbacks at another worker, at one that has restarted, or at one that cannot write its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import anyio
import pytest

from kie_async import Event, EventName, JournalError, KieClient, RetryPolicy, SubmitInDoubtError
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import FakeKie, Fault
from tests.client.backend import Backend, callback_body, post, reported_duplicates, running_backend
from tests.helpers import KEY, JournalClient, assert_ledger, assert_settled, make_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kie_async._core.lifecycle import Intent
    from kie_async._io.journals.journal import Changes

LOST = Fault("create", "reset", after=True)


class Workers:
    """Clients of one journal, as the workers of one host; the service posts to one of them."""

    def __init__(self, fake: FakeKie, backend: Backend, path: Path) -> None:
        self.fake = fake
        self.backend = backend
        self.path = path
        self.events: list[Event] = []

    def make_worker(self, **options: Any) -> KieClient:
        """Return another worker, which receives no callbacks yet."""
        return JournalClient(
            KEY,
            base_url=self.fake.url,
            callback_url=self.backend.url,
            on_event=self.events.append,
            **{"journal": self.path, **options},
        )

    async def rows(self) -> list[Intent]:
        """Return the rows of the journal."""
        journal = SqliteStore(self.path)
        await journal.open()
        rows = list(await journal.rows())
        await journal.close()
        return rows

    async def row(self) -> Intent:
        """Return the only row."""
        (row,) = await self.rows()
        return row


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with running_backend() as serving:
        yield serving


async def test_a_callback_at_another_worker_ends_the_job(tmp_path: Path, backend: Backend) -> None:
    """It confirms and journals; the worker that submitted the job sees it within half a second."""
    async with FakeKie(duration=300.0) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours, workers.make_worker() as theirs:
            backend.serve(theirs)
            ours.callbacks.asgi_app()
            video = await ours.generate(make_request())

            assert 300.0 <= anyio.current_time() <= 301.0
            assert fake.truth.tasks[video.task_id].result_url == video.url
            assert (1, 0) == (theirs.statistics().confirmations, ours.statistics().confirmations)
            assert 30 >= ours.statistics().polls  # the first task of its kind
            assert video.url == (await theirs.job(str(video.job_id)).wait()).url
            await anyio.sleep(5.0)
            for worker in (ours, theirs):
                await assert_settled(worker)
        assert 1 == len([event for event in workers.events if event.name is EventName.ENDED])
        assert_ledger(await workers.rows(), fake.truth)


async def test_callbacks_at_another_worker_count_as_received(
    tmp_path: Path, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """Both the receiving worker and the owner of the job count it as received; neither counts it as lost."""
    async with FakeKie(duration=(60.0, 0.35), seed=3, credits=1e6) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours, workers.make_worker() as theirs:
            ours.callbacks.asgi_app()
            backend.serve(theirs)
            for _ in range(3):
                for worker in (ours, theirs):
                    async with anyio.create_task_group() as group:
                        for number in range(20):
                            group.start_soon(worker.generate, make_request(number))
                    await anyio.sleep(60.0)
            assert [] == [record.message for record in caplog.records if "No callbacks arrive" in record.message]
            polls = len(fake.truth.polls)
            async with anyio.create_task_group() as group:
                for number in range(20, 40):
                    group.start_soon(theirs.generate, make_request(number))

            # One confirmation and about one more poll for each: the workers rely on callbacks.
            assert 2.0 * 20 >= len(fake.truth.polls) - polls


async def test_a_callback_at_another_worker_settles_a_doubt(tmp_path: Path, backend: Backend) -> None:
    async with FakeKie(duration=60.0, faults=[LOST]) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours, workers.make_worker() as theirs:
            backend.serve(theirs)
            video = await ours.generate(make_request())

            assert [task.task_id for task in fake.truth.created] == [video.task_id]
            assert 60.0 <= anyio.current_time() <= 61.0
            assert 1 == len(fake.truth.create_requests)
            await anyio.sleep(5.0)
            await assert_settled(ours)
            await assert_settled(theirs)


RESPONSES = {
    "the same id": Fault("create", "slow", after=True, seconds=0.0),
    "a reset": LOST,
    "code 429": Fault("create", "code", code=429, after=True),
    "code 500": Fault("create", "code", code=500, msg="Internal Error, Please try again later.", after=True),
    "code 422": Fault("create", "code", code=422, after=True),
    "code 402": Fault("create", "code", code=402, after=True),
}


@pytest.mark.parametrize("says", RESPONSES)
async def test_an_early_callback_at_another_worker_wins(says: str, tmp_path: Path, backend: Backend) -> None:
    """The row changes while its worker waits for the create response; the worker accepts the change."""
    async with FakeKie(duration=5.0, create_seconds=30.0, faults=[RESPONSES[says]]) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours, workers.make_worker() as theirs:
            backend.serve(theirs)
            video = await ours.generate(make_request())
            await anyio.sleep(100.0)

            row = await workers.row()
            assert ("succeeded", video.task_id, ()) == (row.state, row.task_id, row.duplicate_task_ids)
            assert 1 == len(fake.truth.create_requests) == len(fake.truth.created)
            assert not {EventName.REJECTED, EventName.CANCELLED, EventName.DUPLICATE} & {e.name for e in workers.events}
            await assert_settled(ours)
            await assert_settled(theirs)


async def test_a_response_that_contradicts_a_remote_callback(tmp_path: Path, backend: Backend) -> None:
    faults = [Fault("create", "alter", after=True, data={"taskId": "f" * 32})]
    async with FakeKie(duration=5.0, create_seconds=30.0, faults=faults) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours, workers.make_worker() as theirs:
            backend.serve(theirs)
            video = await ours.generate(make_request())

            row = await workers.row()
            assert (video.task_id, ("f" * 32,)) == (row.task_id, row.duplicate_task_ids)
            assert ["f" * 32] == reported_duplicates(workers.events)


@pytest.mark.parametrize("says", ["slow", "reset"])
async def test_callbacks_at_two_workers_at_once_end_all_waits(says: str, tmp_path: Path, backend: Backend) -> None:
    """Both confirm; the slower one finds the row changed, and follows it."""
    faults = [Fault("create", says, after=True, seconds=30.0)]  # type: ignore[arg-type]  # a parameter
    async with FakeKie(duration=60.0 if says == "reset" else 5.0, faults=faults) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours, workers.make_worker() as theirs:
            found: list[str] = []

            async def wait(worker: KieClient) -> None:
                await anyio.sleep(1.0)
                job_id = (await workers.row()).id
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
                        worker.callbacks.handle,
                        str(task.callback_url),
                        fake.sign(task.task_id),
                        callback_body(task.task_id),
                    )
            assert 3 * [task.task_id] == found
            assert anyio.current_time() < 63.0
            assert 1 == len([event for event in workers.events if event.name is EventName.ENDED])
            await anyio.sleep(60.0)
            await assert_settled(ours)
            await assert_settled(theirs)


async def test_a_callback_for_a_dead_workers_job_is_journaled(tmp_path: Path, backend: Backend) -> None:
    """The receiving worker need not have adopted the job."""
    async with FakeKie(duration=300.0) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as dead:
            await dead.submit(make_request())
        async with workers.make_worker() as alive:
            backend.serve(alive)
            await anyio.sleep(301.0)
            assert "succeeded" == (await workers.row()).state
            assert [200] == backend.answers
            await assert_settled(alive)


@pytest.mark.parametrize("what", ["reset", "silence"])
async def test_an_unconfirmed_callback_survives_a_restart(what: str, tmp_path: Path, backend: Backend) -> None:
    """For a job in doubt it is the only evidence: the next process finds the task id in the journal."""
    faults = [LOST, Fault("poll", what, between=(0.0, 70.0))]  # type: ignore[arg-type]  # a parameter
    async with FakeKie(duration=60.0, faults=faults) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours:
            backend.serve(ours)
            with pytest.raises(SubmitInDoubtError) as raised:
                await ours.submit(make_request())
            await anyio.sleep(65.0)
        backend.handler = None
        row = await workers.row()
        (task,) = fake.truth.created
        assert [200] == backend.answers
        assert ("in_doubt", (task.task_id,)) == (row.state, row.callback_task_ids)
        await anyio.sleep(10.0)

        async with workers.make_worker() as again:
            (job,) = await again.recover()
            assert (raised.value.job.id, task.task_id) == (job.id, (await job).task_id)
            assert anyio.current_time() < 80.0
            await anyio.sleep(5.0)
            await assert_settled(again)
        row = await workers.row()
        assert ("succeeded", ()) == (row.state, row.callback_task_ids)
        assert 1 == len(fake.truth.create_requests)


async def test_a_forged_callback_binds_nothing_after_a_restart(tmp_path: Path, backend: Backend) -> None:
    """It was answered with 200 and journaled; the next process drops the foreign task id."""
    faults = [Fault("create", "reset", after=True, nth=1), Fault("poll", "reset", between=(0.0, 70.0))]
    async with FakeKie(duration=1000.0, faults=faults) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours:
            backend.serve(ours)
            with pytest.raises(SubmitInDoubtError):
                await ours.submit(make_request())
            other = await ours.submit(make_request(1))
            assert 200 == await post(fake.truth.create_requests[0].callback_url, callback_body(str(other.task_id)))
        await anyio.sleep(70.0)
        async with workers.make_worker() as again:
            await again.recover()
            await anyio.sleep(10.0)

            doubtful = (await workers.rows())[0]
            assert ("in_doubt", None, ()) == (doubtful.state, doubtful.task_id, doubtful.callback_task_ids)


@pytest.mark.parametrize("ended", [False, True], ids=["it runs", "it has ended"])
async def test_a_job_of_an_earlier_run_is_polled_soon(tmp_path: Path, backend: Backend, *, ended: bool) -> None:
    """Its callback may have been posted while no worker ran; later callbacks are relied on as before."""
    async with FakeKie(duration=40.0 if ended else 300.0) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker() as ours:
            backend.serve(ours)
            await ours.submit(make_request())
        backend.handler = None
        await anyio.sleep(100.0)
        async with workers.make_worker() as again:
            backend.serve(again)
            (job,) = await again.recover()
            await job
            assert anyio.current_time() <= (106.0 if ended else 300.2)
            # One poll after the restart; then those of the first task of its kind, and the confirmation.
            assert (1 if ended else 2) <= len(fake.truth.polls) <= (1 if ended else 25)


class FailingStore(SqliteStore):
    """A journal on a disk that fails temporarily."""

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
async def test_a_journal_failure_answers_503_until_it_works(state: str, tmp_path: Path, backend: Backend) -> None:
    """The service posts three times; the third time the disk works again, and the task is bound."""
    journal = FailingStore(tmp_path / "kie.db")
    async with FakeKie(duration=60.0, faults=[LOST], callback_retry_delay=5.0) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        policy = RetryPolicy(max_age=3600.0 if state == "in_doubt" else 30.0)
        async with workers.make_worker(journal=journal, retry=policy) as ours:
            backend.serve(ours)
            with pytest.raises(SubmitInDoubtError) as raised:
                await ours.submit(make_request())
            await anyio.sleep(50.0)
            assert state == (await workers.row()).state
            journal.broken = True
            await anyio.sleep(16.0)
            assert [503, 503] == backend.answers
            journal.broken = False
            await anyio.sleep(10.0)

            assert [503, 503, 200] == backend.answers
            assert [task.task_id for task in fake.truth.created] == [(await raised.value.job).task_id]
            refused = [event for event in workers.events if event.name is EventName.CALLBACK_REFUSED]
            assert [503, 503] == [event.detail["status"] for event in refused]


async def test_a_disk_failure_only_delays_the_confirmation(tmp_path: Path, backend: Backend) -> None:
    """The callback was accepted; the confirmation is repeated until it can be journaled."""
    journal = FailingStore(tmp_path / "kie.db")
    async with FakeKie(duration=60.0, faults=[LOST], latency=(1.0, 1.0)) as fake:
        workers = Workers(fake, backend, tmp_path / "kie.db")
        async with workers.make_worker(journal=journal, retry=RetryPolicy(max_age=30.0)) as ours:
            backend.serve(ours)
            with pytest.raises(SubmitInDoubtError) as raised:
                await ours.submit(make_request())
            await anyio.sleep(60.5)
            while not backend.answers:
                await anyio.sleep(0.1)
            journal.broken = True
            await anyio.sleep(20.0)
            assert "unresolved" == (await workers.row()).state
            journal.broken = False

            await anyio.sleep(40.0)
            assert [200] == backend.answers
            assert [task.task_id for task in fake.truth.created] == [(await raised.value.job).task_id]
            await assert_settled(ours)
