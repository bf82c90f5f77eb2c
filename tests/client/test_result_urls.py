"""The URLs of results: each is checked before it is requested, and an expired one is renewed once."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from kie_async import (
    DownloadError,
    ResultExpiredError,
)
from kie_async.testing import Fault
from tests.client.filehost import MP4, files_in, generate_image, generation_on_host
from tests.helpers import assert_settled, client_and_fake, make_request

DAY = 86_400.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("hops", [1, 3])
async def test_redirects_are_followed_without_the_key(status: int, hops: int, tmp_path: Path) -> None:
    """At most three, relative ones too, each by GET."""
    async with generation_on_host("/0") as (video, host, _):
        for hop in range(hops):
            host.redirect(f"/{hop}", f"{hop + 1}" if hop % 2 else f"{host.url}/{hop + 1}", status)
        (file,) = await video.save(tmp_path / "cat.mp4")

        assert MP4 == file.read_bytes()
        assert [f"/{hop}" for hop in range(hops + 1)] == host.paths
        assert [] == [headers for _, headers in host.seen if "Authorization" in headers or "Cookie" in headers]


async def test_fourth_redirect_is_not_followed(tmp_path: Path) -> None:
    async with generation_on_host("/0") as (video, host, _):
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
async def test_result_on_a_private_host_is_not_requested(url: str, tmp_path: Path) -> None:
    async with generation_on_host(url) as (video, host, setup):
        with pytest.raises(DownloadError, match="is not downloaded") as raised:
            await video.save(tmp_path)

        assert ([], []) == (host.seen, setup.truth.downloads)
        assert {} == files_in(tmp_path)
        assert "hunter2" not in str(raised.value)
        assert (video.job_id, video.task_id) == (raised.value.job_id, raised.value.task_id)


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
async def test_redirect_to_a_private_host_is_not_followed(location: str, tmp_path: Path) -> None:
    """Every redirect is checked like the first URL."""
    async with generation_on_host("/a.mp4") as (video, host, _):
        host.redirect("/a.mp4", location)
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path)

        assert ["/a.mp4"] == host.paths
        assert {} == files_in(tmp_path)
        assert "hunter2" not in str(raised.value)
        assert (video.job_id, video.task_id) == (raised.value.job_id, raised.value.task_id)


@pytest.mark.parametrize("location", ["", "/a.mp4", "http://", "?x=1"])
async def test_redirect_loop_ends(location: str, tmp_path: Path) -> None:
    async with generation_on_host("/a.mp4") as (video, host, _):
        host.redirect("/a.mp4", location)
        with pytest.raises(DownloadError):
            await video.save(tmp_path)
        assert 1 <= len(host.paths) <= 4


async def test_invalid_redirect_is_refused(tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, _):
        host.redirect("/a.mp4", None)
        with pytest.raises(DownloadError, match="302"):
            await video.save(tmp_path)


async def test_unconfigured_private_host_is_not_requested(tmp_path: Path) -> None:
    """Only the caller may name a private address."""
    async with generation_on_host(known=False) as (video, host, _):
        with pytest.raises(DownloadError, match="download_hosts"):
            await video.save(tmp_path)
        assert [] == host.seen


async def test_download_hosts_limits_the_hosts(tmp_path: Path) -> None:
    async with generation_on_host("https://evil.example/a.mp4", client={"download_hosts": ["aiquickdraw.com"]}) as (
        video,
        host,
        _,
    ):
        with pytest.raises(DownloadError, match="download_hosts"):
            await video.save(tmp_path)
        assert [] == host.seen


async def test_expired_url_is_renewed_once(tmp_path: Path) -> None:
    async with client_and_fake(duration=0.0, expires_after=DAY) as setup:
        video = await setup.kie.generate(make_request())
        await anyio.sleep(2 * DAY)
        (file,) = await video.save(tmp_path / "cat.mp4")

        assert b"ftyp" == file.read_bytes()[4:8]
        assert ["download_url"] == [query.place for query in setup.truth.queries]
        assert 2 == len(setup.truth.downloads)
        assert [False, False] == [download.authorized for download in setup.truth.downloads]
        await assert_settled(setup.kie)


async def test_deleted_result_is_reported(tmp_path: Path) -> None:
    """A fresh link does not prove that the file exists."""
    async with client_and_fake(duration=0.0) as setup:
        video = await setup.kie.generate(make_request())
        await anyio.sleep(15 * DAY)
        with pytest.raises(ResultExpiredError) as raised:
            await video.save(tmp_path / "cat.mp4")

        assert (video.job_id, video.task_id) == (raised.value.job_id, raised.value.task_id)
        assert 1 == len(setup.truth.queries)
        assert 2 == len(setup.truth.downloads)
        assert {} == files_in(tmp_path)


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_status_codes_of_deleted_files(status: int, tmp_path: Path) -> None:
    fault = Fault("download", "body", body="gone", status=status, times=1)
    async with client_and_fake(duration=0.0, faults=[fault]) as setup:
        picture = await generate_image(setup)
        await picture.save(tmp_path / "cat.png")

        assert 1 == len(setup.truth.queries)


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
async def test_failed_renewal_does_not_mean_deleted(fault: Fault, tmp_path: Path) -> None:
    """A caller who believes that a paid result is deleted does not try again."""
    async with client_and_fake(duration=0.0, faults=[fault]) as setup:
        video = await setup.kie.generate(make_request())
        await anyio.sleep(2 * DAY)
        with pytest.raises(DownloadError) as raised:
            await video.save(tmp_path)

        assert not isinstance(raised.value, ResultExpiredError)
        assert (video.job_id, video.task_id) == (raised.value.job_id, raised.value.task_id)


@pytest.mark.parametrize("link", ["http://10.0.0.1/a.mp4", "https://[::1]/a.mp4", "file:///etc/passwd"])
async def test_fresh_link_is_checked(link: str, tmp_path: Path) -> None:
    body = json.dumps({"code": 200, "msg": "success", "data": link})
    async with client_and_fake(duration=0.0, faults=[Fault("download_url", "body", body=body)]) as setup:
        video = await setup.kie.generate(make_request())
        await anyio.sleep(2 * DAY)
        with pytest.raises(DownloadError):
            await video.save(tmp_path)
        assert {} == files_in(tmp_path)
