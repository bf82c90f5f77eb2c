"""
Hosts that mean harm: the file is absent or right, memory stays bounded, the wait ends, and the key is never seen.

A bare socket, so that it can say what no server would. A host that answers a question for a part wrongly is in
``tests/client/test_downloads_resumed.py``; redirects into the own network are in ``tests/client/test_result_urls.py``.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import anyio
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from kie_async import DownloadError, Generation, TaskRecord
from kie_async._io.files.downloads import Downloads
from kie_async._io.files.fetching import DownloadPolicy
from kie_async._io.http.transport import PublicResolver
from kie_async._io.runtime import Runtime
from tests.client.filehost import MP4, files_in, mp4_of
from tests.helpers import KEY
from tests.io.peer import Peer, a_peer, answer, reset
from tests.io.test_transport import a_transport

MEGA = 2**20
#: What is allowed in these tests; a client allows two gigabytes.
MAX_BYTES = 64 * MEGA
VIDEO = "Content-Type: video/mp4"

Say: TypeAlias = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


def says(*pieces: bytes) -> Say:
    """Say that, and hang up."""

    async def say(writer: asyncio.StreamWriter, _: bytes) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return say


def for_ever(beginning: bytes, piece: bytes, *, every: float = 0.0) -> Say:
    """Say a beginning, and then the same thing until nobody listens any more."""

    async def say(writer: asyncio.StreamWriter, _: bytes) -> None:
        writer.write(beginning)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)

    return say


async def resets(writer: asyncio.StreamWriter, _: bytes) -> None:
    writer.write(answer(MP4[:50_000], VIDEO, length=len(MP4)))
    await writer.drain()
    reset(writer)


async def answers_in_a_circle(writer: asyncio.StreamWriter, asked: bytes) -> None:
    path = asked.split(b" ", 2)[1].decode()
    writer.write(answer(b"", f"Location: {path}x", status="307 Temporary Redirect"))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n"
CHUNKED = HEADERS + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(64 * MEGA))
PAGE = b"<!doctype html><html><body>Sign in</body></html>"
ENDLESS_BOX = b"\0\0\0\x10ftypisom\0\0\2\0\0\0\0\0mdat"

#: Each of these must leave nothing behind. What brings no body takes a little time, since virtual time would not move.
HARM: dict[str, Say] = {
    # -- without an end
    "an endless body": for_ever(CHUNKED + chunk(ENDLESS_BOX), chunk(bytes(MEGA))),
    "an endless body that says no length": for_ever(HEADERS + b"\r\n" + ENDLESS_BOX, bytes(MEGA)),
    "an endless page": for_ever(CHUNKED, chunk(b"<html>" * 10_000)),
    "endless blanks before a page": for_ever(CHUNKED, chunk(b" " * 10_000)),
    "endless headers": for_ever(HEADERS, b"X-More: more\r\n" * 1000),
    "one endless header": for_ever(HEADERS + b"X-More: ", b"more" * 1000),
    "endless early hints": for_ever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", every=0.5),
    "an endless chunk extension": for_ever(CHUNKED + b"1;", b"x" * 100_000, every=0.1),
    "endless trailers": for_ever(CHUNKED + chunk(MP4) + b"0\r\n", b"X-More: more\r\n" * 1000, every=0.1),
    "endless redirects": answers_in_a_circle,
    "silence": for_ever(b"", b"", every=1.0),
    # -- one byte a second
    "a body by the byte": for_ever(HEADERS + b"Content-Length: 102412\r\n\r\n" + MP4[:100], b"\0", every=1.0),
    "chunks by the byte": for_ever(CHUNKED + chunk(MP4[:100]), chunk(b"\0"), every=1.0),
    "headers by the byte": for_ever(HEADERS + b"X-Slow: ", b"x", every=1.0),
    "a body that begins fast": for_ever(
        HEADERS + b"Content-Length: 60000000\r\n\r\n" + mp4_of(60_000_000)[: 8 * MEGA], b"\0", every=1.0
    ),
    "just too slow": for_ever(CHUNKED + chunk(ENDLESS_BOX), chunk(bytes(15 * 1024)), every=1.0),
    # -- compressed
    "a gzip bomb": says(answer(BOMB, VIDEO, "Content-Encoding: gzip")),
    "a gzip bomb by another name": says(answer(BOMB, VIDEO, "Content-Encoding: x-gzip")),
    "a bomb twice over": says(answer(gzip.compress(BOMB), VIDEO, "Content-Encoding: gzip, gzip")),
    "a zlib bomb": says(answer(zlib.compress(bytes(64 * MEGA)), VIDEO, "Content-Encoding: deflate")),
    "an unknown encoding": says(answer(MP4, VIDEO, "Content-Encoding: zip")),
    "two encodings": says(answer(BOMB, VIDEO, "Content-Encoding: identity", "Content-Encoding: gzip")),
    "a bomb in the transfer": says(HEADERS + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk(BOMB) + b"0\r\n\r\n"),
    "a bomb that says nothing of it": says(answer(BOMB, VIDEO)),
    # -- something else
    "a page for a video": says(answer(PAGE, VIDEO)),
    "a page that says so": says(answer(PAGE, "Content-Type: text/html")),
    "a page for anything": says(answer(b"\xef\xbb\xbf \n" + PAGE, "Content-Type: application/octet-stream")),
    "a page without a type": says(answer(PAGE)),
    "a message": says(answer(b'{"code":401,"msg":"no"}', VIDEO)),
    "nothing": says(answer(b"", VIDEO)),
    "a program for a video": says(answer(b"MZ" + bytes(1000), VIDEO)),
    "an image for a video": says(answer(b"\x89PNG\r\n\x1a\n" + bytes(1000), VIDEO)),
    # -- lengths that lie
    "more announced than sent": says(answer(MP4, VIDEO, length=len(MP4) + 1)),
    "less announced than sent": says(answer(MP4, VIDEO, length=len(MP4) - 1)),
    "no length, and cut off": says(HEADERS + b"\r\n" + MP4[:-1]),
    "a length of nothing": says(answer(MP4, VIDEO, length=0)),
    "a negative length": says(answer(MP4, VIDEO, length=-1)),
    "two lengths": says(answer(MP4, VIDEO, "Content-Length: 17")),
    "a length and chunks": says(answer(chunk(MP4) + b"0\r\n\r\n", VIDEO, "Transfer-Encoding: chunked")),
    "a length beyond all": says(HEADERS + b"Content-Length: 99999999999999999999\r\n\r\n" + MP4),
    "a length in words": says(HEADERS + b"Content-Length: many\r\n\r\n" + MP4),
    "a length just too large": says(HEADERS + b"Content-Length: %d\r\n\r\n" % (MAX_BYTES + 1) + MP4),
    "chunks cut off": says(CHUNKED + chunk(MP4)[:-100]),
    "chunks without an end": says(CHUNKED + chunk(MP4)),
    "a chunk of no size": says(CHUNKED + b"-5\r\n" + MP4 + b"\r\n0\r\n\r\n"),
    "a reset": resets,
    # -- answers to another question
    "a part": says(answer(MP4, VIDEO, f"Content-Range: bytes 0-{len(MP4) - 1}/{len(MP4)}", status="206 Partial")),
    "no content": says(answer(b"", VIDEO, status="204 No Content")),
    "not modified": says(answer(b"", VIDEO, status="304 Not Modified")),
    "another protocol": says(answer(MP4, "Upgrade: video", "Connection: Upgrade", status="101 Switching")),
    "a redirect to nowhere": says(answer(b"", "Location: http://", status="302 Found")),
    "a redirect to metadata": says(answer(b"", "Location: http://169.254.169.254/latest", status="302 Found")),
    "a redirect to a file": says(answer(b"", "Location: file:///etc/passwd", status="302 Found")),
    "no protocol at all": says(MP4),
}

#: Each of these is odd, and no harm: the file is right.
ODD: dict[str, Say] = {
    "a length of the whole and a range": says(answer(MP4, VIDEO, f"Content-Range: bytes 0-{len(MP4) - 1}/{len(MP4)}")),
    "no length": says(HEADERS + b"\r\n" + MP4),
    "chunks of a byte": says(CHUNKED + b"".join(chunk(MP4[n : n + 1]) for n in range(len(MP4))) + b"0\r\n\r\n"),
    "early hints": says(b"HTTP/1.1 103 Early Hints\r\n\r\n", answer(MP4, VIDEO)),
    "more than was announced": says(answer(MP4 + b"HTTP/1.1 200 OK\r\n\r\n" + PAGE, VIDEO, length=len(MP4))),
    "hostile names": says(
        answer(
            MP4,
            VIDEO,
            'Content-Disposition: attachment; filename="../../../../etc/cron.d/evil"',
            "Content-Location: /etc/passwd",
            "X-Filename: ../../evil",
            "Set-Cookie: path=../../evil",
        )
    ),
    "a tag that is no tag": says(answer(MP4, VIDEO, 'ETag: "../../evil"', "Last-Modified: ../../evil")),
}


def a_generation(url: str, downloads: Downloads) -> Generation:
    return Generation(
        record=TaskRecord(task_id="t1", state="success", result_urls=(url,)), saver=downloads.save, job_id="kj_1"
    )


async def saved(say: Say, folder: Path, url: str = "/a.mp4", **options: Any) -> tuple[list[Path] | DownloadError, Peer]:
    """Save what a host says; returns the files or what went wrong, and the host."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        peer.received[-1] += asked
        await say(writer, asked)

    async with a_peer(act) as peer, a_transport(peer.url, **options) as transport:

        def lend() -> Any:
            return Lent(transport)

        downloads = Downloads(
            transport=lend,
            runtime=lambda: Runtime(asyncio.get_running_loop()),
            allowed_origins=frozenset({peer.url}),
            hosts=None,
            max_bytes=MAX_BYTES,
        )
        try:
            return await a_generation(url if "//" in url else peer.url + url, downloads).save(folder), peer
        except DownloadError as error:
            return error, peer


