"""The clips: valid files of the requested height, all different."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import pytest

from kie_async.testing.file_host import FileStore
from kie_async.testing.media import bundled_clip, draw_png, encode_clip, make_clip

if TYPE_CHECKING:
    from kie_async.testing.tasks import FakeTask
    from tests.contract.conftest import Serve


class Clip(NamedTuple):
    """A completely decoded clip."""

    frames: int
    width: int
    height: int
    seconds: float
    first: bytes
    last: bytes


def decode(content: bytes) -> Clip:
    """Decode every frame of *content*; keep the first and the last as small gray pictures."""
    with av.open(io.BytesIO(content), "r") as container:
        frames = list(container.decode(video=0))
        seconds = float((frames[-1].pts or 0) * (frames[-1].time_base or 0)) + 1 / 16
    ends = [bytes(frame.reformat(width=64, height=64, format="gray").planes[0]) for frame in (frames[0], frames[-1])]
    return Clip(len(frames), frames[0].width, frames[0].height, seconds, *ends)


def boxes(content: bytes) -> list[bytes]:
    """Return the names of the top-level boxes of an MP4 file in order."""
    names = []
    while content:
        names.append(content[4:8])
        content = content[int.from_bytes(content[:4], "big") :]
    return names


@pytest.mark.parametrize(("resolution", "height"), [("480p", 480), ("720p", 720), (None, 720)])
async def test_result_has_five_seconds_and_given_height(serve: Serve, resolution: str | None, height: int) -> None:
    async with serve(duration=0.0) as api:
        image = (await api.upload(draw_png("a cat", width=640, height=480))).json["data"]["downloadUrl"]
        url = await api.result_url(await api.task(image_url=image, resolution=resolution))
        answer = await api.request("GET", url)
        clip = decode(answer.body)

        assert "video/mp4" == answer.headers["Content-Type"]
        assert (81, height * 4 // 3, height) == (clip.frames, clip.width, clip.height)
        assert 4.6 <= clip.seconds <= 5.5
        assert clip.first != clip.last


async def test_clip_shows_the_uploaded_picture(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        first_frames = []
        for name in ("a cat", "a dog", "a cat"):
            image = (await api.upload(draw_png(name))).json["data"]["downloadUrl"]
            url = await api.result_url(await api.task(image_url=image, resolution="480p"))
            first_frames.append(decode((await api.request("GET", url)).body).first)

        assert first_frames[0] == first_frames[2] != first_frames[1]


async def test_clips_differ_by_a_box_with_the_task_id(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        image = (await api.upload(draw_png("a cat"))).json["data"]["downloadUrl"]
        tasks = [await api.task(image_url=image, resolution="480p") for _ in range(2)]
        contents = [(await api.request("GET", await api.result_url(task_id))).body for task_id in tasks]

        assert contents[0] != contents[1]
        for task_id, content in zip(tasks, contents, strict=True):
            assert [b"ftyp", b"moov"] == boxes(content)[:2]
            assert b"free" == boxes(content)[-1]
            assert b"\x00\x00\x00\x28free" + task_id.encode() == content[-40:]
        assert contents[0][:-40] == contents[1][:-40]


async def test_unknown_picture_is_drawn(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        url = await api.result_url(await api.task(image_url="https://host.invalid/cat.png", resolution="480p"))

        assert (81, 832, 480) == decode((await api.request("GET", url)).body)[:3]


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (b"no picture", (832, 480)),
        (draw_png("broad", width=2000, height=100), (1152, 480)),
        (draw_png("tall", width=100, height=2000), (200, 480)),
        (draw_png("odd", width=333, height=501), (320, 480)),
        (draw_png("small", width=1, height=1), (480, 480)),
    ],
)
def test_any_picture_becomes_a_clip(image: bytes, size: tuple[int, int]) -> None:
    clip = decode(make_clip(image, 480, "?"))

    assert (81, *size) == clip[:3]


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_clips_without_h264(encoder: Any) -> None:
    clip = decode(encode_clip(draw_png("a cat"), height=480, encoder=encoder))

    assert (81, 832, 480) == clip[:3]


class Encoder:
    """A fast replacement of the encoder that counts its calls."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, image: bytes | None, height: int, seed: str) -> bytes:
        self.made.append(seed)
        return f"{image!r} {height} {seed}".encode()


