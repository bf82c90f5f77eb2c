"""Images on their way to the service, and results on their way to disk."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from aiohttp import web

from kie_async import (
    AuthenticationError,
    DownloadError,
    Generation,
    KeyConflictError,
    KieError,
    MarketRequest,
    NoResultError,
    ResultExpiredError,
    TransportError,
    UploadError,
)
from kie_async.testing import Fault, VirtualLoop
from kie_async.testing.faults import Call
from tests.client.filehost import MP4, a_result, files_in
from tests.client.world import KEY, Anything, World, a_world, ask, assert_settled
from tests.requests.samples import JPEG, PNG, WEBP, png_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAY = 86_400.0


# -- uploads ----------------------------------------------------------------------------------------------------------


def upload_paths(world: World) -> list[str]:
    """Note the path of every upload from now on."""
    paths: list[str] = []

    def look(call: Call) -> bool:
        paths.append(call.path)
        return False

    world.fake.inject(Fault("upload", "close", when=look))
    return paths


@pytest.mark.parametrize(
    ("content", "mime", "path"),
    [
        (PNG, "image/png", "/api/file-base64-upload"),
        (JPEG, "image/jpeg", "/api/file-base64-upload"),
        (WEBP, "image/webp", "/api/file-base64-upload"),
        (png_of(64 * 1024), "image/png", "/api/file-base64-upload"),
        (png_of(64 * 1024 + 1), "image/png", "/api/file-stream-upload"),
        (png_of(10 * 1024 * 1024), "image/png", "/api/file-stream-upload"),
    ],
    ids=["png", "jpeg", "webp", "64 KB", "64 KB and a byte", "10 MB"],
)
async def test_a_local_image_is_uploaded_whole(content: bytes, mime: str, path: str, tmp_path: Path) -> None:
    """Small ones as base64 in JSON, large ones as a stream; the create names their URL."""
    file = tmp_path / "cat.image"
    file.write_bytes(content)
    async with a_world(duration=0.0) as world:
        paths = upload_paths(world)
        await world.kie.generate(ask(image=file))
        (upload,) = world.truth.uploads
        (task,) = world.truth.created

        assert [path] == paths
        assert (len(content), mime) == (upload.size, upload.mime)
        assert f"{world.fake.url}{upload.path}" == task.input["image_url"]
        assert "cat.image" not in str(task.input["image_url"])
        (source,) = (await world.row()).sources
        assert ("image_url", str(file)) == (source.field, source.origin)
        await assert_settled(world.kie)


@pytest.mark.parametrize("size", [1000, 200_000])
async def test_the_same_bytes_are_uploaded_once_a_client(size: int, tmp_path: Path) -> None:
    """One after another and at once, by whatever name."""
    content = png_of(size)
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(content)
    images: list[Any] = [content, bytearray(content), tmp_path / "a.png", str(tmp_path / "b.jpg")]
    async with a_world(latency=(0.02, 0.2)) as world:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(world.kie.submit, ask(number, image=images[number % 4]))
        await world.kie.submit(ask(12, image=content))

        assert 1 == len(world.truth.uploads)
        assert 1 == len({task.input["image_url"] for task in world.truth.created})
        assert 13 == len(world.truth.created)


async def test_other_bytes_are_other_uploads_and_few_at_a_time() -> None:
    running = most = 0
    async with a_world(faults=[Fault("upload", "slow", seconds=10.0)]) as world:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(world.kie.submit, ask(number, image=png_of(100 + number)))
        starts = [upload.at for upload in world.truth.uploads]
        for at in starts:
            running = sum(at <= other < at + 9.9 for other in starts)
            most = max(most, running)

        assert 12 == len(world.truth.uploads)
        assert 4 == most


@pytest.mark.parametrize(
    "how",
    [
        {"what": "html"},
        {"what": "code", "code": 500, "status": 500},
        {"what": "reset"},
        {"what": "silence"},
        {"what": "half_body", "after": True},
        {"what": "truncated_json", "after": True, "status": 200},
        {"what": "body", "body": '{"success":true,"code":500,"msg":"busy"}'},
    ],
    ids=lambda how: how["what"],
)
@pytest.mark.parametrize("size", [1000, 200_000], ids=["base64", "stream"])
async def test_an_upload_that_fails_is_made_again(how: dict[str, Any], size: int) -> None:
    """It costs nothing, and names its file by the content."""
    async with a_world(faults=[Fault("upload", times=2, **how)]) as world:
        await world.kie.submit(ask(image=png_of(size)))

        assert 3 == len(world.truth.uploads)
        assert 1 == len(world.truth.created)
        assert {size} == {upload.size for upload in world.truth.uploads if upload.size}


@pytest.mark.parametrize("call", ["submit", "generate", "upload"])
async def test_an_upload_that_keeps_failing_ends_in_upload_error(call: str) -> None:
    """Nothing was sent, nothing was paid, and nothing is left behind."""
    async with a_world(faults=[Fault("upload", "html")]) as world:
        argument = PNG if call == "upload" else ask(image=PNG)
        with pytest.raises(UploadError, match="Nothing was paid"):
            await getattr(world.kie, call)(argument)

        assert 3 == len(world.truth.uploads)
        assert [] == world.truth.posts
        assert [] == await world.rows()
        await assert_settled(world.kie)


async def test_an_upload_that_is_refused_is_not_made_again() -> None:
    fault = Fault("upload", "body", status=400, body='{"success":false,"code":400,"msg":"no such folder"}')
    async with a_world(faults=[fault]) as world:
        with pytest.raises(UploadError, match="no such folder"):
            await world.kie.submit(ask(image=PNG))

        assert 1 == len(world.truth.uploads)
        await assert_settled(world.kie)


async def test_a_bad_key_is_told_by_the_upload() -> None:
    async with a_world(api_keys=["another"]) as world:
        with pytest.raises(AuthenticationError):
            await world.kie.submit(ask(image=PNG))
        assert [] == world.truth.posts


@pytest.mark.parametrize("url", ["", "/relative.png", "ftp://example.com/a.png", None, 7])
async def test_an_upload_without_a_usable_url_is_no_upload(url: Anything) -> None:
    async with a_world(
        faults=[Fault("upload", "alter", after=True, data={"downloadUrl": url, "fileUrl": url})]
    ) as world:
        with pytest.raises(UploadError):
            await world.kie.submit(ask(image=PNG))
        assert [] == world.truth.posts


async def test_a_failed_upload_does_not_take_the_key() -> None:
    async with a_world(faults=[Fault("upload", "html", times=3)]) as world:
        with pytest.raises(UploadError):
            await world.kie.submit(ask(image=PNG), key="order 7")
        await world.kie.generate(ask(image=PNG), key="order 7")

        assert 1 == len(world.truth.posts)
        await assert_settled(world.kie)


async def test_an_upload_is_used_no_longer_than_it_is_kept() -> None:
    """The service keeps it for three days."""
    async with a_world(duration=0.0) as world:
        await world.kie.generate(ask(0, image=PNG))
        await anyio.sleep(2 * DAY)
        await world.kie.generate(ask(1, image=PNG))
        assert 1 == len(world.truth.uploads)
        await anyio.sleep(0.9 * DAY)
        await world.kie.generate(ask(2, image=PNG))
        assert 2 == len(world.truth.uploads)


async def test_upload_returns_a_url_for_any_request() -> None:
    async with a_world(duration=0.0) as world:
        url = await world.kie.upload(PNG)
        assert url == await world.kie.upload(PNG)
        await world.kie.generate(MarketRequest(model="z-image", input={"image_url": url}))

        assert 1 == len(world.truth.uploads)
        assert url == world.truth.created[0].input["image_url"]


async def test_the_same_key_means_the_same_image_content(tmp_path: Path) -> None:
    """Where it lies does not matter, and what it holds does."""
    first, copy, other = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    first.write_bytes(PNG)
    copy.write_bytes(PNG)
    other.write_bytes(png_of(500))
    async with a_world() as world:
        job = await world.kie.submit(ask(image=first), key="order 7")
        assert job.id == (await world.kie.submit(ask(image=copy), key="order 7")).id
        for request in (ask(image=other), ask(image="https://example.com/cat.png")):
            with pytest.raises(KeyConflictError) as raised:
                await world.kie.submit(request, key="order 7")
            assert ("image_url",) == raised.value.differs
        await job
        with pytest.raises(KeyConflictError) as raised:
            await world.kie.submit(ask(image=other), key="order 7")
        assert ("image_url",) == raised.value.differs
        assert 1 == len(world.truth.posts) == len(world.truth.uploads)
        await assert_settled(world.kie)


@pytest.mark.parametrize("then", ["the same", "changed", "gone", "given as bytes"])
async def test_a_job_that_is_sent_days_later_uploads_its_image_again(then: str, tmp_path: Path) -> None:
    """If it is still what it was; a picture that has changed would be another request."""
    file = tmp_path / "cat.png"
    file.write_bytes(PNG)
    async with a_world(credits=0.0, duration=0.0) as world:
        with pytest.raises(KieError):
            await world.kie.submit(ask(image=PNG if then == "given as bytes" else file), key="order 7")
        await anyio.sleep(4 * DAY)
        world.fake.credits = 1e4
        if then == "changed":
            file.write_bytes(png_of(500))
        elif then == "gone":
            file.unlink()
        (job,) = await world.kie.recover()
        if then == "the same":
            await job
            first, second = world.truth.uploads
            assert f"{world.fake.url}{second.path}" == world.truth.created[0].input["image_url"]
            assert first.at < second.at
        else:
            with pytest.raises(KieError, match="ubmit") as raised:
                await job
            assert job.id == raised.value.intent_id
            assert [] == world.truth.created
        await assert_settled(world.kie)


# -- results on disk --------------------------------------------------------------------------------------------------


async def test_a_result_is_saved_whole(tmp_path: Path) -> None:
    """It is the very file that the service has, and the key stayed at home."""
    async with a_world(duration=0.0) as world:
        video = await world.kie.generate(ask(image=PNG))
        target = tmp_path / "new" / "folder" / "cat.mp4"
        files = await video.save(target)
        again = await video.save(str(target))

        assert [target] == files == again
        content = target.read_bytes()
        assert b"ftyp" == content[4:8]
        assert world.tasks[0].encode() in content
        assert {"new/folder/cat.mp4": content} == files_in(tmp_path)
        assert [False, False] == [download.authorized for download in world.truth.downloads]
        await assert_settled(world.kie)


async def test_a_folder_names_files_by_task_and_by_what_they_are(tmp_path: Path) -> None:
    async with a_world(duration=0.0) as world:
        video = await world.kie.generate(ask())
        picture = await world.kie.generate(MarketRequest(model="z-image", input={"prompt": "a cat"}))
        files = [*(await video.save(tmp_path)), *(await picture.save(tmp_path))]

        assert [tmp_path / f"{world.tasks[0]}-1.mp4", tmp_path / f"{world.tasks[1]}-1.png"] == files
        assert b"\x89PNG" == files[1].read_bytes()[:4]


async def test_several_results_are_numbered(tmp_path: Path) -> None:
    async with a_result("/a.mp4", "/b", "/../../c.html") as (video, host, _):
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
async def test_the_service_has_no_say_in_names(path: str, tmp_path: Path) -> None:
    async with a_result(path) as (video, host, _):
        header = {"Content-Disposition": 'attachment; filename="../../etc/passwd"'}

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=MP4, content_type="video/mp4", headers=header)

        for seen in ("/../../etc/passwd", "/a\0b.mp4", *host.answers):
            host.answers[seen] = answer
        (file,) = await video.save(tmp_path)

        assert {f"{video.task_id}-1.mp4": MP4} == files_in(tmp_path)
        assert tmp_path / f"{video.task_id}-1.mp4" == file


async def test_what_a_file_is_decides_its_suffix_and_not_its_url(tmp_path: Path) -> None:
    async with a_result("/a.mp4", "/b.mp4") as (video, host, _):
        host.at("/a.mp4", b"\x1a\x45\xdf\xa3....webm" + bytes(100), content_type="application/octet-stream")
        host.at("/b.mp4", b"nobody knows what this is" * 10, content_type="application/octet-stream")
        files = await video.save(tmp_path)

        assert [".webm", ".bin"] == [file.suffix for file in files]


async def test_a_file_that_was_there_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    target = tmp_path / "cat.mp4"
    target.write_bytes(b"the old one")
    async with a_world(duration=0.0, faults=[Fault("download", "half_body", times=3)]) as world:
        video = await world.kie.generate(ask())
        with pytest.raises(DownloadError):
            await video.save(target)
        assert {"cat.mp4": b"the old one"} == files_in(tmp_path)
        await video.save(target)
        assert b"ftyp" == target.read_bytes()[4:8]


BROKEN: dict[str, dict[str, Any]] = {
    "closed at half": {"what": "half_body"},
    "reset at half": {"what": "half_body", "cut": "reset"},
    "closed": {"what": "close"},
    "reset": {"what": "reset"},
    "half a status line": {"what": "half_status_line"},
    "no HTTP": {"what": "garbage"},
    "silence": {"what": "silence"},
    "500": {"what": "html", "status": 500},
    "503": {"what": "html", "status": 503},
    "a trickle": {"what": "slow_body", "seconds": 1.0},
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_download_that_breaks_leaves_nothing_on_disk(name: str, tmp_path: Path) -> None:
    """Three tries, then ``DownloadError``; no file and no part of one, and the task stays done."""
    async with a_world(duration=0.0, faults=[Fault("download", **BROKEN[name])]) as world:
        video = await world.kie.generate(ask())
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path / "cat.mp4")

        assert {} == files_in(tmp_path)
        assert 3 <= len(world.truth.downloads) <= 6  # aiohttp by itself repeats a GET once
        assert (video.intent_id, video.task_id) == (raised.value.intent_id, raised.value.task_id)
        assert KEY not in str(raised.value)
        assert {"succeeded": 1} == await world.states()
        world.fake.faults.clear()
        await video.save(tmp_path / "cat.mp4")
        await assert_settled(world.kie)


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "a trickle"])
async def test_a_download_that_breaks_once_is_made_again(name: str, tmp_path: Path) -> None:
    async with a_world(duration=0.0, faults=[Fault("download", times=1, **BROKEN[name])]) as world:
        video = await world.kie.generate(ask())
        (file,) = await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": file.read_bytes()} == files_in(tmp_path)


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
async def test_what_is_not_what_it_claims_is_not_kept(body: bytes, how: dict[str, Any], tmp_path: Path) -> None:
    """An error page under a video's name would be found only by whoever plays it."""
    async with a_result() as (video, host, world):
        host.at("/a.mp4", body, **how)
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path / "cat.mp4")

        assert not isinstance(raised.value, ResultExpiredError)
        assert "\n" not in str(raised.value)
        assert {} == files_in(tmp_path)
        await assert_settled(world.kie)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip"])
