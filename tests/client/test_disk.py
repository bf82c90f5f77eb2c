"""Failing disks: no part of a result is left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from kie_async import (
    DownloadError,
    Generation,
    NoResultError,
    TransportError,
)
from kie_async.testing import Fault, VirtualLoop
from tests.client.filehost import MP4, files_in, generate_image, generation_on_host
from tests.full_disk import limit_file_size
from tests.helpers import assert_settled, client_and_fake, make_request

if TYPE_CHECKING:
    from collections.abc import Callable


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"")
    return folder / "file" / "cat.mp4"


def _name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300 + ".mp4")


def _loop_of_links(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop" / "cat.mp4"


def _nul(folder: Path) -> Path:
    return folder / "a\0b.mp4"


def _nowhere(_: Path) -> Path:
    return Path("/proc/kie/cat.mp4")


@pytest.mark.parametrize("where", [_below_a_file, _name_too_long, _loop_of_links, _nul, _nowhere])
async def test_unwritable_disk_is_reported(where: Callable[[Path], Path], tmp_path: Path) -> None:
    """With the ids, and without a part of a file; the result can still be saved elsewhere."""
    target = where(tmp_path)
    before = files_in(tmp_path)
    async with client_and_fake(duration=0.0) as setup:
        picture = await generate_image(setup)
        with pytest.raises(DownloadError, match="could not be written") as raised:
            await picture.save(target)

        assert before == files_in(tmp_path)
        assert (picture.job_id, picture.task_id) == (raised.value.job_id, raised.value.task_id)
        await picture.save(tmp_path / "cat.png")
        await assert_settled(setup.kie)


async def test_full_disk_leaves_no_part(tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, setup):
        host.at("/a.mp4", MP4 * 60)
        with limit_file_size(4 * 2**20), pytest.raises(DownloadError, match="could not be written"):
            await video.save(tmp_path / "cat.mp4")

        assert {} == files_in(tmp_path)
        assert 1 == len(host.seen)
        (file,) = await video.save(tmp_path / "cat.mp4")
        assert MP4 * 60 == file.read_bytes()
        await assert_settled(setup.kie)


async def test_symbolic_link_is_replaced_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep me")
    (tmp_path / "cat.mp4").symlink_to(precious)
    async with generation_on_host() as (video, _, _):
        await video.save(tmp_path / "cat.mp4")

        assert b"keep me" == precious.read_bytes()
        assert MP4 == (tmp_path / "cat.mp4").read_bytes()
        assert not (tmp_path / "cat.mp4").is_symlink()


async def test_concurrent_saves_give_one_complete_file(tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, _):
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(video.save, tmp_path / "cat.mp4")
        assert {"cat.mp4": MP4} == files_in(tmp_path)
        assert 4 == len(host.seen)


async def test_save_can_be_cancelled_at_any_turn(tmp_path: Path) -> None:
    """The file is complete or absent, and no descriptor stays open."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with generation_on_host() as (video, host, setup):
        await video.save(tmp_path / "first.mp4")
        (tmp_path / "first.mp4").unlink()
        for turn in range(1, 1000):
            task = asyncio.create_task(_save(video, tmp_path / "cat.mp4"))
            loop.at_turn(loop.turns + turn, task.cancel)
            await asyncio.wait([task])
            await anyio.sleep(0.1)
            assert files_in(tmp_path) in ({}, {"cat.mp4": MP4}), f"turn {turn}"
            (tmp_path / "cat.mp4").unlink(missing_ok=True)
            if not task.cancelled():
                break
        assert turn > 10
        await assert_settled(setup.kie)
        assert [] == [name for name in open_files() if str(tmp_path) in name]
        assert len(host.seen) > 5


def open_files() -> list[str]:
    """Return the targets of this process's descriptors."""
    names: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one by which the folder itself is read
            names.append(str(descriptor.readlink()))
    return names


async def _save(video: Generation, path: Path) -> None:
    await video.save(path)


async def test_generation_without_urls_cannot_be_saved(tmp_path: Path) -> None:
    """Text models return an object, which is in the record."""
    fault = Fault("poll", "alter", data={"resultJson": '{"resultObject":{"text":"a cat"}}'})
    async with client_and_fake(duration=0.0, faults=[fault]) as setup:
        answer = await setup.kie.generate(make_request())
        assert ((), {"resultObject": {"text": "a cat"}}) == (answer.urls, answer.record.result)
        with pytest.raises(NoResultError) as raised:
            await answer.save(tmp_path)
        assert (answer.job_id, answer.task_id) == (raised.value.job_id, raised.value.task_id)


async def test_download_without_connection_is_reported(tmp_path: Path) -> None:
    async with client_and_fake(duration=0.0) as setup:
        video = await setup.kie.generate(make_request())
        await setup.kie.aclose()  # its connections, too
        await setup.fake.refuse_connections()
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path)
        assert not isinstance(raised.value, TransportError)
