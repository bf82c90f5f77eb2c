"""Uploads of images: complete, once for the same bytes, and retried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs
import pytest

from kie_async import (
    JSON,
    AuthenticationError,
    Done,
    InvalidRequestError,
    KeyConflictError,
    KieClient,
    KieError,
    Limits,
    MarketRequest,
    Problem,
    RetryPolicy,
    SqliteJournal,
    TaskFailedError,
    UploadError,
)
from kie_async.requests.media import MediaSource
from kie_async.testing import FakeKie, Fault
from kie_async.testing.faults import Call
from tests.client.tables import client_and_fake_unchecked
from tests.helpers import KEY, Setup, assert_settled, client_and_fake, make_request
from tests.requests.samples import JPEG, PNG, WEBP, png_of

DAY = 86_400.0
HOUR = 3600.0


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


async def test_upload_is_reused_for_20_hours() -> None:
    """The service keeps it for 24."""
    async with client_and_fake(duration=0.0) as setup:
        await setup.kie.generate(make_request(0, image=PNG))
        await anyio.sleep(19.9 * HOUR)
        await setup.kie.generate(make_request(1, image=PNG))
        assert 1 == len(setup.truth.uploads)
        await anyio.sleep(0.2 * HOUR)
        await setup.kie.generate(make_request(2, image=PNG))
        assert 2 == len(setup.truth.uploads)


async def test_upload_is_reused_no_longer_than_its_answer_says() -> None:
    """The times of the answer are the service's, whose clock may differ."""
    times = {"uploadedAt": "2020-01-01T00:00:00Z", "expiresAt": "2020-01-01T06:00:00Z"}
    async with client_and_fake(
        duration=0.0, upload_expires_after=6 * HOUR, faults=[Fault("upload", "alter", after=True, data=times)]
    ) as setup:
        for number in range(4):
            await setup.kie.generate(make_request(number, image=PNG))
            await anyio.sleep(3 * HOUR)

        assert 2 == len(setup.truth.uploads)


@attrs.frozen
class ManyImages:
    """A request with any number of local images."""

    given: Mapping[str, MediaSource]
    number: int = 0
    model: str = "kling/v2-1-pro"

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:  # noqa: ARG002 (the Protocol's)
        return []

    def check(self) -> None: ...

    def files(self) -> Mapping[str, MediaSource]:
        return self.given

    def input(self, uploaded: Mapping[str, str]) -> dict[str, JSON]:
        return {"prompt": f"a cat, take {self.number}", **uploaded}


def images_in(folder: Path, kind: str, number: int = 0) -> ManyImages:
    """Return a request with images of a kind."""
    file = folder / "cat.png"
    file.write_bytes(png_of(300))
    given: dict[str, dict[str, Any]] = {
        "bytes": {"image_url": PNG},
        "a path": {"image_url": file},
        "both": {"image_url": PNG, "tail_image_url": file},
    }
    return ManyImages({field: MediaSource(content) for field, content in given[kind].items()}, number)


#: What holds a job back for 30 hours: arguments of the client and of the fake, and if a job has to be sent before.
DELAYS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "the limit": ({"limits": Limits(creates=1, window=30 * HOUR)}, {}, True),
    "the slots": (
        {"limits": Limits(in_flight=1), "retry": RetryPolicy(max_age=40 * HOUR)},
        {"duration": lambda model, _: 0.0 if model.startswith("kling") else 30 * HOUR},
        True,
    ),
    "maintenance": (
        {"retry": RetryPolicy(maintenance_timeout=40 * HOUR)},
        {"faults": [Fault("create", "code", code=455, between=(0.0, 30 * HOUR))]},
        False,
    ),
}


@pytest.mark.parametrize("kind", ["bytes", "a path", "both"])
@pytest.mark.parametrize("delay", DELAYS)
async def test_job_that_waits_for_long_is_sent_with_a_new_upload(delay: str, kind: str, tmp_path: Path) -> None:
    """The service would accept the create, and its task would fail."""
    client, service, sends_before = DELAYS[delay]
    async with client_and_fake(client=client, **{"duration": 0.0, **service}) as setup:
        if sends_before:
            await setup.kie.submit(make_request(0))
        job = await setup.kie.submit(images_in(tmp_path, kind), wait=False)
        await job.wait(timeout=100 * HOUR)

        task = setup.truth.created[-1]
        row = next(row for row in await setup.rows() if row.id == job.id)
        assert (2 if kind == "both" else 1) * 2 == len(setup.truth.uploads)
        assert {source.field: source.url for source in row.sources}.items() <= task.input.items()
        assert {source.url for source in row.sources} <= set(json.loads(row.input).values())


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("trouble", ["the file has changed", "the upload host is down"])
async def test_job_that_cannot_upload_again_is_not_sent(trouble: str, keyed: bool, tmp_path: Path) -> None:  # noqa: FBT001 (a param)
    """A job with a key waits for the next submission; without one it is cancelled."""
    client, service, _ = DELAYS["the limit"]
    key = "order 7" if keyed else None
    async with client_and_fake(client=client, duration=0.0, **service) as setup:
        await setup.kie.submit(make_request(0))
        job = await setup.kie.submit(images_in(tmp_path, "a path"), key=key, wait=False)
        await anyio.sleep(HOUR)
        if trouble == "the file has changed":
            (tmp_path / "cat.png").write_bytes(png_of(500))
        else:
            setup.fake.inject(Fault("upload", "html"))
        with pytest.raises(UploadError):
            await job.wait(timeout=40 * HOUR)

        assert 1 == len(setup.truth.create_requests)
        assert ("intent" if keyed else "cancelled") == (await setup.rows())[-1].state
        if trouble == "the upload host is down" and keyed:
            setup.fake.faults.clear()
            await setup.kie.generate(images_in(tmp_path, "a path"), key=key)
        await assert_settled(setup.kie)


