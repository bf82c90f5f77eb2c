"""
Hostile hosts: the file is absent or right, memory stays bounded, the wait ends, and the key is never sent.

The hosts are bare sockets, which can send what no server would. Hosts that answer range requests wrongly are in
``tests/client/test_downloads_resumed.py``; redirects into private networks are in ``tests/client/test_result_urls.py``.
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
from kie_async._io.http.resolvers import PublicResolver
from kie_async._io.runtime import Runtime
from tests.client.filehost import MP4, files_in, make_mp4
from tests.helpers import KEY
from tests.io.peer import Peer, reset, response_bytes, run_peer
from tests.io.test_transport import open_transport

MEGA = 2**20
#: The size limit in these tests; a client's is two gigabytes.
MAX_BYTES = 64 * MEGA
VIDEO = "Content-Type: video/mp4"
WHOLE_RANGE = f"Content-Range: bytes 0-{len(MP4) - 1}/{len(MP4)}"

Responder: TypeAlias = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


def send(*pieces: bytes) -> Responder:
    """Send the bytes, and close the connection."""

    async def respond(writer: asyncio.StreamWriter, _: bytes) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return respond


def send_forever(beginning: bytes, piece: bytes, *, every: float = 0.0) -> Responder:
    """Send a beginning, and then the same bytes until the client disconnects."""

    async def respond(writer: asyncio.StreamWriter, _: bytes) -> None:
        writer.write(beginning)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)

    return respond


async def send_reset(writer: asyncio.StreamWriter, _: bytes) -> None:
    writer.write(response_bytes(MP4[:50_000], VIDEO, length=len(MP4)))
    await writer.drain()
    reset(writer)


async def redirect_in_a_circle(writer: asyncio.StreamWriter, asked: bytes) -> None:
    path = asked.split(b" ", 2)[1].decode()
    writer.write(response_bytes(b"", f"Location: {path}x", status="307 Temporary Redirect"))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n"
CHUNKED = HEADERS + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(64 * MEGA))
PAGE = b"<!doctype html><html><body>Sign in</body></html>"
ENDLESS_BOX = b"\0\0\0\x10ftypisom\0\0\2\0\0\0\0\0mdat"

#: Each of these must leave no file. Responses without a body take a little time, or virtual time would not advance.
HARM: dict[str, Responder] = {
    # -- without an end
    "an endless body": send_forever(CHUNKED + chunk(ENDLESS_BOX), chunk(bytes(MEGA))),
    "an endless body without a length": send_forever(HEADERS + b"\r\n" + ENDLESS_BOX, bytes(MEGA)),
    "an endless page": send_forever(CHUNKED, chunk(b"<html>" * 10_000)),
    "endless blanks before a page": send_forever(CHUNKED, chunk(b" " * 10_000)),
    "endless headers": send_forever(HEADERS, b"X-More: more\r\n" * 1000),
    "one endless header": send_forever(HEADERS + b"X-More: ", b"more" * 1000),
    "endless early hints": send_forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", every=0.5),
    "an endless chunk extension": send_forever(CHUNKED + b"1;", b"x" * 100_000, every=0.1),
    "endless trailers": send_forever(CHUNKED + chunk(MP4) + b"0\r\n", b"X-More: more\r\n" * 1000, every=0.1),
    "endless redirects": redirect_in_a_circle,
    "silence": send_forever(b"", b"", every=1.0),
    # -- one byte a second
    "a body by the byte": send_forever(HEADERS + b"Content-Length: 102412\r\n\r\n" + MP4[:100], b"\0", every=1.0),
    "chunks by the byte": send_forever(CHUNKED + chunk(MP4[:100]), chunk(b"\0"), every=1.0),
    "headers by the byte": send_forever(HEADERS + b"X-Slow: ", b"x", every=1.0),
    "a body that begins fast": send_forever(
        HEADERS + b"Content-Length: 60000000\r\n\r\n" + make_mp4(60_000_000)[: 8 * MEGA], b"\0", every=1.0
    ),
    "just too slow": send_forever(CHUNKED + chunk(ENDLESS_BOX), chunk(bytes(15 * 1024)), every=1.0),
    # -- compressed
    "a gzip bomb": send(response_bytes(BOMB, VIDEO, "Content-Encoding: gzip")),
    "a gzip bomb by another name": send(response_bytes(BOMB, VIDEO, "Content-Encoding: x-gzip")),
    "a bomb twice over": send(response_bytes(gzip.compress(BOMB), VIDEO, "Content-Encoding: gzip, gzip")),
    "a zlib bomb": send(response_bytes(zlib.compress(bytes(64 * MEGA)), VIDEO, "Content-Encoding: deflate")),
    "an encoding of the whole": send(response_bytes(BOMB, VIDEO, "Content-Encoding: aws-chunked, GZIP")),
    "two encodings": send(response_bytes(BOMB, VIDEO, "Content-Encoding: identity", "Content-Encoding: gzip")),
    "a bomb in the transfer": send(HEADERS + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk(BOMB) + b"0\r\n\r\n"),
    "an unannounced bomb": send(response_bytes(BOMB, VIDEO)),
    # -- something else
    "a page instead of a video": send(response_bytes(PAGE, VIDEO)),
    "a page with its own type": send(response_bytes(PAGE, "Content-Type: text/html")),
    "a page for anything": send(response_bytes(b"\xef\xbb\xbf \n" + PAGE, "Content-Type: application/octet-stream")),
    "a page without a type": send(response_bytes(PAGE)),
    "a message": send(response_bytes(b'{"code":401,"msg":"no"}', VIDEO)),
    "nothing": send(response_bytes(b"", VIDEO)),
    "a program instead of a video": send(response_bytes(b"MZ" + bytes(1000), VIDEO)),
    "an image instead of a video": send(response_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000), VIDEO)),
    # -- lengths that lie
    "more announced than sent": send(response_bytes(MP4, VIDEO, length=len(MP4) + 1)),
    "less announced than sent": send(response_bytes(MP4, VIDEO, length=len(MP4) - 1)),
    "no length, and cut off": send(HEADERS + b"\r\n" + MP4[:-1]),
    "a length of nothing": send(response_bytes(MP4, VIDEO, length=0)),
    "a negative length": send(response_bytes(MP4, VIDEO, length=-1)),
    "two lengths": send(response_bytes(MP4, VIDEO, "Content-Length: 17")),
    "a length and chunks": send(response_bytes(chunk(MP4) + b"0\r\n\r\n", VIDEO, "Transfer-Encoding: chunked")),
    "a length beyond all": send(HEADERS + b"Content-Length: 99999999999999999999\r\n\r\n" + MP4),
    "a length in words": send(HEADERS + b"Content-Length: many\r\n\r\n" + MP4),
    "a length just too large": send(HEADERS + b"Content-Length: %d\r\n\r\n" % (MAX_BYTES + 1) + MP4),
    "chunks cut off": send(CHUNKED + chunk(MP4)[:-100]),
    "chunks without an end": send(CHUNKED + chunk(MP4)),
    "a chunk of no size": send(CHUNKED + b"-5\r\n" + MP4 + b"\r\n0\r\n\r\n"),
    "a reset": send_reset,
    # -- answers to another question
    "a part": send(response_bytes(MP4, VIDEO, WHOLE_RANGE, status="206 Partial")),
    "no content": send(response_bytes(b"", VIDEO, status="204 No Content")),
    "not modified": send(response_bytes(b"", VIDEO, status="304 Not Modified")),
    "another protocol": send(response_bytes(MP4, "Upgrade: video", "Connection: Upgrade", status="101 Switching")),
    "a redirect to nowhere": send(response_bytes(b"", "Location: http://", status="302 Found")),
    "a redirect to metadata": send(response_bytes(b"", "Location: http://169.254.169.254/latest", status="302 Found")),
    "a redirect to a file": send(response_bytes(b"", "Location: file:///etc/passwd", status="302 Found")),
    "no protocol at all": send(MP4),
}

#: Each of these is unusual but harmless: the file is right.
ODD: dict[str, Responder] = {
    "a length of the whole and a range": send(response_bytes(MP4, VIDEO, WHOLE_RANGE)),
    "no length": send(HEADERS + b"\r\n" + MP4),
    "chunks of a byte": send(CHUNKED + b"".join(chunk(MP4[n : n + 1]) for n in range(len(MP4))) + b"0\r\n\r\n"),
    "early hints": send(b"HTTP/1.1 103 Early Hints\r\n\r\n", response_bytes(MP4, VIDEO)),
    "more than was announced": send(response_bytes(MP4 + b"HTTP/1.1 200 OK\r\n\r\n" + PAGE, VIDEO, length=len(MP4))),
    "hostile names": send(
        response_bytes(
            MP4,
            VIDEO,
            'Content-Disposition: attachment; filename="../../../../etc/cron.d/evil"',
            "Content-Location: /etc/passwd",
            "X-Filename: ../../evil",
            "Set-Cookie: path=../../evil",
        )
    ),
    "a character set as its encoding": send(response_bytes(MP4, VIDEO, "Content-Encoding: UTF-8")),
    "an encoding of an upload": send(response_bytes(MP4, VIDEO, "Content-Encoding: aws-chunked")),
    "an encoding of nothing": send(response_bytes(MP4, VIDEO, "Content-Encoding: ")),
    "an unknown encoding": send(response_bytes(MP4, VIDEO, "Content-Encoding: zip")),
    "several odd encodings": send(
        response_bytes(MP4, VIDEO, "Content-Encoding: Identity , ,binary", "Content-Encoding: utf8")
    ),
    "large headers": send(response_bytes(MP4, VIDEO, *(f"X-{n}: " + "x" * 60_000 for n in range(3)))),
    "an invalid tag": send(response_bytes(MP4, VIDEO, 'ETag: "../../evil"', "Last-Modified: ../../evil")),
}


def make_generation(url: str, downloads: Downloads) -> Generation:
    return Generation(
        record=TaskRecord(task_id="t1", state="success", result_urls=(url,)), saver=downloads.save, job_id="kj_1"
    )


async def save_from(
    respond: Responder, folder: Path, url: str = "/a.mp4", **options: Any
) -> tuple[list[Path] | DownloadError, Peer]:
    """Save the response of a host; return the files or the error, and the host."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        peer.received[-1] += asked
        await respond(writer, asked)

    async with run_peer(act) as peer, open_transport(peer.url, **options) as transport:

        def lend() -> Any:
            return LentTransport(transport)

        downloads = Downloads(
            transport=lend,
            runtime=lambda: Runtime(asyncio.get_running_loop()),
            allowed_origins=frozenset({peer.url}),
            hosts=None,
            max_bytes=MAX_BYTES,
        )
        try:
            return await make_generation(url if "//" in url else peer.url + url, downloads).save(folder), peer
        except DownloadError as error:
            return error, peer


