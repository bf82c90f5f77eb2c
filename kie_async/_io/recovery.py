"""Going on with what an earlier run has left unfinished."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kie_async._core.lifecycle import IntentState
from kie_async._io.elsewhere import Elsewhere
from kie_async._io.live import LiveJob

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kie_async._core.lifecycle import Intent
    from kie_async._io.parts import Parts
    from kie_async.records import JSON

__all__ = ["Recovery"]


class Recovery:
    """
    Takes jobs up from their rows.

    Args:
        parts: The client's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._elsewhere = Elsewhere(journal=parts.journal, registry=parts.registry, root=parts.root, resume=self.resume)

    async def recover(
        self, send_again: Callable[[LiveJob], Awaitable[tuple[Intent, Mapping[str, JSON]]]]
    ) -> list[LiveJob]:
        """
        Take up everything that is unfinished and has nobody; see ``KieClient.recover``.

        Args:
            send_again: Makes an unsent job ready to be sent.
        """
        found: list[LiveJob] = []
        for row in await self._parts.journal.claim():
            job = self._parts.registry.get(row.id)
            if job is None or job.remote:
                if job is None:
                    job = LiveJob(id=row.id, key=row.key, fingerprint=row.fingerprint)
                else:
                    self._elsewhere.leave(job)
                job.row = row
                if row.state is IntentState.INTENT:
                    self._parts.submitter.start(job, partial(send_again, job))
                else:
                    await self.resume(job)
            found.append(job)
        return found

    async def take_up(self, job: LiveJob) -> None:
        """Follow a job from its row: here, or where another process works on it."""
        row = job.row
        if row is None:
            return
        if not self._parts.journal.owns(row):
            for claimed in await self._parts.journal.claim([row.id]):
                job.row = row = claimed
        if self._parts.journal.owns(row):
            await self.resume(job)
        else:
            self._elsewhere.watch(job)

    async def resume(self, job: LiveJob) -> None:
        """Follow a job of this process from its row, where nothing needs to be sent."""
        parts = self._parts
        if job.state is IntentState.SENDING:
            # Whoever sent it did not live to see the answer.
            await parts.settler.doubted(job, "the process that sent it ended before the answer came")
        elif job.state is IntentState.IN_DOUBT:
            parts.registry.add(job)
            parts.tracker.in_doubt(job)
        elif job.state in (IntentState.SUBMITTED, IntentState.STALLED):
            parts.registry.add(job)
            # The task runs whether there is a slot for it or not.
            job.holds_slot = job.holds_slot or parts.admission.take_slot_if_free(job.id)
            parts.tracker.submitted(job)
