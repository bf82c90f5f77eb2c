"""``Bell``: wakes all who wait for something to have changed; each looks for himself what that was."""

from __future__ import annotations

import asyncio

__all__ = ["Bell"]


class Bell:
    """Rings; a ring that nobody waits for is lost."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake everybody who waits."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.set_result(None)

    async def rung(self) -> None:
        """Wait for the next ring."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._waiting)
