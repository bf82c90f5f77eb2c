"""
``TokenSupply``: exchanges leases and reports with the account's state, which all workers of the account share.

In a journal in memory the state is the client's own, and an exchange is a call. Otherwise it is a transaction of the
journal, so leases are taken ahead and reports are collected: what others need at once is reported at once, all else
with the next exchange. All instants here are the loop's; those of the state are the shared time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from functools import partial

import attrs

from kie_async import errors
from kie_async._core.account_state import LEASE, AccountState, AccountView, LeaseReport, SharedLimits, report_within
from kie_async._core.adaptive_bucket import MAX_LEASES
from kie_async._core.job_errors import load_error
from kie_async._core.token_buckets import UNANSWERED_TRAVEL, Deliveries
from kie_async._core.verdicts import Verdict
from kie_async._io.journals.journal import AccountChange, Journal
from kie_async._io.runtime import Runtime, Supervisor
from kie_async._io.timers import Timer, Timers
from kie_async.policy import Limits
from kie_async.statistics import AccountInfo

__all__ = ["LeasedToken", "TokenSupply"]

_log = logging.getLogger("kie_async")

#: The intervals in seconds at which a worker renews its leases, its demand for leases, and its limits without demand.
_RENEWAL = 4.0
_DEMAND = 6.0
_PRESENCE = 10.0
#: The seconds for which an unused lease is kept.
_UNUSED = 1.0
#: The number of leases that are taken in advance while no other worker wants any.
_SPARE = 8
#: The pause after an exchange that has failed, in seconds.
_RETRY = 1.0
#: Verdicts that other workers need to know at once.
_URGENT = frozenset({Verdict.RATE_LIMITED, Verdict.MAINTENANCE, Verdict.ACCOUNT})


@attrs.define(eq=False)
class LeasedToken:
    """
    A token lease as this worker has it.

    Attributes:
        number: Its number.

        leased_at: The instant from which a create may be sent with it.

        usable_until: The instant until which it may be, unless it is renewed.

        probe: True if a refusal is expected.

        gate_probe: True if it is the one request that a closed gate lets through.

        epoch: The epoch of the account's state in which it was given.
    """

    number: int
    leased_at: float
    usable_until: float
    probe: bool
    gate_probe: bool
    epoch: int


class TokenSupply:
    """
    The token leases of one client.

    Args:
        limits: The limits that the client is configured with.

        journal: Has the account's state.

        runtime: The clocks.

        timers: Schedules exchanges.

        supervisor: Runs them.

        on_change: Called when there may be leases, or the account's state may have changed; it calls ``refresh``.

        on_pause: Called with the refusal by the account, or of the API key, that this or another worker got, and with
            its instant.

        on_failure: Called when the journal cannot be used.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        journal: Journal,
        runtime: Runtime,
        timers: Timers,
        supervisor: Supervisor,
        on_change: Callable[[], None],
        on_pause: Callable[[errors.KieError, float], None],
        on_failure: Callable[[errors.JournalError], None],
    ) -> None:
        self._limits = SharedLimits(limits.creates, limits.window)
        self._journal = journal
        self._runtime = runtime
        self._timers = timers
        self._supervisor = supervisor
        self._on_change = on_change
        self._on_pause = on_pause
        self._on_failure = on_failure
        #: Leases that are not used yet, and those that are.
        self._hand: list[LeasedToken] = []
        self._out: dict[int, LeasedToken] = {}
        self._deliveries = Deliveries()
        self._reports: list[LeaseReport] = []
        #: The reports that were committed last, by the leases' numbers: a database that crashes forgets some of them.
        self._reported: dict[int, LeaseReport] = {}
        #: The leases that the account's state has lost; written in the journal's thread.
        self._lost: Collection[int] = ()
        self._report_by = math.inf
        self._wanted = 0
        #: The number of leases that the account's state knows to be wanted.
        self._known_to_want = 0
        self._view: AccountView | None = None
        self._next_at = math.inf
        self._exchanged_at = self._retry_at = -math.inf
        self._exchanging = False
        #: True once an exchange has begun: from then on the account's state may have leases for this worker.
        self._known = False
        self._timer: Timer | None = None
        #: What to add to a shared instant for the loop's, and to the loop's for a shared one, at most.
        self._to_loop = self._to_shared = 0.0
        #: The text that was written last, and its state; used in the journal's thread.
        self._written: tuple[str, AccountState] | None = None
        #: The number of changes and the text that were written last and are known to be committed.
        self._committed: tuple[int, str] | None = None
        self._warned_of: str | None = None

    @property
    def _is_own(self) -> bool:
        return not self._journal.durable

    # -- the state --------------------------------------------------------------------------------------------------

    @property
    def in_use(self) -> int:
        """The number of leases that creates have."""
        return len(self._out)

    @property
    def limits(self) -> SharedLimits:
        """The limits in force."""
        return self._limits if self._view is None else self._view.limits

    @property
    def maintenance_since(self) -> float | None:
        """The instant since which the service is known to be under maintenance; None if it is not."""
        return self._in_loop(None if self._view is None else self._view.maintenance_since)

    @property
    def refused_since(self) -> float | None:
        """The instant since which the rate limit has refused all requests; None if it has not."""
        return self._in_loop(None if self._view is None else self._view.refused_since)

    @property
    def _missing(self) -> int:
        """The number of leases that are wanted besides those that it has, of which some begin later."""
        return min(max(0, self._wanted - len(self._hand)), MAX_LEASES)

    def _in_loop(self, shared: float | None) -> float | None:
        return None if shared is None else shared + self._to_loop

    # -- leases -----------------------------------------------------------------------------------------------------

    def take(self) -> LeasedToken | None:
        """Return a lease that may be used now, or None."""
        now = self._runtime.now()
        for token in self._hand:
            if token.leased_at <= now:
                self._hand.remove(token)
                self._out[token.number] = token
                return token
        return None

    def is_usable(self, token: LeasedToken) -> bool:
        """Return True if a create may be sent with a lease now."""
        valid = self._view is not None and (token.gate_probe or token.epoch == self._view.epoch)
        return valid and self._runtime.now() <= token.usable_until

    def mark_written(self, token: LeasedToken) -> None:
        """Record that the first byte of a create is about to be written."""
        self._deliveries.mark_written(token.number, self._runtime.now())

    def learn_round_trip(self, seconds: float) -> None:
        """Learn the round trip of a poll that was answered now: it bounds the travel time of creates."""
        self._deliveries.learn_round_trip(seconds, answered_at=self._runtime.now())
        if self._is_own:
            self._next_at = -math.inf

    def report(
        self,
        token: LeasedToken | None,
        verdict: Verdict,
        *,
        pause: float,
        closed_for: float | None = None,
        error: str | None = None,
        refuses_key: bool = False,
    ) -> None:
        """
        End a lease, or report an answer that needed none; ``refresh`` must follow.

        Args:
            token: The lease, or None.

            verdict: The verdict.

            pause: The seconds for which maintenance closes the gate.

            closed_for: The value of ``Retry-After``, in seconds.

            error: The refusal by the account, as text.

            refuses_key: True if it concerns the API key only.
        """
        now = self._runtime.now()
        if token is not None:
            self._out.pop(token.number, None)
            if verdict is Verdict.IN_DOUBT:
                counted_by = self._deliveries.counted_unanswered(token.number, now)
                self._reports.append(LeaseReport(number=token.number, at=counted_by))
            if not self._is_own:
                self._end_delivery(token, verdict, now)
        self._reports.append(
            LeaseReport(
                number=None if token is None else token.number,
                at=now,
                verdict=verdict,
                pause=pause,
                closed_for=closed_for,
                error=error,
                key=self._journal.service.account,
                refuses_key=refuses_key,
            )
        )
        view = self._view
        troubled = view is not None and (
            view.is_full or view.refused_since is not None or view.maintenance_since is not None
        )
        lease_matters = token is None or token.probe or token.gate_probe or verdict is Verdict.UNSENT
        urgent = self._is_own or verdict in _URGENT or troubled or lease_matters
        self._report_by = min(self._report_by, now if urgent else now + report_within(self.limits.window))

    def _end_delivery(self, token: LeasedToken, verdict: Verdict, now: float) -> None:
        if verdict in (Verdict.UNSENT, Verdict.IN_DOUBT):
            self._deliveries.forget(token.number)
        else:
            self._deliveries.confirm(token.number, now)

    def read_again(self) -> None:
        """Read the account's state at once: another worker has changed it; ``refresh`` must follow."""
        self._next_at = -math.inf

    # -- exchanges --------------------------------------------------------------------------------------------------

    def refresh(self, wanted: int) -> bool:
        """
        Exchange what is due, or set the timer for it.

        Args:
            wanted: The number of leases that are wanted besides those that ``take`` gives now.

        Returns:
            True if the state has been exchanged, so that there may be leases now; False if ``on_change`` will tell.
        """
        if not wanted and self._wanted:
            self._next_at = math.inf
        elif wanted and not self._wanted:
            self._next_at = -math.inf
        self._wanted = wanted
        if self._exchanging:
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._runtime.now()
        self._return_unused(now)
        due_at = self._due_at(now)
        if due_at > now:
            if wanted:
                due_at = min([due_at, *(token.leased_at for token in self._hand)])
            if due_at < math.inf:
                self._timer = self._timers.at(due_at, self._on_change)
            return False
        if self._is_own:
            self._exchange_own(now)
            return True
        if self._supervisor.running:
            self._exchanging = True
            self._supervisor.start(self._exchange)
        return False

    def _return_unused(self, now: float) -> None:
        """Return leases that are not needed, or that the gate has closed on."""
        epoch = None if self._view is None else self._view.epoch
        for token in list(self._hand):
            closed = token.epoch != epoch and not token.gate_probe
            unused = not self._wanted and (self._is_own or token.leased_at + _UNUSED <= now)
            if closed or unused or token.usable_until < now:
                self._hand.remove(token)
                self.report(token, Verdict.UNSENT, pause=0.0)

    def _due_at(self, now: float) -> float:
        """Return the instant of the next exchange."""
        due = [self._report_by]
        if self._missing:
            due.append(self._next_at)
        if not self._is_own and self._view is not None:
            since = self._exchanged_at
            due.append(since + (_RENEWAL if self._out or self._hand else _DEMAND if self._wanted else _PRESENCE))
            if self._hand and not self._wanted:
                due.append(max(now, min(token.leased_at for token in self._hand) + _UNUSED) + 1e-3)
            if self._known_to_want and not self._wanted:
                due.append(since + report_within(self.limits.window))
        return max(min(due), self._retry_at)

    def _exchange_own(self, now: float) -> None:
        """Exchange with the client's own state, which no other worker changes."""
        journal = self._journal
        if journal.account_state is None:
            journal.account_state = AccountState(self._limits)
        journal.account_state.bucket.deliveries = self._deliveries
        reports, self._reports, self._report_by = self._reports, [], math.inf
        wanted, key = self._missing, journal.service.account
        view = journal.account_state.exchange_alone(now, reports=reports, wanted=wanted, key=key)
        self._adopt(AccountChange(view, now, now, now), wanted)

    async def _exchange(self) -> None:
        """Exchange with the journal's state, and tell."""
        try:
            await self._exchange_once()
        finally:
            self._exchanging = False
        self._on_change()

    async def _exchange_once(self, *, leave: bool = False) -> None:
        now, self._known = self._runtime.now(), True
        wanted = self._missing
        counted = [LeaseReport(number=number, at=at) for number, at in self._deliveries.counted(now)]
        reports, self._reports, self._report_by = [*counted, *self._reports], [], math.inf
        shared = self._shared_reports(reports)
        try:
            change = await self._journal.change_account(
                partial(
                    self._change,
                    reports=shared,
                    held=frozenset(self._out) | {token.number for token in self._hand},
                    wanted=wanted,
                    leave=leave,
                )
            )
        except errors.JournalError as error:
            self._reports, self._report_by = reports + self._reports, -math.inf
            self._retry_at = self._runtime.now() + _RETRY
            self._on_failure(error)
        else:
            self._retry_at = -math.inf
            if self._written is not None:
                self._committed = self._written[1].changes, self._written[0]
            self._remember(shared)
            self._adopt(change, wanted)

    def _remember(self, reports: Sequence[LeaseReport]) -> None:
        """Remember the reports of leases that have ended, as many as there can be open leases, and some more."""
        self._reported |= {one.number: one for one in reports if one.number is not None and one.verdict is not None}
        while len(self._reported) > 4 * MAX_LEASES:
            del self._reported[next(iter(self._reported))]

    def _shared_reports(self, reports: Sequence[LeaseReport]) -> list[LeaseReport]:
        """Return reports with shared instants; before the first exchange they are about no lease, and count as now."""
        shift = math.inf if self._view is None else self._to_shared
        return [attrs.evolve(report, at=report.at + shift) for report in reports]

    def _change(
        self,
        text: str | None,
        now: float,
        *,
        reports: Sequence[LeaseReport],
        held: Collection[int],
        wanted: int,
        leave: bool,
    ) -> tuple[str | None, int, AccountView]:
        """Change the state; called in the journal's thread."""
        written = self._written
        if written is not None and written[0] == text:
            state = written[1]
        else:
            state = AccountState.latest(text, self._committed) or AccountState(self._limits)
        self._written = None  # until it is whole again
        worker, told = self._journal.worker, {report.number for report in reports}
        # Without this, a lease whose report was lost would end unused, although its create was sent.
        unknown = state.leases_of(worker) - {*held, *told}
        view = state.exchange(
            worker,
            now,
            limits=self._limits,
            reports=[*(self._reported[number] for number in unknown & self._reported.keys()), *reports],
            held=held,
            wanted=wanted,
            spare=_SPARE if wanted else 0,
            key=self._journal.service.account,
        )
        self._lost = {*held} - state.leases_of(worker)
        if leave:
            state.leave(worker)
        changed = state.dump()
        self._written = (changed, state)
        return changed, state.epoch, view

    def _adopt(self, change: AccountChange[AccountView], wanted: int) -> None:
        """Take over what an exchange has given for the leases that were wanted."""
        known, view, now = self._view, change.result, change.now
        self._view, self._exchanged_at = view, self._runtime.now()
        self._to_loop, self._to_shared = change.latest - now, now - change.earliest
        good_from = math.inf if self._is_own else change.earliest  # the own leases do not expire
        if not self._is_own:
            for token in (*self._hand, *self._out.values()):
                # One that the state has not any more counts as used there, or not at all.
                lost = token.number in self._lost
                token.usable_until = -math.inf if lost else max(good_from, token.leased_at) + LEASE
            self._hand = [token for token in self._hand if token.number not in self._lost]
        self._hand += [
            LeasedToken(
                number=lease.number,
                leased_at=lease.leased_at + self._to_loop,
                usable_until=good_from + max(0.0, lease.leased_at - now) + LEASE,
                probe=lease.probe,
                gate_probe=lease.gate_probe,
                epoch=view.epoch,
            )
            for lease in view.leases
        ]
        for lease in view.leases:
            self._reported.pop(lease.number, None)  # a database that has gone back gives numbers again
        self._known_to_want = max(0, wanted - len(view.leases))
        # None: all that were wanted were given, or, in the own state, answers must come first.
        unknown = math.inf if self._is_own else -math.inf
        self._next_at = unknown if view.next_at is None else view.next_at + self._to_loop
        if view.stricter_worker not in (None, self._warned_of):
            self._warned_of = view.stricter_worker
            _log.warning(
                "Worker %s limits the account to %d creates in %g s, and this client to %d in %g s: the strictest"
                " counts for all. Limits are the account's: give all workers the same ones, and do not divide them.",
                view.stricter_worker,
                view.limits.creates,
                view.limits.window,
                self._limits.creates,
                self._limits.window,
            )
        if known is not None and known.epoch != view.epoch and view.paused_by is not None:
            self._on_pause(load_error(view.paused_by, job_id=""), view.paused_at + self._to_loop)

    async def read_account(self) -> AccountInfo:
        """
        Return the account's figures.

        Raises:
            JournalError: If the journal cannot be read.
        """
        if self._is_own:
            state = self._journal.account_state or AccountState(self._limits)
            return self._info(state, self._runtime.now())
        return (await self._journal.change_account(self._read_text)).result

    def _read_text(self, text: str | None, now: float) -> tuple[None, int, AccountInfo]:
        state = AccountState(self._limits) if text is None else AccountState.load(text)
        return None, state.epoch, self._info(state, now)

    def _info(self, state: AccountState, now: float) -> AccountInfo:
        return state.info(self._journal.service.account_name, now, self._journal.service.account)

    def abandon(self) -> None:
        """Return what is unused, and take creates on the wire for sent, for the next engine."""
        if not self._is_own:
            return  # its leases expire
        for token in self._hand:
            self.report(token, Verdict.UNSENT, pause=0.0)
        # They may be on their way still.
        counted_by = self._runtime.now() + min(max(self._deliveries.margin, UNANSWERED_TRAVEL), LEASE)
        self._reports += [LeaseReport(number=number, at=counted_by) for number in self._out]
        for token in list(self._out.values()):
            self.report(token, Verdict.IN_DOUBT, pause=0.0)
        self._hand.clear()
        if self._reports:
            self._wanted = 0
            self._exchange_own(self._runtime.now())

    async def close(self) -> None:
        """Return what is unused, and report what is known; the client ends."""
        self.abandon()
        for token in self._hand:
            self.report(token, Verdict.UNSENT, pause=0.0)
        self._hand.clear()
        if self._known:
            self._wanted = 0
            await self._exchange_once(leave=True)
