"""
``Till``: what the rows of a run cost, in its ledger and in its figures.

What a row costs counts when its job is begun or found, by the journal's key, whichever of its rows is the first to ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kie_async import errors
from kie_async._core.budget_ledger import Ledger
from kie_async._core.run_figures import RunFigures
from kie_async._io.mapping.prior_spend import PriorSpend
from kie_async._io.mapping.row_source import RowSource
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable

    from kie_async._core.lifecycle import Intent
    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.mapping.prices import Prices
    from kie_async._io.mapping.row import Row
    from kie_async._io.mapping.row_source import Given
    from kie_async._io.parts import Parts
    from kie_async._io.submitting.intake import Intake
    from kie_async.requests.base import Request

__all__ = ["Budgeting"]


class Budgeting:
    """
    Counts what rows cost.

    Args:
        parts: The client's parts.

        intake: Checks requests.

        prices: Estimates prices.

        plan: How the run is to go.

    Attributes:
        figures: What the run adds up to.
    """

    def __init__(self, parts: Parts, *, intake: Intake, prices: Prices, plan: MapOptions) -> None:
        self._parts = parts
        self._intake = intake
        self._prices = prices
        self._budget = plan.budget
        self._ledger = Ledger(None if plan.budget is None else plan.budget.credits)
        self._began_at = parts.runtime.wall()
        self.figures = RunFigures(parts.settings.limits, self._ledger, parts.runtime.now())

    async def look_back(self, table: Iterable[Given] | AsyncIterable[Given], *, wanted: Callable[[], bool]) -> None:
        """
        Count what a table has cost before the first row of it is sent, where it can be read twice.

        Args:
            table: It.

            wanted: Whether anything may still be sent.
        """
        if self._budget is None:
            return
        self._ledger.expected = self._budget.spent
        if isinstance(table, (list, tuple)):
            # What is sent while it looks counts when its row is read, as that of any other run does.
            beforehand = PriorSpend(
                self._parts,
                intake=self._intake,
                prices=self._prices,
                price=self._budget.price,
                until=self._began_at,
            )
            spent = await beforehand.cost(RowSource(table), wanted=wanted)
            self._ledger.expected = max(self._budget.spent, spent)
            if spent >= self._budget.spent:  # else nobody knows what the larger sum has of each job
                self._ledger.foreseen = beforehand.foreseen

    async def price(self, request: Request) -> float:
        """
        What a create is taken to cost; nothing, where nobody counts.

        Raises:
            ConfigurationError: If there is a budget, and no price.
        """
        if self._budget is None:
            return 0.0
        price = await self._prices.at_most(request, self._budget.price)
        if price is None:
            msg = (
                f"No price is known for {request.model}, so that the budget could not hold. Nothing was sent: give"
                " Budget(price=…), what such a task costs at most."
            )
            raise errors.ConfigurationError(msg)
        return price

    async def price_of_found(self, request: Request) -> float:
        """What a create is taken to have cost; nothing, where nobody can tell, since of such nothing is sent."""
        try:
            return await self.price(request)
        except errors.ConfigurationError:
            return 0.0

    async def count_others(self, row: Row) -> None:
        """Count what the journal has of a row beside its job: earlier tries, and attempts that may have been paid."""
        if not row.other_tries:
            return
        price = await self.price_of_found(row.request)
        others, row.other_tries = row.other_tries, []
        for other in others:
            self._ledger.count(other.key or row.key, price, other, expected=self._is_expected(other))

    async def count_let_go(self, row: Row) -> None:
        """Count what a row may have cost of which the journal has let everything go but the key."""
        if self._budget is not None and await self._parts.journal.dropped_keys([row.journal_key]):
            self._ledger.count_unknown(row.journal_key, await self.price_of_found(row.request))

    def count_found(self, row: Row, found: LiveJob, price: float) -> None:
        """Count the job that a row has already, whether the budget has that much left or not."""
        intent, expected = found.row, self._is_expected(found.row)
        if not row.replayed:
            row.account = self._ledger.claim(row.journal_key, price, expected=expected)
            if row.account is not None and intent is not None:
                self._ledger.hold(row.journal_key, price, intent, expected=expected)
        elif intent is not None and self._ledger.count(row.journal_key, price, intent, expected=expected):
            self.figures.paid_before(intent.credits)

    def is_busy(self, row: Row) -> bool:
        """Whether another row has an account for the same job: it says in a moment what that has come to."""
        return self._ledger.is_open(row.journal_key)

    def pay(self, row: Row, price: float) -> bool:
        """Set the price of a create aside, if it is left; return whether it is."""
        row.account = self._ledger.reserve(row.journal_key, price)
        return row.account is not None

    def may_pay(self, price: float) -> bool:
        """Whether that much may be left once something has ended that runs."""
        return self._ledger.may_fit(price)

    def pay_again(self, row: Row) -> bool:
        """Set a row's price aside once more, if it is left: it may have been paid, and is to be sent again."""
        return row.account is not None and self._ledger.once_more(row.account)

    def settle(self, row: Row) -> None:
        """Take what a row has cost, or what it may have cost, now that its job goes no further."""
        intent = None if row.job is None else row.job.row
        account, row.account = row.account, None
        if account is not None:
            self._ledger.settle(account, intent)
            if intent is not None and row.has_ended:
                self.figures.paid(intent.credits)
        if intent is not None and intent.state is JobState.SUCCEEDED and not row.replayed:
            self._prices.learn(intent)

    def _is_expected(self, intent: Intent | None) -> bool:
        """Whether a job was sent before this run, so that it was counted when what was spent by then was."""
        return intent is not None and intent.sending_at is not None and intent.sending_at <= self._began_at
