"""FailingStore writes of the journal: no unrecorded create is sent, and the results of paid tasks are delivered."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar, Unpack

import anyio
import attrs
import pytest

from kie_async import (
    Event,
    EventName,
    JournalError,
    KieClient,
    KieError,
    Limits,
    RetryPolicy,
    SqliteJournal,
    SubmitInDoubtError,
)
from kie_async._core.lifecycle import Intent
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault, virtual_time
from tests.helpers import CALLBACKS, KEY, PROMPT, JournalClient, assert_ledger, assert_settled, make_request

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async._io.journals.journal import Changes
    from kie_async.testing.faults import Call

T = TypeVar("T")
S = JobState
IN_DOUBT = "SubmitInDoubtError"

JOBS = 8
SUSPECT = 2
KEYED = 5
FAILS = 6
LEAVES = 7

#: One response of each kind to the first create request of a job, by the job's number.
ANSWERS = {
    1: Fault("create", "code", code=429, times=1),
    SUSPECT: Fault("create", "code", code=500, msg="Internal Error, Please try again later.", times=1),
    3: Fault("create", "reset", after=True, times=1),
    4: Fault("create", "code", code=422, times=1),
}


class FailingStore(SqliteStore):
    """
    A journal on disk one of whose writes fails.

    Args:
        path: The file.

        nth: The number of the failing write, from 1; 0 for none.

        written: True if it reaches the disk all the same, as after a failed sync.
    """

    def __init__(self, path: Path, nth: int, *, written: bool = False) -> None:
        super().__init__(path)
        self._nth = nth
        self._written = written
        self.writes = 0
        self.failed = ""
        self.sent_at: dict[tuple[str, int], float] = {}

    async def add(self, intent: Intent) -> Intent:
        return await self._perhaps("add", partial(super().add, intent))

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        move = partial(super().transition, seen, state, at=at, account_epoch=account_epoch, **changes)
        row = await self._perhaps(f"{seen.state} to {state}", move)
        if row is not None and state is S.SENDING:
            self.sent_at[row.id, row.attempts] = asyncio.get_running_loop().time()
        return row

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        return await self._perhaps("note", partial(super().update_fields, job_id, at=at, **changes))

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        return await self._perhaps(
            "claim", partial(super().claim, job_ids, adopt_key=adopt_key, after=after, limit=limit)
        )

    async def _perhaps(self, what: str, write: Callable[[], Awaitable[T]]) -> T:
        self.writes += 1
        if self.writes != self._nth:
            return await write()
        self.failed = what
        if self._written:
            await write()
        msg = "The disk has failed."
        raise JournalError(msg)


@attrs.define
class RunLog:
    """The outcome of one run: the failed write, the callers' results, all tasks, and what ``recover()`` has sent."""

    failed: str = ""
    told: dict[int, str] = attrs.field(factory=dict)
    tasks: list[str] = attrs.field(factory=list)
    recovered: set[int] = attrs.field(factory=set)


async def run(path: Path, nth: int, *, written: bool) -> RunLog:
    """Run all jobs while the nth write fails; then let another client recover the rest."""
    journal, events, ran = FailingStore(path, nth, written=written), list[Event](), RunLog()
    faults = [attrs.evolve(fault, when=partial(_is_of, number)) for number, fault in ANSWERS.items()]
    policy = RetryPolicy(max_age=90.0, in_doubt_timeout=90.0)

    def client(journal: FailingStore | Path) -> KieClient:
        limits = Limits(creates=4)
        return JournalClient(
            KEY,
            base_url=fake.url,
            journal=journal,
            callback_url=CALLBACKS,
            retry=policy,
            limits=limits,
            on_event=events.append,
        )

    async def job(kie: KieClient, number: int) -> None:
        timeout, key = (5.0 if number == LEAVES else None), ("order-5" if number == KEYED else None)
        try:
            video = await kie.generate(make_request(number), key=key, timeout=timeout)
        except KieError as error:
            ran.told[number] = type(error).__name__
        else:
            assert fake.truth.tasks[video.task_id].ends_at <= anyio.current_time()
            ran.told[number] = "a task"

    async with FakeKie(faults=faults, latency=(0.01, 0.1), duration=(40.0, 0.1)) as fake:
        async with client(journal) as kie:
            async with anyio.create_task_group() as group:
                for number in range(JOBS):
                    group.start_soon(job, kie, number)
                group.start_soon(_fail_one, fake)
            await anyio.sleep(6.0)  # what could not be written is written after 5 s
            await assert_settled(kie)
        ran.failed, ran.tasks = journal.failed, list(fake.truth.tasks)
        _assert_journaled(journal, fake)
        assert_ledger(await _rows(path), fake.truth)
        reported = [event for event in events if event.name is EventName.JOURNAL_FAILED]
        assert len(reported) == (ran.failed not in {"", *AHEAD})

        posts = len(fake.truth.create_requests)
        async with client(path) as kie:
            for left in await kie.recover():
                with suppress(KieError):  # it ends as the service lets it end
                    await left
            await anyio.sleep(1.0)
            await assert_settled(kie)
        assert_ledger(await _rows(path), fake.truth)
        ran.recovered = {_number(post.body) for post in fake.truth.create_requests[posts:]}
    return ran


