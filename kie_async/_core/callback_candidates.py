"""
Candidates: the task ids that callbacks have named for one job, which of them is polled next, and which gives way.

Anyone who knows a callback URL can post any task id to it. So the polls of a job have an allowance, an id that was
disproved is not polled again, and a new id takes the place of the least likely one. See
docs/explanation/callbacks.md.
"""

from __future__ import annotations

import math
from enum import StrEnum

import attrs

__all__ = ["MAX_CALLBACK_TASK_IDS", "CallbackCandidates", "CallbackFinding", "confirmation_delay"]

#: The number of unproved task ids of one job that wait for a poll, in memory and in the journal.
MAX_CALLBACK_TASK_IDS = 8
#: The number of task ids that are remembered for one job, those included that are not polled again.
MAX_REMEMBERED = 64
#: The time for which the ids of a job are remembered after the last callback for it, in seconds.
REMEMBERED_SECONDS = 900.0
#: Repetitions of polls for unlikely ids leave so many polls of the allowance to ids that were not polled yet.
_RESERVED = 3

#: The longest delay between two confirmations, which grows as 1, 2, 4 ... seconds.
_MAX_DELAY = 60.0
#: The most confirmations after a callback, if its task is polled anyway.
_MAX_POLLS = 6
#: The most if it is not: within an hour. Ids that are not confirmed by then stay in the journal, for ``recover()``.
_MAX_POLLS_UNCONFIRMED = 64
#: A new task may be invisible for 90 s; an id that is still unknown at this poll, two minutes later, is dropped.
_MAX_INVISIBLE_POLLS = 8
#: The least time between two polls of an id, in seconds, and the most that a dropped id waits for its next poll.
_MIN_INTERVAL, _MAX_INTERVAL = 1.0, 3600.0


class CallbackFinding(StrEnum):
    """The finding of one confirmation."""

    SETTLED = "settled"  #: Nothing is left to be done for the id.
    OWN = "own"  #: The task is the job's, and has not ended.
    FOREIGN = "foreign"  #: The task's record shows that another create has made it.
    INVISIBLE = "invisible"  #: The service does not know the task.
    UNKNOWN = "unknown"  #: There was no answer, or no readable one.


@attrs.define
class _Allowance:
    """Polls that may be spent: a burst, and then one in each interval, in seconds."""

    burst: int
    interval: float
    #: The instant at which the whole burst is there again.
    full_at: float = -math.inf

    def ready_at(self, polls: int) -> float:
        """Return the instant from which so many polls can be spent."""
        return self.full_at - (self.burst - polls) * self.interval

    def spend(self, now: float) -> None:
        self.full_at = max(self.full_at, now) + self.interval


@attrs.define
class _Candidate:
    """One task id; ``polls`` and ``polled_at`` are of its present sequence of polls, ``due_at`` is its next one."""

    due_at: float
    own: bool = False
    likely: bool = False
    open: bool = True
    foreign: bool = False
    polls: int = 0
    polled_at: float = -math.inf


