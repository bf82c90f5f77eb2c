"""The service's truth: what it has seen, against which a client's account of the matter is checked."""

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
    One request that has arrived.

    Attributes:
        at: When it arrived, by the loop's clock, in seconds.

        code: The code in the answer that the client was let see, or None.

        status: The HTTP status of that answer, or None if there was none.

        answered_at: When the answer went out, by the loop's clock, or None.

        fault: The fault that struck it, or None.
    """

    at: float
    code: int | None = attrs.field(default=None, kw_only=True)
    status: int | None = attrs.field(default=None, kw_only=True)
    answered_at: float | None = attrs.field(default=None, kw_only=True)
    fault: Fault | None = attrs.field(default=None, kw_only=True, repr=False)


@attrs.define(eq=False)
class LoggedCreate(LoggedRequest):
    """
    One POST to createTask.

    Attributes:
        body: The body, decoded; None where it is no JSON.

        model: The model that it names, or None.

        callback_url: The ``callBackUrl`` in it, or None.

        task_id: The task that it has created, or None, whatever the client was let see.
    """

    body: JSON = attrs.field(default=None, repr=False)
    model: str | None = None
    callback_url: str | None = None
    task_id: str | None = None


@attrs.define(eq=False)
class LoggedPoll(LoggedRequest):
    """
    One query of recordInfo.

    Attributes:
        task_id: The id asked for.

        state: The task's true state, or None if nothing is known of it.
    """

    task_id: str = ""
    state: str | None = None


@attrs.define(eq=False)
class LoggedQuery(LoggedRequest):
    """
    One other query of the API.

    Attributes:
        place: ``"credit"`` or ``"download_url"``.
    """

    place: str = ""


@attrs.define(eq=False)
class LoggedUpload(LoggedRequest):
    """
    One upload.

    Attributes:
        path: Where it is held, or None if it is not.

        size: Its size in bytes.

        mime: Its media type, by its content.
    """

    path: str | None = None
    size: int = 0
    mime: str = ""


@attrs.define(eq=False)
class LoggedDownload(LoggedRequest):
    """
    One request for a file.

    Attributes:
        path: The file's path.

        authorized: Whether the request carried an API key, which it must not.
    """

    path: str = ""
    authorized: bool = False


@attrs.define(eq=False)
class LoggedCallback:
    """
    One attempt to report a task's end.

    Attributes:
        at: When it was made, by the loop's clock, in seconds.

        task_id: The task.

        url: Where to.

        attempt: 1 to 3; copies on purpose have the number of the first.

        status: The HTTP status that came back, or None.

        error: Why none came back, or None.
    """

    at: float
    task_id: str
    url: str
    attempt: int
    status: int | None = None
    error: str | None = None


def _count(held: Sized) -> str:
    """What stands for a long collection when the truth is shown."""
    return f"<{len(held)}>"


@attrs.define
class Truth:
    """
    All that the service has seen, in the order of arrival.

    Attributes:
        create_requests: Every POST to createTask, those refused and those cut off as well.

        tasks: Every task, by its id, in the order of creation.

        polls: Every query of recordInfo.

        queries: Every query of the credits and for a download URL.

        uploads: Every upload.

        downloads: Every request for a result, an upload or a minted link.

        callbacks: Every attempt to report an end.

        followed_redirects: Paths asked for to which only a redirect leads.

        connections: How many connections were made.
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
        """Every task that was created, and paid, in order."""
        return list(self.tasks.values())

    @property
    def rate_limited(self) -> list[LoggedCreate]:
        """The creates that were refused for coming too fast."""
        return [post for post in self.create_requests if post.code == 429]  # noqa: PLR2004 (the service's own code)

    def spent(self, now: float) -> float:
        """What all tasks cost at *now* (the loop's clock), in credits: failed ones are given back."""
        return sum(task.credits(now) for task in self.tasks.values())

    def busiest_window(self, seconds: float = 10.0, *, accepted: bool = False) -> int:
        """
        The greatest number of creates that arrived within any *seconds*.

        Args:
            seconds: Length of the window; two creates exactly that far apart are not in one.

            accepted: Count only those that became tasks.
        """
        return busiest_window((p.at for p in self.create_requests if not accepted or p.task_id is not None), seconds)

    def most_running(self) -> int:
        """The greatest number of tasks that ran at once."""
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
    The greatest number of *instants* (in ascending order) within any half-open window of *seconds*.

    >>> busiest_window([0.0, 1.0, 9.0, 10.0, 10.5], 10.0)
    4
    """
    recent: deque[float] = deque()
    most = 0
    for instant in instants:
        recent.append(instant)
        # Compared as instants: a difference of two may be rounded the wrong way.
        while recent[0] + seconds <= instant:
            recent.popleft()
        most = max(most, len(recent))
    return most
