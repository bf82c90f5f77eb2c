"""
Confirmations: polls that callbacks cause, ahead of planned polls, and one at a time for each job.

``recordInfo`` decides how the task has ended, and which job it belongs to. See docs/explanation/callbacks.md.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from kie_async import errors
from kie_async._core.callback_candidates import CallbackCandidates, CallbackFinding
from kie_async._core.callback_validation import CallbackStep, echoes_token, lost_row, next_step
from kie_async._core.candidates import confirms_answer
from kie_async._core.poll_results import PollResult, PollVerdict
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.jobs.transitions import require_row
from kie_async.events import EventName
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.follower import JobFollower
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import ResultWriter, Transitions
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.poller import Poller
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.polling.watchlist import CallbackWeight, Watchlist
    from kie_async._io.runtime import Supervisor
    from kie_async._io.timers import Timer, Timers
    from kie_async.records import TaskRecord

__all__ = ["Confirmations"]

_log = logging.getLogger("kie_async")

#: The number of jobs that may await confirmation; beyond it, the service is asked to retry.
MAX_JOBS = 10_000
#: The number of jobs with a warning about their callbacks; beyond it, all is logged at DEBUG level.
MAX_WARNED_JOBS = 1_000
#: The number of jobs that are checked for being over when a job is added.
_FORGOTTEN_AT_ONCE = 2
#: The number of jobs being confirmed for each poll that the pacer allows, so that the pacer never waits.
_JOBS_PER_POLL = 2

#: The status with which a callback was answered that turns out to name a foreign task.
_ACCEPTED = 200


@attrs.define(eq=False)
class _Job:
    """
    The task ids that callbacks have named for one job.

    Attributes:
        candidates: The task ids.

        displaced: The task ids that have given way to others, and are still journaled.

        journaling: Held while the task ids are journaled.

        timer: Starts the next confirmation, or None.

        queued: True if a confirmation waits for its turn or is in progress; when it ends, it schedules the next one.
    """

    candidates: CallbackCandidates = attrs.field(factory=CallbackCandidates)
    displaced: frozenset[str] = frozenset()
    journaling: asyncio.Lock = attrs.field(factory=asyncio.Lock)  # anyio's takes 760 bytes more
    timer: Timer | None = None
    queued: bool = False


@attrs.define(eq=False, repr=False, kw_only=True, slots=False)
class Confirmations:
    """
    Confirms callbacks.

    Args:
        journal: Holds the intents.

        registry: The jobs of this process.

        supervisor: Runs the confirmations.

        timers: Schedules further rounds.

        poller: Polls tasks.

        watchlist: Plans further polls of jobs.

        tracker: Applies records.

        transitions: Changes rows.

        results: Binds tasks.

        callback_weight: Counts the callbacks.

        follower: Resumes jobs after a callback.

        secrets: The secrets of callback tokens; the first is that of the present API key.

        report: Takes events.
    """

    journal: Journal
    registry: Registry
    supervisor: Supervisor
    timers: Timers
    poller: Poller
    watchlist: Watchlist
    tracker: Tracker
    transitions: Transitions
    results: ResultWriter
    callback_weight: CallbackWeight
    follower: JobFollower
    secrets: list[bytes]
    report: Callable[..., None]
    _jobs: dict[str, _Job] = attrs.field(factory=dict, init=False)
    #: The ids of the jobs whose next confirmation is due.
    _due: deque[str] = attrs.field(factory=deque, init=False)
    _in_progress: int = attrs.field(default=0, init=False)
    #: The state, or None, in which each job had its last warning.
    _warned: dict[str, JobState | None] = attrs.field(factory=dict, init=False)
    #: The jobs of which the journal has lost something.
    _lost: set[str] = attrs.field(factory=set, init=False)
    #: The number of polls so far.
    polls: int = attrs.field(default=0, init=False)

    @property
    def pending(self) -> int:
        """The number of jobs with unconfirmed callbacks."""
        return sum(job.candidates.open for job in self._jobs.values())

    def enqueue(self, job_id: str, task_id: str, *, likely: bool = False) -> bool:
        """
        Confirm a task that was journaled, as soon as the polls of its job allow.

        Args:
            job_id: The job.

            task_id: The task.

            likely: True if the answer to the job's own create has named it.

        Returns:
            False if too many jobs await confirmation; the callback was not enqueued then.
        """
        named = self.name(job_id, task_id, own=False, likely=likely)
        self.schedule(job_id)
        return named

    def name(self, job_id: str, task_id: str, *, own: bool, likely: bool) -> bool:
        """
        Add the task that a genuine callback names to those of a job; ``schedule`` has it confirmed.

        Args:
            job_id: The job.

            task_id: The task.

            own: True if the task is known to be the job's; other task ids never displace it.

            likely: True if the callback was signed, or shows the job's request.

        Returns:
            False if too many jobs await confirmation; the task was not added then.
        """
        job, now = self._jobs.get(job_id), self.timers.now()
        if job is None:
            self._forget_jobs(now)
            if len(self._jobs) >= MAX_JOBS:
                return False
            job = self._jobs[job_id] = _Job()
        if (displaced := job.candidates.name(task_id, now, own=own, likely=likely)) is not None:
            job.displaced |= {displaced}
        return True

    def has_named(self, job_id: str) -> bool:
        """Return True if a recent callback for a job has named a task."""
        return job_id in self._jobs

    def _forget_jobs(self, now: float) -> None:
        """Forget jobs whose callbacks are over, and one without open task ids if there is no room for another."""
        for job_id in list(islice(self._jobs, _FORGOTTEN_AT_ONCE)):
            job = self._jobs.pop(job_id)
            if job.queued or not job.candidates.is_over(now):
                self._jobs[job_id] = job  # at the end: next time it is the turn of others
        if len(self._jobs) >= MAX_JOBS:
            idle = (job_id for job_id, job in self._jobs.items() if not (job.queued or job.candidates.open))
            if (idle_id := next(idle, None)) is not None:
                del self._jobs[idle_id]

    def schedule(self, job_id: str) -> None:
        """Start the next confirmation of a job when it is due."""
        job = self._jobs.get(job_id)
        if job is None or job.queued:
            return
        if job.timer is not None:
            job.timer.cancel()
        at, job.timer = job.candidates.next_at(), None
        if at <= self.timers.now():
            job.queued = True
            self._due.append(job_id)
            self._start_rounds()
        elif at < math.inf:
            job.timer = self.timers.at(at, self.schedule, job_id)

    def _start_rounds(self) -> None:
        """Start as many rounds as keep the pacer busy; a flood waits as ids in a queue, not as tasks of the loop."""
        most = _JOBS_PER_POLL * self.poller.pacer.limit
        while self._due and self._in_progress < most and self.supervisor.running:
            self._in_progress += 1
            self.supervisor.start(self._run_round, self._due.popleft())

    async def _run_round(self, job_id: str) -> None:
        job = self._jobs[job_id]
        try:
            await self._confirm_next(job_id, job.candidates)
        except BaseException:
            del self._jobs[job_id]
            raise
        finally:
            self._in_progress -= 1
            job.queued = False
            self.schedule(job_id)
            self._start_rounds()

    async def _confirm_next(self, job_id: str, candidates: CallbackCandidates) -> None:
        """Poll the task of a job whose turn it is."""
        task_id = candidates.next_task(self.timers.now())
        if task_id is None:
            return
        finding = await self._confirm_task(job_id, task_id, candidates)
        polled_again = candidates.record(task_id, finding, self.timers.now())
        if finding is CallbackFinding.OWN and not polled_again and (job := self.registry.get(job_id)) is not None:
            self.watchlist.reweigh(job)  # polling continues, sooner than it was planned

    async def _confirm_task(self, job_id: str, task_id: str, candidates: CallbackCandidates) -> CallbackFinding:
        """Poll a task that a callback for a job named, and apply the result."""
        try:
            row = await self.find_row(job_id)
            if row is None:
                return await self._confirm_lost(job_id, task_id)
            step = next_step(row, task_id)
            if step is not CallbackStep.PROVE:
                # The create response may have arrived since, or a planned poll may have found the end.
                self.callback_weight.record_callback(job_id, self.registry.get(job_id))
            if step is CallbackStep.NOTHING:
                await self.journal_ids(job_id, without=task_id)
                return CallbackFinding.SETTLED
            poll = await self.poller.poll_now(task_id)
            self.polls += 1
            finding = await self._judge(row, step, poll)
            hopeless = finding is CallbackFinding.INVISIBLE and candidates.is_hopeless(task_id)
            if finding is CallbackFinding.FOREIGN or hopeless:
                await self._reject_task(row, task_id)
            elif (
                finding is CallbackFinding.OWN
                and poll.record is not None
                and await self._apply_confirmed(job_id, task_id, poll.record)
            ):
                if step is CallbackStep.PROVE:
                    await self.journal_ids(job_id, without=task_id)
                finding = CallbackFinding.SETTLED
        except (errors.TransportError, errors.JournalError, errors.ClientClosedError):
            return CallbackFinding.UNKNOWN
        return finding

    async def _confirm_lost(self, job_id: str, task_id: str) -> CallbackFinding:
        """Poll a task for whose job there is no row; if it is the job's, write a row for it."""
        poll = await self.poller.poll_now(task_id)
        self.polls += 1
        record = poll.record
        if record is None:
            return CallbackFinding.INVISIBLE if poll.verdict is PollVerdict.NOT_VISIBLE else CallbackFinding.UNKNOWN
        if not echoes_token(record, job_id, *self.secrets):
            return CallbackFinding.FOREIGN
        if record.completed_at is not None and record.completed_at <= await self.journal.forgotten_until():
            return CallbackFinding.SETTLED  # its row was deleted on purpose
        lost = lost_row(record, job_id, self.secrets, now=self.transitions.runtime.wall())
        row = await self.journal.add(lost)
        self.log_critical(
            job_id,
            "The journal has no row of %s, which has created task %s (attempt %d): it has gone back in time (a"
            " failover, or an older copy?), the job was forgotten before this task ended, or it is another journal's."
            " A row is written for it, without its key.",
            *(job_id, task_id, lost.attempts),
        )
        job = self.follower.adopt(row)
        self.report(EventName.JOURNAL_WENT_BACK, job, state=str(row.state), found_state=None)
        await self.follower.follow(job)
        await self._apply_confirmed(job_id, task_id, record)
        return CallbackFinding.SETTLED

    async def _judge(self, row: Intent, step: CallbackStep, poll: PollResult) -> CallbackFinding:
        """Return whose task a poll has shown; the caller applies its record."""
        if step is CallbackStep.CONFIRM:
            return CallbackFinding.OWN
        if poll.record is not None:
            proved = await self._is_proved(row, poll.record)
            if proved is None:
                return CallbackFinding.UNKNOWN  # it stays in the journal: resolve() may name it
            return CallbackFinding.OWN if proved else CallbackFinding.FOREIGN
        return CallbackFinding.INVISIBLE if poll.verdict is PollVerdict.NOT_VISIBLE else CallbackFinding.UNKNOWN

    async def _is_proved(self, row: Intent, record: TaskRecord) -> bool | None:
        if row.callback_url is None:  # the answer to the create has named the task
            others = await self.results.find_creators(row.id, record.task_id)
            return False if others else confirms_answer(record, row, *self.secrets)
        return echoes_token(record, row.id, *self.secrets)

    async def find_row(self, job_id: str) -> Intent | None:
        """Return the row of a job of this service, from memory or from the journal."""
        job = self.registry.get(job_id)
        if job is not None and job.row is not None:
            return job.row
        row = await self.journal.get(job_id)
        return row if row is not None and row.origin == self.journal.service.origin else None

    async def _apply_confirmed(self, job_id: str, task_id: str, record: TaskRecord) -> bool:
        """Apply the record of a task that is a job's; return True if the task id needs no further confirmation."""
        row = await self.find_row(job_id)
        if row is None:
            return True
        if (job := self.registry.get(job_id)) is None:
            # The job of another process, or one that has ended here: change its row; the other process follows it.
            job = LiveJob.from_row(row)
            job.callback_received = True  # its callback is here, so it must not count as lost
        if require_row(job).task_id != task_id:
            job = await self._bind_task(job, task_id)
        if require_row(job).task_id == task_id:
            if record.ended:
                self.callback_weight.record_callback(job_id, job)  # also for another process's job
            await self.tracker.apply_record(job, record)
        if (current := self.registry.get(job_id)) is not None and current is not job:
            await self.follower.journal_watch.read_again([current])  # it was adopted meanwhile, from an older row
        return next_step(require_row(job), task_id) is CallbackStep.NOTHING

    async def _bind_task(self, job: LiveJob, task_id: str) -> LiveJob:
        """Bind a task that was proved to be a job's, and continue with it; return the live job that continues."""
        was = job.state
        await self.results.record_accepted(job, task_id)
        row = require_row(job)
        if row.task_id != task_id or row.state is not JobState.SUBMITTED:
            # A duplicate task of the job, or another process has changed the row first.
            if job.state is not was and self.registry.get(job.id) is job:
                await self.follower.follow(job)
            return job
        _log.info("A callback has bound task %s to %s, which was %s.", task_id, job.id, was)
        if (current := self.registry.get(job.id)) is not job:
            if current is None and not self.journal.owns(row):
                # The job's owner may have ended, or given the job up: then this process polls the task.
                row = next(iter(await self.journal.claim([job.id])), row)
                if self.registry.get(job.id) is None and not self.journal.owns(row):
                    self.callback_weight.record_callback(job.id, job)
                    return job
            job = self.follower.adopt(row)  # it had ended for this process, or was adopted during the poll
        self.callback_weight.record_callback(job.id, job)
        await self.follower.follow_accepted(job)
        return job

    async def _reject_task(self, row: Intent, task_id: str) -> None:
        """Drop a task id that is not the job's."""
        self.log(
            row.id,
            row.state,
            "Ignored a callback for %s: task %s was not created by this job. Others like it are logged at DEBUG level"
            " while the job is %s.",
            *(row.id, task_id, row.state),
        )
        reason = "the task that it names was not created by its job"
        self.report(
            EventName.CALLBACK_REFUSED, LiveJob.from_row(row), reason=reason, status=_ACCEPTED, named_task_id=task_id
        )
        await self.journal_ids(row.id, without=task_id)

    def log(self, job_id: str, state: JobState | None, message: str, *args: object) -> None:
        """
        Log a warning about the callbacks of a job, at DEBUG level after the first one in each state of the job.

        Strangers decide how many callbacks there are, so they must not decide how many warnings there are.

        Args:
            job_id: The job.

            state: Its state; None if that is not known.

            message: The message.

            *args: Its arguments.
        """
        before, first = self._warned.get(job_id), job_id not in self._warned
        changed = None not in (before, state) and before is not state
        known = not first or len(self._warned) < MAX_WARNED_JOBS
        if known and (first or state is not None):
            self._warned[job_id] = state
        _log.log(logging.WARNING if known and (first or changed) else logging.DEBUG, message, *args)

    def log_critical(self, job_id: str, message: str, *args: object) -> None:
        """Log that the journal has lost something of a job: once at CRITICAL level, then at DEBUG level."""
        level = logging.DEBUG if job_id in self._lost else logging.CRITICAL
        if len(self._lost) < MAX_WARNED_JOBS:
            self._lost.add(job_id)
        _log.log(level, message, *args)

    async def journal_ids(self, job_id: str, *, without: str | None = None) -> None:
        """
        Journal the open task ids of a job that must be proved, in case the process ends first.

        Args:
            job_id: The job.

            without: A task id that is not needed any more, or None.
        """
        named = self._jobs.get(job_id)
        if named is None:
            await self._write_ids(job_id, _Job(), without)
            return
        async with named.journaling:  # or a call that has read an older row would write back what another one drops
            await self._write_ids(job_id, named, without)

    async def _write_ids(self, job_id: str, named: _Job, without: str | None) -> None:
        row = await self.journal.get(job_id)
        if row is None:
            return
        # What is open is decided after the await. Ids of other processes, and of answers to creates, stay.
        unproved = named.candidates.unproved
        dropped = {without} | (named.displaced - {*unproved})
        others = (task_id for task_id in row.callback_task_ids if task_id not in unproved)
        task_ids = tuple(
            task_id
            for task_id in (*others, *unproved)
            if task_id not in dropped and next_step(row, task_id) is CallbackStep.PROVE
        )
        if task_ids != row.callback_task_ids:
            job = self.registry.get(job_id)
            await self.transitions.record_fields(job or LiveJob.from_row(row), callback_task_ids=task_ids)
        if named.displaced:
            named.displaced -= dropped
