"""
Permission to create: first a slot, then the shared gate with a token, first come, first served.

A slot belongs to the remote task: it is taken by the owner of an intent and given back when the task has ended. A
token is lent for one request. Both queues are in the order in which the jobs were asked for, and a job that is refused
keeps its place.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math

import attrs
from tenacity import wait_exponential

from kie_async._core.gate import Gate
from kie_async._core.verdicts import Verdict
from kie_async._core.window import WindowBucket
from kie_async._io.agenda import Agenda, Entry
from kie_async._io.clock import Surroundings
from kie_async._io.retrying import pause_after
from kie_async._io.slots import Slots
from kie_async.policy import Limits

__all__ = ["MAINTENANCE_PROBE_EVERY", "Admission", "Permit"]

_log = logging.getLogger("kie_async")

#: One probe a minute for the whole client, and up to a tenth more, so that a fleet does not probe in step.
MAINTENANCE_PROBE_EVERY = 60.0
#: A token that is not used by then is given back: longer than a connection may take to be made.
TOKEN_BEST_BEFORE = 15.0


@attrs.define(eq=False)
class Permit:
    """
    The right to send one create, once.

    Attributes:
        granted_at: When the token was taken.

        probe: Whether it is the one request that a closed gate lets through.
    """

    granted_at: float
    probe: bool
    _epoch: int
    _admission: Admission

    def still_good(self) -> bool:
        """Whether a create may be sent under it now."""
        return self._admission._still_good(self._epoch, self.granted_at, probe=self.probe)  # noqa: SLF001 (a permit is a part of it)

    def end(self, verdict: Verdict, *, retry_after: float | None = None) -> bool:
        """
        Say how the request went; called once.

        Args:
            verdict: UNSENT gives the token back, all else lets it return a window from now.

            retry_after: What the service asked for, in seconds.

        Returns:
            Whether it has closed the gate until a probe succeeds. Of a burst that the account cannot pay, only the
            first refusal does: what was asked for since then may be for the account as it is by now.
        """
        return self._admission._end(self, verdict, retry_after)  # noqa: SLF001


@attrs.define(eq=False, order=False)
class _Waiter:
    place: int
    since: float
    granted: asyncio.Future[Permit | None]


class Admission:
    """
    Slots, tokens and the gate of one client.

    Args:
        limits: How many creates in which window, and how many tasks at once.

        patience: For how long, in seconds, a job waits behind maintenance.

        loop: The loop.

        surroundings: Clock and randomness.

        agenda: Where timers go.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        patience: float,
        loop: asyncio.AbstractEventLoop,
        surroundings: Surroundings,
        agenda: Agenda,
    ) -> None:
        self.slots = Slots(limits.in_flight)
        self.bucket = WindowBucket(limits.creates, limits.window)
        self.gate = Gate()
        self._patience = patience
        self._loop = loop
        self._surroundings = surroundings
        self._agenda = agenda
        self._queue: list[tuple[int, int, _Waiter]] = []
        self._arrivals = 0
        self._next: Entry | None = None
        self._expiry: Entry | None = None
        # 429 again and again: 1, 2, 4 ... seconds, up to a window, in which a full set of tokens has come back.
        self._refused_wait = wait_exponential(multiplier=1.0, max=limits.window)

    def carry(self, spent_until: list[float]) -> None:
        """
        Take over what an earlier event loop has spent: the service counts on.

        Args:
            spent_until: When each token is free, by the wall clock; a clock that was set back does not stretch them.
        """
        now, wall = self._loop.time(), self._surroundings.wall()
        for until in spent_until:
            if until > wall:
                self.bucket.carry(due_at=now + min(until - wall, self.bucket.window))

    def spent_until(self) -> list[float]:
        """What ``carry`` takes over."""
        now, wall = self._loop.time(), self._surroundings.wall()
        return [wall + due - now for due in self.bucket.dues(now)]

    @property
    def waiting(self) -> int:
        """How many owners wait for a permit."""
        return sum(not waiter.granted.done() for _, _, waiter in self._queue)

    def refused_for(self) -> float:
        """For how long, in seconds, the rate limit has refused every create; 0 if it does not."""
        return self._loop.time() - self.gate.refused_since if self.gate.refusals else 0.0

    async def permit(self, place: int, *, since: float) -> Permit | None:
        """
        Wait for the gate and a token.

        Args:
            place: The job's place in the queue; lower goes first.

            since: When the job was asked for; its patience with maintenance does not count from before that. Infinity
                for one that waits for as long as it takes.

        Returns:
            The permit, or None if maintenance has outlasted the patience.
        """
        waiter = _Waiter(place, since, self._loop.create_future())
        self._arrivals += 1
        heapq.heappush(self._queue, (place, self._arrivals, waiter))
        self._pump()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            # The grant and the cancellation may have met in one turn of the loop.
            if not waiter.granted.cancelled() and (permit := waiter.granted.result()) is not None:
                permit.end(Verdict.UNSENT)
            self._pump()
            raise

    def _still_good(self, epoch: int, granted_at: float, *, probe: bool) -> bool:
        fresh = self._loop.time() - granted_at <= TOKEN_BEST_BEFORE
        return fresh and (probe or epoch == self.gate.epoch)

    def _end(self, permit: Permit, verdict: Verdict, retry_after: float | None) -> bool:
        now, epoch, refusals = self._loop.time(), self.gate.epoch, self.gate.refusals
        if verdict is Verdict.UNSENT:
            self.bucket.give_back()
        else:
            self.bucket.spent(answered_at=now)
        self.gate.leave(verdict, now=now, entered_at=permit.granted_at, probe=permit.probe, pause=self._pause(verdict))
        if verdict is Verdict.RATE_LIMITED and retry_after is not None:
            self.gate.hold(now + retry_after)
        if self.gate.refusals > refusals:
            _log.warning(
                "A create was refused for coming too fast (429), and will be sent again. Other programs may be using"
                " the account: Limits(creates=…) gives each its share."
            )
        self._pump()
        return self.gate.epoch != epoch

    def _pause(self, verdict: Verdict) -> float:
        if verdict is Verdict.RATE_LIMITED:
            return pause_after(self._refused_wait, self.gate.refusals + 1)
        return MAINTENANCE_PROBE_EVERY * self._surroundings.random.uniform(1.0, 1.1)

    def _pump(self) -> None:
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
            token_at, gate_at = self.bucket.ready_at(now), self.gate.ready_at(now)
            if token_at is None or gate_at is None:
                break  # an answer that is under way comes back here
            if (ready_at := max(token_at, gate_at)) > now:
                self._next = self._agenda.at(ready_at, self._pump)
                break
            heapq.heappop(self._queue)
            probe = self.gate.enter(now)
            self.bucket.take(now)
            waiter.granted.set_result(Permit(now, probe, self.gate.epoch, self))
        self._expire(now)

    def _expire(self, now: float) -> None:
        """End the waits that maintenance has outlasted."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if (maintenance_since := self.gate.maintenance_since) is None:
            return
        pending = [waiter for _, _, waiter in self._queue if not waiter.granted.done()]
        for waiter in pending:
            if max(waiter.since, maintenance_since) + self._patience <= now:
                waiter.granted.set_result(None)
        ends = [max(w.since, maintenance_since) + self._patience for w in pending if not w.granted.done()]
        if (first := min(ends, default=math.inf)) < math.inf:
            self._expiry = self._agenda.at(first, self._pump)
