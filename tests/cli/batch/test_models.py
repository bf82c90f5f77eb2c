"""Tables of several models: the column ``model``, files of every kind, and problems with their nearest names."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kie_async import Wan22TurboImageToVideo
from kie_async.cli.batch.folder import PAGE
from kie_async.cli.batch.table import Table
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie
from tests.catalogue.samples import MP4, WAV
from tests.cli.batch.helpers import make_options, read_manifest, run_to_end
from tests.cli.helpers import CAT, run_cli
from tests.requests.samples import png

PRO, TURBO = "kling/v2-1-pro", Wan22TurboImageToVideo.MODEL
AVATAR, ANIMATE, EDIT = "kling/ai-avatar-pro", "wan/2-2-animate-move", "google/nano-banana-edit"

#: The shots of each model; the first has none of its own, and gets the one of ``--model``.
SHOTS: Mapping[str, Mapping[str, str]] = {
    "": {"image": "cat.jpg", "last_image": "in/a.png", "prompt": "Go {n}", "duration": "10", "cfg_scale": "0.5"},
    TURBO: {"image": "cat.jpg", "prompt": "Go {n}", "resolution": "480p", "seed": "{n}"},
    AVATAR: {"image": "in/a.png", "audio": "in/voice.wav", "prompt": "Go {n}"},
    ANIMATE: {"image": "cat.jpg", "video": "in/clip.mp4", "resolution": "480p"},
    EDIT: {"images": "cat.jpg|in/a.png|https://example.com/b.png", "prompt": "Go {n}", "output_format": "png"},
}


@pytest.fixture
async def fake() -> AsyncIterator[FakeKie]:
    """Run a service where the account can pay for thirty tasks of any model."""
    async with FakeKie(duration=20.0, credits=1e6) as fake:
        yield fake


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Return a folder with an image, and a folder of files of every kind."""
    shutil.copy(CAT, tmp_path / "cat.jpg")
    (tmp_path / "in").mkdir()
    for name, content in {"a.png": png(1), "clip.mp4": MP4, "voice.wav": WAV}.items():
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write a CSV file whose columns are those of all rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(names), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def problems(path: Path, **options: Any) -> list[str]:
    """Return the problems of a table."""
    return [f"{each.line}: {each.problem}" for each in Table(path=path, **options).check()]


async def test_thirty_rows_of_five_models(fake: FakeKie, media: Path) -> None:
    models = [*SHOTS] * 6
    rows = [
        {"key": f"k{n}", "model": model, **{name: cell.format(n=n) for name, cell in SHOTS[model].items()}}
        for n, model in enumerate(models)
    ]
    options = make_options(write_rows(media / "shots.csv", rows), model=PRO)
    code, streams = await run_to_end(fake, options)
    lines: dict[str, Any] = {str(line["key"]): line for line in read_manifest(options)}
    page = (options.out / PAGE).read_text()

    assert (ExitCode.DONE, 30) == (code, len(lines)), streams.err
    assert {f"k{n}": model or PRO for n, model in enumerate(models)} == {
        key: line["model"] for key, line in lines.items()
    }
    assert {f"k{n}": ".png" if model == EDIT else ".mp4" for n, model in enumerate(models)} == {
        path.stem: path.suffix for path in options.out.glob("k*")
    }
    assert Counter(model or PRO for model in models) == Counter(task.model for task in fake.truth.tasks.values())
    assert 4 == len(fake.truth.uploads)  # each content once
    assert ["a.png", "b.png"] == [str(name).rpartition("/")[2] for name in lines["k4"]["input"]["image_urls"][1:]]
    assert ("a.png", False) == (lines["k0"]["input"]["tail_image_url"], "image_url" in lines["k0"]["input"])
    assert ["clip.mp4", "voice.wav"] == [lines["k3"]["input"]["video_url"], lines["k2"]["input"]["audio_url"]]
    assert ["cat.jpg", "in/a.png", "cat.jpg"] == [lines[key]["source"] for key in ("k0", "k2", "k4")]
    for model in (PRO, *SHOTS):
        assert f"<li>{model} <b>6</b></li>" in page if model else True
        assert page.count(f"<div><dt>Model</dt><dd>{model}</dd></div>") == 6 or not model

    again, streams = await run_to_end(fake, options)
    assert (ExitCode.DONE, 30) == (again, len(fake.truth.create_requests))
    assert f"--model {PRO}" in options.resume_command()


async def test_page_of_one_model_names_it_once(fake: FakeKie, media: Path) -> None:
    options = make_options(write_rows(media / "shots.csv", [{"image": "cat.jpg", "prompt": "Go"}]), model=PRO)
    await run_to_end(fake, options)

    assert "<dt>Model</dt>" not in (options.out / PAGE).read_text()
    assert f"· {PRO}" not in (options.out / PAGE).read_text().partition("</header>")[2]


async def test_folder_of_images_for_a_list(fake: FakeKie, media: Path) -> None:
    """The images are those of the first field for images."""
    options = make_options(media / "in", model=EDIT, defaults={"prompt": "In color"}, out=media / "out")
    code, streams = await run_to_end(fake, options)

    assert ExitCode.DONE == code, streams.err
    [task] = fake.truth.tasks.values()
    sent: Any = task.input
    assert (EDIT, 1) == (task.model, len(sent["image_urls"]))


async def test_run_into_a_folder_of_images_is_refused(fake: FakeKie, media: Path) -> None:
    """Results may be images where rows name their models."""
    rows = [{"model": EDIT, "images": "cat.jpg", "prompt": "Go"}]
    options = make_options(write_rows(media / "shots.csv", rows), out=media)
    with pytest.raises(Exception, match="batch has not made it"):
        await run_to_end(fake, options)

    assert [] == fake.truth.create_requests


