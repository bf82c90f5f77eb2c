"""Transitions that could not be written: until they are, no question about the job finds its outdated row."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import anyio
import anyio.to_thread
import pytest

from kie_async import JournalError, KieClient, KieError, RetryPolicy, SubmitInDoubtError, TaskNotFoundError
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault, responses
from tests.helpers import CALLBACKS, KEY, JournalClient, assert_ledger, assert_settled, make_request
from tests.profile import sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kie_async._core.lifecycle import Intent
    from kie_async._io.journals.journal import Changes

S = JobState


class Disk(SqliteStore):
    """
    A journal on a disk that can be full, or be held by another connection.

    Args:
        path: The file.

        held: True to hold the file's write lock instead of filling the disk.
    """

    busy_timeout = 0.02

    def __init__(self, path: Path, *, held: bool = False) -> None:
        super().__init__(path)
        self.file = path
        self.holds = held
        self.full = False
        self._holder: sqlite3.Connection | None = None

    async def fail(self) -> None:
        """Let each write fail from now on."""
        self.full = not self.holds
        if self.holds:
            self._holder = await anyio.to_thread.run_sync(self._hold)

    async def work(self) -> None:
        """Let writes succeed again."""
        self.full = False
        if self._holder is not None:
            await anyio.to_thread.run_sync(self._holder.close)
            self._holder = None

    def _hold(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
        connection.execute("BEGIN IMMEDIATE")
        return connection

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        if self.full:
            msg = "The disk is full. Make room."
            raise JournalError(msg)
        return await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)


async def _call_back(kie: KieClient, fake: FakeKie) -> object:
    (task,) = fake.truth.created
    body = json.dumps(responses.callback_body(task)).encode()
    return await kie.callbacks.handle(str(task.callback_url), {}, body)


async def _read_update(kie: KieClient, job_id: str) -> object:
    return [record async for record in kie.job(job_id).updates()]


#: All that may be asked about a job, with its id and the service.
QUESTIONS: dict[str, Callable[[KieClient, str, FakeKie], Awaitable[object]]] = {
    "wait": lambda kie, job_id, _: kie.job(job_id).wait(timeout=1.0),
    "wait by task": lambda kie, _, fake: kie.job(next(iter(fake.truth.tasks))).wait(timeout=1.0),
    "status": lambda kie, job_id, _: kie.job(job_id).status(),
    "updates": lambda kie, job_id, _: _read_update(kie, job_id),
    "info": lambda kie, job_id, _: kie.job(job_id).info(),
    "jobs": lambda kie, _, __: kie.jobs(),
    "generate": lambda kie, _, __: kie.generate(make_request(), key="order-7", timeout=1.0),
    "submit": lambda kie, _, __: kie.submit(make_request(), key="order-7", wait=False),
    "recover": lambda kie, _, __: kie.recover(),
    "forget": lambda kie, _, __: kie.forget(before=4e9),
    "resolve": lambda kie, job_id, fake: kie.job(job_id).resolve(next(iter(fake.truth.tasks))),
    "resubmit": lambda kie, job_id, _: kie.job(job_id).resubmit(allow_duplicate=True),
    "abandon": lambda kie, job_id, _: kie.job(job_id).abandon(),
    "callback": lambda kie, _, fake: _call_back(kie, fake),
}


@pytest.mark.parametrize("held", [False, True], ids=["full", "held"])
@pytest.mark.parametrize("lost", ["the task and its end", "its end"])
async def test_no_question_overwrites_a_task_that_is_not_written(tmp_path: Path, lost: str, *, held: bool) -> None:
    """Each question is asked while writes fail, and again as soon as they succeed, before the client tries them."""
    for name in sample(sorted(QUESTIONS), check=0.25):
        ask = QUESTIONS[name]
        disk = Disk(tmp_path / f"{name}.db", held=held)
        async with FakeKie(duration=20.0, latency=(1.0, 1.0)) as fake:
            options: dict[str, Any] = {"journal": disk, "callback_url": CALLBACKS}
            async with JournalClient(KEY, base_url=fake.url, **options) as kie, anyio.create_task_group() as group:
                group.start_soon(partial(kie.generate, make_request(), key="order-7"))
                await anyio.sleep(1.5 if lost == "the task and its end" else 5.0)
                await disk.fail()
                (row,) = await disk.rows()
                await anyio.sleep(60.0)
                (task_id,) = fake.truth.tasks
                assert (await disk.rows())[0].state in (S.SENDING, S.SUBMITTED)

                for works in (False, True):
                    if works:
                        await disk.work()
                    try:
                        answer: Any = await ask(kie, row.id, fake)
                    except KieError:
                        answer = None
                    if name == "info":
                        assert (S.SUCCEEDED, task_id) == (answer.state, answer.task_id)
                    if name in ("wait", "wait by task", "generate"):
                        assert task_id == getattr(answer, "task_id", None), (name, works)
                await anyio.sleep(10.0)

                if name == "forget":
                    assert [] == await disk.rows()
                    continue
                (row,) = await disk.rows()
                assert (S.SUCCEEDED, task_id, 1) == (row.state, row.task_id, row.attempts), name
                assert 1 == len(fake.truth.create_requests)
                await assert_settled(kie)


async def test_refusal_that_is_not_written_does_not_block_its_key(tmp_path: Path) -> None:
    """The journal says SENDING, and the client knows better: the key is sent anew."""
    disk = Disk(tmp_path / "kie.db")
    refusal = Fault("create", "code", code=422, times=1)
    async with FakeKie(latency=(1.0, 1.0), faults=[refusal]) as fake:
        async with JournalClient(KEY, base_url=fake.url, journal=disk) as kie, anyio.create_task_group() as group:

            async def refused() -> None:
                with pytest.raises(KieError, match="422"):
                    await kie.generate(make_request(), key="order-7")

            group.start_soon(refused)
            await anyio.sleep(1.5)
            await disk.fail()
            await anyio.sleep(3.0)
            with pytest.raises(JournalError):
                await kie.generate(make_request(), key="order-7")
            await disk.work()
            video = await kie.generate(make_request(), key="order-7")
            assert [*fake.truth.tasks] == [video.task_id]
        assert_ledger(await _rows(disk.file), fake.truth)


@pytest.mark.parametrize("way", ["resolve", "abandon", "resubmit"])
async def test_doubt_that_is_not_written_can_be_ended(tmp_path: Path, way: str) -> None:
    disk = Disk(tmp_path / "kie.db")
    lost = Fault("create", "reset", after=True, times=1)
    async with (
        FakeKie(latency=(1.0, 1.0), faults=[lost]) as fake,
        JournalClient(KEY, base_url=fake.url, journal=disk) as kie,
    ):
        async with anyio.create_task_group() as group:

            async def doubtful() -> None:
                with pytest.raises(SubmitInDoubtError):
                    await kie.submit(make_request())

            group.start_soon(doubtful)
            await anyio.sleep(1.5)
            await disk.fail()
        ((row,), (task_id,)) = await disk.rows(), fake.truth.tasks
        job = kie.job(row.id)
        calls: dict[str, Callable[[], Awaitable[None]]] = {
            "resolve": partial(job.resolve, task_id),
            "abandon": job.abandon,
            "resubmit": partial(job.resubmit, allow_duplicate=True),
        }
        if way != "resolve":  # that is a fact, which is true before it is written
            with pytest.raises(JournalError):
                await calls[way]()
            await disk.work()
        await calls[way]()
        await disk.work()
        await anyio.sleep(300.0)
        (row,) = await disk.rows()
        assert (S.ABANDONED if way == "abandon" else S.SUCCEEDED) is row.state
        assert (2 if way == "resubmit" else 1) == len(fake.truth.tasks)
        await assert_settled(kie)


async def test_other_worker_may_have_written_what_this_one_could_not(tmp_path: Path) -> None:
    """A callback has told another worker of the task meanwhile; the jobs that are left are written as they are."""
    disk, path = Disk(tmp_path / "kie.db"), tmp_path / "kie.db"
    async with FakeKie(latency=(1.0, 1.0), duration=20.0) as fake:
        options: dict[str, Any] = {"base_url": fake.url, "callback_url": CALLBACKS}
        async with JournalClient(KEY, journal=disk, **options) as kie, KieClient(KEY, journal=path, **options) as other:
            async with anyio.create_task_group() as group:
                group.start_soon(kie.generate, make_request())
                await anyio.sleep(1.5)
                await disk.fail()
                await anyio.sleep(3.0)
                await _call_back(other, fake)
                await anyio.sleep(5.0)
                (row,) = await disk.rows()
                assert S.SUBMITTED is row.state
            await disk.work()
            await anyio.sleep(10.0)
            (row,) = await disk.rows()
            assert (S.SUCCEEDED, *fake.truth.tasks, ()) == (row.state, row.task_id, row.duplicate_task_ids)
            await assert_settled(kie)


@pytest.mark.parametrize("held", [False, True], ids=["full", "held"])
async def test_closing_client_logs_every_task_that_is_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, held: bool
) -> None:
    disk = Disk(tmp_path / "kie.db", held=held)
    async with FakeKie(latency=(1.0, 1.0), duration=20.0) as fake:
        async with JournalClient(KEY, base_url=fake.url, journal=disk) as kie, anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(kie.generate, make_request(number))
            await anyio.sleep(1.5)
            await disk.fail()
        await disk.work()
        last = [record.getMessage() for record in caplog.records if "The client closes" in record.getMessage()]
        assert 3 == len(last) == len(fake.truth.tasks)
        rows = await _rows(disk.file)
        assert all(any(row.id in text for text in last) for row in rows)
        assert all(any(task_id in text for text in last) for task_id in fake.truth.tasks)


async def _rows(path: Path) -> list[Intent]:
    store = SqliteStore(path)
    await store.open()
    rows = await store.rows()
    await store.close()
    return list(rows)


async def test_wait_for_a_job_deleted_before_it_was_written_ends(tmp_path: Path) -> None:
    """A callback has proved a task of a refused job while writes failed, and another worker has deleted the job."""
    disk, path = Disk(tmp_path / "kie.db"), tmp_path / "kie.db"
    ambiguous = Fault("create", "code", code=500, msg="Internal Error, Please try again later.", after=True)
    options: dict[str, Any] = {"callback_url": CALLBACKS, "retry": RetryPolicy(server_error_attempts=1)}
    async with FakeKie(faults=[ambiguous], duration=1000.0) as fake:
        options["base_url"] = fake.url
        async with JournalClient(KEY, journal=disk, **options) as kie, KieClient(KEY, journal=path, **options) as other:
            with pytest.raises(KieError):
                await kie.generate(make_request())
            await disk.fail()
            await _call_back(kie, fake)
            await anyio.sleep(1.0)
            ((row,), (task_id,)) = await disk.rows(), fake.truth.tasks
            info = await kie.job(row.id).info()
            assert info is not None
            assert (S.SUBMITTED, task_id) == (info.state, info.task_id)
            with pytest.raises(JournalError):
                await kie.forget(before=4e9)
            assert 1 == await other.forget(before=4e9)
            await disk.work()
            with pytest.raises(TaskNotFoundError), anyio.fail_after(60.0):
                await kie.job(row.id).wait()
            assert 0 == kie.statistics().jobs
            fake.truth.tasks.clear()  # its row is gone on purpose