async def test_journal_of_hashes_suffices_to_upload_again(tmp_path: Path) -> None:
    """The process that waits still has the request, whose image and path such a journal does not keep."""
    journal = SqliteJournal(tmp_path / "kie.db", store_inputs="hash")
    limits = Limits(creates=1, window=150.0)
    times = {"uploadedAt": "2020-01-01T00:00:00Z", "expiresAt": "2020-01-01T00:02:00Z"}
    async with FakeKie(duration=0.0, faults=[Fault("upload", "alter", after=True, data=times)]) as fake:
        async with KieClient(KEY, base_url=fake.url, journal=journal, limits=limits) as kie:
            await kie.submit(make_request(0))
            await kie.generate(images_in(tmp_path, "both"), timeout=HOUR)

        assert 4 == len(fake.truth.uploads)
        assert str(tmp_path) not in (tmp_path / "kie.db").read_bytes().decode("latin-1")


async def test_recovered_job_that_waits_for_long_uploads_again(tmp_path: Path) -> None:
    """The journal has the path and the hash of each image; the refused create has used the token."""
    async with client_and_fake(
        credits=0.0, duration=0.0, client={"limits": Limits(creates=1, window=30 * HOUR)}
    ) as setup:
        with pytest.raises(KieError):
            await setup.kie.submit(images_in(tmp_path, "a path"), key="order 7")
        setup.fake.credits = 1e4
        await (await setup.kie.recover())[0].wait(timeout=40 * HOUR)

        assert 2 == len(setup.truth.uploads)
        assert f"{setup.fake.url}{setup.truth.uploads[-1].path}" == setup.truth.created[-1].input["image_url"]


@pytest.mark.parametrize("kind", ["bytes", "a path", "both"])
async def test_upload_that_the_service_has_lost_is_made_anew(kind: str, tmp_path: Path) -> None:
    async with client_and_fake(duration=0.0, upload_expires_after=HOUR) as setup:
        await setup.kie.generate(images_in(tmp_path, kind, 0))
        await anyio.sleep(2 * HOUR)
        with pytest.raises(TaskFailedError, match="uploads it again") as raised:
            await setup.kie.generate(images_in(tmp_path, kind, 1))
        assert ("422", True) == (raised.value.fail_code, raised.value.worth_retrying)
        await setup.kie.generate(images_in(tmp_path, kind, 2))


async def test_table_retries_a_lost_upload_with_a_new_one() -> None:
    async with client_and_fake_unchecked(duration=0.0, upload_expires_after=HOUR) as setup:
        await setup.kie.upload(PNG)
        await anyio.sleep(2 * HOUR)
        async with setup.kie.map([("a", make_request(image=PNG))], retry_failed=1) as run:
            (outcome,) = [outcome async for outcome in run]

        assert isinstance(outcome, Done)
        assert (2, 2) == (len(setup.truth.uploads), len(setup.truth.created))


async def test_refused_upload_is_made_anew_for_the_same_key() -> None:
    """A create that names a lost file was refused: it was not paid."""
    body = '{"code":422,"msg":"Your media file is unavailable, please replace it.","data":null}'
    refusal = Fault("create", "body", body=body, times=1)
    async with client_and_fake(duration=0.0, faults=[refusal]) as setup:
        with pytest.raises(InvalidRequestError, match="uploaded again"):
            await setup.kie.generate(make_request(image=PNG), key="order 7")
        await setup.kie.generate(make_request(image=PNG), key="order 7")

        assert 2 == len(setup.truth.uploads)


async def test_url_that_the_caller_has_kept_is_forgotten_when_it_is_lost() -> None:
    """The client cannot replace it in the request, so a retry would fail again."""
    async with client_and_fake(duration=0.0, upload_expires_after=HOUR) as setup:
        url = await setup.kie.upload(PNG)
        await anyio.sleep(2 * HOUR)
        with pytest.raises(TaskFailedError, match="upload the file again") as raised:
            await setup.kie.generate(make_request(image=url))

        assert not raised.value.worth_retrying
        assert url != await setup.kie.upload(PNG)
        assert 2 == len(setup.truth.uploads)


async def test_other_failures_leave_uploads_known() -> None:
    async with client_and_fake(duration=0.0, fail_rate=1.0) as setup:
        for number in range(2):
            with pytest.raises(TaskFailedError):
                await setup.kie.generate(make_request(number, image=PNG))

        assert 1 == len(setup.truth.uploads)


async def test_upload_returns_a_url_for_any_request() -> None:
    async with client_and_fake(duration=0.0) as setup:
        url = await setup.kie.upload(PNG)
        assert url == await setup.kie.upload(PNG)
        await setup.kie.generate(MarketRequest(model="z-image", input={"prompt": "x", "image_url": url}))

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
