"""
Who is measured by ``limits.py``: one file a contender, what people write included.

Each has a ``NAME`` and an async context manager ``connect(service)``, which gives a coroutine function: it makes the
create of a number, and returns when that was accepted or when its answer was lost. It is called once for each job, for
all jobs at once, and may be cancelled at any time.
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
    What a contender knows of the service.

    Attributes:
        url: Its base URL.

        key: A good API key, another one for each client.

        limit: How many creates it documents to take in a window.

        window: The window's length, in seconds.

        session: Makes an ``aiohttp.ClientSession`` of its arguments: the network and the machine are in it.

        directory: What a contender writes down there, the one that takes its place finds; None if there will be none.
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
        """Give what makes creates, until left."""
        ...
