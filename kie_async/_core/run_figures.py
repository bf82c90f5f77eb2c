"""What a run adds up to: counts, credits, durations and the use of the limit, in memory that does not grow."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from kie_async.outcomes import Done, Failed, InDoubt, Outcome
from kie_async.run_summary import RunSummary

if TYPE_CHECKING:
    from kie_async._core.budget_ledger import Ledger
    from kie_async.policy import Limits

__all__ = ["Quantiles", "RunFigures"]

#: The ratio of neighboring classes of durations, so that the middle of one is at most 0.3 % off.
_RATIO = 1.006
_LOG = math.log(_RATIO)
#: The limits of the classes, in seconds; durations beyond count as these.
_SHORTEST, _LONGEST = 1e-3, 1e7


class Quantiles:
    """
    A histogram of durations, whose classes grow with their value; there are at most about 4,000 of them.

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
        """Add one duration."""
        self._classes[round(math.log(min(max(seconds, _SHORTEST), _LONGEST)) / _LOG)] += 1
        self._count += 1

    def of(self, share: float) -> float | None:
        """Return the duration within which *share* (0 to 1) of all are; None where there are none."""
        rank = max(1, math.ceil(share * self._count))
        for place in sorted(self._classes):
            rank -= self._classes[place]
            if rank <= 0:
                return math.exp(place * _LOG)
        return None


class RunFigures:
    """
    Counts outcomes and creates.

    Args:
        limits: What the account allows.

        ledger: The credits of the run.

        now: The instant at which it begins.
    """

    def __init__(self, limits: Limits, ledger: Ledger, now: float) -> None:
        self._limits = limits
        self._ledger = ledger
        self._began_at = now
        self._first = self._last = now
        self._times = Quantiles()
        self._credits = self._credits_replayed = 0.0
        self._replayed = self._ok = self._failed = self._in_doubt = self._skipped = self._created = 0
        self.retried = 0

    def created(self, now: float) -> None:
        """Count a task that the service has accepted."""
        if not self._created:
            self._first = now
        self._last = now
        self._created += 1

    def paid(self, credits: float | None) -> None:
        """Add what a task of this run has cost."""
        self._credits += credits or 0.0

    def paid_before(self, credits: float | None) -> None:
        """Add what a task of an earlier run has cost."""
        self._credits_replayed += credits or 0.0

    def count(self, outcome: Outcome) -> None:
        """Count an outcome."""
        if outcome.replayed:
            self._replayed += 1
        if isinstance(outcome, Done):
            self._ok += 1
            if not outcome.replayed and outcome.seconds is not None:
                self._times.add(outcome.seconds)
        elif isinstance(outcome, Failed):
            self._failed += 1
        elif isinstance(outcome, InDoubt):
            self._in_doubt += 1
        else:
            self._skipped += 1

    def summary(self, now: float) -> RunSummary:
        """The figures at *now*."""
        limits = self._limits
        # The fastest that is allowed is a full set at the beginning of each window, and the rest in the last.
        windows = (self._last - self._first + limits.window) / limits.window
        return RunSummary(
            replayed=self._replayed,
            ok=self._ok,
            failed=self._failed,
            in_doubt=self._in_doubt,
            skipped=self._skipped,
            retried=self.retried,
            credits=self._credits,
            credits_replayed=self._credits_replayed,
            credits_held=max(0.0, self._ledger.reserved + self._ledger.held),
            p50=self._times.of(0.5),
            p95=self._times.of(0.95),
            created=self._created,
            limit=limits.creates,
            window=limits.window,
            used=math.ceil(self._created / limits.creates) / windows,
            seconds=now - self._began_at,
        )
