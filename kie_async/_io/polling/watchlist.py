"""
The polled jobs: the next poll of each is planned, due, or in progress; and the weights that polls are planned by.

A job has no coroutine and no timer of its own, only its place in a deadline queue. While a callback is expected, a poll
is worth the lag that a lost callback would cause. See docs/explanation/polling.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from itertools import islice

import attrs

from kie_async._core.durations import DurationsByKind, Kind, kind_of
from kie_async._core.polling import CallbackLoss, PolledTask, PollingPolicy
from kie_async._core.wire import read_param
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.timers import DeadlineQueue, Timer, Timers
from kie_async.records import TaskRecord
from kie_async.states import JobState

__all__ = ["CallbackWeight", "Watch", "Watchlist"]

_log = logging.getLogger("kie_async")

#: The weight of a job without waiters: its polls are twice as far apart, and follow those of other jobs.
UNAWAITED = 0.5
#: The weight of a stalled job: its task is most likely lost. By age alone, lost tasks would take every poll.
STALLED = 0.02
#: The least loss rate that is assumed for the first task of an unknown kind.
_SCOUT_LOSS = 0.5
#: The number of jobs that are reweighed at once, and the pause before the next ones, in seconds: 256 take 2 ms.
_BATCH = 256
_BATCH_PAUSE = 0.02
#: The numbers of known tasks of a kind at which the polls of the others are planned anew: the next ones tell less.
_SURPRISES = (1, 2, 4, 8, 16, 32, 64, 128)
#: The time within which polls become due together, in seconds.
_MIN_INTERVAL = 0.004
#: The longest time between two polls of a job that is overdue, in seconds.
_SOON = 2.0

_NOT_DUE = -1


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Watch(PolledTask):
    """
    The polling state of one job.

    Attributes:
        job: The job.

        due_at: The instant of the planned poll; set by the ``DeadlineQueue``.

        due_index: Its index among the due polls.

        scout: True if it is the first task of a kind of which nothing is known.

        timeouts: The number of consecutive polls that have timed out.

        began_at: The instant at which the latest planned poll began.
    """

    job: LiveJob
    due_at: float | None = None
    due_index: int = _NOT_DUE
    scout: bool = False
    timeouts: int = 0
    began_at: float = -math.inf

    @property
    def in_progress(self) -> bool:
        """True while a poll is in progress, or if none is wanted any more."""
        return self.due_at is None and self.due_index == _NOT_DUE


@attrs.define(eq=False, kw_only=True)
class Watchlist:
    """
    Plans the polls of jobs.

    Args:
        policy: Decides when a poll is due, and which goes first.

        durations: The learned durations of tasks.

        timers: The timer queue.

        loss_of: Returns the probability, more than 0 and up to 1, that no callback reports the end of a job. Call
            ``reweigh_all`` after a large change.
    """

    policy: PollingPolicy
    durations: DurationsByKind
    timers: Timers
    loss_of: Callable[[LiveJob], float]
    #: Called when polls have become due; set by the poller that performs them.
    on_due: Callable[[], None] = attrs.field(default=lambda: None, init=False)
    #: The jobs whose poll is due, in no order.
    due: list[Watch] = attrs.field(factory=list, init=False)
    #: The number of polled jobs.
    watched: int = attrs.field(default=0, init=False)
    #: The number of tasks that other workers of the account poll: together they make polls scarce.
    watched_elsewhere: int = attrs.field(default=0, init=False)
    _planned: DeadlineQueue[Watch] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._planned = DeadlineQueue(
            self.timers, self._mark_due, after_batch=self._report_due, min_interval=_MIN_INTERVAL
        )

    # -- the polled jobs --------------------------------------------------------------------------------------------

    def watch(self, job: LiveJob) -> None:
        """
        Poll a job until ``unwatch``.

        Raises:
            ValueError: If it has no taskId.
        """
        if job.watch is not None:
            return
        if job.task_id is None:
            msg = f"Cannot poll {job.id}: it has no taskId."
            raise ValueError(msg)
        total = self.durations.of_kind(_kind_of_job(job, job.record))
        # The first task of an unknown kind is polled more often than its callback requires: its end informs the others.
        scout = not (total.learned or total.began)
        total.began += 1
        job.watch = watch = Watch(job=job, total=total, accepted_at=job.accepted_at, scout=scout)
        self.watched += 1
        self.plan_poll(watch)

    def unwatch(self, job: LiveJob) -> None:
        """Stop polling a job; the result of a poll in progress is still handled."""
        if job.watch is not None:
            self._cancel_poll(job.watch)
            job.watch = None
            self.watched -= 1

    def record_running(self, job: LiveJob, record: TaskRecord) -> None:
        """Record that a job's task has not ended, and plan its next poll anew."""
        watch = job.watch
        if watch is None:
            return
        if job.foreign and record.model is not None and job.record is None:
            # The first record of a foreign task: its kind and age were unknown.
            watch.set_kind(self.durations.of_kind(_kind_of_job(job, record)), job.accepted_at)
        watch.record_state(record.state, self.timers.now())
        if not watch.in_progress:
            self._cancel_poll(watch)
            self.plan_poll(watch)

    def record_end(self, job: LiveJob, record: TaskRecord) -> None:
        """Learn how long a job's task took; called once for each job, with its terminal record."""
        seconds, watch = record.seconds, job.watch
        if seconds is None:
            if watch is None or job.foreign:  # another process has polled it, or its age is unknown
                return
            seconds = self.timers.now() - job.accepted_at
        if watch is None:
            total = self.durations.of_kind(_kind_of_job(job, record))
            total.learn(seconds)
        else:
            total = watch.total
            watch.record_duration(seconds)
        if total.learned in _SURPRISES:
            self._replan(planned for planned in self._waiting() if planned.total is total)

    # -- weights ----------------------------------------------------------------------------------------------------

    def reweigh_all(self) -> None:
        """Plan the polls whose weight has changed anew, a batch at a time."""
        self._replan(watch for watch in self._waiting() if self._weighs_differently(watch))

    def _waiting(self) -> list[Watch]:
        return [*self._planned, *self.due]

    def _replan(self, watches: Iterator[Watch]) -> None:
        batch = list(islice(watches, _BATCH))
        for watch in batch:
            if not watch.in_progress:
                self._cancel_poll(watch)
                self.plan_poll(watch)
        if batch:
            self.timers.at(self.timers.now() + _BATCH_PAUSE, self._replan, watches)

    def _weighs_differently(self, watch: Watch) -> bool:
        return (watch.weight, watch.loss) != (_weight_of(watch.job), self._loss_of(watch))

    def _loss_of(self, watch: Watch) -> float:
        loss = self.loss_of(watch.job)
        return max(_SCOUT_LOSS, loss) if watch.scout else loss

    def reweigh(self, job: LiveJob) -> None:
        """Plan the next poll of a job anew if its weight has changed, for example by its first waiter."""
        watch = job.watch
        if watch is None or watch.in_progress or not self._weighs_differently(watch):
            return
        if job.foreign:
            self.poll_soon(job)  # its age is unknown: it may have ended already
        else:
            self._cancel_poll(watch)
            self.plan_poll(watch)

    def poll_soon(self, job: LiveJob) -> bool:
        """Make the next poll of a job due now, unless one is in progress; return False if the job is not watched."""
        watch = job.watch
        if watch is not None and not watch.in_progress:
            self._cancel_poll(watch)
            self._mark_due(watch)
            self.on_due()
        return watch is not None

    # -- planned and due polls --------------------------------------------------------------------------------------

    def plan_poll(self, watch: Watch) -> None:
        """Plan the next poll of a job that has no planned or due one."""
        watch.weight, watch.loss = _weight_of(watch.job), self._loss_of(watch)
        now = self.timers.now()
        next_at = self.policy.next_poll_at(watch, now, self.watched + self.watched_elsewhere)
        self._planned.set(watch, next_at if watch.job.overdue is None else min(now + _SOON, next_at))

    def pop_due(self, now: float) -> Watch:
        """Remove and return the due job to poll now; at least one must be due."""
        return self._remove_due(self.policy.choose_next(self.due, now))

    def _cancel_poll(self, watch: Watch) -> None:
        if watch.due_at is not None:
            self._planned.discard(watch)
        elif watch.due_index != _NOT_DUE:
            self._remove_due(watch.due_index)

    def _remove_due(self, index: int) -> Watch:
        # The last one takes its index: the due polls have no order.
        last = self.due.pop()
        if index == len(self.due):
            removed = last
        else:
            removed, self.due[index], last.due_index = self.due[index], last, index
        removed.due_index = _NOT_DUE
        return removed

    def _mark_due(self, watch: Watch) -> None:
        watch.due_index = len(self.due)
        self.due.append(watch)

    def _report_due(self) -> None:
        self.on_due()


