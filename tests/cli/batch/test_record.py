"""The entries that are recorded for rare outcomes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from kie_async import (
    Done,
    DownloadError,
    Failed,
    Generation,
    InvalidRequestError,
    JobInfo,
    KieError,
    TaskFailedError,
    TaskRecord,
    TaskTimeoutError,
    TransportError,
)
from kie_async.cli.batch.folder import FolderIdentity
from kie_async.cli.batch.manifest import EntryState, Manifest, ManifestEntry
from kie_async.cli.batch.page import MAX_CARDS, PageHeader, write_page
from kie_async.cli.batch.record import RunRecord
from kie_async.cli.batch.table import Table
from kie_async.records import SavedFile
from kie_async.states import JobState
from tests.cli.batch.helpers import make_entry, make_options
from tests.cli.helpers import CAT


@pytest.fixture
def record(tmp_path: Path) -> Iterator[RunRecord]:
    """Return the record of a run with one row."""
    shutil.copy(CAT, tmp_path / "cat.jpg")
    table = Table(path=tmp_path / "shots.csv")
    table.path.write_text("key,image,prompt\nmine,cat.jpg,Go\n")
    assert [] == list(table.check())
    order = make_options(table.path)
    order.out.mkdir()
    with Manifest(order.out) as manifest:
        yield RunRecord(
            table=table,
            options=order,
            manifest=manifest,
            identity=FolderIdentity(journal="j", origin="https://kie.example"),
        )


def failed(record: RunRecord, error: KieError, *, task_id: str | None = None) -> ManifestEntry:
    """Record an error as the outcome of the row, and return its entry."""
    [(key, request)] = record.requests()
    return record.record_outcome(Failed(key=key, request=request, error=error, task_id=task_id))


def test_unfinished_rows_are_recorded_with_their_task(record: RunRecord) -> None:
    """Rows that were never sent and jobs of other tables are not recorded."""
    [(key, _)] = record.requests()
    known = JobInfo(
        job_id="kj_1", state=JobState.SUBMITTED, model="m", created_at=1.0, updated_at=1.0, task_id="t1", key=key
    )
    others = [
        attrs.evolve(known, key="another"),
        attrs.evolve(known, key=None),
        attrs.evolve(known, state=JobState.INTENT),
    ]

    assert 0 == record.record_unfinished(others)
    assert [] == list(record.manifest.entries())
    assert 1 == record.record_unfinished([known])
    [entry] = record.manifest.entries()
    assert (EntryState.RUNNING, "t1", record.options.resume_command()) == (entry.state, entry.task_id, entry.command)

    record.record_unfinished([attrs.evolve(known, state=JobState.SENDING, task_id=None)])
    [entry] = record.manifest.entries()
    assert (EntryState.IN_DOUBT, f"kie-async resolve{record.options.journal.option} kj_1 TASKID") == (
        entry.state,
        entry.command,
    )


def test_failure_names_the_next_command(record: RunRecord) -> None:
    """It is the same command, one with retries, or none if the row itself is wrong."""
    again, retry = record.options.resume_command(), record.options.resume_command(retry=True)

    assert again == failed(record, TransportError("No answer.")).command
    assert again == failed(record, DownloadError("Gone.")).command
    assert retry == failed(record, TaskFailedError("Oh.", fail_code="500", worth_retrying=True)).command
    assert None is failed(record, TaskFailedError("Bad picture.", fail_code="422", worth_retrying=False)).command
    assert None is failed(record, InvalidRequestError("No.", code=422)).command


def test_timed_out_task_is_running(record: RunRecord) -> None:
    assert EntryState.RUNNING == failed(record, TaskTimeoutError("Not yet."), task_id="t1").state
    assert EntryState.FAILED == failed(record, TaskTimeoutError("Never begun.")).state


def test_result_without_files_is_done(record: RunRecord) -> None:
    """Some models return text."""

    async def nowhere(_generation: Generation, _path: Path) -> list[SavedFile]:
        return []

    [(key, request)] = record.requests()
    generation = Generation(record=TaskRecord(task_id="t1", state="success"), saver=nowhere)
    entry = record.record_outcome(Done(key=key, request=request, task_id="t1", generation=generation))

    assert (EntryState.DONE, None, "kie-async status t1 --json") == (entry.state, entry.file, entry.command)


def test_large_page_keeps_urgent_rows(tmp_path: Path) -> None:
    """The page has two thousand cards in the order of the table, those of failed rows included."""
    entries = [make_entry(n, EntryState.FAILED if n in (5, 2900) else EntryState.DONE) for n in range(1, 3001)]
    entries[4] = attrs.evolve(entries[4], image=None, source=None)
    entries[2899] = attrs.evolve(entries[2899], image=None, source="http://[no-address")
    write_page(tmp_path, entries, PageHeader(title="shots.csv", total=3000, written_at="today"))
    page = (tmp_path / "index.html").read_text()

    assert "No image" in page, "neither in the folder nor at a URL"
    assert MAX_CARDS == page.count('<li class="card')
    assert 2 == page.count('<li class="card s-failed"')
    assert "2\u202f000 of 3\u202f000 shots" in page
