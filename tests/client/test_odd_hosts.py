"""File hosts that are odd rather than hostile: their labels, encodings, headers and refusals do not lose a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from aiohttp import web
from multidict import CIMultiDict

from kie_async import JSON, ConfigurationError, DownloadError, KieClient, ResultExpiredError
from kie_async.testing import Fault
from tests.client.filehost import MP4, FileHost, Handler, files_in, generation_on_host, make_mp4
from tests.helpers import KEY, assert_settled
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


# -- refusals ----------------------------------------------------------------------------------------------------------


def refuse_unless(allowed: Callable[[CIMultiDict[str]], bool], status: int = 403) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        if allowed(CIMultiDict(request.headers)):
            return web.Response(body=MP4, content_type="video/mp4")
        return web.Response(body=b"<html>Forbidden</html>", status=status, content_type="text/html")

    return answer


def is_browser(headers: CIMultiDict[str]) -> bool:
    return headers["User-Agent"].startswith("Mozilla/5.0")


@pytest.mark.parametrize("link", [True, False], ids=["fresh link", "no fresh link"])
@pytest.mark.parametrize("status", [403, 401])
async def test_host_that_wants_a_browser_gets_one(status: int, tmp_path: Path, *, link: bool) -> None:
    """The client's own User-Agent goes first, and the API key never goes there."""
    async with generation_on_host() as (video, host, setup):
        host.answers["/a.mp4"] = host.answers["/fresh.mp4"] = refuse_unless(is_browser, status)
        data: dict[str, JSON] = (
            {"data": f"{host.url}/fresh.mp4"} if link else {"code": 422, "msg": "url is wrong", "data": None}
        )
        body = json.dumps({"code": 200, "msg": "success", **data})
        setup.fake.inject(Fault("download_url", "body", body=body))
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": MP4} == files_in(tmp_path)
        assert (["/a.mp4", "/fresh.mp4", "/fresh.mp4"] if link else ["/a.mp4", "/a.mp4"]) == host.paths
        assert [False] * (len(host.seen) - 1) + [True] == [is_browser(headers) for _, headers in host.seen]
        assert all("Authorization" not in headers for _, headers in host.seen)
        assert 1 == len(setup.truth.queries)


@pytest.mark.parametrize("status", [400, 401, 403, 406, 407, 421, 451, 499])
@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}], ids=["plain", "gzip"])
async def test_refused_url_is_replaced_by_a_fresh_link(headers: dict[str, str], status: int, tmp_path: Path) -> None:
    """Buckets answer 400 to an expired URL, and gateways in front of them anything, also compressed."""
    async with generation_on_host() as (video, host, setup):
        host.at("/a.mp4", b"<html>no</html>", status=status, content_type="text/html", headers=headers)
        body = json.dumps({"code": 200, "msg": "success", "data": f"{host.url}/fresh.mp4"})
        setup.fake.inject(Fault("download_url", "body", body=body))
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": MP4} == files_in(tmp_path)
        assert ["/a.mp4", "/fresh.mp4"] == host.paths


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 530])
@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}], ids=["plain", "gzip"])
async def test_busy_host_is_asked_again(headers: dict[str, str], status: int, tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, setup):

        async def busy_once(_: web.Request) -> web.Response:
            if len(host.seen) == 1:
                return web.Response(status=status, body=b"<html>", content_type="text/html", headers=headers)
            return web.Response(body=MP4, content_type="video/mp4")

        host.answers["/a.mp4"] = busy_once
        await video.save(tmp_path / "cat.mp4")

        assert ["/a.mp4", "/a.mp4"] == host.paths
        assert [] == setup.truth.queries