@attrs.define
class CallbackCandidates:
    """
    The task ids that callbacks have named for one job.

    An id is *own* if the row has it, *likely* if its callback was signed or shows the job's request, and *open* while
    it waits for a poll. All polls together are at most 12 in a minute and 60 in an hour. Of these, three at once and
    eight in an hour are for likely ids: an attacker who knows only the URL cannot spend them.
    """

    _ids: dict[str, _Candidate] = attrs.field(factory=dict, init=False)
    _named_at: float = attrs.field(default=-math.inf, init=False)
    _allowance: _Allowance = attrs.field(factory=lambda: _Allowance(9, 90.0), init=False)
    _reserve: _Allowance = attrs.field(factory=lambda: _Allowance(3, 450.0), init=False)

    @property
    def open(self) -> bool:
        """True if an id waits for a poll."""
        return any(candidate.open for candidate in self._ids.values())

    @property
    def unproved(self) -> tuple[str, ...]:
        """The open ids that are not known to be the job's: at most ``MAX_CALLBACK_TASK_IDS``."""
        return tuple(task_id for task_id, candidate in self._ids.items() if candidate.open and not candidate.own)

    def is_over(self, now: float) -> bool:
        """Return True if forgetting everything would allow no poll that is not allowed now."""
        return not self.open and now >= max(
            self._named_at + REMEMBERED_SECONDS, self._allowance.full_at, self._reserve.full_at
        )

    def name(self, task_id: str, now: float, *, own: bool = False, likely: bool = False) -> str | None:
        """
        Add the id that a genuine callback names; if there are too many, drop the least likely one.

        Args:
            task_id: The task.

            now: The current instant.

            own: True if the row has the task.

            likely: True if the callback was signed, or shows the job's request.

        Returns:
            The id that has given way, or None.
        """
        self._named_at = now
        candidate = self._ids.get(task_id)
        if candidate is None:
            displaced = self._make_room(own=own)
            self._ids[task_id] = _Candidate(now, own, likely)
            return displaced
        if candidate.foreign and not own:
            return None
        better = (own and not candidate.own) or (likely and not candidate.likely)
        candidate.own, candidate.likely = candidate.own or own, candidate.likely or likely
        candidate.foreign = False
        if better or likely or (own and not candidate.open):
            # Its end may be new: poll soon. A mere repetition must not spend the polls before the end.
            candidate.due_at = min(candidate.due_at, max(now, candidate.polled_at + _MIN_INTERVAL))
            candidate.polls = candidate.polls if candidate.open else 0
        elif not candidate.open:
            wait = min(2.0 ** min(candidate.polls, 20), _MAX_INTERVAL)
            candidate.due_at = max(now, candidate.polled_at + wait)
        if candidate.open:
            return None
        displaced = self._make_room(own=candidate.own)
        self._ids[task_id] = self._ids.pop(task_id, candidate)
        candidate.open = True
        return displaced

    def _make_room(self, *, own: bool) -> str | None:
        least = None
        if not own and len(unproved := self.unproved) >= MAX_CALLBACK_TASK_IDS:
            # Of equals the first is the oldest one.
            least = min(unproved, key=lambda task_id: (self._ids[task_id].likely, not self._ids[task_id].polls))
            del self._ids[least]
        if len(self._ids) >= MAX_REMEMBERED:
            closed = next(task_id for task_id, candidate in self._ids.items() if not candidate.open)
            del self._ids[closed]
        return least

    # -- polls --------------------------------------------------------------------------------------------------------

    def next_at(self) -> float:
        """Return the instant of the next poll; infinity if there is none."""
        return min((self._ready_at(candidate) for candidate in self._ids.values() if candidate.open), default=math.inf)

    def next_task(self, now: float) -> str | None:
        """Return the id that is polled now, and count the poll; None if none is due."""
        ready = [
            task_id for task_id, candidate in self._ids.items() if candidate.open and self._ready_at(candidate) <= now
        ]
        if not ready:
            return None
        # The likely ones first, then those that were polled least, of these the newest one: the others had a chance.
        task_id = min(reversed(ready), key=lambda each: self._order(self._ids[each]))
        candidate = self._ids[task_id]
        spare = self._allowance.ready_at(1) <= now
        (self._allowance if spare else self._reserve).spend(now)
        candidate.polls += 1
        candidate.polled_at, candidate.due_at = now, math.inf
        return task_id

    @staticmethod
    def _order(candidate: _Candidate) -> tuple[bool, int, bool]:
        return not candidate.likely, candidate.polls, not candidate.own

    def _ready_at(self, candidate: _Candidate) -> float:
        known = candidate.own or candidate.likely
        allowed_at = self._allowance.ready_at(1 if known or not candidate.polls else 1 + _RESERVED)
        if candidate.likely:
            allowed_at = min(allowed_at, self._reserve.ready_at(1))
        return max(candidate.due_at, allowed_at)

    def is_hopeless(self, task_id: str) -> bool:
        """Return True if the service has had the time to know a task; ask after its poll."""
        return task_id in self._ids and self._ids[task_id].polls >= _MAX_INVISIBLE_POLLS

    def record(self, task_id: str, finding: CallbackFinding, now: float) -> bool:
        """
        Record the finding of a poll.

        Returns:
            False if the id is not polled again before another callback names it.
        """
        candidate = self._ids.get(task_id)
        if candidate is None or finding is CallbackFinding.SETTLED:
            self._ids.pop(task_id, None)  # or it has given way during the poll
            return False
        candidate.own = candidate.own or finding is CallbackFinding.OWN
        candidate.foreign = finding is CallbackFinding.FOREIGN
        delay = confirmation_delay(candidate.polls, proved=candidate.own)
        hopeless = finding is CallbackFinding.INVISIBLE and self.is_hopeless(task_id) and not candidate.own
        if candidate.foreign or hopeless or delay is None:
            candidate.open = False
        else:
            candidate.due_at = min(candidate.due_at, now + delay)
        return candidate.open


def confirmation_delay(polls: int, *, proved: bool) -> float | None:
    """
    Return the delay before the next confirmation of a callback, in seconds; None if there is no further one.

    A callback may arrive before ``recordInfo`` agrees. A task that is polled anyway is soon left to that; for one that
    is not, the callback is the only evidence.

    Args:
        polls: The number of confirmations so far.

        proved: True if the task is known to be the job's, and polled.

    >>> [confirmation_delay(polls, proved=True) for polls in (1, 2, 3, 6)]
    [1.0, 2.0, 4.0, None]
    >>> confirmation_delay(63, proved=False), confirmation_delay(64, proved=False)
    (60.0, None)
    """
    if polls >= (_MAX_POLLS if proved else _MAX_POLLS_UNCONFIRMED):
        return None
    return min(2.0 ** min(polls - 1, 10), _MAX_DELAY)
