"""One exchange on a bare socket: whatever goes wrong, it is known whether a byte may have left."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from kie_async import ClientClosedError, KieClient, TransportError
from kie_async._io.http.transport import (
    CREATE_TIMEOUT,
    MAX_BODY,
    MAX_CONCURRENT,
    Exchange,
    HttpResponse,
    PublicResolver,
    Transport,
)
from tests.helpers import KEY, make_request
from tests.io.peer import OK, Act, Peer, a_peer, answer, black_hole, free_port, request, reset, tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

BODY = b'{"a":"body"}'


@asynccontextmanager
async def a_transport(url: str, **options: Any) -> AsyncIterator[Transport]:
    """An open transport that is configured for *url*."""
    transport = Transport(
        **{
            "api_key": KEY,
            "base_url": url,
            "upload_url": url,
            "session_factory": aiohttp.ClientSession,
            "trust_env": False,
            "known_hosts": frozenset({"127.0.0.1"}),
            **options,
        }
    )
    await transport.open()
    try:
        yield transport
    finally:
        with anyio.CancelScope(shield=True):
            await transport.close()


async def nothing() -> None:
    """A write-ahead that has nothing to write."""


async def create(url: str, hook: Callable[[], Awaitable[None]] = nothing, **options: Any) -> Exchange:
    """One create at *url*."""
    async with a_transport(url, **options) as transport:
        return await transport.create(BODY, before_first_byte=hook)


# -- provably unsent: the hook had not returned -----------------------------------------------------------------------


class NoNames(AbstractResolver):
    """A resolver without a network."""

    async def resolve(self, host: str, *_: Any, **__: Any) -> list[ResolveResult]:
        msg = f"no such name: {host}"
        raise OSError(msg)

    async def close(self) -> None:
        """Nothing is open."""


def without_names(**kwargs: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(resolver=NoNames())})


async def test_a_name_that_is_not_found_sends_nothing() -> None:
    exchange = await create("http://api.example.com", session_factory=without_names)

    assert (False, None) == (exchange.sent, exchange.response)
    assert isinstance(exchange.error, aiohttp.ClientConnectorDNSError)


async def test_a_refused_connection_sends_nothing() -> None:
    exchange = await create(f"http://127.0.0.1:{free_port()}")

    assert (False, None) == (exchange.sent, exchange.response)
    assert isinstance(exchange.error, aiohttp.ClientConnectorError)


async def test_a_handshake_that_nobody_answers_sends_nothing_and_ends() -> None:
    with black_hole() as url:
        exchange = await create(url)

    assert (False, None) == (exchange.sent, exchange.response)
    assert isinstance(exchange.error, TimeoutError)
    assert 10.0 <= anyio.current_time() <= 12.0


async def test_tls_that_is_answered_in_plain_sends_nothing() -> None:
    async def act(_: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with a_peer(act) as peer:
        exchange = await create(peer.url.replace("http", "https"))
        assert (False, None) == (exchange.sent, exchange.response)


async def test_tls_that_is_stuck_sends_nothing_and_ends() -> None:
    async with a_peer(silent) as peer:
        exchange = await create(peer.url.replace("http", "https"))
        assert (False, None) == (exchange.sent, exchange.response)
        assert 10.0 <= anyio.current_time() <= 12.0


async def test_a_certificate_that_is_not_trusted_sends_nothing_and_is_not_tried_again(tmp_path: Path) -> None:
    """No plaintext, no second try, and an error that names the reason."""
    context = await anyio.to_thread.run_sync(tls, tmp_path)
    async with a_peer(silent, context=context) as peer:
        exchange = await create(peer.url)
        assert (False, None) == (exchange.sent, exchange.response)
        assert isinstance(exchange.error, aiohttp.ClientConnectorCertificateError)
        peer.received.clear()

        kie = KieClient(KEY, base_url=peer.url)
        with pytest.raises(TransportError, match="certificate is not trusted"):
            await kie.generate(make_request())
        await kie.aclose()
        assert anyio.current_time() < 1.0
        assert [] == [data for data in peer.received if data]


async def test_a_hook_that_raises_sends_nothing() -> None:
    """What it raises is the exchange's error, as it is."""
    failure = RuntimeError("the disk is full")

    async def hook() -> None:
        raise failure

    async with a_peer(whole_then(OK)) as peer:
        exchange = await create(peer.url, hook)
        await anyio.sleep(1.0)

        assert (False, failure) == (exchange.sent, exchange.error)
        assert [b""] == peer.received