class LentTransport:
    """A transport for the duration of one file."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    async def __aenter__(self) -> Any:
        return self._transport

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: the opener closes it."""


def check_error(outcome: object) -> str:
    """Return the error's message: one line, with the ids, and without the key."""
    assert isinstance(outcome, DownloadError), outcome
    assert ("kj_1", "t1") == (outcome.job_id, outcome.task_id)
    assert "\n" not in str(outcome)
    assert KEY not in str(outcome)
    return str(outcome)


def key_seen(peer: Peer) -> bool:
    """Return True if the key, or any header that could carry one, has reached a host."""
    received = b"".join(peer.received).lower()
    return any(word in received for word in (KEY.encode().lower(), b"authorization", b"cookie"))


@pytest.mark.parametrize("harm", HARM)
async def test_hostile_response_ends_without_a_file(harm: str, tmp_path: Path) -> None:
    """Each attempt of a download must deliver 16 KiB/s over a minute, so that it ends; the key is not sent."""
    began = anyio.current_time()
    tracemalloc.start()
    try:
        outcome, peer = await save_from(HARM[harm], tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert check_error(outcome)
    assert {} == files_in(tmp_path)
    assert 1 <= len(peer.received) <= 6  # aiohttp by itself repeats a GET once
    assert not key_seen(peer)
    assert peak < 16 * MEGA
    # One try that brings something, and three in vain: a minute each, and the pauses between them.
    assert anyio.current_time() - began <= 4 * 64.0 + 10.0


@pytest.mark.parametrize("tag", ["", 'ETag: "one"\r\n'], ids=["no version", "a version"])
async def test_slow_body_ends_within_the_hour(tag: str, tmp_path: Path) -> None:
    """It occupies a slot that others wait for."""
    began = anyio.current_time()
    respond = send_forever(
        HEADERS + tag.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(ENDLESS_BOX),
        chunk(bytes(17_000)),
        every=1.0,
    )
    outcome, _ = await save_from(respond, tmp_path)

    assert "more than 3600 s" in check_error(outcome)
    assert 3600.0 <= anyio.current_time() - began <= 3601.0
    assert {} == files_in(tmp_path)


@pytest.mark.parametrize("odd", ODD)
async def test_odd_but_complete_response_is_saved(odd: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome, peer = await save_from(ODD[odd], tmp_path / "out")

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
async def test_hostile_url_does_not_affect_the_path(path: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome, peer = await save_from(send(response_bytes(MP4, VIDEO)), tmp_path / "out", path)

    assert [tmp_path / "out" / "t1-1.mp4"] == outcome
    assert {"out/t1-1.mp4": MP4} == files_in(tmp_path)
    assert not key_seen(peer)


async def test_fresh_link_is_requested_without_the_key(tmp_path: Path) -> None:
    """The key goes to the API with the request for a fresh link, but not to the host of the link."""

    async def respond(writer: asyncio.StreamWriter, asked: bytes) -> None:
        if asked.startswith(b"POST /api/v1/common/download-url "):
            body = b'{"code":200,"msg":"success","data":"https://169.254.169.254/a.mp4"}'
            writer.write(response_bytes(body, "Content-Type: application/json"))
        else:
            writer.write(response_bytes(b"gone", "Connection: close", status="410 Gone"))

    outcome, peer = await save_from(respond, tmp_path)
    get, post = peer.received

    assert "not a public address" in check_error(outcome)
    assert KEY.encode() in post
    assert KEY.encode() not in get
    assert {} == files_in(tmp_path)


def test_foreign_host_cannot_redirect_to_own_host() -> None:
    """It could otherwise reach a service that only the caller may name, such as one on this machine."""
    own = "http://127.0.0.1:8000"
    terms = DownloadPolicy(allowed_origins=frozenset({own}), hosts=None)

    terms.check(f"{own}/a.mp4", trusted=True)
    terms.check(f"{own}/b.mp4", trusted=True)
    terms.check("https://example.com/a.mp4", trusted=True)
    with pytest.raises(DownloadError, match="is not downloaded"):
        terms.check(f"{own}/a.mp4", trusted=False)


# -- names whose addresses change --------------------------------------------------------------------------------------


class ChangingResolver(AbstractResolver):
    """A resolver whose result differs each time."""

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
        """Do nothing: nothing is open."""


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
async def test_only_checked_addresses_are_connected_to(
    answers: list[tuple[str, ...]], connected: set[str], tmp_path: Path
) -> None:
    """A name is resolved once per connection, and the connection uses the public addresses of that result."""
    resolver = ChangingResolver(*answers)
    tried: list[str] = []

    def no_socket(address: Any) -> socket.socket:
        tried.append(str(address[4][0]))
        msg = "no network here"
        raise OSError(msg)

    def session(**kwargs: Any) -> aiohttp.ClientSession:
        if "trace_configs" not in kwargs:
            judged = PublicResolver((), resolver)
            # Without a cache, so that each try asks again, as tries do that are further apart.
            connector = aiohttp.TCPConnector(resolver=judged, socket_factory=no_socket, use_dns_cache=False)
            kwargs["connector"] = connector
        return aiohttp.ClientSession(**kwargs)

    outcome, peer = await save_from(
        send(response_bytes(MP4, VIDEO)), tmp_path, "https://files.example.com/a", session_factory=session
    )

    assert "interrupted" in check_error(outcome)
    assert connected == set(tried)
    assert resolver.asked >= 3
    assert [] == peer.received
    assert {} == files_in(tmp_path)
