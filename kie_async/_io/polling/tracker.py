"""
The tracker of a client: deadlines, records and the end of each job whose create was answered or is in doubt.

The first terminal record wins; later ones are counted, reported and otherwise ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import attrs

from kie_async._core.job_errors import has_result, poll_error
from kie_async._core.lifecycle import Intent, dump_record
from kie_async._core.poll_results import PollResult, PollVerdict
from kie_async._core.verdicts import names_lost_media
from kie_async._io.jobs.live_job import UNANSWERED, LiveJob, Registry
from kie_async._io.jobs.transitions import Transitions
from kie_async._io.polling.watchlist import Watchlist
from kie_async._io.runtime import Runtime, Supervisor
from kie_async._io.submitting.admission import Slots
from kie_async._io.timers import DeadlineQueue, Timers
from kie_async.errors import TaskTimeoutError
from kie_async.events import EventName
from kie_async.policy import RetryPolicy
from kie_async.records import TaskRecord
from kie_async.states import JobState

__all__ = ["Tracker"]

_log = logging.getLogger("kie_async")

#: The time for which a task may be invisible after its create, in seconds (as in a public client).
VISIBLE_AFTER = 90.0
#: The number of consecutive polls without a record after which a job's log says so.
_UNUSABLE_POLLS = 3
#: The number of polls in a row after which a time-out of the service (code 408) stalls a job.
MAX_TIMED_OUT_POLLS = 8
#: The time for which a job that has reached its ``max_age`` waits for its last poll, in seconds; a second more for each
#: watched job, since many may be overdue after a restart.
LAST_POLL_TIMEOUT = 60.0
#: The verdicts that say how a task stands.
_ANSWERS = frozenset({PollVerdict.RECORD, PollVerdict.NOT_VISIBLE, PollVerdict.DENIED, PollVerdict.TIMED_OUT})
#: The number of polls after which a "success" without a result is accepted as the end.
MAX_EMPTY_POLLS = 4


@attrs.define(eq=False, repr=False, kw_only=True, slots=False)
class Tracker:
    """
    Tracks jobs from their taskId, or from doubt, to their end.

    Args:
        transitions: Changes rows.

        slots: The slots of jobs in flight.

        registry: The live jobs.

        watchlist: Plans the polls of jobs.

        supervisor: Runs writes.

        runtime: The clocks.

        timers: The timer queue.

        retry: The deadlines.

        report: Takes events.

        follow: Resumes a job after its row has changed.

        on_end: Called with each job whose end a poll has found.

        unwatch: Stops watching the row of a job.

        forget_uploads: Forgets the uploads of a request that the service could not fetch.
    """

    transitions: Transitions
    slots: Slots
    registry: Registry
    watchlist: Watchlist
    supervisor: Supervisor
    runtime: Runtime
    timers: Timers
    retry: RetryPolicy
    report: Callable[..., None]
    follow: Callable[[LiveJob], Awaitable[None]]
    on_end: Callable[[LiveJob], None]
    unwatch: Callable[[LiveJob], None]
    forget_uploads: Callable[[Intent], None]
    _running: DeadlineQueue[LiveJob] = attrs.field(init=False)
    duplicate_records: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._running = DeadlineQueue(self.timers, self._handle_max_age)

    # -- after the create -------------------------------------------------------------------------------------------

    def track_submitted(self, job: LiveJob) -> None:
        """Track a job whose taskId is known, from now or from an earlier run."""
        row = job.row
        age = 0.0 if row is None or row.accepted_at is None else max(0.0, self.runtime.wall() - row.accepted_at)
        job.accepted_at = self.runtime.now() - age
        self._cancel_deadlines(job)
        if job.state is not JobState.SUBMITTED:
            self.release_slot(job)
        else:
            self._take_slot(job)  # the task is running, even if no slot is free
            self._running.set(job, job.accepted_at + self.retry.max_age)
        self.watchlist.watch(job)
        job.wake_waiters()

    def track_foreign(self, job: LiveJob) -> None:
        """Track a task that is not in the journal, until ``max_age`` or until no caller waits for it."""
        job.timers = (self.timers.at(job.accepted_at + self.retry.max_age, self._handle_max_age, job),)
        self.watchlist.watch(job)

    def _end_foreign(self, job: LiveJob) -> None:
        msg = f"The task has not ended within {self.retry.max_age:g} s. It may still end: wait again, with a timeout."
        job.wait_error = TaskTimeoutError(msg, task_id=job.task_id)
        self.stop_tracking(job)

    def track_in_doubt(self, job: LiveJob) -> None:
        """Track a job whose create is in doubt; its deadline counts from when it was sent."""
        row = job.row
        if row is None:
            return
        sent_at = row.sending_at if row.sending_at is not None else row.updated_at
        now, age = self.runtime.now(), max(0.0, self.runtime.wall() - sent_at)
        timeout = self.retry.max_age if row.callback_url is not None else self.retry.in_doubt_timeout
        self.suspend(job, keep_slot=True)
        job.timers = (self.timers.at(now - age + timeout, self._start, self._mark_unresolved, job),)
        if age < self.retry.in_doubt_timeout:
            self._take_slot(job)
            job.timers += (self.timers.at(now - age + self.retry.in_doubt_timeout, self.release_slot, job),)
        else:
            self.release_slot(job)
        job.wake_waiters()

    def release_slot(self, job: LiveJob) -> None:
        """Release a job's slot, if it has one."""
        if job.holds_slot:
            job.holds_slot = False
            self.slots.release()

    def _take_slot(self, job: LiveJob) -> None:
        if not job.holds_slot:
            job.holds_slot = True
            self.slots.occupy()

    def suspend(self, job: LiveJob, *, keep_slot: bool = False) -> None:
        """Stop polling a job, cancel its deadlines and release its slot, until it is tracked again."""
        self._cancel_deadlines(job)
        self.watchlist.unwatch(job)
        if not keep_slot:
            self.release_slot(job)

    def stop_tracking(self, job: LiveJob) -> None:
        """
        Drop a job that has ended from memory; only its row and the learned duration remain.

        A job with a submission is dropped by its submission alone, and one with unwritten transitions once they are
        written: until then, a row that is read from the journal is not the truth about it.
        """
        if job.has_submission and job.state in UNANSWERED:
            return
        kept = job.has_submission or job.unwritten is not None
        if not kept and self.registry.get(job.id) is job and (record := job.last_record()) is not None and record.ended:
            self.watchlist.record_end(job, record)
            if job.row is not None and names_lost_media(record.fail_message or ""):
                self.forget_uploads(job.row)
        self.suspend(job)
        self.unwatch(job)
        if not kept:
            self.registry.remove(job)
        job.wake_waiters()

    # -- polls ------------------------------------------------------------------------------------------------------

    async def handle_poll(self, job: LiveJob, poll: PollResult) -> None:
        """Apply the result of a poll."""
        self._count_unusable(job, poll)
        if poll.record is not None:
            job.wait_error, job.not_visible = None, False
            await self.apply_record(job, poll.record)
        elif poll.verdict is PollVerdict.DENIED:
            self._deny_poll(job)
        elif poll.verdict is PollVerdict.TIMED_OUT and job.unusable_polls >= MAX_TIMED_OUT_POLLS:
            await self._give_up(job)  # it may still end, but nothing can be expected of it soon
        elif poll.verdict is PollVerdict.NOT_VISIBLE and job.foreign:
            # One answer does not prove that a task is gone: it takes two in a row.
            before, job.not_visible = job.not_visible, True
            if before and self.runtime.now() - job.accepted_at > VISIBLE_AFTER:
                job.error = poll_error(poll.verdict, job_id=None, task_id=job.task_id)
                self.stop_tracking(job)
        if _has_outlived(job, poll):
            await self._give_up(job)

    def _deny_poll(self, job: LiveJob) -> None:
        # The task runs on, whatever happened to the key; callers that wait now must be told.
        job.wait_error = poll_error(PollVerdict.DENIED, job_id=job.own_id, task_id=job.task_id)
        job.wake_waiters()

    def deny_polls(self) -> None:
        """End the waits for all running tasks, since the service does not accept the key; a later record ends that."""
        for job in self.registry:
            if job.watch is not None:
                self._deny_poll(job)

    def _count_unusable(self, job: LiveJob, poll: PollResult) -> None:
        # A new task may be invisible at first.
        if poll.verdict is PollVerdict.NOT_VISIBLE and self.runtime.now() - job.accepted_at <= VISIBLE_AFTER:
            return
        job.unusable_polls = 0 if poll.record is not None else job.unusable_polls + 1
        if job.unusable_polls == _UNUSABLE_POLLS:
            _log.warning(
                "The last %d polls of task %s (job %s) brought no record of it: %s. Polling continues.",
                *(_UNUSABLE_POLLS, job.task_id, job.id, poll.reason),
            )

    async def apply_record(self, job: LiveJob, record: TaskRecord) -> None:
        """Apply a record of a job's task."""
        if not job.foreign and job.state not in (JobState.SUBMITTED, JobState.STALLED):
            self._report_duplicate(job, record)
            return
        if not record.ended and _has_ended(job, record):
            return  # an answer that was on its way while the end was read, and is being journaled
        if record.succeeded and not has_result(record) and job.empty_polls < MAX_EMPTY_POLLS - 1:
            # Seen in practice: the state says success before the result is there.
            job.empty_polls += 1
            return
        if not record.ended:
            self._apply_running(job, record)
        job.update_record(record)
        if not record.ended:
            return
        if job.row is not None:
            state = JobState.SUCCEEDED if record.succeeded else JobState.FAILED
            if not await self.transitions.record_transition(
                job, state, record=dump_record(record), credits=record.credits
            ):
                self._report_duplicate(job, record)
                await self.follow(job)
                return
            self.report(EventName.ENDED, job, state=record.state, credits=record.credits)
            self.on_end(job)
        self.stop_tracking(job)

    def _apply_running(self, job: LiveJob, record: TaskRecord) -> None:
        if job.foreign and job.record is None and record.created_at is not None:
            # The first record tells the age of a foreign task.
            age = max(0.0, self.runtime.wall() - record.created_at)
            job.accepted_at = self.runtime.now() - age
        self.watchlist.record_running(job, record)

    def _report_duplicate(self, job: LiveJob, record: TaskRecord) -> None:
        if record.ended:
            self.duplicate_records += 1
            self.report(EventName.DUPLICATE_RECORD, job, state=record.state)

    # -- deadlines --------------------------------------------------------------------------------------------------

    def _start(self, action: Callable[[LiveJob], Awaitable[None]], job: LiveJob) -> None:
        if self.supervisor.running:
            self.supervisor.start(action, job)

    def _handle_max_age(self, job: LiveJob) -> None:
        """Poll once more: the task may have ended long ago, while no process or a suspended one polled it."""
        if job.overdue is not None or not self.watchlist.poll_soon(job):
            self._start(self._give_up, job)
            return
        job.overdue = self.runtime.now()
        until = job.overdue + LAST_POLL_TIMEOUT + self.watchlist.watched
        if job.foreign:
            job.timers = (self.timers.at(until, self._handle_max_age, job),)
        else:
            self._running.set(job, until)

    async def _give_up(self, job: LiveJob) -> None:
        job.overdue = None
        if job.foreign:
            self._end_foreign(job)
        else:
            await self._mark_stalled(job)

    async def _mark_stalled(self, job: LiveJob) -> None:
        if job.state is JobState.SUBMITTED:
            if await self.transitions.record_transition(job, JobState.STALLED):
                self.report(EventName.STALLED, job)
            await self.follow(job)

    async def _mark_unresolved(self, job: LiveJob) -> None:
        if job.state is JobState.IN_DOUBT:
            if await self.transitions.record_transition(job, JobState.UNRESOLVED):
                self.report(EventName.UNRESOLVED, job)
                _log.warning(
                    "%s is unresolved: no answer and no callback have settled its create in time."
                    " Call resolve(task_id), resubmit(allow_duplicate=True) or abandon().",
                    job.id,
                )
            await self.follow(job)

    def _cancel_deadlines(self, job: LiveJob) -> None:
        for timer in job.timers:
            timer.cancel()
        job.timers = ()
        self._running.discard(job)


def _has_ended(job: LiveJob, record: TaskRecord) -> bool:
    """Return True if the task of a record is known to have ended."""
    known = job.last_record()
    return known is not None and known.ended and known.task_id == record.task_id


def _has_outlived(job: LiveJob, poll: PollResult) -> bool:
    """Tell if a poll from after the job's ``max_age`` has shown that its task has not ended."""
    if job.overdue is None or job.watch is None or job.watch.began_at < job.overdue:
        return False
    return poll.verdict in _ANSWERS and not (poll.record is not None and poll.record.ended)
