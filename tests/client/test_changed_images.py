"""A local image that changes between its check, its hash and its upload: each content is paid once."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import attrs
import pytest

from kie_async import Done, Failed, KieClient, Problem, UploadError, Wan22TurboImageToVideo
from kie_async._keys import ContentKey, DefaultKeys
from kie_async._keys import fingerprint as make_fingerprint
from kie_async.requests.media import LocalFile, MediaSource
from kie_async.testing import FakeKie, Truth
from tests.client.tables import client_and_fake_unchecked, run_map
from tests.helpers import KEY, make_request
from tests.requests.samples import PNG, png_of


@attrs.frozen
class WatchedImage(MediaSource):
    """An image that calls a function before each read: the first checks it, the second hashes, the third uploads it."""

    before_read: Callable[[], object] = attrs.field(default=lambda: None, eq=False)

    def problems(self, field: str = "image") -> list[Problem]:
        self.before_read()
        return super().problems(field)

    def load(self) -> LocalFile:
        self.before_read()
        return super().load()


def make_row(file: Path, before_read: Callable[[], object] = lambda: None) -> Wan22TurboImageToVideo:
    return make_request(image=WatchedImage(file, before_read=before_read))


def replace(file: Path) -> None:
    file.write_bytes(png_of(200))


def grow(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def rename_over(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_bytes(png_of(300))
    other.rename(file)


def switch_link(file: Path) -> None:
    other = file.with_suffix(".other")
    other.write_bytes(png_of(400))
    file.unlink()
    file.symlink_to(other)


def change_a_byte(file: Path) -> None:
    """Size and time stay the same: only the content tells the difference."""
    before, data = file.stat(), bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


CHANGES = [replace, grow, rename_over, switch_link, change_a_byte]


def change_before(read: int, change: Callable[[Path], None], file: Path) -> Callable[[], None]:
    """Return a function that changes a file when it is called for the given time."""
    count = iter(range(1, 10_000))
    return lambda: change(file) if next(count) == read else None


def tasks_by_content(truth: Truth) -> Counter[str]:
    """Count the tasks of each content: the name of an upload is its hash."""
    return Counter(str(task.input["image_url"]).rsplit("/", 1)[-1] for task in truth.created)


@pytest.mark.parametrize("read", range(1, 7))
@pytest.mark.parametrize("change", CHANGES)
async def test_changed_content_is_paid_once(tmp_path: Path, change: Callable[[Path], None], read: int) -> None:
    """The second run finds the task of what was uploaded, whenever the file has changed."""
    file = tmp_path / "cat.png"
    file.write_bytes(png_of(100))
    async with client_and_fake_unchecked(duration=10.0) as setup:
        watched = make_row(file, change_before(read, change, file))
        (first,) = await run_map(setup, [watched])
        (second,) = await run_map(setup, [make_row(file)])

        assert isinstance(first, Done)
        assert isinstance(second, Done)
        assert {1} == set(tasks_by_content(setup.truth).values())
        assert 1 == len(setup.tasks) or read > 3
        for row in await setup.rows():
            assert row.key is not None
            assert row.key.startswith(row.fingerprint[:24])


@pytest.mark.parametrize("paid_before", [False, True])
async def test_image_that_changes_before_a_retry_is_paid_once(tmp_path: Path, *, paid_before: bool) -> None:
    """The first content fails; the retry is of the content as it is then, under the key of that content."""
    file = tmp_path / "cat.png"
    async with client_and_fake_unchecked(duration=10.0) as setup:
        if paid_before:
            replace(file)
            await run_map(setup, [make_row(file)])
        file.write_bytes(png_of(100))
        async with setup.kie.map([make_row(file)], retry_failed=1) as run:
            await anyio.sleep(5.0)
            setup.fake.fail(setup.tasks[-1])
            replace(file)
            (first,) = [outcome async for outcome in run]
        (second,) = await run_map(setup, [make_row(file)], retry_failed=1)

        assert isinstance(first, Done)
        assert isinstance(second, Done)
        assert first.task_id == second.task_id
        assert {1} == set(tasks_by_content(setup.truth).values())
        assert 2 == len(setup.tasks)


async def test_truncated_image_is_refused_free_of_charge(tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    for read in (1, 2, 3):
        file.write_bytes(png_of(100))
        async with client_and_fake_unchecked(duration=10.0) as setup:
            watched = make_row(file, change_before(read, truncate, file))
            (failed,) = await run_map(setup, [watched])

            assert isinstance(failed, Failed)
            assert [] == setup.tasks


async def test_image_that_changes_at_each_read_fails_free_of_charge(tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    sizes = iter(range(100, 10_000))
    async with client_and_fake_unchecked(duration=10.0) as setup:
        watched = make_row(file, lambda: file.write_bytes(png_of(next(sizes))))
        (failed,) = await run_map(setup, [watched])

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, UploadError)
        assert "changed" in str(failed.error)
        assert [] == setup.tasks


@pytest.mark.parametrize("read", range(1, 4))
async def test_content_key_given_by_batch_is_for_its_content_only(tmp_path: Path, read: int) -> None:
    """``kie-async batch`` makes the key itself, when it reads the row."""
    file = tmp_path / "cat.png"
    file.write_bytes(PNG)
    hashes = {"image_url": hashlib.sha256(PNG).hexdigest()}
    plain = make_row(file)
    key = DefaultKeys().next_key(make_fingerprint(plain.model, plain.input(hashes), hashes))
    assert isinstance(key, ContentKey)
    async with client_and_fake_unchecked(duration=10.0) as setup:
        watched = make_row(file, change_before(read, replace, file))
        (failed,) = await run_map(setup, [(key, watched)])

        assert isinstance(failed, Failed)
        assert isinstance(failed.error, UploadError)
        assert [] == setup.tasks


@pytest.mark.parametrize("read", range(1, 5))
async def test_own_key_names_what_was_uploaded(tmp_path: Path, read: int) -> None:
    """The same key with the file as it is now is the same job."""
    file = tmp_path / "cat.png"
    file.write_bytes(PNG)
    async with FakeKie(duration=10.0) as fake, KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
        watched = make_row(file, change_before(read, replace, file))
        await kie.generate(watched, key="order-7")
        if read <= 3:
            await kie.generate(make_row(file), key="order-7")
        assert 1 == len(fake.truth.tasks)
