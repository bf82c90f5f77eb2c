"""
``Candidates``: confirms the tasks that an odd answer to a create has named, before anything else is decided of it.

The answer may have a code of failure, or be cut off. What it names may be ours, so it is journaled first, and the
create is not sent again while it may be. ``recordInfo`` tells whose task it is.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async import errors
from kie_async._core.candidates import confirms_answer
from kie_async._io.jobs.transitions import require_row
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.jobs.transitions import ResultWriter
    from kie_async._io.polling.poller import Poller

__all__ = ["Candidates"]

_log = logging.getLogger("kie_async")

#: The delays between the polls of a candidate, in seconds: a new task may be invisible for 90 s.
_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)


@attrs.define(eq=False, repr=False, kw_only=True)
class Candidates:
    """
    Confirms candidates.

    Args:
        poller: Polls the candidates.

        results: Journals the candidates, and binds the task that is proved.

        secrets: The secrets of callback tokens; the first is that of the present API key.

        confirm: Called with a job and a task if the task could not be confirmed in time.
    """

    poller: Poller
    results: ResultWriter
    secrets: list[bytes]
    confirm: Callable[[str, str], object]

    async def settle(self, job: LiveJob, task_ids: Collection[str]) -> bool | None:
        """
        Journal the candidates of a job that is SENDING, and confirm them within two minutes.

        Returns:
            True if the job has its task; False if each candidate is the task of another request; None if that is
            unknown.
        """
        _log.warning("The odd answer to the create of %s names %s; that is checked now.", job.id, ", ".join(task_ids))
        with anyio.CancelScope(shield=True):  # from then on the journal knows them, and recover() confirms them
            await self._write(job, tuple(dict.fromkeys((*require_row(job).callback_task_ids, *task_ids))))
        left = list(task_ids)
        for delay in (0.0, *_DELAYS):
            await anyio.sleep(delay)
            for task_id in list(left):  # also once one of them was the task: a further one is a duplicate
                ours = await self._is_ours(job, task_id)
                if ours is not None:
                    left.remove(task_id)
                with anyio.CancelScope(shield=True):
                    if ours:
                        await self.results.record_accepted(job, task_id)
                    elif ours is False:
                        others = (other for other in require_row(job).callback_task_ids if other != task_id)
                        await self._write(job, tuple(others))
            if job.state is not JobState.SENDING:
                return True
            if not left:
                return False
        return None

    async def _is_ours(self, job: LiveJob, task_id: str) -> bool | None:
        try:
            poll = await self.poller.poll_now(task_id)
            if poll.record is None:
                return None
            if await self.results.find_creators(job.id, task_id):
                return False
        except (errors.TransportError, errors.JournalError, errors.ClientClosedError):
            return None
        return confirms_answer(poll.record, require_row(job), *self.secrets)

    async def _write(self, job: LiveJob, task_ids: tuple[str, ...]) -> None:
        try:
            await self.results.transitions.record_fields(job, callback_task_ids=task_ids)
        except errors.JournalError:
            _log.critical("The candidates %s of %s could not be journaled.", task_ids, job.id, exc_info=True)
