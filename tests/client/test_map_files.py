"""Where a run's files go, that each is whole, and that fetching them holds nothing up."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anyio
import pytest

from kie_async import Done, DownloadError, Failed, Limits, MarketRequest
from kie_async.testing import Fault
from tests.client.tables import by_key, outcomes, table, to_the_end
from tests.client.world import a_world, ask, assert_settled
from tests.full_disk import files_of_at_most


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_each_row_has_its_file_under_its_key(tmp_path: Path) -> None:
    async with a_world(duration=10.0) as world:
        found = by_key(await outcomes(world, table(12), save_to=tmp_path / "out" / "{key}.mp4"))

        assert {f"out/shot-{number}.mp4" for number in range(12)} == names(tmp_path)
        for key, done in found.items():
            assert isinstance(done, Done)
            assert (tmp_path / "out" / f"{key}.mp4",) == done.files
        contents = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out").iterdir()}
        assert 12 == len(contents)
        await assert_settled(world.kie)


async def test_no_key_leaves_the_folder(tmp_path: Path) -> None:
    keys = ["../../etc/passwd", "..", ".", "/abs", "a/b", "a\\b", "nul", ".hidden", "%2E", "ключ", "x" * 500, "a\tb"]
    rows = [(key, ask(number)) for number, key in enumerate(keys)]
    async with a_world(duration=10.0) as world:
        found = await outcomes(world, rows, save_to=tmp_path / "out" / "{key}")

        assert len(keys) == len(names(tmp_path)) == len(names(tmp_path / "out"))
        assert all(name.startswith("out/") for name in names(tmp_path))
        for done in found:
            assert isinstance(done, Done)
            assert all(path.parent == tmp_path / "out" for path in done.files)


async def test_files_that_are_there_are_not_fetched_again_and_missing_ones_are(tmp_path: Path) -> None:
    async with a_world(duration=10.0) as world:
        await outcomes(world, table(4), save_to=tmp_path / "{key}.mp4")
        (tmp_path / "shot-2.mp4").unlink()
        before = len(world.truth.downloads)
        found = await outcomes(world, table(4), save_to=tmp_path / "{key}.mp4")

        assert before + 1 == len(world.truth.downloads)
        assert {f"shot-{number}.mp4" for number in range(4)} == names(tmp_path)
        assert all(isinstance(outcome, Done) and outcome.replayed and outcome.files for outcome in found)


@pytest.mark.parametrize("again", [False, True])
async def test_where_the_name_is_that_of_a_folder_the_file_is_in_it_and_is_told_of(
    tmp_path: Path, *, again: bool
) -> None:
    folder = tmp_path / "shot-0"
    await anyio.Path(folder).mkdir()
    async with a_world(duration=10.0) as world:
        if again:
            await outcomes(world, table(1), save_to=tmp_path / "{key}")
        (done,) = await outcomes(world, table(1), save_to=tmp_path / "{key}")

        assert isinstance(done, Done)
        (file,) = done.files
        assert folder == file.parent
        assert {str(file.relative_to(tmp_path))} == names(tmp_path)
        assert world.tasks[0] in file.name


async def test_a_folder_that_has_come_in_the_place_of_a_file_is_not_taken_for_it(tmp_path: Path) -> None:
    async with a_world(duration=10.0) as world:
        await outcomes(world, table(1), save_to=tmp_path / "{key}")
        (tmp_path / "shot-0").unlink()
        (tmp_path / "shot-0").mkdir()
        (tmp_path / "shot-0" / "notes.txt").write_text("mine")
        (done,) = await outcomes(world, table(1), save_to=tmp_path / "{key}")

        assert isinstance(done, Done)
        assert all(file.is_file() for file in done.files)


async def test_a_file_of_something_else_under_the_same_name_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "shot-0.mp4"
    await anyio.Path(file).write_bytes(b"of last week")
    async with a_world(duration=10.0) as world:
        (done,) = await outcomes(world, table(1), save_to=tmp_path / "{key}.mp4")

        assert isinstance(done, Done)
        assert (await anyio.Path(file).stat()).st_size > 1000


async def test_a_row_whose_file_cannot_be_had_has_failed_and_the_same_call_fetches_it(tmp_path: Path) -> None:
    faults = [Fault("download", "html", status=200, times=1)]
    async with a_world(duration=10.0, faults=faults) as world:
        (failed,) = await outcomes(world, table(1), save_to=tmp_path / "{key}.mp4")
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, DownloadError)
        assert ("succeeded", 80.0, world.tasks[0]) == (failed.state, failed.credits, failed.task_id)
        assert failed.generation is not None
        assert set() == names(tmp_path)
        (done,) = await outcomes(world, table(1), save_to=tmp_path / "{key}.mp4")

        assert isinstance(done, Done)
        assert done.replayed
        assert {"shot-0.mp4"} == names(tmp_path)


async def test_a_disk_that_is_full_ends_the_sending_and_the_same_call_goes_on(tmp_path: Path) -> None:
    """What would be paid next could not be written either."""
    async with a_world(duration=10.0, credits=1e6) as world:
        await outcomes(world, table(1), save_to=tmp_path / "{key}.mp4")  # the fake's clip is made on a disk, too
        with files_of_at_most(500):
            async with world.kie.map(table(200), save_to=tmp_path / "{key}.mp4") as run:
                found, error = await to_the_end(run)
        assert isinstance(error, DownloadError)
        assert "could not be written" in str(error)
        sent = len(world.tasks)
        assert sent == len(found) == 1 + sum(isinstance(outcome, Failed) for outcome in found)
        assert sent < 100
        again = await outcomes(world, table(200), save_to=tmp_path / "{key}.mp4")

        assert 200 == len(again) == len(world.tasks) == len(names(tmp_path))
        assert sent == sum(outcome.replayed for outcome in again)


async def test_slow_downloads_hold_up_no_create(tmp_path: Path) -> None:
    """A minute for each file, eight at a time, while twenty are created every ten seconds."""
    faults = [Fault("download", "slow", seconds=50.0)]
    async with a_world(client={"limits": Limits(in_flight=100)}, duration=10.0, faults=faults) as world:
        async with world.kie.map(table(100), save_to=tmp_path / "{key}.mp4") as run:
            await anyio.sleep(50.0)
            assert 100 == len(world.tasks)
            found = [outcome async for outcome in run]
        assert 100 == len(found) == len(names(tmp_path))


async def test_a_result_without_a_url_has_no_file(tmp_path: Path) -> None:
    async with a_world(duration=10.0, models=["text-model"]) as world:
        request = MarketRequest(model="text-model", input={"prompt": "x"})
        world.fake.inject(Fault("poll", "alter", data={"resultJson": '{"resultObject": {"text": "a poem"}}'}))
        (done,) = await outcomes(world, [("poem", request)], save_to=tmp_path / "{key}.txt")

        assert isinstance(done, Done)
        assert () == done.files
        assert () == done.urls
        assert set() == names(tmp_path)


@pytest.mark.parametrize("again", [False, True])
async def test_several_results_have_names_that_no_other_row_has(tmp_path: Path, *, again: bool) -> None:
    async with a_world(duration=10.0) as world:
        rows = [("a", ask(0)), ("a-2", ask(1)), ("a~2", ask(2))]
        await outcomes(world, rows)
        urls = [task.result_url for task in world.truth.created]
        shown = f'{{"resultUrls": ["{urls[0]}", "{urls[1]}"]}}'
        world.fake.inject(Fault("poll", "alter", data={"resultJson": shown}))
        more = [("b", ask(3)), ("b-2", ask(4)), ("b~2", ask(5))]
        found = await outcomes(world, more, save_to=tmp_path / "{key}.mp4")
        if again:
            found = await outcomes(world, more, save_to=tmp_path / "{key}.mp4")
        files = [path for outcome in found if isinstance(outcome, Done) for path in outcome.files]

        assert 6 == len(set(files)) == len(names(tmp_path))
        assert {"b.mp4", "b~2.mp4", "b-2.mp4", "b-2~2.mp4", "b%7E2.mp4", "b%7E2~2.mp4"} == names(tmp_path)
