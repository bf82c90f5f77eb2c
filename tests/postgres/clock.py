"""A server's clock that tests let run: by its clock, a step in small parts is time that passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.to_thread

from kie_async._io.journals.journal import WorkerReport
from kie_async._io.journals.postgres import PostgresStore
from tests.simulation.postgres_model import ModelServer

__all__ = ["Clock", "in_thread"]


async def in_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call what blocks."""
    return await anyio.to_thread.run_sync(lambda: call(*args, **options))


class Clock:
    """
    The clock of a server.

    Args:
        server: Where ``open_postgres`` opens its journal.

        set_clock: Sets the server's clock to so many seconds after the present time.
    """

    def __init__(self, server: str | ModelServer, set_clock: Callable[[float], object]) -> None:
        self.dsn: Any = server
        self._set_clock = set_clock
        self._now = 0.0

    def step(self, seconds: float) -> None:
        """Step it."""
        self._now += seconds
        self._set_clock(self._now)

    async def pass_time(self, seconds: float, *journals: PostgresStore) -> None:
        """Let time pass, in which workers have their heartbeats."""
        for _ in range(round(seconds / PostgresStore.heartbeat_interval)):
            await in_thread(self.step, PostgresStore.heartbeat_interval)
            for journal in journals:
                await journal.heartbeat(WorkerReport())
