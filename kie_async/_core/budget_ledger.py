"""
The ledger of a budget, which knows whether another job fits, and the price estimates that it is given.

The ledger is exact because none of its methods awaits: a reservation is made, or refused, in one step. Each journal key
counts once, however often a table has it and whichever row comes first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from kie_async._core.durations import Kind
from kie_async._core.lifecycle import Intent
from kie_async.budget import Estimate
from kie_async.records import JSON
from kie_async.states import JobState

__all__ = ["PRICE_LIST", "PRICE_LIST_SOURCE", "Ledger", "Reservation", "SeenPrices", "listed_price", "possible_cost"]

#: Credits for a task, by model and by resolution; "" is the service's default resolution.
PRICE_LIST: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "wan/2-2-a14b-image-to-video-turbo": {"": 80.0, "480p": 40.0, "580p": 60.0, "720p": 80.0},
    }
)
#: The source of the list.
PRICE_LIST_SOURCE = "price list of kie.ai, read on 2026-06-30"

#: The number of prices that are kept of each kind of task, and the number of kinds.
_PRICES_OF_KIND = 20
_KINDS = 500
#: The tolerance for sums of prices with decimals, in credits.
_TOLERANCE = 1e-6
#: In these states nothing was paid, except for ambiguous attempts.
_FREE = (JobState.INTENT, JobState.CANCELLED, JobState.REJECTED)


@attrs.define(eq=False)
class Reservation:
    """
    The credits that are reserved for one job.

    Attributes:
        key: The job's journal key.

        price: The price of each of its creates.

        reserved: The reserved credits: the price, times the number of creates that may have been paid.
    """

    key: str
    price: float
    reserved: float


class Ledger:
    """
    The credits of a run, against a limit.

    Args:
        limit: The limit; None for no limit.

    Attributes:
        prior: The prior spend: what rows that were not read yet have cost, or may have. What belongs to a row is
            subtracted when the row is read, so that nothing counts twice.

        prior_open: The part of the prior spend that belongs to jobs that had not ended when it was summed up, by their
            journal keys. When such a row is read, its job may have cost something else.

        spent: The cost of ended tasks, as reported by the service.

        held: The credits that stay reserved: the cost of creates that may have been paid.

        reserved: The credits that are reserved for tasks that have not ended.

    >>> ledger = Ledger(1000)
    >>> reservations = [ledger.reserve(f"shot-{number}", 80) for number in range(50)]
    >>> sum(reservation is not None for reservation in reservations)
    12
    >>> ledger.commit(reservations[0], None)
    >>> ledger.reserve("shot-12", 80), ledger.reserve("shot-13", 80), ledger.may_fit_later(80)
    (Reservation(key='shot-12', price=80, reserved=80), None, True)
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._reserved_keys: set[str] = set()
        # Hashes suffice for the keys that are committed; few jobs have ambiguous attempts.
        self._committed_keys: set[int] = set()
        self._ambiguous: dict[str, float] = {}
        self.prior = 0.0
        self.prior_open: dict[str, float] = {}
        self.spent = 0.0
        self.held = 0.0
        self.reserved = 0.0

    def is_reserved(self, key: str) -> bool:
        """Return True if there is a reservation for a key: its job is about to be paid, or runs."""
        return key in self._reserved_keys

    def reserve(self, key: str, price: float) -> Reservation | None:
        """Reserve the price of a job whose key is not reserved; None if that much is not left."""
        if not self._is_left(price):
            return None
        return self._reserve(key, price)

    def reserve_again(self, reservation: Reservation) -> bool:
        """Reserve the price of a job once more, if that much is left; return True if it was reserved."""
        if not self._is_left(reservation.price):
            return False
        self.reserved += reservation.price
        reservation.reserved += reservation.price
        return True

    def reserve_running(self, key: str, price: float, *, prior: bool) -> Reservation | None:
        """
        Reserve the price of a job that runs already, even if that much is not left.

        Args:
            key: Its journal key.

            price: The price.

            prior: True if the job may be part of the prior spend.

        Returns:
            The reservation; None if the key counts already.
        """
        if self._counts(key):
            return None
        self.prior_open.pop(key, None)
        self._subtract_prior(price, prior=prior)
        return self._reserve(key, price)

    def may_fit_later(self, amount: float) -> bool:
        """Return True if *amount* may be left once the running tasks have ended, since some may turn out free."""
        return self.reserved > _TOLERANCE and self._is_left(amount - self.reserved)

    def commit(self, reservation: Reservation, row: Intent | None) -> None:
        """
        Replace a reservation by what its job has cost, or may have cost; the reservation is closed.

        Args:
            reservation: The reservation.

            row: The job's row; None if it was never journaled.
        """
        self._reserved_keys.discard(reservation.key)
        self.reserved -= reservation.reserved
        if row is not None:
            self._add(reservation.key, reservation.price, row, prior=False)

    def commit_ended(self, key: str, price: float, row: Intent, *, prior: bool) -> bool:
        """
        Count a job that had ended before its row was read.

        Args:
            key: Its journal key.

            price: The price of each of its creates, if the service does not report it.

            row: The job's row.

            prior: True if the job may be part of the prior spend.

        Returns:
            True if the key did not count already.
        """
        if self._counts(key):
            return False
        share = self.prior_open.pop(key, None)
        if share is not None:
            self._subtract_prior(share, prior=True)
        self._add(key, price, row, prior=prior and share is None)
        return True

    def hold_dropped(self, key: str, price: float) -> None:
        """Hold the price of a job of which the journal has dropped everything but the key, unless it counts."""
        if not self._counts(key):
            self._committed_keys.add(hash(key))
            self.held += price
            self._subtract_prior(price, prior=True)

    def hold_ambiguous(self, key: str, price: float, row: Intent, *, prior: bool) -> None:
        """
        Hold what a job's ambiguous attempts may have cost, beside the job itself.

        Args:
            key: Its journal key.

            price: The price of each.

            row: The job's row. Its attempts replace those that are held for the key already.

            prior: True if they may be part of the prior spend.
        """
        amount, known = _ambiguous_attempts(row) * price, self._ambiguous.get(key, 0.0)
        if amount != known:
            self._ambiguous[key] = amount
            self.held += amount - known
            self._subtract_prior(max(0.0, amount - known), prior=prior)

    def _counts(self, key: str) -> bool:
        return key in self._reserved_keys or hash(key) in self._committed_keys

    def _reserve(self, key: str, price: float) -> Reservation:
        self._reserved_keys.add(key)
        self.reserved += price
        return Reservation(key, price, price)

    def _add(self, key: str, price: float, row: Intent, *, prior: bool) -> None:
        spent, held = _cost(row, price)
        self.spent += spent
        self.held += held
        self._subtract_prior(spent + held, prior=prior)
        self.hold_ambiguous(key, price, row, prior=prior)
        if row.state not in _FREE:
            self._committed_keys.add(hash(key))

    def _subtract_prior(self, amount: float, *, prior: bool) -> None:
        if prior:
            self.prior = max(0.0, self.prior - amount)

    def _is_left(self, amount: float) -> bool:
        committed = self.spent + self.held + self.reserved + self.prior
        return self._limit is None or committed + amount <= self._limit + _TOLERANCE


