"""
What the service says of a task, as plain values: its record, its states, its result.

Nothing here waits, and nothing is refused: states, codes and fields that this version does not know are kept as they
came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import attrs

from kie_async.errors import NoResultError

__all__ = ["JSON", "Generation", "SavedFile", "TaskRecord", "TaskState"]

#: Anything that JSON can say.
JSON: TypeAlias = "Mapping[str, JSON] | list[JSON] | str | int | float | bool | None"

#: Fetches the results of a generation into a path and returns the files that it wrote.
Saver: TypeAlias = Callable[["Generation", Path], Awaitable[list["SavedFile"]]]


class TaskState(StrEnum):
    """The states that the service documents; ``TaskRecord.state`` may hold others, which mean "not finished yet"."""

    WAITING = "waiting"
    QUEUING = "queuing"
    GENERATING = "generating"
    SUCCESS = "success"
    FAIL = "fail"


@attrs.frozen(kw_only=True)
class TaskRecord:
    """
    One answer of the service about one task.

    Attributes:
        task_id: The service's id.

        state: ``waiting``, ``queuing``, ``generating``, ``success``, ``fail``, or what else the service says.

        model: The model's name, or None where the answer has none.

        result_urls: Where the results are, in the service's order; they expire.

        result: The whole of ``resultJson``, decoded; None while there is none.

        fail_code: The service's code of a failure, as text, or None.

        fail_message: The service's words about a failure, or None.

        created_at: When the service created the task, in seconds since the epoch, or None.

        completed_at: When the task ended, in seconds since the epoch, or None.

        cost_time: ``costTime`` as it came: recorded answers give seconds, the documentation says milliseconds.

        progress: 0 to 100, where the model reports it.

        credits: What the task has cost so far; final only when the task has ended.

        raw: The answer's ``data`` as it came.
    """

    task_id: str
    state: str
    model: str | None = None
    result_urls: tuple[str, ...] = ()
    result: JSON = None
    fail_code: str | None = None
    fail_message: str | None = None
    created_at: float | None = None
    completed_at: float | None = None
    cost_time: float | None = None
    progress: float | None = None
    credits: float | None = None
    raw: Mapping[str, JSON] = attrs.field(factory=dict, repr=False, eq=False)

    @property
    def succeeded(self) -> bool:
        """Whether the task has ended well."""
        return self.state == TaskState.SUCCESS

    @property
    def failed(self) -> bool:
        """Whether the task has ended badly."""
        return self.state == TaskState.FAIL

    @property
    def ended(self) -> bool:
        """Whether the task has ended at all; an unknown state has not."""
        return self.succeeded or self.failed

    @property
    def seconds(self) -> float | None:
        """How long the task took by the service's own clock, in seconds, or None where it does not say."""
        if self.created_at is None or self.completed_at is None:
            return None
        return self.completed_at - self.created_at


@attrs.frozen(kw_only=True)
class SavedFile:
    """
    A result on disk.

    Attributes:
        path: Where it is.

        size: How many bytes it has.

        sha256: The hash of its content, in hexadecimal, computed while it came in.
    """

    path: Path
    size: int
    sha256: str


@attrs.frozen(kw_only=True, repr=False)
class Generation:
    """
    A finished task and its results.

    Attributes:
        record: The service's last word about the task.

        job_id: The job's own id (``kj_…``), or None where the task is not one of this journal's.
    """

    record: TaskRecord
    job_id: str | None = None
    _saver: Saver = attrs.field(repr=False, eq=False, alias="saver")

    def __repr__(self) -> str:
        results = ", ".join(self.urls) or "no URL"
        return f"<Generation task {self.task_id}, {self.credits} credits: {results}>"

    @property
    def task_id(self) -> str:
        """The service's id of the task."""
        return self.record.task_id

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the results are; Kie keeps them for at least 24 hours."""
        return self.record.result_urls

    @property
    def url(self) -> str:
        """
        The first of ``urls``.

        Raises:
            NoResultError: If there is none: the model answers with something else (``record.result``).
        """
        if not self.record.result_urls:
            msg = "This result has no URL. Read record.result."
            raise NoResultError(msg, job_id=self.job_id, task_id=self.task_id)
        return self.record.result_urls[0]

    @property
    def credits(self) -> float | None:
        """What the task has cost, in credits, or None where the service does not say."""
        return self.record.credits

    @property
    def seconds(self) -> float | None:
        """How long the service took, in seconds, or None where it does not say."""
        return self.record.seconds

    async def save(self, path: str | PathLike[str]) -> list[Path]:
        """
        Fetch the results and put them on disk, each whole or not at all.

        Works after the client is closed, too. An expired URL is minted again once. A client fetches eight files at a
        time, the soonest to expire first; a download that breaks goes on where it was, and so does one of a process
        that was killed, where the same result is saved to the same path.

        Args:
            path: A file's name for the first result (further ones get ``-2``, ``-3``, … before the suffix), or a
                folder, in which each is named by the task's id and by what it really is.

        Returns:
            The files, in the order of ``urls``.

        Raises:
            ResultExpiredError: If the service no longer holds the result.

            DownloadError: If a result could not be fetched, or is not what it claims.
        """
        return [file.path for file in await self._saver(self, Path(path))]
