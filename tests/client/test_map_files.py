"""Where a run's files go, that each is whole, and that fetching them holds nothing up."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anyio
import pytest

from kie_async import Done, DownloadError, Failed, Limits, MarketRequest
from kie_async.testing import Fault
from tests.client.tables import by_key, drain_run, make_rows, run_map
from tests.full_disk import files_of_at_most
from tests.helpers import assert_settled, client_and_fake, make_request


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_each_row_has_its_file_under_its_key(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        found = by_key(await run_map(setup, make_rows(12), save_to=tmp_path / "out" / "{key}.mp4"))

        assert {f"out/shot-{number}.mp4" for number in range(12)} == names(tmp_path)
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

        assert len(keys) == len(names(tmp_path)) == len(names(tmp_path / "out"))
        assert all(name.startswith("out/") for name in names(tmp_path))
        for done in found:
            assert isinstance(done, Done)
            assert all(path.parent == tmp_path / "out" for path in done.files)


async def test_files_that_are_there_are_not_fetched_again_and_missing_ones_are(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(4), save_to=tmp_path / "{key}.mp4")
        (tmp_path / "shot-2.mp4").unlink()
        before = len(setup.truth.downloads)
        found = await run_map(setup, make_rows(4), save_to=tmp_path / "{key}.mp4")

        assert before + 1 == len(setup.truth.downloads)
        assert {f"shot-{number}.mp4" for number in range(4)} == names(tmp_path)
        assert all(isinstance(outcome, Done) and outcome.replayed and outcome.files for outcome in found)


@pytest.mark.parametrize("again", [False, True])
async def test_where_the_name_is_that_of_a_folder_the_file_is_in_it_and_is_told_of(
    tmp_path: Path, *, again: bool
) -> None:
    folder = tmp_path / "shot-0"
    await anyio.Path(folder).mkdir()
    async with client_and_fake(duration=10.0) as setup:
        if again:
            await run_map(setup, make_rows(1), save_to=tmp_path / "{key}")
        (done,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}")

        assert isinstance(done, Done)
        (file,) = done.files
        assert folder == file.parent
        assert {str(file.relative_to(tmp_path))} == names(tmp_path)
        assert setup.tasks[0] in file.name


async def test_a_folder_that_has_come_in_the_place_of_a_file_is_not_taken_for_it(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0) as setup:
        await run_map(setup, make_rows(1), save_to=tmp_path / "{key}")
        (tmp_path / "shot-0").unlink()
        (tmp_path / "shot-0").mkdir()
        (tmp_path / "shot-0" / "notes.txt").write_text("mine")
        (done,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}")

        assert isinstance(done, Done)
        assert all(file.is_file() for file in done.files)


async def test_a_file_of_something_else_under_the_same_name_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "shot-0.mp4"
    await anyio.Path(file).write_bytes(b"of last week")
    async with client_and_fake(duration=10.0) as setup:
        (done,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}.mp4")

        assert isinstance(done, Done)
        assert (await anyio.Path(file).stat()).st_size > 1000


async def test_a_row_whose_file_cannot_be_had_has_failed_and_the_same_call_fetches_it(tmp_path: Path) -> None:
    faults = [Fault("download", "html", status=200, times=1)]
    async with client_and_fake(duration=10.0, faults=faults) as setup:
        (failed,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}.mp4")
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, DownloadError)
        assert ("succeeded", 80.0, setup.tasks[0]) == (failed.state, failed.credits, failed.task_id)
        assert failed.generation is not None
        assert set() == names(tmp_path)
        (done,) = await run_map(setup, make_rows(1), save_to=tmp_path / "{key}.mp4")

        assert isinstance(done, Done)
        assert done.replayed
        assert {"shot-0.mp4"} == names(tmp_path)


async def test_a_disk_that_is_full_ends_the_sending_and_the_same_call_goes_on(tmp_path: Path) -> None:
    """What would be paid next could not be written either."""
    async with client_and_fake(duration=10.0, credits=1e6) as setup:
        await run_map(setup, make_rows(1), save_to=tmp_path / "{key}.mp4")  # the fake's clip is made on a disk, too
        with files_of_at_most(500):
            async with setup.kie.map(make_rows(200), save_to=tmp_path / "{key}.mp4") as run:
                found, error = await drain_run(run)
        assert isinstance(error, DownloadError)
        assert "could not be written" in str(error)
        sent = len(setup.tasks)
        assert sent == len(found) == 1 + sum(isinstance(outcome, Failed) for outcome in found)
        assert sent < 100
        again = await run_map(setup, make_rows(200), save_to=tmp_path / "{key}.mp4")

        assert 200 == len(again) == len(setup.tasks) == len(names(tmp_path))
        assert sent == sum(outcome.replayed for outcome in again)


async def test_slow_downloads_hold_up_no_create(tmp_path: Path) -> None:
    """A minute for each file, eight at a time, while twenty are created every ten seconds."""
    faults = [Fault("download", "slow", seconds=50.0)]
    async with client_and_fake(client={"limits": Limits(in_flight=100)}, duration=10.0, faults=faults) as setup:
        async with setup.kie.map(make_rows(100), save_to=tmp_path / "{key}.mp4") as run:
            await anyio.sleep(50.0)
            assert 100 == len(setup.tasks)
            found = [outcome async for outcome in run]
        assert 100 == len(found) == len(names(tmp_path))


async def test_a_result_without_a_url_has_no_file(tmp_path: Path) -> None:
    async with client_and_fake(duration=10.0, models=["text-model"]) as setup:
        request = MarketRequest(model="text-model", input={"prompt": "x"})
        setup.fake.inject(Fault("poll", "alter", data={"resultJson": '{"resultObject": {"text": "a poem"}}'}))
        (done,) = await run_map(setup, [("poem", request)], save_to=tmp_path / "{key}.txt")

        assert isinstance(done, Done)
        assert () == done.files
        assert () == done.urls
        assert set() == names(tmp_path)


@pytest.mark.parametrize("again", [False, True])
async def test_several_results_have_names_that_no_other_row_has(tmp_path: Path, *, again: bool) -> None:
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

        assert 6 == len(set(files)) == len(names(tmp_path))
        assert {"b.mp4", "b~2.mp4", "b-2.mp4", "b-2~2.mp4", "b%7E2.mp4", "b%7E2~2.mp4"} == names(tmp_path)
