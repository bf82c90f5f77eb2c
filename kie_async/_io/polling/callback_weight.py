"""
Polling as the net under the callbacks: what a look is worth while a callback may come, learned from what has come.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from kie_async._core.polling import CallbackLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.runtime import Runtime
    from kie_async._io.timers import Timer, Timers

__all__ = ["CallbackWeight"]

_log = logging.getLogger("kie_async")

#: A callback that has not come this long after the end of its task was seen counts as lost, in seconds.
GRACE = 10.0
#: How many ended tasks are waited for in that sense; beyond that, the oldest are not counted at all.
MAX_DUE = 1000
#: Looks are planned anew when what they are worth has changed by this factor.
_MUCH = 2.0
#: From here on the user should hear that callbacks do not come.
_DOUBTFUL = 0.5


class CallbackWeight:
    """
    Weighs looks.

    Args:
        replan: Plans all polls anew.

        runtime: The clock.

        timers: Where deadlines go.
    """

    def __init__(self, *, replan: Callable[[], None], runtime: Runtime, timers: Timers) -> None:
        self._replan = replan
        self._runtime = runtime
        self._timers = timers
        self._since = runtime.now()
        self._trust = CallbackLoss()
        self._due: dict[str, Timer] = {}
        self._planned_at = self._trust.probability
        self._told = False

    def receiving(self) -> None:
        """A receiver of ours is in use: callbacks are expected from now on."""
        if not self._trust.receiving:
            self._trust.receiving = True
            self._reconsider()

    def weigh(self, job: LiveJob) -> float:
        """What a look at a job is worth, up to 1: the chance that no callback tells of its end."""
        row = job.row
        if row is None or row.callback_url is None or job.callback_received:
            return 1.0
        # Of a job from an earlier run, the callback may have come while nobody was there.
        missed = job.accepted_at < self._since and job.record is None
        return 1.0 if missed else self._trust.probability

    def came(self, job_id: str, job: LiveJob | None) -> None:
        """A callback for an intent has come, to this process or to another one; counted once."""
        entry = self._due.pop(job_id, None)
        if entry is not None:
            entry.cancel()
        elif job is None or job.callback_received:
            return  # of an old one, or one of several
        if job is not None:
            job.callback_received = True
        self._trust.record_received()
        self._told = False
        self._reconsider()

    def ended(self, job: LiveJob) -> None:
        """A job's end was seen; if a callback was promised and has not come, it is due."""
        if job.callback_received or job.row is None or job.row.callback_url is None:
            return
        if len(self._due) >= MAX_DUE:
            self._due.pop(next(iter(self._due))).cancel()
        at = self._runtime.now() + GRACE
        self._due[job.id] = self._timers.at(at, partial(self._lost, job.id))

    def _lost(self, job_id: str) -> None:
        del self._due[job_id]
        before = self._trust.probability
        self._trust.record_lost()
        if self._trust.receiving and not self._told and before >= _DOUBTFUL:
            self._told = True
            _log.warning(
                "Callbacks do not come: tasks have ended, and the service has not posted to callback_url within %g s."
                " Results are polled for. Is the URL reachable from outside?",
                GRACE,
            )
        self._reconsider()

    def _reconsider(self) -> None:
        """Plan the looks anew if what they are worth has changed much."""
        now = self._trust.probability
        if max(now, self._planned_at) >= _MUCH * min(now, self._planned_at):
            self._planned_at = now
            self._replan()
