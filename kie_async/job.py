"""``Job``: a handle to one task, which can be awaited, looked at, and settled when it is in doubt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from typing import TYPE_CHECKING

from kie_async import errors
from kie_async._settings import check_id

if TYPE_CHECKING:
    from kie_async._binding import EngineBinding
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async.records import Generation, TaskRecord
    from kie_async.states import JobInfo, JobState

__all__ = ["Job"]


class Job:
    """
    A task that was asked for.

    Made by ``KieClient.submit()`` and ``KieClient.job()``. Any number of handles to one
    task may be made, dropped and awaited, at once too.
    """

    __slots__ = ("__weakref__", "_binding", "_id", "_live", "_task_id")

    def __init__(self, binding: EngineBinding, job_id: str, live: LiveJob | None = None) -> None:
        self._binding = binding
        self._id = job_id
        self._live = live
        self._task_id = None if job_id.startswith("kj_") else job_id

    @property
    def id(self) -> str:
        """The job's own id (``kj_…``), or the taskId where the handle was made of one."""
        return self._id

    @property
    def task_id(self) -> str | None:
        """The service's id; None while it is not known to this process."""
        live = self._now()
        if live is not None and live.task_id is not None:
            self._task_id = live.task_id
        return self._task_id

    @property
    def state(self) -> JobState | None:
        """
        What the journal says of the job, as far as it was seen here, such as ``"submitted"`` or ``"in_doubt"``.

        None for a handle of ``job()`` that nobody has waited for, and for a task of somebody else.
        """
        live = self._now()
        return None if live is None else live.state

    def _now(self) -> LiveJob | None:
        """What is known of the job; kept when it has ended and the client has let it go."""
        self._live = self._binding.live_job(self._id) or self._live
        return self._live

    def _found(self, live: LiveJob) -> None:
        self._live = live

    def __repr__(self) -> str:
        return f"<Job {self._id} {self.state or ''} task {self.task_id}>"

    def __await__(self) -> Generator[object, None, Generation]:
        return self.wait().__await__()

    async def wait(self, timeout: float | None = None) -> Generation:
        """
        Wait until the task has ended. Leaving the wait changes nothing: the task goes on and can be waited for again.

        Args:
            timeout: How long to wait, in seconds; None for as long as the task may live (``RetryPolicy.max_age``).

        Returns:
            The finished task with its results.

        Raises:
            TaskTimeoutError: If it has not ended in time.

            TaskFailedError: If the generation has failed.

            NoResultError: If it has succeeded without a result.

            SubmitInDoubtError: If nobody can tell whether it was created: at once without a callback URL, after
                ``RetryPolicy.max_age`` with one.

            TaskNotFoundError: If the id is not known.

            KieError: If it was never accepted: the error says why.
        """
        engine = await self._binding.engine()
        done = await engine.waiting.wait_by_id(self._id, timeout, found=self._found)
        self._task_id = done.task_id
        return done

    async def status(self) -> TaskRecord:
        """
        Ask the service for the task's record now.

        Raises:
            TaskNotFoundError: If the service does not know the task.

            SubmitInDoubtError: If the job has no taskId because its create is in doubt.

            KieError: If there was no answer, or none that could be read.
        """
        engine = await self._binding.engine()
        return await engine.waiting.poll_status(self._id)

    async def info(self) -> JobInfo | None:
        """
        What the journal says of the job; it is only read, and nothing is taken up.

        Returns:
            It, or None for a job or a task of which the journal knows nothing.
        """
        from kie_async._io.journals.journal import read_job_info

        engine = await self._binding.engine()
        return await read_job_info(engine.journal, self._id)

    async def updates(self) -> AsyncGenerator[TaskRecord, None]:
        """
        Yield the task's record each time that it says something new; ends with the task.

        A reader that is more than 64 changes behind misses the oldest of them.
        """
        engine = await self._binding.engine()
        async with aclosing(engine.waiting.stream_records(self._id)) as records:
            async for record in records:
                yield record

    async def resolve(self, task_id: str) -> None:
        """
        Say which task a job in doubt has created.

        The service's record must prove it: by our token in the callback URL that it echoes, else by model and input.

        Args:
            task_id: The id, for example from kie.ai/logs.

        Raises:
            ConfigurationError: If the task was created by another request, or the job is not in doubt.

            TaskNotFoundError: If the service does not know the task.
        """
        check_id(task_id)
        engine = await self._binding.engine()
        await engine.supervisor.run(engine.resolution.resolve, self._id, task_id)

    async def resubmit(self, *, allow_duplicate: bool = False) -> None:
        """
        Send the create of a job in doubt again. If the first one was accepted after all, the task is paid twice.

        Args:
            allow_duplicate: Must be True: that is known and wanted.

        Raises:
            ConfigurationError: If it is not, or the job is not in doubt.
        """
        if allow_duplicate is not True:
            msg = "Sending the create again may pay twice. Pass allow_duplicate=True if that is wanted."
            raise errors.ConfigurationError(msg, job_id=self._id)
        engine = await self._binding.engine()
        await engine.supervisor.run(engine.resolution.resubmit, self._id)

    async def abandon(self) -> None:
        """
        Give a job in doubt up: it is not waited for any more.

        If it was accepted after all, a callback still reports it.

        Raises:
            ConfigurationError: If the job is not in doubt.
        """
        engine = await self._binding.engine()
        await engine.supervisor.run(engine.resolution.abandon, self._id)
