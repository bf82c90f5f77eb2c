"""
``JobFollower``: resumes a job from its row, by the row's state and owner; ``JournalWatch`` sees rows change.

It is the one place that does so: the submitter, the journal watch, confirmations and the tracker call it. Each row that
may still change has exactly one ``LiveJob``. A row that was read before an await may be outdated: ``LiveJob.learn``
takes over what is newer, and only the submission of a job lets it go.
"""

from __future__ import annotations

import logging
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import attrs

from kie_async import errors
from kie_async._core.lifecycle import OPEN, load_record
from kie_async._io.jobs.live_job import LiveJob, Submission
from kie_async._io.journals.journal import PAGE, read_pages
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Generator, Sequence

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import ResultWriter
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.runtime import Runtime, Supervisor
    from kie_async._io.submitting.intake import IntentWriter
    from kie_async._io.submitting.submission import Submitter
    from kie_async._io.timers import Timer, Timers

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
    _recoveries: int = attrs.field(default=0, init=False)
    _recovered: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    @contextmanager
    def recovering(self) -> Generator[None]:
        """Let waits for jobs that were not sent wait until a recovery has ended: it may send them."""
        self._recoveries += 1
        if self._recoveries == 1:
            self._recovered = anyio.Event()
        try:
            yield
        finally:
            self._recoveries -= 1
            if not self._recoveries:
                self._recovered.set()

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
        with self.recovering():
            await self.results.transitions.flush_pending()
            claims = read_pages(lambda after: journal.claim(adopt_key=adopt_key, after=after, limit=PAGE))
            async with aclosing(claims) as pages:
                async for page in pages:
                    await self._recover_rows(page, found)
            # They have ended, or were away like this worker.
            while await journal.has_expired_owners():  # noqa: ASYNC110 (the event is in another process)
                await anyio.sleep(journal.heartbeat_interval / 4)
            await self.take_over(found=found, confirm=confirm, adopt_key=adopt_key)
        named = read_pages(lambda after: journal.rows_named_by_callbacks(after=after, limit=PAGE))
        async with aclosing(named) as pages:
            async for page in pages:
                _confirm_named(page, confirm)

    async def take_over(
        self, *, found: Callable[[str], object], confirm: Callable[[str, str], object], adopt_key: bool
    ) -> None:
        """Adopt what workers have left that have ended; see ``recover`` for the arguments."""
        while page := await self.journal.take_over(adopt_key=adopt_key, limit=PAGE):
            _log.info("Takes over %d jobs of workers that have ended.", len(page))
            await self._recover_rows(page, found)
            _confirm_named(page, confirm)

    async def enter_anew(self) -> None:
        """Continue under this worker's new name with the jobs that are still its own; follow those that are not."""
        jobs = [job for job in self.registry if job.row is not None and not job.remote and not job.foreign]
        for row in await self.journal.claim([job.id for job in jobs if job.state in OPEN], adopt_key=True):
            await self._recover_row(row)
        await self.journal_watch.read_again(jobs)
        for job in jobs:
            if job.state is JobState.INTENT and job.row is not None and not self.journal.owns(job.row):
                self.submitter.interrupt(job)  # it would wait for tokens that it cannot use

    async def _recover_rows(self, rows: Sequence[Intent], found: Callable[[str], object]) -> None:
        for number, row in enumerate(rows):
            if number % _BATCH == 0:
                await anyio.lowlevel.checkpoint()
            if await self._recover_row(row):
                found(row.id)

    async def _recover_row(self, row: Intent) -> bool:
        """Resume the job of a row that this process owns; return True if it has not ended."""
        job = self.registry.get(row.id)
        if job is None or job.learn(row):
            await self.follow(job := self.adopt(row))
        return job.state in OPEN

    def adopt(self, row: Intent) -> LiveJob:
        """Return the live job of a row; make it if there is none. The caller resumes it, without an await before."""
        job = self.registry.get(row.id)
        if job is None:
            job = LiveJob.from_row(row)
            self.registry.add(job)
        else:
            job.learn(row)
        return job

    async def adopt_for_waiter(self, job_id: str) -> LiveJob | None:
        """
        Return the live job of a row for a caller who waits; if its owner has ended, this process becomes it.

        A wait does not send. A job that was not sent waits for a worker that recovers it. If its owner has given it up,
        or has ended and used another API key, it has no live job, and what is returned for it only tells why. None if
        there is no row any more.
        """
        journal = self.journal
        while True:
            row, given_up = await journal.get(job_id), False
            if row is not None and row.state is JobState.INTENT:
                given_up = journal.owns(row) or row.owner is None or await self.journal_watch.is_left_for_consent(row)
            elif row is not None and row.state in OPEN and not journal.owns(row):
                row = next(iter(await journal.claim([job_id])), row)
            # From here on nothing is awaited before the decision.
            job = self.registry.get(job_id)
            if row is None:
                return job
            if row.state not in OPEN:
                return LiveJob.from_row(row)
            if not given_up:
                job = self.adopt(row)
                await self.follow(job)
                return job
            if job is not None:
                return job  # a submission here has been faster
            if self._recoveries:
                await self._recovered.wait()
            elif row.key is not None and (job := self.registry.by_key(row.key)) is not None and job.has_submission:
                await job.wait_for_change()  # it will adopt the row
            else:
                return LiveJob.from_row(row)

    async def follow(self, job: LiveJob) -> None:
        """Resume a job by the state of its row; do nothing while it has a submission."""
        row = job.row
        if row is None or job.has_submission:
            return
        self.journal_watch.unwatch(job)
        if row.state not in OPEN:
            self.tracker.stop_tracking(job)
        elif row.state is JobState.INTENT and row.owner is None:
            self.tracker.stop_tracking(job)  # given up by its owner
        elif not self.journal.owns(row):
            self.tracker.suspend(job)
            self.journal_watch.watch(job, remote=True)
        elif row.state is JobState.INTENT:
            self.tracker.suspend(job)
            submission = Submission(upload_again=partial(self.intents.upload_again, job, None))
            self.submitter.start(job, partial(self.intents.prepare_again, job), submission)
        elif row.state is JobState.SENDING:
            await self.results.record_in_doubt(job, "the process that sent it ended before the response arrived")
            await self.follow(job)
        elif row.state is JobState.IN_DOUBT:
            self.tracker.track_in_doubt(job)
            self.journal_watch.watch(job, remote=False)
        else:
            self.tracker.track_submitted(job)
            if row.callback_url is not None or row.account != self.journal.service.account:
                # Another process may receive the callback, or take over the job because it has its API key.
                self.journal_watch.watch(job, remote=False)
        job.wake_waiters()

    async def follow_accepted(self, job: LiveJob) -> None:
        """Resume a job whose task was confirmed, even while its create waits for its response."""
        if job.has_submission:
            self.tracker.track_submitted(job)
            self.submitter.interrupt(job)
        else:
            await self.follow(job)

    async def resume_written(self, job: LiveJob, task_id: str | None, deleted: bool) -> None:  # noqa: FBT001 (a callback)
        """
        Resume a job whose transitions could not be written before.

        Args:
            job: The job.

            task_id: The task that it had, or None. Another process may have changed the row without knowing of it.

            deleted: True if the row was deleted.
        """
        if deleted:
            self.journal_watch.end_deleted(job)
            return
        if task_id is not None and task_id != job.task_id:
            await self.results.record_accepted(job, task_id)
        await self.follow(job)


