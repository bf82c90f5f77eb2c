"""Detection of media types, and of truncated files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._media import HEAD, Media, identify, is_whole
from tests.requests.samples import GIF, JPEG, PNG, WEBP

HEADS = (
    (JPEG, "image", "image/jpeg", ".jpg"),
    (PNG, "image", "image/png", ".png"),
    (WEBP, "image", "image/webp", ".webp"),
    (GIF, "image", "image/gif", ".gif"),
    (b"BM\x46\0\0\0\0\0\0\0\x36", "image", "image/bmp", ".bmp"),
    (b"II*\0\x08\0\0\0", "image", "image/tiff", ".tif"),
    (b"\0\0\0\x1cftypavif\0\0\0\0", "image", "image/avif", ".avif"),
    (b"\0\0\0\x18ftypheic\0\0\0\0", "image", "image/heic", ".heic"),
    (b"\0\0\0\x20ftypisom\0\0\x02\0", "video", "video/mp4", ".mp4"),
    (b"\0\0\0\x20ftypmp42\0\0\0\0", "video", "video/mp4", ".mp4"),
    (b"\0\0\0\x14ftypqt  \0\0\x02\0", "video", "video/quicktime", ".mov"),
    (b"\0\0\0\x20ftypM4A \0\0\0\0", "audio", "audio/mp4", ".m4a"),
    (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", "video", "video/webm", ".webm"),
    (b"\x1a\x45\xdf\xa3\xa3\x42\x82\x88matroska", "video", "video/x-matroska", ".mkv"),
    (b"RIFF\x24\0\0\0AVI LIST", "video", "video/x-msvideo", ".avi"),
    (b"RIFF\x24\0\0\0WAVEfmt ", "audio", "audio/wav", ".wav"),
    (b"ID3\x04\0\0", "audio", "audio/mpeg", ".mp3"),
    (b"\xff\xfb\x90\x64", "audio", "audio/mpeg", ".mp3"),
    (b"\xff\xf1\x50\x80", "audio", "audio/aac", ".aac"),
    (b"fLaC\0\0\0\x22", "audio", "audio/flac", ".flac"),
    (b"OggS\0\x02", "audio", "audio/ogg", ".ogg"),
    (b"\0\0\0\x1cftypM4P \0\0\0\0", "audio", "audio/mp4", ".m4a"),
    (b"\0\0\0\x20ftypM4V \0\0\0\1M4V M4A mp42", "video", "video/mp4", ".mp4"),
    (b"\0\0\x05\x10moov\0\0\0\x6cmvhd", "video", "video/quicktime", ".mov"),
    (b"\xff\xe3\x18\xc4", "audio", "audio/mpeg", ".mp3"),
    (b"\xff\xfd\xb8\x04", "audio", "audio/mpeg", ".mp3"),
    (b"RF64\xff\xff\xff\xffWAVEds64", "audio", "audio/wav", ".wav"),
    (b"FORM\0\0\x10\0AIFF", "audio", "audio/aiff", ".aiff"),
    (b"MThd\0\0\0\x06\0\1", "audio", "audio/midi", ".mid"),
    (b"FLV\x01\x05\0\0\0\x09", "video", "video/x-flv", ".flv"),
    ((b"G" + bytes(187)) * 3, "video", "video/mp2t", ".ts"),
    (b"8BPS\0\1\0\0", "image", "image/vnd.adobe.photoshop", ".psd"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "image", "image/jxl", ".jxl"),
    (b"\0\0\1\0\1\0\x10\x10", "image", "image/x-icon", ".ico"),
    (b"v/1\1\2\0\0\0", "image", "image/x-exr", ".exr"),
    (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe", "image", "image/vnd.radiance", ".hdr"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "video", "video/x-ms-asf", ".wmv"),
    (b"\0\0\1\xba\x44\0\4", "video", "video/mpeg", ".mpg"),
    (b"#!AMR-WB\n", "audio", "audio/amr", ".amr"),
    (b"caff\0\1\0\0desc", "audio", "audio/x-caf", ".caf"),
    (b"glTF\2\0\0\0", "model", "model/gltf-binary", ".glb"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'>", "image", "image/svg+xml", ".svg"),
    (b'<?xml version="1.0"?>\n<!-- made by x -->\n<svg>', "image", "image/svg+xml", ".svg"),
    (b"\xef\xbb\xbfWEBVTT\n\n00:00.000 --> 00:01.000", "text", "text/vtt", ".vtt"),
    (b"1\r\n00:00:00,000 --> 00:00:02,500\r\nHello", "text", "application/x-subrip", ".srt"),
)


@pytest.mark.parametrize(("head", "kind", "mime", "suffix"), HEADS)
def test_first_bytes_identify_a_file(head: bytes, kind: str, mime: str, suffix: str) -> None:
    assert identify(head) == Media(kind, mime, suffix)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x89PN",
        b"<!doctype html><html>",
        b'{"code":404}',
        b"plain text, and a name that ends in .png",
        b"\xef\xbb\xbf<html>",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"RIFF\x1a\0\0\0WEBPXXXX",
        b"\xff\xfe<\0h\0t\0m\0l\0",
        b"<?xml version='1.0'?><Error>no <svg></Error>",
        b"G" + bytes(187) + b"G",
        b"glTFfake",
    ],
)
def test_other_bytes_are_not_media(head: bytes) -> None:
    assert identify(head) is None


@given(st.binary(max_size=80))
def test_only_the_head_decides(data: bytes) -> None:
    assert identify(data) == identify(data[:HEAD])


@pytest.mark.parametrize("image", [JPEG, PNG, WEBP], ids=["jpeg", "png", "webp"])
def test_truncated_image_is_not_whole(image: bytes) -> None:
    """The last bytes of a JPEG may be anything: cameras append data."""
    media = identify(image)

    assert media is not None
    assert is_whole(image, media)
    assert is_whole(image + b"appended", media)
    assert [] == [length for length in range(HEAD // 4, len(image)) if is_whole(image[:length], media)]


def test_end_of_a_thumbnail_is_not_the_end() -> None:
    media = Media("image", "image/jpeg", ".jpg")
    segment = b"Exif\0\0" + JPEG
    photo = b"\xff\xd8\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + JPEG[2:]

    assert is_whole(photo, media)
    assert not is_whole(photo[:-2], media)


def test_jpeg_markers_may_be_padded() -> None:
    assert is_whole(JPEG[:2] + b"\xff\xff\xff" + JPEG[2:], Media("image", "image/jpeg", ".jpg"))


@given(st.sampled_from([JPEG, PNG, WEBP]), st.dictionaries(st.integers(12, len(PNG) - 1), st.integers(0, 255)))
def test_damaged_files_raise_nothing(image: bytes, damage: dict[int, int]) -> None:
    media = identify(image)
    damaged = bytearray(image)
    for position, value in damage.items():
        damaged[position % len(image)] = value

    assert media is not None
    assert isinstance(is_whole(bytes(damaged), media), bool)


def box(name: bytes, content: bytes, *, large: bool = False) -> bytes:
    if large:
        return b"\0\0\0\1" + name + (len(content) + 16).to_bytes(8, "big") + content
    return (len(content) + 8).to_bytes(4, "big") + name + content


MP4 = box(b"ftyp", b"isom\0\0\2\0") + box(b"moov", bytes(40)) + box(b"mdat", bytes(100), large=True)


def test_truncated_video_is_not_whole() -> None:
    media = Media("video", "video/mp4", ".mp4")

    assert is_whole(MP4, media)
    assert is_whole(MP4 + bytes(7), media)
    assert is_whole(MP4 + b"\0\0\0\0mdat, to the end of the file", media)
    whole = [length for length in range(len(MP4)) if is_whole(MP4[:length], media)]
    # Between two boxes nothing is missing, as far as the structure tells; nor within the first bytes of one.
    ends = [16, 64]
    assert [0, 1, 2, 3, 4, 5, 6, 7, *(end + some for end in ends for some in range(8))] == whole


class CountedContent:
    """A file that counts its reads."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, piece: slice) -> bytes:
        self.reads += 1
        return self.data[piece]

    def find(self, what: bytes, start: int, /) -> int:
        return self.data.find(what, start)