def test_names_of_the_service_and_json_are_columns(media: Path) -> None:
    """As its pages write them, in both formats."""
    expected = {"image_urls": ["https://example.com/a.png"], "prompt": "Go", "duration": "10", "sound": True}
    url = "https://example.com/a.png"
    rows = [{"image_urls:json": f'["{url}"]', "prompt": "Go", "duration": "10", "sound": "yes"}]
    typed = [
        {"image_urls": [url], "prompt": "Go", "duration": "10", "sound": True},
        {"image": url, "prompt": "Go", "duration": 10, "generate_audio": True},
    ]
    (media / "shots.jsonl").write_text("\n".join(map(json.dumps, typed)))
    for path in (write_rows(media / "shots.csv", rows), media / "shots.jsonl"):
        table = Table(path=path, model="kling-2.6/image-to-video")

        assert [] == [str(problem) for problem in table.check()]
        for row in table.prepared_rows():
            assert expected == row.request.input({})


def test_files_of_objects_are_relative_to_the_table(media: Path) -> None:
    element = {"name": "cat", "description": "a cat", "element_input_urls": ["in/a.png", "cat.jpg"]}
    rows = [{"prompt": "@cat runs", "images": "cat.jpg", "elements": json.dumps(element)}]
    table = Table(path=write_rows(media / "shots.csv", rows), model="kling-3.0/video")

    assert [] == [str(problem) for problem in table.check()]
    [row] = table.prepared_rows()
    assert [media / "cat.jpg", media / "in" / "a.png", media / "cat.jpg"] == [
        source.content for source in row.request.files().values()
    ]


def test_extra_is_sent_unchecked(media: Path) -> None:
    rows = [{"prompt": "Go", "image": "https://example.com/a.png", "extra": '{"camera": "still"}'}]
    table = Table(path=write_rows(media / "shots.csv", rows), model=PRO)

    assert [] == [str(problem) for problem in table.check()]
    assert "still" == next(table.prepared_rows()).request.input({})["camera"]


GOOD = {"image": "cat.jpg", "prompt": "Go"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**GOOD, "model": "kling/v2-1-prp"}, "model: got 'kling/v2-1-prp'; allowed: a model of `kie-async models`"),
        ({**GOOD, "durtion": "5"}, "(did you mean 'duration'?)"),
        ({**GOOD, "model": EDIT}, "column: got 'image'; allowed: key, model, prompt, images"),
        ({**GOOD, "duration": "7"}, "duration: got 7; allowed: the integer 5 or 10"),
        ({**GOOD, "cfg_scale": "2"}, "cfg_scale: got 2.0; allowed: a number from 0 to 1"),
        ({**GOOD, "model": "bytedance/v1-pro-image-to-video", "resolution": "1080"}, "(did you mean '1080p'?)"),
        ({**GOOD, "model": "kling-2.6/image-to-video"}, "generate_audio: got nothing; allowed: True or False"),
        ({**GOOD, "last_image": "in/clip.mp4"}, "this is video/mp4"),
        ({**GOOD, "tail_image_url": "in/no.png"}, "tail_image_url: got"),
        ({**GOOD, "image_url": "cat.jpg"}, "image_url: got a value; allowed: nothing together with image"),
        ({**GOOD, "extra": "{"}, "extra: got '{'; allowed: JSON"),
        ({"model": EDIT, "images": "[1", "prompt": "Go"}, "images: got '[1'; allowed: JSON"),
        ({"model": EDIT, "images": "|".join(["cat.jpg"] * 11), "prompt": "Go"}, "images: got a list of 11"),
        ({"model": EDIT, "images": "cat.jpg|in/no.png", "prompt": "Go"}, "images[1]: got"),
        ({**GOOD, "model": AVATAR, "audio": "cat.jpg"}, "audio: got"),
    ],
)  # fmt: skip
def test_bad_row_names_what_is_allowed(media: Path, row: dict[str, str], said: str) -> None:
    good = {"model": PRO, **GOOD}
    path = write_rows(media / "shots.csv", [good, {"model": "", **row}, good])
    found, *_ = problems(path, model=PRO)

    assert found.startswith("3: ")
    assert said in found


def test_default_that_no_row_has_is_refused(media: Path) -> None:
    """One that some rows have is used by those."""
    rows = [{"model": PRO, **GOOD}, {"model": EDIT, "images": "cat.jpg", "prompt": "Go"}]
    path = write_rows(media / "shots.csv", [{"images": "", **rows[0]}, rows[1]])
    (media / "shots.jsonl").write_text(json.dumps(GOOD))

    assert [] == problems(path, defaults={"cfg_scale": "0.5"})
    for table in (path, media / "shots.jsonl"):
        [found] = problems(table, defaults={"cfg_sale": "0.5"})
        assert "--set: got 'cfg_sale'" in found


def test_model_can_be_a_default(media: Path) -> None:
    table = Table(path=write_rows(media / "shots.csv", [GOOD]), defaults={"model": PRO})

    assert [] == [str(problem) for problem in table.check()]
    assert PRO == next(table.prepared_rows()).request.model


def test_misspelt_model_of_the_command_sends_nothing(media: Path) -> None:
    """A model with nearly that name is allowed on demand, and is kept in the command to resume."""
    path = write_rows(media / "shots.csv", [GOOD])
    result = run_cli("batch", str(path), "-o", str(media / "out"), "--model", "kling/v2-2-pro", KIE_API_KEY="any-key")
    row = {"model": "kling/v2-2-pro", **GOOD}

    assert (2, True) == (result.code, "did you mean 'kling/v2-1-pro'?" in result.err)
    assert [] == problems(write_rows(path, [row]), unlisted=True)
    assert "--unlisted" in make_options(path, model="kling/v2-2-pro", unlisted=True).resume_command()
