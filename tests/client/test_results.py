"""Saved results: each file is complete and of the right type, or absent."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kie_async import (
    DownloadError,
    MarketRequest,
    ResultExpiredError,
)
from kie_async.testing import Fault
from tests.client.filehost import MP4, files_in, generate_image, generation_on_host
from tests.helpers import KEY, assert_settled, client_and_fake, make_request
from tests.requests.samples import JPEG, PNG, WEBP


async def test_result_is_saved_completely(tmp_path: Path) -> None:
    """The saved bytes equal the service's, and the key was not sent."""
    async with client_and_fake(duration=0.0) as setup:
        video = await setup.kie.generate(make_request(image=PNG))
        target = tmp_path / "new" / "folder" / "cat.mp4"
        files = await video.save(target)
        again = await video.save(str(target))

        assert [target] == files == again
        content = target.read_bytes()
        assert b"ftyp" == content[4:8]
        assert setup.tasks[0].encode() in content
        assert {"new/folder/cat.mp4": content} == files_in(tmp_path)
        assert [False, False] == [download.authorized for download in setup.truth.downloads]
        await assert_settled(setup.kie)


async def test_folder_target_names_files_by_task_and_type(tmp_path: Path) -> None:
    async with client_and_fake(duration=0.0) as setup:
        video = await setup.kie.generate(make_request())
        picture = await setup.kie.generate(MarketRequest(model="z-image", input={"prompt": "a cat"}))
        files = [*(await video.save(tmp_path)), *(await picture.save(tmp_path))]

        assert [tmp_path / f"{setup.tasks[0]}-1.mp4", tmp_path / f"{setup.tasks[1]}-1.png"] == files
        assert b"\x89PNG" == files[1].read_bytes()[:4]


async def test_several_results_are_numbered(tmp_path: Path) -> None:
    async with generation_on_host("/a.mp4", "/b", "/../../c.html") as (video, host, _):
        host.at("/a.mp4", MP4 + b"1")
        host.at("/b", PNG, content_type="image/png")
        host.at("/c.html", MP4 + b"3")
        assert [tmp_path / name for name in ("x.mp4", "x-2.mp4", "x-3.mp4")] == await video.save(tmp_path / "x.mp4")
        named = await video.save(tmp_path)

        assert [f"{video.task_id}-1.mp4", f"{video.task_id}-2.png", f"{video.task_id}-3.mp4"] == [
            file.name for file in named
        ]
        assert 6 == len(files_in(tmp_path))


@pytest.mark.parametrize(
    "path", ["/..%2f..%2fetc%2fpasswd", "/a%00b.mp4", "/CON", "/x.exe", "/" + "n" * 300 + ".mp4", "/ü.mp4?x=1#y"]
)
async def test_service_does_not_choose_file_names(path: str, tmp_path: Path) -> None:
    async with generation_on_host(path) as (video, host, _):
        header = {"Content-Disposition": 'attachment; filename="../../etc/passwd"'}

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=MP4, content_type="video/mp4", headers=header)

        for seen in ("/../../etc/passwd", "/a\0b.mp4", *host.answers):
            host.answers[seen] = answer
        (file,) = await video.save(tmp_path)

        assert {f"{video.task_id}-1.mp4": MP4} == files_in(tmp_path)
        assert tmp_path / f"{video.task_id}-1.mp4" == file


async def test_content_decides_suffix(tmp_path: Path) -> None:
    async with generation_on_host("/a.mp4", "/b.mp4") as (video, host, _):
        host.at("/a.mp4", b"\x1a\x45\xdf\xa3....webm" + bytes(100), content_type="application/octet-stream")
        host.at("/b.mp4", b"no media type starts so" * 10, content_type="application/octet-stream")
        files = await video.save(tmp_path)

        assert [".webm", ".bin"] == [file.suffix for file in files]


async def test_existing_file_is_replaced_only_by_complete_one(tmp_path: Path) -> None:
    target = tmp_path / "cat.png"
    target.write_bytes(b"the old one")
    async with client_and_fake(duration=0.0, faults=[Fault("download", "half_body", times=3)]) as setup:
        picture = await generate_image(setup)
        with pytest.raises(DownloadError):
            await picture.save(target)
        assert {"cat.png": b"the old one"} == files_in(tmp_path)
        await picture.save(target)
        assert PNG[:8] == target.read_bytes()[:8]


