"""
The ledger of a budget: what is spent, what is set aside, and whether one more fits.

It is exact because nothing waits in it: whoever has got an account from ``reserve()`` owns that much, and nobody else
can get it meanwhile. Every key of the journal counts once, however often a table has it and whoever asks for it first.
"""

from __future__ import annotations

import attrs

from kie_async._core.lifecycle import Intent
from kie_async._core.occurrences import Occurrences, short_hash
from kie_async.states import JobState

__all__ = ["Account", "Ledger", "may_have_cost"]

#: What sums of prices with decimals may be off by, in credits.
_DUST = 1e-6
#: In these states nothing was paid, but for suspect attempts.
_FREE = (JobState.INTENT, JobState.CANCELLED, JobState.REJECTED)


@attrs.define(eq=False)
class Account:
    """
    What is set aside for one job.

    Attributes:
        key: The journal's key of the job.

        price: What each create of it is taken to cost.

        reserved: What is set aside: as often the price as it may have been paid.
    """

    key: str
    price: float
    reserved: float


class Ledger:
    """
    Credits against a limit.

    Args:
        limit: How many there are; None for no limit.

    Attributes:
        expected: What rows have cost already, or may have, that were not read yet. What turns out to be theirs when
            they are read is taken from it, so that nothing counts twice.

        foreseen: Of what is expected, the share of each job that had not ended when that was added up, by its key. By
            the time its row is read it may have cost something else.

        spent: What tasks have cost, as the service says.

        held: What is set aside for good: creates of which nobody can tell whether they were paid.

        reserved: What is set aside for tasks that have not ended.

    >>> ledger = Ledger(1000)
    >>> accounts = [ledger.reserve(f"shot-{number}", 80) for number in range(50)]
    >>> sum(account is not None for account in accounts)
    12
    >>> ledger.settle(accounts[0], None)
    >>> ledger.reserve("shot-12", 80), ledger.reserve("shot-13", 80), ledger.may_fit(80)
    (Account(key='shot-12', price=80, reserved=80), None, True)
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._open: set[str] = set()
        # Of a million keys that are settled, only hashes are kept; of few there are suspect attempts.
        self._settled = Occurrences()
        self._suspects: dict[str, float] = {}
        self.expected = 0.0
        self.foreseen: dict[str, float] = {}
        self.spent = 0.0
        self.held = 0.0
        self.reserved = 0.0

    def is_open(self, key: str) -> bool:
        """Whether something is set aside for a key: a job that has not ended is about to be paid, or was."""
        return key in self._open

    def reserve(self, key: str, price: float) -> Account | None:
        """Set the price of a job aside if that much is left; its key is not open."""
        if not self._is_left(price):
            return None
        self._open.add(key)
        self.reserved += price
        return Account(key, price, price)

    def once_more(self, account: Account) -> bool:
        """Set the price of a job aside again if that much is left, and return whether it was."""
        if not self._is_left(account.price):
            return False
        self.reserved += account.price
        account.reserved += account.price
        return True

    def claim(self, key: str, price: float, *, expected: bool) -> Account | None:
        """
        Set the price of a job aside whether it is left or not: it runs already.

        Args:
            key: Its key.

            price: The price.

            expected: Whether it may be among what is expected.

        Returns:
            The account; None where the key counts already.
        """
        if self._counts(key):
            return None
        self._open.add(key)
        self.foreseen.pop(key, None)
        self.reserved += price
        self._take(price, expected=expected)
        return Account(key, price, price)

    def may_fit(self, amount: float) -> bool:
        """Whether *amount* may be left once the tasks have ended that run: some of them cost nothing in the end."""
        return self.reserved > _DUST and self._is_left(amount - self.reserved)

    def settle(self, account: Account, row: Intent | None) -> None:
        """
        Put what is known of a job that goes no further in the place of what was set aside for it.

        Args:
            account: The job's account, which is closed by this.

            row: The job's row; None for one that was never written down.
        """
        self._open.discard(account.key)
        self.reserved -= account.reserved
        if row is not None:
            self._add(account.key, account.price, row, expected=False)

    def count(self, key: str, price: float, row: Intent, *, expected: bool) -> bool:
        """
        Count a job that had ended before its row was read.

        Args:
            key: Its key.

            price: What each create of it is taken to have cost, where the service does not say.

            row: The job's row.

            expected: Whether it may be among what is expected.

        Returns:
            Whether it was not counted already.
        """
        if self._counts(key):
            return False
        share = self.foreseen.pop(key, None)
        if share is not None:
            self._take(share, expected=True)
        self._add(key, price, row, expected=expected and share is None)
        return True

    def count_unknown(self, key: str, price: float) -> None:
        """Count a job of which no more is known than that it has ended: its price is held, unless it counts already."""
        if not self._counts(key):
            self._settled.add(short_hash(key))
            self.held += price
            self._take(price, expected=True)

    def hold(self, key: str, price: float, row: Intent, *, expected: bool) -> None:
        """
        Set aside what attempts of a job may have cost that were answered by an unclear error, beside the job itself.

        Args:
            key: Its key.

            price: What each may have cost.

            row: The job's row. What it says takes the place of what is held for the key already.

            expected: Whether they may be among what is expected.
        """
        amount, known = _suspects(row) * price, self._suspects.get(key, 0.0)
        if amount != known:
            self._suspects[key] = amount
            self.held += amount - known
            self._take(max(0.0, amount - known), expected=expected)

    def _counts(self, key: str) -> bool:
        return key in self._open or short_hash(key) in self._settled

    def _add(self, key: str, price: float, row: Intent, *, expected: bool) -> None:
        spent, held = _cost(row, price)
        self.spent += spent
        self.held += held
        self._take(spent + held, expected=expected)
        self.hold(key, price, row, expected=expected)
        if row.state not in _FREE:
            self._settled.add(short_hash(key))

    def _take(self, amount: float, *, expected: bool) -> None:
        if expected:
            self.expected = max(0.0, self.expected - amount)

    def _is_left(self, amount: float) -> bool:
        committed = self.spent + self.held + self.reserved + self.expected
        return self._limit is None or committed + amount <= self._limit + _DUST


def may_have_cost(row: Intent, price: float) -> float:
    """
    What a job has cost, or may have.

    Args:
        row: Its row.

        price: What each create of it is taken to cost, where the service does not say.
    """
    return sum(_cost(row, price)) + _suspects(row) * price


def _suspects(row: Intent) -> int:
    """
    How many attempts of a job may have been paid beside what the job itself has cost.

    One of them may be the very one that the job's task, or its doubt, is of: nothing is paid more often than sent.
    """
    return min(row.ambiguous_attempts, row.attempts - (row.state not in _FREE))


def _cost(row: Intent, price: float) -> tuple[float, float]:
    """What the service says that a job has cost, and what it may have cost besides; suspect attempts left out."""
    if row.state in _FREE:
        return 0.0, 0.0
    if row.state is JobState.FAILED:
        return row.credits or 0.0, 0.0
    if row.state is JobState.SUCCEEDED:
        return (price if row.credits is None else row.credits), 0.0
    return 0.0, price
