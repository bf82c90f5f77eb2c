"""Whether a download is what it claims to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.claims import claims_other, looks_like_text
from kie_async._media import Media, identify

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
def test_media_are_no_text_and_keep_what_their_type_claims(content_type: str) -> None:
    head = HEADS[content_type]

    assert not looks_like_text(head)
    assert not claims_other(content_type, identify(head))


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
def test_pages_messages_and_nothing_are_text(head: bytes) -> None:
    assert looks_like_text(head)


@given(st.binary(max_size=64))
def test_blanks_at_the_beginning_do_not_hide_a_page(head: bytes) -> None:
    assert looks_like_text(b" \r\n\t" + head) is looks_like_text(head)


@pytest.mark.parametrize("content_type", ["video/mp4", "VIDEO/MP4", " video/mp4; codecs=avc1", "video/quicktime"])
@pytest.mark.parametrize("head", [b"<html>", b"plain", HEADS["image/png"], HEADS["audio/mpeg"]])
def test_a_claim_to_be_a_video_is_not_believed_of_something_else(content_type: str, head: bytes) -> None:
    assert claims_other(content_type, identify(head))
    assert not claims_other(content_type, identify(MP4))


@given(st.sampled_from(["", "application/octet-stream", "binary/octet-stream", "text/plain", "text/html"]), media)
def test_a_type_that_names_no_media_claims_nothing(content_type: str, media: Media | None) -> None:
    """Storage services often send one of these with a video; what it is, its bytes tell."""
    assert not claims_other(content_type, media)


@given(st.sampled_from(["video", "image", "audio"]), st.text(max_size=10), media)
def test_the_first_word_of_a_type_is_the_claim(family: str, rest: str, media: Media | None) -> None:
    assert claims_other(f"{family}/{rest}", media) is (media is None or media.kind != family)


@given(st.text(), media)
def test_no_type_makes_the_judge_fail(content_type: str, media: Media | None) -> None:
    assert isinstance(claims_other(content_type, media), bool)
