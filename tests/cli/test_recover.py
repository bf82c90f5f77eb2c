"""The command ``recover``."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.recover import run_recover
from kie_async.testing import FakeKie, Fault
from tests.cli.helpers import Streams, clip, doubtful_job, new_job, pay_again, unsent_job


async def test_everything_unfinished_comes_home(fake_kie: FakeKie, tmp_path: Path) -> None:
    """What was accepted is waited for, what was never sent is sent; each is saved under its task's id."""
    journal, out = tmp_path / "kie.db", tmp_path / "out" / "videos"
    first, _ = await new_job(fake_kie, journal)
    second = await unsent_job(fake_kie, journal, key="shot-2")
    streams = Streams(fake_kie, as_json=True, journal=journal)
    code = await run_recover(streams.session, out=out)
    found = [json.loads(line) for line in streams.out.splitlines()]
    files = [str(out / f"{task_id}-1.mp4") for task_id in fake_kie.truth.tasks]

    assert (ExitCode.DONE, [first, second]) == (code, [job["job_id"] for job in found])
    assert files == [file for job in found for file in job["files"]]
    assert [480, 480] == [clip(Path(file))[1] for file in files]
    assert "shot-2: saved" in streams.err


async def test_without_a_folder_the_urls_are_the_result(fake_kie: FakeKie, tmp_path: Path) -> None:
    _, task_id = await new_job(fake_kie, tmp_path / "kie.db")
    streams = Streams(fake_kie, journal=tmp_path / "kie.db")
    await run_recover(streams.session)

    assert f"{fake_kie.url}/results/{task_id}/video.mp4\n" == streams.out
    assert [] == fake_kie.truth.downloads


async def test_without_waiting_the_task_ids_are_the_result(fake_kie: FakeKie, tmp_path: Path) -> None:
    await new_job(fake_kie, tmp_path / "kie.db")
    await unsent_job(fake_kie, tmp_path / "kie.db")
    streams = Streams(fake_kie, journal=tmp_path / "kie.db")
    code = await run_recover(streams.session, wait=False)

    assert (ExitCode.DONE, list(fake_kie.truth.tasks)) == (code, streams.out.split())
    assert 2 == len(fake_kie.truth.tasks)


async def test_a_second_time_there_is_nothing_to_do(fake_kie: FakeKie, tmp_path: Path) -> None:
    await new_job(fake_kie, tmp_path / "kie.db")
    await run_recover(Streams(fake_kie, journal=tmp_path / "kie.db").session)
    streams = Streams(fake_kie, journal=tmp_path / "kie.db")

    assert ExitCode.DONE == await run_recover(streams.session)
    assert ("", True) == (streams.out, "No unfinished jobs" in streams.err)


async def test_what_is_in_doubt_is_told_and_the_others_come_home(fake_kie: FakeKie, tmp_path: Path) -> None:
    journal = tmp_path / "kie.db"
    doubtful = await doubtful_job(fake_kie, journal)
    _, task_id = await new_job(fake_kie, journal, prompt="Stop")
    streams = Streams(fake_kie, journal=journal)
    code = await run_recover(streams.session, out=tmp_path)

    assert (ExitCode.IN_DOUBT, f"{tmp_path}/{task_id}-1.mp4\n") == (code, streams.out)
    assert f"kie-async resolve {doubtful} TASKID" in streams.err
    assert 2 == len(fake_kie.truth.create_requests), "it is not sent again"


async def test_what_was_in_doubt_for_too_long_is_told_as_well(fake_kie: FakeKie, tmp_path: Path) -> None:
    """Nobody waits for it any more, and only the user can settle it."""
    journal = tmp_path / "kie.db"
    doubtful = await doubtful_job(fake_kie, journal)
    await anyio.sleep(86_400.0)
    for _ in range(2):
        streams = Streams(fake_kie, journal=journal)

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
async def test_what_a_job_ends_with_decides_the_exit_code(
    code: int, fault: Fault, said: str, fake_kie: FakeKie, tmp_path: Path
) -> None:
    await new_job(fake_kie, tmp_path / "kie.db")
    fake_kie.inject(fault)
    streams = Streams(fake_kie, journal=tmp_path / "kie.db")

    assert code == await run_recover(streams.session, out=tmp_path / "out")
    assert ("", True) == (streams.out, said in streams.err)


async def test_a_job_that_was_paid_twice_is_told(fake_kie: FakeKie, tmp_path: Path) -> None:
    job_id, _ = await new_job(fake_kie, tmp_path / "kie.db")
    await pay_again(tmp_path / "kie.db", job_id, "t2")
    streams = Streams(fake_kie, journal=tmp_path / "kie.db")
    await run_recover(streams.session)

    assert f"{job_id} was paid more than once. Its further tasks: t2." in streams.err


async def test_interrupted_it_says_that_the_journal_has_them_all(fake_kie: FakeKie, tmp_path: Path) -> None:
    for prompt in ("one", "two"):
        await new_job(fake_kie, tmp_path / "kie.db", prompt=prompt)
    streams = Streams(fake_kie, journal=tmp_path / "kie.db")
    with anyio.move_on_after(3.0):
        await run_recover(streams.session)

    assert "2 unfinished. The journal has all jobs. To resume: kie-async recover" == streams.session.resume_hint()


async def test_a_folder_that_cannot_be_is_found_before_anything_is_taken_up(fake_kie: FakeKie, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    await new_job(fake_kie, tmp_path / "kie.db")
    with pytest.raises(FileExistsError):
        await run_recover(Streams(fake_kie, journal=tmp_path / "kie.db").session, out=tmp_path / "file")
