"""The jobs that are alive in one event loop, by their ids and keys."""

from __future__ import annotations

from collections.abc import Iterator

from kie_async._io.jobs.live_job import LiveJob

__all__ = ["Registry"]


class Registry:
    """Finds a live job; it is here from before its row is written until it has ended."""

    def __init__(self) -> None:
        self._jobs: dict[str, LiveJob] = {}
        self._keys: dict[str, LiveJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[LiveJob]:
        return iter(list(self._jobs.values()))

    def add(self, job: LiveJob) -> None:
        """
        Take a job in, unless it is here.

        Raises:
            RuntimeError: If another job has its id: there is one for each row, or they would undo each other.
        """
        if self._jobs.setdefault(job.id, job) is not job:
            msg = f"{job.id} is here twice"
            raise RuntimeError(msg)
        if job.key is not None:
            self._keys[job.key] = job

    def drop(self, job: LiveJob) -> None:
        """Let a job go."""
        if self._jobs.get(job.id) is job:
            del self._jobs[job.id]
        if job.key is not None and self._keys.get(job.key) is job:
            del self._keys[job.key]

    def get(self, job_id: str) -> LiveJob | None:
        """The job of an id of ours, or of a foreign taskId that is waited for."""
        return self._jobs.get(job_id)

    def by_key(self, key: str) -> LiveJob | None:
        """The job of a caller's key."""
        return self._keys.get(key)

    def by_task(self, task_id: str) -> LiveJob | None:
        """
        The job of a taskId that the journal does not know; all jobs are looked through.

        Only a row that could not be written is found here and not there: an index would cost every job 50 bytes.
        """
        return next((job for job in self._jobs.values() if job.task_id == task_id), None)
