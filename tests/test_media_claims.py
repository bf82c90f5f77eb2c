"""Media types that a download claims, against its first bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._media import Media, identify, is_mislabeled, looks_like_text, media_of_result

MP4 = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41"
HEADS = {
    "video/mp4": MP4,
    "video/webm": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm",
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "audio/mpeg": b"ID3\x04\0\0",
    "audio/wav": b"RIFF\x24\0\0\0WAVEfmt ",
}

media = st.sampled_from([None, *(Media(kind, f"{kind}/x", ".x") for kind in ("image", "video", "audio"))])


@pytest.mark.parametrize("content_type", HEADS)
def test_media_match_their_own_type(content_type: str) -> None:
    head = HEADS[content_type]

    assert not looks_like_text(head)
    assert not is_mislabeled(content_type, identify(head))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"  \r\n\t",
        b"\xef\xbb\xbf",
        b"<!doctype html>",
        b"\xef\xbb\xbf \n<html>",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        b'{"code":404,"msg":"not found"}',
        b'\r\n[{"error":"expired"}]',
    ],
)
def test_pages_messages_and_empty_files_are_text(head: bytes) -> None:
    assert looks_like_text(head)


@given(st.binary(max_size=64))
def test_leading_blanks_do_not_hide_a_page(head: bytes) -> None:
    assert looks_like_text(b" \r\n\t" + head) is looks_like_text(head)


@pytest.mark.parametrize("content_type", ["video/mp4", "VIDEO/MP4", " video/mp4; codecs=avc1", "video/quicktime"])
@pytest.mark.parametrize("head", [b"<html>", b"plain", HEADS["image/png"], HEADS["audio/mpeg"]])
def test_other_file_as_a_video_is_mislabeled(content_type: str, head: bytes) -> None:
    assert is_mislabeled(content_type, identify(head))
    assert not is_mislabeled(content_type, identify(MP4))


@given(st.sampled_from(["", "application/octet-stream", "binary/octet-stream", "text/plain", "text/html"]), media)
def test_type_without_media_claims_nothing(content_type: str, media: Media | None) -> None:
    """Storage services often send one of these with a video; the bytes decide."""
    assert not is_mislabeled(content_type, media)


@given(st.sampled_from(["video", "image", "audio"]), st.text(max_size=10), media)
def test_first_word_of_a_type_is_the_claim(kind: str, rest: str, media: Media | None) -> None:
    assert is_mislabeled(f"{kind}/{rest}", media) is (media is None or media.kind != kind)


@given(st.text(), media)
def test_any_text_is_a_valid_type(content_type: str, media: Media | None) -> None:
    assert isinstance(is_mislabeled(content_type, media), bool)


ISO = b"\0\0\0\x18ftyp%s\0\0\0\0"


@pytest.mark.parametrize(
    ("head", "label", "suffix"),
    [
        *((ISO % brand, "audio/mp4", ".m4a") for brand in (b"isom", b"mp42", b"dash", b"iso5", b"M4A ", b"M4B ")),
        (ISO % b"isom", "audio/x-m4a", ".m4a"),
        (ISO % b"isom", "AUDIO/MP4; codecs=mp4a.40.2", ".m4a"),
        (ISO % b"isom", "application/octet-stream", ".mp4"),
        (ISO % b"M4A ", "application/octet-stream", ".m4a"),
        (ISO % b"M4A ", "video/mp4", ".mp4"),
        (HEADS["video/webm"], "audio/webm", ".weba"),
        (b"OggS\0\x02", "video/ogg", ".ogv"),
        (b"OggS\0\x02", "", ".ogg"),
        (HEADS["audio/wav"], "audio/mpeg", ".wav"),
        (HEADS["image/png"], "image/jpeg", ".png"),
    ],
)
def test_label_decides_where_a_container_may_hold_both(head: bytes, label: str, suffix: str) -> None:
    media = media_of_result(label, "/result", head)

    assert media is not None
    assert suffix == media.suffix
    assert label.split("/", maxsplit=1)[0].lower() in (media.kind, "application", "")


@pytest.mark.parametrize("label", ["", "application/octet-stream", "binary/octet-stream", "application/mp4"])
@pytest.mark.parametrize(
    ("head", "path", "suffix"),
    [
        (ISO % b"isom", "/a.M4A", ".m4a"),
        (ISO % b"M4A ", "/a.mp4", ".mp4"),
        (ISO % b"isom", "/a.mp3", ".mp4"),
        (HEADS["video/webm"], "/a.weba", ".weba"),
        (b"OggS\0\x02", "/a.ogv", ".ogv"),
    ],
)
def test_name_decides_if_a_container_has_no_label(head: bytes, path: str, suffix: str, label: str) -> None:
    media = media_of_result(label, path, head)

    assert media is not None
    assert suffix == media.suffix


@pytest.mark.parametrize(
    ("head", "label", "path", "suffix"),
    [
        (b'{"words": []}', "application/json", "/a/words.json", ".json"),
        (b"[1, 2]", "text/plain", "/WORDS.JSON", ".json"),
        (b"Hello", "text/plain; charset=utf-8", "/a.txt", ".txt"),
        (b"at,word\n", "application/octet-stream", "/a.csv", ".csv"),
    ],
)
def test_document_is_taken_by_its_name(head: bytes, label: str, path: str, suffix: str) -> None:
    media = media_of_result(label, path, head)

    assert media is not None
    assert ("text", suffix) == (media.kind, media.suffix)


@pytest.mark.parametrize(
    ("head", "label", "path"),
    [
        (b'{"code": 401}', "application/json", "/a.mp4"),
        (b'{"code": 401}', "video/mp4", "/a.json"),
        (b"<html>", "text/html", "/a.json"),
        (b" <Error>", "application/xml", "/a.txt"),
        (b"", "text/plain", "/a.txt"),
        (b"\0\0", "audio/mpeg", "/a.mp3"),
        (HEADS["audio/mpeg"], "video/mp4", "/a.mp4"),
        (HEADS["image/png"], "audio/mp4", "/a.m4a"),
        (ISO % b"isom", "image/png", "/a.png"),
    ],
)
def test_page_or_another_kind_is_refused(head: bytes, label: str, path: str) -> None:
    with pytest.raises(ValueError, match="begins with"):
        media_of_result(label, path, head)


@given(st.text(max_size=20), st.text(max_size=20), st.binary(max_size=80))
def test_any_label_name_and_bytes_are_judged(label: str, path: str, head: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(media_of_result(label, path, head), Media | None)
