"""
The service's data about a task as plain values: its record, its states, its result.

Unknown states, codes and fields are kept unchanged; nothing is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import attrs

from kie_async._urls import shown_url
from kie_async.errors import NoResultError

__all__ = ["JSON", "Generation", "SavedFile", "TaskRecord", "TaskState"]

#: Any JSON value.
JSON: TypeAlias = "Mapping[str, JSON] | list[JSON] | str | int | float | bool | None"

#: Downloads the results of a generation to a path and returns the files that it wrote.
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

        state: ``waiting``, ``queuing``, ``generating``, ``success``, ``fail``, or another value of the service.

        model: The model's name, or None if the answer has no model.

        result_urls: The URLs of the results, in the service's order; they expire.

        result: The whole of ``resultJson``, decoded, or None while it is empty.

        fail_code: The service's code of a failure, as a string, or None.

        fail_message: The service's message about a failure, or None.

        created_at: The time at which the service created the task, in seconds since the epoch, or None.

        completed_at: The time at which the task ended, in seconds since the epoch, or None.

        cost_time: The unchanged ``costTime``: recorded answers have seconds, the documentation says milliseconds.

        progress: A percentage, 0 to 100, or None if the model does not report it.

        credits: The task's cost so far, or None; final only when the task has ended.

        raw: The answer's unchanged ``data``.
    """

    task_id: str
    state: str
    model: str | None = None
    result_urls: tuple[str, ...] = attrs.field(default=(), repr=lambda urls: repr(tuple(map(shown_url, urls))))
    result: JSON = attrs.field(default=None, repr=False)
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
        """True if the task has succeeded."""
        return self.state == TaskState.SUCCESS

    @property
    def failed(self) -> bool:
        """True if the task has failed."""
        return self.state == TaskState.FAIL

    @property
    def ended(self) -> bool:
        """True if the task has succeeded or failed; a task in an unknown state has not ended."""
        return self.succeeded or self.failed

    @property
    def seconds(self) -> float | None:
        """The task's duration by the service's clock, in seconds, or None if it is not reported."""
        if self.created_at is None or self.completed_at is None:
            return None
        return self.completed_at - self.created_at


@attrs.frozen(kw_only=True)
class SavedFile:
    """
    A result on disk.

    Attributes:
        path: The path of the file.

        size: Its number of bytes.

        sha256: The hash of its content, in hexadecimal, computed during the download.
    """

    path: Path
    size: int
    sha256: str

    @property
    def note(self) -> str:
        """The content and the suffix of the file, in a line for the journal."""
        return f"{self.size} {self.sha256} {self.path.suffix}"


@attrs.frozen(kw_only=True, repr=False)
class Generation:
    """
    A finished task and its results.

    Attributes:
        record: The terminal record of the task.

        job_id: The job's own id (``kj_…``), or None if the task is not in the journal.
    """

    record: TaskRecord
    job_id: str | None = None
    _saver: Saver = attrs.field(repr=False, eq=False, alias="saver")

    def __repr__(self) -> str:
        results = ", ".join(map(shown_url, self.urls)) or "no URL"
        return f"<Generation task {self.task_id}, {self.credits} credits: {results}>"

    @property
    def task_id(self) -> str:
        """The service's id of the task."""
        return self.record.task_id

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the results; Kie keeps them for at least 24 hours."""
        return self.record.result_urls

    @property
    def url(self) -> str:
        """
        The first of ``urls``.

        Raises:
            NoResultError: If there is no URL: the model has another kind of result (``record.result``).
        """
        if not self.record.result_urls:
            msg = "This result has no URL. Read record.result."
            raise NoResultError(msg, job_id=self.job_id, task_id=self.task_id)
        return self.record.result_urls[0]

    @property
    def credits(self) -> float | None:
        """The task's cost in credits, or None if the service does not report it."""
        return self.record.credits

    @property
    def seconds(self) -> float | None:
        """The task's duration by the service's clock, in seconds, or None if it is not reported."""
        return self.record.seconds

    async def save(self, path: str | PathLike[str]) -> list[Path]:
        """
        Download the results to disk, each completely or not at all.

        This works after the client is closed, too. An expired URL is renewed once. A client downloads eight files at a
        time, those that expire soonest first. A download that breaks is resumed; so is the download of a process that
        was killed, if the same result is saved to the same path.

        Args:
            path: A file name for the first result (further results get ``-2``, ``-3``, … before the suffix), or a
                folder whose files are named by the task's id and their real type. A name that ends with ``{suffix}``
                gets the suffix of the real type, such as ``.mp4``, ``.png`` or ``.mp3``.

        Returns:
            The files, in the order of ``urls``.

        Raises:
            ResultExpiredError: If the service no longer holds the result.

            DownloadError: If a result could not be fetched, or is not what it claims to be.
        """
        return [file.path for file in await self._saver(self, Path(path))]
