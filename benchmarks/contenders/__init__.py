"""
The contenders of ``limits.py``, one file each: this package, and the usual hand-written code.

Each has a ``NAME`` and an async context manager ``connect(service)``, which yields a coroutine function. The function
makes the create with a given number, and returns when the create was accepted or its answer was lost. It is called once
for each job, for all jobs at once, and may be cancelled at any time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, TypeAlias

import aiohttp
import attrs

__all__ = ["Contender", "Create", "Service"]

Create: TypeAlias = Callable[[int], Awaitable[None]]


@attrs.frozen
class Service:
    """
    The service, as a contender knows it.

    Attributes:
        url: Its base URL.

        key: A valid API key, a different one for each client.

        limit: The documented number of creates in a window.

        window: The window's length, in seconds.

        session: Makes an ``aiohttp.ClientSession`` that simulates the network and the machine.

        directory: A directory that the next process of the contender finds again, or None if there is no next process.
    """

    url: str
    key: str
    limit: int
    window: float
    session: Callable[..., aiohttp.ClientSession]
    directory: Path | None


class Contender(Protocol):
    """A module of this package."""

    NAME: str

    def connect(self, service: Service) -> AbstractAsyncContextManager[Create]:
        """Yield the function that makes creates."""
        ...