def _weight_of(job: LiveJob) -> float:
    weight = 1.0 if job.waiters or job.readers else UNAWAITED
    return STALLED * weight if job.state is JobState.STALLED else weight


def _kind_of_job(job: LiveJob, record: TaskRecord | None) -> Kind:
    """Return the kind by the job's request or, for a foreign task, by its record."""
    if job.row is not None:
        return kind_of(job.row.model, job.row.input)
    echo = None if record is None else read_param(record)
    model = None if record is None else record.model
    return kind_of(model, None if echo is None else echo.input)


# -- fallback polling while callbacks are expected --------------------------------------------------------------------

#: The time after the end of a task was seen at which a missing callback counts as lost, in seconds.
CALLBACK_GRACE = 10.0
#: The number of missing callbacks that are waited for at once; beyond it, the oldest are not counted.
MAX_EXPECTED = 1000
#: The polls are planned anew when the estimate has changed by this factor.
_SIGNIFICANT_CHANGE = 2.0
#: The loss rate from which on missing callbacks are logged.
_WARNING_RATE = 0.5


@attrs.define(eq=False, kw_only=True)
class CallbackWeight:
    """
    Counts received and lost callbacks, and weighs polls by the probability that no callback reports the end.

    Args:
        timers: The timer queue.

        on_change: Called when the estimate has changed by a factor of two.
    """

    timers: Timers
    on_change: Callable[[], None]
    _since: float = attrs.field(default=attrs.Factory(lambda self: self.timers.now(), takes_self=True), init=False)
    _loss: CallbackLoss = attrs.field(factory=CallbackLoss, init=False)
    _expected: dict[str, Timer] = attrs.field(factory=dict, init=False)
    #: The estimate that the polls were planned with; nothing is received at first.
    _planned_with: float = attrs.field(default=1.0, init=False)
    _warned: bool = attrs.field(default=False, init=False)

    @property
    def probability(self) -> float:
        """The estimated callback-loss rate."""
        return self._loss.probability

    def expect_callbacks(self) -> None:
        """Expect callbacks from now on: our receiver is in use."""
        if not self._loss.receiving:
            self._loss.receiving = True
            self._notify_if_changed()

    def loss_of(self, job: LiveJob) -> float:
        """Return the probability, more than 0 and up to 1, that no callback reports a job's end."""
        row = job.row
        if row is None or row.callback_url is None or job.callback_received:
            return 1.0
        # The callback of a job from an earlier run may have arrived while no process received it.
        missed = job.accepted_at < self._since and job.record is None
        return 1.0 if missed else self._loss.probability

    def record_callback(self, job_id: str, job: LiveJob | None) -> None:
        """Record that a job's callback has arrived, here or at another process; each job counts once."""
        expected = self._expected.pop(job_id, None)
        if expected is not None:
            expected.cancel()
        elif job is None or job.callback_received:
            return  # too late, or a repetition
        if job is not None:
            job.callback_received = True
        self._loss.record_received()
        self._warned = False
        self._notify_if_changed()

    def expect_callback(self, job: LiveJob) -> None:
        """Record that polling has found a job's end: its callback counts as lost unless it has come soon after it."""
        if job.callback_received or job.row is None or job.row.callback_url is None:
            return
        now, seconds = self.timers.now(), None if job.record is None else job.record.seconds
        ended_at = now if seconds is None else min(now, job.accepted_at + seconds)
        if (job.accepted_at if seconds is None else ended_at) < self._since:
            return  # its callback may have come while no process received it
        if len(self._expected) >= MAX_EXPECTED:
            self._expected.pop(next(iter(self._expected))).cancel()
        self._expected[job.id] = self.timers.at(ended_at + CALLBACK_GRACE, self._record_loss, job.id)

    def _record_loss(self, job_id: str) -> None:
        del self._expected[job_id]
        before = self._loss.probability
        self._loss.record_lost()
        if self._loss.receiving and not self._warned and before >= _WARNING_RATE:
            self._warned = True
            _log.warning(
                "No callbacks arrive: tasks have ended, and the service has not posted to callback_url within %g s."
                " Results are polled instead. Check that the URL can be reached from the internet.",
                CALLBACK_GRACE,
            )
        self._notify_if_changed()

    def _notify_if_changed(self) -> None:
        now = self._loss.probability
        if max(now, self._planned_with) >= _SIGNIFICANT_CHANGE * min(now, self._planned_with):
            self._planned_with = now
            self.on_change()
