"""
``Admission``: grants permission to send a create: first a slot, then the gate and a token, in the order of requests.

A slot belongs to the remote task and is released when the task has ended. A token is leased for one request. A job that
was refused keeps its position and gets the next token. See docs/explanation/limits.md, "Admission".
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import OrderedDict
from collections.abc import Callable

import attrs

from kie_async._core.job_errors import dump_error
from kie_async._core.verdicts import Verdict
from kie_async._io.journals.journal import Journal
from kie_async._io.runtime import Runtime, Supervisor
from kie_async._io.submitting.token_supply import LeasedToken, TokenSupply
from kie_async._io.timers import Timer, Timers
from kie_async.errors import JournalError, KieError
from kie_async.policy import Limits, RetryPolicy

__all__ = ["MAINTENANCE_PROBE_INTERVAL", "Admission", "Permit", "Slots"]

_log = logging.getLogger("kie_async")

#: The interval between two probes during maintenance, for the whole client, in seconds.
MAINTENANCE_PROBE_INTERVAL = 60.0
#: The lifetime of an unused permit, in seconds: longer than the timeout of a connection.
PERMIT_LIFETIME = 15.0


class Slots:
    """
    The slots of running tasks, granted in order. The caller tracks whether it holds a slot.

    A slot belongs to a task, not to its waiters. A running task that was found in the journal takes a slot even if none
    is free; then new tasks wait until fewer are taken than the limit. (anyio's ``CapacityLimiter`` cannot do that.)

    Args:
        limit: The number of slots.
    """

    def __init__(self, limit: int) -> None:
        #: The number of slots that may be taken.
        self.limit: int = limit
        self._queue: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        #: The number of slots that are taken.
        self.taken: int = 0

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return len(self._queue)

    async def acquire(self) -> None:
        """Wait for a slot and take it."""
        if self.taken < self.limit and not self._queue:
            self.taken += 1
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[granted] = None
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._queue.pop(granted, None)
            else:
                self.release()  # granted and cancelled in the same turn of the loop
            raise

    def occupy(self) -> None:
        """Take a slot for a task that runs already, even if none is free."""
        self.taken += 1

    def release(self) -> None:
        """
        Release a slot.

        Raises:
            ValueError: If no slot is held (double release).
        """
        if not self.taken:
            msg = "No slot is held: it was released twice. This is a bug: please report it."
            raise ValueError(msg)
        self.taken -= 1
        self._grant()

    def set_limit(self, limit: int) -> None:
        """Change the number of slots: workers share those of the account. Slots that are taken stay so."""
        self.limit = limit
        self._grant()

    def _grant(self) -> None:
        while self._queue and self.taken < self.limit:
            granted, _ = self._queue.popitem(last=False)
            if not granted.done():
                self.taken += 1
                granted.set_result(None)


@attrs.define(eq=False)
class Permit:
    """
    The right to send one create, once.

    Attributes:
        token: The token lease.

        granted_at: The instant at which it was granted.
    """

    token: LeasedToken
    granted_at: float
    _admission: Admission

    @property
    def probe(self) -> bool:
        """True for the one request that a closed gate admits."""
        return self.token.gate_probe

    @property
    def account_epoch(self) -> int | None:
        """The epoch that the account's state must still have when the create is sent; None for a probe."""
        return None if self.probe else self.token.epoch

    def is_usable(self) -> bool:
        """Return True if a create may be sent with this permit now."""
        fresh = self._admission.now() - self.granted_at <= PERMIT_LIFETIME
        return fresh and self._admission.tokens.is_usable(self.token)

    def record_write(self) -> None:
        """Record that the first byte is about to be written: from then on the service may count the request."""
        self._admission.tokens.mark_written(self.token)

    def finish(
        self,
        verdict: Verdict,
        *,
        retry_after: float | None = None,
        error: KieError | None = None,
        refuses_key: bool = False,
    ) -> None:
        """
        Record the verdict of the request; called once.

        Args:
            verdict: UNSENT cancels the lease, RATE_LIMITED expires the token, and any other verdict lets the token
                return one window from now, since the service has counted the request by now.

            retry_after: The value of ``Retry-After``, in seconds.

            error: The refusal by the account, for the callers of all workers.

            refuses_key: True if it concerns the API key only.
        """
        self._admission.finish_permit(self, verdict, retry_after, error, refuses_key=refuses_key)


@attrs.define(eq=False, order=False)
class _Waiter:
    position: int
    since: float
    outlasts_maintenance: bool
    granted: asyncio.Future[Permit | Verdict]


class Admission:
    """
    The slots of one client, and its queue for the account's tokens and gate.

    Args:
        limits: The account's limits.

        journal: Has the account's state.

        retry: The timeouts: ``maintenance_timeout`` bounds the wait of a job during maintenance, ``max_age`` that while
            the rate limit refuses every create.

        runtime: Clock and randomness.

        timers: Schedules the next grant.

        supervisor: Runs exchanges with the account's state.

        on_pause: Called with the refusal by the account, or of the API key, that this or another worker got, and with
            its instant.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        journal: Journal,
        retry: RetryPolicy,
        runtime: Runtime,
        timers: Timers,
        supervisor: Supervisor,
        on_pause: Callable[[KieError, float], None],
    ) -> None:
        self.slots: Slots = Slots(limits.in_flight)
        self.tokens: TokenSupply = TokenSupply(
            limits,
            journal=journal,
            runtime=runtime,
            timers=timers,
            supervisor=supervisor,
            on_change=self._grant,
            on_pause=on_pause,
            on_failure=self._fail_waits,
        )
        self.journal: Journal = journal
        self._unsent_timeout = retry.unsent_timeout
        self._failed_since: float | None = None
        self._timeouts = {Verdict.MAINTENANCE: retry.maintenance_timeout, Verdict.RATE_LIMITED: retry.max_age}
        self.now: Callable[[], float] = runtime.now
        self._runtime = runtime
        self._timers = timers
        self._queue: list[tuple[int, int, _Waiter]] = []
        self._arrivals = 0
        self._next_end: Timer | None = None
        self._warned_at = float("-inf")

    def record_round_trip(self, seconds: float) -> None:
        """
        Learn the upper bound of a request's travel time from a poll.

        Args:
            seconds: The time from the request to its response.
        """
        self.tokens.learn_round_trip(seconds)
        if self._queue:
            self._grant()

    @property
    def waiting(self) -> int:
        """The number of waits for a permit."""
        return sum(not waiter.granted.done() for _, _, waiter in self._queue)

    async def acquire_permit(
        self, position: int, *, since: float, outlasts_maintenance: bool = False
    ) -> Permit | Verdict:
        """
        Wait for the gate and a token.

        Args:
            position: The job's position in the queue; the lowest is served first.

            since: The instant of the job's request; its timeouts count from then at the earliest.

            outlasts_maintenance: True to wait for the end of maintenance without a timeout.

        Returns:
            The permit; after a timeout its reason, MAINTENANCE or RATE_LIMITED.

        Raises:
            JournalError: If the journal with the account's state cannot be used.
        """
        waiter = _Waiter(position, since, outlasts_maintenance, asyncio.get_running_loop().create_future())
        self._arrivals += 1
        heapq.heappush(self._queue, (position, self._arrivals, waiter))
        self._grant()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            # It may have been granted and cancelled in the same turn of the loop.
            granted = waiter.granted
            permit = None if granted.cancelled() or granted.exception() is not None else granted.result()
            if isinstance(permit, Permit):
                permit.finish(Verdict.UNSENT)
            self._grant()
            raise

    def finish_permit(
        self,
        permit: Permit,
        verdict: Verdict,
        retry_after: float | None,
        error: KieError | None,
        *,
        refuses_key: bool,
    ) -> None:
        """See ``Permit.finish``."""
        if verdict is Verdict.RATE_LIMITED:
            self._record_refusal(permit)
        self.tokens.report(
            permit.token,
            verdict,
            # With up to 10 % jitter, so that accounts do not probe in step.
            pause=MAINTENANCE_PROBE_INTERVAL * self._runtime.random.uniform(1.0, 1.1),
            closed_for=retry_after if verdict is Verdict.RATE_LIMITED else None,
            error=None if error is None else dump_error(error),
            refuses_key=refuses_key,
        )
        self._grant()

    def record_account(self, verdict: Verdict, error: KieError | None = None, *, refuses_key: bool = False) -> None:
        """Close the gate if the service's answer about the account is MAINTENANCE or ACCOUNT."""
        text = None if error is None else dump_error(error)
        self.tokens.report(None, verdict, pause=MAINTENANCE_PROBE_INTERVAL, error=text, refuses_key=refuses_key)
        self._grant()

    def read_state(self) -> None:
        """Read the account's state at once: another worker has closed the gate."""
        self.tokens.read_again()
        self._grant()

    def abandon(self) -> None:
        """End all leases of the client's own state, because the event loop is over."""
        self.tokens.abandon()

    async def close(self) -> None:
        """Return unused leases, and report the others, at the end of the client."""
        await self.tokens.close()

    def _record_refusal(self, permit: Permit) -> None:
        # Refused probes are expected, and one warning for a burst is enough.
        if permit.token.probe or permit.granted_at <= self._warned_at:
            return
        self._warned_at = self.now()
        if self.journal.durable:
            _log.warning(
                "A create was refused by the rate limit (429) and will be sent again. Other programs that do not share"
                " this journal may be using the account: let them share it, or lower Limits(creates=…)."
            )
        else:
            _log.warning(
                "A create was refused by the rate limit (429) and will be sent again. Processes without a journal on"
                " disk share nothing: if several use the account, give all of them the same one, such as"
                " KieClient(journal='kie.db')."
            )

    def _grant(self) -> None:
        """Grant the permits that are possible now, and see that the next one follows."""
        while True:
            self._grant_leases()
            if not self.tokens.refresh(len(self._queue)):
                break
        self._end_waits(self.now())

    def _grant_leases(self) -> None:
        """Give the leases at hand to the first waiters."""
        while self._queue:
            waiter = self._queue[0][2]
            if waiter.granted.done():
                heapq.heappop(self._queue)
            elif (token := self.tokens.take()) is not None:
                heapq.heappop(self._queue)
                self._failed_since = None
                waiter.granted.set_result(Permit(token, self.now(), self))
            else:
                return

    def _fail_waits(self, error: JournalError) -> None:
        """End the waits if the journal cannot be used, and will not be for long."""
        now = self.now()
        if self._failed_since is None:
            self._failed_since = now
        if error.retryable and now < self._failed_since + self._unsent_timeout:
            return
        self._failed_since = None
        for _, _, waiter in self._queue:
            if not waiter.granted.done():
                waiter.granted.set_exception(error.copy())
        self._queue.clear()

    def _end_waits(self, now: float) -> None:
        """End the waits whose timeout for maintenance, or for a rate limit that refuses every create, is reached."""
        if self._next_end is not None:
            self._next_end.cancel()
            self._next_end = None
        ends: list[float] = []
        for reason, began_at in (
            (Verdict.MAINTENANCE, self.tokens.maintenance_since),
            (Verdict.RATE_LIMITED, self.tokens.refused_since),
        ):
            if began_at is None or not self._queue:
                continue
            timeout = self._timeouts[reason]
            if began_at + timeout > now:  # the earliest end of a wait
                ends.append(began_at + timeout)
                continue
            for waiter in [waiter for _, _, waiter in self._queue if not waiter.granted.done()]:
                if waiter.outlasts_maintenance and reason is Verdict.MAINTENANCE:
                    continue
                if (end := max(waiter.since, began_at) + timeout) <= now:
                    waiter.granted.set_result(reason)
                else:
                    ends.append(end)
        if ends:
            self._next_end = self._timers.at(min(ends), self._grant)
