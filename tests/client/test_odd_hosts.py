"""File hosts that are odd rather than hostile: their labels, encodings, headers and refusals do not lose a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.filehost import files_in, generation_on_host, make_mp4
from tests.requests.samples import GIF, PNG, WEBP

M4A = make_mp4(5000)
WAV = b"RIFF\x24\x10\0\0WAVEfmt " + bytes(4000)
GLB = b"glTF\2\0\0\0" + bytes(100)

KINDS = {
    "M4A of a general brand": (M4A, "audio/mp4", ".m4a"),
    "M4A by another label": (M4A.replace(b"isom", b"mp42", 1), "audio/x-m4a", ".m4a"),
    "WAV": (WAV, "audio/x-wav", ".wav"),
    "WAV labeled as MP3": (WAV, "audio/mpeg", ".wav"),
    "MP3 of a low rate": (b"\xff\xe3\x18\xc4" + bytes(4000), "audio/mpeg", ".mp3"),
    "sound in WebM": (b"\x1a\x45\xdf\xa3....webm" + bytes(2000), "audio/webm", ".weba"),
    "PNG": (PNG, "image/png", ".png"),
    "WebP labeled as PNG": (WEBP, "image/png", ".webp"),
    "GIF without a label": (GIF, "application/octet-stream", ".gif"),
    "3D model": (GLB, "model/gltf-binary", ".glb"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "image/svg+xml", ".svg"),
    "subtitles": (b"1\n00:00:00,000 --> 00:00:01,000\nHello\n", "text/plain", ".srt"),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_result_is_saved_under_the_suffix_of_its_content(kind: str, tmp_path: Path) -> None:
    body, label, suffix = KINDS[kind]
    async with generation_on_host("/result") as (generation, host, _):
        host.at("/result", body, content_type=label)
        (path,) = await generation.save(tmp_path)

        assert suffix == path.suffix
        assert {path.name: body} == files_in(tmp_path)


async def test_transcript_is_saved_as_json(tmp_path: Path) -> None:
    async with generation_on_host("/words.json") as (generation, host, _):
        host.at("/words.json", b'{"words": []}', content_type="application/json")
        (path,) = await generation.save(tmp_path)

        assert ".json" == path.suffix
