"""The journal goes back in time while a client uses it: nothing is paid twice, and the rows say what is true."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from kie_async import Event, EventName
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie
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
