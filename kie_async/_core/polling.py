"""
Polling decisions: when to poll which task, how long to wait for the answer, and how likely callbacks are to be lost.

The value of a poll is the expected unseen lag that it ends (``durations.py``): poll the task with the largest lag, as
soon as that lag is worth a poll. See docs/explanation/polling.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from kie_async._core.durations import Durations
from kie_async.records import TaskState

__all__ = ["CallbackLoss", "LagPolicy", "PolledTask", "PollingPolicy", "RoundTripTimeout"]

_QUEUED = (TaskState.WAITING, TaskState.QUEUING)
#: The precision of a poll's instant, in seconds.
_PRECISION = 0.01
#: The number of due tasks that are compared for one poll; of more, a fair sample of about this size.
_SAMPLE = 512


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class PolledTask:
    """
    A running task, as far as it matters for scheduling its polls.

    Attributes:
        total: The durations of tasks of its kind, from acceptance.

        accepted_at: The instant of its acceptance.

        phase_began_at: The instant from which ``phase`` counts: its acceptance, or the end of its time in the queue.

        phase: The durations of tasks of its kind from there.

        running_at: The last instant at which it is known to have been running.

        weight: The value of polling it, more than 0 and up to 1: multiplies its lag and divides its poll rate.

        queued_at: The instant at which a poll last found it in the queue; None once a poll has found it outside.
    """

    total: Durations
    accepted_at: float
    phase_began_at: float = attrs.field(default=attrs.Factory(lambda self: self.accepted_at, takes_self=True))
    phase: Durations = attrs.field(default=attrs.Factory(lambda self: self.total, takes_self=True))
    running_at: float = attrs.field(default=attrs.Factory(lambda self: self.accepted_at, takes_self=True))
    weight: float = 1.0
    queued_at: float | None = None

    def set_kind(self, total: Durations, accepted_at: float) -> None:
        """Set the durations of its kind and its acceptance, where these were unknown at first."""
        self.total = self.phase = total
        self.accepted_at = self.phase_began_at = accepted_at

    def record_state(self, state: str, now: float) -> None:
        """
        Record that the task was in *state* at *now*, and has not ended.

        The time in the queue does not predict the time after it. So when a poll finds that the task has left the queue,
        its clock restarts at the last instant at which it was still there: slightly too early, which costs a poll,
        rather than too late.
        """
        self.running_at = max(self.running_at, now)
        if state in _QUEUED:
            self.queued_at = now
        elif state == TaskState.GENERATING and self.queued_at is not None:
            self.phase_began_at, self.queued_at = self.queued_at, None
            self.phase = self.total.generating

    def record_duration(self, seconds: float) -> None:
        """Learn that the task has ended, *seconds* after it was accepted."""
        self.total.learn(seconds)
        if self.phase is not self.total:
            self.phase.learn(seconds - (self.phase_began_at - self.accepted_at))


class PollingPolicy(Protocol):
    """Decides when a poll of a task is due, and which of the due tasks is polled next."""

    def next_poll_at(self, task: PolledTask, now: float) -> float:
        """Return the instant, not before *now*, at which the next poll of *task* is due."""
        ...

    def choose_next(self, due: Sequence[PolledTask], now: float) -> int:
        """Return the index in *due*, which is not empty, of the task to poll now."""
        ...


@attrs.frozen(kw_only=True)
class LagPolicy:
    """
    Poll the task with the largest expected unseen lag, as soon as that lag is worth a poll.

    Args:
        randrange: Returns a random integer from 0 to below its argument.

        min_lag: The lag that is worth a poll, in seconds. At 0.29, a task of a minute takes fewer than eight polls, and
            its end is seen 2.4 s late.

        min_interval: The shortest time between two polls of a task, in seconds.

        max_interval: The longest time between two polls at a weight of 1, in seconds; or half of the task's age, or the
            mean duration of its kind, if that is more.

        max_weighted_interval: The longest time between two polls at any weight, in seconds.

        old_age: The age from which on a task is most likely lost, in seconds.

        old_interval: The time between two polls of a task of that age, in seconds.
    """

    randrange: Callable[[int], int]
    min_lag: float = 0.29
    min_interval: float = 0.5
    max_interval: float = 30.0
    max_weighted_interval: float = 600.0
    old_age: float = 3600.0
    old_interval: float = 300.0

    def next_poll_at(self, task: PolledTask, now: float) -> float:
        """Return the instant, not before *now*, at which the next poll of *task* is due."""
        if now - task.accepted_at >= self.old_age:
            return max(now, task.running_at + self.old_interval)
        phase, seen = task.phase, task.running_at - task.phase_began_at
        low, high = seen + self.min_interval, seen + max(self.max_interval, seen / 2.0, phase.mean)
        # The lag grows with the age, so bisection finds the age at which it reaches the minimum.
        while high - low > _PRECISION:
            middle = (low + high) / 2.0
            if phase.lag(seen, middle) < self.min_lag:
                low = middle
            else:
                high = middle
        gap = high - seen
        return max(now, task.phase_began_at + seen + max(gap, min(gap / task.weight, self.max_weighted_interval)))

    def choose_next(self, due: Sequence[PolledTask], now: float) -> int:
        """
        Return the index in *due* of the task whose weighted lag is largest.

        Of more than 512 tasks, every n-th is compared, from a random start: each task has its turn, and the choice
        costs the same.
        """
        step = -(-len(due) // _SAMPLE)
        first = self.randrange(step) if step > 1 else 0
        lags = [
            task.weight * task.phase.lag(task.running_at - task.phase_began_at, now - task.phase_began_at)
            for task in due[first::step]
        ]
        return first + step * lags.index(max(lags))


#: The shortest timeout, in seconds, as in RFC 6298.
MIN_TIMEOUT = 1.0


@attrs.define
class RoundTripTimeout:
    """
    A timeout that adapts to round trips, as TCP's retransmission timeout (RFC 6298).

    It is the smoothed round trip and four times its smoothed deviation, at least a second. It does not double after a
    timeout; the poller does that for each task.

    >>> timeout = RoundTripTimeout()
    >>> timeout.seconds
    1.0
    >>> timeout.record_round_trip(3.0)
    >>> timeout.seconds
    9.0
    """

    _smoothed: float | None = attrs.field(default=None, init=False)
    _deviation: float = attrs.field(default=0.0, init=False)

    @property
    def seconds(self) -> float:
        """The time after which a request without an answer counts as timed out."""
        if self._smoothed is None:
            return MIN_TIMEOUT
        return max(MIN_TIMEOUT, self._smoothed + 4.0 * self._deviation)

    def record_round_trip(self, seconds: float) -> None:
        """Record the round trip of a request that was answered."""
        if self._smoothed is None:
            self._smoothed, self._deviation = seconds, seconds / 2.0
        else:
            self._deviation += (abs(self._smoothed - seconds) - self._deviation) / 4.0
            self._smoothed += (seconds - self._smoothed) / 8.0


#: The loss rate assumed of our receiver before the first callback is due (limits of the field: about 2 in 100); also
#: the lowest estimate, so that polling never stops.
_PRIOR_LOSS = 0.02
#: The number of callbacks that the assumption weighs: the first loss counts for more than it.
_PRIOR_WEIGHT = 1.0
#: The number of callbacks remembered: older ones fade, so that a broken receiver is noticed within some tens of jobs.
_MEMORY = 50.0


@attrs.define
class CallbackLoss:
    """
    An estimate of the callback-loss rate: the mean of a beta distribution with a fading memory.

    Args:
        receiving: True if our receiver is in use. Until it is, or callbacks arrive all the same (at another process
            that shares the journal), every callback is expected to be lost.

    >>> loss = CallbackLoss(receiving=True)
    >>> loss.probability
    0.02
    >>> loss.record_lost()
    >>> loss.probability
    0.51
    """

    receiving: bool = False
    _received: float = attrs.field(default=0.0, init=False)
    _lost: float = attrs.field(default=0.0, init=False)

    @property
    def probability(self) -> float:
        """The probability that the next callback is lost, from 0.02 to 1."""
        prior = _PRIOR_LOSS if self.receiving else 1.0
        estimate = (self._lost + prior * _PRIOR_WEIGHT) / (self._received + self._lost + _PRIOR_WEIGHT)
        return max(_PRIOR_LOSS, estimate)

    def record_received(self) -> None:
        """Count a callback that has arrived."""
        self._fade()
        self._received += 1.0

    def record_lost(self) -> None:
        """Count a callback that has not arrived although its task has ended."""
        self._fade()
        self._lost += 1.0

    def _fade(self) -> None:
        total = self._received + self._lost
        if total >= _MEMORY:
            kept = (_MEMORY - 1.0) / total
            self._received *= kept
            self._lost *= kept
