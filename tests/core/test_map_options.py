"""The options of a run, and the names of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kie_async import Budget, ConfigurationError, Limits
from kie_async._core.map_options import MapOptions, file_name

keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
names = keys | st.sampled_from([".", "..", "a~2", "a", "a-2", "CON", "nul.txt", "com1", "a/../b", "\0", "%2E", "~"])


def make_options(save_to: str | None = "out/{key}.mp4") -> MapOptions:
    return MapOptions(limits=Limits(), save_to=save_to)


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": 5},
        {"stop_after": -1},
        {"stop_after": float("nan")},
        {"stop_after": True},
        {"retry_failed": -1},
        {"retry_failed": 1.5},
        {"look_ahead": 0},
        {"save_to": "out/video.mp4"},
        {"ordered": True, "share": True},
        {"budget": Budget(credits=5), "share": True},
    ],
)
def test_invalid_option_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"Invalid map\({next(iter(wrong))}=.*\): expected "):
        MapOptions(limits=Limits(), **wrong)


@given(names, names)
@example("x" * 300, "x" * 301)
def test_file_names_are_unique_and_stay_in_the_folder(a: str, b: str) -> None:
    for key in (a, b):
        name = file_name(key)
        assert name == Path(name).name
        assert name not in ("", ".", "..")
        assert len(name.encode()) <= 220
        assert name.isascii()
    assert (a == b) == (file_name(a) == file_name(b))


@given(names, names, st.integers(1, 12), st.integers(1, 12))
def test_rows_never_share_a_file(a: str, b: str, first: int, second: int) -> None:
    options = make_options()
    ours, theirs = options.files(a, first), options.files(b, second)

    assert first == len(set(ours))
    assert a == b or not set(ours) & set(theirs)
    assert {Path("out")} == {path.parent for path in (*ours, *theirs)}


def test_no_files_without_save_to() -> None:
    assert () == make_options(None).files("a", 3)
    assert () == make_options().files("a", 0)


def test_key_may_name_a_folder() -> None:
    assert (Path("out/a%2Fb/video.mp4"),) == make_options("out/{key}/video.mp4").files("a/b", 1)


def test_read_bounds_follow_from_the_limits() -> None:
    options = make_options()
    assert (40, 1040) == (options.most_unsent, options.most_untaken)
    options = MapOptions(limits=Limits(), look_ahead=7, stop_after=0)
    assert (7, 1007) == (options.most_unsent, options.most_untaken)