async def tasks_of(serve: Serve, *names: str) -> list[FakeTask]:
    """Return a task for each of these picture names, which are not stored."""
    async with serve(duration=0.0, limit=1000, credits=1e6) as api:
        for name in names:
            await api.task(image_url=f"https://host.invalid/{name}")
        return api.fake.truth.created


async def test_concurrent_requests_share_one_encoding(serve: Serve) -> None:
    encoder = Encoder()
    files = FileStore(seed=0, upload_expires_after=60.0, make_clip=encoder)
    tasks = await tasks_of(serve, *(["cat"] * 100))
    async with asyncio.TaskGroup() as group:
        requests = [group.create_task(files.result_of(task, 0.0)) for task in tasks]

    assert ["https://host.invalid/cat"] == encoder.made
    assert 100 == len({request.result() for request in requests})


async def test_cancelled_request_keeps_the_encoding(serve: Serve) -> None:
    encoder = Encoder()
    files = FileStore(seed=0, upload_expires_after=60.0, make_clip=encoder)
    one, two = await tasks_of(serve, "cat", "cat")
    cancelled = asyncio.create_task(files.result_of(one, 0.0))
    waiting = asyncio.create_task(files.result_of(two, 0.0))
    await asyncio.sleep(0)
    cancelled.cancel()

    assert b"None 720 https://host.invalid/cat" == (await waiting)[:-40]
    assert (True, 1) == (cancelled.cancelled(), len(encoder.made))


async def test_least_recently_used_clip_is_dropped(serve: Serve) -> None:
    encoder = Encoder()
    files = FileStore(seed=0, upload_expires_after=60.0, max_clips=2, make_clip=encoder)
    for task in await tasks_of(serve, "a", "b", "a", "c", "a", "b"):
        await files.result_of(task, 0.0)

    assert ["a", "b", "c", "b"] == [name[-1] for name in encoder.made]


@pytest.mark.parametrize("encoder", ["mjpeg", "libwebp"])
def test_every_image_format_is_read(encoder: str) -> None:
    with av.open(io.BytesIO(draw_png("a cat", width=320, height=240)), "r") as picture:
        frame = next(picture.decode(video=0))
    target = io.BytesIO()
    with av.open(target, "w", format="image2pipe" if encoder == "mjpeg" else "webp") as container:
        stream = container.add_stream(encoder, rate=1)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))

    assert (81, 640, 480) == decode(encode_clip(target.getvalue(), height=480))[:3]


def test_bundled_clip_is_valid() -> None:
    clip = decode(bundled_clip())

    assert (81, 640, 480) == clip[:3]
    assert 4.6 <= clip.seconds
    assert [b"ftyp", b"moov"] == boxes(bundled_clip())[:2]
    assert len(bundled_clip()) < 50_000


def test_bundled_clip_replaces_missing_video_library() -> None:
    program = (
        "import sys; sys.modules['av'] = None\n"
        "from kie_async.testing.media import bundled_clip, make_clip\n"
        "assert make_clip(None, 720, '') == bundled_clip()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


async def test_image_model_returns_a_unique_image(serve: Serve) -> None:
    async with serve(duration=0.0) as api:
        contents = []
        for _ in range(2):
            url = await api.result_url(await api.task("google/nano-banana", prompt="A cat"))
            assert url.endswith("/image.png")
            contents.append((await api.request("GET", url)).body)
        with av.open(io.BytesIO(contents[0]), "r") as picture:
            frame = next(picture.decode(video=0))

        assert (512, 512) == (frame.width, frame.height)
        assert contents[0] != contents[1]