async def test_a_compressed_result_is_refused(encoding: str, tmp_path: Path) -> None:
    """Media is compressed already; half a gigabyte of zeros fits into 509 KiB of gzip."""
    async with a_result() as (video, host, _):
        host.at("/a.mp4", gzip.compress(MP4), headers={"Content-Encoding": encoding})
        with pytest.raises(DownloadError, match="compressed"):
            await video.save(tmp_path)

        assert {} == files_in(tmp_path)
        assert ["identity"] == [headers["Accept-Encoding"] for _, headers in host.seen]


async def test_a_result_that_announces_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with a_result() as (video, host, _):

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


# -- where results may be fetched from --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("hops", [1, 3])
async def test_redirects_are_followed_by_hand_without_the_key(status: int, hops: int, tmp_path: Path) -> None:
    """At most three, relative ones too, and every one of them by GET."""
    async with a_result("/0") as (video, host, _):
        for hop in range(hops):
            host.redirect(f"/{hop}", f"{hop + 1}" if hop % 2 else f"{host.url}/{hop + 1}", status)
        (file,) = await video.save(tmp_path / "cat.mp4")

        assert MP4 == file.read_bytes()
        assert [f"/{hop}" for hop in range(hops + 1)] == host.paths
        assert [] == [headers for _, headers in host.seen if "Authorization" in headers or "Cookie" in headers]


