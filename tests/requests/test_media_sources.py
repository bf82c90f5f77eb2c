"""Local images, from real files and real streams."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import InvalidRequestError
from kie_async.requests.media import MAX_BYTES, LocalFile, MediaInput, MediaSource, Unusable, as_image
from tests.requests.samples import JPEG, PNG, WEBP, png_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer


def source(given: object) -> MediaSource:
    """Return the source that *given* is converted to."""
    image = as_image(cast("MediaInput", given))
    assert isinstance(image, MediaSource)
    return image


@pytest.mark.parametrize(
    ("data", "mime", "suffix"),
    [(JPEG, "image/jpeg", ".jpg"), (PNG, "image/png", ".png"), (WEBP, "image/webp", ".webp")],
)
def test_image_is_loaded_with_type_and_hash(data: bytes, mime: str, suffix: str) -> None:
    sha256 = hashlib.sha256(data).hexdigest()

    assert source(data).load() == LocalFile(data, mime, suffix, sha256)
    assert source(data).load().name == sha256[:32] + suffix


def test_type_follows_the_content_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "cat.txt"
    path.write_bytes(JPEG)

    assert source(path).load().mime == "image/jpeg"
    assert [] == source(path).problems()


def all_forms(path: Path) -> Iterator[object]:
    """Return every form in which the image in a file can be given."""
    yield path
    yield str(path)
    yield _PathLike(path)
    yield path.read_bytes()
    yield bytearray(path.read_bytes())
    yield memoryview(path.read_bytes())
    yield io.BytesIO(path.read_bytes())
    for buffering in (0, 1024):
        with path.open("rb", buffering=buffering) as file:
            yield file
    with tempfile.SpooledTemporaryFile() as file:
        file.write(path.read_bytes())
        file.seek(0)
        yield file
    yield MediaSource(path)


class _PathLike:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_all_forms_of_an_image_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    loaded = [source(given_as).load() for given_as in all_forms(path)]

    assert {source(PNG).load()} == set(loaded)
    assert len(loaded) == 11


def test_relative_path_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    with contextlib.chdir(tmp_path):
        assert source("cat.png").load().data == PNG


def test_open_file_is_read_immediately(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"skipped" + PNG)
    with (tmp_path / "cat.png").open("rb") as file:
        file.seek(7)
        image = source(file)

    assert image.load().data == PNG
    assert image.load().data == PNG


def test_file_is_read_on_load(tmp_path: Path) -> None:
    """A path may be given before the file exists, and a checked file may have changed since."""
    path = tmp_path / "cat.png"
    image = source(path)
    assert ["image"] == [problem.field for problem in image.problems()]
    path.write_bytes(PNG)
    assert image.load().data == PNG
    path.write_bytes(b"")

    with pytest.raises(InvalidRequestError, match="is empty") as raised:
        image.load()
    assert ["image"] == [problem.field for problem in raised.value.problems]


def test_size_limit_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(png_of(MAX_BYTES))
    assert len(source(path).load().data) == MAX_BYTES
    assert len(source(io.BytesIO(path.read_bytes())).load().data) == MAX_BYTES
    path.write_bytes(png_of(MAX_BYTES + 1))

    for given_as in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert "more than 10485760 bytes" in str(source(given_as).problems()[0])


class _Endless(io.RawIOBase):
    """A stream that returns a few bytes at a time and never ends."""

    taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        self.taken += min(memoryview(buffer).nbytes, 65536)
        return min(memoryview(buffer).nbytes, 65536)


def test_endless_stream_is_read_to_the_limit() -> None:
    stream = _Endless()

    assert "more than" in str(source(stream).problems()[0])
    assert stream.taken == MAX_BYTES + 1


def test_device_is_not_read() -> None:
    assert "not a regular file" in str(source("/dev/zero").problems()[0])


def test_unreadable_file_is_reported(tmp_path: Path) -> None:
    """Root may read everything, so root switches the user; other users remove the permission."""
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    path.chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        problems = source(path).problems("image")
    finally:
        os.seteuid(user)

    assert "cannot be read: Permission denied" in str(problems[0])


def test_failing_stream_is_a_problem() -> None:
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Buffer, /) -> int:
            raise OSError(5, "Input/output error", memoryview(buffer).nbytes)

    assert "Input/output error" in str(source(Failing()).problems()[0])


def test_urls_and_sources_are_unchanged() -> None:
    url = "https://example.com/cat.png"
    image = MediaSource(PNG)

    assert as_image(url) is url
    assert as_image(image) is image


def test_sources_compare_by_content(tmp_path: Path) -> None:
    assert source(PNG) == source(bytearray(PNG))
    assert hash(source(PNG)) == hash(source(io.BytesIO(PNG)))
    assert source(PNG) != source(JPEG)
    assert source(tmp_path) == source(str(tmp_path))


@pytest.mark.parametrize(
    ("given_as", "shown"),
    [
        (PNG, f"MediaSource(content={len(PNG)} bytes)"),
        ("cat.png", "MediaSource(content='cat.png')"),
        ("x" * 10_000_000, f"MediaSource(content='{'x' * 200}'… (10000000 characters))"),
        (5, "MediaSource(content=5)"),
    ],
)
def test_repr_is_short(given_as: object, shown: str) -> None:
    assert repr(source(given_as)) == shown


def test_repr_of_a_loaded_image_has_no_bytes() -> None:
    assert f"LocalFile(data={len(PNG)} bytes, mime='image/png'" in repr(source(PNG).load())


@given(
    st.none()
    | st.integers()
    | st.binary(max_size=40)
    | st.text(max_size=40).filter(lambda text: "://" not in text)
    | st.lists(st.integers(), max_size=2)
    | st.builds(io.StringIO, st.text(max_size=5))
    | st.builds(object)
)
def test_any_value_is_an_image_or_a_problem(given_as: object) -> None:
    image = as_image(cast("MediaInput", given_as))

    assert isinstance(image, (str, MediaSource))
    if isinstance(image, MediaSource):
        assert image.problems()
        with pytest.raises(InvalidRequestError):
            image.load()


def test_unusable_image_has_a_reason() -> None:
    problem = Unusable("5", "is a number").problem("first_frame")

    assert (
        str(problem)
        == "first_frame: got 5; allowed: a whole JPEG, PNG or WebP image of at most 10 MB; this is a number"
    )


class Dribbling:
    """A reader that returns *step* bytes a call, whatever was asked for."""

    def __init__(self, content: bytes, step: int) -> None:
        self._content, self._step, self._at = content, step, 0

    def read(self, _: int, /) -> bytes:
        """Return the next bytes, in an object of their own."""
        self._at += self._step
        return bytes(bytearray(self._content[self._at - self._step : self._at]))


@pytest.mark.parametrize("step", [1, 2, 3, 100, 400_000])
def test_reader_of_small_parts_takes_little_memory(step: int) -> None:
    """A list of the parts took eighty times their size."""
    content = png_of(400_000)
    reader = Dribbling(content, step)
    tracemalloc.start()
    try:
        image = source(reader)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert content == image.content
    assert peak < 4 * len(content)


def test_reader_that_returns_more_than_was_asked_for_is_cut_off() -> None:
    image = source(Dribbling(bytes(3 * MAX_BYTES), 2 * MAX_BYTES))

    assert MAX_BYTES + 1 == len(cast("bytes", image.content))
    assert "more than" in image.problems()[0].allowed
