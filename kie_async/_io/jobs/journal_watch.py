"""
Rows that another process may move: those that it works on, and those of ours that a callback may move anywhere.

Only the owner of a job looks at its task; everybody else sees what the owner writes down, and takes over if it dies.
But a callback lands on any process, which writes down what it has confirmed. One cheap question to the database (has
anybody written?) serves all of them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kie_async import errors
from kie_async._core.lifecycle import OPEN, Intent, load_record
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.journals.journal import Journal
    from kie_async._io.runtime import Runtime
    from kie_async._io.supervisor import Supervisor
    from kie_async._io.timers import Timers

__all__ = ["JournalWatch"]

_log = logging.getLogger("kie_async")

#: How often, in seconds, it is asked whether anybody has written.
EVERY = 0.5
#: Every so many questions, it is looked whether the owners are alive.
ALIVE_EVERY = 4


class JournalWatch:
    """
    Watches rows.

    Args:
        journal: Where they are.

        supervisor: What the questions run in.

        runtime: The clock.

        timers: Where the next question goes.

        follow: Does what fits the row of a job that has changed.

        let_go: Forgets a job whose row is gone.

        ended_elsewhere: Told of each job of ours whose end was written down by another process.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        supervisor: Supervisor,
        runtime: Runtime,
        timers: Timers,
        follow: Callable[[LiveJob], Awaitable[None]],
        let_go: Callable[[LiveJob], None],
        ended_elsewhere: Callable[[LiveJob], None],
    ) -> None:
        self._journal = journal
        self._supervisor = supervisor
        self._runtime = runtime
        self._timers = timers
        self._follow = follow
        self._let_go = let_go
        self._ended_elsewhere = ended_elsewhere
        self._jobs: dict[str, LiveJob] = {}
        self._planned = False
        self._questions = 0
        self._well = True
        #: What the rows that are watched were read at; None where one of them may be older.
        self._version: int | None = None

    def watch(self, job: LiveJob, *, remote: bool) -> None:
        """
        Follow the row of a job.

        Args:
            job: The job.

            remote: Whether it belongs to another process.
        """
        job.remote = remote
        if not self._journal.durable:
            return  # nobody else can reach it
        self._jobs[job.id] = job
        self._version = None
        self._plan()

    def leave(self, job: LiveJob) -> None:
        """Watch a job no more."""
        job.remote = False
        self._jobs.pop(job.id, None)

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._timers.at(self._runtime.now() + EVERY, self._ask)

    def _ask(self) -> None:
        self._planned = False
        # What has ended here is nobody's business any more.
        self._jobs = {job_id: job for job_id, job in self._jobs.items() if job.state in OPEN}
        if self._jobs and self._supervisor.running:
            self._supervisor.start(self._answer)

    async def _answer(self) -> None:
        self._questions += 1
        try:
            if (seen := await self._journal.change_counter()) != self._version:
                self._version = seen
                await self._read()
            if self._questions % ALIVE_EVERY == 0:
                await self._take_over()
            self._well = True
        except errors.JournalError:
            self._version = None
            if self._well:
                _log.exception("The journal cannot be read; jobs of other processes are looked at again soon.")
            self._well = False
        finally:
            self._plan()

    async def _read(self) -> None:
        watched = {job.id: job for job in self._jobs.values() if job.row is not None and job.unwritten is None}
        rows = [job.row for job in watched.values() if job.row is not None]
        for job_id, row in (await self._journal.find_changed(rows)).items():
            job = watched[job_id]
            if self._jobs.get(job_id) is not job:
                continue  # left meanwhile
            if row is None:
                self._gone(job)
            elif row != job.row and job.unwritten is None:
                await self._changed(job, row)

    async def _take_over(self) -> None:
        # The owner may have died; then whoever waits becomes it. But waiting for a job does not send it.
        for job in [job for job in self._jobs.values() if job.remote and job.state is JobState.INTENT]:
            if job.row is not None and not await self._journal.is_owner_alive(job.row) and job.state is JobState.INTENT:
                self.leave(job)
                self._let_go(job)
        remote = [job.id for job in self._jobs.values() if job.remote and job.state is not JobState.INTENT]
        for row in await self._journal.claim(remote) if remote else ():
            known = self._jobs.get(row.id)
            if known is not None and known.remote:
                await self._changed(known, row)

    def _gone(self, job: LiveJob) -> None:
        """Another process has forgotten the job: it had ended, and nobody knows how."""
        msg = "The job has ended, and was deleted from the journal. Look for its task at kie.ai/logs."
        job.trouble = errors.TaskNotFoundError(msg, job_id=job.id, task_id=job.task_id)
        self.leave(job)
        self._let_go(job)

    async def _changed(self, job: LiveJob, row: Intent) -> None:
        job.row = row
        if row.record is not None:
            job.saw(load_record(row.record))
            if not job.remote:
                self._ended_elsewhere(job)
        await self._follow(job)
        job.publish()
