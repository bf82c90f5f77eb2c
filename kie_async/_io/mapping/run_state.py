"""Whether a run goes on sending: until its deadline, until somebody stops it, until the account cannot pay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from kie_async._io.mapping.bell import Bell

if TYPE_CHECKING:
    from kie_async._io.submitting.submitter import Submitter

__all__ = ["RunState"]


class RunState:
    """
    What has ended the sending of a run, if anything has.

    Args:
        submitter: Knows whether the client closes.

    Attributes:
        bell: Rung when something has changed in the run, this or anything else.

        feeding: The scope in which rows are read and begun.

        late: Whether the deadline is over: rows are read on, and nothing is sent for them.

        verdict: What has ended it, for whoever iterates.

        closed: Whether the client has closed under it.
    """

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter
        self._stopped = False
        self.bell = Bell()
        self.feeding = anyio.CancelScope()
        self.late = False
        self.verdict: Exception | None = None
        self.closed = False

    @property
    def ends(self) -> bool:
        """Whether nothing more is to be begun, whatever it is."""
        return self._stopped or self.verdict is not None or self._submitter.closing

    def stop(self) -> None:
        """Read nothing more, and begin nothing more."""
        self._stopped = True
        self.feeding.cancel()
        self.bell.ring()

    def fail(self, verdict: Exception) -> None:
        """Read nothing more, and begin nothing more, for a reason; the first one is told."""
        self.verdict = self.verdict or verdict
        self.feeding.cancel()
        self.bell.ring()

    def mark_closing(self) -> None:
        """Note it if the client closes."""
        self.closed = self.closed or self._submitter.closing
