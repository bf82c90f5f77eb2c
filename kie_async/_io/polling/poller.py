"""
The one place that looks at running tasks: looks that are due wait together for one pacer, and urgent looks go first.

There is no loop and no task per job: a look that is due runs as soon as the pacer lets it.

A look that has got no answer for longer than answers usually take is given up and made again, and if that one is silent
too, each further one with twice the patience: to look costs nothing, a connection that has gone silent is left behind,
and neither the task nor the pacer's token is held up for longer than that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import attrs
from tenacity import wait_exponential

from kie_async import errors
from kie_async._core.durations import DurationsByKind
from kie_async._core.job_errors import closed_error
from kie_async._core.poll_results import PollResult, PollVerdict, judge_poll
from kie_async._core.polling import PollingPolicy, RoundTripTimeout
from kie_async._core.token_buckets import WindowBucket
from kie_async._core.wire import read_record_body
from kie_async._io.http.backoff import pause_after
from kie_async._io.http.transport import MAX_CONCURRENT, POLL_TIMEOUT, Transport
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.polling.watchlist import Watch, Watchlist
from kie_async._io.supervisor import Supervisor
from kie_async._io.timers import Timer, Timers
from kie_async.records import TaskRecord

__all__ = ["Poller"]

#: Urgent looks in a row while others are due.
URGENT_IN_A_ROW = 4
#: How often an urgent look is made again; the last one has all the time that is left.
_URGENT_REPEATS = 2
#: Of the patience with a job that is silent; more would be beyond every bound.
_MOST_DOUBLINGS = 4


@attrs.define(eq=False, kw_only=True)
class _Question:
    """
    An urgent look that somebody waits for.

    Attributes:
        task_id: Whose.

        answer: Where it is told.

        left: How long its looks may still be on the wire, in seconds; the wait for its turn does not count.

        silences: How many looks have got no answer.
    """

    task_id: str
    answer: asyncio.Future[PollResult]
    left: float = POLL_TIMEOUT
    silences: int = 0

    def fail(self, error: Exception) -> None:
        """Tell why there is no answer, if anybody still wants to know."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Poller:
    """
    Looks at tasks.

    Args:
        transport: What carries the looks.

        polls_per_second: How many looks the pacer allows.

        policy: When a task is due, and which goes first.

        durations: What is known of how long tasks take.

        loop: The loop.

        timers: Where timers go.

        supervisor: What looks run in.

        on_poll: Awaited with each poll of a watched job.

        on_round_trip: Called with the seconds that each answered poll has taken.

        weigh: Returns the weight of a job's polls, above 0 and up to 1: the chance that nothing else reports its end.
            ``replan`` follows each large change.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        polls_per_second: float,
        policy: PollingPolicy,
        durations: DurationsByKind,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        supervisor: Supervisor,
        on_poll: Callable[[LiveJob, PollResult], Awaitable[None]],
        on_round_trip: Callable[[float], None],
        weigh: Callable[[LiveJob], float],
    ) -> None:
        self._on_poll = on_poll
        self._on_round_trip = on_round_trip
        self._transport = transport
        self._loop = loop
        self._timers = timers
        self._supervisor = supervisor
        self._list = Watchlist(
            policy=policy, durations=durations, loop=loop, timers=timers, when_due=self._pump, weigh=weigh
        )
        tokens = max(1, round(polls_per_second))
        # Response-stamped like the creates, so that a slow answer never lets two seconds' worth into one.
        self.pacer = WindowBucket(tokens, tokens / polls_per_second)
        self._round_trips = RoundTripTimeout()
        self._urgent: deque[_Question] = deque()
        self._urgent_in_a_row = 0
        self._on_wire = 0
        self._next: Timer | None = None
        self._closed_until = float("-inf")
        self._refused_at = float("-inf")
        self._refusals = 0
        self._refused_wait = wait_exponential(multiplier=1.0, max=10.0)
        self.polls = 0

    @property
    def due(self) -> int:
        """How many looks are due."""
        return len(self._list.due)

    @property
    def watched(self) -> int:
        """How many jobs are looked at."""
        return self._list.watched

    def watch(self, job: LiveJob) -> None:
        """
        Look at a job from now on, until ``unwatch``.

        Raises:
            ValueError: If it has no taskId.
        """
        self._list.watch(job)

    def unwatch(self, job: LiveJob) -> None:
        """Look at a job no more; what a look brings that is under way is told all the same."""
        self._list.unwatch(job)

    def saw(self, job: LiveJob, record: TaskRecord) -> None:
        """Take in a record of a job's task that has not ended, whoever has asked for it."""
        self._list.saw(job, record)

    def learn(self, job: LiveJob, record: TaskRecord) -> None:
        """Take in how long a job's task has taken; called once for each, with the record of its end."""
        self._list.learn(job, record)

    def replan(self, jobs: Iterable[LiveJob]) -> None:
        """Weigh *jobs* anew, and plan the looks at those whose weight has changed; a few at a time."""
        self._list.replan(jobs)

    def awaited(self, job: LiveJob) -> None:
        """Say that somebody has begun to wait for a job: it is looked at before those that nobody waits for."""
        self._list.weigh_anew(job)

    async def poll_now(self, task_id: str) -> PollResult:
        """
        Look at a task once, before most looks that are merely due.

        Raises:
            TransportError: If no complete answer came.
        """
        if not self._supervisor.running:
            raise closed_error(task_id=task_id)
        question = _Question(task_id=task_id, answer=self._loop.create_future())
        self._urgent.append(question)
        self._pump()
        return await question.answer

    def close(self) -> None:
        """End the waits of all who wait for a look of their own."""
        while self._urgent:
            question = self._urgent.popleft()
            question.fail(closed_error(task_id=question.task_id))

    def _pump(self) -> None:
        if not self._supervisor.running:
            return
        now = self._loop.time()
        while self._on_wire < MAX_CONCURRENT and (self._urgent or self._list.due):
            ready_at = self.pacer.ready_at(now)
            # After a refusal one look at a time asks whether it is over.
            if ready_at is None or (self._refusals and self.pacer.in_use):
                return  # an answer that is under way comes back here
            if (ready_at := max(ready_at, self._closed_until)) > now:
                self._pump_at(ready_at)
                return
            if self._urgent and (self._urgent_in_a_row < URGENT_IN_A_ROW or not self._list.due):
                question = self._urgent.popleft()
                if not question.answer.done():
                    self._urgent_in_a_row = self._urgent_in_a_row + 1 if self._list.due else 0
                    self._begin(now)
                    self._supervisor.start(self._look_urgently, question)
            else:
                self._urgent_in_a_row = 0
                self._begin(now)
                self._supervisor.start(self._poll_task, self._list.take(now))

    def _begin(self, now: float) -> None:
        self.pacer.use_token(now)
        self._on_wire += 1

    def ended(self, *, answered_at: float) -> None:
        """Say that a look is off the wire."""
        self._on_wire -= 1
        self.pacer.return_token(answered_at=answered_at)

    def plan(self, watch: Watch) -> None:
        """Plan the next look at a job whose look has ended, unless it is looked at no more."""
        if watch.job.watch is watch:
            self._list.plan(watch)

    def _pump_at(self, instant: float) -> None:
        if self._next is not None and self._next.action is not None:
            if self._next.at <= instant:
                return  # it will come back here, if it is too early
            self._next.cancel()
        self._next = self._timers.at(instant, self._pump)

    # -- a look -----------------------------------------------------------------------------------------------------

    async def _look_urgently(self, question: _Question) -> None:
        patience = question.left
        if question.silences < _URGENT_REPEATS:
            patience = min(self._patience(question.silences), patience)
        until = self._loop.time() + patience
        try:
            poll = await self._poll(question.task_id, until)
        except errors.TransportError as error:
            question.left -= patience
            if self._loop.time() >= until and question.left > 0.0:
                question.silences += 1
                self._urgent.appendleft(question)
                self._pump()
            else:
                question.fail(error)
        except Exception as error:  # noqa: BLE001 (it is for whoever waits)
            question.fail(error)
        except BaseException:
            question.fail(closed_error(task_id=question.task_id))
            raise
        else:
            if not question.answer.done():
                question.answer.set_result(poll)

    async def _poll_task(self, watch: Watch) -> None:
        job, began_at = watch.job, self._loop.time()
        until = began_at + self._patience(watch.silences)
        poll, silent = PollResult(PollVerdict.UNREADABLE), False
        try:
            try:
                poll = await self._poll(job.task_id or "", until)
            except errors.TransportError:
                silent = self._loop.time() >= until
            finally:
                watch.silences = watch.silences + 1 if silent else 0
                if not silent and poll.verdict is not PollVerdict.RATE_LIMITED:
                    # Whatever came instead of a record, the next look is as far away as after one; but a look that was
                    # silent or refused is as good as none, and its job as overdue as before.
                    watch.running_at = max(watch.running_at, began_at)
            await self._on_poll(job, poll)
        finally:
            # Whatever went wrong, in a hook of the caller's own session for example: the task is not forgotten.
            self.plan(watch)

    def _patience(self, silences: int) -> float:
        # One silence is bad luck; from the second on it may be that answers have become slow.
        doublings = min(max(0, silences - 1), _MOST_DOUBLINGS)
        return min(POLL_TIMEOUT, self._round_trips.seconds * 2.0**doublings)

    async def _poll(self, task_id: str, until: float) -> PollResult:
        began_at = self._loop.time()
        try:
            answer = await self._transport.poll(task_id, timeout=until - began_at)
            self.polls += 1
            round_trip = self._loop.time() - began_at
            self._round_trips.record_round_trip(round_trip)
            self._on_round_trip(round_trip)
            envelope, record = read_record_body(answer.body)
            poll = judge_poll(task_id=task_id, status=answer.status, envelope=envelope, record=record)
            if poll.verdict is not PollVerdict.RATE_LIMITED:
                self._refusals = 0
            elif began_at >= self._refused_at:
                # Of a burst that is refused, only the first refusal counts.
                self._refusals += 1
                self._refused_at = self._loop.time()
                pause = answer.retry_after or pause_after(self._refused_wait, self._refusals)
                self._closed_until = max(self._closed_until, self._refused_at + pause)
        finally:
            self.ended(answered_at=self._loop.time())
            self._pump()
        return poll