BROKEN: dict[str, dict[str, Any]] = {
    "closed at half": {"kind": "half_body"},
    "reset at half": {"kind": "half_body", "disconnect": "reset"},
    "closed": {"kind": "close"},
    "reset": {"kind": "reset"},
    "half a status line": {"kind": "half_status_line"},
    "no HTTP": {"kind": "garbage"},
    "silence": {"kind": "silence"},
    "500": {"kind": "html", "status": 500},
    "503": {"kind": "html", "status": 503},
    "a trickle": {"kind": "slow_body", "seconds": 1.0},
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_download_leaves_no_file(name: str, tmp_path: Path) -> None:
    """Three attempts, then ``DownloadError``; no file and no part of one remains, and the job stays succeeded."""
    async with client_and_fake(duration=0.0, faults=[Fault("download", **BROKEN[name])]) as setup:
        picture = await generate_image(setup)
        with pytest.raises(DownloadError) as raised:
            await picture.save(tmp_path / "cat.png")

        assert {} == files_in(tmp_path)
        assert 3 <= len(setup.truth.downloads) <= 6  # aiohttp retries a GET once
        assert (picture.job_id, picture.task_id) == (raised.value.job_id, raised.value.task_id)
        assert KEY not in str(raised.value)
        assert {"succeeded": 1} == await setup.states()
        setup.fake.faults.clear()
        await picture.save(tmp_path / "cat.png")
        await assert_settled(setup.kie)


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "a trickle"])
async def test_broken_download_is_retried(name: str, tmp_path: Path) -> None:
    async with client_and_fake(duration=0.0, faults=[Fault("download", times=1, **BROKEN[name])]) as setup:
        picture = await generate_image(setup)
        (file,) = await picture.save(tmp_path / "cat.png")

        assert {"cat.png": file.read_bytes()} == files_in(tmp_path)


@pytest.mark.parametrize(
    ("body", "how"),
    [
        (b"<!doctype html><html>Error</html>", {"content_type": "text/html"}),
        (b"<!doctype html><html>Error</html>", {"content_type": "video/mp4"}),
        (b"  \n<html>", {"content_type": "application/octet-stream"}),
        (b'{"code":404,"msg":"gone"}', {"content_type": "application/json"}),
        (b'{"code":404,"msg":"gone"}', {"content_type": "video/mp4"}),
        (b"", {"content_type": "video/mp4"}),
        (b"", {"content_type": "application/octet-stream"}),
        (PNG, {"content_type": "video/mp4"}),
        (b"no video at all" * 10, {"content_type": "video/mp4"}),
        (MP4, {"status": 206}),
        (b"", {"status": 204}),
        (b"", {"status": 304}),
        (b"", {"status": 400}),
        (b"", {"status": 429}),
    ],
)
async def test_mislabeled_file_is_not_kept(body: bytes, how: dict[str, Any], tmp_path: Path) -> None:
    """An error page must not be saved under a video's name."""
    async with generation_on_host() as (video, host, setup):
        host.at("/a.mp4", body, **how)
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path / "cat.mp4")

        assert not isinstance(raised.value, ResultExpiredError)
        assert "\n" not in str(raised.value)
        assert {} == files_in(tmp_path)
        await assert_settled(setup.kie)


def _photo(size: int) -> bytes:
    """Make a JPEG with *size* bytes of padding."""
    end = JPEG.rindex(b"\xff\xd9")
    return JPEG[:end] + bytes(size) + JPEG[end:]


@pytest.mark.parametrize(
    ("content", "mime"),
    [
        (PNG, "image/png"),
        (WEBP, "image/webp"),
        (_photo(0), "image/jpeg"),
        (_photo(3 * 2**20), "image/jpeg"),
        (MP4, "video/mp4"),
    ],
    ids=["png", "webp", "jpeg", "large jpeg", "mp4"],
)
async def test_truncated_file_is_not_kept(content: bytes, mime: str, tmp_path: Path) -> None:
    """A host with half of a file may announce the length of that half."""
    async with generation_on_host() as (result, host, _):
        host.at("/a.mp4", content[:-16], content_type=mime)
        with pytest.raises(DownloadError, match="cut off"):
            await result.save(tmp_path / "cat")
        assert {} == files_in(tmp_path)
        host.at("/a.mp4", content, content_type=mime)
        await result.save(tmp_path / "cat")
        assert {"cat": content} == files_in(tmp_path)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip"])
async def test_compressed_result_is_refused(encoding: str, tmp_path: Path) -> None:
    """Media is compressed already, and 509 KiB of gzip can hold half a gigabyte of zeros."""
    async with generation_on_host() as (video, host, _):
        host.at("/a.mp4", gzip.compress(MP4), headers={"Content-Encoding": encoding})
        with pytest.raises(DownloadError, match="compressed"):
            await video.save(tmp_path)

        assert {} == files_in(tmp_path)
        assert ["identity"] == [headers["Accept-Encoding"] for _, headers in host.seen]


async def test_oversized_result_is_refused_unread(tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, _):

        async def huge(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "video/mp4", "Content-Length": str(3 * 2**30)})
            await response.prepare(request)
            await response.write(MP4)
            return response

        host.answers["/a.mp4"] = huge
        with pytest.raises(DownloadError, match="more than"):
            await video.save(tmp_path)
        assert {} == files_in(tmp_path)
        assert ["/a.mp4"] == host.paths