def _confirm_named(rows: Sequence[Intent], confirm: Callable[[str, str], object]) -> None:
    """Confirm the tasks that callbacks have named: the process that received them has ended before it did."""
    for row in rows:
        for task_id in row.callback_task_ids:
            confirm(row.id, task_id)


#: The time in seconds after which newly watched rows are read again, and a failed read is repeated.
CHECK_INTERVAL = 0.5


@attrs.define(eq=False, repr=False, kw_only=True)
class JournalWatch:
    """
    Watches the rows of other processes' jobs, and of own jobs that a callback may change from another process.

    Only the owner of a job polls its task; other processes read what it journals, and adopt the job if the owner ends.
    A callback may arrive at any process, which journals what it confirms. One task waits for changes of the journal
    while anything is watched, and reads only the rows that may have changed.

    Args:
        journal: The journal.

        registry: The live jobs.

        supervisor: Runs the checks.

        runtime: The clock.

        timers: Schedules the checks.

        follow: Resumes a job after its row has changed.

        forget: Forgets a job whose row was deleted.

        on_remote_end: Called with each own job whose end was journaled by another process.

        unsent_timeout: The time in seconds for which a wait for a job that was not sent outlasts its owner, while no
            worker recovers it.
    """

    journal: Journal
    registry: Registry
    supervisor: Supervisor
    runtime: Runtime
    timers: Timers
    follow: Callable[[LiveJob], Awaitable[None]]
    forget: Callable[[LiveJob], None]
    on_remote_end: Callable[[LiveJob], None]
    unsent_timeout: float
    _jobs: dict[str, LiveJob] = attrs.field(factory=dict, init=False)
    #: The ids of rows that may have changed between their reading and the beginning of the watch.
    _unchecked: dict[str, None] = attrs.field(factory=dict, init=False)  # an ordered set
    _next_check: Timer | None = attrs.field(default=None, init=False)
    #: The instants at which jobs that were not sent were found without an owner, by their ids.
    _left_at: dict[str, float] = attrs.field(factory=dict, init=False)
    _waiting: bool = attrs.field(default=False, init=False)
    _scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    _readable: bool = attrs.field(default=True, init=False)

    def watch(self, job: LiveJob, *, remote: bool) -> None:
        """
        Watch the row of a job.

        Args:
            job: The job.

            remote: True if another process owns it.
        """
        job.remote = remote
        if not self.journal.durable or not self.supervisor.running:
            return  # no other process can change it, or the client ends
        self._jobs[job.id] = job
        self._unchecked[job.id] = None
        self._schedule()
        if not self._waiting:
            self._waiting = True
            self.supervisor.start(self._wait_for_changes)

    def unwatch(self, job: LiveJob) -> None:
        """Stop watching the row of a job."""
        job.remote = False
        if self._jobs.get(job.id) is job:  # a callback may have changed the row beside the job that is watched
            del self._jobs[job.id]
            if not self._jobs:
                self._scope.cancel()

    def _schedule(self) -> None:
        if self._next_check is None:
            self._next_check = self.timers.at(self.runtime.now() + CHECK_INTERVAL, self._start_check)

    def _start_check(self) -> None:
        self._next_check = None
        unchecked, self._unchecked = self._unchecked, {}
        if self.supervisor.running:
            self.supervisor.start(self._check, unchecked)

    async def _wait_for_changes(self) -> None:
        try:
            while self._jobs:
                changed: Collection[str] | None = ()
                with anyio.CancelScope() as self._scope:
                    try:
                        changed = await self.journal.wait_for_change()
                    except errors.JournalError:
                        self._log_unreadable()
                        await anyio.sleep(CHECK_INTERVAL)
                        changed = None
                await self._check(self._jobs.keys() if changed is None else changed)
        finally:
            self._waiting = False

    async def _check(self, job_ids: Collection[str]) -> None:
        jobs = [self._jobs[job_id] for job_id in job_ids if job_id in self._jobs]
        try:
            await self.read_again(jobs)
        except errors.JournalError:
            self._unchecked.update((job.id, None) for job in jobs)
            self._log_unreadable()
            self._schedule()
        else:
            self._readable = True

    def _log_unreadable(self) -> None:
        if self._readable:
            _log.exception("The journal cannot be read; jobs of other processes are checked again soon.")
        self._readable = False

    async def read_again(self, jobs: Collection[LiveJob]) -> None:
        """
        Read the rows of jobs, and resume those that have changed.

        Raises:
            JournalError: If the journal cannot be read.
        """
        rows = [job.row for job in jobs if job.row is not None and job.unwritten is None]
        for job_id, row in (await self.journal.find_changed(rows)).items() if rows else ():
            job = self.registry.get(job_id)
            if job is None:
                continue  # it has ended meanwhile
            if row is not None:
                await self._handle_changed(job, row)
            elif not job.has_submission:
                self.end_deleted(job)

    async def adopt_left(self, *, recovered: bool) -> None:
        """
        Adopt the jobs among the watched ones whose owner has ended.

        A wait does not send a job: one that was not sent is left to a worker that has called ``recover()``, unless a
        caller here has submitted its request, too, and waits for it. If no worker recovers it, the wait ends.

        Args:
            recovered: True if a worker is alive that takes such jobs over.

        Raises:
            JournalError: If the journal cannot be read or written.
        """
        remote = [job for job in self._jobs.values() if job.remote]
        adopted = [job.id for job in remote if job.state is not JobState.INTENT]
        left = await self._find_left([job for job in remote if job.state is JobState.INTENT])
        submitted = [job.id for job in left if job.submitted_here and job.waiters]
        for row in [
            *(await self.journal.claim(adopted) if adopted else ()),
            *(await self.journal.claim(submitted, adopt_key=True) if submitted else ()),
        ]:
            if (known := self._jobs.get(row.id)) is not None:
                await self._handle_changed(known, row)
        self._end_left([job for job in left if job.remote and job.state is JobState.INTENT], recovered=recovered)

    async def is_left_for_consent(self, row: Intent) -> bool:
        """Return True if the owner of an unsent row has ended, and only ``recover(adopt_key=True)`` takes it over."""
        return row.account != self.journal.service.account and not await self.journal.is_owner_alive(row)

    async def _find_left(self, unsent: Collection[LiveJob]) -> list[LiveJob]:
        """Return those of the jobs whose owner has ended; each owner is checked once."""
        owners = {job.row.owner: job.row for job in unsent if job.row is not None}
        ended = {owner for owner, row in owners.items() if not await self.journal.is_owner_alive(row)}
        return [job for job in unsent if job.row is not None and job.row.owner in ended]

    def _end_left(self, left: Collection[LiveJob], *, recovered: bool) -> None:
        now, before = self.runtime.now(), self._left_at
        self._left_at = {} if recovered else {job.id: before.get(job.id, now) for job in left}
        if self._left_at and not before:
            _log.warning(
                "%d jobs that are awaited were not sent, and their worker has ended. They are sent once a client calls"
                " recover(); until then the waits continue, for %g s.",
                *(len(left), self.unsent_timeout),
            )
        for job in left:
            of_other_key = job.row is not None and job.row.account != self.journal.service.account
            if of_other_key or now - self._left_at.get(job.id, now) >= self.unsent_timeout:
                self.forget(job)

    def end_deleted(self, job: LiveJob) -> None:
        """End the waits for a job that another process has deleted: how it ended is not known."""
        msg = "The job has ended and was deleted from the journal. Look for its task at kie.ai/logs."
        job.wait_error = errors.TaskNotFoundError(msg, job_id=job.id, task_id=job.task_id)
        self.forget(job)

    async def _handle_changed(self, job: LiveJob, row: Intent) -> None:
        if not job.learn(row):
            return
        if row.record is not None:
            job.update_record(load_record(row.record))
            if not job.remote:
                self.on_remote_end(job)
        await self.follow(job)
        job.wake_waiters()
