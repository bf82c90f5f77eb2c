"""
The loop of ``KieClient.map()``: reads rows, sees each through to its outcome, and hands the outcomes out.

One child of the client's root task reads; one more sees each row through, from its create to its files. Rows that were
read and not sent are bounded, so are rows whose outcome was not taken; so whoever is slow, the source, the service, the
disk or the caller, slows the run down and fills no memory.
"""

from __future__ import annotations

import errno
import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio

from kie_async import errors
from kie_async._core.figures import Figures
from kie_async._core.ledger import Ledger
from kie_async._core.lifecycle import OPEN, IntentState
from kie_async._core.outcomes import closed_error
from kie_async._io.jobs.live import Stop
from kie_async._io.mapping.beforehand import Beforehand
from kie_async._io.mapping.bell import Bell
from kie_async._io.mapping.finding import Finding
from kie_async._io.mapping.handing_out import HandingOut
from kie_async._io.mapping.naming import Naming
from kie_async._io.mapping.reading import Reader
from kie_async._io.mapping.saving import Saving

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from kie_async._core.lifecycle import Intent
    from kie_async._core.plan import Plan
    from kie_async._io.creating.intake import Intake
    from kie_async._io.jobs.live import LiveJob
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.mapping.prices import Prices
    from kie_async._io.mapping.reading import Given
    from kie_async._io.mapping.row import Row
    from kie_async._io.parts import Parts
    from kie_async.outcomes import Outcome
    from kie_async.records import Generation
    from kie_async.run_summary import RunSummary

__all__ = ["Mapper"]

#: What concerns every row: none can be sent until the user has done something about it.
_FOR_ALL = (errors.AuthenticationError, errors.InsufficientCreditsError, errors.KeyLimitError, errors.JournalError)
#: What the system says where nothing more can be written.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
#: After the deadline, an async source may let us wait for a row for so many seconds.
_LATE_PATIENCE = 1.0


