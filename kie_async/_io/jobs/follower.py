"""
Following a job from its row: what is to be done with it is in its state and in whose it is, wherever it comes from.

There is one ``LiveJob`` for each row that something may happen to, and it is in the registry before anything is
awaited.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import anyio.lowlevel

from kie_async import errors
from kie_async._core.lifecycle import OPEN, load_record
from kie_async._io.jobs.live_job import LiveJob
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import ResultWriter
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.runtime import Runtime
    from kie_async._io.submitting.intake import IntentWriter
    from kie_async._io.submitting.submitter import Submitter
    from kie_async._io.supervisor import Supervisor
    from kie_async._io.timers import Timers

__all__ = ["JobFollower", "JournalWatch"]

_log = logging.getLogger("kie_async")

#: Jobs that are taken up before the loop has its turn: 64 take 2 ms, and a journal may hold a hundred thousand.
_AT_A_STRETCH = 64


class JobFollower:
    """
    Follows jobs from their rows.

    Args:
        journal: Holds the intents.

        registry: The jobs of this process.

        results: Writes down what became of a create.

        tracker: Follows a task, or a doubt, to its end.

        submitter: Submits a job.

        intents: Makes an unsent job ready to be sent.

        journal_watch: Watches rows that another process may move.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        registry: Registry,
        results: ResultWriter,
        tracker: Tracker,
        submitter: Submitter,
        intents: IntentWriter,
        journal_watch: JournalWatch,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._results = results
        self._tracker = tracker
        self._submitter = submitter
        self._intents = intents
        self._journal_watch = journal_watch

    async def recover(self, *, confirm: Callable[[str, str], object]) -> list[str]:
        """
        Adopt everything that is unfinished and has no owner; see ``KieClient.recover``.

        Args:
            confirm: Looks into a callback that names a task of an intent.
        """
        registry = self._registry
        found: list[str] = []
        for number, row in enumerate(await self._journal.claim(), 1):
            if number % _AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()
            found.append(row.id)
            job = registry.get(row.id)
            if job is None and (row.key is None or registry.by_key(row.key) is None):
                # Where the key is here already, the submit that has it takes the row over by itself.
                await self.follow(self.adopt(row))
            elif job is not None and job.remote:
                job.row = row
                await self.follow(job)
        for row in await self._journal.rows_named_by_callbacks():
            # A callback has named its task, and the process ended before that was proved.
            for task_id in row.callback_task_ids:
                confirm(row.id, task_id)
        return found

    def adopt(self, row: Intent) -> LiveJob:
        """The one job of a row: the one that is here, or a new one, which is here from now on."""
        job = self._registry.get(row.id)
        if job is None:
            job = LiveJob.from_row(row)
            job.remote = True  # attended, until it is known by whom
            self._registry.add(job)
        return job

    async def adopt_for_waiter(self, row: Intent) -> LiveJob:
        """
        The job of an open row that somebody asks about; if its owner is dead, this process becomes it.

        But asking about a job does not send it: one that was never sent is left as it is, for ``recover()``.
        """
        job, journal = self.adopt(row), self._journal
        try:
            if row.state is JobState.INTENT and (journal.owns(row) or not await journal.is_owner_alive(row)):
                self._tracker.let_go(job)
                job.remote = False
                job.wake_waiters()
                return job
            if not journal.owns(row):
                for claimed in await journal.claim([row.id]) if row.state is not JobState.INTENT else ():
                    job.row = claimed
            await self.follow(job)
        except BaseException:
            if job.remote:  # nothing follows it yet
                self._tracker.let_go(job)
            raise
        return job

    async def follow(self, job: LiveJob) -> None:
        """Do what fits the state of a job's row."""
        row = job.row
        if row is None or job.has_submission:
            return  # its owner is at it
        self._journal_watch.unwatch(job)
        if row.state not in OPEN:
            self._tracker.let_go(job)
        elif not self._journal.owns(row):
            self._tracker.rest(job)
            self._journal_watch.watch(job, remote=True)
        elif row.state is JobState.INTENT:
            self._tracker.rest(job)
            self._submitter.start(job, partial(self._intents.prepare_again, job))
        elif row.state is JobState.SENDING:
            # Whoever sent it did not live to see the answer.
            await self._results.record_in_doubt(job, "the process that sent it ended before the answer came")
            await self.follow(job)
        elif row.state is JobState.IN_DOUBT:
            self._tracker.in_doubt(job)
            self._journal_watch.watch(job, remote=False)
        else:
            self._tracker.submitted(job)
            if row.callback_url is not None:
                self._journal_watch.watch(job, remote=False)  # the callback may land on another process
        job.wake_waiters()

    async def follow_accepted(self, job: LiveJob) -> None:
        """Follow a job whose task was proved to exist, whether or not its create still waits for its answer."""
        if job.has_submission:
            self._tracker.submitted(job)
            self._submitter.interrupt(job)
        else:
            await self.follow(job)


#: How often, in seconds, it is asked whether anybody has written.
CHECK_INTERVAL = 0.5
#: Every so many questions, it is looked whether the owners are alive.
OWNER_CHECK_EVERY = 4


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

        on_remote_end: Told of each job of ours whose end was written down by another process.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        supervisor: Supervisor,
        runtime: Runtime,
        timers: Timers,
        follow: Callable[[LiveJob], Awaitable[None]],
        forget: Callable[[LiveJob], None],
        on_remote_end: Callable[[LiveJob], None],
    ) -> None:
        self._journal = journal
        self._supervisor = supervisor
        self._runtime = runtime
        self._timers = timers
        self._follow = follow
        self._forget = forget
        self._on_remote_end = on_remote_end
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

    def unwatch(self, job: LiveJob) -> None:
        """Watch a job no more."""
        job.remote = False
        self._jobs.pop(job.id, None)

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._timers.at(self._runtime.now() + CHECK_INTERVAL, self._ask)

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
            if self._questions % OWNER_CHECK_EVERY == 0:
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
        watched = {job.id: job for job in self._jobs.values() if job.row is not None and job.unjournaled is None}
        rows = [job.row for job in watched.values() if job.row is not None]
        for job_id, row in (await self._journal.find_changed(rows)).items():
            job = watched[job_id]
            if self._jobs.get(job_id) is not job:
                continue  # left meanwhile
            if row is None:
                self._gone(job)
            elif row != job.row and job.unjournaled is None:
                await self._changed(job, row)

    async def _take_over(self) -> None:
        # The owner may have died; then whoever waits becomes it. But waiting for a job does not send it.
        for job in [job for job in self._jobs.values() if job.remote and job.state is JobState.INTENT]:
            if job.row is not None and not await self._journal.is_owner_alive(job.row) and job.state is JobState.INTENT:
                self.unwatch(job)
                self._forget(job)
        remote = [job.id for job in self._jobs.values() if job.remote and job.state is not JobState.INTENT]
        for row in await self._journal.claim(remote) if remote else ():
            known = self._jobs.get(row.id)
            if known is not None and known.remote:
                await self._changed(known, row)

    def _gone(self, job: LiveJob) -> None:
        """Another process has forgotten the job: it had ended, and nobody knows how."""
        msg = "The job has ended, and was deleted from the journal. Look for its task at kie.ai/logs."
        job.wait_error = errors.TaskNotFoundError(msg, job_id=job.id, task_id=job.task_id)
        self.unwatch(job)
        self._forget(job)

    async def _changed(self, job: LiveJob, row: Intent) -> None:
        job.row = row
        if row.record is not None:
            job.update_record(load_record(row.record))
            if not job.remote:
                self._on_remote_end(job)
        await self._follow(job)
        job.wake_waiters()
