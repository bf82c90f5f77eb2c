"""
The jobs that are looked at: the look at each is planned, or due, or under way.

The client's one timer says when a look is due, and the policy says which of those that are due goes next. There is
nothing else for a job than its place in a deadline queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import attrs

from kie_async._core.durations import DurationsByKind, Kind, kind_of
from kie_async._core.polling import PolledTask, PollingPolicy
from kie_async._core.wire import read_param
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.timers import DeadlineQueue, Timers
from kie_async.records import TaskRecord
from kie_async.states import JobState

__all__ = ["Watch", "Watchlist"]

#: What a job weighs that nobody waits for: its looks are twice as far apart, and come after those at others.
UNAWAITED = 0.5
#: What one weighs that is stalled: its task is most likely lost. By its age alone it would go before all that run, and
#: some thousands that the service has lost would take every look.
STALLED = 0.02
#: Jobs that are weighed anew at a stretch, and the pause between two stretches, in seconds: 256 take 2 ms.
_AT_A_STRETCH = 256
_BETWEEN_STRETCHES = 0.02

#: How long after looks have fallen due no others do, in seconds. Their instants are not more exact than that.
_REST = 0.004

_NOT_DUE = -1


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Watch(PolledTask):
    """
    A job that is looked at.

    Attributes:
        job: The job.

        due_at: The instant of the next poll, while one is planned; set by the ``DeadlineQueue``.

        place: Where it is among those that are due.

        silences: How many looks in a row have got no answer.
    """

    job: LiveJob
    due_at: float | None = None
    place: int = _NOT_DUE
    silences: int = 0

    @property
    def polling(self) -> bool:
        """Whether a look is under way, or none wanted any more."""
        return self.due_at is None and self.place == _NOT_DUE


class Watchlist:
    """
    Knows when to look at which job.

    Args:
        policy: When a task is due, and which goes first.

        durations: What is known of how long tasks take.

        loop: The loop.

        timers: Where timers go.

        when_due: Called when looks have become due.

        weigh: See ``Poller``.
    """

    def __init__(
        self,
        *,
        policy: PollingPolicy,
        durations: DurationsByKind,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        when_due: Callable[[], None],
        weigh: Callable[[LiveJob], float],
    ) -> None:
        self._policy = policy
        self._durations = durations
        self._now = loop.time
        self._timers = timers
        self._when_due = when_due
        #: Those whose look is due, in no order.
        self.due: list[Watch] = []
        self._planned = DeadlineQueue[Watch](timers, self._fall_due, after_batch=when_due, min_interval=_REST)
        self._weigh = weigh
        #: How many jobs are looked at.
        self.watched = 0

    # -- which jobs -------------------------------------------------------------------------------------------------

    def watch(self, job: LiveJob) -> None:
        """See ``Poller.watch``."""
        if job.watch is not None:
            return
        if job.task_id is None:
            msg = f"{job.id} has no taskId to look at"
            raise ValueError(msg)
        whole = self._durations.of_kind(_kind(job, job.record))
        job.watch = watch = Watch(job=job, total=whole, accepted_at=job.accepted_at)
        self.watched += 1
        self.plan(watch)

    def unwatch(self, job: LiveJob) -> None:
        """See ``Poller.unwatch``."""
        if job.watch is not None:
            self._unplan(job.watch)
            job.watch = None
            self.watched -= 1

    def saw(self, job: LiveJob, record: TaskRecord) -> None:
        """See ``Poller.saw``."""
        watch = job.watch
        if watch is None:
            return
        if job.foreign and record.model is not None and job.record is None:
            # Its first record: nothing was known of it before.
            watch.set_kind(self._durations.of_kind(_kind(job, record)), job.accepted_at)
        watch.record_state(record.state, self._now())
        self._replan(watch)

    def learn(self, job: LiveJob, record: TaskRecord) -> None:
        """See ``Poller.learn``."""
        if job.watch is None:  # somebody else has looked at it
            if record.seconds is not None:
                self._durations.of_kind(_kind(job, record)).learn(record.seconds)
        elif record.seconds is not None:
            job.watch.record_duration(record.seconds)
        elif not job.foreign:
            job.watch.record_duration(self._now() - job.accepted_at)

    # -- what they weigh --------------------------------------------------------------------------------------------

    def replan(self, jobs: Iterable[LiveJob]) -> None:
        """See ``Poller.replan``."""
        self._weigh_anew(iter(list(jobs)))

    def _weigh_anew(self, jobs: Iterator[LiveJob]) -> None:
        stretch = list(islice(jobs, _AT_A_STRETCH))
        for job in stretch:
            self.weigh_anew(job)
        if stretch:
            self._timers.at(self._now() + _BETWEEN_STRETCHES, self._weigh_anew, jobs)

    def weigh_anew(self, job: LiveJob) -> None:
        """Plan the look at one job again, if its weight has changed."""
        watch = job.watch
        if watch is None or watch.polling or watch.weight == self._weight(job):
            return
        self._unplan(watch)
        if job.foreign:
            # Nobody here knows how old it is: it may be over.
            self._fall_due(watch)
            self._when_due()
        else:
            self.plan(watch)

    def _weight(self, job: LiveJob) -> float:
        weight = self._weigh(job)
        row = job.row
        if row is not None and row.state is JobState.STALLED:
            weight *= STALLED
        if job.waiters or job.readers:
            return weight
        # Most weigh 1, and share one number.
        return UNAWAITED if weight == 1.0 else UNAWAITED * weight

    # -- when -------------------------------------------------------------------------------------------------------

    def plan(self, watch: Watch) -> None:
        """Plan the next look at a job of which no look is planned or due."""
        watch.weight = self._weight(watch.job)
        self._planned.set(watch, self._policy.next_poll_at(watch, self._now()))

    def take(self, now: float) -> Watch:
        """The job to look at *now*; there is one that is due."""
        return self._take_from(self._policy.choose_next(self.due, now))

    def _replan(self, watch: Watch) -> None:
        if not watch.polling:
            self._unplan(watch)
            self.plan(watch)

    def _unplan(self, watch: Watch) -> None:
        if watch.due_at is not None:
            self._planned.discard(watch)
        elif watch.place != _NOT_DUE:
            self._take_from(watch.place)

    def _take_from(self, place: int) -> Watch:
        # The last takes its place: the order among those that are due means nothing.
        last = self.due.pop()
        if place == len(self.due):
            taken = last
        else:
            taken, self.due[place], last.place = self.due[place], last, place
        taken.place = _NOT_DUE
        return taken

    def _fall_due(self, watch: Watch) -> None:
        watch.place = len(self.due)
        self.due.append(watch)


def _kind(job: LiveJob, record: TaskRecord | None) -> Kind:
    """By what was asked for, where that is known; of somebody else's task, by what the service says of it."""
    if job.row is not None:
        return kind_of(job.row.model, job.row.input)
    echo = None if record is None else read_param(record)
    model = None if record is None else record.model
    return kind_of(model, None if echo is None else echo.input)
