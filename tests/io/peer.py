"""A scripted peer on a bare socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OK", "Act", "Peer", "black_hole", "free_port", "read_request", "reset", "response_bytes", "run_peer", "tls"]

#: An untrusted self-signed certificate for 127.0.0.1, valid for a hundred years.
_PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgS/dKq9pvqQSG30nn
WTZg4Gni97uQHFp8PEOUMo67zFehRANCAASc//PNrqRr0OfgzM+oFlmt38t4w1A5
Nybht6z5E10ldgWE/PhZSwsKGGUVRL2hsBrJOJNRhK8mQaHZaYuQMTkH
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBkDCCATagAwIBAgIUAdOuDwBSg0pF952ZqNdtFoFV99MwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzAxNTMyMVoYDzIxMjYxMDMw
MDE1MzIxWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASc//PNrqRr0OfgzM+oFlmt38t4w1A5Nybht6z5E10ldgWE/PhZSwsK
GGUVRL2hsBrJOJNRhK8mQaHZaYuQMTkHo2QwYjAdBgNVHQ4EFgQUiM1iz3NNKEAw
Jiw58BdrzXcIHMMwHwYDVR0jBBgwFoAUiM1iz3NNKEAwJiw58BdrzXcIHMMwDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0gAMEUC
IQC8fixdMveALE4zsH0UEcGgzLpII8qf6DVIV7nzU9d6rAIgcRpVWkWVY1dNEaY2
CaZKhSuEvY+OnxVauMhV1CJKq9g=
-----END CERTIFICATE-----
"""

Act: TypeAlias = "Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"


def response_bytes(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Return a response as it is on the wire; its length header is right unless given."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


#: A response that accepts a create request.
OK = response_bytes(b'{"code":200,"msg":"success","data":{"taskId":"t1"}}', "Content-Type: application/json")


@attrs.define(eq=False)
class Peer:
    """
    A listener.

    Attributes:
        url: Its URL.

        received: The received bytes, one entry per connection.
    """

    url: str = ""
    received: list[bytes] = attrs.field(factory=list)

    def count_requests(self) -> int:
        """Count the whole requests that were received."""
        return sum(data.count(b'"body"}') for data in self.received)


async def read_request(peer: Peer, reader: asyncio.StreamReader) -> None:
    """Read one whole request, up to the last bytes of the body that the tests send."""
    peer.received[-1] += await reader.readuntil(b'"body"}')


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def run_peer(act: Act, *, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    """
    Run *act* for every connection.

    Args:
        act: The handler; the connection is closed when it returns.

        context: The TLS context.

        host: The address to listen at.
    """
    peer = Peer()
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        task.add_done_callback(running.discard)
        peer.received.append(b"")
        try:
            await act(peer, reader, writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass  # the test is over, or the client has gone
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, host, 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    peer.url = f"{'http' if context is None else 'https'}://{host}:{port}"
    try:
        yield peer
    finally:
        server.close()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


def free_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Yield a host that completes no handshake: its accept queue is full and never emptied."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def tls(folder: Path) -> ssl.SSLContext:
    """Return the server's TLS context, with an untrusted certificate."""
    (folder / "peer.pem").write_text(_PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "peer.pem")
    return context