async def test_a_fourth_redirect_is_not_followed(tmp_path: Path) -> None:
    async with a_result("/0") as (video, host, _):
        for hop in range(9):
            host.redirect(f"/{hop}", f"/{hop + 1}")
        with pytest.raises(DownloadError, match="redirected more than 3 times"):
            await video.save(tmp_path)

        assert ["/0", "/1", "/2", "/3"] == host.paths


INWARD = [
    "http://127.0.0.1:1/secret",
    "http://localhost/secret",
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254/latest/meta-data",
    "https://10.0.0.1/secret",
    "https://[::1]/secret",
    "https://[::ffff:127.0.0.1]/secret",
    "https://2130706433/secret",
    "https://printer.local/secret",
    "https://user:hunter2@example.com/a.mp4",
    "http://example.com/a.mp4",
    "https://[::1",
    "https://example.com:99999/a.mp4",
]


@pytest.mark.parametrize("url", INWARD)
async def test_a_result_that_lies_in_the_own_network_is_never_asked_for(url: str, tmp_path: Path) -> None:
    async with a_result(url) as (video, host, world):
        with pytest.raises(DownloadError, match="is not fetched") as raised:
            await video.save(tmp_path)

        assert ([], []) == (host.seen, world.truth.downloads)
        assert {} == files_in(tmp_path)
        assert "hunter2" not in str(raised.value)
        assert (video.intent_id, video.task_id) == (raised.value.intent_id, raised.value.task_id)


