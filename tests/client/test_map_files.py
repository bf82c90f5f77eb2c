"""The files of a run: their names, their content, and downloads that delay no create."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from kie_async import ConfigurationError, Done, DownloadError, Failed, KieClient, Limits, MarketRequest
from kie_async.requests.base import Request
from kie_async.testing import FakeKie, Fault
from tests.client.tables import by_key, drain_run, make_rows, run_map
from tests.full_disk import limit_file_size
from tests.helpers import KEY, assert_settled, client_and_fake, make_request


def file_names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_file_is_named_by_its_key(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        found = by_key(await run_map(setup, make_rows(12), save_to=tmp_path / "out" / "{key}.mp4"))

        assert {f"out/shot-{number}.mp4" for number in range(12)} == file_names(tmp_path)
        for key, done in found.items():
            assert isinstance(done, Done)
            assert (tmp_path / "out" / f"{key}.mp4",) == done.files
        contents = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out").iterdir()}
        assert 12 == len(contents)
        await assert_settled(setup.kie)


async def test_no_key_leaves_the_folder(tmp_path: Path) -> None:
    keys = ["../../etc/passwd", "..", ".", "/abs", "a/b", "a\\b", "nul", ".hidden", "%2E", "ключ", "x" * 500, "a\tb"]
    rows = [(key, make_request(number)) for number, key in enumerate(keys)]
    async with client_and_fake(duration=10.0) as setup:
        found = await run_map(setup, rows, save_to=tmp_path / "out" / "{key}")

        assert len(keys) == len(file_names(tmp_path)) == len(file_names(tmp_path / "out"))
        assert all(name.startswith("out/") for name in file_names(tmp_path))
        for done in found:
            assert isinstance(done, Done)
            assert all(path.parent == tmp_path / "out" for path in done.files)


async def test_only_missing_files_are_downloaded(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(4), save_to=tmp_path / "{key}.mp4")
        (tmp_path / "shot-2.mp4").unlink()
        before = len(setup.truth.downloads)
        found = await run_map(setup, make_rows(4), save_to=tmp_path / "{key}.mp4")

        assert before + 1 == len(setup.truth.downloads)
        assert {f"shot-{number}.mp4" for number in range(4)} == file_names(tmp_path)
        assert all(isinstance(outcome, Done) and outcome.replayed and outcome.files for outcome in found)


@pytest.mark.parametrize("again", [False, True])
async def test_file_goes_into_a_folder_of_its_name(tmp_path: Path, *, again: bool) -> None:
    folder = tmp_path / "shot-0"
    await anyio.Path(folder).mkdir()
    async with client_and_fake(duration=10.0) as setup:
        if again:
            await run_map(setup, make_rows(1), save_to=tmp_path / "{key}")
        (done,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}")

        assert isinstance(done, Done)
        (file,) = done.files
        assert folder == file.parent
        assert {str(file.relative_to(tmp_path))} == file_names(tmp_path)
        assert setup.tasks[0] in file.name


async def test_folder_does_not_count_as_the_file(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(1), save_to=tmp_path / "{key}")
        (tmp_path / "shot-0").unlink()
        (tmp_path / "shot-0").mkdir()
        (tmp_path / "shot-0" / "notes.txt").write_text("mine")
        (done,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}")

        assert isinstance(done, Done)
        assert all(file.is_file() for file in done.files)


async def test_older_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "shot-0.mp4"
    await anyio.Path(file).write_bytes(b"an older file")
    async with client_and_fake(duration=10.0) as setup:
        (done,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}.mp4")

        assert isinstance(done, Done)
        assert (await anyio.Path(file).stat()).st_size > 1000


async def test_failed_download_can_be_repeated(tmp_path: Path) -> None:
    faults = [Fault("download", "html", status=200, times=1)]
    async with client_and_fake(duration=10.0, faults=faults) as setup:
        (failed,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}.mp4")
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, DownloadError)
        assert ("succeeded", 80.0, setup.tasks[0]) == (failed.state, failed.credits, failed.task_id)
        assert failed.generation is not None
        assert set() == file_names(tmp_path)
        (done,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}.mp4")

        assert isinstance(done, Done)
        assert done.replayed
        assert {"shot-0.mp4"} == file_names(tmp_path)


async def test_full_disk_stops_and_can_be_continued(tmp_path: Path) -> None:
    """Further results would be paid for, and could not be written either."""
    async with client_and_fake(duration=10.0, credits=1e6) as setup:
        await run_map(setup, make_rows(1), save_to=tmp_path / "{key}.mp4")  # the fake writes its clip to a disk, too
        with limit_file_size(500):
            async with setup.kie.map(make_rows(200), save_to=tmp_path / "{key}.mp4") as run:
                found, error = await drain_run(run)
        assert isinstance(error, DownloadError)
        assert "could not be written" in str(error)
        sent = len(setup.tasks)
        assert sent == len(found) == 1 + sum(isinstance(outcome, Failed) for outcome in found)
        assert sent < 100
        again = await run_map(setup, make_rows(200), save_to=tmp_path / "{key}.mp4")

        assert 200 == len(again) == len(setup.tasks) == len(file_names(tmp_path))
        assert sent == sum(outcome.replayed for outcome in again)


async def test_slow_downloads_delay_no_create(tmp_path: Path) -> None:
    """Each file takes a minute, eight at a time, while twenty tasks are created every ten seconds."""
    faults = [Fault("download", "slow", seconds=50.0)]
    async with client_and_fake(client={"limits": Limits(in_flight=100)}, duration=10.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(100), save_to=tmp_path / "{key}.mp4") as run:
            await anyio.sleep(50.0)
            assert 100 == len(setup.tasks)
            found = [outcome async for outcome in run]
        assert 100 == len(found) == len(file_names(tmp_path))


async def test_result_without_a_url_has_no_file(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0, models=["text-model"]) as setup:
        request = MarketRequest(model="text-model", input={"prompt": "x"})
        setup.fake.inject(Fault("poll", "alter", data={"resultJson": '{"resultObject": {"text": "a poem"}}'}))
        (done,) = await run_map(setup, [("poem", request)], save_to=tmp_path / "{key}.txt")

        assert isinstance(done, Done)
        assert () == done.files
        assert () == done.urls
        assert set() == file_names(tmp_path)


@pytest.mark.parametrize("again", [False, True])
async def test_several_results_have_unique_file_names(tmp_path: Path, *, again: bool) -> None:
    async with client_and_fake(duration=10.0) as setup:
        rows = [("a", make_request(0)), ("a-2", make_request(1)), ("a~2", make_request(2))]
        await run_map(setup, rows)
        urls = [task.result_url for task in setup.truth.created]
        shown = f'{{"resultUrls": ["{urls[0]}", "{urls[1]}"]}}'
        setup.fake.inject(Fault("poll", "alter", data={"resultJson": shown}))
        more = [("b", make_request(3)), ("b-2", make_request(4)), ("b~2", make_request(5))]
        found = await run_map(setup, more, save_to=tmp_path / "{key}.mp4")
        if again:
            found = await run_map(setup, more, save_to=tmp_path / "{key}.mp4")
        files = [path for outcome in found if isinstance(outcome, Done) for path in outcome.files]

        assert 6 == len(set(files)) == len(file_names(tmp_path))
        assert {"b.mp4", "b~2.mp4", "b-2.mp4", "b-2~2.mp4", "b%7E2.mp4", "b%7E2~2.mp4"} == file_names(tmp_path)


# -- a file that is there is known by its content ----------------------------------------------------------------------


@pytest.mark.parametrize("shift", [-3600.0, -86_400.0 * 365, 3600.0, None], ids=["hour", "year", "ahead", "1970"])
async def test_time_of_a_file_does_not_matter(shift: float | None, tmp_path: Path) -> None:
    """The clock of the host may differ from the service's, and a copied file has the time of the copy."""
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(3), save_to=tmp_path / "out" / "{key}.mp4")
        for file in (tmp_path / "out").iterdir():
            at = 0.0 if shift is None else file.stat().st_mtime + shift
            os.utime(file, (at, at))
        before = len(setup.truth.downloads)
        found = await run_map(setup, make_rows(3), save_to=tmp_path / "out" / "{key}.mp4")

        assert before == len(setup.truth.downloads)
        assert all(isinstance(outcome, Done) and outcome.files for outcome in found)


