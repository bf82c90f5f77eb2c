"""Client sessions with a kill point at each step of a request: aiohttp's hooks and each call of the socket."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp

from tests.real_time.crash.kill_points import KillPoints

__all__ = ["InstrumentedSessions"]


class InstrumentedSessions:
    """
    A ``session_factory``.

    Args:
        kill_points: The kill points.
    """

    def __init__(self, kill_points: KillPoints) -> None:
        self._kill_points = kill_points
        self._made = 0

    def __call__(self, **kwargs: Any) -> aiohttp.ClientSession:
        """Return a session; the client requests first the one for creates, then the one for everything else."""
        self._made += 1
        name = "create" if self._made % 2 else "other"
        connector = aiohttp.TCPConnector(
            limit=0, socket_factory=partial(_InstrumentedSocket.of, self._kill_points, name)
        )
        around = self._before(name), *kwargs.pop("trace_configs", ()), self._after(name)
        return aiohttp.ClientSession(**{**kwargs, "connector": connector, "trace_configs": list(around)})

    def _before(self, name: str) -> aiohttp.TraceConfig:
        """Return hooks that run before the client's own hooks."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(self._hook(f"{name}: request begins"))
        tracing.on_connection_create_start.append(self._hook(f"{name}: connection begins"))
        tracing.on_connection_create_end.append(self._hook(f"{name}: connection stands"))
        tracing.on_connection_reuseconn.append(self._hook(f"{name}: connection is there"))
        tracing.on_request_headers_sent.append(self._hook(f"{name}: before the hook"))
        return tracing

    def _after(self, name: str) -> aiohttp.TraceConfig:
        """Return hooks that run after the client's own hooks."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(self._hook(f"{name}: after the hook"))
        tracing.on_request_end.append(self._hook(f"{name}: head is read"))
        return tracing

    def _hook(self, phase: str) -> Callable[[aiohttp.ClientSession, SimpleNamespace, object], Awaitable[None]]:
        async def hook(_session: aiohttp.ClientSession, _context: SimpleNamespace, _parameters: object) -> None:
            self._kill_points.pass_point(phase)

        return hook


class _InstrumentedSocket(socket.socket):
    """A socket that reads responses in pieces: the first byte, up to the middle of the body, the rest."""

    _kill_points: KillPoints
    _name: str
    _fresh = True

    @classmethod
    def of(cls, kill_points: KillPoints, name: str, address: tuple[Any, ...]) -> _InstrumentedSocket:
        """Return a socket for an address of ``getaddrinfo``."""
        made = cls(*address[:3])
        made._kill_points = kill_points
        made._name = name
        return made

    def send(self, data: Any, flags: int = 0) -> int:
        self._kill_points.pass_point(f"{self._name}: before the bytes")
        sent = super().send(data, flags)
        self._kill_points.pass_point(f"{self._name}: after the bytes")
        self._fresh = True
        return sent

    def sendmsg(self, buffers: Iterable[Any]) -> int:  # type: ignore[override]  # called with nothing else
        # Later versions of Python call this for several buffers.
        return self.send(b"".join(buffers))

    def recv(self, size: int, flags: int = 0) -> bytes:
        there = super().recv(size, flags | socket.MSG_PEEK)
        head, blank, body = there.partition(b"\r\n\r\n")
        if self._fresh:
            self._fresh = False
            piece, phase = 1, "first byte"
        elif blank and body:
            piece, phase = len(head) + len(blank) + len(body) // 2, "middle of the body"
        else:
            piece, phase = size, "last byte"
        data = super().recv(piece, flags)
        if data:
            self._kill_points.pass_point(f"{self._name}: {phase}")
        return data
