"""
The poller of a client: due polls share one pacer, and urgent polls go first.

There is no coroutine for each job: a due poll starts as soon as the pacer allows it. A poll that takes longer than
answers usually take is abandoned and repeated. See docs/explanation/polling.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import attrs
from tenacity import wait_exponential

from kie_async import errors
from kie_async._core.job_errors import closed_error
from kie_async._core.poll_results import PollResult, PollVerdict, judge_poll
from kie_async._core.polling import RoundTripTimeout
from kie_async._core.token_buckets import WindowBucket
from kie_async._core.verdicts import is_from_gateway
from kie_async._core.wire import read_record_body
from kie_async._io.http.backoff import pause_after
from kie_async._io.http.transport import MAX_CONCURRENT, POLL_TIMEOUT, Transport
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.polling.watchlist import Watch, Watchlist
from kie_async._io.runtime import Supervisor
from kie_async._io.timers import Timer, Timers

__all__ = ["Poller"]

#: The number of urgent polls in a row while others are due.
URGENT_IN_A_ROW = 4
#: The number of times that an urgent poll is repeated; the last one has all the time that is left.
_URGENT_REPEATS = 2
#: The number of times that the timeout of a job doubles; more would exceed every bound.
_MAX_DOUBLINGS = 4
#: The pause after a refusal, in seconds.
_REFUSAL_BACKOFF = wait_exponential(multiplier=1.0, max=10.0)


@attrs.define(eq=False, kw_only=True)
class _UrgentPoll:
    """
    A poll that a caller waits for.

    Attributes:
        task_id: The task.

        result: The future of its result.

        time_left: The time that its requests may still take, in seconds; the wait for the pacer does not count.

        timeouts: The number of requests that have timed out.
    """

    task_id: str
    result: asyncio.Future[PollResult]
    time_left: float = POLL_TIMEOUT
    timeouts: int = 0

    def fail(self, error: Exception) -> None:
        """Raise an error at the caller, if it still waits."""
        if not self.result.done():
            self.result.set_exception(error)


@attrs.define(eq=False, repr=False, kw_only=True, slots=False)
class Poller:
    """
    Polls tasks.

    Args:
        transport: Sends the polls.

        polls_per_second: The rate of all polls together.

        watchlist: Plans the polls.

        loop: The event loop.

        timers: The timer queue.

        supervisor: Runs the polls.

        on_poll: Awaited with the result of each planned poll.

        on_round_trip: Called with the seconds that each answered poll has taken.

        on_gateway_answer: Called after each answer that a gateway or a proxy has given in place of the service.
    """

    transport: Transport
    polls_per_second: float
    watchlist: Watchlist
    loop: asyncio.AbstractEventLoop
    timers: Timers
    supervisor: Supervisor
    on_poll: Callable[[LiveJob, PollResult], Awaitable[None]]
    on_round_trip: Callable[[float], None]
    on_gateway_answer: Callable[[], None] = lambda: None
    pacer: WindowBucket = attrs.field(init=False)
    #: The pacer of planned polls, in which workers share the account's: each needs a token of both.
    _share: WindowBucket = attrs.field(init=False)
    #: The number of answered polls.
    polls: int = attrs.field(default=0, init=False)
    _timeout: RoundTripTimeout = attrs.field(factory=RoundTripTimeout, init=False)
    _urgent: deque[_UrgentPoll] = attrs.field(factory=deque, init=False)
    _urgent_in_a_row: int = attrs.field(default=0, init=False)
    _on_wire: int = attrs.field(default=0, init=False)
    _timer: Timer | None = attrs.field(default=None, init=False)
    _paused_until: float = attrs.field(default=float("-inf"), init=False)
    _refused_at: float = attrs.field(default=float("-inf"), init=False)
    _refusals: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.watchlist.on_due = self._start_polls
        # Response-stamped like the creates, so that a slow answer never lets two seconds' worth into one.
        tokens = max(1, round(self.polls_per_second))
        self.pacer = WindowBucket(tokens, tokens / self.polls_per_second)
        self._share = WindowBucket(tokens, tokens / self.polls_per_second)

    def set_share(self, polls_per_second: float) -> None:
        """Change the rate of planned polls; urgent ones are few, and any worker may get all callbacks."""
        tokens = max(1, round(polls_per_second))
        self._share.resize(tokens, tokens / polls_per_second)
        self._start_polls()

    async def poll_now(self, task_id: str) -> PollResult:
        """
        Poll a task once, ahead of most planned polls.

        Raises:
            TransportError: If no complete answer came.
        """
        if not self.supervisor.running:
            raise closed_error(task_id=task_id)
        poll = _UrgentPoll(task_id=task_id, result=self.loop.create_future())
        self._urgent.append(poll)
        self._start_polls()
        return await poll.result

    def close(self) -> None:
        """End the waits of all urgent polls."""
        while self._urgent:
            poll = self._urgent.popleft()
            poll.fail(closed_error(task_id=poll.task_id))

    def _start_polls(self) -> None:
        """Start as many polls as the pacer allows, and come back when it allows more."""
        if not self.supervisor.running:
            return
        now = self.loop.time()
        while self._on_wire < MAX_CONCURRENT and (self._urgent or self.watchlist.due):
            urgent = bool(self._urgent) and (self._urgent_in_a_row < URGENT_IN_A_ROW or not self._may_plan(now))
            ready_at = self.pacer.ready_at(now)
            if ready_at is not None and not urgent:
                share_at = self._share.ready_at(now)
                ready_at = None if share_at is None else max(ready_at, share_at)
            # After a refusal, one poll at a time probes whether the limit is over.
            if ready_at is None or (self._refusals and self.pacer.in_use):
                return  # the poll in progress calls this method when it ends
            if (ready_at := max(ready_at, self._paused_until)) > now:
                self._start_polls_at(ready_at)
                return
            if urgent:
                poll = self._urgent.popleft()
                if not poll.result.done():
                    self._urgent_in_a_row = self._urgent_in_a_row + 1 if self.watchlist.due else 0
                    self._begin_poll(now)
                    self.supervisor.start(self._run_urgent_poll, poll)
            else:
                self._urgent_in_a_row = 0
                self._begin_poll(now)
                self._share.use_token(now)
                self.supervisor.start(self._run_planned_poll, self.watchlist.pop_due(now))

    def _may_plan(self, now: float) -> bool:
        """Return True if a planned poll is due, and this worker's share allows it."""
        return bool(self.watchlist.due) and self._share.ready_at(now) == now

    def _begin_poll(self, now: float) -> None:
        self.pacer.use_token(now)
        self._on_wire += 1

    def finish_poll(self, *, answered_at: float, planned: bool = False) -> None:
        """Return the tokens of a poll that has ended."""
        self._on_wire -= 1
        self.pacer.return_token(answered_at=answered_at)
        if planned:
            self._share.return_token(answered_at=answered_at)

    def plan_next_poll(self, watch: Watch) -> None:
        """Plan the next poll of a job whose poll has ended, if it is still watched."""
        if watch.job.watch is watch:
            self.watchlist.plan_poll(watch)

    def _start_polls_at(self, instant: float) -> None:
        if self._timer is not None and self._timer.action is not None:
            if self._timer.at <= instant:
                return  # it will schedule itself again, if it is too early
            self._timer.cancel()
        self._timer = self.timers.at(instant, self._start_polls)

    # -- one poll ---------------------------------------------------------------------------------------------------

    async def _run_urgent_poll(self, poll: _UrgentPoll) -> None:
        timeout = poll.time_left
        if poll.timeouts < _URGENT_REPEATS:
            timeout = min(self._timeout_after(poll.timeouts), timeout)
        until = self.loop.time() + timeout
        try:
            result = await self._send_poll(poll.task_id, until)
        except errors.TransportError as error:
            poll.time_left -= timeout
            if self.loop.time() >= until and poll.time_left > 0.0:
                poll.timeouts += 1
                self._urgent.appendleft(poll)
                self._start_polls()
            else:
                poll.fail(error)
        except Exception as error:  # noqa: BLE001 (it is raised at the caller that waits)
            poll.fail(error)
        except BaseException:
            poll.fail(closed_error(task_id=poll.task_id))
            raise
        else:
            if not poll.result.done():
                poll.result.set_result(result)

    async def _run_planned_poll(self, watch: Watch) -> None:
        job, watch.began_at = watch.job, (began_at := self.loop.time())
        until = began_at + self._timeout_after(watch.timeouts)
        result, timed_out = PollResult(PollVerdict.UNREADABLE), False
        try:
            try:
                result = await self._send_poll(job.task_id or "", until, planned=True)
            except errors.TransportError as error:
                result = PollResult(PollVerdict.UNREADABLE, reason=error.message)
                timed_out = self.loop.time() >= until
            finally:
                watch.timeouts = watch.timeouts + 1 if timed_out else 0
                if not timed_out and result.verdict is not PollVerdict.RATE_LIMITED:
                    # The next poll is a full interval away, also after an unreadable answer. A poll that timed out or
                    # was refused does not count: its job is as overdue as before.
                    watch.running_at = max(watch.running_at, began_at)
            await self.on_poll(job, result)
        finally:
            # After any error, for example in a hook of the caller's own session, the task is still polled.
            self.plan_next_poll(watch)

    def _timeout_after(self, timeouts: int) -> float:
        # Double only after the second consecutive timeout: single timeouts are common, slow answers are not.
        doublings = min(max(0, timeouts - 1), _MAX_DOUBLINGS)
        return min(POLL_TIMEOUT, self._timeout.seconds * 2.0**doublings)

    async def _send_poll(self, task_id: str, until: float, *, planned: bool = False) -> PollResult:
        began_at = self.loop.time()
        try:
            answer = await self.transport.poll(task_id, timeout=until - began_at)
            self.polls += 1
            round_trip = self.loop.time() - began_at
            self._timeout.record_round_trip(round_trip)
            self.on_round_trip(round_trip)
            envelope, record = read_record_body(answer.body)
            result = judge_poll(task_id=task_id, status=answer.status, envelope=envelope, record=record)
            if result.verdict is PollVerdict.UNREADABLE:
                head = answer.body[:64].decode("utf-8", "replace")
                if is_from_gateway(answer.status, None if envelope is None else envelope.code, head):
                    self.on_gateway_answer()
            if result.verdict is not PollVerdict.RATE_LIMITED:
                self._refusals = 0
            elif began_at >= self._refused_at:
                # Of several polls refused at once, only the first refusal counts.
                self._refusals += 1
                self._refused_at = self.loop.time()
                pause = answer.retry_after or pause_after(_REFUSAL_BACKOFF, self._refusals)
                self._paused_until = max(self._paused_until, self._refused_at + pause)
        finally:
            self.finish_poll(answered_at=self.loop.time(), planned=planned)
            self._start_polls()
        return result
