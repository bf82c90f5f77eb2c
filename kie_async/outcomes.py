"""The outcomes of the rows of ``KieClient.map()``, and the summary of a run, as plain values."""

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

__all__ = ["Done", "Failed", "InDoubt", "Outcome", "RunSummary", "Skipped"]


@attrs.frozen(kw_only=True)
class _RowOutcome:
    """
    The fields of every outcome.

    Attributes:
        key: The row's key: the caller's, or the one that was made of the row's content.

        request: The request.

        job_id: The job's id (``kj_…``), or None without a job: ``client.job(job_id)`` makes a handle.

        task_id: The service's id, or None if no task is known.

        state: The job's state in the journal; None without a job.

        credits: The cost of the task, as reported by the service; None if it does not report it.

        seconds: The duration of the task by the service's clock, or None.

        created_at: The time at which the task was created, in seconds since the epoch. If the service does not report
            it, the time at which its create was answered, or sent. None if nothing was sent.

        ended_at: The time at which the task ended, in seconds since the epoch, or None.

        replayed: True if the job had ended before this run asked for it, so that nothing was sent for it now.

        retries: The number of times that this run has retried the request after a failure worth retrying.
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
class Done(_RowOutcome):
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
        """The URLs of the results; Kie keeps them for at least 24 hours."""
        return self.generation.urls


@attrs.frozen(kw_only=True)
class Failed(_RowOutcome):
    """
    A row without a result.

    Attributes:
        error: The reason. A ``DownloadError`` means that the task has succeeded and its files are not on disk; the same
            call again fetches them.

        generation: The finished task, if only its files are missing.
    """

    error: KieError
    generation: Generation | None = None


@attrs.frozen(kw_only=True)
class InDoubt(_RowOutcome):
    """
    A row that was sent, without an answer that tells whether it was accepted until its deadline: it is not sent again.

    Attributes:
        job: The job: ``await job.resolve(task_id)``, ``await job.resubmit(allow_duplicate=True)`` or
            ``await job.abandon()`` settle it.

        error: The same, as an error with a message.
    """

    job: Job
    error: SubmitInDoubtError


@attrs.frozen(kw_only=True)
class Skipped(_RowOutcome):
    """
    A row for which nothing was sent.

    Attributes:
        reason: ``"budget"`` if it would have cost more than was left; ``"stop_after"`` if the time was over.
    """

    reason: Literal["budget", "stop_after"]


#: The outcomes that ``KieClient.map()`` yields.
Outcome: TypeAlias = Done | Failed | InDoubt | Skipped


@attrs.frozen(kw_only=True)
class RunSummary:
    """
    The figures of a run of ``KieClient.map()`` so far.

    Attributes:
        replayed: Rows that an earlier run had finished; nothing was sent for them now. They also count in ``ok`` and
            ``failed``.

        ok: Rows that are done.

        failed: Rows without a result.

        in_doubt: Rows whose acceptance is unknown: their jobs are unresolved.

        skipped: Rows for which nothing was sent, because of the budget or of ``stop_after``.

        elsewhere: Rows of a shared run that other workers yield or have yielded; they are not among the outcomes.

        retried: The number of retries of failed requests.

        credits: The cost of this run's tasks, as reported by the service; without the replayed ones.

        credits_replayed: The cost of the replayed tasks.

        credits_held: The credits that are reserved for running tasks, and those that creates in doubt may have cost.

        p50: The median duration of a task at the service, in seconds, within 0.3 %; None before the first end.

        p95: The duration within which 95 % of the tasks have ended, with the same precision.

        created: Tasks that this run has created.

        limit: Creates that the account allows in ``window``.

        window: Length of that window, in seconds.

        used: The share of the limit that was used from the first create to the last, 0 to 1: 1 if as many creates could
            not have been made in less time. 0 before the first.

        seconds: The duration of the run so far.
    """

    replayed: int = 0
    ok: int = 0
    failed: int = 0
    in_doubt: int = 0
    skipped: int = 0
    elsewhere: int = 0
    retried: int = 0
    credits: float = 0.0
    credits_replayed: float = 0.0
    credits_held: float = 0.0
    p50: float | None = None
    p95: float | None = None
    created: int = 0
    limit: int = 0
    window: float = 0.0
    used: float = 0.0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """The number of outcomes."""
        return self.ok + self.failed + self.in_doubt + self.skipped

    def __str__(self) -> str:
        """
        Return one line for people.

        >>> print(RunSummary(replayed=3, ok=8, failed=1, credits=400.0, p50=61.2, p95=80.0, created=6, used=0.98))
        3 replayed, 8 ok, 1 failed, 0 in doubt; 400 credits; p50 61 s, p95 80 s; 6 created at 98 % of the limit
        """
        parts = [f"{self.replayed} replayed", f"{self.ok} ok", f"{self.failed} failed", f"{self.in_doubt} in doubt"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped")
        if self.elsewhere:
            parts.append(f"{self.elsewhere} elsewhere")
        if self.retried:
            parts.append(f"{self.retried} retried")
        held = f" (and {self.credits_held:g} held)" if self.credits_held else ""
        times = "" if self.p50 is None or self.p95 is None else f"; p50 {self.p50:.0f} s, p95 {self.p95:.0f} s"
        pace = f" at {self.used:.0%} of the limit".replace("%", " %") if self.created else ""
        return f"{', '.join(parts)}; {self.credits:g} credits{held}{times}; {self.created} created{pace}"
