"""
Jobs that another process works on: this one watches their rows, and takes them over if that process dies.

Only the owner of a job looks at its task; everybody else sees what the owner writes down. One cheap question to the
database (has anybody written?) serves all of them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from kie_async import errors
from kie_async._core.lifecycle import OPEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kie_async._io.journal import Journal
    from kie_async._io.live import LiveJob
    from kie_async._io.registry import Registry
    from kie_async._io.root import Root

__all__ = ["Elsewhere"]

_log = logging.getLogger("kie_async")

#: How often, in seconds, it is asked whether anybody has written.
EVERY = 0.5
#: Every so many questions, it is looked whether the owners are alive.
ALIVE_EVERY = 4


class Elsewhere:
    """
    Watches rows.

    Args:
        journal: Where they are.

        registry: The jobs that are alive.

        root: What the watch runs in.

        resume: Follows a job that has become this process's.
    """

    def __init__(
        self, *, journal: Journal, registry: Registry, root: Root, resume: Callable[[LiveJob], Awaitable[None]]
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._root = root
        self._resume = resume
        self._jobs: dict[str, LiveJob] = {}
        self._running = False

    def watch(self, job: LiveJob) -> None:
        """Follow a job whose row belongs to another process."""
        job.remote = True
        self._registry.add(job)
        self._registry.bind(job)
        self._jobs[job.id] = job
        if not self._running:
            self._running = True
            self._root.start(self._watch)

    async def _watch(self) -> None:
        try:
            version, turn = await self._journal.version(), 0
            while self._jobs:
                await anyio.sleep(EVERY)
                turn += 1
                if (seen := await self._journal.version()) != version:
                    version = seen
                    await self._read()
                if turn % ALIVE_EVERY == 0:
                    await self._take_over()
        except errors.JournalError:
            _log.exception("The journal cannot be read; jobs of other processes are not followed.")
        finally:
            self._running = False

    async def _read(self) -> None:
        for job in list(self._jobs.values()):
            row = await self._journal.get(job.id)
            if row is not None and row != job.row:
                job.row = row
                if row.state not in OPEN:
                    self.leave(job)
                job.publish()

    async def _take_over(self) -> None:
        # The owner may have died; then whoever waits becomes it.
        for row in await self._journal.claim(list(self._jobs)):
            job = self._jobs[row.id]
            self.leave(job)
            job.row = row
            await self._resume(job)
            job.publish()

    def leave(self, job: LiveJob) -> None:
        """Watch a job no more."""
        job.remote = False
        self._registry.drop(job)
        del self._jobs[job.id]
