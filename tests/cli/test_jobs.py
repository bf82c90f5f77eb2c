"""The commands ``ls`` and ``forget``."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from kie_async import JobInfo, JournalError
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.jobs import format_jobs, info_fields, parse_instant, run_forget, run_ls
from kie_async.cli.running import report_error
from kie_async.cli.tasks import run_wait
from kie_async.states import JobState
from kie_async.testing import FakeKie
from tests.cli.helpers import (
    CapturedSession,
    create_job,
    create_job_in_doubt,
    create_unsent_job,
    record_duplicate,
    run_cli,
)

FOR_EVER = 1e12


def make_job_info(**changes: object) -> JobInfo:
    """Return a job with default fields."""
    known: dict[str, object] = {
        "job_id": "kj_1",
        "state": "intent",
        "model": "a/b",
        "created_at": 0.0,
        "updated_at": 0.0,
    }
    return JobInfo(**{**known, **changes})  # type: ignore[arg-type]  # a table of values of many types


async def list_jobs(
    journal: Path, *states: JobState, show_all: bool = False
) -> list[tuple[str, str | None, str | None]]:
    """Return state, key and task id of the jobs that ``ls --json`` shows."""
    streams = CapturedSession(as_json=True, journal=journal)
    assert ExitCode.DONE == await run_ls(streams.session, states=states, show_all=show_all)
    jobs = [json.loads(line) for line in streams.out.splitlines()]
    return [(job["state"], job["key"], job["task_id"]) for job in jobs]


async def test_ls_shows_unfinished_jobs_newest_last(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    ended, ended_task = await create_job(fake_kie, journal, key="one")
    await run_wait(CapturedSession(fake_kie, journal=journal).session, ended, target=tmp_path, timeout=None)
    await create_unsent_job(fake_kie, journal, key="two")
    _, task_id = await create_job(fake_kie, journal, key="three", prompt="Stop")
    unfinished = [("intent", "two", None), ("submitted", "three", task_id)]

    assert unfinished == await list_jobs(journal)
    assert [("succeeded", "one", ended_task), *unfinished] == await list_jobs(journal, show_all=True)
    assert unfinished[:1] == await list_jobs(journal, JobState.INTENT, JobState.FAILED)


async def test_ls_prints_a_line_a_job_and_a_hint_in_doubt(fake_kie: FakeKie, tmp_path: Path) -> None:
    job_id = await create_job_in_doubt(fake_kie, tmp_path / "kie.db", key="two\nlines")
    streams = CapturedSession(journal=tmp_path / "kie.db")
    await run_ls(streams.session)
    [row] = streams.out.splitlines()

    assert ["in_doubt", job_id, "-", "-", r"'two\nlines'"] == [row.split()[place] for place in (0, 2, 3, 4, 5)]
    assert "1 in doubt" in streams.err
    assert streams.err.index("state") == row.index("in_doubt"), "the header is aligned with its columns"


def test_table_columns_fit_their_cells() -> None:
    jobs = [make_job_info(key="k", credits=40.0), make_job_info(job_id="kj_longer", state="succeeded", model="c/d")]
    lines = format_jobs([info_fields(job, now=3 * 86_400.0) for job in jobs])

    assert [line.split() for line in lines] == [
        ["state", "age", "job", "task", "credits", "key", "model"],
        ["intent", "3d", "kj_1", "-", "40", "k", "a/b"],
        ["succeeded", "3d", "kj_longer", "-", "-", "-", "c/d"],
    ]
    assert 1 == len({line.index(name) for line, name in zip(lines, ("model", "a/b", "c/d"), strict=True)})


async def test_duplicate_payment_prints_a_warning(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    job_id, _ = await create_job(fake_kie, journal)
    await record_duplicate(journal, job_id, "t2")
    streams = CapturedSession(as_json=True, journal=journal)
    await run_ls(streams.session)

    assert ["t2"] == json.loads(streams.out)["duplicates"]
    assert f"warning: {job_id} was paid more than once. Its further tasks: t2." in streams.err


@pytest.mark.parametrize(("show_all", "said"), [(False, "No unfinished jobs"), (True, "No such jobs.")])
async def test_ls_without_jobs_says_so(tmp_path: Path, *, show_all: bool, said: str) -> None:
    streams = CapturedSession(journal=tmp_path / "kie.db")

    assert ExitCode.DONE == await run_ls(streams.session, show_all=show_all)
    assert ("", True) == (streams.out, said in streams.err)


def test_ls_needs_no_key(tmp_path: Path) -> None:
    chosen = [("ls", "--journal", str(tmp_path / "one.db")), ("ls",)]
    environment = {"KIE_JOURNAL": str(tmp_path / "two.db")}

    assert [0, 0] == [run_cli(*arguments, **environment).code for arguments in chosen]
    assert ["one.db", "two.db"] == sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".db")


async def test_file_that_is_not_a_journal_stays_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are no jobs, and this is no database")
    streams = CapturedSession(journal=file)
    with pytest.raises(JournalError) as caught:
        await run_ls(streams.session)

    assert ExitCode.USAGE == report_error(streams.session, caught.value)
    assert "these are no jobs, and this is no database" == file.read_text()


async def test_forget_deletes_and_counts_finished_jobs(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    for prompt in ("one", "two"):
        job_id, _ = await create_job(fake_kie, journal, prompt=prompt)
        await run_wait(CapturedSession(fake_kie, journal=journal).session, job_id, target=tmp_path, timeout=None)
    _, task_id = await create_job(fake_kie, journal)
    kept, forgotten = CapturedSession(journal=journal), CapturedSession(journal=journal)
    await run_forget(kept.session, before=0.0)
    await run_forget(forgotten.session, before=FOR_EVER)

    assert ("0\n", "2\n") == (kept.out, forgotten.out)
    assert [("submitted", None, task_id)] == await list_jobs(journal, show_all=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 999_910.0),
        ("1.5m", 999_910.0),
        ("1h", 996_400.0),
        ("2d", 827_200.0),
        ("1w", 395_200.0),
        ("1970-01-02T00:00:00+00:00", 86_400.0),
        ("2026-01-31", datetime(2026, 1, 31).astimezone().timestamp()),
    ],
)
def test_parse_instant(text: str, expected: float) -> None:
    assert expected == parse_instant(text, now=1_000_000.0)


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "30 days", "2026-13-01", "yesterday"])
def test_forget_rejects_an_invalid_instant(text: str, tmp_path: Path) -> None:
    result = run_cli("forget", f"--before={text}", KIE_JOURNAL=str(tmp_path / "kie.db"))

    assert (2, []) == (result.code, list(tmp_path.iterdir()))


def test_forget_accepts_an_age(tmp_path: Path) -> None:
    result = run_cli("forget", "--before", "30d", "--json", KIE_JOURNAL=str(tmp_path / "kie.db"))

    assert (0, {"forgotten": 0}) == (result.code, json.loads(result.out))