async def test_a_hook_that_takes_its_time_holds_the_first_byte_back() -> None:
    """And the time for the answer counts from the first byte, not from before."""
    seen: list[int] = []

    async def hook() -> None:
        await anyio.sleep(2 * CREATE_TIMEOUT)
        seen.append(sum(map(len, peer.received)))

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(peer, reader)
        await anyio.sleep(CREATE_TIMEOUT - 1.0)
        writer.write(OK)

    async with a_peer(act) as peer:
        exchange = await create(peer.url, hook)

        assert [0] == seen
        assert exchange.response is not None
        assert 200 == exchange.response.status


async def test_cancelled_in_the_hook_sends_nothing() -> None:
    async def hook() -> None:
        await anyio.sleep_forever()

    async with a_peer(whole_then(OK)) as peer:
        with anyio.move_on_after(5.0) as scope:
            await create(peer.url, hook)
        await anyio.sleep(1.0)

        assert scope.cancelled_caught
        assert [b""] == peer.received


async def test_cancelled_while_it_connects_sends_nothing() -> None:
    called: list[bool] = []

    async def hook() -> None:
        called.append(True)

    with black_hole() as url, anyio.move_on_after(5.0) as scope:
        await create(url, hook)

    assert scope.cancelled_caught
    assert [] == called


# -- a byte may have left ---------------------------------------------------------------------------------------------


