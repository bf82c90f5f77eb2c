"""
The one place that looks at running tasks: due looks wait in one queue for one pacer, and urgent looks go first.

There is no loop and no task per job: a look that is due is put into the queue by the client's one timer, and runs as
soon as the pacer lets it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from tenacity import wait_exponential

from kie_async import errors
from kie_async._core.looks import Look, LookVerdict, judge_look
from kie_async._core.outcomes import closed_error
from kie_async._core.polling import PollingPolicy
from kie_async._core.window import WindowBucket
from kie_async._core.wire import read_record_body
from kie_async._io.agenda import Agenda, Entry
from kie_async._io.live import LiveJob
from kie_async._io.retrying import pause_after
from kie_async._io.root import Root
from kie_async._io.transport import Transport

__all__ = ["Poller"]

#: While looks are due, one of them follows this many urgent ones.
MOST_URGENT_IN_A_ROW = 4


class Poller:
    """
    Looks at tasks.

    Args:
        transport: What carries the looks.

        polls_per_second: How many looks the pacer allows.

        policy: When to look at a task next.

        loop: The loop.

        agenda: Where timers go.

        root: What looks run in.
    """

    #: Awaited with each look at a watched job; set once, by whoever follows the jobs.
    on_look: Callable[[LiveJob, Look], Awaitable[None]]
    #: What a look at a job is worth, up to 1; set once, by whoever knows what else tells of its end.
    weigh: Callable[[LiveJob], float]

    def __init__(
        self,
        *,
        transport: Transport,
        polls_per_second: float,
        policy: PollingPolicy,
        loop: asyncio.AbstractEventLoop,
        agenda: Agenda,
        root: Root,
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._loop = loop
        self._agenda = agenda
        self._root = root
        tokens = max(1, round(polls_per_second))
        # Response-stamped like the creates, so that a slow answer never lets two seconds' worth into one.
        self.pacer = WindowBucket(tokens, tokens / polls_per_second)
        self._urgent: deque[tuple[str, asyncio.Future[Look]]] = deque()
        self._urgent_in_a_row = 0
        self._due: deque[LiveJob] = deque()
        self._next: Entry | None = None
        self._closed_until = float("-inf")
        self._refused_at = float("-inf")
        self._refusals = 0
        self._refused_wait = wait_exponential(multiplier=1.0, max=10.0)
        self.watched = 0
        self.looks = 0

    def watch(self, job: LiveJob) -> None:
        """Look at a job from now on, until ``unwatch``."""
        if job.look is None and not job.looking:
            self.watched += 1
            self._plan(job)

    def unwatch(self, job: LiveJob) -> None:
        """Look at a job no more."""
        if job.look is not None:
            job.look.cancel()
            job.look = None
            self.watched -= 1
        elif job.looking:
            job.looking = False
            self.watched -= 1

    def replan(self, jobs: Iterable[LiveJob]) -> None:
        """Plan the next looks at *jobs* anew, since what they are worth has changed."""
        for job in jobs:
            if job.look is not None:
                job.look.cancel()
                self._plan(job)

    async def look_now(self, task_id: str) -> Look:
        """
        Look at a task once, before looks that are merely due; but of these, each fifth look is one at least.

        Raises:
            TransportError: If no complete answer came.
        """
        if not self._root.running:
            raise closed_error(task_id=task_id)
        answer: asyncio.Future[Look] = self._loop.create_future()
        self._urgent.append((task_id, answer))
        self._pump()
        return await answer

    def close(self) -> None:
        """End the waits of all who wait for a look of their own."""
        while self._urgent:
            task_id, answer = self._urgent.popleft()
            if not answer.done():
                answer.set_exception(closed_error(task_id=task_id))

    def _plan(self, job: LiveJob) -> None:
        at = self._policy.next_look_at(accepted_at=job.accepted_at, now=self._loop.time(), weight=self.weigh(job))
        job.look = self._agenda.at(at, partial(self._is_due, job))

    def _is_due(self, job: LiveJob) -> None:
        job.look = None
        job.looking = True
        self._due.append(job)
        self._pump()

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
                self._next = self._agenda.at(ready_at, self._pump)
                return
            # A flood of urgent looks must not starve the polling, which is the net under everything.
            if self._urgent and (not self._due or self._urgent_in_a_row < MOST_URGENT_IN_A_ROW):
                task_id, answer = self._urgent.popleft()
                if not answer.done():
                    self._urgent_in_a_row += 1
                    self.pacer.take(now)
                    self._root.start(self._look_urgently, task_id, answer)
                continue
            job = self._due.popleft()
            if job.looking:
                self._urgent_in_a_row = 0
                self.pacer.take(now)
                self._root.start(self._look_at, job)

    async def _look_urgently(self, task_id: str, answer: asyncio.Future[Look]) -> None:
        try:
            look = await self._look(task_id)
        except Exception as error:  # noqa: BLE001 (it is for whoever waits)
            if not answer.done():
                answer.set_exception(error)
        except BaseException:
            if not answer.done():
                answer.set_exception(closed_error(task_id=task_id))
            raise
        else:
            if not answer.done():
                answer.set_result(look)

    async def _look_at(self, job: LiveJob) -> None:
        task_id = job.task_id
        if task_id is None:
            msg = "a job without a taskId was watched"
            raise RuntimeError(msg)
        try:
            look = await self._look(task_id)
        except errors.TransportError:
            look = Look(LookVerdict.UNREADABLE)
        try:
            await self.on_look(job, look)
        finally:
            if job.looking:
                job.looking = False
                self._plan(job)

    async def _look(self, task_id: str) -> Look:
        began_at = self._loop.time()
        try:
            answer = await self._transport.look(task_id)
            self.looks += 1
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
