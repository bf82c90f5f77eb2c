"""
The rows of a shared run: those that it yields, and those that other workers yield.

The journal says which worker holds a row, that is, yields its outcome. A worker that inserts a row holds it; any other
row is taken by compare-and-set if no living worker holds it. So each row is yielded by one run, and by another one if
that worker ends before it has yielded the row.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from kie_async import errors
from kie_async._core.lifecycle import ENDED, has_yielded
from kie_async.outcomes import Failed
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent
    from kie_async._core.run_figures import RunFigures
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.journals.journal import Journal
    from kie_async._io.mapping.rows import Row
    from kie_async._io.mapping.run_state import RunState
    from kie_async.outcomes import Outcome

__all__ = ["HeldElsewhereError", "SharedRows"]

#: The interval at which the rows of other workers are read, in seconds.
CHECK_INTERVAL = 1.0
#: The states whose outcome is the last one: another run has nothing to add to it.
_YIELDABLE = (ENDED - {JobState.CANCELLED}) | {JobState.UNRESOLVED, JobState.STALLED}


class HeldElsewhereError(Exception):
    """
    A row that another worker yields, or has yielded.

    Args:
        job_id: The id of its job.

        yielded: True if a shared run has yielded its present outcome.
    """

    def __init__(self, job_id: str, *, yielded: bool) -> None:
        super().__init__(job_id)
        self.job_id = job_id
        self.yielded = yielded


class SharedRows:
    """
    The holds of a run; without effect in a run that is not shared.

    Args:
        enabled: True for a shared run.

        journal: The journal.

        state: The phase of the run.

        figures: Counts the rows that other workers yield.
    """

    def __init__(self, *, enabled: bool, journal: Journal, state: RunState, figures: RunFigures) -> None:
        self.enabled = enabled
        self._journal = journal
        self._state = state
        self._figures = figures
        # The ids of the jobs that this run holds, by the key of their row.
        self._held: dict[str, dict[str, None]] = {}
        # The rows that other workers hold, by the id of their job.
        self._elsewhere: dict[str, list[Row]] = {}
        self._taken: Outcome | None = None

    @property
    def waiting(self) -> bool:
        """True if the run waits for rows that other workers hold."""
        return bool(self._elsewhere) and not self._state.stopped

    async def hold(self, row: Row, job: LiveJob) -> None:
        """
        Hold a row's job, unless it is not journaled yet.

        Raises:
            HeldElsewhereError: If another worker yields it.

            JournalError: If the journal cannot be read or written.
        """
        intent = job.row
        if not self.enabled or intent is None:
            return
        if intent.holder != self._journal.worker or intent.yielded is not None:
            intent = next(iter(await self._journal.hold([job.id])), intent)
        if has_yielded(intent) or intent.holder != self._journal.worker:
            raise HeldElsewhereError(job.id, yielded=has_yielded(intent))
        self._held.setdefault(row.key, {})[job.id] = None

    # -- rows of other workers --------------------------------------------------------------------------------------

    def set_aside(self, row: Row, held: HeldElsewhereError) -> None:
        """Leave a row to another worker; unless that has yielded it, the run waits for it."""
        self._figures.elsewhere += 1
        if not held.yielded:
            self._elsewhere.setdefault(held.job_id, []).append(row)

    async def wait_for_rows(self) -> list[Row]:
        """
        Wait for a while; return the rows that this run holds now, since their worker has ended or left them.

        Raises:
            JournalError: If the journal cannot be read or written.
        """
        with anyio.move_on_after(CHECK_INTERVAL):
            while not self._state.stopped:
                await self._state.wait_for_change()
        if not self.waiting:
            return []
        asked = list(self._elsewhere)
        intents: dict[str, Intent] = {intent.id: intent for intent in await self._journal.hold(asked)}
        freed: list[Row] = []
        for job_id in asked:
            intent = intents.get(job_id)
            if intent is None or has_yielded(intent):
                del self._elsewhere[job_id]  # yielded, or deleted after its end
            elif intent.holder == self._journal.worker:
                rows = self._elsewhere.pop(job_id)
                self._held.setdefault(rows[0].key, {})[job_id] = None
                freed += rows
        self._figures.elsewhere -= len(freed)
        return freed

    # -- outcomes of this run ---------------------------------------------------------------------------------------

    def record_taken(self, outcome: Outcome) -> None:
        """Remember the outcome that the caller has got last: it has handled it when it asks for the next one."""
        self._taken = outcome

    async def settle(self) -> None:
        """Journal that the outcome that the caller has got last is yielded."""
        outcome, self._taken = self._taken, None
        if outcome is None or not self.enabled:
            return
        final = outcome.state in _YIELDABLE and not (isinstance(outcome, Failed) and outcome.generation is not None)
        for job_id in self._held.pop(outcome.key, ()):
            # The other jobs of the row have failed and were retried.
            state = outcome.state if job_id == outcome.job_id else JobState.FAILED
            await self._end_hold(job_id, state if final else None)

    async def release(self, key: str) -> None:
        """Leave a row of this run to the other workers."""
        for job_id in self._held.pop(key, ()):
            await self._end_hold(job_id, None)

    async def release_all(self) -> None:
        """Leave all rows that were not yielded to the other workers."""
        self._elsewhere.clear()
        for key in list(self._held):
            await self.release(key)

    async def _end_hold(self, job_id: str, yielded: JobState | None) -> None:
        with suppress(errors.JournalError):  # then another worker yields the row once more, when this one has ended
            await self._journal.end_hold(job_id, yielded)
