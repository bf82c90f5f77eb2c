"""The transport on a bare socket: after any error it is known whether a byte may have been sent."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from kie_async import ClientClosedError, KieClient, TransportError
from kie_async._display import sealed
from kie_async._io.http.resolvers import PublicResolver
from kie_async._io.http.transport import (
    CREATE_TIMEOUT,
    MAX_BODY,
    Exchange,
    Transport,
)
from tests.helpers import KEY, make_request
from tests.io.peer import OK, Act, Peer, black_hole, free_port, read_request, reset, response_bytes, run_peer, tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

BODY = b'{"a":"body"}'


@asynccontextmanager
async def open_transport(url: str, **options: Any) -> AsyncIterator[Transport]:
    """Yield an open transport that is configured for *url*."""
    transport = Transport(
        **{
            "api_key": sealed(KEY),
            "base_url": url,
            "upload_url": url,
            "session_factory": aiohttp.ClientSession,
            "trust_env": False,
            **options,
        }
    )
    await transport.open()
    try:
        yield transport
    finally:
        with anyio.CancelScope(shield=True):
            await transport.close()


async def no_write_ahead() -> None:
    """Do nothing as the write-ahead."""


async def create(url: str, hook: Callable[[], Awaitable[None]] = no_write_ahead, **options: Any) -> Exchange:
    """Post one create request to *url*."""
    async with open_transport(url, **options) as transport:
        return await transport.create(BODY, before_first_byte=hook)


# -- provably unsent: the hook had not returned ------------------------------------------------------------------------


class FailingResolver(AbstractResolver):
    """A resolver without a network."""

    async def resolve(self, host: str, *_: Any, **__: Any) -> list[ResolveResult]:
        msg = f"no such name: {host}"
        raise OSError(msg)

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def without_names(**kwargs: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(resolver=FailingResolver())})


async def test_unknown_host_name_sends_nothing() -> None:
    exchange = await create("http://api.example.com", session_factory=without_names)

    assert (False, None) == (exchange.sent, exchange.response)
    assert isinstance(exchange.error, aiohttp.ClientConnectorDNSError)


class SilentResolver(FailingResolver):
    """A resolver whose answer does not come."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> Any:  # noqa: ARG002  # the base class's
        await anyio.sleep_forever()


