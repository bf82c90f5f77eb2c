"""Results of all kinds: what a record names is saved, named by its content and listed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from kie_async import ConfigurationError
from kie_async.cli.batch.folder import MANIFEST, PAGE
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie, Fault
from tests.cli.batch.helpers import make_options, read_manifest, run_to_end

MODELS = (
    "ai-music-api/generate",
    "google/gemini-3-1-flash-tts",
    "4o-image-api",
    "omnihuman-1-5/subject-detection",
)
#: The cells that a model of the catalogue requires.
DEFAULTS = {"4o-image-api": {"size": "1:1"}}


@pytest.fixture
async def fake() -> AsyncIterator[FakeKie]:
    """Run a service whose models accept every input: these tests are about results."""
    async with FakeKie(duration=20.0, models=MODELS) as fake:
        yield fake


def make_table(folder: Path, model: str, *, rows: int = 1) -> BatchOptions:
    """Return options for a table of a model of the market."""
    (folder / "market.csv").write_text("key,prompt\n" + "".join(f"k{n},Go\n" for n in range(rows)))
    return make_options(folder / "market.csv", model=model, price=1.0, defaults=DEFAULTS.get(model, {}))


@pytest.mark.parametrize(
    ("model", "suffix", "tag"),
    [
        ("ai-music-api/generate", ".wav", "<audio"),
        ("google/gemini-3-1-flash-tts", ".wav", "<audio"),
        ("4o-image-api", ".png", "<img"),
    ],
)
async def test_each_kind_of_result_is_saved_and_shown(
    fake: FakeKie, folder: Path, model: str, suffix: str, tag: str
) -> None:
    """The same command again fetches nothing."""
    options = make_table(folder, model, rows=2)
    code, _ = await run_to_end(fake, options)
    downloads = len(fake.truth.downloads)
    again, _ = await run_to_end(fake, options)

    assert (ExitCode.DONE, ExitCode.DONE) == (code, again)
    assert [f"k0{suffix}", f"k1{suffix}"] == [line["file"] for line in read_manifest(options)]
    assert [f"k0{suffix}", f"k1{suffix}"] == sorted(path.name for path in options.out.glob(f"*{suffix}"))
    assert f'{tag} src="k1{suffix}"' in (options.out / PAGE).read_text()
    assert (2, downloads) == (len(fake.truth.tasks), len(fake.truth.downloads))


async def test_all_results_of_a_task_are_saved_and_listed(fake: FakeKie, folder: Path) -> None:
    """Each by its own type; both sounds can be played."""
    first = make_table(folder, "ai-music-api/generate", rows=2)
    await run_to_end(fake, first)
    await run_to_end(fake, attrs.evolve(make_table(folder, "4o-image-api", rows=2), out=folder / "images"))
    *sounds, image, _ = [
        f"{fake.url}{task.result_url}" if "//" not in task.result_url else task.result_url
        for task in fake.truth.tasks.values()
    ]
    tracks = [{"audio_url": url, "image_url": image} for url in sounds]
    fake.inject(Fault("poll", "alter", data={"resultJson": json.dumps({"data": tracks})}))
    options = attrs.evolve(first, out=folder / "several")
    (folder / "market.csv").write_text("key,prompt\nk,Go\n")
    code, _ = await run_to_end(fake, options)
    line = json.loads((options.out / MANIFEST).read_text())
    page = (options.out / PAGE).read_text()

    assert (ExitCode.DONE, "k.wav", ["k~2.png", "k~3.wav"]) == (code, line["file"], list(line["more"]))
    assert {"k.wav", "k~2.png", "k~3.wav"} <= {path.name for path in options.out.iterdir()}
    assert 2 == page.count("<audio")
    assert [True] * 3 == [f'href="{name}"' in page for name in ("k.wav", "k~2.png", "k~3.wav")]


async def test_row_without_files_says_so(fake: FakeKie, folder: Path) -> None:
    """Its result is in the record, as that of an analysis."""
    options = make_table(folder, "omnihuman-1-5/subject-detection")
    code, streams = await run_to_end(fake, options)
    [line] = read_manifest(options)

    assert (ExitCode.DONE, "done", None) == (code, line["state"], line["file"])
    assert "names no files" in str(line["reason"])
    assert f"kie-async status {line['task_id']} --json" == line["command"]
    assert "names no files" in streams.err
    assert "names no files" in (options.out / PAGE).read_text()


@pytest.mark.parametrize("name", ["a.mp4", "b.MP3", "c.webm", "d.wav", "e.glb", "f.png", "g.weba", "index.html"])
async def test_foreign_files_are_not_overwritten(fake: FakeKie, folder: Path, name: str) -> None:
    options = make_table(folder, "ai-music-api/generate")
    options.out.mkdir()
    (options.out / name).write_text("precious")
    with pytest.raises(ConfigurationError, match="might be overwritten"):
        await run_to_end(fake, options)

    assert [] == fake.truth.create_requests
    assert "precious" == (options.out / name).read_text()


async def test_images_may_be_beside_the_results_of_wan(fake: FakeKie, folder: Path) -> None:
    """Its results are no images."""
    (folder / "shots.csv").write_text("image,prompt,resolution\ncat.jpg,Go,480p\n")
    code, _ = await run_to_end(fake, make_options(folder / "shots.csv", out=folder))

    assert ExitCode.DONE == code


@pytest.mark.parametrize("key", ["batch", "manifest", "index", "inputs", "batch.id", "manifest.jsonl"])
async def test_no_result_replaces_a_file_of_the_folder(fake: FakeKie, folder: Path, key: str) -> None:
    options = make_table(folder, "ai-music-api/generate")
    options.table.write_text(f"key,prompt\n{key},Go\n")
    await run_to_end(fake, options)
    code, _ = await run_to_end(fake, options)

    assert (ExitCode.DONE, 1, f"{key}.wav") == (code, len(fake.truth.tasks), read_manifest(options)[0]["file"])