async def refused_save(
    folder: Path, *, status: int = 403, after: float = 0.0, **client: Any
) -> tuple[DownloadError, FileHost]:
    async with generation_on_host(client=client) as (video, host, setup):
        host.answers["/a.mp4"] = refuse_unless(lambda _: False, status)
        body = json.dumps({"code": 200, "msg": "success", "data": f"{host.url}/a.mp4"})
        setup.fake.inject(Fault("download_url", "body", body=body))
        await anyio.sleep(after)
        with pytest.raises(DownloadError) as raised:
            await video.save(folder)
        assert {} == files_in(folder)
        await assert_settled(setup.kie)
        return raised.value, host


async def test_refusal_of_a_new_result_says_what_was_tried(tmp_path: Path) -> None:
    error, host = await refused_save(tmp_path, after=1.0)

    assert not isinstance(error, ResultExpiredError)
    assert error.worth_retrying
    for part in ("HTTP 403", "its URL", "a fresh link", "a browser's User-Agent", "download_headers"):
        assert part in str(error)
    assert 3 == len(host.seen)


@pytest.mark.parametrize(
    ("status", "expired"), [(400, True), (401, True), (403, True), (407, False), (421, False), (451, False)]
)
async def test_refusal_past_the_lifetime_of_the_url_means_expired(
    status: int, tmp_path: Path, *, expired: bool
) -> None:
    """A proxy's refusal does not."""
    error, _ = await refused_save(tmp_path, status=status, after=90_000.0)

    assert expired == isinstance(error, ResultExpiredError)
    assert expired != error.worth_retrying


@pytest.mark.parametrize("given", [{}, {"User-Agent": "mine"}, {"user-agent": "mine", "Referer": "https://kie.ai/"}])
async def test_given_headers_are_sent_and_no_others_are_tried(given: dict[str, str], tmp_path: Path) -> None:
    error, host = await refused_save(tmp_path, download_headers=given)

    assert "browser" not in str(error)
    assert 2 == len(host.seen)
    for _, headers in host.seen:
        assert not is_browser(headers)
        assert set(given.items()) <= {(name, headers[name]) for name in given}


async def test_host_that_wants_a_referer_gets_the_callers(tmp_path: Path) -> None:
    headers = {"Referer": "https://kie.ai/"}
    async with generation_on_host("/0", client={"download_headers": headers}) as (video, host, _):
        host.redirect("/0", "/a.mp4")
        host.answers["/a.mp4"] = refuse_unless(lambda sent: sent.get("Referer") == headers["Referer"])
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": MP4} == files_in(tmp_path)
        assert ["/0", "/a.mp4"] == host.paths


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"},
        {"cookie": "a=b"},
        {"Range": "bytes=0-"},
        {"Host": "other"},
        {"X-Split": "a\r\nEvil: b"},
        {"Bad Name": "x"},
        {"X-Umlaut": "ä"},
        {"X-Number": 7},
        ["User-Agent"],
        "User-Agent: x",
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers: Any) -> None:
    with pytest.raises(ConfigurationError, match="download_headers"):
        KieClient(KEY, download_headers=headers)


@pytest.mark.parametrize(
    "networks",
    ["198.18.0.0/15", ["198.18.0.1/15"], ["fake"], ["::/129"], [""], [7], 7, ["http://198.18.0.0/15"], ["1.2.3.4/-1"]],
)
def test_networks_that_are_none_are_refused(networks: Any) -> None:
    with pytest.raises(ConfigurationError, match="allow_networks"):
        KieClient(KEY, allow_networks=networks)


async def test_address_of_an_allowed_network_is_fetched_from(tmp_path: Path) -> None:
    """The URL names the address; its port speaks no TLS, so that the attempt to connect fails."""
    async with generation_on_host(known=False, client={"allow_networks": ["127.0.0.0/8"]}) as (video, host, _):
        tls_url = host.url.replace("http://", "https://") + "/a.mp4"
        allowed = attrs.evolve(video, record=attrs.evolve(video.record, result_urls=(tls_url,)))
        with pytest.raises(DownloadError, match="interrupted") as raised:
            await allowed.save(tmp_path)

        assert "public" not in str(raised.value)
