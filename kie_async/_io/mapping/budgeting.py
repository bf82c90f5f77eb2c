"""
The money of a run: price estimates, what the table has cost before, and what its rows cost now.

A job counts once, by its journal key, when it is started or found, whichever of the rows with that key comes first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import attrs

from kie_async import errors
from kie_async._core.budget_ledger import (
    Ledger,
    Price,
    estimate_price,
    has_room,
    may_cost_more,
    possible_cost,
)
from kie_async._core.lifecycle import OPEN
from kie_async._core.run_figures import RunFigures
from kie_async._io.mapping.rows import RowKeys, RowSource
from kie_async._keys import price_class, retry_key
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kie_async._core.lifecycle import Intent
    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.live_job import LiveJob, Registry
    from kie_async._io.journals.journal import Journal
    from kie_async._io.mapping.rows import Row, Table
    from kie_async._io.runtime import Runtime
    from kie_async._io.submitting.intake import Intake
    from kie_async.budget import BudgetInfo, Estimate
    from kie_async.outcomes import RunSummary
    from kie_async.records import JSON
    from kie_async.requests.base import Request

__all__ = ["Budgeting", "Prices", "PriorSpend"]

#: Stands for the URL of an image that was not uploaded: the price does not depend on it.
_ANY_URL = "https://image.invalid"
#: The number of rows that are read from the journal at once.
_BATCH = 256


@attrs.define(eq=False)
class PriorSpend:
    """
    The sum that a table's rows have cost before, or may have cost.

    Attributes:
        total: The sum, in credits.

        open_jobs: The estimated cost of each job that has not ended, by its journal key; part of the sum.

        uncharged: The model and the price class of each job whose cost is unknown, by its journal key.
    """

    total: float = 0.0
    open_jobs: dict[str, float] = attrs.field(factory=dict)
    uncharged: dict[str, tuple[str, str]] = attrs.field(factory=dict)


class Prices:
    """
    Price estimates, and the prior spend of tables, from the journal.

    Args:
        journal: The journal, which has the past prices.

        registry: The jobs that are alive.

        intake: Checks and fingerprints requests.
    """

    def __init__(self, journal: Journal, registry: Registry, intake: Intake) -> None:
        self._journal = journal
        self._registry = registry
        self._intake = intake

    async def estimate(self, request: Request) -> Estimate:
        """Return the estimate for a request."""
        return (await self._estimate(request))[0]

    async def price(self, request: Request, fixed: float | None) -> Price:
        """Return the price of a request: the *fixed* one, else the estimate."""
        if fixed is not None:
            return Price(fixed)
        estimate, unknown = await self._estimate(request)
        is_listed = unknown is not None and estimate.basis == "listed"
        return Price(estimate.credits or 0.0, unknown, estimate.credits is None, is_listed)

    async def _estimate(self, request: Request) -> tuple[Estimate, tuple[str, str] | None]:
        """Return the estimate for a request, with the model and the price class if no such task has been charged."""
        given: Mapping[str, JSON] = request.input(dict.fromkeys(request.files(), _ANY_URL))
        priced = price_class(request.model, given)
        seen = await self._journal.seen_prices(request.model, priced)
        if seen.highest is not None and seen.lowest == seen.highest:
            return estimate_price(seen, None), None  # the list would change nothing, and takes longer
        from kie_async.catalogue.prices import list_price  # on first use: most runs have no budget

        estimate = estimate_price(seen, list_price(request.model, given))
        return estimate, (request.model, priced) if seen.highest is None else None

    async def prior_spend(
        self,
        source: RowSource,
        price: float | None,
        *,
        until: float = math.inf,
        wanted: Callable[[], bool] = lambda: True,
        adopt: Callable[[Intent, Request], Awaitable[None]] | None = None,
    ) -> PriorSpend:
        """
        Return what the tasks of a table have cost or may have cost; no row is started.

        Each key counts once, with its retries. An invalid row counts nothing: it fails when it is its turn, and costs
        nothing then.

        Args:
            source: The table, which is read to its end.

            price: The price of a task whose cost the service has not reported; None for the estimate.

            until: The end of the period that counts, in seconds since the epoch: later creates are left out.

            wanted: Returns False if the sum is no longer needed.

            adopt: Called with each job that counts, and the request of its row.

        Raises:
            JournalError: If the journal cannot be read.

            Exception: The table's own error.
        """
        spend, count = PriorSpend(), 0
        keys, seen = RowKeys(self._intake), set[int]()
        if not await self._journal.has_keys():
            return spend
        while wanted() and (batch := await source.read(_BATCH)):
            requests: dict[str, Request] = {}
            for given in batch:
                row = keys.make_row(given, count)
                count += 1
                try:
                    await keys.assign_key(row)
                except errors.KieError:
                    continue
                if (hashed := hash(row.key)) not in seen:
                    seen.add(hashed)
                    requests[row.key] = row.request
            await self._add_spend_of(requests, spend, price, until, adopt)
            await anyio.lowlevel.checkpoint()  # a journal in memory never yields to the event loop
        return spend

    async def _add_spend_of(
        self,
        requests: dict[str, Request],
        spend: PriorSpend,
        price: float | None,
        until: float,
        adopt: Callable[[Intent, Request], Awaitable[None]] | None,
    ) -> None:
        """Add the costs of the tasks of these keys, retry by retry."""
        number, left = 0, requests
        while left:
            row_keys = {retry_key(key, number): key for key in left}
            rows = await self._journal.by_keys(list(row_keys))
            found = {row_keys[row.key]: row for row in rows if row.key in row_keys}
            for key, row in found.items():
                live = self._registry.get(row.id)
                known = row if live is None else live.row or row  # the live row has what could not be journaled
                late = known.sending_at is not None and known.sending_at > until
                if late or not possible_cost(known, 1.0):
                    continue
                own = await self.price(left[key], price)
                if adopt is not None:
                    await adopt(known, left[key])
                amount = possible_cost(known, own.credits)
                spend.total += amount
                if amount and row.state in OPEN:
                    spend.open_jobs[retry_key(key, number)] = amount
                if own.unknown is not None and may_cost_more(known):
                    spend.uncharged[retry_key(key, number)] = own.unknown
            for dropped in await self._journal.dropped_keys(list(row_keys)):
                spend.total += (await self.price(left[row_keys[dropped]], price)).credits
            left = {key: left[key] for key, row in found.items() if row.state is JobState.FAILED}
            number += 1


class Budgeting:
    """
    The costs of a run's rows, kept in its ledger and its figures.

    Args:
        options: The options of the run.

        journal: The journal.

        runtime: The clock.

        prices: Estimates prices, and adds up prior spend.

    Attributes:
        ledger: The ledger of the run.

        figures: The figures of the run.

        name: The name of the budget, or None.

        unsent_rows: The rows whose job this run has started, in an ordered set, until their job has ended.
    """

    def __init__(self, options: MapOptions, *, journal: Journal, runtime: Runtime, prices: Prices) -> None:
        self._journal = journal
        self._prices = prices
        self._budget = budget = options.budget
        self.name: str | None = None if budget is None else budget.name
        # The journal keeps a named budget.
        self.ledger = Ledger(None if budget is None or self.name is not None else budget.credits)
        self.unsent_rows: dict[Row, None] = {}
        self._runtime = runtime
        self._started_at = runtime.wall()
        self.figures = RunFigures(options.limits, self.ledger, runtime.now())

    def record_create(self) -> None:
        """Count a task that the service has accepted."""
        self.figures.count_create(self._runtime.now())

    def summary(self) -> RunSummary:
        """Return the figures so far."""
        return self.figures.summary(self._runtime.now())

    async def count_prior_spend(self, rows: Table, *, wanted: Callable[[], bool]) -> None:
        """
        Count what a table has cost before its first row is sent, if it can be read twice.

        Args:
            rows: The table.

            wanted: Returns False if nothing will be sent any more.
        """
        if self._budget is None:
            return
        if self.name is not None:
            await self._journal.open_budget(self.name, self._budget.credits)
        self.ledger.prior = self._budget.spent
        if isinstance(rows, (list, tuple)):
            # What is sent during this count counts when its row is read, as any other run's creates do.
            spend = await self._prices.prior_spend(
                RowSource(rows), self._budget.price, until=self._started_at, wanted=wanted, adopt=self.adopt
            )
            if self.name is not None:
                return
            self.ledger.prior = max(self._budget.spent, spend.total)
            if spend.total >= self._budget.spent:  # the shares of a larger sum given by the caller are unknown
                self.ledger.prior_open = spend.open_jobs
            for key, unknown in spend.uncharged.items():
                self.ledger.add_uncharged(key, unknown)

    async def price(self, request: Request) -> Price:
        """Return the price to reserve for a create; 0 without a budget."""
        return Price(0.0) if self._budget is None else await self._prices.price(request, self._budget.price)

    async def count_other_intents(self, row: Row) -> None:
        """Count what the journal has of a row beside its job: earlier retries, and ambiguous attempts."""
        if not row.other_intents:
            return
        price = await self.price(row.request)
        others, row.other_intents = row.other_intents, []
        for intent in others:
            self._commit_ended(intent.key or row.key, price, intent)

    async def count_dropped(self, row: Row) -> None:
        """Count what a row may have cost if the journal has dropped all of it but the key."""
        if self._budget is not None and await self._journal.dropped_keys([row.journal_key]):
            self.ledger.hold_dropped(row.journal_key, (await self.price(row.request)).credits)

    async def read_shared(self) -> BudgetInfo | None:
        """Return the state of the named budget; None without one."""
        if self.name is None:
            return None
        return next(info for info in await self._journal.budgets() if info.name == self.name)

    async def uncharged_keys(self, price: Price) -> set[str]:
        """Return the keys of the named budget's jobs whose cost must become known before a task is sent."""
        if self.name is None or price.unknown is None:
            return set()
        rows = await self._journal.uncharged_rows(self.name)
        of_class = [row for row in rows if price.model_is_unseen or row.price_class == price.unknown[1]]
        return {row.key for row in of_class if row.key is not None and row.model == price.unknown[0]}

    def fits(self, shared: BudgetInfo, price: Price, margin: float = 0.0) -> bool:
        """Return True if the named budget has room for a create beside those that this run is about to send."""
        return has_room(shared, price, unsent=self._unsent() + self.ledger.margin + margin)

    def may_fit_later(self, shared: BudgetInfo | None, price: Price, *, is_blocked: bool) -> bool:
        """
        Return True if there may be room for a create once the running tasks have ended.

        Args:
            shared: The named budget, or None.

            price: The price of the create.

            is_blocked: True if the cost of another task must become known first.
        """
        if shared is None:
            return self.ledger.may_fit_later(price.credits, is_blocked=is_blocked)
        unsent = self._unsent()
        can_change = is_blocked or shared.running > 0.0 or unsent > 0.0
        return can_change and has_room(shared, price, unsent=unsent, if_freed=shared.running + unsent)

    def _unsent(self) -> float:
        reservations = [row.reservation for row in self.unsent_rows if row.unsent]
        return sum(reservation.reserved for reservation in reservations if reservation is not None)

    async def adopt(self, intent: Intent | None, request: Request) -> None:
        """Let the named budget pay for a job that was sent without a named budget."""
        if self.name is None or intent is None or intent.budget is not None or not possible_cost(intent, 1.0):
            return
        price = await self.price(request)
        await self._journal.update_fields(intent.id, at=self._runtime.wall(), budget=self.name, price=price.journaled)

    def count_found_job(self, row: Row, found: LiveJob, price: Price) -> None:
        """Count the existing job of a row, even if the budget does not have that much left."""
        intent, prior = found.row, self._is_prior(found.row)
        if not row.replayed:
            row.reservation = self.ledger.reserve_running(
                row.journal_key, price.credits, prior=prior, unknown=price.unknown
            )
            if row.reservation is not None and intent is not None:
                self.ledger.hold_ambiguous(row.journal_key, price.credits, intent, prior=prior)
        elif intent is not None and self._commit_ended(row.journal_key, price, intent):
            self.figures.replayed_credits += intent.credits or 0.0

    def _commit_ended(self, key: str, price: Price, intent: Intent) -> bool:
        prior = self._is_prior(intent)
        return self.ledger.commit_ended(key, price.credits, intent, prior=prior, unknown=price.unknown)

    def reserve_resend(self, row: Row) -> bool:
        """Reserve a row's price once more, if that much is left: it may have been paid, and is to be sent again."""
        return row.reservation is not None and self.ledger.reserve_again(row.reservation)

    def commit_row(self, row: Row) -> None:
        """Replace a row's reservation by what its job has cost, or may have cost, now that the job has ended."""
        intent = None if row.job is None else row.job.row
        self.unsent_rows.pop(row, None)
        reservation, row.reservation = row.reservation, None
        if reservation is not None:
            self.ledger.commit(reservation, intent)
            if intent is not None and row.has_ended:
                self.figures.credits += intent.credits or 0.0

    def _is_prior(self, intent: Intent | None) -> bool:
        """Return True if a job was sent before this run, and is therefore part of the prior spend."""
        return intent is not None and intent.sending_at is not None and intent.sending_at <= self._started_at
