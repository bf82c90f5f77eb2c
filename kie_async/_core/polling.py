"""
When to look at a task next.

A policy answers with instants and knows nothing of other tasks; how many looks the account allows is the pacer's
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

__all__ = ["ByAge", "PollingPolicy"]


class PollingPolicy(Protocol):
    """Decides when to look at one task."""

    def next_look_at(self, *, accepted_at: float, now: float, weight: float) -> float:
        """
        The instant of the next look, later than *now*.

        Args:
            accepted_at: When the service accepted the task.

            now: When the last look ended, or when the task was accepted.

            weight: What a look is worth, up to 1: the chance that nothing else tells of the end.
        """
        ...


#: (up to this age, look every), in seconds. The service's own older advice is 2 to 3 s in the first half minute, 5 to
#: 10 s until two minutes and 15 to 30 s after; the short end is taken, since the pacer bounds the sum. A task of more
#: than an hour has most likely been lost by the service, and is looked at now and then.
_STEPS = ((30.0, 2.5), (120.0, 5.0), (3600.0, 15.0), (float("inf"), 300.0))

#: However little a look is worth, a task is looked at this often, in seconds.
LONGEST = 600.0


@attrs.frozen
class ByAge:
    """
    Look often at a young task and less often at an old one; and the less a look is worth, the less often.

    Args:
        steps: Pairs of an age and the interval that holds up to it, in seconds, by rising age.

    >>> ByAge().next_look_at(accepted_at=0.0, now=0.0, weight=1.0)
    2.5
    >>> ByAge().next_look_at(accepted_at=0.0, now=300.0, weight=1.0)
    315.0
    >>> ByAge().next_look_at(accepted_at=0.0, now=0.0, weight=0.02)
    125.0
    """

    steps: Sequence[tuple[float, float]] = _STEPS

    def next_look_at(self, *, accepted_at: float, now: float, weight: float) -> float:
        age = now - accepted_at
        interval = next((every for until, every in self.steps if age < until), self.steps[-1][1])
        return now + max(interval, min(interval / weight, LONGEST))
