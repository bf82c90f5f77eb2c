"""Quantiles of any number of durations in bounded memory, within a third of a percent."""

from __future__ import annotations

import math
from collections import Counter

__all__ = ["Quantiles"]

#: Neighbouring classes differ by this factor, so that the middle of one is off by no more than 0.3 %.
_RATIO = 1.006
_LOG = math.log(_RATIO)
#: What is shorter counts as this, in seconds; what is longer than ``_LONGEST`` counts as that.
_SHORTEST, _LONGEST = 1e-3, 1e7


class Quantiles:
    """
    A histogram whose classes grow with their value; there are no more than about 4,000 of them.

    >>> times = Quantiles()
    >>> for seconds in range(1, 101):
    ...     times.add(seconds)
    >>> round(times.of(0.5)), round(times.of(0.95))
    (50, 95)
    """

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self._count = 0

    def add(self, seconds: float) -> None:
        """Take one duration in."""
        self._classes[round(math.log(min(max(seconds, _SHORTEST), _LONGEST)) / _LOG)] += 1
        self._count += 1

    def of(self, share: float) -> float | None:
        """The duration within which *share* (0 to 1) of all are; None where there are none."""
        rank = max(1, math.ceil(share * self._count))
        for place in sorted(self._classes):
            rank -= self._classes[place]
            if rank <= 0:
                return math.exp(place * _LOG)
        return None
