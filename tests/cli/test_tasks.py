"""The commands ``status`` and ``wait``."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from kie_async import (
    KieClient,
    TaskFailedError,
    TaskNotFoundError,
    TaskRecord,
    TaskTimeoutError,
    TransportError,
    Wan22TurboImageToVideo,
)
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.running import report_error
from kie_async.cli.tasks import record_fields, run_status, run_wait
from kie_async.testing import FakeKie
from tests.cli.helpers import CAT, CapturedSession, create_job, create_unsent_job, video_length_and_height


async def new_task(fake: FakeKie) -> str:
    """Return the id of a task that another program has created."""
    async with KieClient("key-for-the-fake", base_url=fake.url) as kie:
        job = await kie.submit(Wan22TurboImageToVideo(image=str(CAT), prompt="Go", resolution="480p"))
        assert job.task_id is not None
        return job.task_id


async def test_status_prints_the_record(fake_kie: FakeKie) -> None:
    streams, task_id = CapturedSession(fake_kie), await new_task(fake_kie)
    code = await run_status(streams.session, task_id)
    lines = dict(line.split(maxsplit=1) for line in streams.out.splitlines())

    assert (ExitCode.DONE, task_id, "waiting", "40") == (code, lines["task_id"], lines["state"], lines["credits"])
    assert "fail_code" not in lines


async def test_status_of_a_failed_task_exits_0(fake_kie: FakeKie) -> None:
    streams, task_id = CapturedSession(fake_kie, as_json=True), await new_task(fake_kie)
    fake_kie.fail(task_id, "422", "The image shows nothing")
    code = await run_status(streams.session, task_id)
    shown = json.loads(streams.out)

    assert (ExitCode.DONE, "fail", "422", "The image shows nothing") == (
        code,
        shown["state"],
        shown["fail_code"],
        shown["fail_message"],
    )


def test_record_has_age_while_running_else_seconds() -> None:
    running = TaskRecord(task_id="t1", state="waiting", created_at=1000.0)
    ended = TaskRecord(task_id="t1", state="success", created_at=1000.0, completed_at=1061.5)

    assert (42.0, None) == (
        record_fields(running, job_id=None, now=1042.04)["age"],
        record_fields(running, job_id=None, now=1042.04)["seconds"],
    )
    assert (None, 61.5) == (
        record_fields(ended, job_id=None, now=2000.0)["age"],
        record_fields(ended, job_id=None, now=2000.0)["seconds"],
    )
    assert 0.0 == record_fields(running, job_id=None, now=999.0)["age"], "the service's clock may be ahead of ours"


async def test_unknown_task_id_fails(fake_kie: FakeKie) -> None:
    streams = CapturedSession(fake_kie)
    with pytest.raises(TaskNotFoundError) as caught:
        await run_status(streams.session, "0" * 32)

    assert ExitCode.FAILED == report_error(streams.session, caught.value)


async def test_wait_saves_another_programs_task(fake_kie: FakeKie, tmp_path: Path) -> None:
    streams, task_id = CapturedSession(fake_kie), await new_task(fake_kie)
    code = await run_wait(streams.session, task_id, target=tmp_path / "cat.mp4", timeout=None)

    assert (ExitCode.DONE, f"{tmp_path}/cat.mp4\n") == (code, streams.out)
    assert 480 == video_length_and_height(tmp_path / "cat.mp4")[1]
    assert 1 == len(fake_kie.truth.create_requests)


async def test_wait_timeout_prints_how_to_resume(fake_kie: FakeKie) -> None:
    streams, task_id = CapturedSession(fake_kie), await new_task(fake_kie)
    with pytest.raises(TaskTimeoutError) as caught:
        await run_wait(streams.session, task_id, target=None, timeout=1.0)

    assert ExitCode.UNFINISHED == report_error(streams.session, caught.value)
    assert f"kie-async wait {task_id}" in streams.err
    assert "job()" not in streams.err, "that is for programmers"


async def test_interrupted_wait_prints_how_to_resume(fake_kie: FakeKie) -> None:
    streams, task_id = CapturedSession(fake_kie), await new_task(fake_kie)
    with anyio.move_on_after(5.0):
        await run_wait(streams.session, task_id, target=None, timeout=None)

    assert f"kie-async wait {task_id}" in streams.session.resume_hint()


async def test_wait_for_a_failing_task_prints_the_reason(fake_kie: FakeKie) -> None:
    streams, task_id = CapturedSession(fake_kie), await new_task(fake_kie)
    fake_kie.fail(task_id, "500", "the server is busy")
    with pytest.raises(TaskFailedError) as caught:
        await run_wait(streams.session, task_id, target=None, timeout=None)

    assert ExitCode.FAILED == report_error(streams.session, caught.value)
    assert "the server is busy" in streams.err


async def test_wait_and_status_accept_a_job_id(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    job_id, task_id = await create_job(fake_kie, journal)
    shown = CapturedSession(fake_kie, as_json=True, journal=journal)
    await run_status(shown.session, job_id)
    fetched = CapturedSession(fake_kie, as_json=True, journal=journal)
    await run_wait(fetched.session, job_id, target=tmp_path / "cat.mp4", timeout=None)
    fields = json.loads(shown.out), json.loads(fetched.out)

    assert [(job_id, task_id)] * 2 == [(found["job_id"], found["task_id"]) for found in fields]
    assert ["waiting", "success"] == [found["state"] for found in fields]
    assert 1 == len(fake_kie.truth.create_requests)


async def test_status_does_not_send_an_unsent_job(fake_kie: FakeKie, tmp_path: Path) -> None:
    job_id = await create_unsent_job(fake_kie, tmp_path / "kie.db")
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    posts = len(fake_kie.truth.create_requests)
    code = await run_status(streams.session, job_id)

    assert (ExitCode.DONE, posts) == (code, len(fake_kie.truth.create_requests))
    assert ["job_id", job_id, "state", "intent"] == streams.out.split()[:4]


async def test_wait_does_not_send_an_unsent_job(fake_kie: FakeKie, tmp_path: Path) -> None:
    job_id = await create_unsent_job(fake_kie, tmp_path / "kie.db")
    streams, posts = CapturedSession(fake_kie, journal=tmp_path / "kie.db"), len(fake_kie.truth.create_requests)
    with pytest.raises(TransportError) as caught:
        await run_wait(streams.session, job_id, target=tmp_path / "cat.mp4", timeout=None)

    assert (ExitCode.RETRY_LATER, posts) == (
        report_error(streams.session, caught.value),
        len(fake_kie.truth.create_requests),
    )
    assert "To send it: kie-async recover" in streams.err


@pytest.mark.parametrize("journal", [True, False])
async def test_unknown_job_id_fails(fake_kie: FakeKie, tmp_path: Path, *, journal: bool) -> None:
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db" if journal else None)
    with pytest.raises(TaskNotFoundError) as caught:
        await run_status(streams.session, "kj_0")

    assert ExitCode.FAILED == report_error(streams.session, caught.value)
    assert "the journal that the job was written to" in streams.err
    assert "--journal" in streams.err
