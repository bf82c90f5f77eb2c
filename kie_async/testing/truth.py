"""The log of the fake service: everything that it received and did, for tests to check a client against."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from kie_async.records import JSON
    from kie_async.testing.faults import Fault
    from kie_async.testing.tasks import FakeTask

__all__ = [
    "LoggedCallback",
    "LoggedCreate",
    "LoggedDownload",
    "LoggedPoll",
    "LoggedQuery",
    "LoggedRequest",
    "LoggedUpload",
    "Truth",
    "busiest_window",
]


@attrs.define(eq=False)
class LoggedRequest:
    """
    A request that has arrived.

    Attributes:
        at: The arrival by the loop's clock, in seconds.

        code: The code in the response that was sent, or None.

        status: The HTTP status of that response, or None if none was sent.

        answered_at: The instant of the response by the loop's clock, or None.

        fault: The fault that affected it, or None.
    """

    at: float
    code: int | None = attrs.field(default=None, kw_only=True)
    status: int | None = attrs.field(default=None, kw_only=True)
    answered_at: float | None = attrs.field(default=None, kw_only=True)
    fault: Fault | None = attrs.field(default=None, kw_only=True, repr=False)


@attrs.define(eq=False)
class LoggedCreate(LoggedRequest):
    """
    A POST to createTask.

    Attributes:
        body: The decoded body; None if it is not JSON.

        model: The model in it, or None.

        callback_url: The ``callBackUrl`` in it, or None.

        task_id: The task that it created, or None, independently of the response.
    """

    body: JSON = attrs.field(default=None, repr=False)
    model: str | None = None
    callback_url: str | None = None
    task_id: str | None = None


@attrs.define(eq=False)
class LoggedPoll(LoggedRequest):
    """
    A query of recordInfo.

    Attributes:
        task_id: The requested id.

        state: The real state of the task, or None if the service did not find it.
    """

    task_id: str = ""
    state: str | None = None


@attrs.define(eq=False)
class LoggedQuery(LoggedRequest):
    """
    Another query of the API.

    Attributes:
        place: ``"credit"``, ``"download_url"`` or ``"models"``.
    """

    place: str = ""


@attrs.define(eq=False)
class LoggedUpload(LoggedRequest):
    """
    An upload.

    Attributes:
        path: The path of the stored file, or None if the upload was refused.

        size: The size in bytes.

        mime: The media type, detected from the content.
    """

    path: str | None = None
    size: int = 0
    mime: str = ""


@attrs.define(eq=False)
class LoggedDownload(LoggedRequest):
    """
    A request for a file.

    Attributes:
        path: The file's path.

        authorized: True if the request contained an API key, which is an error of the client.
    """

    path: str = ""
    authorized: bool = False


@attrs.define(eq=False)
class LoggedCallback:
    """
    One attempt to deliver a callback.

    Attributes:
        at: The instant by the loop's clock, in seconds.

        task_id: The task.

        url: The receiver.

        attempt: 1 to 3; intentional copies have the number 1.

        status: The HTTP status of the receiver's response, or None.

        error: The reason for the lack of a response, or None.
    """

    at: float
    task_id: str
    url: str
    attempt: int
    status: int | None = None
    error: str | None = None


def _count(items: Sized) -> str:
    """Abbreviate a collection in the ``repr``."""
    return f"<{len(items)}>"


@attrs.define
class Truth:
    """
    Everything that the service received, in the order of arrival.

    Attributes:
        create_requests: Every POST to createTask, including refused and interrupted ones.

        tasks: Every task by its id, in the order of creation.

        polls: Every query of recordInfo.

        queries: Every query of the credits, for a download URL, or about the models.

        uploads: Every upload.

        downloads: Every request for a result, an upload or a temporary link.

        callbacks: Every attempt to deliver a callback.

        followed_redirects: The paths requested after a redirect of a fault.

        connections: The number of connections.
    """

    create_requests: list[LoggedCreate] = attrs.field(factory=list, repr=_count)
    tasks: dict[str, FakeTask] = attrs.field(factory=dict, repr=_count)
    polls: list[LoggedPoll] = attrs.field(factory=list, repr=_count)
    queries: list[LoggedQuery] = attrs.field(factory=list, repr=_count)
    uploads: list[LoggedUpload] = attrs.field(factory=list, repr=_count)
    downloads: list[LoggedDownload] = attrs.field(factory=list, repr=_count)
    callbacks: list[LoggedCallback] = attrs.field(factory=list, repr=_count)
    followed_redirects: list[str] = attrs.field(factory=list)
    connections: int = 0

    @property
    def created(self) -> list[FakeTask]:
        """The tasks that were created and charged, in order."""
        return list(self.tasks.values())

    @property
    def rate_limited(self) -> list[LoggedCreate]:
        """The create requests that were refused with 429."""
        return [post for post in self.create_requests if post.code == 429]  # noqa: PLR2004 (the service's own code)

    def spent(self, now: float) -> float:
        """Return the cost of all tasks at *now* (the loop's clock) in credits, after the refunds of failed tasks."""
        return sum(task.credits(now) for task in self.tasks.values())

    def busiest_window(self, seconds: float = 10.0, *, accepted: bool = False) -> int:
        """
        Return the largest number of create requests that arrived within any *seconds*.

        Args:
            seconds: The length of the window; two requests exactly that far apart are not in the same window.

            accepted: True to count only requests that created tasks.
        """
        return busiest_window((p.at for p in self.create_requests if not accepted or p.task_id is not None), seconds)

    def most_running(self) -> int:
        """Return the largest number of tasks that ran at the same time."""
        changes = sorted(
            [(task.created_at, 1) for task in self.tasks.values()]
            + [(task.ends_at, -1) for task in self.tasks.values()]
        )
        most = running = 0
        for _, change in changes:
            running += change
            most = max(most, running)
        return most


def busiest_window(instants: Iterable[float], seconds: float) -> int:
    """
    Return the largest number of *instants* (in ascending order) within any half-open window of *seconds*.

    >>> busiest_window([0.0, 1.0, 9.0, 10.0, 10.5], 10.0)
    4
    """
    recent: deque[float] = deque()
    most = 0
    for instant in instants:
        recent.append(instant)
        # Instants are compared, not differences, since a difference may be rounded the wrong way.
        while recent[0] + seconds <= instant:
            recent.popleft()
        most = max(most, len(recent))
    return most