async def test_slow_name_lookup_sends_nothing() -> None:
    def without_answers(**kwargs: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(**{**kwargs, "connector": aiohttp.TCPConnector(resolver=SilentResolver())})

    exchange = await create("http://api.example.com", session_factory=without_answers)

    assert (False, None) == (exchange.sent, exchange.response)
    assert 10.0 <= anyio.current_time() <= 12.0


async def test_refused_connection_sends_nothing() -> None:
    exchange = await create(f"http://127.0.0.1:{free_port()}")

    assert (False, None) == (exchange.sent, exchange.response)
    assert isinstance(exchange.error, aiohttp.ClientConnectorError)


async def test_unanswered_handshake_sends_nothing() -> None:
    with black_hole() as url:
        exchange = await create(url)

    assert (False, None) == (exchange.sent, exchange.response)
    assert isinstance(exchange.error, TimeoutError)
    assert 10.0 <= anyio.current_time() <= 12.0


async def test_plaintext_answer_to_tls_sends_nothing() -> None:
    async def act(_: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with run_peer(act) as peer:
        exchange = await create(peer.url.replace("http", "https"))
        assert (False, None) == (exchange.sent, exchange.response)


async def test_stuck_tls_sends_nothing() -> None:
    async with run_peer(silent) as peer:
        exchange = await create(peer.url.replace("http", "https"))
        assert (False, None) == (exchange.sent, exchange.response)
        assert 10.0 <= anyio.current_time() <= 12.0


async def test_untrusted_certificate_sends_nothing(tmp_path: Path) -> None:
    """No plaintext is sent, there is no second attempt, and the error names the reason."""
    context = await anyio.to_thread.run_sync(tls, tmp_path)
    async with run_peer(silent, context=context) as peer:
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


async def test_failing_write_ahead_sends_nothing() -> None:
    """Its exception is the error of the exchange."""
    failure = RuntimeError("the disk is full")

    async def hook() -> None:
        raise failure

    async with run_peer(read_then_send(OK)) as peer:
        exchange = await create(peer.url, hook)
        await anyio.sleep(1.0)

        assert (False, failure) == (exchange.sent, exchange.error)
        assert [b""] == peer.received


async def test_slow_write_ahead_delays_the_first_byte() -> None:
    """The timeout of the response starts at the first byte, and not before."""
    seen: list[int] = []

    async def hook() -> None:
        await anyio.sleep(2 * CREATE_TIMEOUT)
        seen.append(sum(map(len, peer.received)))

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(peer, reader)
        await anyio.sleep(CREATE_TIMEOUT - 1.0)
        writer.write(OK)

    async with run_peer(act) as peer:
        exchange = await create(peer.url, hook)

        assert [0] == seen
        assert exchange.response is not None
        assert 200 == exchange.response.status


async def test_cancellation_in_write_ahead_sends_nothing() -> None:
    async def hook() -> None:
        await anyio.sleep_forever()

    async with run_peer(read_then_send(OK)) as peer:
        with anyio.move_on_after(5.0) as scope:
            await create(peer.url, hook)
        await anyio.sleep(1.0)

        assert scope.cancelled_caught
        assert [b""] == peer.received


async def test_cancellation_while_connecting_sends_nothing() -> None:
    called: list[bool] = []

    async def hook() -> None:
        called.append(True)

    with black_hole() as url, anyio.move_on_after(5.0) as scope:
        await create(url, hook)

    assert scope.cancelled_caught
    assert [] == called


# -- possibly sent -----------------------------------------------------------------------------------------------------


async def silent(peer: Peer, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read all bytes, and send nothing."""
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
    await read_request(peer, reader)


async def resets_after_the_request(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(peer, reader)
    reset(writer)


async def never_reads(_peer: Peer, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own can
    await anyio.sleep_forever()


def read_then_send(data: bytes, *, rst: bool = False) -> Act:
    """Read a whole request, send *data*, and close."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(peer, reader)
        writer.write(data)
        await writer.drain()
        if rst:
            await anyio.sleep(0.1)
            reset(writer)

    return act


async def trickles(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(peer, reader)
    writer.write(response_bytes(b"", length=100_000))
    for _ in range(100_000):
        writer.write(b" ")
        await writer.drain()
        await anyio.sleep(0.5)


async def trickles_a_header(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(peer, reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await anyio.sleep(0.5)


async def resets_after_the_hello(_peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    reset(writer)


@pytest.mark.parametrize("act", [resets_at_once, resets_after_the_hello])
async def test_handshake_that_breaks_sends_nothing(act: Act) -> None:
    async with run_peer(act) as peer:
        exchange = await create(peer.url.replace("http", "https"))

        assert (False, None) == (exchange.sent, exchange.response)
        assert all(b"POST" not in data for data in peer.received)


ROWS: dict[str, tuple[Act, int]] = {
    "closed on accept": (closes_at_once, 0),
    "reset on accept": (resets_at_once, 0),
    "reset after the first line": (resets_after_the_headers, 0),
    "never read": (never_reads, 0),
    "closed after the request": (closes_after_the_request, 1),
    "reset after the request": (resets_after_the_request, 1),
    "silence": (silent, 1),
    "closed in the status line": (read_then_send(b"HTTP/1.1 2"), 1),
    "reset in the status line": (read_then_send(b"HTTP/1.1 2", rst=True), 1),
    "closed in the headers": (read_then_send(b"HTTP/1.1 200 OK\r\nContent-Le"), 1),
    "no HTTP": (read_then_send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), 1),
    "a header beyond all bounds": (read_then_send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), 1),
    "closed in the body": (read_then_send(response_bytes(b'{"code":', length=50)), 1),
    "reset in the body": (read_then_send(response_bytes(b'{"code":', length=50), rst=True), 1),
    "a chunk that is none": (read_then_send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), 1),
    "gzip that is none": (read_then_send(response_bytes(b"\x1f\x8b\x08no", "Content-Encoding: gzip")), 1),
    "a byte of the body now and then": (trickles, 1),
    "a byte of a header now and then": (trickles_a_header, 1),
}


@pytest.mark.parametrize("name", ROWS)
async def test_any_error_after_write_ahead_counts_as_sent(name: str) -> None:
    """The kind of exception does not matter; it is not raised to the caller, and the exchange ends within a minute."""
    act, whole = ROWS[name]
    async with run_peer(act) as peer:
        exchange = await create(peer.url)

        assert (True, None) == (exchange.sent, exchange.response)
        assert exchange.error is not None
        assert anyio.current_time() <= 61.0
        assert whole == peer.count_requests()
        assert 1 == len(peer.received)


async def test_dead_connection_is_not_retried() -> None:
    """Aiohttp repeats idempotent requests automatically; a create is not idempotent."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(peer, reader)
        writer.write(OK)
        await read_request(peer, reader)
        reset(writer)

    async with run_peer(act) as peer, open_transport(peer.url) as transport:
        first = await transport.create(BODY, before_first_byte=no_write_ahead)
        second = await transport.create(BODY, before_first_byte=no_write_ahead)
        await anyio.sleep(1.0)

        assert first.response is not None
        assert (True, None) == (second.sent, second.response)
        assert (2, 1) == (peer.count_requests(), len(peer.received))


async def test_connections_are_reused_for_creates() -> None:
    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(peer, reader)
            writer.write(OK)

    async with run_peer(act) as peer, open_transport(peer.url) as transport:
        for _ in range(5):
            assert (await transport.create(BODY, before_first_byte=no_write_ahead)).response is not None
        assert (5, 1) == (peer.count_requests(), len(peer.received))


async def test_cancellation_after_write_ahead_is_raised() -> None:
    async with run_peer(silent) as peer:
        with anyio.move_on_after(5.0) as scope:
            await create(peer.url)

        assert scope.cancelled_caught
        assert 1 == peer.count_requests()


# -- responses ---------------------------------------------------------------------------------------------------------


async def test_create_has_the_required_headers() -> None:
    """The key as a bearer token, the content type, a user agent, and the body once."""
    async with run_peer(read_then_send(OK)) as peer:
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


async def test_base_url_may_have_a_path() -> None:
    async with run_peer(read_then_send(OK)) as peer:
        await create(f"{peer.url}/proxy/kie")
        assert peer.received[0].startswith(b"POST /proxy/kie/api/v1/jobs/createTask HTTP/1.1\r\n")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirect_is_not_followed(status: str) -> None:
    """A 307 would post the body, and pay, again."""
    async with run_peer(read_then_send(response_bytes(b"", "Location: /elsewhere", status=status))) as peer:
        exchange = await create(peer.url)

        assert exchange.response is not None
        assert int(status[:3]) == exchange.response.status
        assert (1, 1) == (peer.count_requests(), len(peer.received))


async def test_truncated_json_is_a_response() -> None:
    """The response is complete on the wire; its content is judged elsewhere."""
    async with run_peer(read_then_send(response_bytes(b'{"code":200,"da'))) as peer:
        exchange = await create(peer.url)
        assert exchange.response is not None
        assert b'{"code":200,"da' == exchange.response.body


@pytest.mark.parametrize("kind", ["long", "endless", "bomb"])
async def test_body_is_bounded(kind: str) -> None:
    """A longer body is not a response of the API, and must not fill the memory."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(peer, reader)
        if kind == "bomb":
            writer.write(response_bytes(gzip.compress(bytes(64 * 2**20)), "Content-Encoding: gzip"))
            await writer.drain()
            return
        writer.write(response_bytes(b"", length=2**40) if kind == "endless" else response_bytes(b"", length=3 * 2**20))
        for _ in range(2**20 if kind == "endless" else 48):
            writer.write(b" " * 65536)
            await writer.drain()

    async with run_peer(act) as peer:
        exchange = await create(peer.url)

        assert exchange.sent
        assert exchange.response is None or len(exchange.response.body) <= MAX_BODY


#: The service's clock, by which its dates count.
DATE = "Date: Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Retry-After: 30", 30.0),
        ("Retry-After: 0", 0.0),
        ("Retry-After: -5", None),
        ("Retry-After: 1e3", None),
        ("Retry-After: 99999999", 300.0),
        ("Retry-After: " + "9" * 400, 300.0),
        ("Retry-After: 1.5", 1.5),
        ("Retry-After: .5", None),
        ("Retry-After: nan", None),
        ("Retry-After: soon", None),
        (f"{DATE}\r\nRetry-After: Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        (f"{DATE}\r\nRetry-After: Wednesday, 21-Oct-26 07:28:30 GMT", 30.0),
        (f"{DATE}\r\nRetry-After: Wed Oct 21 07:28:30 2026", 30.0),
        (f"{DATE}\r\nRetry-After: Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        (f"{DATE}\r\nRetry-After: Wed, 21 Oct 2099 07:28:30 GMT", 300.0),
        (f"{DATE}\r\nRetry-After: Wed, 99 Oct 2026 07:28:30 GMT", None),
        ("Retry-After: Wed, 21 Oct 2099 07:28:30 GMT", 300.0),
        ("Retry-After: Wed, 21 Oct 2015 07:28:30 GMT", 0.0),
        ("X-Other: 30", None),
    ],
)
async def test_retry_after_is_read_in_every_form(header: str, expected: float | None) -> None:
    async with run_peer(read_then_send(response_bytes(b"{}", header, status="429 Too Many"))) as peer:
        exchange = await create(peer.url)
        assert exchange.response is not None
        assert expected == exchange.response.retry_after


async def test_cookies_are_not_kept() -> None:
    """A proxy in front of the service sets them, and they link unrelated requests."""

    async def act(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(peer, reader)
            writer.write(response_bytes(b"{}", "Set-Cookie: JSESSIONID=1; Path=/"))

    # By name, since no jar keeps the cookies of an address.
    async with run_peer(act) as peer, open_transport(peer.url.replace("127.0.0.1", "localhost")) as transport:
        for _ in range(2):
            exchange = await transport.create(BODY, before_first_byte=no_write_ahead)
            assert exchange.response is not None
        assert 2 == peer.count_requests()
        assert b"cookie" not in b"".join(peer.received).lower()


# -- requests that are free of charge ----------------------------------------------------------------------------------


def read_head_then_send(data: bytes) -> Act:
    """Read a request without a body, send *data*, and close."""

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
        read_head_then_send(b"HTTP/1.1 2"),
        read_head_then_send(response_bytes(b"{", length=9)),
        read_head_then_send(b"?"),
    ],
)
async def test_incomplete_poll_is_a_transport_error(act: Act) -> None:
    """Within ten seconds, in one line, without the key."""
    async with run_peer(act) as peer, open_transport(peer.url) as transport:
        with pytest.raises(TransportError, match="GET /api/v1/jobs/recordInfo") as raised:
            await transport.poll("t1")

        assert anyio.current_time() <= 11.0
        assert KEY not in str(raised.value)
        assert "\n" not in str(raised.value)


async def test_poll_requests_one_task() -> None:
    async with run_peer(read_head_then_send(response_bytes(b"", "Location: /elsewhere", status="302 Found"))) as peer:
        async with open_transport(peer.url) as transport:
            assert 302 == (await transport.poll("a:b.c-1")).status
        assert peer.received[0].startswith(b"GET /api/v1/jobs/recordInfo?taskId=a:b.c-1 HTTP/1.1\r\n")
        assert 1 == len(peer.received)


@pytest.mark.parametrize("size", [9_000, 60_000])
async def test_large_headers_of_a_gateway_are_read(size: int) -> None:
    """A create that was paid would otherwise be in doubt, and no poll could be read."""
    large = "Content-Security-Policy: " + "x" * size
    answer = response_bytes(b'{"code":200,"data":{"taskId":"t1"}}', large, "Connection: close")
    async with run_peer(read_head_then_send(answer)) as peer:
        exchange = await create(peer.url)
        assert exchange.response is not None
        async with open_transport(peer.url) as transport:
            assert 200 == (await transport.poll("t1")).status
            assert 200 == (await transport.request("POST", "/upload", data=b"{}", upload=True)).status


async def test_closed_transport_is_reported() -> None:
    transport = Transport(
        api_key=sealed(KEY),
        base_url="http://127.0.0.1:1",
        upload_url="http://127.0.0.1:1",
        session_factory=aiohttp.ClientSession,  # type: ignore[arg-type]  # its own keywords are narrower
        trust_env=False,
    )
    with pytest.raises(ClientClosedError):
        await transport.create(BODY, before_first_byte=no_write_ahead)
    with pytest.raises(ClientClosedError):
        await transport.poll("t1")
    assert KEY not in repr(transport)


# -- names of private addresses ----------------------------------------------------------------------------------------


async def test_resolver_returns_public_addresses_only() -> None:
    """A host name in a result's URL must not lead into the client's network."""
    public = PublicResolver()
    allowed = PublicResolver([ip_network("127.0.0.0/8"), ip_network("::1/128")])
    proxied = PublicResolver(proxies=frozenset({("localhost", 3128)}))
    try:
        with pytest.raises(OSError, match="no public address"):
            await public.resolve("localhost", 80)
        assert [] != await allowed.resolve("localhost", 80)
        assert [] != await proxied.resolve("localhost", 3128)
        with pytest.raises(OSError, match="allow_networks"):
            await proxied.resolve("localhost", 80)
    finally:
        for resolver in (public, allowed, proxied):
            await resolver.close()