@pytest.mark.parametrize(
    "location",
    [
        *INWARD,
        "//10.0.0.1/secret",
        "file:///etc/passwd",
        "data:video/mp4;base64,AAAA",
        "ftp://example.com/a.mp4",
        "javascript:alert(1)",
    ],
)
async def test_a_redirect_into_the_own_network_is_not_followed(location: str, tmp_path: Path) -> None:
    """Every hop is judged as the first one was."""
    async with a_result("/a.mp4") as (video, host, _):
        host.redirect("/a.mp4", location)
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path)

        assert ["/a.mp4"] == host.paths
        assert {} == files_in(tmp_path)
        assert "hunter2" not in str(raised.value)
        assert (video.intent_id, video.task_id) == (raised.value.intent_id, raised.value.task_id)


@pytest.mark.parametrize("location", ["", "/a.mp4", "http://", "?x=1"])
async def test_a_redirect_to_itself_ends(location: str, tmp_path: Path) -> None:
    async with a_result("/a.mp4") as (video, host, _):
        host.redirect("/a.mp4", location)
        with pytest.raises(DownloadError):
            await video.save(tmp_path)
        assert 1 <= len(host.paths) <= 4


async def test_a_redirect_to_nowhere_is_refused(tmp_path: Path) -> None:
    async with a_result() as (video, host, _):
        host.redirect("/a.mp4", None)
        with pytest.raises(DownloadError, match="302"):
            await video.save(tmp_path)


