"""
What happens to a job once its create has been answered, or not answered: deadlines, records, its end.

The first last word of the service wins; a later one is counted, reported and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from kie_async._core.job_errors import has_result, poll_error
from kie_async._core.lifecycle import dump_record
from kie_async._core.poll_results import PollResult, PollVerdict
from kie_async._io.jobs.live_job import LiveJob, Registry
from kie_async._io.jobs.transitions import Transitions
from kie_async._io.polling.poller import Poller
from kie_async._io.runtime import Runtime
from kie_async._io.submitting.admission import Slots
from kie_async._io.supervisor import Supervisor
from kie_async._io.timers import DeadlineQueue, Timers
from kie_async.errors import TaskTimeoutError
from kie_async.events import EventName
from kie_async.policy import RetryPolicy
from kie_async.records import TaskRecord
from kie_async.states import JobState

__all__ = ["Tracker"]

_log = logging.getLogger("kie_async")

#: A task may be invisible for this long after its create, in seconds (the grace that a public client settled on).
VISIBLE_AFTER = 90.0
#: Looks at a "success" without a result before it is believed.
EMPTY_LOOKS = 4


class Tracker:
    """
    Brings jobs from their taskId, or from doubt, to their end.

    Args:
        transitions: Moves rows.

        slots: Where slots go back to.

        registry: The jobs that are alive.

        poller: What looks at tasks.

        supervisor: What writes run in.

        runtime: Clocks.

        timers: Where deadlines go.

        retry: How long things are waited for.

        report: Takes events.

        follow: Resumes a job after its row has changed.

        on_end: Called with each job whose end was seen here.
    """

    def __init__(
        self,
        *,
        transitions: Transitions,
        slots: Slots,
        registry: Registry,
        poller: Poller,
        supervisor: Supervisor,
        runtime: Runtime,
        timers: Timers,
        retry: RetryPolicy,
        report: Callable[..., None],
        follow: Callable[[LiveJob], Awaitable[None]],
        on_end: Callable[[LiveJob], None],
    ) -> None:
        self._transitions = transitions
        self._slots = slots
        self._registry = registry
        self._poller = poller
        self._supervisor = supervisor
        self._runtime = runtime
        self._timers = timers
        self._retry = retry
        self._report = report
        self._follow = follow
        self._on_end = on_end
        self._running = DeadlineQueue[LiveJob](timers, self._reach_max_age)
        self.duplicate_records = 0

    # -- after the create -------------------------------------------------------------------------------------------

    def submitted(self, job: LiveJob) -> None:
        """Follow a job whose taskId is known, from now or from an earlier run."""
        row = job.row
        age = 0.0 if row is None or row.accepted_at is None else max(0.0, self._runtime.wall() - row.accepted_at)
        job.accepted_at = self._runtime.now() - age
        self.forget_deadlines(job)
        if job.state is not JobState.SUBMITTED:
            self.release_slot(job)
        else:
            self._take_slot(job)  # the task runs, whether there is one or not
            self._running.set(job, job.accepted_at + self._retry.max_age)
        self._poller.watch(job)
        job.wake_waiters()

    def foreign(self, job: LiveJob) -> None:
        """Follow a task of which the journal knows nothing, for as long as somebody waits, and no longer than a job."""
        job.timers = (self._timers.at(job.accepted_at + self._retry.max_age, self._end_foreign, job),)
        self._poller.watch(job)

    def _end_foreign(self, job: LiveJob) -> None:
        msg = f"The task has not ended within {self._retry.max_age:g} s. It may still end: wait again, with a time-out."
        job.wait_error = TaskTimeoutError(msg, task_id=job.task_id)
        self.let_go(job)

    def in_doubt(self, job: LiveJob) -> None:
        """Follow a job whose create got no answer that tells; its deadline counts from when it was sent."""
        row = job.row
        if row is None:
            return
        sent_at = row.sending_at if row.sending_at is not None else row.updated_at
        now, age = self._runtime.now(), max(0.0, self._runtime.wall() - sent_at)
        patience = self._retry.max_age if row.callback_url is not None else self._retry.in_doubt_timeout
        self.rest(job, keep_slot=True)
        deadline = self._timers.at(now - age + patience, self._start, self._give_up, job)
        job.timers = (deadline,)
        if age < self._retry.in_doubt_timeout:
            self._take_slot(job)
            until = now - age + self._retry.in_doubt_timeout
            job.timers = (deadline, self._timers.at(until, self.release_slot, job))
        else:
            self.release_slot(job)
        job.wake_waiters()

    def release_slot(self, job: LiveJob) -> None:
        """Give a job's slot back, if it has one."""
        if job.holds_slot:
            job.holds_slot = False
            self._slots.release()

    def _take_slot(self, job: LiveJob) -> None:
        if not job.holds_slot:
            job.holds_slot = True
            self._slots.occupy()

    def rest(self, job: LiveJob, *, keep_slot: bool = False) -> None:
        """Do nothing about a job for now: no look, no deadline, no slot."""
        self.forget_deadlines(job)
        self._poller.unwatch(job)
        if not keep_slot:
            self.release_slot(job)

    def let_go(self, job: LiveJob) -> None:
        """Forget a job that has ended: nothing of it stays but its row, and how long it took."""
        if self._registry.get(job.id) is job and (record := job.last_record()) is not None and record.ended:
            self._poller.learn(job, record)
        self.rest(job)
        self._registry.remove(job)
        job.wake_waiters()

    # -- looks ------------------------------------------------------------------------------------------------------

    async def on_poll(self, job: LiveJob, poll: PollResult) -> None:
        """Take what a look has shown."""
        if poll.record is not None:
            job.wait_error, job.not_visible = None, False
            await self.apply(job, poll.record)
        elif poll.verdict is PollVerdict.DENIED:
            # The task runs on, whatever became of the key; whoever waits now should hear of it.
            job.wait_error = poll_error(poll.verdict, job_id=job.own_id, task_id=job.task_id)
            job.wake_waiters()
        elif poll.verdict is PollVerdict.NOT_VISIBLE and job.foreign:
            # One that was seen before is not gone because of one answer: it takes two in a row.
            before, job.not_visible = job.not_visible, True
            if before and self._runtime.now() - job.accepted_at > VISIBLE_AFTER:
                job.error = poll_error(poll.verdict, job_id=None, task_id=job.task_id)
                self.let_go(job)

    async def apply(self, job: LiveJob, record: TaskRecord) -> None:
        """Take a record of a job's task."""
        if not job.foreign and job.state not in (JobState.SUBMITTED, JobState.STALLED):
            self._late(job, record)
            return
        if record.succeeded and not has_result(record) and job.empty_polls < EMPTY_LOOKS - 1:
            # Seen in the wild: the state says success before the result is there.
            job.empty_polls += 1
            return
        if not record.ended:
            self._saw_running(job, record)
        job.update_record(record)
        if not record.ended:
            return
        if job.row is not None:
            state = JobState.SUCCEEDED if record.succeeded else JobState.FAILED
            if not await self._transitions.record_transition(
                job, state, record=dump_record(record), credits=record.credits
            ):
                self._late(job, record)
                await self._follow(job)
                return
            self._report(EventName.ENDED, job, state=record.state, credits=record.credits)
            self._on_end(job)
        self.let_go(job)

    def _saw_running(self, job: LiveJob, record: TaskRecord) -> None:
        if job.foreign and job.record is None and record.created_at is not None:
            # Only now it is known how old somebody else's task is.
            age = max(0.0, self._runtime.wall() - record.created_at)
            job.accepted_at = self._runtime.now() - age
        self._poller.saw(job, record)

    def _late(self, job: LiveJob, record: TaskRecord) -> None:
        if record.ended:
            self.duplicate_records += 1
            self._report(EventName.DUPLICATE_RECORD, job, state=record.state)

    # -- deadlines --------------------------------------------------------------------------------------------------

    def _reach_max_age(self, job: LiveJob) -> None:
        self._start(self._stall, job)

    def _start(self, action: Callable[[LiveJob], Awaitable[None]], job: LiveJob) -> None:
        if self._supervisor.running:
            self._supervisor.start(action, job)

    async def _stall(self, job: LiveJob) -> None:
        if job.state is JobState.SUBMITTED:
            if await self._transitions.record_transition(job, JobState.STALLED):
                self._report(EventName.STALLED, job)
            await self._follow(job)

    async def _give_up(self, job: LiveJob) -> None:
        if job.state is JobState.IN_DOUBT:
            if await self._transitions.record_transition(job, JobState.UNRESOLVED):
                self._report(EventName.UNRESOLVED, job)
                _log.warning(
                    "%s was in doubt for too long: resolve(task_id), resubmit(allow_duplicate=True) or abandon() it.",
                    job.id,
                )
            await self._follow(job)

    def forget_deadlines(self, job: LiveJob) -> None:
        """Let a job live on without the deadlines that it had."""
        for timer in job.timers:
            timer.cancel()
        job.timers = ()
        self._running.discard(job)
