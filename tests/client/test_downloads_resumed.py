"""Interrupted downloads, in the middle of a file or of a process: resumed only with the same version of the file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import anyio
import attrs
import pytest
from aiohttp import web

from kie_async import DownloadError, Generation
from kie_async._core.range_responses import Version
from kie_async._io.files.part_files import STEP, PartFile
from kie_async.testing import Fault
from tests.client.filehost import MP4, FileHost, files_in, generation_on_host, make_mp4
from tests.helpers import KEY, assert_settled, client_and_fake, make_request

KILO = 1024
TAG = '"one"'


class InterruptingFile:
    """
    A file on a host that closes every connection after some bytes, and supports ranges.

    Args:
        content: The file.

        piece: The number of bytes after which a connection is closed; None for never.

        headers: The headers that identify the version.
    """

    def __init__(self, content: bytes, *, piece: int | None, headers: dict[str, str] | None = None) -> None:
        self.content = content
        self.piece = piece
        self.headers = {"ETag": TAG} if headers is None else headers
        self.sent = 0
        #: The requested ranges: the first byte, and the condition.
        self.asked: list[tuple[int, str | None]] = []
        #: A hook that may change the headers of a partial response.
        self.change: Callable[[dict[str, str]], dict[str, str]] = lambda headers: headers
        self.status = 206

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        condition = request.headers.get("If-Range")
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        at = int(wanted[1]) if wanted else 0
        self.asked.append((at, condition))
        known = self.headers.get("ETag") or self.headers.get("Last-Modified")
        headers, status = {"Content-Type": "video/mp4", **self.headers}, 200
        if wanted and condition == known:
            size = len(self.content)
            status = self.status
            headers = self.change({**headers, "Content-Range": f"bytes {at}-{size - 1}/{size}"})
        else:
            at = 0
        rest = self.content[at:]
        response = web.StreamResponse(status=status, headers={"Content-Length": str(len(rest)), **headers})
        await response.prepare(request)
        piece = rest[: self.piece]
        self.sent += len(piece)
        await response.write(piece)
        if len(piece) < len(rest):
            assert request.transport is not None
            await anyio.sleep(0.01)
            request.transport.close()
        return response


async def test_download_interrupted_every_64_kb_completes(tmp_path: Path) -> None:
    """Each byte is requested once, and each range request names the version."""
    content = make_mp4(1024 * KILO + 77)
    async with generation_on_host() as (video, host, setup):
        file = host.answers["/a.mp4"] = InterruptingFile(content, piece=64 * KILO)
        (path,) = await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": content} == files_in(tmp_path)
        assert tmp_path / "cat.mp4" == path
        assert [(0, None), *((n * 64 * KILO, TAG) for n in range(1, 17))] == file.asked
        assert len(content) == file.sent
        await assert_settled(setup.kie)


@pytest.mark.parametrize("at", [1, 15, 16, 17, 63, 64, 65, 100_000, len(MP4) - 1])
async def test_interruption_at_any_byte_keeps_the_file_right(at: int, tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, _):
        file = InterruptingFile(MP4, piece=at)

        async def once(request: web.Request) -> web.StreamResponse:
            response = await file(request)
            file.piece = None
            return response

        host.answers["/a.mp4"] = once
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": MP4} == files_in(tmp_path)
        assert [(0, None), (at, TAG)] == file.asked


@pytest.mark.parametrize(
    ("status", "header", "least"),
    [
        (429, "30", 30.0),
        (503, "1.5", 1.5),
        (503, "Wed, 21 Oct 2026 07:29:00 GMT", 60.0),
        (502, "Wed, 21 Oct 2099 07:29:00 GMT", 300.0),
        (503, "Wed, 21 Oct 2015 07:29:00 GMT", 0.0),
        (503, "soon", 0.0),
    ],
)
async def test_download_waits_as_long_as_retry_after_asks(
    status: int, header: str, least: float, tmp_path: Path
) -> None:
    async with generation_on_host() as (video, host, _):
        file = InterruptingFile(MP4, piece=None)
        asked_at: list[float] = []

        async def busy_once(request: web.Request) -> web.StreamResponse:
            asked_at.append(anyio.current_time())
            if len(asked_at) > 1:
                return await file(request)
            headers = {"Retry-After": header, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
            return web.Response(status=status, headers=headers)

        host.answers["/a.mp4"] = busy_once
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": MP4} == files_in(tmp_path)
        assert least <= asked_at[1] - asked_at[0] <= least + 1.0


async def test_changed_file_restarts(tmp_path: Path) -> None:
    """Two halves of two versions would be a file that never existed."""
    before, after = make_mp4(200 * KILO), make_mp4(150 * KILO)
    async with generation_on_host() as (video, host, _):
        file = InterruptingFile(before, piece=100 * KILO)

        async def changing(request: web.Request) -> web.StreamResponse:
            response = await file(request)
            file.content, file.headers, file.piece = after, {"ETag": '"two"'}, None
            return response

        host.answers["/a.mp4"] = changing
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": after} == files_in(tmp_path)
        assert [(0, None), (100 * KILO, TAG)] == file.asked


def boxes(*named: tuple[bytes, int]) -> bytes:
    """Return a file of boxes, each with a name, a size and bytes of its own."""
    return b"".join(
        (size + 8).to_bytes(4, "big") + name + bytes((n * 7 + size) % 251 for n in range(size)) for name, size in named
    )


def png(seed: int) -> bytes:
    """Return a PNG with data in several chunks, of one size for all seeds."""
    chunks = [(b"IHDR", bytes(13)), *((b"IDAT", bytes([seed]) * 9000) for _ in range(10)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + name + data + crc32(name + data).to_bytes(4, "big") for name, data in chunks
    )


def webp(first: int) -> bytes:
    """Return a WebP of two chunks, of one size wherever the second begins."""
    body = b"WEBP" + b"".join(
        name + size.to_bytes(4, "little") + size.to_bytes(4, "big") * (size // 4)
        for name, size in ((b"VP8X", first), (b"VP8 ", 110_000 - first))
    )
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def glb(first: int) -> bytes:
    """Return a 3D model of two chunks, of one size wherever the second begins."""
    chunks = b"".join(
        size.to_bytes(4, "little") + name + size.to_bytes(4, "big") * (size // 4)
        for name, size in ((b"JSON", first), (b"BIN\0", 110_000 - first))
    )
    return b"glTF\2\0\0\0" + (12 + len(chunks)).to_bytes(4, "little") + chunks


MODEL = "model/gltf-binary"
HEAD_BOX = b"\0\0\0\x10ftypisom\0\0\2\0"
MOVIE_LAST = HEAD_BOX + boxes((b"mdat", 90_000), (b"moov", 20_000))
MOVIE_FIRST = HEAD_BOX + boxes((b"moov", 20_000), (b"mdat", 90_000))
OTHER_MP4 = MP4[:24] + bytes(len(MP4) - 24)
SAME_TAG: dict[str, tuple[bytes, bytes, dict[str, str], dict[str, str]]] = {
    "a later date": (MP4, OTHER_MP4, {"Last-Modified": "x"}, {"Last-Modified": "y"}),
    "another digest": (MP4, OTHER_MP4, {"Repr-Digest": "sha-256=:a:"}, {"Repr-Digest": "sha-256=:b:"}),
    "another version of a bucket": (MP4, OTHER_MP4, {"x-amz-version-id": "1"}, {"x-amz-version-id": "2"}),
    "another generation": (MP4, OTHER_MP4, {"X-Goog-Generation": "1"}, {"X-Goog-Generation": "2"}),
    "another kind": (MP4, png(1), {}, {"Content-Type": "image/png"}),
    "another size": (MP4, make_mp4(110_000), {}, {}),
    "other boxes": (MOVIE_LAST, MOVIE_FIRST, {}, {}),
    "one box of zeros": (MOVIE_LAST, HEAD_BOX + b"\0\1\xad\xc0mdat" + bytes(110_008), {}, {}),
    "other chunks": (png(1), png(2), {"Content-Type": "image/png"}, {"Content-Type": "image/png"}),
    "other chunks of WebP": (
        webp(90_000),
        webp(20_000),
        {"Content-Type": "image/webp"},
        {"Content-Type": "image/webp"},
    ),
    "other chunks of GLB": (glb(90_000), glb(20_000), {"Content-Type": MODEL}, {"Content-Type": MODEL}),
}


@pytest.mark.parametrize("change", SAME_TAG)
async def test_other_bytes_under_the_same_tag_are_noticed(change: str, tmp_path: Path) -> None:
    """Two halves of two files would be a file that never existed."""
    before, after, first, then = SAME_TAG[change]
    async with generation_on_host() as (video, host, _):
        file = InterruptingFile(before, piece=50_000, headers={"ETag": TAG, **first})

        async def changing(request: web.Request) -> web.StreamResponse:
            response = await file(request)
            file.content, file.headers, file.piece = after, {"ETag": TAG, **then}, None
            return response

        host.answers["/a.mp4"] = changing
        await video.save(tmp_path / "cat")

        assert {"cat": after} == files_in(tmp_path)
        assert [(0, None), (50_000, TAG)] == file.asked[:2]
        assert 3 == len(file.asked)


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (MOVIE_FIRST, "video/mp4"),
        (MOVIE_LAST, "video/mp4"),
        (MP4, "video/mp4"),
        (png(3), "image/png"),
        (webp(400), "image/webp"),
        (glb(400), MODEL),
    ],
    ids=["first", "last", "mp4", "png", "webp", "glb"],
)
async def test_sound_file_is_resumed(content: bytes, label: str, tmp_path: Path) -> None:
    headers = {"ETag": TAG, "Last-Modified": "x", "Content-Type": label}
    async with generation_on_host() as (video, host, _):
        file = host.answers["/a.mp4"] = InterruptingFile(content, piece=30_000, headers=headers)
        await video.save(tmp_path / "cat")

        assert {"cat": content} == files_in(tmp_path)
        assert len(content) == file.sent


@pytest.mark.parametrize(
    "headers",
    [{}, {"ETag": f"W/{TAG}"}, {"Last-Modified": "Wed, 01 Jan 2098 00:00:00 GMT"}],
    ids=["none", "weak", "new"],
)
async def test_file_without_strong_version_restarts(headers: dict[str, str], tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, _):
        file = host.answers["/a.mp4"] = InterruptingFile(MP4, piece=50_000, headers=headers)
        with pytest.raises(DownloadError, match="interrupted"):
            await video.save(tmp_path / "cat.mp4")
        assert {(0, None)} == set(file.asked)
        file.piece = None
        await video.save(tmp_path / "cat.mp4")
        assert {"cat.mp4": MP4} == files_in(tmp_path)


async def test_file_with_reliable_date_is_resumed(tmp_path: Path) -> None:
    date = "Wed, 01 Jan 2020 00:00:00 GMT"
    async with generation_on_host() as (video, host, _):
        file = host.answers["/a.mp4"] = InterruptingFile(MP4, piece=60_000, headers={"Last-Modified": date})
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": MP4} == files_in(tmp_path)
        assert [(0, None), (60_000, date)] == file.asked


WRONG: dict[str, dict[str, str]] = {
    "another beginning": {"Content-Range": "bytes 0-102411/102412"},
    "another end": {"Content-Range": "bytes 50000-60000/102412", "Content-Length": "10001"},
    "another size": {"Content-Range": "bytes 50000-102411/102413"},
    "no range": {"Content-Range": ""},
    "no size": {"Content-Range": "bytes 50000-102411/*"},
    "another version": {"ETag": '"two"'},
    "several parts": {"Content-Range": "", "Content-Type": "multipart/byteranges; boundary=x"},
    "compressed": {"Content-Encoding": "gzip"},
    "a video that is a page": {"Content-Type": "image/png"},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_range_response_is_not_written(wrong: str, tmp_path: Path) -> None:
    """The file is absent or right, and is complete once the host responds correctly."""
    async with generation_on_host() as (video, host, setup):
        file = host.answers["/a.mp4"] = InterruptingFile(MP4, piece=50_000)
        file.change = lambda headers: {**headers, **WRONG[wrong]}
        with pytest.raises(DownloadError):
            await video.save(tmp_path / "cat.mp4")

        assert {} == files_in(tmp_path)
        assert len(file.asked) <= 6
        file.change = lambda headers: headers
        await video.save(tmp_path / "cat.mp4")
        assert {"cat.mp4": MP4} == files_in(tmp_path)
        await assert_settled(setup.kie)


async def test_short_chunked_rest_is_not_complete(tmp_path: Path) -> None:
    """Chunks have an end of their own, and the structure of this file type does not reveal truncation."""
    content = b"\x1a\x45\xdf\xa3....webm" + bytes(100_000)
    async with generation_on_host() as (video, host, _):
        file = InterruptingFile(content, piece=50_000)

        async def short(request: web.Request) -> web.StreamResponse:
            if len(file.asked) != 1:
                return await file(request)
            file.asked.append((0, request.headers["If-Range"]))
            last = len(content) - 1
            headers = {"ETag": TAG, "Content-Type": "video/webm", "Content-Range": f"bytes 50000-{last}/{last + 1}"}
            response = web.StreamResponse(status=206, headers=headers)
            await response.prepare(request)
            await response.write(content[50_000:60_000])
            file.piece = None
            return response

        host.answers["/a.mp4"] = short
        await video.save(tmp_path / "cat.webm")
        assert {"cat.webm": content} == files_in(tmp_path)
        assert (60_000, TAG) == file.asked[-1]


@pytest.mark.parametrize("status", [416, 200])
async def test_host_may_refuse_ranges_and_send_the_whole(status: int, tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, _):
        file = InterruptingFile(MP4, piece=50_000)
        file.status = status
        if status == 200:
            file.change = lambda _: {"Content-Type": "video/mp4", "ETag": TAG, "Content-Length": str(len(MP4))}

        async def whole(request: web.Request) -> web.StreamResponse:
            if len(file.asked) == 2:
                file.piece = None
            if len(file.asked) == 1 and status == 200:
                return web.Response(body=MP4, content_type="video/mp4", headers={"ETag": TAG})
            return await file(request)

        host.answers["/a.mp4"] = whole
        await video.save(tmp_path / "cat.mp4")
        assert {"cat.mp4": MP4} == files_in(tmp_path)


async def test_url_that_expires_midway_is_resumed(tmp_path: Path) -> None:
    """The fresh link leads to the same version of the same file."""
    faults = [
        Fault("download", "half_body", times=1),
        Fault("download", "body", body="gone", status=403, times=1),
    ]
    async with client_and_fake(duration=0.0, faults=faults) as setup:
        video = await setup.kie.generate(make_request())
        (path,) = await video.save(tmp_path / "cat.mp4")

        assert b"ftyp" == path.read_bytes()[4:8]
        assert [path.name] == list(files_in(tmp_path))
        assert ["download_url"] == [query.place for query in setup.truth.queries]


# -- what a killed process leaves -------------------------------------------------------------------------------------


async def leave_part_of_killed_process(video: Generation, host: FileHost, folder: Path, size: int) -> InterruptingFile:
    """Save *size* bytes in a process of its own and kill it, simulated by keeping the files that a save removes."""
    file = InterruptingFile(make_mp4(3 * STEP), piece=None)
    seen: list[dict[str, bytes]] = []

    async def stuck(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Length": str(3 * STEP), "ETag": TAG, "Content-Type": "video/mp4"}
        )
        await response.prepare(request)
        await response.write(file.content[:size])
        while sum(map(len, files_in(folder).values())) < size - 2 * 2**20:
            await anyio.sleep(0.01)
        seen.append(files_in(folder))
        while request.transport is not None and not request.transport.is_closing():
            await anyio.sleep(0.1)
        return response

    host.answers["/a.mp4"] = stuck
    with anyio.move_on_after(5.0):
        await video.save(folder / "cat.mp4")
    assert {} == files_in(folder)
    for name, content in seen[0].items():
        (folder / name).write_bytes(content)
    host.answers["/a.mp4"] = file
    return file


async def test_next_process_resumes_at_the_last_mark(tmp_path: Path) -> None:
    """Bytes before it have reached the disk; that is unknown for the others."""
    async with generation_on_host() as (video, host, _):
        file = await leave_part_of_killed_process(video, host, tmp_path, 2 * STEP + 3 * 2**20)
        (part, note) = sorted(files_in(tmp_path))
        assert f'{3 * STEP}\nContent-Type: video/mp4\n"one"\n'.encode() == files_in(tmp_path)[note]
        assert (".part", ".version") == (Path(part).suffix, Path(note).suffix)
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": file.content} == files_in(tmp_path)
        assert [(2 * STEP, TAG)] == file.asked


@pytest.mark.parametrize(
    "harm",
    [
        "changed",
        "same tag",
        "no note",
        "half a note",
        "another size",
        "a note of nonsense",
        "no part",
    ],
)
async def test_next_process_restarts_uncertain_parts(harm: str, tmp_path: Path) -> None:
    async with generation_on_host() as (video, host, _):
        file = await leave_part_of_killed_process(video, host, tmp_path, STEP + 3 * 2**20)
        part, note = (tmp_path / name for name in sorted(files_in(tmp_path)))
        match harm:
            case "changed":
                file.content, file.headers = make_mp4(STEP), {"ETag": '"two"'}
            case "same tag":
                note.write_bytes(f'{3 * STEP}\nX-Goog-Generation: 1\n"one"\n'.encode())
                file.content, file.headers = (
                    bytes(make_mp4(3 * STEP))[:-1] + b"?",
                    {"ETag": TAG, "X-Goog-Generation": "2"},
                )
            case "no note":
                note.unlink()
            case "half a note":
                note.write_bytes(note.read_bytes()[:-2])
            case "another size":
                note.write_bytes(b'77\n"one"\n')
            case "a note of nonsense":
                note.write_bytes(bytes(range(256)) * 100)
            case _:
                part.unlink()
        await video.save(tmp_path / "cat.mp4")

        assert {"cat.mp4": file.content} == files_in(tmp_path)


@pytest.mark.parametrize("trap", ["link", "dangling link", "hard link", "folder", "pipe"])
async def test_foreign_file_in_place_of_a_part_is_kept(trap: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep me" * 1000)
    (tmp_path / "out").mkdir()
    async with generation_on_host() as (video, host, _):
        await leave_part_of_killed_process(video, host, tmp_path / "out", STEP + 3 * 2**20)
        part, note = (tmp_path / "out" / name for name in sorted(files_in(tmp_path / "out")))
        part.unlink()
        match trap:
            case "link":
                part.symlink_to(precious)
            case "dangling link":
                part.symlink_to(tmp_path / "nothing")
            case "hard link":
                part.hardlink_to(precious)
            case "folder":
                part.mkdir()
            case _:
                os.mkfifo(part)
        host.answers["/a.mp4"] = InterruptingFile(MP4, piece=None)
        await video.save(tmp_path / "out" / "cat.mp4")

        assert MP4 == (tmp_path / "out" / "cat.mp4").read_bytes()
        assert b"keep me" * 1000 == precious.read_bytes()
        assert not (tmp_path / "nothing").exists()
        assert note.exists()


async def test_part_of_a_live_process_is_left_alone(tmp_path: Path) -> None:
    """Two processes that save the same result to the same path get one complete file, twice."""
    first, second = (PartFile(tmp_path, "same", spare=spare) for spare in ("a", "b"))
    await first.open()
    await second.open()
    for part in (first, second):
        await part.restart(Version(TAG, len(MP4)))
        await part.write(MP4)
    assert [".b.part", ".same.part"] == sorted(files_in(tmp_path))
    saved = await first.finish(tmp_path / "cat.mp4")
    third = PartFile(tmp_path, "same", spare="c")
    await third.open()
    assert saved == await second.finish(tmp_path / "cat.mp4")
    await second.discard()
    assert 0 == third.size
    await third.discard()

    assert {"cat.mp4": MP4} == files_in(tmp_path)
    assert (len(MP4), hashlib.sha256(MP4).hexdigest()) == (saved.size, saved.sha256)


# -- many at once -----------------------------------------------------------------------------------------------------


async def test_few_downloads_run_at_once_by_expiry(tmp_path: Path) -> None:
    running = most = 0
    order: list[str] = []

    async def slowly(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        order.append(request.path)
        running += 1
        most = max(most, running)
        await anyio.sleep(1.0)
        running -= 1
        return web.Response(body=MP4, content_type="video/mp4")

    async with generation_on_host() as (video, host, setup):
        ended = video.record.completed_at
        assert ended is not None
        ages = [(number * 37) % 100 for number in range(100)]
        many = [
            attrs.evolve(
                video,
                record=attrs.evolve(video.record, completed_at=ended - 60.0 * age, result_urls=(f"{host.url}/{age}",)),
            )
            for age in ages
        ]
        for age in ages:
            host.answers[f"/{age}"] = slowly
        async with anyio.create_task_group() as group:
            for number, one in enumerate(many):
                group.start_soon(one.save, tmp_path / f"{number}.mp4")

        assert 8 == most
        assert 100 == len(files_in(tmp_path)) == len(order)
        # The first eight were there before the others had come.
        later = [int(path[1:]) for path in order[8:]]
        assert all(max(later[n + 8 :], default=0) <= later[n] for n in range(len(later)))
        await assert_settled(setup.kie)


async def test_returned_hash_is_the_hash_of_the_file(tmp_path: Path) -> None:
    content = make_mp4(STEP + 12_345)
    async with generation_on_host() as (video, host, _):
        host.answers["/a.mp4"] = InterruptingFile(content, piece=1_000_000)
        (file,) = await video._saver(video, tmp_path / "cat.mp4")  # noqa: SLF001 (what map() calls)

        assert (tmp_path / "cat.mp4", len(content)) == (file.path, file.size)
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert content == file.path.read_bytes()
        assert [] == [headers for _, headers in host.seen if KEY in "".join(headers.values())]


@pytest.mark.parametrize("kind", ["folder", "full folder", "pipe", "endless device", "link to itself"])
@pytest.mark.parametrize("has_part", [True, False], ids=["part", "no part"])
async def test_odd_file_in_place_of_a_note_loses_no_result(kind: str, tmp_path: Path, *, has_part: bool) -> None:
    async with generation_on_host() as (video, host, _):
        file = await leave_part_of_killed_process(video, host, tmp_path, STEP + 3 * 2**20)
        part, note = (tmp_path / name for name in sorted(files_in(tmp_path)))
        note.unlink()
        match kind:
            case "pipe":
                os.mkfifo(note)
            case "endless device":
                note.symlink_to("/dev/zero")
            case "link to itself":
                note.symlink_to(note.name)
            case _:
                note.mkdir()
                (note / "precious").write_bytes(b"keep me") if kind == "full folder" else None
        if not has_part:
            part.unlink()
        await video.save(tmp_path / "cat.mp4")

        assert file.content == (tmp_path / "cat.mp4").read_bytes()
        assert ("folder" in kind, False) == (note.is_dir(), part.exists())
        assert kind != "full folder" or (note / "precious").exists()
