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
#: The loss rate that is assumed at least while polls are idle: it takes about one fallback poll a job.
_IDLE_LOSS = 0.02
#: The power of the share of the tasks at which polls are scarce with which a lag becomes worth a poll.
_CHEAPER = 0.35
#: The share by which it becomes worth it later with each second of age: a long task is not polled every few seconds.
_OLDER = 0.0014


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

        loss: The probability, more than 0 and up to 1, that no callback reports its end.

        queued_at: The instant at which a poll last found it in the queue; None once a poll has found it outside.
    """

    total: Durations
    accepted_at: float
    phase_began_at: float = attrs.field(default=attrs.Factory(lambda self: self.accepted_at, takes_self=True))
    phase: Durations = attrs.field(default=attrs.Factory(lambda self: self.total, takes_self=True))
    running_at: float = attrs.field(default=attrs.Factory(lambda self: self.accepted_at, takes_self=True))
    weight: float = 1.0
    loss: float = 1.0
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

    def next_poll_at(self, task: PolledTask, now: float, in_flight: int) -> float:
        """Return the instant, not before *now*, at which the next poll of *task*, one of *in_flight*, is due."""
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

        min_lag: The lag that is worth a poll when polls are scarce, in seconds. At 0.29, a task of a minute takes fewer
            than eight polls, and its end is seen 2.4 s late.

        scarce_from: The number of tasks in flight from which on polls are scarce. The fewer there are, the less lag is
            worth a poll: in all, tasks of a minute take up to half a poll per second more.

        min_interval: The shortest time between two polls of a task, in seconds.

        max_interval: The longest time between two polls at a weight of 1, in seconds; or half of the task's age, or the
            mean duration of its kind, if that is more.

        max_weighted_interval: The longest time between two polls at any weight, in seconds.

        old_age: The age from which on a task is most likely lost, in seconds.

        old_interval: The time between two polls of a task of that age, in seconds.
    """

    randrange: Callable[[int], int]
    min_lag: float = 0.29
    scarce_from: float = 50.0
    min_interval: float = 2.0
    max_interval: float = 30.0
    max_weighted_interval: float = 600.0
    old_age: float = 3600.0
    old_interval: float = 300.0

    def next_poll_at(self, task: PolledTask, now: float, in_flight: int) -> float:
        """Return the instant, not before *now*, at which the next poll of *task*, one of *in_flight*, is due."""
        if now - task.accepted_at >= self.old_age:
            return max(now, task.running_at + self.old_interval)
        phase, seen = task.phase, task.running_at - task.phase_began_at
        longest = max(self.max_interval, seen / 2.0, phase.mean)
        loss, worth, stretch = task.loss, self.min_lag, task.weight
        if (idle := 1.0 - in_flight / self.scarce_from) > 0.0:
            # While polls are idle, a callback is not trusted more than one that was never observed.
            loss = max(loss, _IDLE_LOSS * idle)
            cheap = self.min_lag * max((in_flight / self.scarce_from) ** _CHEAPER, min(1.0, seen * _OLDER))
            # A fallback poll stays dear: most of them find nothing.
            worth += (cheap - worth) * loss
        if loss < 1.0:
            # The lag stays small until the task is overdue, so that a stretched interval would miss its end by far.
            longest, worth, stretch = max(longest, self.max_weighted_interval), worth / stretch, 1.0
        low, high = seen + self.min_interval, seen + longest
        # The lag grows with the age, so bisection finds the age at which it reaches the minimum.
        while high - low > _PRECISION:
            middle = (low + high) / 2.0
            if phase.lag(seen, middle, loss) < worth:
                low = middle
            else:
                high = middle
        gap = high - seen
        return max(now, task.phase_began_at + seen + max(gap, min(gap / stretch, self.max_weighted_interval)))

    def choose_next(self, due: Sequence[PolledTask], now: float) -> int:
        """
        Return the index in *due* of the task whose weighted lag is largest.

        Of more than 512 tasks, every n-th is compared, from a random start: each task has its turn, and the choice
        costs the same.
        """
        step = -(-len(due) // _SAMPLE)
        first = self.randrange(step) if step > 1 else 0
        lags = [
            task.weight * task.phase.lag(task.running_at - task.phase_began_at, now - task.phase_began_at, task.loss)
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


#: The loss rates that a receiver may have, from "all callbacks arrive" to "none does", and the probability of each
#: before the first callback is due (figures of the field: about 2 in 100 are lost).
_RATES = (0.0015, 0.02, 0.1, 0.3, 0.99)
_PRIOR = (0.02, 0.9, 0.05, 0.02, 0.01)
#: The probability that the rate has changed since the previous callback.
_CHANGE = 0.0005


@attrs.define
class CallbackLoss:
    """
    An estimate of the callback-loss rate: the probabilities of five rates, of which one holds until it changes.

    The all-or-nothing rate makes a wrong URL evident after two or three losses, and one callback refutes it. See
    docs/explanation/callbacks.md.

    Args:
        receiving: True if our receiver is in use. Until it is, or a callback arrives all the same (at another process
            that shares the journal), every callback is expected to be lost.

    >>> loss = CallbackLoss(receiving=True)
    >>> round(loss.probability, 2)
    0.04
    >>> for _ in range(3):
    ...     loss.record_lost()
    >>> loss.probability > 0.9
    True
    """

    receiving: bool = False
    _weights: Sequence[float] = attrs.field(default=_PRIOR, init=False)

    @property
    def probability(self) -> float:
        """The probability, more than 0 and up to 1, that the next callback is lost."""
        if not self.receiving:
            return 1.0
        return sum(rate * weight for rate, weight in zip(_RATES, self._weights, strict=True))

    def record_received(self) -> None:
        """Count a callback that has arrived: there is a receiver."""
        self.receiving = True
        self._learn([1.0 - rate for rate in _RATES])

    def record_lost(self) -> None:
        """Count a callback that has not arrived although its task has ended; without a receiver it tells nothing."""
        if self.receiving:
            self._learn(_RATES)

    def _learn(self, likelihoods: Sequence[float]) -> None:
        joint = [weight * likelihood for weight, likelihood in zip(self._weights, likelihoods, strict=True)]
        kept = (1.0 - _CHANGE) / sum(joint)
        self._weights = [kept * weight + _CHANGE * prior for weight, prior in zip(joint, _PRIOR, strict=True)]
