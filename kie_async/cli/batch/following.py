"""What becomes known of the jobs of a run while it goes on: how fast they are created, and what hangs in the air."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

import anyio
import attrs

from kie_async import Event, EventName, TaskState
from kie_async.cli.resume_info import EVENT_MESSAGES, ResumeInfo

__all__ = ["Following"]

#: What each job may have, and is told each time; all else concerns the whole run, and is told once.
_OF_ONE = (EventName.AMBIGUOUS, EventName.DUPLICATE)


@attrs.define(kw_only=True)
class Following(ResumeInfo):
    """
    The jobs of one run.

    Args:
        note: Takes what the user should know at once.

        command: What goes on with the run.

        window: Length of the limit's window, in seconds.

    Attributes:
        left: How many rows were read and have not ended.
    """

    note: Callable[[str], None]
    command: str
    window: float
    left: int = 0
    _told: set[EventName] = attrs.field(factory=set, init=False)
    _created: deque[float] = attrs.field(factory=deque, init=False)
    _ended: set[str] = attrs.field(factory=set, init=False)

    def observe_event(self, event: Event) -> None:
        """Take what the client reports."""
        if event.name is EventName.SUBMITTED:
            self._created.append(anyio.current_time())
            self.created_lately()  # forgets those before
        if event.name is EventName.IN_DOUBT:
            self.in_doubt = True
        if event.name is EventName.ENDED and event.detail.get("state") == TaskState.SUCCESS:
            self._ended.add(event.job_id or "")
        if (text := EVENT_MESSAGES.get(event.name)) is not None and (
            event.name in _OF_ONE or event.name not in self._told
        ):
            self._told.add(event.name)
            self.note(f"{event.job_id}: {text}")

    def told(self, job_id: str | None) -> None:
        """The row of a job has its outcome."""
        self._ended.discard(job_id or "")

    @property
    def being_saved(self) -> Collection[str]:
        """The jobs that have ended well and whose rows have no outcome yet: their files are on their way."""
        return tuple(self._ended)

    @property
    def resumable(self) -> bool:
        """Whether there is something to wait for."""
        return self.left > 0

    def created_lately(self) -> int:
        """How many tasks were created in the window that ends now."""
        since = anyio.current_time() - self.window
        while self._created and self._created[0] <= since:
            self._created.popleft()
        return len(self._created)

    def resume_hint(self) -> str:
        """What goes on without the command, and how to go on with it."""
        return f"Nothing is lost, and nothing is paid twice. To go on where it stopped: {self.command}"
