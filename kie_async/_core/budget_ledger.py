"""
The ledger of a budget, which knows whether another job fits, and the price estimates that it is given.

The ledger is exact because none of its methods awaits: a reservation is made, or refused, in one step. Each journal key
counts once, however often a table has it and whichever row comes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from kie_async._core.lifecycle import ENDED, OPEN, Intent
from kie_async.budget import BudgetInfo, Estimate
from kie_async.errors import BudgetExceededError, ConfigurationError
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async.catalogue.prices import ListPrice

__all__ = [
    "Ledger",
    "Price",
    "PriceMemory",
    "Reservation",
    "SeenPrices",
    "changed_budget",
    "check_create",
    "estimate_price",
    "has_room",
    "may_cost_more",
    "opened_budget",
    "possible_cost",
    "raised_budget",
]

#: A task whose class is only listed reserves so many prices more, unless it is the only one of its class.
_MARGIN = 3
#: The number of price classes, and of models, of which a journal in memory keeps prices.
_MOST_PRICES = 10_000
#: The tolerance for sums of prices with decimals, in credits.
_TOLERANCE = 1e-6
#: In these states nothing was paid, except for ambiguous attempts.
_FREE = (JobState.INTENT, JobState.CANCELLED, JobState.REJECTED)
#: In these states the cost will be known in a bounded time.
_RUNNING = (JobState.SENDING, JobState.SUBMITTED, JobState.IN_DOUBT)


@attrs.frozen
class Price:
    """
    The price to reserve for a create.

    Attributes:
        credits: The price, in credits; a guess if it is unknown.

        unknown: The model and the price class if the price is unknown.

        model_is_unseen: True if no price of the model is known either.

        is_listed: True if the price list has the price, and no task of the class has been charged yet. Such a price is
            unknown, too, but the credits are no guess.
    """

    credits: float
    unknown: tuple[str, str] | None = None
    model_is_unseen: bool = False
    is_listed: bool = False

    @property
    def journaled(self) -> float | None:
        """The price that the journal keeps for a named budget; None if it is a guess."""
        return self.credits if self.unknown is None or self.is_listed else None

    @property
    def margin(self) -> float:
        """The credits to reserve beside a listed price while the cost of another task of the class is unknown."""
        return _MARGIN * self.credits


@attrs.define(eq=False)
class Reservation:
    """
    The credits that are reserved for one job.

    Attributes:
        key: The job's journal key.

        price: The price of each of its creates.

        reserved: The reserved credits: the price, times the number of creates that may have been paid.

        unknown: See ``Price``.

        is_listed: See ``Price``.

        margin: The credits that are reserved beside these, since the list may be wrong.
    """

    key: str
    price: float
    reserved: float
    unknown: tuple[str, str] | None = None
    is_listed: bool = False
    margin: float = 0.0


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

        margin: The credits that are reserved beside these, since listed prices may be wrong.

        uncharged: The journal keys of jobs that may have been paid and whose cost is unknown, by model and price class.

    >>> ledger = Ledger(1000)
    >>> reservations = [ledger.reserve(f"shot-{number}", Price(80)) for number in range(50)]
    >>> sum(reservation is not None for reservation in reservations)
    12
    >>> ledger.commit(reservations[0], None)
    >>> ledger.reserve("shot-12", Price(80)).reserved, ledger.reserve("shot-13", Price(80)), ledger.may_fit_later(80)
    (80, None, True)
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
        self.margin = 0.0
        self.uncharged: dict[tuple[str, str], set[str]] = {}

    def is_reserved(self, key: str) -> bool:
        """Return True if there is a reservation for a key: its job is about to be paid, or runs."""
        return key in self._reserved_keys

    def reserve(self, key: str, price: Price, margin: float = 0.0) -> Reservation | None:
        """
        Reserve the price of a job whose key is not reserved; None if that much is not left.

        Args:
            key: Its journal key.

            price: The price; if it is unknown, something must be left.

            margin: The credits to reserve beside it until the job has ended.
        """
        needed = price.credits if price.unknown is None else max(price.credits, 2 * _TOLERANCE)
        if not self._is_left(needed + margin):
            return None
        self.margin += margin
        return attrs.evolve(self._reserve(key, price.credits, price.unknown), is_listed=price.is_listed, margin=margin)

    def reserve_again(self, reservation: Reservation) -> bool:
        """
        Reserve a known price once more, if that much is left; return True if it was reserved.

        Margins count as left: it is better to end a job that may have been paid than to begin others.
        """
        is_guess = reservation.unknown is not None and not reservation.is_listed
        if is_guess or not self._is_left(reservation.price - self.margin):
            return False
        self.reserved += reservation.price
        reservation.reserved += reservation.price
        return True

    def blocking(self, price: Price) -> set[str]:
        """
        Return the keys of the jobs whose cost must become known before a task of this price is sent.

        One task of an unknown price class is sent at a time; of an unseen model, one task of all its classes.
        """
        if price.unknown is None:
            return set()
        model = price.unknown[0]
        classes = (other for other in self.uncharged if other == price.unknown or price.model_is_unseen)
        return set().union(*(self.uncharged[other] for other in classes if other[0] == model))

    def add_uncharged(self, key: str, unknown: tuple[str, str] | None) -> None:
        """Record a job that may have been paid and whose cost is unknown; nothing without a model and a class."""
        if unknown is not None:
            self.uncharged.setdefault(unknown, set()).add(key)

    def discard_uncharged(self, key: str) -> None:
        """Record that the cost of a job is known."""
        for unknown, keys in list(self.uncharged.items()):
            keys.discard(key)
            if not keys:
                del self.uncharged[unknown]

    def reserve_running(
        self, key: str, price: float, *, prior: bool, unknown: tuple[str, str] | None = None
    ) -> Reservation | None:
        """
        Reserve the price of a job that runs already, even if that much is not left.

        Args:
            key: Its journal key.

            price: The price.

            prior: True if the job may be part of the prior spend.

            unknown: The model and the price class if the price is unknown.

        Returns:
            The reservation; None if the key counts already.
        """
        if self._counts(key):
            return None
        self.prior_open.pop(key, None)
        self._subtract_prior(price, prior=prior)
        return self._reserve(key, price, unknown)

    def may_fit_later(self, amount: float, *, is_blocked: bool = False) -> bool:
        """
        Return True if *amount* may be left once the running tasks have ended, since some may turn out free.

        Args:
            amount: The credits.

            is_blocked: True if the cost of another task must become known first, even if it does not run here.
        """
        return (is_blocked or self.reserved > _TOLERANCE) and self._is_left(amount - self.reserved - self.margin)

    def commit(self, reservation: Reservation, row: Intent | None) -> None:
        """
        Replace a reservation by what its job has cost, or may have cost; the reservation is closed.

        Args:
            reservation: The reservation.

            row: The job's row; None if it was never journaled.
        """
        self._reserved_keys.discard(reservation.key)
        self.reserved -= reservation.reserved
        self.margin -= reservation.margin
        if not may_cost_more(row):
            self.discard_uncharged(reservation.key)
        if row is not None:
            self._add(reservation.key, reservation.price, row, prior=False)

    def commit_ended(
        self, key: str, price: float, row: Intent, *, prior: bool, unknown: tuple[str, str] | None = None
    ) -> bool:
        """
        Count a job that had ended before its row was read.

        Args:
            key: Its journal key.

            price: The price of each of its creates, if the service does not report it.

            row: The job's row.

            prior: True if the job may be part of the prior spend.

            unknown: The model and the price class if the price is unknown.

        Returns:
            True if the key did not count already.
        """
        if self._counts(key):
            return False
        share = self.prior_open.pop(key, None)
        if share is not None:
            self._subtract_prior(share, prior=True)
        self._add(key, price, row, prior=prior and share is None)
        if may_cost_more(row):
            self.add_uncharged(key, unknown)
        else:
            self.discard_uncharged(key)
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

    def _reserve(self, key: str, price: float, unknown: tuple[str, str] | None) -> Reservation:
        self._reserved_keys.add(key)
        self.reserved += price
        self.add_uncharged(key, unknown)
        return Reservation(key, price, price, unknown)

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
        committed = self.spent + self.held + self.reserved + self.margin + self.prior
        return self._limit is None or committed + amount <= self._limit + _TOLERANCE


def possible_cost(row: Intent, price: float) -> float:
    """
    Return what a job has cost, or may have cost.

    Args:
        row: Its row.

        price: The price of each of its creates, if the service does not report it.
    """
    return sum(_cost(row, price)) + _ambiguous_attempts(row) * price


def may_cost_more(row: Intent | None) -> bool:
    """Return True if a job has cost, or may have cost, what the service has not reported; None was never journaled."""
    if row is None:
        return False
    may_be_charged = row.state not in (*_FREE, JobState.FAILED)
    return _ambiguous_attempts(row) > 0 or (may_be_charged and (row.state in OPEN or row.credits is None))


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


# -- named budgets ----------------------------------------------------------------------------------------------------


def has_room(info: BudgetInfo, price: Price, *, unsent: float, if_freed: float = 0.0) -> bool:
    """
    Return True if a named budget has room for a create.

    Args:
        info: The budget.

        price: The price of the create.

        unsent: The prices of this run's jobs that are not sent yet, and do not count in the budget.

        if_freed: The reserved credits that are assumed to be free again.
    """
    needed = price.credits if price.unknown is None else max(price.credits, 2 * _TOLERANCE)
    return needed <= info.left - unsent + if_freed + _TOLERANCE


def changed_budget(info: BudgetInfo, before: Intent | None, row: Intent | None) -> BudgetInfo:
    """
    Return a named budget after the change of a row.

    Args:
        info: The budget.

        before: The row before the change, if the budget has paid for it.

        row: The row after the change, if the budget pays for it.
    """
    old, new = _shares(before), _shares(row)
    # Rounded, so that sums of decimals do not drift.
    spent, running, held = (
        round(amount + added - removed, 6)
        for amount, added, removed in zip((info.spent, info.running, info.held), new, old, strict=True)
    )
    return attrs.evolve(info, spent=spent, running=running, held=held)


def _shares(row: Intent | None) -> tuple[float, float, float]:
    """Return what a job has cost, what it may cost while it runs, and what may have been paid for it otherwise."""
    if row is None:
        return 0.0, 0.0, 0.0
    price = row.price or 0.0
    known, possible = _cost(row, price)
    ambiguous = _ambiguous_attempts(row) * price
    if row.state in ENDED:
        return known + possible + ambiguous, 0.0, 0.0
    if row.state in _RUNNING:
        return 0.0, possible, ambiguous
    return 0.0, 0.0, possible + ambiguous


def check_create(info: BudgetInfo, row: Intent, uncharged: Sequence[Intent]) -> None:
    """
    Refuse a create for which a named budget has no room.

    Args:
        info: The budget, with the create.

        row: The row of the job.

        uncharged: If its price is unknown: the budget's rows that may have been paid and whose cost is unknown.

    Raises:
        BudgetExceededError: If the create might exceed the budget.
    """
    others = [other for other in uncharged if other.price_class == row.price_class and other.id != row.id]
    left = info.left + (row.price or 0.0)
    enough = info.left >= -_TOLERANCE and (row.price is not None or left >= _TOLERANCE)
    if enough and not (row.price is None and others):
        return
    price = "an unknown number of" if row.price is None else f"{row.price:g}"
    msg = (
        f"The budget {info.name!r} has {left:g} of {info.credits:g} credits left, and this task may cost"
        f" {price} credits. Nothing was sent: wait until running tasks have ended, or raise the budget."
    )
    raise BudgetExceededError(msg, job_id=row.id)


def opened_budget(known: BudgetInfo | None, name: str, credits: float) -> BudgetInfo:
    """
    Return the named budget of a run.

    Args:
        known: The budget as the journal has it, or None.

        name: Its name.

        credits: The limit that the run gives.

    Raises:
        ConfigurationError: If the journal has another limit.
    """
    if known is None:
        return BudgetInfo(name=name, credits=credits)
    if known.credits != credits:
        msg = (
            f"The budget {name!r} has {known.credits:g} credits, and this run gives it {credits:g}. Nothing was sent:"
            " use the same number, or raise the budget first, by KieClient.raise_budget() or kie-async budgets --raise."
        )
        raise ConfigurationError(msg)
    return known


def raised_budget(known: BudgetInfo | None, name: str, credits: float) -> BudgetInfo:
    """
    Return a named budget with a higher limit.

    Args:
        known: The budget as the journal has it, or None.

        name: Its name.

        credits: The new limit.

    Raises:
        ConfigurationError: If there is no such budget, or its limit is higher.
    """
    if known is None:
        msg = (
            f"This journal has no budget {name!r} at this service. Use the journal and the service of the runs that"
            f" named it; a new budget is made by a run with Budget(credits={credits:g}, name={name!r})."
        )
        raise ConfigurationError(msg)
    if credits < known.credits:
        msg = f"Invalid credits={credits:g} for the budget {name!r}: expected a new total >= {known.credits:g}."
        raise ConfigurationError(msg)
    return attrs.evolve(known, credits=credits)


# -- prices -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class SeenPrices:
    """
    The prices that a journal has, in credits; None without any.

    Attributes:
        lowest: The lowest price of a price class.

        highest: The highest price of the class.

        highest_of_model: The highest price of the class's model.
    """

    lowest: float | None = None
    highest: float | None = None
    highest_of_model: float | None = None


def estimate_price(seen: SeenPrices, listed: ListPrice | None) -> Estimate:
    """
    Return the estimate for a task: what such tasks have cost, else the price of the list.

    A class whose tasks have cost different amounts depends on something else than its values. It gets the highest
    price of its model, or the upper bound of the list if that is lower; or the price of the list if that is higher.

    Args:
        seen: The prices that were seen.

        listed: The price of the price list, or None.

    >>> estimate_price(SeenPrices(30.0, 30.0, 90.0), None).credits
    30.0
    >>> estimate_price(SeenPrices(20.0, 30.0, 90.0), None).credits
    90.0
    >>> estimate_price(SeenPrices(None, None, 90.0), None).basis
    'unknown'
    """
    differ = seen.lowest != seen.highest
    price = seen.highest_of_model if differ else seen.highest
    if listed is not None and (price is None or (differ and _is_closer(listed, seen, price))):
        bound = "upper bound by the " if listed.upper_bound else ""
        source = f"{bound}price list of kie.ai, read on {listed.as_of}"
        return Estimate(credits=listed.credits, basis="listed", source=source, upper_bound=listed.upper_bound)
    if price is not None:
        of = "all tasks of this model, since such tasks differ," if differ else "such tasks"
        return Estimate(credits=price, basis="seen", source=f"the highest price of {of} in the journal")
    if seen.highest_of_model is None:
        return Estimate(credits=None, basis="unknown", source="no task of this model in the journal")
    source = "the highest price of other tasks of this model in the journal"
    return Estimate(credits=seen.highest_of_model, basis="unknown", source=source)


def _is_closer(listed: ListPrice, seen: SeenPrices, price: float) -> bool:
    """Return True if the list price of a class whose tasks differ is a better guess than *price*."""
    if listed.upper_bound:
        return (seen.highest or 0.0) <= listed.credits < price
    return listed.credits > price


class PriceMemory:
    """The prices that a journal in memory has seen; of many classes and models, the latest ones."""

    def __init__(self) -> None:
        self._classes: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._models: OrderedDict[str, float] = OrderedDict()

    def add(self, row: Intent) -> None:
        """Record what a task has cost, if it has succeeded and its cost is known."""
        if row.state is not JobState.SUCCEEDED or row.credits is None:
            return
        lowest, highest = self._classes.pop(row.price_class, (row.credits, row.credits))
        self._classes[row.price_class] = min(lowest, row.credits), max(highest, row.credits)
        self._models[row.model] = max(self._models.pop(row.model, 0.0), row.credits)
        for prices in (self._classes, self._models):
            if len(prices) > _MOST_PRICES:
                prices.popitem(last=False)

    def seen(self, model: str, price_class: str) -> SeenPrices:
        """Return the prices of a class and of its model."""
        lowest, highest = self._classes.get(price_class, (None, None))
        return SeenPrices(lowest, highest, self._models.get(model))
