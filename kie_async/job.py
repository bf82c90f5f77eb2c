"""``Job``: a handle to one job, to wait for it, to poll it, and to resolve it when it is in doubt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, TypeAlias

import anyio

from kie_async import errors
from kie_async._settings import check_id

if TYPE_CHECKING:
    from kie_async._binding import DetachedBinding, EngineBinding
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async.records import Generation, TaskRecord
    from kie_async.states import JobInfo, JobState

    _Binding: TypeAlias = EngineBinding | DetachedBinding

__all__ = ["Job"]


class Job:
    """
    A handle to a job, from ``KieClient.submit()`` or ``KieClient.job()``.

    ``await job`` is short for ``await job.wait()``. There may be any number of handles to one job, also at once. An
    unpickled handle has no client: ``kie.job(handle)`` makes one that can wait.
    """

    __slots__ = ("__weakref__", "_binding", "_id", "_live", "_own_only", "_task_id")

    def __init__(self, binding: _Binding, job_id: str, live: LiveJob | None = None, *, own_only: bool = False) -> None:
        self._binding = binding
        self._id = job_id
        self._live = live
        self._own_only = own_only
        self._task_id = None if job_id.startswith("kj_") else job_id

    @property
    def id(self) -> str:
        """The job's own id (``kj_…``), or the taskId that the handle was made from."""
        return self._id

    @property
    def task_id(self) -> str | None:
        """The service's id; None while this process does not know it."""
        live = self._refresh_live()
        if live is not None and live.task_id is not None:
            self._task_id = live.task_id
        return self._task_id

    @property
    def state(self) -> JobState | None:
        """
        The latest state of the job in this process.

        None for a handle of ``KieClient.job()`` that was not awaited yet, and for a task unknown to the journal.
        """
        live = self._refresh_live()
        return None if live is None else live.state

    def _refresh_live(self) -> LiveJob | None:
        """Return the live job; the last one is kept after the client has forgotten it."""
        live = self._binding.live_job(self._id)
        if live is not None and not (self._own_only and live.foreign):
            self._live = live
        return self._live

    def __reduce__(self) -> tuple[object, ...]:
        # Protocols 0 and 1 need it because of __slots__; the live job belongs to this process.
        return Job, (self._binding, self._id), (None, {"_task_id": self.task_id, "_own_only": self._own_only})

    def __repr__(self) -> str:
        return f"<Job {self._id} {self.state or ''} task {self.task_id}>"

    def __await__(self) -> Generator[object, None, Generation]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> Generation:
        """
        Wait until the task has ended. Cancelling the wait does not cancel the task; it can be awaited again.

        A job whose process has ended before it was sent is sent by a client that has called ``recover()``. If there is
        none, the wait raises ``TransportError`` after ``RetryPolicy.unsent_timeout``.

        Args:
            timeout: The timeout in seconds; None for ``RetryPolicy.max_age`` after acceptance.

        Returns:
            The finished task with its results.

        Raises:
            TaskTimeoutError: If the task has not ended within the timeout.

            TaskFailedError: If the task has failed.

            NoResultError: If the task has succeeded without a result.

            SubmitInDoubtError: If the service may or may not have created the task: at once without a callback URL,
                after ``RetryPolicy.max_age`` with one.

            TaskNotFoundError: If the id is not known.

            KieError: If the job was not accepted; the error says why.
        """
        from kie_async._io.jobs.waiting import timeout_error

        waiting = (await self._binding.engine()).waiting
        with nullcontext() if timeout is None else anyio.move_on_after(timeout):
            self._live = live = await waiting.find_job(self._id, own_only=self._own_only)
            try:
                # With a timeout, a stalled job is awaited, too.
                done = await waiting.wait_ended(live, include_stalled=timeout is not None)
            finally:
                waiting.release(live)
            self._task_id = done.task_id
            return done
        raise timeout_error(timeout or 0.0, self._live)

    async def status(self) -> TaskRecord:
        """
        Poll the service for the task's record now; if the job is being submitted, wait for its taskId first.

        Returns:
            The record.

        Raises:
            TaskNotFoundError: If the service does not know the task, or the journal does not know the job.

            SubmitInDoubtError: If the job has no taskId because its create is in doubt.

            KieError: If the job was not accepted, or if there was no response, or it could not be read.
        """
        engine = await self._binding.engine()
        return await engine.waiting.poll_status(self._id, own_only=self._own_only)

    async def info(self) -> JobInfo | None:
        """
        Read the job from the journal, without an effect on it.

        Returns:
            A snapshot, or None for a job or task that the journal does not know.

        Raises:
            JournalError: If the journal cannot be read.
        """
        engine = await self._binding.engine()
        return await engine.waiting.read_info(self._id, own_only=self._own_only)

    async def updates(self) -> AsyncGenerator[TaskRecord, None]:
        """
        Yield the task's record each time that it changes, until the task has ended.

        A reader that is more than 64 changes behind misses the oldest of them.

        Yields:
            The latest record and each further one.

        Raises:
            TaskNotFoundError: If the id is not known.

            KieError: As for ``wait``; but a task that has failed ends the iteration without an error.
        """
        engine = await self._binding.engine()
        async with aclosing(engine.waiting.stream_records(self._id, own_only=self._own_only)) as records:
            async for record in records:
                yield record

    async def resolve(self, task_id: str) -> None:
        """
        Bind the task that a job in doubt has created.

        The service's record must prove it: by the callback token in the callback URL that it echoes, or without one by
        model and input. A task that the answer to the create has named is taken unless it is disproved.

        Args:
            task_id: The task's id, for example from kie.ai/logs.

        Raises:
            ConfigurationError: If the id is invalid, the task was created by another request, or the job is not in
                doubt.

            TaskNotFoundError: If the service does not know the task, or the journal does not know the job.

            KieError: If the service did not answer, or its answer could not be read.
        """
        check_id(task_id)
        engine = await self._binding.engine()
        await engine.supervisor.run(engine.resolution.resolve, self._id, task_id)

    async def resubmit(self, *, allow_duplicate: bool = False) -> None:
        """
        Send the create of a job in doubt again. If the first one was accepted, the task is paid twice.

        Args:
            allow_duplicate: Must be True: you accept that the task may be paid twice.

        Raises:
            ConfigurationError: If *allow_duplicate* is not True, or the job is not in doubt.

            TaskNotFoundError: If the journal does not know the job.

            JournalError: If the journal cannot be written; then nothing is sent.
        """
        if allow_duplicate is not True:
            msg = "Sending the create again may pay twice. Pass allow_duplicate=True to accept that."
            raise errors.ConfigurationError(msg, job_id=self._id)
        engine = await self._binding.engine()
        await engine.supervisor.run(engine.resolution.resubmit, self._id)

    async def abandon(self) -> None:
        """
        End a job in doubt without a result; all waits for it end with ``SubmitInDoubtError``.

        If its create was accepted, a callback still reports the task.

        Raises:
            ConfigurationError: If the job is not in doubt.

            TaskNotFoundError: If the journal does not know the job.

            JournalError: If the journal cannot be written.
        """
        engine = await self._binding.engine()
        await engine.supervisor.run(engine.resolution.abandon, self._id)
