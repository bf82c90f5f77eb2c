"""
The one place that looks at running tasks: looks that are due wait together for one pacer, and urgent looks go first.

There is no loop and no task per job: the client's one timer says when a look is due, the policy says which of those
that are due goes next, and the pacer says when.

A look that has got no answer for longer than answers usually take is given up and made again, with twice the patience:
to look costs nothing, a connection that has gone silent is left behind, and neither the task nor the pacer's token is
held up for longer than that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

import attrs
from tenacity import wait_exponential

from kie_async import errors
from kie_async._core.durations import DurationsByKind
from kie_async._core.kinds import Kind, kind_of
from kie_async._core.looks import Look, LookVerdict, judge_look
from kie_async._core.outcomes import closed_error
from kie_async._core.polling import Outlook, PollingPolicy
from kie_async._core.round_trips import RoundTrips
from kie_async._core.window import WindowBucket
from kie_async._core.wire import read_param, read_record_body
from kie_async._io.agenda import Agenda, Entry
from kie_async._io.live import LiveJob
from kie_async._io.retrying import pause_after
from kie_async._io.root import Root
from kie_async._io.transport import LOOK_TIMEOUT, Transport
from kie_async.records import TaskRecord

__all__ = ["Poller"]

#: What a job weighs that nobody waits for: its looks are twice as far apart, and come after those at others.
UNAWAITED = 0.25
#: Urgent looks in a row while others are due.
URGENT_IN_A_ROW = 4
#: Jobs that are weighed anew at a stretch, and the pause between two stretches, in seconds: 256 take 2 ms.
_AT_A_STRETCH = 256
_BETWEEN_STRETCHES = 0.02

#: How often an urgent look is made again; the last one has all the time that is left.
_URGENT_REPEATS = 2
#: Of the patience with a job that is silent; more would be beyond every bound.
_MOST_DOUBLINGS = 4
_NOT_DUE = -1


@attrs.define(eq=False, kw_only=True)
class _Watch(Outlook):
    """
    A job that is looked at: its next look is planned, or due, or under way.

    Attributes:
        job: The job.

        task_id: Its taskId.

        planned: The entry of the look that is planned.

        place: Where it is among those that are due.

        silences: How many looks in a row have got no answer.
    """

    job: LiveJob
    task_id: str
    planned: Entry | None = None
    place: int = _NOT_DUE
    silences: int = 0

    @property
    def looking(self) -> bool:
        """Whether a look is under way, or none wanted any more."""
        return self.planned is None and self.place == _NOT_DUE


@attrs.define(eq=False, kw_only=True)
class _Question:
    """
    An urgent look that somebody waits for.

    Attributes:
        task_id: Whose.

        answer: Where it is told.

        until: When it is given up; known when it is asked first.

        silences: How many looks have got no answer.
    """

    task_id: str
    answer: asyncio.Future[Look]
    until: float | None = None
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

        agenda: Where timers go.

        root: What looks run in.
    """

    #: Awaited with each look at a watched job; set once, by whoever follows the jobs.
    on_look: Callable[[LiveJob, Look], Awaitable[None]]

    def __init__(
        self,
        *,
        transport: Transport,
        polls_per_second: float,
        policy: PollingPolicy,
        durations: DurationsByKind,
        loop: asyncio.AbstractEventLoop,
        agenda: Agenda,
        root: Root,
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._durations = durations
        self._loop = loop
        self._agenda = agenda
        self._root = root
        #: What a job's looks are worth beside those at others, more than 0 and up to 1: the chance that nobody else
        #: tells of its end. Whoever sets it calls ``replan()`` when it has changed much.
        self.weigh: Callable[[LiveJob], float] = lambda _: 1.0
        tokens = max(1, round(polls_per_second))
        # Response-stamped like the creates, so that a slow answer never lets two seconds' worth into one.
        self.pacer = WindowBucket(tokens, tokens / polls_per_second)
        self._round_trips = RoundTrips()
        self._urgent: deque[_Question] = deque()
        self._urgent_in_a_row = 0
        self._watches: dict[LiveJob, _Watch] = {}
        self._due: list[_Watch] = []
        self._next: Entry | None = None
        self._closed_until = float("-inf")
        self._refused_at = float("-inf")
        self._refusals = 0
        self._refused_wait = wait_exponential(multiplier=1.0, max=10.0)
        # One object each for all jobs.
        self._when_due = self._is_due
        self._when_awaited = self._is_awaited
        self.looks = 0

    @property
    def watched(self) -> int:
        """How many jobs are looked at."""
        return len(self._watches)

    # -- which jobs -------------------------------------------------------------------------------------------------

    def watch(self, job: LiveJob) -> None:
        """
        Look at a job from now on, until ``unwatch``.

        Raises:
            ValueError: If it has no taskId.
        """
        if job in self._watches:
            return
        if job.task_id is None:
            msg = f"{job.id} has no taskId to look at"
            raise ValueError(msg)
        whole = self._durations.of(_kind(job, job.record))
        watch = _Watch(job=job, task_id=job.task_id, whole=whole, accepted_at=job.accepted_at)
        self._watches[job] = watch
        job.on_awaited = self._when_awaited
        if job.foreign:
            self._is_due(watch)  # nobody here knows how old it is: it may be over
        else:
            self._plan(watch)

    def unwatch(self, job: LiveJob) -> None:
        """Look at a job no more; what a look brings that is under way is told all the same."""
        watch = self._watches.pop(job, None)
        if watch is not None:
            job.on_awaited = None
            self._unplan(watch)

    def saw(self, job: LiveJob, record: TaskRecord) -> None:
        """Take in a record of a job's task that has not ended, whoever has asked for it."""
        watch = self._watches.get(job)
        if watch is None:
            return
        if job.foreign and record.model is not None and job.record is None:
            # Its first record: nothing was known of it before.
            watch.is_of(self._durations.of(_kind(job, record)), job.accepted_at)
        watch.saw(record.state, self._loop.time())
        self._replan(watch)

    def learn(self, job: LiveJob, record: TaskRecord) -> None:
        """Take in how long a job's task has taken; called once for each, with the record of its end."""
        watch = self._watches.get(job)
        if watch is None:  # somebody else has looked at it
            if record.seconds is not None:
                self._durations.of(_kind(job, record)).learn(record.seconds)
        elif record.seconds is not None:
            watch.ended(record.seconds)
        elif not job.foreign:
            watch.ended(self._loop.time() - job.accepted_at)

    def replan(self) -> None:
        """Weigh all jobs anew, and plan the looks at those whose weight has changed; a few at a time."""
        self._weigh_anew(iter(list(self._watches.values())))

    def _weigh_anew(self, watches: Iterator[_Watch]) -> None:
        stretch = list(islice(watches, _AT_A_STRETCH))
        for watch in stretch:
            self._weigh(watch)
        if stretch:
            self._agenda.at(self._loop.time() + _BETWEEN_STRETCHES, self._weigh_anew, watches)

    def _is_awaited(self, job: LiveJob) -> None:
        self._weigh(self._watches[job])

    def _weigh(self, watch: _Watch) -> None:
        if watch.weight != self._weight(watch.job):
            self._replan(watch)

    def _weight(self, job: LiveJob) -> float:
        return (1.0 if job.waiters or job.readers else UNAWAITED) * self.weigh(job)

    # -- when -------------------------------------------------------------------------------------------------------

    def _plan(self, watch: _Watch) -> None:
        watch.weight = self._weight(watch.job)
        at = self._policy.next_look_at(watch, self._loop.time())
        watch.planned = self._agenda.at(at, self._when_due, watch)

    def _unplan(self, watch: _Watch) -> None:
        if watch.planned is not None:
            watch.planned.cancel()
            watch.planned = None
        elif watch.place != _NOT_DUE:
            # The last takes its place: the order among those that are due means nothing.
            last = self._due.pop()
            if last is not watch:
                self._due[watch.place], last.place = last, watch.place
            watch.place = _NOT_DUE

    def _replan(self, watch: _Watch) -> None:
        if not watch.looking:
            self._unplan(watch)
            self._plan(watch)

    def _is_due(self, watch: _Watch) -> None:
        watch.planned = None
        watch.place = len(self._due)
        self._due.append(watch)
        now = self._loop.time()
        if self._next is None or self._next.at > now:
            # Not at once: what else is due by now takes part in the choice.
            self._pump_at(now)

    async def look_now(self, task_id: str) -> Look:
        """
        Look at a task once, before most looks that are merely due.

        Raises:
            TransportError: If no complete answer came.
        """
        if not self._root.running:
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
        if not self._root.running:
            return
        now = self._loop.time()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        while self._urgent or self._due:
            ready_at = self.pacer.ready_at(now)
            # After a refusal one look at a time asks whether it is over.
            if ready_at is None or (self._refusals and self.pacer.lent):
                return  # an answer that is under way comes back here
            if (ready_at := max(ready_at, self._closed_until)) > now:
                self._pump_at(ready_at)
                return
            if self._urgent and (self._urgent_in_a_row < URGENT_IN_A_ROW or not self._due):
                question = self._urgent.popleft()
                if not question.answer.done():
                    self._urgent_in_a_row = self._urgent_in_a_row + 1 if self._due else 0
                    self.pacer.take(now)
                    self._root.start(self._look_urgently, question)
            else:
                self._urgent_in_a_row = 0
                watch = self._due[self._policy.choose(self._due, now)]
                self._unplan(watch)
                self.pacer.take(now)
                self._root.start(self._look_at, watch)

    def _pump_at(self, instant: float) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = self._agenda.at(instant, self._pump)

    # -- a look -----------------------------------------------------------------------------------------------------

    async def _look_urgently(self, question: _Question) -> None:
        now = self._loop.time()
        until = question.until = now + LOOK_TIMEOUT if question.until is None else question.until
        if question.silences < _URGENT_REPEATS:
            until = min(now + self._patience(question.silences), until)
        try:
            look = await self._look(question.task_id, until)
        except errors.TransportError as error:
            if until <= self._loop.time() < question.until:
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
                question.answer.set_result(look)

    async def _look_at(self, watch: _Watch) -> None:
        job, began_at = watch.job, self._loop.time()
        until = began_at + self._patience(watch.silences)
        try:
            look = await self._look(watch.task_id, until)
        except errors.TransportError:
            look = Look(LookVerdict.UNREADABLE)
            silent = self._loop.time() >= until
        else:
            silent = False
        watch.silences = watch.silences + 1 if silent else 0
        if not silent and look.verdict is not LookVerdict.RATE_LIMITED:
            # Whatever came instead of a record, the next look is as far away as after one; but a look that was silent
            # or refused is as good as none, and its job as overdue as before.
            watch.seen_at = max(watch.seen_at, began_at)
        try:
            await self.on_look(job, look)
        finally:
            if self._watches.get(job) is watch:
                self._plan(watch)

    def _patience(self, silences: int) -> float:
        return min(LOOK_TIMEOUT, self._round_trips.patience * 2.0 ** min(silences, _MOST_DOUBLINGS))

    async def _look(self, task_id: str, until: float) -> Look:
        began_at = self._loop.time()
        try:
            answer = await self._transport.look(task_id, timeout=until - began_at)
            self.looks += 1
            self._round_trips.took(self._loop.time() - began_at)
            envelope, record = read_record_body(answer.body)
            look = judge_look(task_id=task_id, status=answer.status, envelope=envelope, record=record)
            if look.verdict is not LookVerdict.RATE_LIMITED:
                self._refusals = 0
            elif began_at >= self._refused_at:
                # Of a burst that is refused, only the first refusal counts.
                self._refusals += 1
                self._refused_at = self._loop.time()
                pause = answer.retry_after or pause_after(self._refused_wait, self._refusals)
                self._closed_until = max(self._closed_until, self._refused_at + pause)
        finally:
            self.pacer.spent(answered_at=self._loop.time())
            self._pump()
        return look


def _kind(job: LiveJob, record: TaskRecord | None) -> Kind:
    """By what was asked for, where that is known; of somebody else's task, by what the service says of it."""
    if job.row is not None:
        return kind_of(job.row.model, job.row.input)
    echo = None if record is None else read_param(record)
    model = None if record is None else record.model
    return kind_of(model, None if echo is None else echo.input)