def _is_of(number: int, call: Call) -> bool:
    return f"{PROMPT}, take {number}".encode() in call.body


async def _fail_one(fake: FakeKie) -> None:
    """Let the task of one job fail, if it exists by then."""
    await anyio.sleep(25.0)
    for task in fake.truth.created:
        if _number(task.input) == FAILS:
            fake.fail(task.task_id)


def _number(given: object) -> int:
    """Return the number of the job that a create request or its input belongs to."""
    found = re.search(r"take (\d+)", str(given))
    assert found is not None
    return int(found[1])


async def _rows(path: Path) -> list[Intent]:
    journal = SqliteStore(path)
    await journal.open()
    rows = await journal.rows()
    await journal.close()
    return list(rows)


def _assert_journaled(journal: FailingStore, fake: FakeKie) -> None:
    """Check that each attempt was journaled before its create request arrived."""
    for post in fake.truth.create_requests:
        found = re.search(r"/(kj_\w+)\.(\d+)\.", str(post.callback_url))
        assert found is not None
        assert journal.sent_at[found[1], int(found[2])] < post.at


#: The callers' results when nothing fails.
EXPECTED = {
    0: "a task",
    1: "a task",
    SUSPECT: "a task",
    3: IN_DOUBT,
    4: "InvalidRequestError",
    KEYED: "a task",
    FAILS: "TaskFailedError",
    LEAVES: "TaskTimeoutError",
}
#: All transitions of the eight jobs.
WRITES = {
    "add",
    "intent to sending",
    "sending to intent",
    "sending to submitted",
    "sending to in_doubt",
    "sending to rejected",
    "submitted to succeeded",
    "submitted to failed",
    "intent to cancelled",
    "in_doubt to unresolved",
}
#: Writes that precede an event; if they fail, the event does not happen.
AHEAD = {"add", "intent to sending"}


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written all the same"])
def test_any_failed_write_is_safe(tmp_path: Path, caplog: pytest.LogCaptureFixture, *, written: bool) -> None:
    """
    For n = 1, 2, 3 … until none fails.

    Before a create is sent, its caller gets a ``JournalError`` (or the error that an earlier, ambiguous attempt may
    have been paid), and no other caller is affected. Afterwards, all callers get the same results as without the
    failure, and the log has the taskId. A write that reached the disk all the same is in doubt at worst.
    """
    failed: list[str] = []
    ran = RunLog()
    for nth in itertools.count(1):
        caplog.clear()
        ran = virtual_time(partial(run, tmp_path / f"{nth}.db", nth, written=written))
        if not ran.failed:
            break
        failed.append(ran.failed)
        different = {number: told for number, told in ran.told.items() if told != EXPECTED[number]}
        if ran.failed in AHEAD:
            assert len(different) == 1 or written
            for number, told in different.items():
                assert told in {
                    "JournalError",
                    "ServerError" if number == SUSPECT else "",
                    IN_DOUBT if written else "",
                }
        else:
            assert {} == different
            lost = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
            assert any("could not be journaled" in text for text in lost)
            if ran.failed == "sending to submitted":
                assert any(task_id in text for text in lost for task_id in ran.tasks)
        assert ran.recovered <= ({*different} if written else {KEYED}), "a caller that got an error may ask again"
    assert set(failed) == WRITES
    assert EXPECTED == ran.told


