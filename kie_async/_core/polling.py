"""
Which of many tasks to look at, and when.

A policy answers with instants and with places in a list; how many looks the account allows is the pacer's business.

What a look is worth is the expected unseen lag that it ends (``durations.py``). With a price for a look, the best rule
for one task is to look whenever that lag has reached the price; it comes within 3 % of the exact optimum from four
looks a task on. With many tasks and a budget, the look goes to the task with the largest lag: the price is then
whatever the budget makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from kie_async._core.durations import Durations
from kie_async.records import TaskState

__all__ = ["ByLag", "Fixed", "Outlook", "PollingPolicy"]

_QUEUED = (TaskState.WAITING, TaskState.QUEUING)
#: How exactly the instant of a look is computed, in seconds.
_EXACT = 0.01
#: Tasks that are compared for one look; of more, a fair sample of about so many.
_COMPARED = 512


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Outlook:
    """
    What is known of one running task for the question when to look at it.

    Attributes:
        whole: How long tasks of its kind take from their acceptance.

        accepted_at: When it was accepted.

        began_at: Where its clock starts: its acceptance, or the end of its time in the queue.

        durations: How long tasks of its kind take from there.

        seen_at: The last instant at which it is known to have been running.

        weight: What a look at it is worth, more than 0 and up to 1: its lag counts for less by that, and the time
            between two looks is longer by as much.

        queued_at: When it was last seen in the queue, unless it was seen to have left it.
    """

    whole: Durations
    accepted_at: float
    began_at: float = attrs.field(default=attrs.Factory(lambda self: self.accepted_at, takes_self=True))
    durations: Durations = attrs.field(default=attrs.Factory(lambda self: self.whole, takes_self=True))
    seen_at: float = attrs.field(default=attrs.Factory(lambda self: self.accepted_at, takes_self=True))
    weight: float = 1.0
    queued_at: float | None = None

    def is_of(self, whole: Durations, accepted_at: float) -> None:
        """Take in of what kind the task is and when it was accepted, where that was not known at first."""
        self.whole = self.durations = whole
        self.accepted_at = self.began_at = accepted_at

    def saw(self, state: str, now: float) -> None:
        """
        Take in that the task was seen in *state* at *now*, and has not ended.

        How long it was in the queue says nothing about how long it will take from then on. So when it is seen to have
        left the queue, its clock starts at the last instant at which it was still there: a little too early, which
        costs a look, rather than too late.
        """
        self.seen_at = max(self.seen_at, now)
        if state in _QUEUED:
            self.queued_at = now
        elif state == TaskState.GENERATING and self.queued_at is not None:
            self.began_at, self.queued_at = self.queued_at, None
            self.durations = self.whole.generating

    def ended(self, seconds: float) -> None:
        """Learn that the task has ended, *seconds* after it was accepted."""
        self.whole.learn(seconds)
        if self.durations is not self.whole:
            self.durations.learn(seconds - (self.began_at - self.accepted_at))


class PollingPolicy(Protocol):
    """Decides when a task is due for a look, and which of those that are due goes first."""

    def next_look_at(self, task: Outlook, now: float) -> float:
        """The instant, not before *now*, from which on a look at *task* is due."""
        ...

    def choose(self, due: Sequence[Outlook], now: float) -> int:
        """The place in *due*, which is not empty, of the task to look at now."""
        ...


@attrs.define
class Fixed:
    """
    Look at every task at one interval, and at the one first that has waited longest: what most programs do.

    It is here for benchmarks, which compare clients at equal intervals.

    Args:
        interval: In seconds.

    >>> Fixed(2.0).next_look_at(Outlook(whole=Durations(), accepted_at=7.0), now=7.5)
    9.0
    """

    interval: float
    _turn: int = attrs.field(default=0, init=False)

    def next_look_at(self, task: Outlook, now: float) -> float:
        """The instant, not before *now*, from which on a look at *task* is due."""
        return max(now, task.seen_at + self.interval)

    def choose(self, due: Sequence[Outlook], now: float) -> int:  # noqa: ARG002 (as the protocol has it)
        """The place in *due* of the task that was looked at longest ago; of very many, every so many-th is compared."""
        step = -(-len(due) // _COMPARED)
        self._turn = first = (self._turn + 1) % step
        seen = [task.seen_at for task in due[first::step]]
        return first + step * seen.index(min(seen))


@attrs.frozen(kw_only=True)
class ByLag:
    """
    Look where the expected unseen lag is largest, as soon as it is worth a look.

    Args:
        draw: Draws a number from 0 to below its argument.

        floor: The lag that is worth a look, in seconds. At 0.29 a task of a minute takes fewer than
            eight looks, and its end is seen 2.4 s late.

        shortest: The shortest time between two looks at a task, in seconds.

        longest: The longest at a weight of 1, in seconds; or half of the task's age, or what such a task takes on
            average, if that is more.

        rarest: However little its looks are worth, a task is looked at this often, in seconds.

        old_after: The age from which on a task is most likely lost, in seconds.

        old_interval: How often a task of that age is looked at, in seconds.
    """

    draw: Callable[[int], int]
    floor: float = 0.29
    shortest: float = 0.5
    longest: float = 30.0
    rarest: float = 600.0
    old_after: float = 3600.0
    old_interval: float = 300.0

    def next_look_at(self, task: Outlook, now: float) -> float:
        """The instant, not before *now*, from which on a look at *task* is due."""
        if now - task.accepted_at >= self.old_after:
            return max(now, task.seen_at + self.old_interval)
        durations, seen = task.durations, task.seen_at - task.began_at
        low, high = seen + self.shortest, seen + max(self.longest, seen / 2.0, durations.mean)
        # The lag grows with the age, so the age at which it reaches the floor can be closed in on.
        while high - low > _EXACT:
            middle = (low + high) / 2.0
            if durations.lag(seen, middle) < self.floor:
                low = middle
            else:
                high = middle
        gap = high - seen
        return max(now, task.began_at + seen + max(gap, min(gap / task.weight, self.rarest)))

    def choose(self, due: Sequence[Outlook], now: float) -> int:
        """
        The place in *due* of the task whose weighted lag is largest.

        Of very many tasks, every so many-th is compared, beginning anywhere: each has its turn, and the choice costs
        the same.
        """
        step = -(-len(due) // _COMPARED)
        first = self.draw(step) if step > 1 else 0
        lags = [
            task.weight * task.durations.lag(task.seen_at - task.began_at, now - task.began_at)
            for task in due[first::step]
        ]
        return first + step * lags.index(max(lags))
