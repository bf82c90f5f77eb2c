"""
Permission to create: first a slot, then the shared gate with a token, first come, first served.

A slot belongs to the remote task: it is taken by the owner of an intent and given back when the task has ended. A
token is lent for one request. Both queues are in the order in which the jobs were asked for, and a job that is refused
keeps its place: it is the first to be sent again, by the next token that there is.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import attrs

from kie_async._core.gate import Gate
from kie_async._core.token_buckets import AdaptiveBucket, TokenLease
from kie_async._core.verdicts import Verdict
from kie_async._io.runtime import Runtime
from kie_async._io.timers import Timer, Timers
from kie_async.policy import Limits

__all__ = ["MAINTENANCE_PROBE_EVERY", "Admission", "Permit", "Slots"]

_log = logging.getLogger("kie_async")

#: Seconds between two probes behind maintenance, for the whole client.
MAINTENANCE_PROBE_EVERY = 60.0
#: A token that is not used by then is given back: longer than a connection may take to be made.
TOKEN_BEST_BEFORE = 15.0
#: What was found in a journal was counted by the service within so many seconds after it was written down as sent.
SENT_WITHIN = 1.0


class Slots:
    """
    Counts running tasks; whoever takes a slot knows whether he has one.

    Args:
        limit: How many new tasks may run at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        #: How many slots are taken.
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many wait for one."""
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
                self.release()  # the grant and the cancellation have met in one turn of the loop
            raise

    def occupy(self) -> None:
        """Take a slot for a task that runs already, whether there is one or not."""
        self.taken += 1

    def release(self) -> None:
        """
        Give a slot back.

        Raises:
            ValueError: If none is taken: somebody has given his back twice.
        """
        if not self.taken:
            msg = "no slot is taken"
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
        probe: Whether it is the one request that a closed gate lets through.

        lease: The token, and when it was taken.
    """

    probe: bool
    lease: TokenLease
    _epoch: int
    _admission: Admission

    @property
    def granted_at(self) -> float:
        """When the token was taken."""
        return self.lease.leased_at

    def is_usable(self) -> bool:
        """Whether a create may be sent under it now."""
        return self._admission.is_permit_usable(self._epoch, self.granted_at, probe=self.probe)

    def record_write(self) -> None:
        """
        Say that the first byte is about to be written: from then on the service counts.
        """
        self._admission.record_permit_write(self)

    def finish(self, verdict: Verdict, *, retry_after: float | None = None) -> bool:
        """
        Say how the request went; called once.

        Args:
            verdict: UNSENT gives the token back, RATE_LIMITED burns it, all else lets it return a window after the
                service has counted the request, which is by now.

            retry_after: What the service asked for, in seconds.

        Returns:
            Whether it has closed the gate until a probe succeeds. Of a burst that the account cannot pay, only the
            first refusal does: what was asked for since then may be for the account as it is by now.
        """
        return self._admission.finish_permit(self, verdict, retry_after)


@attrs.define(eq=False, order=False)
class _Waiter:
    place: int
    since: float
    outlasts_maintenance: bool
    granted: asyncio.Future[Permit | Verdict]