async def test_a_host_that_nobody_has_configured_is_not_asked(tmp_path: Path) -> None:
    """A private address is one that only the caller may name."""
    async with a_result(known=False) as (video, host, _):
        with pytest.raises(DownloadError, match="download_hosts"):
            await video.save(tmp_path)
        assert [] == host.seen


async def test_download_hosts_limits_the_hosts(tmp_path: Path) -> None:
    async with a_result("https://evil.example/a.mp4", client={"download_hosts": ["aiquickdraw.com"]}) as (
        video,
        host,
        _,
    ):
        with pytest.raises(DownloadError, match="download_hosts"):
            await video.save(tmp_path)
        assert [] == host.seen


# -- expired ----------------------------------------------------------------------------------------------------------


async def test_an_expired_url_is_minted_again_once(tmp_path: Path) -> None:
    async with a_world(duration=0.0, expires_after=DAY) as world:
        video = await world.kie.generate(ask())
        await anyio.sleep(2 * DAY)
        (file,) = await video.save(tmp_path / "cat.mp4")

        assert b"ftyp" == file.read_bytes()[4:8]
        assert ["download_url"] == [query.place for query in world.truth.queries]
        assert 2 == len(world.truth.downloads)
        assert [False, False] == [download.authorized for download in world.truth.downloads]
        await assert_settled(world.kie)


