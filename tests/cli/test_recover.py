"""The command ``recover``."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.jobs import run_ls
from kie_async.cli.recover import run_recover
from kie_async.testing import FakeKie, Fault
from tests.cli.helpers import (
    CapturedSession,
    create_job,
    create_job_in_doubt,
    create_unsent_job,
    record_duplicate,
    video_length_and_height,
)


async def test_recover_finishes_all_unfinished_jobs(fake_kie: FakeKie, tmp_path: Path) -> None:
    """Accepted jobs are awaited, unsent jobs are sent; each result is saved under its task's id."""
    journal, out = tmp_path / "kie.db", tmp_path / "out" / "videos"
    first, _ = await create_job(fake_kie, journal)
    second = await create_unsent_job(fake_kie, journal, key="shot-2")
    streams = CapturedSession(fake_kie, as_json=True, journal=journal)
    code = await run_recover(streams.session, out=out)
    found = [json.loads(line) for line in streams.out.splitlines()]
    files = [str(out / f"{task_id}-1.mp4") for task_id in fake_kie.truth.tasks]

    assert (ExitCode.DONE, [first, second]) == (code, [job["job_id"] for job in found])
    assert files == [file for job in found for file in job["files"]]
    assert [480, 480] == [video_length_and_height(Path(file))[1] for file in files]
    assert "shot-2: saved" in streams.err


async def test_recover_without_a_folder_prints_urls(fake_kie: FakeKie, tmp_path: Path) -> None:
    _, task_id = await create_job(fake_kie, tmp_path / "kie.db")
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    await run_recover(streams.session)

    assert f"{fake_kie.url}/results/{task_id}/video.mp4\n" == streams.out
    assert [] == fake_kie.truth.downloads


async def test_recover_without_wait_prints_task_ids(fake_kie: FakeKie, tmp_path: Path) -> None:
    await create_job(fake_kie, tmp_path / "kie.db")
    await create_unsent_job(fake_kie, tmp_path / "kie.db")
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    code = await run_recover(streams.session, wait=False)

    assert (ExitCode.DONE, list(fake_kie.truth.tasks)) == (code, streams.out.split())
    assert 2 == len(fake_kie.truth.tasks)


async def test_second_recover_finds_nothing(fake_kie: FakeKie, tmp_path: Path) -> None:
    await create_job(fake_kie, tmp_path / "kie.db")
    await run_recover(CapturedSession(fake_kie, journal=tmp_path / "kie.db").session)
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")

    assert ExitCode.DONE == await run_recover(streams.session)
    assert ("", True) == (streams.out, "No unfinished jobs" in streams.err)


async def test_job_in_doubt_does_not_stop_the_others(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    doubtful = await create_job_in_doubt(fake_kie, journal)
    _, task_id = await create_job(fake_kie, journal, prompt="Stop")
    streams = CapturedSession(fake_kie, journal=journal)
    code = await run_recover(streams.session, out=tmp_path)

    assert (ExitCode.IN_DOUBT, f"{tmp_path}/{task_id}-1.mp4\n") == (code, streams.out)
    assert f"kie-async resolve {doubtful} TASKID" in streams.err
    assert 2 == len(fake_kie.truth.create_requests), "nothing is sent again"


async def test_unresolved_job_is_reported(fake_kie: FakeKie, tmp_path: Path) -> None:
    """An unresolved job is no longer awaited; only the user can settle it."""
    journal = tmp_path / "kie.db"
    doubtful = await create_job_in_doubt(fake_kie, journal)
    await anyio.sleep(86_400.0)
    for _ in range(2):
        streams = CapturedSession(fake_kie, journal=journal)

        assert ExitCode.IN_DOUBT == await run_recover(streams.session)
        assert f"kie-async resolve {doubtful} TASKID" in streams.err


@pytest.mark.parametrize(
    ("code", "fault", "said"),
    [
        (1, Fault("poll", "alter", data={"state": "fail", "failCode": "422", "failMsg": "Too dark"}), "Too dark"),
        (4, Fault("download", "html"), "error: "),
        (4, Fault("poll", "alter", data={"state": "generating", "resultJson": ""}), "has not ended yet"),
    ],
    ids=["task fails", "no download", "hangs"],
)
async def test_recover_errors_and_exit_codes(
    code: int, fault: Fault, said: str, fake_kie: FakeKie, tmp_path: Path
) -> None:
    await create_job(fake_kie, tmp_path / "kie.db")
    fake_kie.inject(fault)
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")

    assert code == await run_recover(streams.session, out=tmp_path / "out")
    assert ("", True) == (streams.out, said in streams.err)


async def test_duplicate_payment_prints_a_warning(fake_kie: FakeKie, tmp_path: Path) -> None:
    job_id, _ = await create_job(fake_kie, tmp_path / "kie.db")
    await record_duplicate(tmp_path / "kie.db", job_id, "t2")
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    await run_recover(streams.session)

    assert f"{job_id} was paid more than once. Its further tasks: t2." in streams.err


async def test_interrupted_recover_names_the_journal(fake_kie: FakeKie, tmp_path: Path) -> None:
    for prompt in ("one", "two"):
        await create_job(fake_kie, tmp_path / "kie.db", prompt=prompt)
    streams = CapturedSession(fake_kie, journal=tmp_path / "kie.db")
    with anyio.move_on_after(3.0):
        await run_recover(streams.session)

    assert "2 unfinished. The journal has all jobs. To resume: kie-async recover" == streams.session.resume_hint()


async def test_invalid_folder_is_found_before_resuming(fake_kie: FakeKie, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await create_job(fake_kie, tmp_path / "kie.db")
    with pytest.raises(FileExistsError):
        await run_recover(CapturedSession(fake_kie, journal=tmp_path / "kie.db").session, out=tmp_path / "file")


async def test_recover_leaves_other_services_and_keys_alone(fake_kie: FakeKie, tmp_path: Path) -> None:
    """It says so, and how to resume them; ``--adopt-key`` sends what another API key has left unsent."""
    journal = tmp_path / "kie.db"
    await create_unsent_job(fake_kie, journal)
    async with FakeKie() as other:
        in_doubt = await create_job_in_doubt(other, journal)
        await create_unsent_job(other, journal, key="of another service")
        listed, left, adopted = (CapturedSession(fake_kie, journal=journal) for _ in range(3))
        for session in (left.session, adopted.session):
            session.api_key = "another-key"
        await run_ls(listed.session)
        await run_recover(left.session)
        posted = len(fake_kie.truth.create_requests)
        await run_recover(adopted.session, adopt_key=True)

        assert 3 == sum(line.split()[-1] in (fake_kie.url, other.url) for line in listed.out.splitlines())
        assert f"KIE_BASE_URL={other.url}" in left.err
        assert "--adopt-key" in left.err
        assert "--adopt-key" not in adopted.err
        assert in_doubt not in left.err
        assert (posted + 1, 1) == (len(fake_kie.truth.create_requests), len(fake_kie.truth.created))
        assert 2 == len(other.truth.create_requests)