class Admission:
    """
    Slots, tokens and the gate of one client.

    Args:
        limits: How many creates in which window, and how many tasks at once.

        patience: For how long, in seconds, a job waits behind maintenance, and for how long while the rate limit
            refuses every create.

        loop: The loop.

        runtime: Clock and randomness.

        timers: Where timers go.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        timeouts: Mapping[Verdict, float],
        loop: asyncio.AbstractEventLoop,
        runtime: Runtime,
        timers: Timers,
    ) -> None:
        self.slots = Slots(limits.in_flight)
        self.bucket = AdaptiveBucket(limits.creates, limits.window)
        self.gate = Gate()
        self._timeouts = timeouts
        self._loop = loop
        self._runtime = runtime
        self._timers = timers
        self._queue: list[tuple[int, int, _Waiter]] = []
        self._arrivals = 0
        self._next: Timer | None = None
        self._expiry: Timer | None = None
        self._warned_at = float("-inf")

    def restore_tokens(self, spent_until: Iterable[float]) -> None:
        """
        Take over what an earlier event loop has spent: the service counts on.

        Args:
            spent_until: When each token is free, by the wall clock; a clock that was set back does not stretch them.
        """
        now, wall, window = self._loop.time(), self._runtime.wall(), self.bucket.window
        # The bucket takes as many as there are tokens: the ones that are spent for longest.
        for until in sorted(spent_until, reverse=True):
            if until > wall:
                self.bucket.restore_token(counted_at=now + min(until - wall, window) - window)

    def restore_creates(self, sent_at: Iterable[float]) -> None:
        """
        Start with care after a process that has sent creates and is gone: they count.

        Args:
            sent_at: When each was about to be sent, by the wall clock.
        """
        self.restore_tokens(at + SENT_WITHIN + self.bucket.window for at in sent_at)

    def token_return_times(self) -> list[float]:
        """What ``restore_tokens`` takes over."""
        now, wall = self._loop.time(), self._runtime.wall()
        return [wall + due - now for due in self.bucket.return_times(now)]

    def record_round_trip(self, seconds: float) -> None:
        """
        Learn from a look how long a request travels at the most.

        Args:
            seconds: From the look to its answer.
        """
        self.bucket.learn_round_trip(seconds, answered_at=self._loop.time())
        if self._queue:
            self._grant()

    @property
    def waiting(self) -> int:
        """How many owners wait for a permit."""
        return sum(not waiter.granted.done() for _, _, waiter in self._queue)

    async def acquire_permit(self, place: int, *, since: float, outlasts_maintenance: bool = False) -> Permit | Verdict:
        """
        Wait for the gate and a token.

        Args:
            place: The job's place in the queue; lower goes first.

            since: When the job was asked for; its patience does not count from before that.

            outlasts_maintenance: Whether it waits behind maintenance for as long as it takes.

        Returns:
            The permit; or what has outlasted the patience, MAINTENANCE or RATE_LIMITED.
        """
        waiter = _Waiter(place, since, outlasts_maintenance, self._loop.create_future())
        self._arrivals += 1
        heapq.heappush(self._queue, (place, self._arrivals, waiter))
        self._grant()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            # The grant and the cancellation may have met in one turn of the loop.
            if not waiter.granted.cancelled() and isinstance(permit := waiter.granted.result(), Permit):
                permit.finish(Verdict.UNSENT)
            self._grant()
            raise

    def is_permit_usable(self, epoch: int, granted_at: float, *, probe: bool) -> bool:
        fresh = self._loop.time() - granted_at <= TOKEN_BEST_BEFORE
        return fresh and (probe or epoch == self.gate.epoch)

    def record_permit_write(self, permit: Permit) -> None:
        self.bucket.mark_written(permit.lease, self._loop.time())

    def finish_permit(self, permit: Permit, verdict: Verdict, retry_after: float | None) -> bool:
        now, epoch = self._loop.time(), self.gate.epoch
        if verdict is Verdict.UNSENT:
            self.bucket.cancel_lease(permit.lease)
        elif verdict is Verdict.RATE_LIMITED:
            self._record_refusal(permit, now)
        else:
            # Whatever else the service has answered: the rate limit has let it pass.
            self.bucket.consume_token(permit.lease, answered_at=now, passed=verdict is not Verdict.IN_DOUBT)
        # One probe a minute for the whole client, and up to a tenth more, so that a fleet does not probe in step.
        pause = MAINTENANCE_PROBE_EVERY * self._runtime.random.uniform(1.0, 1.1)
        self.gate.record_verdict(verdict, now=now, admitted_at=permit.granted_at, probe=permit.probe, pause=pause)
        if verdict is Verdict.RATE_LIMITED and retry_after is not None:
            self.gate.close_until(now + retry_after)
        self._grant()
        return self.gate.epoch != epoch

    def _record_refusal(self, permit: Permit, now: float) -> None:
        self.bucket.expire_token(permit.lease, now=now)
        # Probes are refused as a matter of course; and of a burst, the first refusal says it all.
        if not permit.lease.probe and permit.granted_at > self._warned_at:
            self._warned_at = now
            _log.warning(
                "A create was refused for coming too fast (429), and will be sent again. Other programs may be using"
                " the account: Limits(creates=…) gives each its share."
            )

    def _grant(self) -> None:
        """Grant what can be granted now, and set the timer for what comes next."""
        now = self._loop.time()
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
                break  # an answer that is under way comes back here
            if (ready_at := max(token_at, gate_at)) > now:
                self._next = self._timers.at(ready_at, self._grant)
                break
            heapq.heappop(self._queue)
            probe = self.gate.admit(now)
            waiter.granted.set_result(Permit(probe, self.bucket.lease_token(now), self.gate.epoch, self))
        self._end_waits(now)

    def _end_waits(self, now: float) -> None:
        """End the waits that maintenance, or the rate limit that refuses every create, has outlasted."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        ends: list[float] = []
        for reason, began_at in (
            (Verdict.MAINTENANCE, self.gate.maintenance_since),
            (Verdict.RATE_LIMITED, self.bucket.refused_since),
        ):
            if began_at is None or not self._queue:
                continue
            patience = self._timeouts[reason]
            if began_at + patience > now:  # nobody's ends before that
                ends.append(began_at + patience)
                continue
            for waiter in [waiter for _, _, waiter in self._queue if not waiter.granted.done()]:
                if waiter.outlasts_maintenance and reason is Verdict.MAINTENANCE:
                    continue
                if (end := max(waiter.since, began_at) + patience) <= now:
                    waiter.granted.set_result(reason)
                else:
                    ends.append(end)
        if ends:
            self._expiry = self._timers.at(min(ends), self._grant)