class Mapper:
    """
    One run.

    Args:
        parts: The client's parts.

        intake: Takes requests in.

        waiting: Waits for jobs.

        prices: Estimates prices.

        rows: The table.

        plan: How the run is to go.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        intake: Intake,
        waiting: Waiting,
        prices: Prices,
        rows: Iterable[Given] | AsyncIterable[Given],
        plan: Plan,
    ) -> None:
        self._parts = parts
        self._intake = intake
        self._waiting = waiting
        self._prices = prices
        self._plan = plan
        self._finding = Finding(parts, intake=intake, waiting=waiting, prices=prices, plan=plan)
        self._naming = Naming(intake)
        self._table = rows
        self._reader = Reader(rows)
        self._saving = Saving(plan)
        self._bell = Bell()
        self._ledger = Ledger(None if plan.budget is None else plan.budget.credits)
        self._began_at = parts.surroundings.wall()
        self._figures = Figures(parts.settings.limits, self._ledger, parts.surroundings.now())
        self._out = HandingOut(ordered=plan.ordered)
        self._rows: dict[Row, None] = {}  # an ordered set
        self._ahead = 0
        self._reading = True
        self._feeding = anyio.CancelScope()
        self._for_the_source = anyio.CancelScope()
        self._clock = anyio.CancelScope()
        self._late = False
        self._stopped = False
        self._left = False
        self._closed = False
        self._verdict: Exception | None = None

    # -- for the caller ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start to read."""
        self._parts.root.start(self._feed)
        self._late = self._plan.deadline == 0
        if self._plan.deadline is not None and self._plan.deadline < math.inf:
            self._parts.root.start(self._watch_the_clock, self._parts.surroundings.now() + self._plan.deadline)

    async def next(self) -> Outcome | None:
        """
        The next outcome; None at the end.

        Raises:
            KieError: What the account or the source has said, once, after the last outcome.
        """
        while not self._out:
            if not self._reading and not self._rows:
                verdict, self._verdict = self._verdict, None
                if verdict is not None:
                    raise verdict
                return None
            await self._bell.rung()
        self._bell.ring()
        return self._out.take()

    def summary(self) -> RunSummary:
        """The figures so far."""
        return self._figures.summary(self._parts.surroundings.now())

    def stop(self) -> None:
        """Read nothing more and send nothing more."""
        self._stopped = True
        self._feeding.cancel()
        self._withdraw()
        self._bell.ring()

    async def leave(self, drain: float) -> None:
        """Stop, and let what has begun end within *drain* seconds."""
        self._left = True
        self.stop()
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + drain, shield=True):
                while self._reading or self._rows:
                    await self._bell.rung()
        finally:
            self._clock.cancel()
            for row in self._rows:
                if row.scope is not None:
                    row.scope.cancel()
            self._out.drop()

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        try:
            with self._feeding:
                await self._look_back()
                while not self._ends and (given := await self._read()):
                    for one in given:
                        if not self._ends:
                            await self._take(one)
        except Exception as error:  # noqa: BLE001 (the source's own: for whoever iterates)
            self._verdict = self._verdict or error
        finally:
            self._closed = self._closed or self._parts.submitter.closing
            try:
                await self._reader.close()
            except Exception as error:  # noqa: BLE001 (the source's own, as above)
                self._verdict = self._verdict or error
            finally:
                self._reading = False
                self._end_if_over()

    async def _look_back(self) -> None:
        """Count what the table has cost before the first row of it is sent, where it can be read twice."""
        budget = self._plan.budget
        if budget is None:
            return
        self._ledger.expected = budget.spent
        if isinstance(self._table, (list, tuple)):
            beforehand = Beforehand(self._parts, intake=self._intake, prices=self._prices, price=budget.price)
            spent = await beforehand.cost(Reader(self._table), wanted=lambda: not self._late and not self._ends)
            self._ledger.expected = max(budget.spent, spent)

    async def _read(self) -> list[Given]:
        plan = self._plan
        while (most := min(plan.look_ahead - self._ahead, plan.window - self._out.untaken)) <= 0:
            await self._bell.rung()
        # Every row of a table is told of, but a source that waits for something must not make the run endless.
        with anyio.CancelScope(deadline=self._patience()) as self._for_the_source:
            return await self._reader.read(most)
        return []

    def _patience(self) -> float:
        return anyio.current_time() + _LATE_PATIENCE if self._late else math.inf

    @property
    def _ends(self) -> bool:
        """Whether nothing more is to be begun, whatever it is."""
        return self._stopped or self._verdict is not None or self._parts.submitter.closing

    async def _take(self, given: Given) -> None:
        row = self._naming.row(given, self._out.expect())
        try:
            await self._naming.identify(row)
            outcome = await self._begin(row)
        except _FOR_ALL as error:
            outcome = None
            self._halt(error)
        except errors.KieError as error:
            outcome = row.failed(error)
        if outcome is not None:
            self._deliver(row.index, outcome)

    async def _begin(self, row: Row) -> Outcome | None:
        """Start what is to be done for a row; the outcome, where that is nothing."""
        found = await self._finding.job(row)
        await self._count_before(row)
        if found is not None:
            self._join(row, found, await self._price(row))
        elif not await self._set_out(row):
            return None if self._ends else row.skipped(late=self._late)
        elif row.tries:
            self._count_retry(row)
        self._follow(row)
        return None

    async def _count_before(self, row: Row) -> None:
        """Count what is in the journal of a row beside its present job: earlier tries, and what they may have cost."""
        if not row.other_tries and not row.suspects:
            return
        price = await self._price(row)
        for other in row.other_tries:
            self._ledger.count(other.key or row.key, price, other, expected=self._is_expected(other))
        self._ledger.hold(row.journal_key, price, row.suspects, expected=True)

    async def _price(self, row: Row) -> float:
        """What a create of a row is taken to have cost; nothing, where nobody can tell: of such nothing is sent."""
        try:
            return await self._finding.price(row.request)
        except errors.ConfigurationError:
            return 0.0

    def _is_expected(self, intent: Intent | None) -> bool:
        """Whether a job was sent before this run, so that it was counted when what was spent by then was."""
        return intent is not None and intent.sending_at is not None and intent.sending_at <= self._began_at

    # -- one row ----------------------------------------------------------------------------------------------------

    async def _set_out(self, row: Row) -> bool:
        """
        Begin a row's job, or join whoever has begun it meanwhile.

        Returns:
            Whether there is a job now; else there is no money for it, or nothing more is sent.

        Raises:
            ConfigurationError: If there is a budget, and no price.
        """
        price = await self._finding.price(row.request)
        # From here to the start nothing waits but for the bell: whoever has an account begins the job in the same turn.
        while not self._late and not self._ends:
            there = self._parts.registry.by_key(row.journal_key)
            if there is not None and there.attended and there.fingerprint == row.identity:
                self._join(row, there, price)
                return True
            # A row of the same key that is about to end has its account still: it says in a moment what that has cost.
            if not self._ledger.is_open(row.journal_key):
                row.account = self._ledger.reserve(row.journal_key, price)
                if row.account is not None:
                    self._start(row)
                    return True
                if not self._ledger.may_fit(price):
                    return False
            await self._bell.rung()
        return False

    def _start(self, row: Row) -> None:
        row.job = self._intake.start(
            row.request, row.journal_key, row.identity, patient=True, afford=partial(self._afford, row)
        )
        row.begun, row.replayed = True, False

    def _join(self, row: Row, found: LiveJob, price: float) -> None:
        """Go on with a job that there is: wait for it, or tell how it has ended. What it costs counts in any case."""
        row.job, row.begun = found, False
        row.replayed = not found.attended and found.state not in OPEN
        expected = self._is_expected(found.row)
        if not row.replayed:
            row.account = self._ledger.claim(row.journal_key, price, expected=expected)
        elif found.row is not None and self._ledger.count(row.journal_key, price, found.row, expected=expected):
            self._figures.paid_before(found.row.credits)

    def _afford(self, row: Row) -> bool:
        """Set a row's price aside once more, if it is left: it may have been paid, and is to be sent again."""
        return row.account is not None and self._ledger.once_more(row.account)

    def _follow(self, row: Row) -> None:
        row.ahead = not row.replayed
        self._ahead += row.ahead
        self._rows[row] = None
        self._parts.root.start(self._see_through, row)

    async def _see_through(self, row: Row) -> None:
        outcome = None
        try:
            with anyio.CancelScope() as row.scope:
                outcome = await self._outcome(row)
        except Exception as error:
            msg = f"The row has failed within the client ({type(error).__name__}). This is a bug: please report it."
            outcome = row.failed(errors.KieError(msg))
            raise
        finally:
            self._sent(row)
            self._closed = self._closed or self._parts.submitter.closing
            del self._rows[row]
            self._deliver(row.index, outcome)
            self._end_if_over()

    async def _outcome(self, row: Row) -> Outcome | None:
        """See a row through; None where it has no outcome in this run."""
        while True:
            try:
                generation = await self._ended(row)
            except errors.KieError as raised:
                error = raised
                self._settle(row)
            else:
                self._settle(row)
                return await self._saved(row, generation)
            if not await self._go_on(row, error):
                break
        if isinstance(error, errors.ClientClosedError):
            self._closed = True
            return None
        if isinstance(error, _FOR_ALL) and row.state is not IntentState.REJECTED:
            self._halt(error)
            return None
        if row.unsent and (row.withdrawn or not row.begun):
            return self._of_unsent(row)
        if isinstance(error, errors.SubmitInDoubtError) and row.state is IntentState.UNKNOWN:
            return row.in_doubt(error)
        await self._release(row)
        return row.failed(error)

    async def _ended(self, row: Row) -> Generation:
        """The result of a row's job; what is in doubt is waited for until nobody can tell."""
        if row.job is None:
            msg = "a row without a job was followed"
            raise RuntimeError(msg)
        asked = row.job
        try:
            await self._waiting.answered(asked)
        finally:
            row.job = asked.final
            # Another run, or another process, may have been the first to begin it.
            row.begun = row.begun and row.job is asked and self._is_ours(asked)
        self._sent(row)
        if row.begun and row.job.task_id is not None:
            self._figures.created(self._parts.surroundings.now())
        while True:
            try:
                return await self._waiting.ended(row.job, patient=False)
            except errors.TaskTimeoutError:
                if row.looked_at or row.state is not IntentState.STALLED:
                    raise
                # It is looked at now and then only, and may have ended since.
                row.looked_at = True
                with suppress(errors.KieError):
                    await self._waiting.refresh(row.job.id)
            except errors.SubmitInDoubtError:
                row.job = row.job.final
                if row.state not in (IntentState.SENDING, IntentState.IN_DOUBT):
                    raise
                await row.job.changed()

    def _is_ours(self, job: LiveJob) -> bool:
        """Whether it is this process that has a job's row, or would have it."""
        return job.row is None or self._parts.journal.owns(job.row)

    def _sent(self, row: Row) -> None:
        """A row counts no longer among those that were read and not sent."""
        if row.ahead:
            row.ahead = False
            self._ahead -= 1
            self._bell.ring()

    def _settle(self, row: Row) -> None:
        """Take what a row has cost, or what it may have cost."""
        intent = None if row.job is None else row.job.row
        account, row.account = row.account, None
        if account is not None:
            self._ledger.settle(account, intent)
        if account is not None and intent is not None and row.has_ended:
            self._figures.paid(intent.credits)
        if intent is not None and intent.state is IntentState.SUCCEEDED:
            self._prices.learn(intent)
        self._bell.ring()

    async def _go_on(self, row: Row, error: errors.KieError) -> bool:
        """Begin a row again, where that is allowed and may help."""
        again = isinstance(error, errors.TaskFailedError) and error.worth_retrying
        again = again and row.tries < self._plan.retry_failed
        # Somebody else had begun it, and has given it up before anything was sent.
        dropped = row.unsent and not row.begun and not isinstance(error, (errors.ClientClosedError, *_FOR_ALL))
        if dropped:
            return await self._set_out(row)
        if not again:
            return False
        await self._release(row)
        row.tries += 1
        if not await self._set_out(row):
            row.tries -= 1
            return False
        row.failure = error
        self._count_retry(row)
        return True

    def _count_retry(self, row: Row) -> None:
        row.retries += 1
        self._figures.retried += row.begun

    async def _saved(self, row: Row, generation: Generation) -> Outcome:
        try:
            files = await self._saving.save(row.key, generation, fresh=row.begun)
        except errors.KieError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
                self._halt(error)  # the next ones would be paid, and could not be written either
            return row.failed(error, generation)
        await self._release(row)
        return row.done(generation, files)

    def _of_unsent(self, row: Row) -> Outcome | None:
        """The outcome of a row that nobody has sent: it was withdrawn, the account has halted, or no money is left."""
        if row.failure is not None:
            return row.failed(row.failure)
        return None if self._ends else row.skipped(late=self._late)

    async def _release(self, row: Row) -> None:
        """Let a row of the journal go that nobody will ask for, where it must be small."""
        if row.job is not None and not self._parts.journal.durable and row.has_ended:
            await self._parts.journal.release(row.job.id)

    # -- outcomes ---------------------------------------------------------------------------------------------------

    def _deliver(self, index: int, outcome: Outcome | None) -> None:
        """Hand an outcome out, in its turn; None where a row has none."""
        if outcome is not None:
            self._figures.count(outcome)
        self._out.put(index, outcome)
        self._bell.ring()

    def _end_if_over(self) -> None:
        if not self._reading and not self._rows:
            if self._closed and not self._left:
                self._verdict = self._verdict or closed_error()
            self._clock.cancel()
        self._bell.ring()

    # -- the end of sending -----------------------------------------------------------------------------------------

    async def _watch_the_clock(self, deadline: float) -> None:
        with self._clock:
            await anyio.sleep_until(deadline)
            self._late = True
            self._for_the_source.deadline = self._patience()
            self._withdraw()
            self._bell.ring()

    def _halt(self, verdict: errors.KieError) -> None:
        """Read nothing more and send nothing more, since the account cannot pay; what runs goes on to its end."""
        if self._verdict is None:
            self._verdict = verdict
        self._feeding.cancel()
        self._bell.ring()
        for row in self._rows:
            if row.begun and row.job is not None and row.job.errand is not None:
                row.withdrawn = True
                own = verdict.again()
                own.intent_id = row.job.id
                self._parts.submitter.stop(row.job, Stop.ACCOUNT, own)

    def _withdraw(self) -> None:
        """Withdraw what this run has begun and nothing was sent of."""
        msg = "The row was not sent, since the run sends nothing more; nothing was paid. The same call again sends it."
        for row in self._rows:
            if row.begun and row.job is not None and row.job.errand is not None:
                row.withdrawn = True
                self._parts.submitter.stop(row.job, Stop.WITHDRAWN, errors.TransportError(msg, intent_id=row.job.id))