async def silent(peer: Peer, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read whatever comes, and say nothing."""
    while data := await reader.read(65536):
        peer.received[-1] += data


async def closes_at_once(_peer: Peer, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resets_at_once(_peer: Peer, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def resets_after_the_headers(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer.received[-1] += await reader.readuntil(b"\r\n")
    reset(writer)


async def closes_after_the_request(peer: Peer, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await request(peer, reader)


async def resets_after_the_request(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(peer, reader)
    reset(writer)


async def never_reads(_peer: Peer, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own can
    await anyio.sleep_forever()


def whole_then(data: bytes, *, rst: bool = False) -> Act:
    """Read a whole request, write *data*, and hang up."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(peer, reader)
        writer.write(data)
        await writer.drain()
        if rst:
            await anyio.sleep(0.1)
            reset(writer)

    return act


async def trickles(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(peer, reader)
    writer.write(answer(b"", length=100_000))
    for _ in range(100_000):
        writer.write(b" ")
        await writer.drain()
        await anyio.sleep(0.5)


async def trickles_a_header(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(peer, reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await anyio.sleep(0.5)


ROWS: dict[str, tuple[Act, int]] = {
    "closed on accept": (closes_at_once, 0),
    "reset on accept": (resets_at_once, 0),
    "reset after the first line": (resets_after_the_headers, 0),
    "never read": (never_reads, 0),
    "closed after the request": (closes_after_the_request, 1),
    "reset after the request": (resets_after_the_request, 1),
    "silence": (silent, 1),
    "closed in the status line": (whole_then(b"HTTP/1.1 2"), 1),
    "reset in the status line": (whole_then(b"HTTP/1.1 2", rst=True), 1),
    "closed in the headers": (whole_then(b"HTTP/1.1 200 OK\r\nContent-Le"), 1),
    "no HTTP": (whole_then(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), 1),
    "a header beyond all bounds": (whole_then(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), 1),
    "closed in the body": (whole_then(answer(b'{"code":', length=50)), 1),
    "reset in the body": (whole_then(answer(b'{"code":', length=50), rst=True), 1),
    "a chunk that is none": (whole_then(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), 1),
    "gzip that is none": (whole_then(answer(b"\x1f\x8b\x08no", "Content-Encoding: gzip")), 1),
    "a byte of the body now and then": (trickles, 1),
    "a byte of a header now and then": (trickles_a_header, 1),
}


@pytest.mark.parametrize("name", ROWS)
async def test_after_the_hook_whatever_breaks_may_have_been_sent(name: str) -> None:
    """Which exception it is tells nothing; it is no exception to the caller, and it ends within a minute."""
    act, whole = ROWS[name]
    async with a_peer(act) as peer:
        exchange = await create(peer.url)

        assert (True, None) == (exchange.sent, exchange.response)
        assert exchange.error is not None
        assert anyio.current_time() <= 61.0
        assert whole == peer.whole()
        assert 1 == len(peer.received)


async def test_a_kept_connection_that_has_died_is_not_sent_on_twice() -> None:
    """What aiohttp repeats by itself are idempotent requests; a create is none."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(peer, reader)
        writer.write(OK)
        await request(peer, reader)
        reset(writer)

    async with a_peer(act) as peer, a_transport(peer.url) as transport:
        first = await transport.create(BODY, before_first_byte=nothing)
        second = await transport.create(BODY, before_first_byte=nothing)
        await anyio.sleep(1.0)

        assert first.response is not None
        assert (True, None) == (second.sent, second.response)
        assert (2, 1) == (peer.whole(), len(peer.received))


async def test_connections_are_kept_from_one_create_to_the_next() -> None:
    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(peer, reader)
            writer.write(OK)

    async with a_peer(act) as peer, a_transport(peer.url) as transport:
        for _ in range(5):
            assert (await transport.create(BODY, before_first_byte=nothing)).response is not None
        assert (5, 1) == (peer.whole(), len(peer.received))


async def test_cancelled_after_the_hook_is_cancelled() -> None:
    async with a_peer(silent) as peer:
        with anyio.move_on_after(5.0) as scope:
            await create(peer.url)

        assert scope.cancelled_caught
        assert 1 == peer.whole()


# -- answers ----------------------------------------------------------------------------------------------------------


async def test_one_request_has_all_that_the_service_asks_for() -> None:
    """The key as a bearer token, the type of the content, a user agent, and the body once."""
    async with a_peer(whole_then(OK)) as peer:
        exchange = await create(peer.url)
        head, _, body = peer.received[0].partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])

        assert exchange.response is not None
        assert (200, OK.partition(b"\r\n\r\n")[2]) == (exchange.response.status, exchange.response.body)
        assert "POST /api/v1/jobs/createTask HTTP/1.1" == lines[0]
        assert f"bearer {KEY}".lower() == fields["authorization"]
        assert "application/json" == fields["content-type"]
        assert fields["user-agent"].startswith("kie_async/")
        assert str(len(BODY)) == fields["content-length"]
        assert BODY == body


async def test_a_slash_at_the_end_of_a_base_url_and_a_path_in_it_are_kept_right() -> None:
    async with a_peer(whole_then(OK)) as peer:
        await create(f"{peer.url}/proxy/kie")
        assert peer.received[0].startswith(b"POST /proxy/kie/api/v1/jobs/createTask HTTP/1.1\r\n")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_no_redirect_is_followed(status: str) -> None:
    """A 307 would post the body, and pay, once more."""
    async with a_peer(whole_then(answer(b"", "Location: /elsewhere", status=status))) as peer:
        exchange = await create(peer.url)

        assert exchange.response is not None
        assert int(status[:3]) == exchange.response.status
        assert (1, 1) == (peer.whole(), len(peer.received))


async def test_truncated_json_of_the_right_length_is_an_answer() -> None:
    """The wire is in order; what it says is for others to judge."""
    async with a_peer(whole_then(answer(b'{"code":200,"da'))) as peer:
        exchange = await create(peer.url)
        assert exchange.response is not None
        assert b'{"code":200,"da' == exchange.response.body


@pytest.mark.parametrize("kind", ["long", "endless", "bomb"])
async def test_a_body_is_read_up_to_a_bound(kind: str) -> None:
    """What is longer is no answer of the API; nobody may fill our memory with it."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(peer, reader)
        if kind == "bomb":
            writer.write(answer(gzip.compress(bytes(64 * 2**20)), "Content-Encoding: gzip"))
            await writer.drain()
            return
        writer.write(answer(b"", length=2**40) if kind == "endless" else answer(b"", length=3 * 2**20))
        for _ in range(2**20 if kind == "endless" else 48):
            writer.write(b" " * 65536)
            await writer.drain()

    async with a_peer(act) as peer:
        exchange = await create(peer.url)

        assert exchange.sent
        assert exchange.response is None or len(exchange.response.body) <= MAX_BODY


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Retry-After: 30", 30.0),
        ("Retry-After: 0", 0.0),
        ("Retry-After: -5", None),
        ("Retry-After: 1e3", None),
        ("Retry-After: 99999999", None),
        ("Retry-After: soon", None),
        ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("X-Other: 30", None),
    ],
)
async def test_retry_after_is_read_as_seconds(header: str, expected: float | None) -> None:
    async with a_peer(whole_then(answer(b"{}", header, status="429 Too Many"))) as peer:
        exchange = await create(peer.url)
        assert exchange.response is not None
        assert expected == exchange.response.retry_after


async def test_cookies_are_not_kept() -> None:
    """They are set by a proxy in front of the service, and tie requests together that have nothing in common."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(peer, reader)
            writer.write(answer(b"{}", "Set-Cookie: JSESSIONID=1; Path=/"))

    # By name, since no jar keeps the cookies of an address.
    async with a_peer(act) as peer, a_transport(peer.url.replace("127.0.0.1", "localhost")) as transport:
        for _ in range(2):
            exchange = await transport.create(BODY, before_first_byte=nothing)
            assert exchange.response is not None
        assert 2 == peer.whole()
        assert b"cookie" not in b"".join(peer.received).lower()


# -- all that costs nothing -------------------------------------------------------------------------------------------


def head_then(data: bytes) -> Act:
    """Read a request without a body, write *data*, and hang up."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.received[-1] += await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()

    return act


@pytest.mark.parametrize(
    "act",
    [
        silent,
        closes_at_once,
        resets_at_once,
        head_then(b"HTTP/1.1 2"),
        head_then(answer(b"{", length=9)),
        head_then(b"?"),
    ],
)
async def test_a_look_without_a_whole_answer_is_a_transport_error(act: Act) -> None:
    """Within ten seconds, in one line, without the key."""
    async with a_peer(act) as peer, a_transport(peer.url) as transport:
        with pytest.raises(TransportError, match="GET /api/v1/jobs/recordInfo") as raised:
            await transport.poll("t1")

        assert anyio.current_time() <= 11.0
        assert KEY not in str(raised.value)
        assert "\n" not in str(raised.value)


async def test_a_look_asks_for_one_task_and_follows_no_redirect() -> None:
    async with a_peer(head_then(answer(b"", "Location: /elsewhere", status="302 Found"))) as peer:
        async with a_transport(peer.url) as transport:
            assert 302 == (await transport.poll("a:b.c-1")).status
        assert peer.received[0].startswith(b"GET /api/v1/jobs/recordInfo?taskId=a:b.c-1 HTTP/1.1\r\n")
        assert 1 == len(peer.received)


async def test_a_transport_that_is_not_open_says_so() -> None:
    transport = Transport(
        api_key=KEY,
        base_url="http://127.0.0.1:1",
        upload_url="http://127.0.0.1:1",
        session_factory=aiohttp.ClientSession,  # type: ignore[arg-type]  # its own keywords are narrower
        trust_env=False,
        known_hosts=frozenset(),
    )
    with pytest.raises(ClientClosedError):
        await transport.create(BODY, before_first_byte=nothing)
    with pytest.raises(ClientClosedError):
        await transport.poll("t1")
    assert KEY not in repr(transport)


# -- names that lead into the network ---------------------------------------------------------------------------------


async def test_a_name_is_resolved_to_public_addresses_only() -> None:
    """A name in a result's URL must not lead into the network that the client runs in."""
    public, known = PublicResolver(frozenset()), PublicResolver(frozenset({"localhost"}))
    try:
        with pytest.raises(OSError, match="no public address"):
            await public.resolve("localhost", 80)
        assert [] != await known.resolve("localhost", 80)
    finally:
        await public.close()
        await known.close()


async def answers_after_a_second(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        peer.received[-1] += await reader.readuntil(b"\r\n\r\n")
        if peer.received[-1].rpartition(b"HTTP/1.1")[0].endswith(b"createTask "):
            peer.received[-1] += await reader.readexactly(len(BODY))
        await asyncio.sleep(1.0)
        writer.write(OK)


async def test_a_thousand_creates_at_once_share_a_few_connections() -> None:
    """Whatever the limits allow. Looks have their places in the poller, which knows whose turn it is."""
    answers: list[HttpResponse | None] = []

    async def one_create(transport: Transport) -> None:
        answers.append((await transport.create(BODY, before_first_byte=nothing)).response)

    async with a_peer(answers_after_a_second) as peer, a_transport(peer.url) as transport:
        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(one_create, transport)
        assert MAX_CONCURRENT == len(peer.received)

    assert [200] * 1000 == [0 if answer is None else answer.status for answer in answers]
