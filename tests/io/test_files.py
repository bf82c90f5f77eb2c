"""A file that is opened alone is one that nobody else works on, or has made something else of."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kie_async._io.files.part_files import FileView, open_exclusively


def test_a_file_is_opened_by_one_at_a_time(tmp_path: Path) -> None:
    first = open_exclusively(tmp_path / "a")
    assert first >= 0
    assert -1 == open_exclusively(tmp_path / "a")
    os.close(first)
    again = open_exclusively(tmp_path / "a")
    assert again >= 0
    os.close(again)


def test_a_file_that_has_got_another_name_meanwhile_is_another_ones(tmp_path: Path) -> None:
    """Whoever waits at the door of a finished file must not write into it."""
    first = open_exclusively(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    second = open_exclusively(tmp_path / "a")
    assert os.fstat(first).st_ino != os.fstat(second).st_ino
    os.close(first)
    os.close(second)


@given(data=st.binary(max_size=200), what=st.binary(min_size=1, max_size=3), start=st.integers(0, 250))
def test_a_view_shows_what_the_file_holds(data: bytes, what: bytes, start: int) -> None:
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
