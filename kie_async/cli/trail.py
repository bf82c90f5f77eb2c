"""What becomes known of the one job of a command: enough to say what goes on when the command ends before it does."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from kie_async import Event, EventName

__all__ = ["Trail"]

#: What is said when something happens that costs time, or may cost money.
_NOTES = {
    EventName.RATE_LIMITED: "The service has refused the create for now (429); it keeps its place and is sent again.",
    EventName.MAINTENANCE: "The service is under maintenance (455); the create is tried again once a minute.",
    EventName.SUSPECT: "The service has answered the create with an unclear error; it may have been paid.",
    EventName.DUPLICATE: "The service has created a second task for this job: it was paid twice.",
}


@attrs.define(kw_only=True)
class Trail:
    """
    The trail of one job.

    Args:
        note: Takes what the user should know at once.

        accepted: Takes the taskId, as soon as it is known.

    Attributes:
        job_id: The job's own id, once there is one.

        task_id: The service's id, once it is known.

        unanswered: Whether a create is on the wire.

        unclear: Whether a create was answered so that nobody can tell whether it was accepted, or not at all.
    """

    note: Callable[[str], None]
    accepted: Callable[[str], None] | None = None
    job_id: str | None = None
    task_id: str | None = None
    unanswered: bool = False
    unclear: bool = False

    def saw(self, event: Event) -> None:
        """Take what the client reports."""
        self.job_id = event.job_id or self.job_id
        self.task_id = event.task_id or self.task_id
        self.unanswered = False
        if event.name is EventName.SUBMITTED and self.task_id is not None and self.accepted is not None:
            self.accepted(self.task_id)
        if event.name in (EventName.IN_DOUBT, EventName.SUSPECT):
            self.unclear = True
        if (note := _NOTES.get(event.name)) is not None:
            self.note(note)

    @property
    def may_be_paid(self) -> bool:
        """Whether a create was sent, and nobody can tell what became of it."""
        return self.task_id is None and (self.unanswered or self.unclear)

    def outlook(self) -> str:
        """
        What goes on without the command, and how to go on with it.

        >>> Trail(note=print, task_id="1a2b").outlook()
        'Task 1a2b lives on at the service. Go on with it: kie-async wait 1a2b'
        """
        if self.task_id is not None:
            return f"Task {self.task_id} lives on at the service. Go on with it: kie-async wait {self.task_id}"
        if self.may_be_paid:
            return (
                f"The create of {self.job_id or 'the job'} was sent, and nobody can tell what became of it: it may have"
                " been paid. Look at kie.ai/logs. If the task is there, `kie-async wait TASKID` fetches it; if not, run"
                " the command again."
            )
        return "Nothing was sent, and nothing was paid."
