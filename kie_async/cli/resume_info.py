"""The hints on resuming a command's jobs that an interrupted or failed command prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import attrs

from kie_async import Event, EventName

__all__ = ["EVENT_MESSAGES", "JobResumeInfo", "JournalResumeInfo", "ResumeInfo", "resolve_hint"]

#: The messages for events that cost time or may cost money.
EVENT_MESSAGES = {
    EventName.RATE_LIMITED: "The service has refused the create request for now (429); it is sent again, in its turn.",
    EventName.MAINTENANCE: "The service is under maintenance (455); the create request is retried once a minute.",
    EventName.AMBIGUOUS: "The service has answered the create request with an ambiguous error; it may have been paid.",
    EventName.DUPLICATE: "The service has created a second task for this job: it was paid twice.",
}

#: The events that end a job for the command.
_FINAL_EVENTS = (EventName.ENDED, EventName.CANCELLED, EventName.REJECTED)


def resolve_hint(job_id: str, journal: str) -> str:
    """
    Return what the user can do about a job in doubt.

    Args:
        job_id: The job.

        journal: The option that leads a command to the job's journal, such as ``" --journal kie.db"``.
    """
    return (
        f"Check kie.ai/logs. If the task is there: kie-async resolve{journal} {job_id} TASKID. If not:"
        f" kie-async resubmit{journal} {job_id} --allow-duplicate sends it again, and kie-async abandon{journal}"
        f" {job_id} gives it up."
    )


@attrs.define(kw_only=True)
class ResumeInfo(ABC):
    """
    The state of a command's jobs, as far as the command knows it.

    Attributes:
        awaiting_response: True while a create request is on the wire.

        in_doubt: True once a create request may have been paid without an answer that says so.
    """

    awaiting_response: bool = False
    in_doubt: bool = False

    @abstractmethod
    def observe_event(self, event: Event) -> None:
        """Record an event of the client."""

    def mark_in_doubt(self, job_id: str | None, *, ambiguous: bool) -> None:  # noqa: ARG002 (for one job; see there)
        """
        Record an error that says that a create request may have been paid.

        Args:
            job_id: The job, if it is known.

            ambiguous: True if there was a response, with an ambiguous error; False if there was none.
        """
        self.in_doubt = True

    @property
    def may_be_paid(self) -> bool:
        """True if a create request was sent and may have been paid without a known task."""
        return self.awaiting_response or self.in_doubt

    @property
    @abstractmethod
    def resumable(self) -> bool:
        """True if there is something to wait for."""

    @abstractmethod
    def resume_hint(self) -> str:
        """Say what continues without the command, and how to resume it."""


@attrs.define(kw_only=True)
class JobResumeInfo(ResumeInfo):
    """
    The state of a command's only job.

    Attributes:
        warn: Shows a message to the user.

        on_task_id: Receives the task id as soon as it is known.

        job_id: The job's own id, or None while it has none.

        task_id: The service's id, or None while it is unknown.

        journal: The option that leads a command to the job's journal (often ``""``); None if there is no journal.

        networks: The option for the networks that results may come from, such as ``" --allow-networks 10.0.0.0/8"``.

        journaled: True if the job stays in the journal whatever happens: it was there before, or it has a key.

        ambiguous: True once a create request was answered with an ambiguous error.
    """

    warn: Callable[[str], None]
    on_task_id: Callable[[str], None] | None = None
    job_id: str | None = None
    task_id: str | None = None
    journal: str | None = None
    networks: str = ""
    journaled: bool = False
    ambiguous: bool = False

    def observe_event(self, event: Event) -> None:
        """Record an event of the client."""
        self.job_id = event.job_id or self.job_id
        self.task_id = event.task_id or self.task_id
        self.awaiting_response = False
        if event.name is EventName.SUBMITTED and self.task_id is not None and self.on_task_id is not None:
            self.on_task_id(self.task_id)
        self.ambiguous |= event.name is EventName.AMBIGUOUS
        self.in_doubt: bool = self.in_doubt or event.name is EventName.IN_DOUBT
        if (message := EVENT_MESSAGES.get(event.name)) is not None:
            self.warn(message)

    def mark_in_doubt(self, job_id: str | None, *, ambiguous: bool) -> None:
        """Record an error that says that a create request may have been paid."""
        self.job_id = job_id or self.job_id
        self.ambiguous, self.in_doubt = self.ambiguous or ambiguous, self.in_doubt or not ambiguous

    @property
    def may_be_paid(self) -> bool:
        """True if a create request was sent and may have been paid without a known task."""
        return self.task_id is None and (self.awaiting_response or self.ambiguous or self.in_doubt)

    @property
    def resumable(self) -> bool:
        """True if there is something to wait for."""
        return self.task_id is not None or (self.journaled and self.job_id is not None)

    def resume_hint(self) -> str:
        """
        Say what continues without the command, and how to resume it.

        >>> JobResumeInfo(warn=print, task_id="1a2b").resume_hint()
        'Task 1a2b continues at the service. To resume: kie-async wait 1a2b'
        """
        journal = self.journal or ""
        given = journal + self.networks
        if self.task_id is not None:
            return f"Task {self.task_id} continues at the service. To resume: kie-async wait{given} {self.task_id}"
        if self.may_be_paid:
            sent = (
                f"The create request of {self.job_id or 'the job'} was sent without a clear response: it may have been"
                " paid."
            )
            if self.journal is not None and self.job_id is not None and (self.in_doubt or self.awaiting_response):
                return f"{sent} {resolve_hint(self.job_id, journal)}"
            return (
                f"{sent} Check kie.ai/logs. If the task is there, `kie-async wait TASKID` fetches it; if not, run the"
                " command again."
            )
        if self.resumable:
            return (
                f"Job {self.job_id} is in the journal: kie-async wait{given} {self.job_id} waits for it. If it was"
                f" never sent, kie-async recover{given} sends it."
            )
        return "Nothing was sent, and nothing was paid."


@attrs.define(kw_only=True)
class JournalResumeInfo(ResumeInfo):
    """
    The state of many jobs that the journal has.

    Attributes:
        warn: Shows a message to the user.

        given: The options that a command needs, too: those for the journal and for the networks of results.
    """

    warn: Callable[[str], None]
    given: str = ""
    _unfinished: set[str] = attrs.field(factory=set, init=False)

    def add_jobs(self, job_ids: Iterable[str]) -> None:
        """Add the jobs that the command resumes."""
        self._unfinished |= set(job_ids)

    def observe_event(self, event: Event) -> None:
        """Record an event of the client."""
        if event.name in _FINAL_EVENTS and event.job_id is not None:
            self._unfinished.discard(event.job_id)
        self.in_doubt: bool = self.in_doubt or event.name is EventName.IN_DOUBT
        if (message := EVENT_MESSAGES.get(event.name)) is not None:
            self.warn(f"{event.job_id}: {message}")

    @property
    def resumable(self) -> bool:
        """True if there is something to wait for."""
        return bool(self._unfinished)

    def resume_hint(self) -> str:
        """
        Say what continues without the command, and how to resume it.

        >>> jobs = JournalResumeInfo(warn=print)
        >>> jobs.add_jobs(["kj_1"])
        >>> jobs.resume_hint()
        '1 unfinished. The journal has all jobs. To resume: kie-async recover'
        """
        unfinished = f"{len(self._unfinished)} unfinished. " if self._unfinished else ""
        return f"{unfinished}The journal has all jobs. To resume: kie-async recover{self.given}"
