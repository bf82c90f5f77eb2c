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
from collections.abc import Callable, Iterable

import attrs

from kie_async._core.gate import Gate
from kie_async._core.token_buckets import AdaptiveBucket, TokenLease
from kie_async._core.verdicts import Verdict
from kie_async._io.runtime import Runtime
from kie_async._io.timers import Timer, Timers
from kie_async.policy import Limits, RetryPolicy

__all__ = ["MAINTENANCE_PROBE_INTERVAL", "Admission", "Permit", "Slots"]

_log = logging.getLogger("kie_async")

#: The interval between two probes during maintenance, for the whole client, in seconds.
MAINTENANCE_PROBE_INTERVAL = 60.0
#: The lifetime of an unused permit, in seconds: longer than the timeout of a connection.
PERMIT_LIFETIME = 15.0
#: The longest time between the journaled SENDING of another process and the service's count, in seconds.
SENT_WITHIN = 1.0


class Slots:
    """
    The slots of running tasks, granted in order. The caller tracks whether it holds a slot.

    A slot belongs to a task, not to its waiters. A running task that was found in the journal takes a slot even if none
    is free; then new tasks wait until fewer are taken than the limit. (anyio's ``CapacityLimiter`` cannot do that.)

    Args:
        limit: The number of slots.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        #: The number of slots that are taken.
        self.taken: int = 0

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return len(self._queue)

    async def acquire(self) -> None:
        """Wait for a slot and take it."""
        if self.taken < self._limit and not self._queue:
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
        while self._queue and self.taken < self._limit:
            granted, _ = self._queue.popitem(last=False)
            if not granted.done():
                self.taken += 1
                granted.set_result(None)


@attrs.define(eq=False)
class Permit:
    """
    The right to send one create, once.

    Attributes:
        probe: True for the one request that a closed gate admits.

        lease: The lease of a token.
    """

    probe: bool
    lease: TokenLease
    _epoch: int
    _admission: Admission

    @property
    def granted_at(self) -> float:
        """The instant of the lease."""
        return self.lease.leased_at

    def is_usable(self) -> bool:
        """Return True if a create may be sent with this permit now."""
        fresh = self._admission.now() - self.granted_at <= PERMIT_LIFETIME
        return fresh and (self.probe or self._epoch == self._admission.gate.epoch)

    def record_write(self) -> None:
        """Record that the first byte is about to be written: from then on the service may count the request."""
        self._admission.bucket.mark_written(self.lease, self._admission.now())

    def finish(self, verdict: Verdict, *, retry_after: float | None = None) -> bool:
        """
        Record the verdict of the request; called once.

        Args:
            verdict: UNSENT cancels the lease, RATE_LIMITED expires the token, and any other verdict lets the token
                return one window from now, since the service has counted the request by now.

            retry_after: The value of ``Retry-After``, in seconds.

        Returns:
            True if this verdict has closed the gate until a probe succeeds. Of a burst that the account cannot pay,
            only the first refusal does: jobs requested since then may be payable.
        """
        return self._admission.finish_permit(self, verdict, retry_after)


@attrs.define(eq=False, order=False)
class _Waiter:
    position: int
    since: float
    outlasts_maintenance: bool
    granted: asyncio.Future[Permit | Verdict]


class Admission:
    """
    The slots, tokens and gate of one client.

    Args:
        limits: The account's limits.

        retry: The timeouts: ``maintenance_timeout`` bounds the wait of a job during maintenance, ``max_age`` that while
            the rate limit refuses every create.

        runtime: Clock and randomness.

        timers: Schedules the next grant.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        retry: RetryPolicy,
        runtime: Runtime,
        timers: Timers,
    ) -> None:
        self.slots: Slots = Slots(limits.in_flight)
        self.bucket: AdaptiveBucket = AdaptiveBucket(limits.creates, limits.window)
        self.gate: Gate = Gate()
        self._timeouts = {Verdict.MAINTENANCE: retry.maintenance_timeout, Verdict.RATE_LIMITED: retry.max_age}
        self.now: Callable[[], float] = runtime.now
        self._runtime = runtime
        self._timers = timers
        self._queue: list[tuple[int, int, _Waiter]] = []
        self._arrivals = 0
        self._next: Timer | None = None
        self._next_end: Timer | None = None
        self._warned_at = float("-inf")

    def restore_tokens(self, return_times: Iterable[float]) -> None:
        """
        Restore the tokens that an earlier event loop has used: the service still counts them.

        Args:
            return_times: The instants at which they return, by the wall clock; each counts as at most one window from
                now, so that a clock that was set back does not extend it.
        """
        now, wall, window = self.now(), self._runtime.wall(), self.bucket.window
        # The bucket accepts as many as it has tokens: those that return last.
        for until in sorted(return_times, reverse=True):
            if until > wall:
                self.bucket.restore_token(counted_at=now + min(until - wall, window) - window)

    def restore_creates(self, sent_at: Iterable[float]) -> None:
        """
        Count the creates that an ended process has sent: the service still counts them.

        Args:
            sent_at: The instant before each was sent, by the wall clock.
        """
        self.restore_tokens(at + SENT_WITHIN + self.bucket.window for at in sent_at)

    def token_return_times(self) -> list[float]:
        """Return the argument of ``restore_tokens`` for the next event loop."""
        now, wall = self.now(), self._runtime.wall()
        return [wall + due - now for due in self.bucket.return_times(now)]

    def record_round_trip(self, seconds: float) -> None:
        """
        Learn the upper bound of a request's travel time from a poll.

        Args:
            seconds: The time from the request to its response.
        """
        self.bucket.learn_round_trip(seconds, answered_at=self.now())
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
        """
        waiter = _Waiter(position, since, outlasts_maintenance, asyncio.get_running_loop().create_future())
        self._arrivals += 1
        heapq.heappush(self._queue, (position, self._arrivals, waiter))
        self._grant()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            # It may have been granted and cancelled in the same turn of the loop.
            if not waiter.granted.cancelled() and isinstance(permit := waiter.granted.result(), Permit):
                permit.finish(Verdict.UNSENT)
            self._grant()
            raise

    def finish_permit(self, permit: Permit, verdict: Verdict, retry_after: float | None) -> bool:
        """See ``Permit.finish``."""
        now, epoch = self.now(), self.gate.epoch
        if verdict is Verdict.UNSENT:
            self.bucket.cancel_lease(permit.lease)
        elif verdict is Verdict.RATE_LIMITED:
            self._record_refusal(permit, now)
        else:
            # Any other response has passed the rate limit.
            self.bucket.consume_token(permit.lease, answered_at=now, passed=verdict is not Verdict.IN_DOUBT)
        # One probe a minute for the whole client, with up to 10 % jitter, so that a fleet does not probe in step.
        pause = MAINTENANCE_PROBE_INTERVAL * self._runtime.random.uniform(1.0, 1.1)
        self.gate.record_verdict(verdict, now=now, admitted_at=permit.granted_at, probe=permit.probe, pause=pause)
        if verdict is Verdict.RATE_LIMITED and retry_after is not None:
            self.gate.close_until(now + retry_after)
        self._grant()
        return self.gate.epoch != epoch

    def record_account(self, verdict: Verdict) -> None:
        """Close the gate if the service's answer about the account is MAINTENANCE or ACCOUNT."""
        now = self.now()
        pause = MAINTENANCE_PROBE_INTERVAL
        self.gate.record_verdict(verdict, now=now, admitted_at=now, probe=False, pause=pause)
        self._grant()

    def _record_refusal(self, permit: Permit, now: float) -> None:
        self.bucket.expire_token(permit.lease, now=now)
        # Refused probes are expected, and one warning for a burst is enough.
        if not permit.lease.probe and permit.granted_at > self._warned_at:
            self._warned_at = now
            _log.warning(
                "A create was refused by the rate limit (429) and will be sent again. Other programs may be using the"
                " account: give each its share with Limits(creates=…)."
            )

    def _grant(self) -> None:
        """Grant the permits that are possible now, and schedule the next one."""
        now = self.now()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        while self._queue:
            waiter = self._queue[0][2]
            if waiter.granted.done():
                heapq.heappop(self._queue)
                continue
            token_at, gate_at = self.bucket.ready_at(now), self.gate.opens_at(now)
            if token_at is None or gate_at is None:
                break  # the next response calls this method again
            if (ready_at := max(token_at, gate_at)) > now:
                self._next = self._timers.at(ready_at, self._grant)
                break
            heapq.heappop(self._queue)
            probe = self.gate.admit(now)
            waiter.granted.set_result(Permit(probe, self.bucket.lease_token(now), self.gate.epoch, self))
        self._end_waits(now)

    def _end_waits(self, now: float) -> None:
        """End the waits whose timeout for maintenance, or for a rate limit that refuses every create, is reached."""
        if self._next_end is not None:
            self._next_end.cancel()
            self._next_end = None
        ends: list[float] = []
        for reason, began_at in (
            (Verdict.MAINTENANCE, self.gate.maintenance_since),
            (Verdict.RATE_LIMITED, self.bucket.refused_since),
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