def possible_cost(row: Intent, price: float) -> float:
    """
    Return what a job has cost, or may have cost.

    Args:
        row: Its row.

        price: The price of each of its creates, if the service does not report it.
    """
    return sum(_cost(row, price)) + _ambiguous_attempts(row) * price


def _ambiguous_attempts(row: Intent) -> int:
    """
    Return the number of attempts that may have been paid beside the job itself.

    One ambiguous attempt may be the very one that has made the job's task, or that is in doubt: no more attempts are
    paid than were sent.
    """
    return min(row.ambiguous_attempts, row.attempts - (row.state not in _FREE))


def _cost(row: Intent, price: float) -> tuple[float, float]:
    """Return what a job has cost by the service's report, and what it may have cost; without ambiguous attempts."""
    if row.state in _FREE:
        return 0.0, 0.0
    if row.state is JobState.FAILED:
        return row.credits or 0.0, 0.0
    if row.state is JobState.SUCCEEDED:
        return (price if row.credits is None else row.credits), 0.0
    return 0.0, price


def listed_price(model: str, given: Mapping[str, JSON]) -> Estimate | None:
    """
    Return the estimate of the price list, or None.

    >>> listed_price("wan/2-2-a14b-image-to-video-turbo", {"resolution": "480p"}).credits
    40.0
    """
    price = PRICE_LIST.get(model, {}).get(str(given.get("resolution") or ""))
    return None if price is None else Estimate(credits=price, source=PRICE_LIST_SOURCE)


class SeenPrices:
    """
    The latest prices of tasks, by their kind.

    The estimate is the highest of the last few: a budget that is based on the lowest could be exceeded.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[Kind, deque[float]] = OrderedDict()

    def add_price(self, kind: Kind, credits: float | None) -> None:
        """Record what a task that has succeeded has cost; None is ignored."""
        if credits is None:
            return
        self._kinds.setdefault(kind, deque(maxlen=_PRICES_OF_KIND)).append(credits)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)

    def estimate_kind(self, kind: Kind) -> Estimate | None:
        """Return the estimate for a kind of task, or None if none was seen."""
        seen = self._kinds.get(kind)
        if seen is None:
            return None
        last = "the last such task" if len(seen) == 1 else f"the last {len(seen)} such tasks"
        return Estimate(credits=max(seen), source=f"the highest of {last} in the journal")
