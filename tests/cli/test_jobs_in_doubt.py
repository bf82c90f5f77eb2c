"""The commands ``resolve``, ``resubmit`` and ``abandon``."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from kie_async import ConfigurationError, SubmitInDoubtError, TaskNotFoundError
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.jobs import run_abandon, run_resolve, run_resubmit
from kie_async.cli.running import report_error
from kie_async.cli.tasks import run_status, run_wait
from kie_async.testing import FakeKie, Fault
from tests.cli.helpers import CapturedSession, create_job, create_job_in_doubt


async def test_resolve_binds_the_task(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    job_id = await create_job_in_doubt(fake_kie, journal)
    [task_id] = fake_kie.truth.tasks
    resolved, waited = (
        CapturedSession(fake_kie, as_json=True, journal=journal),
        CapturedSession(fake_kie, journal=journal),
    )
    await run_resolve(resolved.session, job_id, task_id)
    await run_wait(waited.session, job_id, target=tmp_path / "cat.mp4", timeout=None)

    assert {"job_id": job_id, "task_id": task_id, "state": "submitted"} == json.loads(resolved.out)
    assert f"kie-async wait {task_id}" in resolved.err
    assert (f"{tmp_path}/cat.mp4\n", 1) == (waited.out, len(fake_kie.truth.create_requests))


@pytest.mark.parametrize(
    ("code", "kind", "task_id"),
    [(ExitCode.FAILED, TaskNotFoundError, "0" * 32), (ExitCode.USAGE, ConfigurationError, None)],
)
async def test_resolve_refuses_another_jobs_task(
    code: ExitCode, kind: type[Exception], task_id: str | None, fake_kie: FakeKie, tmp_path: Path
) -> None:
    """The task does not exist, or it belongs to another request."""
    job_id = await create_job_in_doubt(fake_kie, tmp_path / "kie.db")
    _, other = await create_job(fake_kie, tmp_path / "other.db", prompt="Something else")
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    with pytest.raises(kind) as caught:
        await run_resolve(streams.session, job_id, task_id or other)

    assert code == report_error(streams.session, caught.value)


async def test_resubmit_requires_allow_duplicate(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    job_id = await create_job_in_doubt(fake_kie, journal)
    refused, sent = CapturedSession(fake_kie, journal=journal), CapturedSession(fake_kie, journal=journal)
    with pytest.raises(ConfigurationError, match="--allow-duplicate"):
        await run_resubmit(refused.session, job_id, allow_duplicate=False)
    code = await run_resubmit(sent.session, job_id, allow_duplicate=True)

    assert (ExitCode.DONE, f"{list(fake_kie.truth.tasks)[1]}\n") == (code, sent.out)
    assert 2 == len(fake_kie.truth.create_requests)


async def test_resubmit_succeeds_if_the_poll_fails(fake_kie: FakeKie, tmp_path: Path) -> None:
    job_id = await create_job_in_doubt(fake_kie, tmp_path / "kie.db")
    fake_kie.inject(Fault("poll", "html"))
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    code = await run_resubmit(streams.session, job_id, allow_duplicate=True)

    assert (ExitCode.DONE, f"{list(fake_kie.truth.tasks)[1]}\n") == (code, streams.out)


async def test_resubmit_can_end_in_doubt_again(fake_kie: FakeKie, tmp_path: Path) -> None:
    job_id = await create_job_in_doubt(fake_kie, tmp_path / "kie.db")
    fake_kie.inject(Fault("create", "reset", after=True, nth=2))
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    with pytest.raises(SubmitInDoubtError) as caught:
        await run_resubmit(streams.session, job_id, allow_duplicate=True)

    assert ExitCode.IN_DOUBT == report_error(streams.session, caught.value)
    assert f"kie-async abandon {job_id}" in streams.err


async def test_interrupted_resubmit_is_in_doubt_again(tmp_path: Path) -> None:
    async with FakeKie() as fake:
        job_id = await create_job_in_doubt(fake, tmp_path / "kie.db")
        fake.inject(Fault("create", "silence", nth=2))
        streams = CapturedSession(fake, journal=tmp_path / "kie.db")
        with anyio.move_on_after(5.0):
            await run_resubmit(streams.session, job_id, allow_duplicate=True)

    assert f"kie-async resolve {job_id} TASKID" in streams.session.resume_hint()


async def test_abandon_ends_a_job(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    job_id = await create_job_in_doubt(fake_kie, journal)
    abandoned, shown = (
        CapturedSession(fake_kie, journal=journal),
        CapturedSession(fake_kie, as_json=True, journal=journal),
    )
    await run_abandon(abandoned.session, job_id)
    await run_status(shown.session, job_id)

    assert (f"{job_id}\n", "abandoned") == (abandoned.out, json.loads(shown.out)["state"])


async def test_job_not_in_doubt_stays_unchanged(fake_kie: FakeKie, tmp_path: Path) -> None:
    job_id, _ = await create_job(fake_kie, tmp_path / "kie.db")
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    with pytest.raises(ConfigurationError, match="Only a job in doubt") as caught:
        await run_abandon(streams.session, job_id)

    assert ExitCode.USAGE == report_error(streams.session, caught.value)
