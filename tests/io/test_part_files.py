"""Exclusive access to part files, and views of their bytes."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kie_async._io.files.part_files import FileView, open_exclusively


def test_file_is_opened_by_one_owner_at_a_time(tmp_path: Path) -> None:
    first = open_exclusively(tmp_path / "a")
    assert first >= 0
    assert -1 == open_exclusively(tmp_path / "a")
    os.close(first)
    again = open_exclusively(tmp_path / "a")
    assert again >= 0
    os.close(again)


def test_renamed_file_is_not_opened(tmp_path: Path) -> None:
    """A process that waited for the lock must not write into the finished file."""
    first = open_exclusively(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    second = open_exclusively(tmp_path / "a")
    assert os.fstat(first).st_ino != os.fstat(second).st_ino
    os.close(first)
    os.close(second)


@given(data=st.binary(max_size=200), what=st.binary(min_size=1, max_size=3), start=st.integers(0, 250))
def test_view_has_the_bytes_of_the_file(data: bytes, what: bytes, start: int) -> None:
    descriptor = os.memfd_create("view")
    try:
        os.write(descriptor, data)
        view = FileView(descriptor, len(data))
        assert len(data) == len(view)
        assert data[start : start + 7] == view[start : start + 7]
        assert data.find(what, start) == view.find(what, start)
        assert len(data) == os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)
