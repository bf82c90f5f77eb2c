"""What became of one row of ``KieClient.map()``: ``Done``, ``Failed``, ``InDoubt`` or ``Skipped``, as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from kie_async.errors import KieError, SubmitInDoubtError
from kie_async.records import Generation
from kie_async.requests.base import Request
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async.job import Job

__all__ = ["Done", "Failed", "InDoubt", "Outcome", "Skipped"]


@attrs.frozen(kw_only=True)
class _Row:
    """
    What every outcome says.

    Attributes:
        key: The row's key: the caller's, or the one that was made of its content.

        request: What was asked for.

        job_id: The job's own id (``kj_…``), or None where there is none: ``client.job(job_id)`` makes a handle.

        task_id: The service's id, or None where no task is known.

        state: The job's state in the journal; None where there is no job.

        credits: What the task has cost, as far as the service says; None where it does not.

        seconds: How long the task took by the service's own clock, or None.

        created_at: When the task was created, in seconds since the epoch; where the service does not say, when its
            create was answered, or sent. None where nothing was sent.

        ended_at: When the task ended, in seconds since the epoch, or None.

        replayed: Whether it had ended before this run asked for it, so that nothing was sent for it now.

        retries: How often this run has made the request again because it had failed and was worth it.
    """

    key: str
    request: Request = attrs.field(repr=False)
    job_id: str | None = None
    task_id: str | None = None
    state: JobState | None = None
    credits: float | None = None
    seconds: float | None = None
    created_at: float | None = None
    ended_at: float | None = None
    replayed: bool = False
    retries: int = 0


@attrs.frozen(kw_only=True)
class Done(_Row):
    """
    A row whose task has succeeded, and whose files, if they were asked for, are on disk.

    Attributes:
        generation: The finished task with its results.

        files: The files of ``save_to``, in the order of ``generation.urls``; empty without it.
    """

    generation: Generation
    files: tuple[Path, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the results are; Kie keeps them for at least 24 hours."""
        return self.generation.urls


@attrs.frozen(kw_only=True)
class Failed(_Row):
    """
    A row without a result.

    Attributes:
        error: Why. A ``DownloadError`` says that the task has succeeded and its files are not on disk; the same call
            again fetches them.

        generation: The finished task, where only its files are missing.
    """

    error: KieError
    generation: Generation | None = None


@attrs.frozen(kw_only=True)
class InDoubt(_Row):
    """
    A row that was sent and got no answer that tells, for so long that nothing will tell by itself: not sent again.

    Attributes:
        job: The job: ``await job.resolve(task_id)``, ``await job.resubmit(allow_duplicate=True)`` or
            ``await job.abandon()`` settle it.

        error: The same in words.
    """

    job: Job
    error: SubmitInDoubtError


@attrs.frozen(kw_only=True)
class Skipped(_Row):
    """
    A row for which nothing was sent.

    Attributes:
        reason: ``"budget"``, if it would have cost more than was left; ``"stop_after"``, if the time was over.
    """

    reason: Literal["budget", "stop_after"]


#: What ``KieClient.map()`` yields.
Outcome: TypeAlias = Done | Failed | InDoubt | Skipped
