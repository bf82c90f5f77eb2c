"""The journal goes back in time while a client uses it: nothing is paid twice, and the rows say what is true."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async import Event, EventName, KieClient, Limits
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from tests.client.test_callbacks_other_process import running_receiver
from tests.helpers import KEY, JournalClient, Setup, assert_documented, assert_ledger, make_request

S = JobState


def copy_file(path: Path) -> Callable[[], None]:
    """Copy a journal; return what writes the copy back into its file."""
    kept = sqlite3.connect(":memory:")
    with closing(sqlite3.connect(path)) as connection:
        connection.backup(kept)

    def go_back() -> None:
        with closing(sqlite3.connect(path)) as connection, closing(kept):
            kept.backup(connection)

    return go_back


@asynccontextmanager
async def used_journal(path: Path, **service: Any) -> AsyncIterator[Setup]:
    """Yield a client with a journal on disk; check the journal against the service at the end."""
    store, events = SqliteStore(path), list[Event]()
    async with (
        FakeKie(**service) as fake,
        JournalClient(KEY, base_url=fake.url, journal=store, on_event=events.append) as kie,
    ):
        yield Setup(kie, fake, store, events)
        assert_ledger(await store.rows(), fake.truth)
    for event in events:
        assert_documented(event)


def restored(setup: Setup) -> list[tuple[object, object]]:
    """Return the states that events have reported as lost, each with the state in which the journal had the job."""
    found = setup.reported(EventName.JOURNAL_WENT_BACK)
    return [(event.detail["state"], event.detail["found_state"]) for event in found]


async def test_jobs_in_progress_are_not_sent_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Some have ended when the file goes back, some run, some wait for a token; all end as if nothing had happened."""
    async with used_journal(tmp_path / "kie.db", duration=lambda _model, rng: rng.choice((1.0, 20.0))) as setup:
        jobs = [await setup.kie.submit(make_request(number), wait=False) for number in range(45)]
        go_back = copy_file(tmp_path / "kie.db")
        await anyio.sleep(15.0)
        states = {row.state for row in await setup.journal.rows()}
        go_back()
        await anyio.sleep(60.0)
        rows = await setup.journal.rows()

    assert {S.INTENT, S.SUBMITTED, S.SUCCEEDED} <= states
    assert [(job.id, S.SUCCEEDED) for job in jobs] == [(row.id, row.state) for row in rows]
    assert 45 == len(setup.tasks)
    assert {("succeeded", "submitted"), ("submitted", "intent")} <= set(restored(setup))
    assert 1 == sum(record.levelname == "CRITICAL" for record in caplog.records)


async def test_key_of_an_ended_job_is_not_paid_again(tmp_path: Path) -> None:
    """Its row is gone, then it says that nothing was sent."""
    async with used_journal(tmp_path / "kie.db") as setup:
        copies = [copy_file(tmp_path / "kie.db")]
        job = await setup.kie.submit(make_request(), key="order 7", wait=False)
        copies.append(copy_file(tmp_path / "kie.db"))
        video = await job
        for go_back in copies:
            go_back()
            assert video.task_id == (await setup.kie.generate(make_request(), key="order 7")).task_id

        assert [video.task_id] == setup.tasks
    assert [("succeeded", None), ("succeeded", "intent")] == restored(setup)


async def test_creates_of_the_window_stay_counted(tmp_path: Path) -> None:
    """The account's state goes back with the rows: all tokens seem to be free."""
    async with used_journal(tmp_path / "kie.db") as setup:
        go_back = copy_file(tmp_path / "kie.db")
        jobs = [await setup.kie.submit(make_request(number), wait=False) for number in range(60)]
        await anyio.sleep(2.0)
        sent = len(setup.truth.create_requests)
        go_back()
        for job in jobs:
            await job

    assert 20 == sent
    assert [] == setup.truth.rate_limited
    assert 60 == len(setup.tasks)


async def test_callbacks_bring_back_what_no_process_remembers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The process that has sent two jobs has ended: one row is as before it was sent, the other one is gone."""
    receivers: list[KieClient] = []
    path = tmp_path / "kie.db"
    async with FakeKie(duration=60.0) as fake, running_receiver(receivers) as callback_url:
        limits = Limits(creates=1)
        async with KieClient(KEY, base_url=fake.url, journal=path, callback_url=callback_url, limits=limits) as owner:
            await owner.submit(make_request(0))
            first = await owner.submit(make_request(1), wait=False)
            go_back = copy_file(path)
            second = await owner.submit(make_request(2), key="order-2")
        go_back()
        async with KieClient(KEY, base_url=fake.url, journal=path, callback_url=callback_url) as receiver:
            receivers.append(receiver)
            assert [S.SUBMITTED, S.INTENT] == [job.state for job in await receiver.jobs()]
            await anyio.sleep(120.0)
            jobs = {job.job_id: job for job in (await receiver.jobs())[1:]}
            again = await receiver.job(second.id)

    assert {first.id: S.SUCCEEDED, second.id: S.SUCCEEDED} == {job_id: job.state for job_id, job in jobs.items()}
    assert {first.task_id, second.task_id} == {job.task_id for job in jobs.values()}
    assert 3 == len(fake.truth.tasks)
    assert second.task_id == again.task_id
    lost = [record.message for record in caplog.records if record.levelname == "CRITICAL"]
    assert [True, True] == [
        any(job.id in text and str(job.task_id) in text for text in lost) for job in (first, second)
    ]
    assert 2 == len(lost)


async def test_callback_of_a_forgotten_job_brings_nothing_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its row was deleted on purpose before the callback came."""
    receivers: list[KieClient] = []
    async with (
        FakeKie(faults=[Fault("callback", "slow", seconds=7200.0)]) as fake,
        running_receiver(receivers) as callback_url,
        KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", callback_url=callback_url) as kie,
    ):
        receivers.append(kie)
        await kie.generate(make_request())
        assert 1 == await kie.forget(before=1e12)
        other = await kie.submit(make_request(2))
        await anyio.sleep(8000.0)

        assert [other.id] == [job.job_id for job in await kie.jobs()]
        assert 2 == kie.statistics().callbacks
    assert [] == [record.message for record in caplog.records if record.levelname == "CRITICAL"]
