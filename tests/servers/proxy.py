"""A proxy in front of PostgreSQL that cuts, silences and redirects connections, and cuts them at a chosen statement."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Self

import attrs

from tests.servers.postgres import APP, DATABASE

__all__ = ["PostgresProxy"]

_HOST = "127.0.0.1"
_CHUNK = 65_536
_LENGTH = struct.Struct("!I")
#: What a client may ask before it says who it is; the answer is a single byte.
_ENCRYPTION_REQUESTS = frozenset({80_877_103, 80_877_104})
_READY = b"Z"


class _Reader:
    """Cuts a stream into PostgreSQL's messages: a type of one byte, and a length that counts itself."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes, *, typed: bool = True) -> Iterator[bytes]:
        """Yield each complete message of the stream; without *typed*, the next one has no type and comes alone."""
        self._buffer += data
        start = 1 if typed else 0
        while len(self._buffer) >= start + _LENGTH.size:
            end = start + _LENGTH.unpack_from(self._buffer, start)[0]
            if len(self._buffer) < end:
                return
            message, self._buffer = self._buffer[:end], self._buffer[end:]
            yield message


@attrs.define(eq=False)
class _Cut:
    """The message at which a connection is cut: before it is forwarded, or before its answer is."""

    pattern: bytes
    done: bool
    happened: threading.Event


class _Connection:
    """A client's connection and the one to the server, with a thread for each direction."""

    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket, *, is_silent: bool) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self.is_silent = is_silent
        self._is_starting = True
        self._awaits_byte = False
        #: The answers that the client has asked for, and the first that it must not see. One belongs to the start.
        self._asked = 1
        self._answered = 0
        self._last_answer: tuple[int, _Cut] | None = None
        for pump in (self._pump_requests, self._pump_answers):
            threading.Thread(target=self._run, args=(pump,), daemon=True).start()

    def cut(self) -> None:
        """Reset both connections."""
        for sock in (self._client, self._server):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _run(self, pump: Callable[[], None]) -> None:
        with suppress(OSError):
            pump()
        if not self.is_silent:
            self.cut()

    def _pump_requests(self) -> None:
        reader = _Reader()
        while data := self._client.recv(_CHUNK):
            if self.is_silent:
                continue
            for message in reader.feed(data, typed=not self._is_starting):
                if not self._forward_request(message):
                    self.cut()
                    return

    def _forward_request(self, message: bytes) -> bool:
        """Forward a message of the client; return False to cut the connection instead."""
        if self._is_starting:
            self._awaits_byte = _LENGTH.unpack_from(message, 4)[0] in _ENCRYPTION_REQUESTS
            self._is_starting = self._awaits_byte
        elif (cut := self._proxy.take_cut(message)) is not None:
            if not cut.done:
                cut.happened.set()
                return False
            self._last_answer = (self._asked + 1, cut)
        if not self._is_starting and message[:1] in (b"Q", b"S"):
            self._asked += 1
        self._server.sendall(message)
        return True

    def _pump_answers(self) -> None:
        reader = _Reader()
        while data := self._server.recv(_CHUNK):
            if self.is_silent:
                continue
            if self._awaits_byte:
                self._awaits_byte = False
                self._client.sendall(data[:1])
                data = data[1:]
            held = self._last_answer
            ready = sum(message[:1] == _READY for message in reader.feed(data))
            self._answered += ready
            if held is None:
                self._client.sendall(data)
            elif self._answered >= held[0]:
                held[1].happened.set()
                self.cut()
                return


class PostgresProxy:
    """
    A proxy on a port of its own that forwards to the server on *port*; use it in a ``with`` statement.

    Args:
        port: The port of the server on this machine.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((_HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[_Connection] = []
        self._lock = threading.Lock()
        self._cuts: list[_Cut] = []
        self._is_silent = False
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()

    def dsn(self, database: str = DATABASE, *, user: str = APP, password: str = "") -> str:
        """Return the DSN of a database behind the proxy."""
        return f"postgresql://{user}{':' if password else ''}{password}@{_HOST}:{self.port}/{database}"

    def forward_to(self, port: int) -> None:
        """Forward new connections to the server on *port*, and cut those to the server before, as a failover does."""
        self._target = port
        self.cut()

    def cut(self) -> None:
        """Reset all connections; clients may connect again."""
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.cut()

    def silence(self) -> None:
        """
        Drop all that is sent from now on, in both directions, without closing anything: also on new connections.

        The connections of now stay silent for ever, as those through a lost route do.
        """
        self._is_silent = True
        with self._lock:
            for connection in self._connections:
                connection.is_silent = True

    def resume(self) -> None:
        """Serve new connections again."""
        self._is_silent = False

    def cut_at(self, pattern: bytes, *, done: bool) -> threading.Event:
        """
        Cut the next connection whose client sends a statement with *pattern*, once.

        Args:
            pattern: A part of the statement that ends a transaction: ``b"COMMIT"``, or the statement itself where it
                is sent without ``BEGIN``. In pipeline mode it is any statement before the Sync.

            done: True if the server executes and commits it, and the client does not hear so; False if the server never
                gets it.

        Returns:
            An event that is set when the connection has been cut.
        """
        cut = _Cut(pattern, done, threading.Event())
        with self._lock:
            self._cuts.append(cut)
        return cut.happened

    def take_cut(self, message: bytes) -> _Cut | None:
        """Return the cut that applies to a client's message, and apply it once."""
        with self._lock:
            for cut in self._cuts:
                if cut.pattern in message:
                    self._cuts.remove(cut)
                    return cut
        return None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((_HOST, self._target))
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.append(_Connection(self, client, server, is_silent=self._is_silent))
