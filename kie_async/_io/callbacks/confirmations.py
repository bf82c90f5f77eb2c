"""
Looking into callbacks: ``recordInfo`` decides how the task has ended, and whose it is where that is not known.

There is one confirmation at a time for each intent, and it asks before the polling does. What cannot be settled at once
(a callback may be faster than ``recordInfo``) is asked again, later and later. A token that has leaked can thus cause a
look now and then, whatever is posted with it, and nothing else.
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
    from kie_async._io.polling.callback_weight import CallbackWeight
    from kie_async._io.polling.poller import Poller
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.runtime import Runtime
    from kie_async._io.supervisor import Supervisor
    from kie_async._io.timers import Timers
    from kie_async.records import TaskRecord

__all__ = ["Confirmations"]

_log = logging.getLogger("kie_async")

#: How many intents may have callbacks that are being looked into; beyond that, the service is asked to try again.
MAX_INTENTS = 10_000
#: A new task may be invisible for 90 s; one that is still unknown at this look, two minutes later, does not exist.
VISIBLE_LOOKS = 8
#: How many looks are ready for each that may be under way, so that the pacer never waits for one.
_AHEAD = 2

#: What a callback was answered that turns out to be about a foreign task.
_TAKEN = 200


@attrs.define(eq=False)
class _Case:
    """The callbacks of one intent: how often each task that they name was looked at, and how many rounds there were."""

    task_ids: dict[str, int]
    rounds: int = 0


class Confirmations:
    """
    Looks into callbacks.

    Args:
        journal: Holds the intents.

        registry: The jobs of this process.

        runtime: Clock and randomness.

        supervisor: Starts the tasks that ask.

        timers: Schedules the next question.

        poller: Asks the service.

        tracker: Applies records.

        transitions: Changes rows.

        results: Binds tasks.

        callback_weight: Counts the callbacks.

        follower: Resumes jobs after a callback.

        secret: Makes callback tokens.

        report: Takes events.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        registry: Registry,
        runtime: Runtime,
        supervisor: Supervisor,
        timers: Timers,
        poller: Poller,
        tracker: Tracker,
        transitions: Transitions,
        results: ResultWriter,
        callback_weight: CallbackWeight,
        follower: JobFollower,
        secret: bytes,
        report: Callable[..., None],
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._runtime = runtime
        self._supervisor = supervisor
        self._timers = timers
        self._poller = poller
        self._tracker = tracker
        self._transitions = transitions
        self._results = results
        self._callback_weight = callback_weight
        self._follower = follower
        self._secret = secret
        self._report = report
        self._cases: dict[str, _Case] = {}
        #: Those whose next look is due, by intent; as many are at work as keep the pacer busy.
        self._due: deque[str] = deque()
        self._at_work = 0
        self._most_at_work = _AHEAD * poller.pacer.limit
        #: Looks so far.
        self.polls = 0

    @property
    def pending(self) -> int:
        """How many intents have callbacks that are not settled."""
        return sum(bool(case.task_ids) for case in self._cases.values())

    def has_room(self, job_id: str, task_id: str) -> bool:
        """Whether one more task can be noted for an intent, or this one is noted already."""
        case = self._cases.get(job_id)
        return case is None or task_id in case.task_ids or len(case.task_ids) < MAX_CALLBACK_TASK_IDS

    def ask(self, job_id: str, task_id: str, *, own: bool = False) -> bool:
        """
        Look into a genuine callback for an intent that names a task.

        Args:
            job_id: The intent.

            task_id: The task.

            own: Whether the task is known to be the intent's, which is never crowded out by what is not.

        Returns:
            False if too many wait already; nothing was noted then.
        """
        case = self._cases.get(job_id)
        if case is None:
            if len(self._cases) >= MAX_INTENTS:
                return False
            case = self._cases[job_id] = _Case({})
            self._start(job_id)
        if own or self.has_room(job_id, task_id):
            case.task_ids.setdefault(task_id, 0)
        return True

    def _start(self, job_id: str) -> None:
        self._due.append(job_id)
        self._go_on()

    def _go_on(self) -> None:
        """Start what the pacer may soon let through; a flood waits as names in a queue, not as a task each."""
        supervisor = self._supervisor
        while self._due and self._at_work < self._most_at_work and supervisor.running:
            self._at_work += 1
            supervisor.start(self._work, self._due.popleft())

    async def _work(self, job_id: str) -> None:
        try:
            await self._look_into(job_id)
        finally:
            self._at_work -= 1
            self._go_on()

    async def _look_into(self, job_id: str) -> None:
        """One round: a look for each id that is named."""
        case = self._cases[job_id]
        case.rounds += 1
        proved = True
        try:
            for task_id in list(case.task_ids):
                case.task_ids[task_id] += 1
                settled, known = await self._settle(job_id, task_id, polls=case.task_ids[task_id])
                if settled:
                    del case.task_ids[task_id]
                else:
                    proved = proved and known
        except BaseException:
            del self._cases[job_id]
            raise
        # Even when all is settled, the case stays for the pause: what comes meanwhile waits for its end.
        pause = confirmation_delay(case.rounds, proved=proved)
        if pause is None:
            del self._cases[job_id]
            if (job := self._registry.get(job_id)) is not None:
                self._poller.replan((job,))  # the polling goes on with it, and not as late as was planned
        else:
            self._timers.at(self._runtime.now() + pause, partial(self._next, job_id))

    def _next(self, job_id: str) -> None:
        case = self._cases[job_id]
        if case.task_ids:
            self._start(job_id)
        else:
            del self._cases[job_id]

    async def _settle(self, job_id: str, task_id: str, *, polls: int) -> tuple[bool, bool]:
        """
        Ask how a task is, and do what follows.

        Args:
            job_id: The intent.

            task_id: The task that a callback for it has named.

            polls: The how-manieth look at it this is.

        Returns:
            Whether that settles it, and whether the task is known to be the intent's.
        """
        try:
            row = await self._row(job_id)
            if row is None:
                return True, True
            step = next_step(row, task_id)
            if step is not CallbackStep.PROVE:
                # The answer to the create may have come since, or a look may have seen the end.
                self._callback_weight.came(job_id, self._registry.get(job_id))
            if step is CallbackStep.NOTHING:
                await self._forget_hint(job_id, task_id)
                return True, True
            poll = await self._poller.poll_now(task_id)
            self.polls += 1
            if poll.record is None:
                if step is CallbackStep.CONFIRM or poll.verdict is not PollVerdict.NOT_VISIBLE or polls < VISIBLE_LOOKS:
                    return False, step is CallbackStep.CONFIRM
                await self._disprove(row, task_id)
                return True, False
            if step is CallbackStep.PROVE and not echoes_token(poll.record, job_id, self._secret):
                await self._disprove(row, task_id)
                return True, False
            settled = await self._apply(job_id, task_id, poll.record)
            if settled and step is CallbackStep.PROVE:
                await self._forget_hint(job_id, task_id)
        except (errors.TransportError, errors.JournalError, errors.ClientClosedError):
            return False, False
        return settled, True

    async def _row(self, job_id: str) -> Intent | None:
        job = self._registry.get(job_id)
        return job.row if job is not None and job.row is not None else await self._journal.get(job_id)

    async def _apply(self, job_id: str, task_id: str, record: TaskRecord) -> bool:
        """Take the record of a task that is an intent's; whether nothing more is to be done about it."""
        job = self._registry.get(job_id)
        if job is None or job.row is None:
            row = await self._journal.get(job_id)
            if row is None:
                return True
            # Of another process, or ended as far as this one knew: its row is moved, and it is followed elsewhere.
            job = LiveJob.from_row(row)
            job.callback_received = True  # here, and so its end is not one that no callback has told of
        if require_row(job).task_id != task_id:
            job = await self._bind(job, task_id)
        if require_row(job).task_id == task_id:
            if record.ended:
                self._callback_weight.came(job_id, job)  # of another process's job, too: callbacks do come
            await self._tracker.apply(job, record)
        return next_step(require_row(job), task_id) is CallbackStep.NOTHING

    async def _bind(self, job: LiveJob, task_id: str) -> LiveJob:
        """Bind a task that was proved to be an intent's, and go on with it; returns the job that does."""
        was = job.state
        await self._results.record_accepted(job, task_id)
        row = require_row(job)
        if row.task_id != task_id or row.state is not JobState.SUBMITTED:
            # One more than the intent's own; or somebody else was faster, and has moved it on.
            if job.state is not was and self._registry.get(job.id) is job:
                await self._follower.follow(job)
            return job
        _log.info("A callback has brought %s (%s until now) its task %s.", job.id, was, task_id)
        if (here := self._registry.get(job.id)) is not job:
            if here is None and not self._journal.owns(row):
                self._callback_weight.came(job.id, job)
                return job
            # It had ended as far as this process knew, or has been taken up since it was looked for.
            job = self._follower.adopt(row)
            job.row = row
        self._callback_weight.came(job.id, job)
        await self._follower.follow_accepted(job)
        return job

    async def _disprove(self, row: Intent, task_id: str) -> None:
        """Forget a task that is somebody else's, or nobody's."""
        _log.warning("A callback for %s has named task %s, which is not its own; it is ignored.", row.id, task_id)
        why = "the task that it names was not created by its job"
        self._report(
            EventName.CALLBACK_REFUSED, LiveJob.from_row(row), reason=why, status=_TAKEN, named_task_id=task_id
        )
        await self._forget_hint(row.id, task_id)

    async def _forget_hint(self, job_id: str, task_id: str) -> None:
        row = await self._journal.get(job_id)
        if row is not None and task_id in row.callback_task_ids:
            left = tuple(other for other in row.callback_task_ids if other != task_id)
            job = self._registry.get(job_id)
            await self._transitions.record_fields(job or LiveJob.from_row(row), callback_task_ids=left)
