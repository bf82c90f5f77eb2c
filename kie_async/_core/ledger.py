"""
The ledger of a budget: what is spent, what is set aside, and whether one more fits.

It is exact because nothing waits in it: whoever has got ``True`` from ``reserve()`` owns that much, and nobody else
can get it meanwhile.
"""

from __future__ import annotations

from kie_async._core.lifecycle import Intent, IntentState

__all__ = ["Ledger"]

#: What sums of prices with decimals may be off by, in credits.
_DUST = 1e-6


class Ledger:
    """
    Credits against a limit.

    Args:
        limit: How many there are; None for no limit.

    Attributes:
        spent: What tasks have cost, as the service says.

        held: What is set aside for good: creates of which nobody can tell whether they were paid.

        reserved: What is set aside for tasks that have not ended.

    >>> ledger = Ledger(1000)
    >>> sum(ledger.reserve(80) for _ in range(50))
    12
    >>> ledger.settle(80, 0)
    >>> ledger.reserve(80), ledger.reserve(80), ledger.may_fit(80)
    (True, False, True)
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self.spent = 0.0
        self.held = 0.0
        self.reserved = 0.0

    def reserve(self, amount: float) -> bool:
        """Set *amount* aside if that much is left, and return whether it was."""
        if self._limit is not None and self.spent + self.held + self.reserved + amount > self._limit + _DUST:
            return False
        self.reserved += amount
        return True

    def claim(self, amount: float) -> None:
        """Set *amount* aside whether it is left or not: the task runs already."""
        self.reserved += amount

    def may_fit(self, amount: float) -> bool:
        """Whether *amount* may be left once the tasks have ended that run: some of them cost nothing in the end."""
        return self.reserved > _DUST and (self._limit is None or self.spent + self.held + amount <= self._limit + _DUST)

    def settle(self, reserved: float, cost: float) -> None:
        """Put what a task has cost in the place of what was set aside for it."""
        self.reserved -= reserved
        self.spent += cost

    def close(self, price: float, reserved: float, row: Intent | None, *, held: int = 0) -> None:
        """
        Put what is known of a job that goes no further in the place of what was set aside for it.

        Args:
            price: What each create of it is taken to have cost.

            reserved: What was set aside.

            row: The job's row; None for one that was never written down.

            held: For how many of its suspect attempts the price is held already.
        """
        state = IntentState.WITHDRAWN if row is None else row.state
        suspects = 0 if row is None else row.suspect_attempts
        # Each of them may have been paid beside what the job itself has cost.
        self.hold((suspects - held) * price)
        if row is not None and state in (IntentState.SUCCEEDED, IntentState.FAILED):
            unsaid = price if state is IntentState.SUCCEEDED else 0.0
            self.settle(reserved, unsaid if row.credits is None else row.credits)
            return
        self.settle(reserved, 0.0)
        if state not in (IntentState.INTENT, IntentState.WITHDRAWN, IntentState.REJECTED):
            self.hold(price)

    def hold(self, amount: float) -> None:
        """Set *amount* aside for good."""
        self.held += amount
