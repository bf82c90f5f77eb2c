"""The figures of a run: counts, credits, durations and the use of the limit, in constant memory."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from kie_async.outcomes import Done, Failed, InDoubt, Outcome, RunSummary, Skipped

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
    A counter of outcomes, creates and credits.

    Args:
        limits: The limits of the account.

        ledger: The ledger of the run.

        now: The start of the run.

    Attributes:
        credits: The cost of this run's tasks.

        replayed_credits: The cost of the tasks of earlier runs.

        retried: The number of retries that were started.

        elsewhere: The number of rows that other workers yield.
    """

    def __init__(self, limits: Limits, ledger: Ledger, now: float) -> None:
        self._limits = limits
        self._ledger = ledger
        self._started_at = now
        self._first_create = self._last_create = now
        self._durations = Quantiles()
        self.credits = self.replayed_credits = 0.0
        self._outcomes: dict[type[Outcome], int] = dict.fromkeys((Done, Failed, InDoubt, Skipped), 0)
        self._replayed = self._creates = 0
        self.retried = self.elsewhere = 0

    def count_create(self, now: float) -> None:
        """Count a task that the service has accepted."""
        if not self._creates:
            self._first_create = now
        self._last_create = now
        self._creates += 1

    def count_outcome(self, outcome: Outcome) -> None:
        """Count the outcome of a row."""
        self._replayed += outcome.replayed
        self._outcomes[type(outcome)] += 1
        if isinstance(outcome, Done) and not outcome.replayed and outcome.seconds is not None:
            self._durations.add(outcome.seconds)

    def summary(self, now: float) -> RunSummary:
        """Return the figures at *now*."""
        limits = self._limits
        # The fastest that is allowed: a full set of creates at the start of each window, and the rest in the last one.
        windows = (self._last_create - self._first_create + limits.window) / limits.window
        return RunSummary(
            replayed=self._replayed,
            ok=self._outcomes[Done],
            failed=self._outcomes[Failed],
            in_doubt=self._outcomes[InDoubt],
            skipped=self._outcomes[Skipped],
            elsewhere=self.elsewhere,
            retried=self.retried,
            credits=self.credits,
            credits_replayed=self.replayed_credits,
            credits_held=max(0.0, self._ledger.reserved + self._ledger.held),
            p50=self._durations.of(0.5),
            p95=self._durations.of(0.95),
            created=self._creates,
            limit=limits.creates,
            window=limits.window,
            used=math.ceil(self._creates / limits.creates) / windows,
            seconds=now - self._started_at,
        )