@pytest.mark.parametrize(("head", "piece"), [(MP4[:16], box(b"free", b"")), (PNG[:8], bytes(12)), (JPEG[:2], b"\xff")])
def test_file_of_empty_pieces_ends_the_check(head: bytes, piece: bytes) -> None:
    media = identify(head + piece * 20)
    file = CountedContent(head + piece * 1_000_000)

    assert media is not None
    assert is_whole(file, media) is (media.kind == "video")
    assert file.reads < 500_000


def test_other_types_count_as_whole() -> None:
    assert is_whole(b"anything", Media("video", "video/webm", ".webm"))


def odd_box(name: bytes, size: int, *, length: int | None = None, large: bool = False) -> bytes:
    """Return a box with *size* bytes, which announces another length if one is given."""
    length = size + (16 if large else 8) if length is None else length
    head = b"\0\0\0\1" + name + length.to_bytes(8, "big") if large else length.to_bytes(4, "big") + name
    return head + bytes(size)


FTYP = odd_box(b"ftyp", 8)


@pytest.mark.parametrize(
    ("content", "sound"),
    [
        (FTYP + odd_box(b"mdat", 100), True),
        (FTYP + odd_box(b"mdat", 100, large=True) + odd_box(b"\xa9nam", 4), True),
        (FTYP + odd_box(b"mdat", 100, length=0), True),
        (FTYP + odd_box(b"mdat", 100, length=7), False),
        (FTYP + odd_box(b"mdat", 100, length=15, large=True), False),
        (FTYP + odd_box(b"mdat", 100, length=90), False),
        (FTYP + odd_box(b"mdat", 100, length=110), False),
        (FTYP + odd_box(b"m\0at", 100), False),
        (FTYP + odd_box(b"mdat", 100) + b"\0\0\0", False),
        (FTYP + odd_box(b"free", 0) * 100_001, False),
    ],
)
def test_joined_video_is_boxes_and_nothing_else(content: bytes, *, sound: bool) -> None:
    """Parts of two files seldom fit together in their boxes."""
    for mime in ("video/mp4", "video/quicktime", "audio/mp4", "image/avif"):
        assert sound is is_whole(content, Media("video", mime, ".mp4"), joined=True)


@pytest.mark.parametrize("cut", [0, 7, 8, 11, 12, 20, 30])
def test_joined_image_or_model_that_is_cut_is_not_whole(cut: int) -> None:
    webp = Media("image", "image/webp", ".webp")
    glb = Media("model", "model/gltf-binary", ".glb")
    for content, media in ((PNG, identify(PNG)), (b"RIFF\x1c\0\0\0WEBPVP8 \x10\0\0\0" + bytes(16), webp)):
        assert media is not None
        assert is_whole(content, media, joined=True)
        assert not is_whole(content[:cut], media, joined=True)
        assert not is_whole(content + b"\0", media, joined=True) or media.mime == "image/png"
    assert is_whole(b"glTF\2\0\0\0\x1c\0\0\0\x08\0\0\0JSON" + bytes(8), glb, joined=True)


@given(st.binary(max_size=60), st.sampled_from(["video/mp4", "image/png", "image/webp", "model/gltf-binary"]))
def test_any_joined_bytes_are_judged(data: bytes, mime: str) -> None:
    assert is_whole(data, Media("x", mime, ""), joined=True) in (True, False)
