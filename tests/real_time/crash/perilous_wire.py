"""Sessions whose every step over the wire is a point: aiohttp's own, and each call of the socket."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp

from tests.real_time.crash.perils import Perils

__all__ = ["PerilousSessions"]


class PerilousSessions:
    """
    A ``session_factory``.

    Args:
        perils: Where the points are counted.
    """

    def __init__(self, perils: Perils) -> None:
        self._perils = perils
        self._made = 0

    def __call__(self, **kwargs: Any) -> aiohttp.ClientSession:
        """Make a session; the client asks first for the one that creates, then for the one for all else."""
        self._made += 1
        name = "create" if self._made % 2 else "other"
        connector = aiohttp.TCPConnector(limit=0, socket_factory=partial(_PerilousSocket.of, self._perils, name))
        around = self._before(name), *kwargs.pop("trace_configs", ()), self._after(name)
        return aiohttp.ClientSession(**{**kwargs, "connector": connector, "trace_configs": list(around)})

    def _before(self, name: str) -> aiohttp.TraceConfig:
        """What is passed before the client's own hooks run."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(self._reach(f"{name}: request begins"))
        tracing.on_connection_create_start.append(self._reach(f"{name}: connection begins"))
        tracing.on_connection_create_end.append(self._reach(f"{name}: connection stands"))
        tracing.on_connection_reuseconn.append(self._reach(f"{name}: connection is there"))
        tracing.on_request_headers_sent.append(self._reach(f"{name}: before the hook"))
        return tracing

    def _after(self, name: str) -> aiohttp.TraceConfig:
        """What is passed after the client's own hooks have run."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(self._reach(f"{name}: after the hook"))
        tracing.on_request_end.append(self._reach(f"{name}: head is read"))
        return tracing

    def _reach(self, phase: str) -> Callable[[aiohttp.ClientSession, SimpleNamespace, object], Awaitable[None]]:
        async def hook(_session: aiohttp.ClientSession, _context: SimpleNamespace, _parameters: object) -> None:
            self._perils.reach(phase)

        return hook


class _PerilousSocket(socket.socket):
    """A socket that is read piece by piece: the first byte of an answer, as far as the middle of its body, the rest."""

    _perils: Perils
    _name: str
    _fresh = True

    @classmethod
    def of(cls, perils: Perils, name: str, address: tuple[Any, ...]) -> _PerilousSocket:
        """Make one for an address as ``getaddrinfo`` gives it."""
        made = cls(*address[:3])
        made._perils = perils
        made._name = name
        return made

    def send(self, data: Any, flags: int = 0) -> int:
        self._perils.reach(f"{self._name}: before the bytes")
        sent = super().send(data, flags)
        self._perils.reach(f"{self._name}: after the bytes")
        self._fresh = True
        return sent

    def sendmsg(self, buffers: Iterable[Any]) -> int:  # type: ignore[override]  # called with nothing else
        # What later versions of Python call for several buffers.
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
            self._perils.reach(f"{self._name}: {phase}")
        return data
