"""
Confirmations: polls that callbacks cause, ahead of planned polls, and one at a time for each job.

``recordInfo`` decides how the task has ended, and which job it belongs to. See docs/explanation/callbacks.md.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import attrs

from kie_async import errors
from kie_async._core.callback_validation import (
    MAX_CALLBACK_TASK_IDS,
    CallbackStep,
    confirmation_delay,
    echoes_token,
    next_step,
)
from kie_async._core.candidates import confirms_answer
from kie_async._core.poll_results import PollVerdict
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
    from kie_async._io.timers import Timers
    from kie_async.records import TaskRecord

__all__ = ["Confirmations"]

_log = logging.getLogger("kie_async")

#: The number of jobs that may await confirmation; beyond it, the service is asked to retry.
MAX_JOBS = 10_000
#: A new task may be invisible for 90 s; an id that is still unknown at this poll, two minutes later, is dropped.
MAX_INVISIBLE_POLLS = 8
#: The number of jobs being confirmed for each poll that the pacer allows, so that the pacer never waits.
_JOBS_PER_POLL = 2

#: The status with which a callback was answered that turns out to name a foreign task.
_ACCEPTED = 200


@attrs.define(eq=False)
class _Pending:
    """The unconfirmed callbacks of one job: the number of polls of each task id, and of rounds."""

    task_ids: dict[str, int]
    rounds: int = 0


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
    _jobs: dict[str, _Pending] = attrs.field(factory=dict, init=False)
    #: The ids of the jobs whose next round is due.
    _due: deque[str] = attrs.field(factory=deque, init=False)
    _in_progress: int = attrs.field(default=0, init=False)
    #: The number of polls so far.
    polls: int = attrs.field(default=0, init=False)

    @property
    def pending(self) -> int:
        """The number of jobs with unconfirmed callbacks."""
        return sum(bool(pending.task_ids) for pending in self._jobs.values())

    def has_room(self, job_id: str, task_id: str) -> bool:
        """Return True if a task id of a job is known, or another one can be added."""
        pending = self._jobs.get(job_id)
        return pending is None or task_id in pending.task_ids or len(pending.task_ids) < MAX_CALLBACK_TASK_IDS

    def enqueue(self, job_id: str, task_id: str, *, own: bool = False) -> bool:
        """
        Confirm a genuine callback for a job that names a task, as soon as possible.

        Args:
            job_id: The job.

            task_id: The task.

            own: True if the task is known to be the job's; other task ids never displace it.

        Returns:
            False if too many jobs await confirmation; the callback was not enqueued then.
        """
        pending = self._jobs.get(job_id)
        if pending is None:
            if len(self._jobs) >= MAX_JOBS:
                return False
            pending = self._jobs[job_id] = _Pending({})
            self._enqueue_round(job_id)
        if own or self.has_room(job_id, task_id):
            pending.task_ids.setdefault(task_id, 0)
        return True

    def _enqueue_round(self, job_id: str) -> None:
        self._due.append(job_id)
        self._start_rounds()

    def _start_rounds(self) -> None:
        """Start as many rounds as keep the pacer busy; a flood waits as ids in a queue, not as tasks of the loop."""
        most = _JOBS_PER_POLL * self.poller.pacer.limit
        while self._due and self._in_progress < most and self.supervisor.running:
            self._in_progress += 1
            self.supervisor.start(self._run_round, self._due.popleft())

    async def _run_round(self, job_id: str) -> None:
        try:
            await self._confirm_job(job_id)
        finally:
            self._in_progress -= 1
            self._start_rounds()

    async def _confirm_job(self, job_id: str) -> None:
        """Poll each task id of a job once, and schedule the next round."""
        pending = self._jobs[job_id]
        pending.rounds += 1
        proved = True
        try:
            for task_id in list(pending.task_ids):
                pending.task_ids[task_id] += 1
                settled, known = await self._confirm_task(job_id, task_id, polls=pending.task_ids[task_id])
                if settled:
                    del pending.task_ids[task_id]
                else:
                    proved = proved and known
        except BaseException:
            del self._jobs[job_id]
            raise
        # Even when all ids are settled, the job stays for the delay: callbacks that arrive meanwhile wait for its end.
        delay = confirmation_delay(pending.rounds, proved=proved)
        if delay is None:
            del self._jobs[job_id]
            if (job := self.registry.get(job_id)) is not None:
                self.watchlist.reweigh(job)  # polling continues, sooner than it was planned
        else:
            self.timers.at(self.timers.now() + delay, partial(self._end_delay, job_id))

    def _end_delay(self, job_id: str) -> None:
        if self._jobs[job_id].task_ids:
            self._enqueue_round(job_id)
        else:
            del self._jobs[job_id]

    async def _confirm_task(self, job_id: str, task_id: str, *, polls: int) -> tuple[bool, bool]:
        """
        Poll a task that a callback named, and apply the result.

        Args:
            job_id: The job that the callback was for.

            task_id: The task.

            polls: The number of polls of this task id, this one included.

        Returns:
            True if the task id needs no further confirmation, and True if the task is known to be the job's.
        """
        try:
            row = await self.find_row(job_id)
            if row is None:
                return True, True
            step = next_step(row, task_id)
            if step is not CallbackStep.PROVE:
                # The create response may have arrived since, or a planned poll may have found the end.
                self.callback_weight.record_callback(job_id, self.registry.get(job_id))
            if step is CallbackStep.NOTHING:
                await self._drop_task_id(job_id, task_id)
                return True, True
            poll = await self.poller.poll_now(task_id)
            self.polls += 1
            if poll.record is None:
                own = step is CallbackStep.CONFIRM
                if own or poll.verdict is not PollVerdict.NOT_VISIBLE or polls < MAX_INVISIBLE_POLLS:
                    return False, own
                await self._reject_task(row, task_id)
                return True, False
            if step is CallbackStep.PROVE and not await self._is_proved(row, poll.record):
                await self._reject_task(row, task_id)
                return True, False
            settled = await self._apply_confirmed(job_id, task_id, poll.record)
            if settled and step is CallbackStep.PROVE:
                await self._drop_task_id(job_id, task_id)
        except (errors.TransportError, errors.JournalError, errors.ClientClosedError):
            return False, False
        return settled, True

    async def _is_proved(self, row: Intent, record: TaskRecord) -> bool:
        if row.callback_url is None:  # the answer to the create has named the task
            others = await self.results.find_creators(row.id, record.task_id)
            return not others and confirms_answer(record, row, *self.secrets) is True
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
        _log.warning("Ignored a callback for %s: task %s was not created by this job.", row.id, task_id)
        reason = "the task that it names was not created by its job"
        self.report(
            EventName.CALLBACK_REFUSED, LiveJob.from_row(row), reason=reason, status=_ACCEPTED, named_task_id=task_id
        )
        await self._drop_task_id(row.id, task_id)

    async def _drop_task_id(self, job_id: str, task_id: str) -> None:
        row = await self.journal.get(job_id)
        if row is not None and task_id in row.callback_task_ids:
            others = tuple(other for other in row.callback_task_ids if other != task_id)
            job = self.registry.get(job_id)
            await self.transitions.record_fields(job or LiveJob.from_row(row), callback_task_ids=others)
