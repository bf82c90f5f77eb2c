"""The command ``demo``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kie_async.cli.demo import PROMPTS, DemoOptions, run_demo
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, Fault
from tests.cli.helpers import CAT, run_cli, run_in_session, video_length_and_height


def test_six_images_become_six_videos(tmp_path: Path) -> None:
    """The files are real (decoded frame by frame); the table shows cost and duration."""
    result = run_cli("demo", "--out", str(tmp_path / "out"))
    videos = sorted((tmp_path / "out").iterdir())

    assert 0 == result.code
    assert sorted(f"{name}.mp4" for name in PROMPTS) == [video.name for video in videos]
    assert [(True, 720)] * 6 == [(seconds >= 4.5, height) for seconds, height in map(video_length_and_height, videos)]
    assert [True] * 6 == [video.name in result.out for video in videos]
    assert "6 of 6" in result.out
    assert "480" in result.out, "six tasks of 80 credits"
    assert "nothing is real, and nothing is paid" in result.err
    assert (
        "The service received 6 create requests, at most 6 in any 10 s (its limit is 20), and refused 0." in result.err
    )


def test_bundled_images_are_small_and_have_prompts() -> None:
    images = sorted(CAT.parent.glob("*.jpg"))

    assert list(PROMPTS) == [image.stem for image in images]
    assert [] == [image.name for image in images if image.stat().st_size > 40_000]


def test_demo_json_has_one_object_a_video(tmp_path: Path) -> None:
    result = run_cli("demo", "--out", str(tmp_path), "--count", "2", "--resolution", "480p", "--json")
    shown = [json.loads(line) for line in result.out.splitlines()]

    assert [["balloons.mp4"], ["cat.mp4"]] == [[Path(file).name for file in video["files"]] for video in shown]
    assert [(tmp_path / Path(video["files"][0]).name).stat().st_size for video in shown] == [
        video["bytes"] for video in shown
    ]
    assert [40.0, 40.0] == [video["credits"] for video in shown]


def test_demo_uses_and_keeps_the_rate_limit(tmp_path: Path) -> None:
    result = run_cli("demo", "--out", str(tmp_path), "--count", "45", "--resolution", "480p")

    assert 0 == result.code
    assert (
        "The service received 45 create requests, at most 20 in any 10 s (its limit is 20), and refused 0."
        in result.err
    )
    assert {"balloons.mp4", "balloons-2.mp4", "balloons-8.mp4"} <= {video.name for video in tmp_path.iterdir()}


def test_demo_takes_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(CAT, folder / "one.JPG")
    shutil.copy(CAT, tmp_path / "two.jpg")
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    result = run_cli(
        "demo", "--images", str(folder), str(tmp_path / "two.jpg"), "--out", str(out), "--resolution", "480p"
    )

    assert 0 == result.code
    assert ["one.mp4", "two.mp4"] == sorted(video.name for video in out.iterdir())


def test_failed_video_does_not_stop_the_others(tmp_path: Path) -> None:
    fault = Fault("create", "code", code=422, msg="The image shows nothing", nth=1)

    async def command(session: Session) -> ExitCode:
        options = DemoOptions(out=tmp_path, count=2, resolution="480p")
        return await run_demo(session, options, FakeKie(faults=[fault]))

    result = run_in_session(command)

    assert (1, 1) == (result.code, len(list(tmp_path.iterdir())))
    assert "1 of 2" in result.out
    assert "The image shows nothing" in result.err
    assert 1 == result.err.count(": failed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resolution", "1080p"], "resolution: got '1080p'"),
        (["--images", "no.png"], "image: got"),
        (["--images", "empty"], "No image in empty"),
        (["--out", "file"], "file is a file"),
        (["--count", "0"], "count"),
    ],
)
def test_demo_checks_its_options_first(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("")
    result = run_cli("demo", *options)

    assert (2, 1) == (result.code, result.err.count(said))
    assert "submitting" not in result.err
