"""Waiting for jobs: until they are written down, accepted, or ended; and looking at them on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from kie_async import errors
from kie_async._core.job_errors import poll_error
from kie_async._core.lifecycle import OPEN
from kie_async._core.poll_results import PollVerdict
from kie_async._io.jobs.live_job import BEFORE_AN_ANSWER, LiveJob
from kie_async._io.jobs.outcomes import raise_trouble

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import AsyncGenerator, Callable

    from kie_async._io.jobs.outcomes import Outcomes
    from kie_async._io.jobs.recovery import Recovery
    from kie_async._io.parts import Parts
    from kie_async.records import Generation, TaskRecord

__all__ = ["Waiting"]


class Waiting:
    """
    Waits for jobs. Every wait can be left at any time and changes nothing by it.

    Args:
        parts: The client's parts.

        outcomes: Reads what a job's state means.

        recovery: Follows jobs that were found in the journal.
    """

    def __init__(self, parts: Parts, outcomes: Outcomes, recovery: Recovery) -> None:
        self._parts = parts
        self._outcomes = outcomes
        self._recovery = recovery

    async def journaled(self, job: LiveJob) -> LiveJob:
        """Wait until a job is written down; raises why it was not, or why it will not be accepted."""
        while job.final.attended and not job.final.written:
            raise_trouble(job.final)
            await job.final.changed()
        if not job.final.attended:
            self._outcomes.accepted(job.final)
        return job.final

    async def answered(self, job: LiveJob) -> LiveJob:
        """Wait until a job's owner has an answer, or has given up."""
        while job.final.attended and job.final.state in BEFORE_AN_ANSWER:
            raise_trouble(job.final)
            await job.final.changed()
        return job.final

    async def accepted(self, job: LiveJob) -> LiveJob:
        """Wait until a job's taskId is known; raises why it is not."""
        job = await self.answered(job)
        self._outcomes.accepted(job)
        return job

    async def ended(self, job: LiveJob, *, patient: bool) -> Generation:
        """Wait until a job has ended; *patient* waits for a stalled one, too."""
        while (done := self.outcome(job, patient=patient)) is None:
            job = job.final
            news = self.news(job)
            try:
                await news
            finally:
                job.heard(news)
        return done

    def news(self, job: LiveJob) -> Future[None]:
        """See ``LiveJob.news``; a job that was not awaited until now is looked at earlier."""
        news = job.news()
        if job.waiters == 1:
            self._parts.poller.awaited(job)
        return news

    def outcome(self, job: LiveJob, *, patient: bool) -> Generation | None:
        """The result of a job, None while it is worth waiting for; raises why there is none."""
        return self._outcomes.of(job.final, patient=patient)

    async def wait(self, job_id: str, timeout: float, *, found: Callable[[LiveJob], None]) -> Generation:
        """Wait for a job by its id, no longer than *timeout* seconds, and tell which it is; see ``Job.wait``."""
        job: LiveJob | None = None
        with anyio.move_on_after(timeout):
            job = await self.find(job_id)
            found(job)
            try:
                return await self.ended(job, patient=True)
            finally:
                self.leave(job)
        if job is not None and job.unseen:
            raise poll_error(PollVerdict.NOT_VISIBLE, job_id=None, task_id=job.task_id)
        raise timed_out(timeout, job)

    async def status(self, job_id: str) -> TaskRecord:
        """Look at a task now; see ``Job.refresh``."""
        job = await self.find(job_id)
        try:
            job = await self.answered(job)
            if job.task_id is None:
                self._outcomes.accepted(job)
                raise self._outcomes.doubt(job)
            poll = await self._parts.poller.poll_now(job.task_id)
            await self._parts.tracker.on_poll(job, poll)
            if poll.record is not None:
                return poll.record
            raise poll_error(poll.verdict, job_id=job.own_id, task_id=job.task_id)
        finally:
            self.leave(job)

    async def updates(self, job_id: str) -> AsyncGenerator[TaskRecord, None]:
        """The records of a job's task, each time that they say something new; see ``Job.updates``."""
        job = await self.find(job_id)
        reader = job.add_reader()
        self._parts.poller.awaited(job)
        try:
            while True:
                while reader:
                    yield reader.popleft()
                try:
                    done = self._outcomes.of(job, patient=True)
                except errors.TaskFailedError:
                    return
                if done is not None:
                    return
                await job.changed()
        finally:
            job.drop_reader(reader)
            self.leave(job)

    async def find(self, job_id: str) -> LiveJob:
        """
        The job of an id; for a task that the journal does not know, one that is followed while somebody waits.

        Raises:
            TaskNotFoundError: If it is an id of ours that the journal does not know.
        """
        registry, journal = self._parts.registry, self._parts.journal
        if (job := registry.get(job_id)) is not None:
            return job
        ours = job_id.startswith("kj_")
        row = await (journal.get(job_id) if ours else journal.by_task(job_id))
        if row is None and ours:
            msg = (
                "The journal does not know this job. Check the id, and that this is the journal that it was written to."
            )
            raise errors.TaskNotFoundError(msg, job_id=job_id)
        if (job := registry.by_task(job_id) if row is None else registry.get(row.id)) is not None:
            return job
        now = self._parts.runtime.now()
        if row is None:
            job = LiveJob(id=job_id, accepted_at=now)
            registry.add(job)
            self._parts.tracker.foreign(job)
            return job
        if row.state not in OPEN:
            return LiveJob.of(row)
        return await self._parts.supervisor.run(self._recovery.take_up, row)

    def leave(self, job: LiveJob) -> None:
        """Follow a task of somebody else no longer than anybody waits."""
        if job.foreign and not job.waiters and not job.readers:
            self._parts.tracker.let_go(job)


def timed_out(seconds: float, job: LiveJob | None) -> errors.TaskTimeoutError:
    """The error for a wait that has reached its time-out."""
    return errors.TaskTimeoutError(
        f"The task has not ended within {seconds:g} s. What was sent lives on: job() to it and wait again.",
        job_id=None if job is None else job.own_id,
        task_id=None if job is None else job.task_id,
    )