async def test_a_result_that_is_gone_is_told_as_such(tmp_path: Path) -> None:
    """That a link could be minted proves nothing."""
    async with a_world(duration=0.0) as world:
        video = await world.kie.generate(ask())
        await anyio.sleep(15 * DAY)
        with pytest.raises(ResultExpiredError) as raised:
            await video.save(tmp_path / "cat.mp4")

        assert (video.intent_id, video.task_id) == (raised.value.intent_id, raised.value.task_id)
        assert 1 == len(world.truth.queries)
        assert 2 == len(world.truth.downloads)
        assert {} == files_in(tmp_path)


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_gone_has_several_names(status: int, tmp_path: Path) -> None:
    fault = Fault("download", "body", body="gone", status=status, times=1)
    async with a_world(duration=0.0, faults=[fault]) as world:
        video = await world.kie.generate(ask())
        await video.save(tmp_path / "cat.mp4")

        assert 1 == len(world.truth.queries)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("download_url", "reset"),
        Fault("download_url", "silence"),
        Fault("download_url", "html"),
        Fault("download_url", "code", code=500),
        Fault("download_url", "code", code=401),
    ],
    ids=["reset", "silence", "html", "500", "401"],
)
async def test_a_link_that_could_not_be_minted_does_not_mean_that_the_result_is_gone(
    fault: Fault, tmp_path: Path
) -> None:
    """Who believes that a paid result is gone does not try again."""
    async with a_world(duration=0.0, faults=[fault]) as world:
        video = await world.kie.generate(ask())
        await anyio.sleep(2 * DAY)
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path)

        assert not isinstance(raised.value, ResultExpiredError)
        assert (video.intent_id, video.task_id) == (raised.value.intent_id, raised.value.task_id)


@pytest.mark.parametrize("link", ["http://10.0.0.1/a.mp4", "https://[::1]/a.mp4", "file:///etc/passwd"])
async def test_a_minted_link_is_judged_as_well(link: str, tmp_path: Path) -> None:
    body = json.dumps({"code": 200, "msg": "success", "data": link})
    async with a_world(duration=0.0, faults=[Fault("download_url", "body", body=body)]) as world:
        video = await world.kie.generate(ask())
        await anyio.sleep(2 * DAY)
        with pytest.raises(DownloadError):
            await video.save(tmp_path)
        assert {} == files_in(tmp_path)


# -- the disk ---------------------------------------------------------------------------------------------------------


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"")
    return folder / "file" / "cat.mp4"


def _name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300 + ".mp4")


