"""
Journals that were left by processes that were killed, with a job in each state: one for each version of the schema.

They are opened for ever. (All loops here have another seed than the one that made them, or ids would come again.)
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import attrs
import pytest

from kie_async import Job, KieClient, KieError, SqliteJournal
from kie_async._core.lifecycle import OPEN, IntentState
from kie_async.testing import FakeKie, virtual_time
from kie_async.testing.clock import VirtualLoop
from kie_async.testing.tasks import Task
from tests.journals.make import HANGS, KEY, wish

if TYPE_CHECKING:
    from kie_async import JSON

VERSIONS = sorted(path for path in Path(__file__).parent.glob("v*") if path.is_dir())

every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)

#: How the wait for each job ends in the next process: its state in the journal, and what the caller is told.
ENDS = {
    "intent": ("succeeded", "Generation"),
    "sending": ("in_doubt", "SubmitInDoubtError"),
    "submitted": ("succeeded", "Generation"),
    "stalled": ("succeeded", "Generation"),
    "in_doubt": ("in_doubt", "SubmitInDoubtError"),
    "unknown": ("unknown", "SubmitInDoubtError"),
    "abandoned": ("abandoned", "SubmitInDoubtError"),
    "succeeded": ("succeeded", "Generation"),
    "failed": ("failed", "TaskFailedError"),
    "rejected": ("rejected", "InvalidRequestError"),
    "suspect": ("rejected", "ServiceError"),
    "withdrawn": ("withdrawn", "TransportError"),
}


@attrs.frozen
class Kept:
    """
    A copy of what was kept.

    Attributes:
        file: The journal.

        rows: Its columns, by the job's key.
    """

    file: Path
    rows: dict[str, dict[str, JSON]]

    @classmethod
    def copy(cls, version: Path, folder: Path) -> Kept:
        """Copy the files of a version to a folder."""
        with ZipFile(version / "journal.zip") as kept:
            kept.extractall(folder)
        rows = json.loads((version / "rows.json").read_text())
        return cls(folder / "kie.db", {row["key"]: row for row in rows})

    @property
    def killed_at(self) -> float:
        """When its process was killed, in seconds since the epoch."""
        return max(float(str(row["updated_at"])) for row in self.rows.values())


@every_version
def test_a_row_is_read_as_it_was(version: Path, tmp_path: Path) -> None:
    """All fields of all rows, those in the -wal file as well."""
    kept = Kept.copy(version, tmp_path)

    async def read() -> dict[str, dict[str, JSON]]:
        journal = SqliteJournal(kept.file)
        await journal.open()
        try:
            return {row.key or "": attrs.asdict(row) for row in await journal.rows()}
        finally:
            await journal.close()

    found = virtual_time(read, seed=1, start=kept.killed_at)

    assert set(ENDS) == set(kept.rows) == set(found)
    for key, row in kept.rows.items():
        lists: set[str] = {"sources", "duplicates", "hinted"}
        expected = {name: json.loads(str(value)) if name in lists else value for name, value in row.items()}
        assert expected == json.loads(json.dumps({name: found[key][name] for name in row}))
    assert [key for key in found if found[key]["sources"]] == ["succeeded"]


@every_version
def test_each_job_goes_on_as_its_state_says(version: Path, tmp_path: Path) -> None:
    """INTENT is sent; SENDING is in doubt; what was accepted is waited for; all else stays, and nothing is lost."""
    kept = Kept.copy(version, tmp_path)

    async def go_on() -> None:
        async with FakeKie(seed=2, models=(HANGS, "tests/ends"), duration=60.0) as fake:
            _remember(fake, kept)
            async with KieClient(KEY, base_url=fake.url, journal=kept.file) as kie:
                recovered = {job.id for job in await kie.recover()}
                told = {key: await _end(kie.attach(str(row["id"]))) for key, row in kept.rows.items()}
                states = {job.key or "": job.state for job in await kie.jobs()}
                posts = [post.body["input"] for post in fake.truth.posts if isinstance(post.body, dict)]

        assert {row["id"] for row in kept.rows.values() if IntentState(str(row["state"])) in OPEN} == recovered
        assert ENDS == {key: (states[key], told[key]) for key in kept.rows}
        assert [{"prompt": "to be intent"}] == posts

    virtual_time(go_on, seed=1, start=kept.killed_at)


@every_version
def test_jobs_in_doubt_keep_the_deadlines_that_they_had(version: Path, tmp_path: Path) -> None:
    """Counted from when they were sent, ten minutes without a callback URL, whoever recovers them."""
    kept = Kept.copy(version, tmp_path)

    async def wait() -> None:
        journal = SqliteJournal(kept.file)
        async with FakeKie(seed=3) as fake, KieClient(KEY, base_url=fake.url, journal=journal) as kie:
            await kie.recover()
            sent_at = float(str(kept.rows["in_doubt"]["sending_at"]))
            seen = []
            for at in (sent_at + 599.0, sent_at + 602.0):
                await _until(at)
                seen.append({row.key: str(row.state) for row in await journal.rows()})

        assert ["in_doubt", "unknown"] == [states["in_doubt"] for states in seen]
        assert ["in_doubt", "unknown"] == [states["sending"] for states in seen]

    virtual_time(wait, seed=1, start=kept.killed_at)


@every_version
def test_a_key_is_never_paid_twice(version: Path, tmp_path: Path) -> None:
    """The same keys again: only what was never sent, or was refused for certain, is sent."""
    kept = Kept.copy(version, tmp_path)

    async def submit() -> None:
        async with FakeKie(seed=4, models=(HANGS, "tests/ends"), duration=60.0) as fake:
            _remember(fake, kept)
            async with KieClient(KEY, base_url=fake.url, journal=kept.file) as kie:
                for key in kept.rows:
                    await _end_of(kie, key)
                posts = [post.body["input"] for post in fake.truth.posts if isinstance(post.body, dict)]

        assert [{"prompt": f"to be {key}"} for key in kept.rows if key in ("intent", "withdrawn", "rejected")] == posts

    virtual_time(submit, seed=1, start=kept.killed_at)


def _remember(fake: FakeKie, kept: Kept) -> None:
    """Let the service know the tasks that the journal knows, all of which have ended since."""
    for row in kept.rows.values():
        if row["task_id"] is not None:
            fake.truth.tasks[str(row["task_id"])] = Task(
                task_id=str(row["task_id"]),
                model=str(row["model"]),
                input=json.loads(str(row["input"])),
                callback_url=None,
                output="video",
                created_at=-1.0,
                created_ms=int(float(str(row["accepted_at"])) * 1000),
                ends_at=0.0,
                stages=((0.0, "waiting"),),
                charged=50.0,
                failure=None,
                origin=fake.url,
            )


async def _until(instant: float) -> None:
    """Sleep until the wall clock shows *instant*."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    await asyncio.sleep(instant - loop.wall_time())


async def _end(job: Job) -> str:
    try:
        return type(await job.wait(timeout=3600.0)).__name__
    except KieError as error:
        return type(error).__name__


async def _end_of(kie: KieClient, key: str) -> str:
    try:
        job = await kie.submit(wish(key), key=key)
    except KieError as error:
        return type(error).__name__
    return await _end(job)
