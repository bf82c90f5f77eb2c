"""What becomes known of the one job of a command: enough to say what goes on when the command ends before it does."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from kie_async import Event, EventName

__all__ = ["NOTES", "Trail", "how_to_settle"]

#: What is said when something happens that costs time, or may cost money.
NOTES = {
    EventName.RATE_LIMITED: "The service has refused the create for now (429); it keeps its place and is sent again.",
    EventName.MAINTENANCE: "The service is under maintenance (455); the create is tried again once a minute.",
    EventName.AMBIGUOUS: "The service has answered the create with an unclear error; it may have been paid.",
    EventName.DUPLICATE: "The service has created a second task for this job: it was paid twice.",
}


def how_to_settle(job_id: str, journal: str) -> str:
    """
    What the user can do about a job in doubt.

    Args:
        job_id: The job.

        journal: What a command must be given to find its journal, such as ``" --journal kie.db"``.
    """
    return (
        f"Look at kie.ai/logs. If the task is there: kie-async resolve{journal} {job_id} TASKID. If not:"
        f" kie-async resubmit{journal} {job_id} --allow-duplicate sends it again, and kie-async abandon{journal}"
        f" {job_id} gives it up."
    )


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

        journal: What a command must be given to find the journal that has the job (often nothing: ``""``); None if
            there is no journal.

        kept: Whether the job is in the journal whatever happens here: it was before, or has a key.

        unanswered: Whether a create is on the wire.

        unclear: Whether a create was answered so that nobody can tell whether it was accepted.

        doubted: Whether a create was not answered at all, so that the job is in doubt.
    """

    note: Callable[[str], None]
    accepted: Callable[[str], None] | None = None
    job_id: str | None = None
    task_id: str | None = None
    journal: str | None = None
    kept: bool = False
    unanswered: bool = False
    unclear: bool = False
    doubted: bool = False

    def saw(self, event: Event) -> None:
        """Take what the client reports."""
        self.job_id = event.job_id or self.job_id
        self.task_id = event.task_id or self.task_id
        self.unanswered = False
        if event.name is EventName.SUBMITTED and self.task_id is not None and self.accepted is not None:
            self.accepted(self.task_id)
        if event.name is EventName.AMBIGUOUS:
            self.unclear = True
        if event.name is EventName.IN_DOUBT:
            self.doubted = True
        if (note := NOTES.get(event.name)) is not None:
            self.note(note)

    def was_doubted(self, job_id: str | None, *, unclear: bool) -> None:
        """Take an error that says that a create may have been paid; *unclear* if it was answered at all."""
        self.job_id = job_id or self.job_id
        self.unclear, self.doubted = self.unclear or unclear, self.doubted or not unclear

    @property
    def may_be_paid(self) -> bool:
        """Whether a create was sent, and nobody can tell what became of it."""
        return self.task_id is None and (self.unanswered or self.unclear or self.doubted)

    @property
    def lives_on(self) -> bool:
        """Whether there is something to wait for."""
        return self.task_id is not None or (self.kept and self.job_id is not None)

    def outlook(self) -> str:
        """
        What goes on without the command, and how to go on with it.

        >>> Trail(note=print, task_id="1a2b").outlook()
        'Task 1a2b lives on at the service. Go on with it: kie-async wait 1a2b'
        """
        journal = self.journal or ""
        if self.task_id is not None:
            return f"Task {self.task_id} lives on at the service. Go on with it: kie-async wait{journal} {self.task_id}"
        if self.may_be_paid:
            said = (
                f"The create of {self.job_id or 'the job'} was sent, and nobody can tell what became of it: it may have"
                " been paid."
            )
            if self.journal is not None and self.job_id is not None and (self.doubted or self.unanswered):
                return f"{said} {how_to_settle(self.job_id, journal)}"
            return (
                f"{said} Look at kie.ai/logs. If the task is there, `kie-async wait TASKID` fetches it; if not, run the"
                " command again."
            )
        if self.lives_on:
            return (
                f"Job {self.job_id} is in the journal: kie-async wait{journal} {self.job_id} waits for it. If it was"
                f" never sent, kie-async recover{journal} sends it."
            )
        return "Nothing was sent, and nothing was paid."