def flip_last_byte(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def replace_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "harm",
    [
        flip_last_byte,
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.with_name("shot-1.mp4").read_bytes()),
        replace_by_pipe,
    ],
    ids=["another byte", "cut off", "empty", "of another row", "a pipe"],
)
async def test_file_with_other_content_is_fetched_again(harm: Callable[[Path], object], tmp_path: Path) -> None:
    """Its time says nothing."""
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(2), save_to=tmp_path / "out" / "{key}.mp4")
        file = tmp_path / "out" / "shot-0.mp4"
        content, status = file.read_bytes(), file.stat()
        harm(file)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        before = len(setup.truth.downloads)
        await run_map(setup, make_rows(2), save_to=tmp_path / "out" / "{key}.mp4")

        assert before + 1 == len(setup.truth.downloads)
        assert content == file.read_bytes()


async def test_moved_folder_is_not_fetched_again(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(2), save_to=tmp_path / "out" / "{key}.mp4")
        shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copyfile)
        before = len(setup.truth.downloads)
        await run_map(setup, make_rows(2), save_to=tmp_path / "copy" / "{key}.mp4")

        assert before == len(setup.truth.downloads)


async def test_files_of_a_row_are_known_one_by_one(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        request = MarketRequest(model="z-image", input={"prompt": "x"})

        async def run() -> Done:
            (done,) = await run_map(setup, [("two", request)], save_to=tmp_path / "out" / "{key}{suffix}")
            assert isinstance(done, Done)
            return done

        url = (await setup.kie.generate(MarketRequest(model="z-image", input={"prompt": "y"}))).url
        setup.fake.inject(Fault("poll", "alter", data={"resultJson": json.dumps({"resultUrls": [url, f"{url}?2"]})}))
        files = (await run()).files
        assert ("two.png", "two~2.png") == tuple(file.name for file in files)
        before = len(setup.truth.downloads)
        assert files == (await run()).files
        assert before == len(setup.truth.downloads)
        files[1].unlink()
        assert files == (await run()).files

        assert before + 1 == len(setup.truth.downloads)


async def test_suffix_is_that_of_the_content(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        rows: list[tuple[str, Request]] = [
            ("clip", make_request(0)),
            ("picture", MarketRequest(model="z-image", input={"prompt": "x"})),
        ]
        await run_map(setup, rows, save_to=tmp_path / "{key}{suffix}")

        assert {"clip.mp4", "picture.png"} == file_names(tmp_path)
        with pytest.raises(ConfigurationError, match="suffix"):
            setup.kie.map(rows, save_to=tmp_path / "{suffix}" / "{key}")


async def test_later_process_knows_the_files_by_the_journal(tmp_path: Path) -> None:
    async with FakeKie(duration=10.0) as fake:
        for life, fetched in enumerate((2, 2, 3)):
            if life == 2:
                flip_last_byte(tmp_path / "shot-1.mp4")
            kie = KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db")
            async with kie, kie.map(make_rows(2), save_to=tmp_path / "{key}.mp4") as run:
                assert all([isinstance(outcome, Done) async for outcome in run])
            assert fetched == len(fake.truth.downloads)
            os.utime(tmp_path / "shot-1.mp4", (0, 0))
