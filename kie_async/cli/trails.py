"""What becomes known of the many jobs of a command: enough to say what goes on when it ends before they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from kie_async import Event, EventName
from kie_async.cli.job_status import NOTES

__all__ = ["Resolution", "Trails"]

#: What ends a job for this command.
_ENDED = (EventName.ENDED, EventName.CANCELLED, EventName.REJECTED)


@attrs.define(kw_only=True)
class Resolution:
    """
    What hangs in the air of many jobs: whether any of their creates may have been paid.

    Attributes:
        unanswered: Whether a create is on the wire.
    """

    unanswered: bool = False
    _doubted: bool = attrs.field(default=False, init=False)

    def was_doubted(self, job_id: str | None, *, unclear: bool) -> None:  # noqa: ARG002 (one doubt is like another)
        """Take an error that says that a create may have been paid."""
        self._doubted = True

    @property
    def may_be_paid(self) -> bool:
        """Whether a create was sent, and nobody can tell what became of it."""
        return self.unanswered or self._doubted


@attrs.define(kw_only=True)
class Trails(Resolution):
    """
    The trails of jobs that the journal has.

    Args:
        note: Takes what the user should know at once.

        journal: What a command must be given to find the journal, such as ``" --journal kie.db"``.
    """

    note: Callable[[str], None]
    journal: str = ""
    _left: set[str] = attrs.field(factory=set, init=False)

    def begin(self, job_ids: Iterable[str]) -> None:
        """Take the jobs that the command has begun with."""
        self._left |= set(job_ids)

    def saw(self, event: Event) -> None:
        """Take what the client reports."""
        if event.name in _ENDED and event.job_id is not None:
            self._left.discard(event.job_id)
        if event.name is EventName.IN_DOUBT:
            self._doubted = True
        if (note := NOTES.get(event.name)) is not None:
            self.note(f"{event.job_id}: {note}")

    @property
    def lives_on(self) -> bool:
        """Whether there is something to wait for."""
        return bool(self._left)

    def outlook(self) -> str:
        """
        What goes on without the command, and how to go on with it.

        >>> trails = Trails(note=print)
        >>> trails.begin(["kj_1"])
        >>> trails.outlook()
        '1 unfinished. The journal has them all: kie-async recover goes on with them.'
        """
        unfinished = f"{len(self._left)} unfinished. " if self._left else ""
        return f"{unfinished}The journal has them all: kie-async recover{self.journal} goes on with them."