# -- for longer --------------------------------------------------------------------------------------------------------


class FullDiskStore(SqliteStore):
    """A journal on a disk that is full while *full* is True."""

    full = False

    async def add(self, intent: Intent) -> Intent:
        self._check()
        return await super().add(intent)

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        self._check()
        return await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)

    def _check(self) -> None:
        if self.full:
            msg = "The disk is full. Make room."
            raise JournalError(msg)


async def test_full_disk_sends_nothing_and_keeps_results(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The running task reaches its caller and the log, and a new job is refused; later everything is written."""
    journal = FullDiskStore(tmp_path / "kie.db")
    async with FakeKie(latency=(1.0, 1.0)) as fake, JournalClient(KEY, base_url=fake.url, journal=journal) as kie:
        videos: list[str] = []

        async def generate() -> None:
            videos.append((await kie.generate(make_request(0))).task_id)

        async with anyio.create_task_group() as group:
            group.start_soon(generate)
            await anyio.sleep(1.5)  # the create is on the wire
            journal.full = True
            with pytest.raises(JournalError, match="The disk is full"):
                await kie.generate(make_request(1))
        (row,) = await journal.rows()
        lost = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]

        assert [*fake.truth.tasks] == videos
        assert 1 == len(fake.truth.create_requests)
        assert S.SENDING is row.state
        assert any(videos[0] in text and row.id in text for text in lost)
        journal.full = False
        await anyio.sleep(60.0)
        (row,) = await journal.rows()
        assert (S.SUCCEEDED, videos[0]) == (row.state, row.task_id)


async def test_full_disk_at_exit_leaves_a_job_in_doubt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its row says SENDING; the next process does not send it again, and the log has the id."""
    path = tmp_path / "kie.db"
    journal = FullDiskStore(path)
    async with FakeKie(latency=(1.0, 1.0)) as fake:
        async with JournalClient(KEY, base_url=fake.url, journal=journal) as kie, anyio.create_task_group() as group:
            group.start_soon(kie.submit, make_request(0))
            await anyio.sleep(1.5)
            journal.full = True
        (task_id,) = fake.truth.tasks
        assert any(task_id in record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL)

        async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
            (job,) = await kie.recover()
            with pytest.raises(SubmitInDoubtError):
                await job
            await job.resolve(task_id)
            assert task_id == (await job).task_id
        assert 1 == len(fake.truth.create_requests)


async def test_unusable_journal_fails_every_call(tmp_path: Path) -> None:
    """Until it is usable; a client never works without its journal."""
    path = tmp_path / "kie.db"
    path.write_text("shot,prompt")
    async with FakeKie() as fake:
        kie = KieClient(KEY, base_url=fake.url, journal=path)
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(kie.generate, make_request(0)),
            partial(kie.submit, make_request(0), wait=False),
            kie.recover,
            kie.jobs,
            kie.__aenter__,
        ]
        for call in calls:
            with pytest.raises(JournalError, match="file is not a database"):
                await call()
        assert [] == fake.truth.create_requests
        path.unlink()
        assert (await kie.generate(make_request(0))).task_id in fake.truth.tasks
        await kie.aclose()


async def test_two_clients_share_one_sqlite_journal(tmp_path: Path) -> None:
    """The value only configures: each client is an owner of its own and leaves the other's jobs alone."""
    journal = SqliteJournal(tmp_path / "kie.db")
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url, journal=journal) as kie:
        job = await kie.submit(make_request(0))
        async with KieClient(KEY, base_url=fake.url, journal=journal) as other:
            assert [] == await other.recover()
            assert (await other.generate(make_request(1))).task_id in fake.truth.tasks
        assert (await job).task_id in fake.truth.tasks
        assert 2 == len(fake.truth.tasks)
