"""
``JobFollower``: resumes a job from its row, by the row's state and owner; ``JournalWatch`` sees rows change.

It is the one place that does so: the submitter, the journal watch, confirmations and the tracker call it. Each row that
may still change has exactly one ``LiveJob``, which is in the registry before anything is awaited.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import anyio.lowlevel
import attrs

from kie_async import errors
from kie_async._core.lifecycle import OPEN, load_record
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.journals.journal import PAGE, read_pages
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import ResultWriter
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.runtime import Runtime, Supervisor
    from kie_async._io.submitting.intake import IntentWriter
    from kie_async._io.submitting.submission import Submitter
    from kie_async._io.timers import Timers

__all__ = ["JobFollower", "JournalWatch"]

_log = logging.getLogger("kie_async")

#: The number of jobs that are adopted before the loop gets a turn: 64 take 2 ms, and a journal may have 10,000.
_BATCH = 64


@attrs.define(eq=False, repr=False, kw_only=True)
class JobFollower:
    """
    Resumes jobs from their rows.

    Args:
        journal: The journal.

        registry: The live jobs.

        results: Records results of creates.

        tracker: Tracks tasks and jobs in doubt.

        submitter: Submits jobs.

        intents: Prepares unsent jobs.

        journal_watch: Watches rows that another process may change.
    """

    journal: Journal
    registry: Registry
    results: ResultWriter
    tracker: Tracker
    submitter: Submitter
    intents: IntentWriter
    journal_watch: JournalWatch

    async def recover(
        self, *, found: Callable[[str], object], confirm: Callable[[str, str], object], adopt_key: bool = False
    ) -> None:
        """
        Adopt everything that is unfinished and has no owner; see ``KieClient.recover``.

        Args:
            found: Called with the id of each job that this process owns then.

            confirm: Called with the job and the task of each callback that is not confirmed yet.

            adopt_key: True to send jobs of other API keys with the present one.
        """
        journal = self.journal
        claims = read_pages(lambda after: journal.claim(adopt_key=adopt_key, after=after, limit=PAGE))
        async with aclosing(claims) as pages:
            async for page in pages:
                for number, row in enumerate(page):
                    if number % _BATCH == 0:
                        await anyio.lowlevel.checkpoint()
                    await self._recover_row(row)
                    found(row.id)
        named = read_pages(lambda after: journal.rows_named_by_callbacks(after=after, limit=PAGE))
        async with aclosing(named) as pages:
            async for page in pages:
                # A callback has named the task, and the process ended before that was confirmed.
                for row in page:
                    for task_id in row.callback_task_ids:
                        confirm(row.id, task_id)

    async def _recover_row(self, row: Intent) -> None:
        registry = self.registry
        job = registry.get(row.id)
        if job is None and (row.key is None or registry.by_key(row.key) is None):
            # If the key has a live job, its submission adopts the row.
            await self.follow(self.adopt(row))
        elif job is not None and job.remote:
            job.row = row
            await self.follow(job)

    def adopt(self, row: Intent) -> LiveJob:
        """Return the live job of a row; make it if there is none."""
        job = self.registry.get(row.id)
        if job is None:
            job = LiveJob.from_row(row)
            job.remote = True  # assume that another process owns it until that is checked
            self.registry.add(job)
        return job

    async def adopt_for_waiter(self, row: Intent) -> LiveJob:
        """
        Return the live job of an open row for a caller who waits; if its owner has ended, this process becomes it.

        A job that was not sent is not sent by a wait: it is left to ``recover()``.
        """
        job, journal = self.adopt(row), self.journal
        try:
            if row.state is JobState.INTENT and (journal.owns(row) or not await journal.is_owner_alive(row)):
                self.tracker.stop_tracking(job)
                job.remote = False
                job.wake_waiters()
                return job
            if not journal.owns(row):
                for claimed in await journal.claim([row.id]) if row.state is not JobState.INTENT else ():
                    job.row = claimed
            await self.follow(job)
        except BaseException:
            if job.remote:  # nothing has resumed it yet
                self.tracker.stop_tracking(job)
            raise
        return job

    async def follow(self, job: LiveJob) -> None:
        """Resume a job by the state of its row; do nothing while it has a submission."""
        row = job.row
        if row is None or job.has_submission:
            return
        self.journal_watch.unwatch(job)
        if row.state not in OPEN:
            self.tracker.stop_tracking(job)
        elif not self.journal.owns(row):
            self.tracker.suspend(job)
            self.journal_watch.watch(job, remote=True)
        elif row.state is JobState.INTENT:
            self.tracker.suspend(job)
            self.submitter.start(job, partial(self.intents.prepare_again, job))
        elif row.state is JobState.SENDING:
            await self.results.record_in_doubt(job, "the process that sent it ended before the response arrived")
            await self.follow(job)
        elif row.state is JobState.IN_DOUBT:
            self.tracker.track_in_doubt(job)
            self.journal_watch.watch(job, remote=False)
        else:
            self.tracker.track_submitted(job)
            if row.callback_url is not None:
                self.journal_watch.watch(job, remote=False)  # another process may receive the callback
        job.wake_waiters()

    async def follow_accepted(self, job: LiveJob) -> None:
        """Resume a job whose task was confirmed, even while its create waits for its response."""
        if job.has_submission:
            self.tracker.track_submitted(job)
            self.submitter.interrupt(job)
        else:
            await self.follow(job)


#: The interval between two checks of the journal's change counter, in seconds.
CHECK_INTERVAL = 0.5
#: The owners of jobs are checked at every fourth of them.
OWNER_CHECK_EVERY = 4


@attrs.define(eq=False, repr=False, kw_only=True)
class JournalWatch:
    """
    Watches the rows of other processes' jobs, and of own jobs that a callback may change from another process.

    Only the owner of a job polls its task; other processes read what it journals, and adopt the job if the owner ends.
    A callback may arrive at any process, which journals what it confirms. One cheap query, the change counter of the
    database, serves all of them.

    Args:
        journal: The journal.

        supervisor: Runs the checks.

        runtime: The clock.

        timers: Schedules the checks.

        follow: Resumes a job after its row has changed.

        forget: Forgets a job whose row was deleted.

        on_remote_end: Called with each own job whose end was journaled by another process.
    """

    journal: Journal
    supervisor: Supervisor
    runtime: Runtime
    timers: Timers
    follow: Callable[[LiveJob], Awaitable[None]]
    forget: Callable[[LiveJob], None]
    on_remote_end: Callable[[LiveJob], None]
    _jobs: dict[str, LiveJob] = attrs.field(factory=dict, init=False)
    _scheduled: bool = attrs.field(default=False, init=False)
    _checks: int = attrs.field(default=0, init=False)
    _readable: bool = attrs.field(default=True, init=False)
    #: The change counter at which the watched rows were read; None if one of them may be older.
    _version: int | None = attrs.field(default=None, init=False)

    def watch(self, job: LiveJob, *, remote: bool) -> None:
        """
        Watch the row of a job.

        Args:
            job: The job.

            remote: True if another process owns it.
        """
        job.remote = remote
        if not self.journal.durable:
            return  # no other process can change it
        self._jobs[job.id] = job
        self._version = None
        self._schedule()

    def unwatch(self, job: LiveJob) -> None:
        """Stop watching the row of a job."""
        job.remote = False
        self._jobs.pop(job.id, None)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.timers.at(self.runtime.now() + CHECK_INTERVAL, self._start_check)

    def _start_check(self) -> None:
        self._scheduled = False
        self._jobs = {job_id: job for job_id, job in self._jobs.items() if job.state in OPEN}
        if self._jobs and self.supervisor.running:
            self.supervisor.start(self._check)

    async def _check(self) -> None:
        self._checks += 1
        try:
            if (version := await self.journal.change_counter()) != self._version:
                self._version = version
                await self._apply_changes()
            if self._checks % OWNER_CHECK_EVERY == 0:
                await self._adopt_orphans()
            self._readable = True
        except errors.JournalError:
            self._version = None
            if self._readable:
                _log.exception("The journal cannot be read; jobs of other processes are checked again soon.")
            self._readable = False
        finally:
            self._schedule()

    async def _apply_changes(self) -> None:
        watched = {job.id: job for job in self._jobs.values() if job.row is not None and job.unjournaled is None}
        rows = [job.row for job in watched.values() if job.row is not None]
        for job_id, row in (await self.journal.find_changed(rows)).items():
            job = watched[job_id]
            if self._jobs.get(job_id) is not job:
                continue  # no longer watched
            if row is None:
                self._handle_deleted(job)
            elif row != job.row and job.unjournaled is None:
                await self._handle_changed(job, row)

    async def _adopt_orphans(self) -> None:
        # A wait does not send a job: one without an owner that was not sent is left to recover().
        for job in [job for job in self._jobs.values() if job.remote and job.state is JobState.INTENT]:
            if job.row is not None and not await self.journal.is_owner_alive(job.row) and job.state is JobState.INTENT:
                self.unwatch(job)
                self.forget(job)
        remote = [job.id for job in self._jobs.values() if job.remote and job.state is not JobState.INTENT]
        for row in await self.journal.claim(remote) if remote else ():
            known = self._jobs.get(row.id)
            if known is not None and known.remote:
                await self._handle_changed(known, row)

    def _handle_deleted(self, job: LiveJob) -> None:
        """End the waits for a job that another process has deleted: how it ended is not known."""
        msg = "The job has ended and was deleted from the journal. Look for its task at kie.ai/logs."
        job.wait_error = errors.TaskNotFoundError(msg, job_id=job.id, task_id=job.task_id)
        self.unwatch(job)
        self.forget(job)

    async def _handle_changed(self, job: LiveJob, row: Intent) -> None:
        job.row = row
        if row.record is not None:
            job.update_record(load_record(row.record))
            if not job.remote:
                self.on_remote_end(job)
        await self.follow(job)
        job.wake_waiters()
