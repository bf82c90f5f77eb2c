"""Uploads, results and links: their lifetimes and the responses about them."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import TYPE_CHECKING, Any

import pytest

from kie_async.testing.media import draw_png

if TYPE_CHECKING:
    from tests.contract.conftest import Serve

PNG = draw_png("a cat", width=64, height=48)
DAY = 86_400.0


async def test_upload_response_is_as_recorded(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.upload(PNG)
        fetched = await api.request("GET", answer.json["data"]["downloadUrl"], key=None)

        data = answer.json["data"]
        assert 200 == answer.status
        assert {"success": True, "code": 200, "msg": "File uploaded successfully", "data": data} == answer.json
        assert re.fullmatch(r"\d{13}-[0-9a-f]{10}\.png", data["fileName"])
        path = f"kieai/100001/images/{data['fileName']}"
        assert {
            "success": True,
            "fileName": data["fileName"],
            "filePath": path,
            "downloadUrl": f"{api.fake.url}/tempfile/{path}",
            "fileSize": len(PNG),
            "mimeType": "image/png",
            "uploadedAt": data["uploadedAt"],
        } == data
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["uploadedAt"])
        assert list(data) == ["success", "fileName", "filePath", "downloadUrl", "fileSize", "mimeType", "uploadedAt"]
        assert (200, "image/png", PNG) == (fetched.status, fetched.headers["Content-Type"], fetched.body)


@pytest.mark.parametrize("content", [b"", b"\r\n", b"--\r\n--", bytes(range(256)) * 1000, b"\r\n--boundary\r\n\r\n"])
async def test_form_keeps_any_bytes(serve: Serve, content: bytes) -> None:
    async with serve() as api:
        data = (await api.upload(content, fileName="a b.bin")).json["data"]

        assert data["downloadUrl"].endswith("/a%20b.bin")
        assert content == (await api.request("GET", data["downloadUrl"])).body


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
async def test_base64_upload_plain_or_as_data_url(serve: Serve, prefix: str) -> None:
    async with serve() as api:
        body = {"base64Data": prefix + base64.b64encode(PNG).decode(), "uploadPath": "images", "fileName": "cat.png"}
        data = (await api.request("POST", "/api/file-base64-upload", json=body)).json["data"]

        assert ("cat.png", len(PNG), "image/png") == (data["fileName"], data["fileSize"], data["mimeType"])
        assert PNG == (await api.request("GET", data["downloadUrl"])).body


async def test_an_upload_by_url_fetches_nothing(serve: Serve) -> None:
    """The host of the URL does not exist; a drawn picture replaces the file."""
    async with serve() as api:
        body = {"fileUrl": "https://host.invalid/cat.jpg", "uploadPath": "images"}
        data = (await api.request("POST", "/api/file-url-upload", json=body)).json["data"]

        assert "image/png" == data["mimeType"]
        assert b"https://host.invalid/cat.jpg" in (await api.request("GET", data["downloadUrl"])).body


async def test_the_same_name_overwrites(serve: Serve) -> None:
    async with serve() as api:
        first = (await api.upload(PNG, fileName="cat.png")).json["data"]["downloadUrl"]
        second = (await api.upload(b"other", fileName="cat.png")).json["data"]["downloadUrl"]

        assert first == second
        assert b"other" == (await api.request("GET", first)).body


@pytest.mark.parametrize(
    ("path", "body", "status", "msg"),
    [
        ("base64", {"base64Data": "aGk="}, 400, "Missing required parameter: uploadPath"),
        ("base64", {"base64Data": "?", "uploadPath": "a"}, 400, "Missing required parameter: file"),
        ("base64", {"uploadPath": "a"}, 400, "Missing required parameter: file"),
        ("url", {"uploadPath": "a"}, 400, "Missing required parameter: file"),
        ("stream", {}, 400, "Missing required parameter: uploadPath"),
    ],
)
async def test_invalid_upload_has_a_real_status(
    serve: Serve, path: str, body: dict[str, Any], status: int, msg: str
) -> None:
    async with serve() as api:
        answer = await api.request("POST", f"/api/file-{path}-upload", json=body)

        assert (status, {"success": False, "code": status, "msg": msg}) == (answer.status, answer.json)


async def test_upload_without_a_key_is_http_401(serve: Serve) -> None:
    async with serve() as api:
        answer = await api.request("POST", "/api/file-base64-upload", key=None, json={})

        refused = {"success": False, "code": 401, "msg": "Authentication failed: Invalid API Key"}
        assert (401, refused) == (answer.status, answer.json)


async def test_upload_expires_after_a_day(serve: Serve) -> None:
    async with serve() as api:
        url = (await api.upload(PNG)).json["data"]["downloadUrl"]
        await asyncio.sleep(DAY - 60)
        assert 200 == (await api.request("GET", url)).status
        await asyncio.sleep(120)
        assert 404 == (await api.request("GET", url)).status


async def test_task_with_expired_upload_fails(serve: Serve) -> None:
    async with serve(upload_expires_after=60.0, duration=10.0) as api:
        url = (await api.upload(PNG)).json["data"]["downloadUrl"]
        fresh = await api.task(image_url=url)
        await asyncio.sleep(61)
        other = (await api.upload(PNG)).json["data"]["downloadUrl"]
        stale = [
            await api.task(image_url=url),
            await api.task(image_url=other, tail_image_url=url),
            await api.task(image_urls=[other, url]),
            await api.task(elements=[{"image_urls": [url]}]),
        ]
        await asyncio.sleep(11)

        assert "success" == (await api.record(fresh))["state"]
        for task in stale:
            record = await api.record(task)
            reason = "Your media file is unavailable, please replace it."
            assert ("422", reason) == (record["failCode"], record["failMsg"])


async def test_expired_result_is_reachable_by_link(serve: Serve) -> None:
    async with serve(duration=10.0) as api:
        task_id = await api.task("z-image")
        await asyncio.sleep(11)
        url = await api.result_url(task_id)
        content = (await api.request("GET", url)).body
        await asyncio.sleep(DAY)
        assert 404 == (await api.request("GET", url)).status

        link = (await api.request("POST", "/api/v1/common/download-url", json={"url": url})).json["data"]
        assert content == (await api.request("GET", link)).body
        await asyncio.sleep(20 * 60)
        assert 404 == (await api.request("GET", link)).status


async def test_result_is_deleted_after_two_weeks(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        url = await api.result_url(await api.task("z-image"))
        await asyncio.sleep(14 * DAY)
        link = (await api.request("POST", "/api/v1/common/download-url", json={"url": url})).json["data"]

        assert 404 == (await api.request("GET", link)).status


async def test_links_are_created_for_own_urls_only(serve: Serve) -> None:
    async with serve() as api:
        foreign = await api.request("POST", "/api/v1/common/download-url", json={"url": "https://example.com/a.mp4"})
        missing = await api.request("POST", "/api/v1/common/download-url", json={"url": f"{api.fake.url}/results/x/y"})

        keyless = await api.request("POST", "/api/v1/common/download-url", json={}, key=None)

        assert b'{"code":422,"msg":"url is wrong","data":null}' == foreign.body
        assert 401 == keyless.json["code"]
        assert 422 == (await api.request("POST", "/api/v1/common/download-url", json={"url": 1})).json["code"]
        assert ["code", "msg", "data"] == list(missing.json)
        assert 404 == (await api.request("GET", missing.json["data"])).status


async def test_result_exists_after_success_only(serve: Serve) -> None:
    async with serve(duration=10.0) as api:
        task_id = await api.task("z-image")
        path = api.fake.truth.created[0].result_path
        assert 404 == (await api.request("GET", path)).status
        api.fake.fail(task_id)
        assert 404 == (await api.request("GET", path)).status
        assert [404, 404] == [(await api.request("GET", f"/results/{name}")).status for name in ("x", "x/video.mp4")]


@pytest.mark.parametrize(
    ("wanted", "status", "part", "content_range"),
    [
        ("bytes=0-9", 206, slice(0, 10), "bytes 0-9/{}"),
        ("bytes=100-", 206, slice(100, None), "bytes 100-{last}/{}"),
        ("bytes=-5", 206, slice(-5, None), "bytes {tail}-{last}/{}"),
        ("bytes=10-99999999", 206, slice(10, None), "bytes 10-{last}/{}"),
        ("bytes=99999999-", 416, slice(0, 0), "bytes */{}"),
        ("bytes=5-1,7-9", 200, slice(None), None),
        ("furlongs=1-2", 200, slice(None), None),
    ],
)
async def test_range_requests_are_answered(
    serve: Serve, wanted: str, status: int, part: slice, content_range: str | None
) -> None:
    async with serve(duration=0.0) as api:
        url = await api.result_url(await api.task("z-image"))
        whole = await api.request("GET", url)
        size = len(whole.body)
        answer = await api.request("GET", url, headers={"Range": wanted, "If-Range": whole.headers["Etag"]})

        assert ("bytes", str(size)) == (whole.headers["Accept-Ranges"], whole.headers["Content-Length"])
        assert (status, whole.body[part]) == (answer.status, answer.body)
        expected = None if content_range is None else content_range.format(size, last=size - 1, tail=size - 5)
        assert expected == answer.headers.get("Content-Range")


async def test_changed_file_is_sent_whole(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        url = await api.result_url(await api.task("z-image"))
        answer = await api.request("GET", url, headers={"Range": "bytes=5-", "If-Range": '"other"'})

        assert 200 == answer.status


async def test_file_host_requires_a_user_agent(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        url = await api.result_url(await api.task("z-image"))
        for agent in ("", "Python-urllib/3.11"):
            answer = await api.request("GET", url, headers={"User-Agent": agent})
            assert (403, b"error code: 1010") == (answer.status, answer.body)


async def test_files_are_not_compressed(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        url = await api.result_url(await api.task("z-image"))
        answer = await api.request("GET", url, headers={"Accept-Encoding": "gzip"})

        assert "Content-Encoding" not in answer.headers
        assert "image/png" == answer.headers["Content-Type"]
