"""Uploads of images: complete, once for the same bytes, and retried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kie_async import (
    AuthenticationError,
    KeyConflictError,
    KieError,
    MarketRequest,
    UploadError,
)
from kie_async.testing import Fault
from kie_async.testing.faults import Call
from tests.helpers import Setup, assert_settled, client_and_fake, make_request
from tests.requests.samples import JPEG, PNG, WEBP, png_of

DAY = 86_400.0


def upload_paths(setup: Setup) -> list[str]:
    """Record the path of every upload."""
    paths: list[str] = []

    def record_path(call: Call) -> bool:
        paths.append(call.path)
        return False

    setup.fake.inject(Fault("upload", "close", when=record_path))
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
async def test_local_image_is_uploaded_completely(content: bytes, mime: str, path: str, tmp_path: Path) -> None:
    """Small images as base64 in JSON, large ones as a form; the create request has their URL."""
    file = tmp_path / "cat.image"
    file.write_bytes(content)
    async with client_and_fake(duration=0.0) as setup:
        paths = upload_paths(setup)
        await setup.kie.generate(make_request(image=file))
        (upload,) = setup.truth.uploads
        (task,) = setup.truth.created

        assert [path] == paths
        assert (len(content), mime) == (upload.size, upload.mime)
        assert f"{setup.fake.url}{upload.path}" == task.input["image_url"]
        assert "cat.image" not in str(task.input["image_url"])
        (source,) = (await setup.row()).sources
        assert ("image_url", str(file)) == (source.field, source.origin)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("size", [1000, 200_000])
async def test_same_bytes_are_uploaded_once_per_client(size: int, tmp_path: Path) -> None:
    """Consecutively and concurrently, with any file name."""
    content = png_of(size)
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(content)
    images: list[Any] = [content, bytearray(content), tmp_path / "a.png", str(tmp_path / "b.jpg")]
    async with client_and_fake(latency=(0.02, 0.2)) as setup:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(setup.kie.submit, make_request(number, image=images[number % 4]))
        await setup.kie.submit(make_request(12, image=content))

        assert 1 == len(setup.truth.uploads)
        assert 1 == len({task.input["image_url"] for task in setup.truth.created})
        assert 13 == len(setup.truth.created)


async def test_different_images_are_uploaded_a_few_at_a_time() -> None:
    running = most = 0
    async with client_and_fake(faults=[Fault("upload", "slow", seconds=10.0)]) as setup:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(setup.kie.submit, make_request(number, image=png_of(100 + number)))
        starts = [upload.at for upload in setup.truth.uploads]
        for at in starts:
            running = sum(at <= other < at + 9.9 for other in starts)
            most = max(most, running)

        assert 12 == len(setup.truth.uploads)
        assert 4 == most


@pytest.mark.parametrize(
    "how",
    [
        {"kind": "html"},
        {"kind": "code", "code": 500, "status": 500},
        {"kind": "reset"},
        {"kind": "silence"},
        {"kind": "half_body", "after": True},
        {"kind": "truncated_json", "after": True, "status": 200},
        {"kind": "body", "body": '{"success":true,"code":500,"msg":"busy"}'},
    ],
    ids=lambda how: how["kind"],
)
@pytest.mark.parametrize("size", [1000, 200_000], ids=["base64", "stream"])
async def test_failed_upload_is_retried(how: dict[str, Any], size: int) -> None:
    """It is free of charge, and the content names the file."""
    async with client_and_fake(faults=[Fault("upload", times=2, **how)]) as setup:
        await setup.kie.submit(make_request(image=png_of(size)))

        assert 3 == len(setup.truth.uploads)
        assert 1 == len(setup.truth.created)
        assert {size} == {upload.size for upload in setup.truth.uploads if upload.size}


@pytest.mark.parametrize("call", ["submit", "generate", "upload"])
async def test_repeatedly_failing_upload_raises(call: str) -> None:
    """Nothing was sent or paid, and nothing is left in the client."""
    async with client_and_fake(faults=[Fault("upload", "html")]) as setup:
        argument = PNG if call == "upload" else make_request(image=PNG)
        with pytest.raises(UploadError, match="Nothing was paid"):
            await getattr(setup.kie, call)(argument)

        assert 3 == len(setup.truth.uploads)
        assert [] == setup.truth.create_requests
        assert [] == await setup.rows()
        await assert_settled(setup.kie)


async def test_refused_upload_is_not_retried() -> None:
    fault = Fault("upload", "body", status=400, body='{"success":false,"code":400,"msg":"no such folder"}')
    async with client_and_fake(faults=[fault]) as setup:
        with pytest.raises(UploadError, match="no such folder"):
            await setup.kie.submit(make_request(image=PNG))

        assert 1 == len(setup.truth.uploads)
        await assert_settled(setup.kie)


async def test_upload_reports_an_invalid_api_key() -> None:
    async with client_and_fake(api_keys=["another"]) as setup:
        with pytest.raises(AuthenticationError):
            await setup.kie.submit(make_request(image=PNG))
        assert [] == setup.truth.create_requests


@pytest.mark.parametrize("url", ["", "/relative.png", "ftp://example.com/a.png", None, 7])
async def test_upload_without_a_valid_url_fails(url: Any) -> None:
    async with client_and_fake(
        faults=[Fault("upload", "alter", after=True, data={"downloadUrl": url, "fileUrl": url})]
    ) as setup:
        with pytest.raises(UploadError):
            await setup.kie.submit(make_request(image=PNG))
        assert [] == setup.truth.create_requests


async def test_failed_upload_does_not_use_the_key() -> None:
    async with client_and_fake(faults=[Fault("upload", "html", times=3)]) as setup:
        with pytest.raises(UploadError):
            await setup.kie.submit(make_request(image=PNG), key="order 7")
        await setup.kie.generate(make_request(image=PNG), key="order 7")

        assert 1 == len(setup.truth.create_requests)
        await assert_settled(setup.kie)


async def test_upload_is_reused_until_it_expires() -> None:
    """The service keeps it for three days."""
    async with client_and_fake(duration=0.0) as setup:
        await setup.kie.generate(make_request(0, image=PNG))
        await anyio.sleep(2 * DAY)
        await setup.kie.generate(make_request(1, image=PNG))
        assert 1 == len(setup.truth.uploads)
        await anyio.sleep(0.9 * DAY)
        await setup.kie.generate(make_request(2, image=PNG))
        assert 2 == len(setup.truth.uploads)


async def test_upload_returns_a_url_for_any_request() -> None:
    async with client_and_fake(duration=0.0) as setup:
        url = await setup.kie.upload(PNG)
        assert url == await setup.kie.upload(PNG)
        await setup.kie.generate(MarketRequest(model="z-image", input={"image_url": url}))

        assert 1 == len(setup.truth.uploads)
        assert url == setup.truth.created[0].input["image_url"]


async def test_key_is_bound_to_the_image_content(tmp_path: Path) -> None:
    """The path does not matter, but the content does."""
    first, copy, other = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    first.write_bytes(PNG)
    copy.write_bytes(PNG)
    other.write_bytes(png_of(500))
    async with client_and_fake() as setup:
        job = await setup.kie.submit(make_request(image=first), key="order 7")
        assert job.id == (await setup.kie.submit(make_request(image=copy), key="order 7")).id
        for request in (make_request(image=other), make_request(image="https://example.com/cat.png")):
            with pytest.raises(KeyConflictError) as raised:
                await setup.kie.submit(request, key="order 7")
            assert ("image_url",) == raised.value.differs
        await job
        with pytest.raises(KeyConflictError) as raised:
            await setup.kie.submit(make_request(image=other), key="order 7")
        assert ("image_url",) == raised.value.differs
        assert 1 == len(setup.truth.create_requests) == len(setup.truth.uploads)
        await assert_settled(setup.kie)


@pytest.mark.parametrize("then", ["the same", "changed", "gone", "given as bytes"])
async def test_late_job_uploads_its_image_again(then: str, tmp_path: Path) -> None:
    """Only if the image is unchanged: with a changed image it would be another request."""
    file = tmp_path / "cat.png"
    file.write_bytes(PNG)
    async with client_and_fake(credits=0.0, duration=0.0) as setup:
        with pytest.raises(KieError):
            await setup.kie.submit(make_request(image=PNG if then == "given as bytes" else file), key="order 7")
        await anyio.sleep(4 * DAY)
        setup.fake.credits = 1e4
        if then == "changed":
            file.write_bytes(png_of(500))
        elif then == "gone":
            file.unlink()
        (job,) = await setup.kie.recover()
        if then == "the same":
            await job
            first, second = setup.truth.uploads
            assert f"{setup.fake.url}{second.path}" == setup.truth.created[0].input["image_url"]
            assert first.at < second.at
        else:
            with pytest.raises(KieError, match="ubmit") as raised:
                await job
            assert job.id == raised.value.job_id
            assert [] == setup.truth.created
        await assert_settled(setup.kie)