def _loop_of_links(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop" / "cat.mp4"


def _nul(folder: Path) -> Path:
    return folder / "a\0b.mp4"


def _nowhere(_: Path) -> Path:
    return Path("/proc/kie/cat.mp4")


@pytest.mark.parametrize("where", [_below_a_file, _name_too_long, _loop_of_links, _nul, _nowhere])
async def test_a_disk_that_does_not_take_the_file_is_told_as_such(
    where: Callable[[Path], Path], tmp_path: Path
) -> None:
    """With the ids, and without a part of a file left; the result can still be saved elsewhere."""
    target = where(tmp_path)
    before = files_in(tmp_path)
    async with a_world(duration=0.0) as world:
        video = await world.kie.generate(ask())
        with pytest.raises(DownloadError, match="could not be written") as raised:
            await video.save(target)

        assert before == files_in(tmp_path)
        assert (video.intent_id, video.task_id) == (raised.value.intent_id, raised.value.task_id)
        await video.save(tmp_path / "cat.mp4")
        await assert_settled(world.kie)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond *size* bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    async with a_result() as (video, host, world):
        host.at("/a.mp4", MP4 * 60)
        with files_of_at_most(4 * 2**20), pytest.raises(DownloadError, match="could not be written"):
            await video.save(tmp_path / "cat.mp4")

        assert {} == files_in(tmp_path)
        assert 1 == len(host.seen)
        (file,) = await video.save(tmp_path / "cat.mp4")
        assert MP4 * 60 == file.read_bytes()
        await assert_settled(world.kie)


async def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep me")
    (tmp_path / "cat.mp4").symlink_to(precious)
    async with a_result() as (video, _, _):
        await video.save(tmp_path / "cat.mp4")

        assert b"keep me" == precious.read_bytes()
        assert MP4 == (tmp_path / "cat.mp4").read_bytes()
        assert not (tmp_path / "cat.mp4").is_symlink()


async def test_saving_twice_at_once_gives_one_whole_file(tmp_path: Path) -> None:
    async with a_result() as (video, host, _):
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(video.save, tmp_path / "cat.mp4")
        assert {"cat.mp4": MP4} == files_in(tmp_path)
        assert 4 == len(host.seen)


async def test_a_save_can_be_left_at_every_turn_of_the_loop(tmp_path: Path) -> None:
    """Then there is a whole file or none, never a part, and no descriptor is left open."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with a_result() as (video, host, world):
        await video.save(tmp_path / "first.mp4")
        (tmp_path / "first.mp4").unlink()
        for turn in range(1, 1000):
            task = asyncio.create_task(_save(video, tmp_path / "cat.mp4"))
            loop.at_turn(loop.turns + turn, task.cancel)
            await asyncio.wait([task])
            await anyio.sleep(0.1)
            assert files_in(tmp_path) in ({}, {"cat.mp4": MP4}), f"turn {turn}"
            (tmp_path / "cat.mp4").unlink(missing_ok=True)
            if not task.cancelled():
                break
        assert turn > 10
        await assert_settled(world.kie)
        assert [] == [name for name in open_files() if str(tmp_path) in name]
        assert len(host.seen) > 5


def open_files() -> list[str]:
    """What the descriptors of this process stand for."""
    names: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one by which the folder itself is read
            names.append(str(descriptor.readlink()))
    return names


async def _save(video: Generation, path: Path) -> None:
    await video.save(path)


async def test_a_generation_without_urls_has_nothing_to_save(tmp_path: Path) -> None:
    """Text models answer with an object; it is in the record."""
    fault = Fault("poll", "alter", data={"resultJson": '{"resultObject":{"text":"a cat"}}'})
    async with a_world(duration=0.0, faults=[fault]) as world:
        answer = await world.kie.generate(ask())
        assert ((), {"resultObject": {"text": "a cat"}}) == (answer.urls, answer.record.result)
        with pytest.raises(NoResultError) as raised:
            await answer.save(tmp_path)
        assert (answer.intent_id, answer.task_id) == (raised.value.intent_id, raised.value.task_id)


async def test_a_download_that_gets_no_connection_is_told_as_such(tmp_path: Path) -> None:
    async with a_world(duration=0.0) as world:
        video = await world.kie.generate(ask())
        await world.kie.aclose()  # its connections, too
        await world.fake.refuse_connections()
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path)
        assert not isinstance(raised.value, TransportError)