class Lent:
    """A transport for the time of one file."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    async def __aenter__(self) -> Any:
        return self._transport

    async def __aexit__(self, *_: object) -> None:
        """It is closed by whoever has opened it."""


def told(outcome: object) -> str:
    """What the caller was told: one line, with the ids, and without the key."""
    assert isinstance(outcome, DownloadError), outcome
    assert ("kj_1", "t1") == (outcome.job_id, outcome.task_id)
    assert "\n" not in str(outcome)
    assert KEY not in str(outcome)
    return str(outcome)


def key_seen(peer: Peer) -> bool:
    """Whether the key, or any header that could carry one, has come to a host."""
    received = b"".join(peer.received).lower()
    return any(word in received for word in (KEY.encode().lower(), b"authorization", b"cookie"))


@pytest.mark.parametrize("harm", HARM)
async def test_harm_leaves_no_file_and_ends_and_the_key_is_never_seen(harm: str, tmp_path: Path) -> None:
    """Within the tries that a download has, none of which may bring less than 16 KiB/s over a minute."""
    began = anyio.current_time()
    tracemalloc.start()
    try:
        outcome, peer = await saved(HARM[harm], tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert told(outcome)
    assert {} == files_in(tmp_path)
    assert 1 <= len(peer.received) <= 6  # aiohttp by itself repeats a GET once
    assert not key_seen(peer)
    assert peak < 16 * MEGA
    # One try that brings something, and three in vain: a minute each, and the pauses between them.
    assert anyio.current_time() - began <= 4 * 64.0 + 10.0


@pytest.mark.parametrize("tag", ["", 'ETag: "one"\r\n'], ids=["no version", "a version"])
async def test_a_body_that_is_just_fast_enough_ends_within_the_hour(tag: str, tmp_path: Path) -> None:
    """It costs a place, and others wait for that."""
    began = anyio.current_time()
    say = for_ever(
        HEADERS + tag.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(ENDLESS_BOX),
        chunk(bytes(17_000)),
        every=1.0,
    )
    outcome, _ = await saved(say, tmp_path)

    assert "more than 3600 s" in told(outcome)
    assert 3600.0 <= anyio.current_time() - began <= 3601.0
    assert {} == files_in(tmp_path)


@pytest.mark.parametrize("odd", ODD)
async def test_what_is_odd_and_whole_is_saved_under_the_name_that_we_give(odd: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome, peer = await saved(ODD[odd], tmp_path / "out")

    assert [tmp_path / "out" / "t1-1.mp4"] == outcome
    assert {"out/t1-1.mp4": MP4} == files_in(tmp_path)
    assert 1 == len(peer.received)
    assert not key_seen(peer)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/evil",
        "/a%00.mp4",
        "/C:%5CWindows%5Cevil.exe",
        "/.ssh%2fauthorized_keys",
        "/-rf",
        "/" + "n" * 4000,
        "/a.mp4?name=../../evil#../../evil",
    ],
)
async def test_a_hostile_url_never_decides_a_path(path: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome, peer = await saved(says(answer(MP4, VIDEO)), tmp_path / "out", path)

    assert [tmp_path / "out" / "t1-1.mp4"] == outcome
    assert {"out/t1-1.mp4": MP4} == files_in(tmp_path)
    assert not key_seen(peer)


async def test_an_expired_link_that_is_minted_on_a_hostile_host_is_asked_for_without_the_key(tmp_path: Path) -> None:
    """The key goes to the API with the question for a link, and not on with the link."""

    async def say(writer: asyncio.StreamWriter, asked: bytes) -> None:
        if asked.startswith(b"POST /api/v1/common/download-url "):
            body = b'{"code":200,"msg":"success","data":"https://169.254.169.254/a.mp4"}'
            writer.write(answer(body, "Content-Type: application/json"))
        else:
            writer.write(answer(b"gone", "Connection: close", status="410 Gone"))

    outcome, peer = await saved(say, tmp_path)
    get, post = peer.received

    assert "not a public address" in told(outcome)
    assert KEY.encode() in post
    assert KEY.encode() not in get
    assert {} == files_in(tmp_path)


def test_only_the_callers_own_host_may_lead_to_the_callers_own_host() -> None:
    """Else a host from outside could reach what only the caller may name, such as a service on this machine."""
    own = "http://127.0.0.1:8000"
    terms = DownloadPolicy(allowed_origins=frozenset({own}), hosts=None)

    terms.check(f"{own}/a.mp4", redirected_by=None)
    terms.check(f"{own}/b.mp4", redirected_by=f"{own}/a.mp4")
    terms.check("https://example.com/a.mp4", redirected_by=f"{own}/a.mp4")
    with pytest.raises(DownloadError, match="is not downloaded"):
        terms.check(f"{own}/a.mp4", redirected_by="https://example.com/a.mp4")


# -- names whose addresses change -------------------------------------------------------------------------------------


class Changing(AbstractResolver):
    """A resolver whose answer is another one each time."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self._answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, _family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in next(self._answers)
        ]

    async def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("answers", "connected"),
    [
        ([("8.8.8.8",), ("127.0.0.1",)], {"8.8.8.8"}),
        ([("127.0.0.1",), ("8.8.8.8",)], {"8.8.8.8"}),
        ([("10.0.0.1", "8.8.8.8", "::ffff:127.0.0.1", "169.254.169.254")], {"8.8.8.8"}),
        ([("127.0.0.1",)], set()),
        ([("::1", "fd00::1", "fe80::1", "64:ff9b::7f00:1")], set()),
        ([("0.0.0.0", "100.64.0.1", "192.168.0.1")], set()),
    ],
)
async def test_only_addresses_that_were_judged_are_connected_to(
    answers: list[tuple[str, ...]], connected: set[str], tmp_path: Path
) -> None:
    """A name is looked up once for a connection; what was found public is what is connected to."""
    resolver = Changing(*answers)
    tried: list[str] = []

    def no_socket(address: Any) -> socket.socket:
        tried.append(str(address[4][0]))
        msg = "no network here"
        raise OSError(msg)

    def session(**kwargs: Any) -> aiohttp.ClientSession:
        if "trace_configs" not in kwargs:
            judged = PublicResolver(frozenset(), resolver)
            # Without a cache, so that each try asks again, as tries do that are further apart.
            connector = aiohttp.TCPConnector(resolver=judged, socket_factory=no_socket, use_dns_cache=False)
            kwargs["connector"] = connector
        return aiohttp.ClientSession(**kwargs)

    outcome, peer = await saved(
        says(answer(MP4, VIDEO)), tmp_path, "https://files.example.com/a", session_factory=session
    )

    assert "interrupted" in told(outcome)
    assert connected == set(tried)
    assert resolver.asked >= 3
    assert [] == peer.received
    assert {} == files_in(tmp_path)
