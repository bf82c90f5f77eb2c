"""Test resumed downloads: parts must have the same version, and the second part must start after the first."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.range_responses import Version, read_version, size_if_rest, version_of, write_version

TAG = '"5d8c72a5edda8d6a"'
NOON = "Wed, 25 Nov 2026 12:00:00 GMT"
A_SECOND_LATER = "Wed, 25 Nov 2026 12:00:01 GMT"

sizes = st.integers(1, 2**40)


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": TAG}, TAG),
        ({"ETag": TAG, "Last-Modified": NOON, "Date": A_SECOND_LATER}, TAG),
        ({"Last-Modified": NOON, "Date": A_SECOND_LATER}, NOON),
        ({"ETag": f"W/{TAG}", "Last-Modified": NOON, "Date": A_SECOND_LATER}, NOON),
    ],
)
def test_a_strong_validator_identifies_a_version(headers: dict[str, str], validator: str) -> None:
    assert Version(validator, None) == version_of(headers)
    assert Version(validator, 7) == version_of({**headers, "Content-Length": "7"})
    assert Version(validator, None) == version_of({**headers, "Content-Length": "-7"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": f"W/{TAG}"},
        {"ETag": TAG.strip('"')},
        {"ETag": '""'},
        {"ETag": '"a\r\nX-Evil: 1"'},
        {"ETag": '"a b"'},
        {"ETag": '"' + "a" * 201 + '"'},
        {"Last-Modified": NOON},
        {"Last-Modified": NOON, "Date": NOON},
        {"Last-Modified": A_SECOND_LATER, "Date": NOON},
        {"Last-Modified": "noon", "Date": NOON},
        {"Last-Modified": NOON, "Date": "later"},
        {"Last-Modified": NOON + "\r\nX-Evil: 1", "Date": A_SECOND_LATER},
        {"Last-Modified": NOON, "Date": "Wed, 25 Nov 2026 13:00:00 -0000"},
        {"Last-Modified": "Wed, 25 Foo 2026 12:00:00 GMT", "Date": NOON},
        {"Last-Modified": "Wednesday, 25-Nov-26 12:00:00 GMT", "Date": A_SECOND_LATER},
    ],
)
def test_no_version_without_a_strong_validator(headers: dict[str, str]) -> None:
    """The file may have changed after a date within the second before the answer."""
    assert version_of({**headers, "Content-Length": "7"}) is None


@given(sizes, st.data())
def test_the_rest_starts_after_the_part_and_is_complete(size: int, data: st.DataObject) -> None:
    have = data.draw(st.integers(1, size)) if size > 1 else 1
    first, last, total = (
        data.draw(st.sampled_from(range(max(right - 1, 0), right + 2))) for right in (have, size - 1, size)
    )
    fits = (first, last, total) == (have, size - 1, size)
    headers = {"Content-Range": f"bytes {first}-{last}/{total}"}

    assert size_if_rest(headers, version=Version(TAG, size), have=have) == (size if fits else None)


@given(sizes)
def test_an_unknown_size_is_learned(size: int) -> None:
    headers = {"Content-Range": f"bytes 0-{size - 1}/{size}", "Content-Length": str(size)}
    assert size == size_if_rest(headers, version=Version(TAG), have=0)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": ""},
        {"Content-Range": "bytes */10"},
        {"Content-Range": "bytes 5-9/*"},
        {"Content-Range": "bytes 5-9"},
        {"Content-Range": "bytes -5-9/10"},
        {"Content-Range": "bytes 5-9/10, bytes 0-1/10"},
        {"Content-Range": "lines 5-9/10"},
        {"Content-Range": "bytes 5-9/10" + "0" * 20},
        {"Content-Length": "10"},
        {"Content-Length": "4"},
        {"Content-Length": "x"},
        {"ETag": '"another"'},
        {"ETag": f"W/{TAG}"},
    ],
)
def test_other_parts_are_refused(headers: dict[str, Any]) -> None:
    right = {"Content-Range": "bytes 5-9/10", "Content-Length": "5", "ETag": TAG}
    version = Version(TAG, 10)

    assert 10 == size_if_rest(right, version=version, have=5)
    assert size_if_rest({**right, **headers}, version=version, have=5) is None


def test_a_part_with_a_date_may_have_any_tag() -> None:
    headers = {"Content-Range": "bytes 5-9/10", "ETag": f"W/{TAG}"}
    assert 10 == size_if_rest(headers, version=Version(NOON, 10), have=5)


@pytest.mark.parametrize("validator", [TAG, NOON])
@given(size=st.none() | sizes)
def test_a_note_is_read_completely_or_not_at_all(validator: str, size: int | None) -> None:
    """A truncated note is refused: a truncated tag could be another file's."""
    version = Version(validator, size, {"Last-Modified": NOON, "X-Goog-Hash": "md5=a:b=="})
    note = write_version(version)

    assert version == read_version(note)
    assert [] == [length for length in range(len(note)) if read_version(note[:length]) is not None]


@given(st.text())
def test_any_note_yields_a_safe_validator_or_none(note: str) -> None:
    version = read_version(note)
    assert version is None or version.validator.isprintable()


@given(
    st.dictionaries(st.sampled_from(["ETag", "Last-Modified", "Date", "Content-Length", "Content-Range"]), st.text())
)
def test_no_headers_raise(headers: dict[str, str]) -> None:
    version = version_of(headers)
    assert version is None or version.validator.isprintable()
    assert size_if_rest(headers, version=Version(TAG), have=1) in (None, *range(2**12))


@pytest.mark.parametrize(
    ("first", "then", "fits"),
    [
        ({"Last-Modified": "a"}, {"Last-Modified": "a"}, True),
        ({"Last-Modified": "a"}, {}, True),
        ({}, {"Last-Modified": "a"}, True),
        ({"Last-Modified": "a"}, {"Last-Modified": "b"}, False),
        ({"X-Goog-Hash": "a"}, {"X-Goog-Hash": "b"}, False),
        ({"Content-Type": "video/mp4"}, {"Content-Type": "Video/quicktime"}, True),
        ({"Content-Type": "video/mp4"}, {"Content-Type": "application/octet-stream"}, True),
        ({"Content-Type": "application/octet-stream"}, {"Content-Type": "video/mp4"}, True),
        ({"Content-Type": "video/mp4"}, {"Content-Type": "text/html"}, False),
        ({"Content-Type": "video/mp4"}, {"Content-Type": "image/png"}, False),
    ],
)
def test_other_names_of_the_version_must_fit(first: dict[str, str], then: dict[str, str], *, fits: bool) -> None:
    """A tag alone has been wrong."""
    version = version_of({"ETag": '"a"', "Content-Length": "10", **first})

    assert version is not None
    answer = {"Content-Range": "bytes 5-9/10", "ETag": '"a"', **then}
    assert (10 if fits else None) == size_if_rest(answer, version=version, have=5)
    again = read_version(write_version(version))
    assert again is not None
    assert (version, version.headers) == (again, again.headers)
