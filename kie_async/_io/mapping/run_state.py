"""The phase of a run, and the notification that something in the run has changed."""

from __future__ import annotations

import asyncio
from enum import IntEnum, auto
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from kie_async._io.submitting.submission import Submitter

__all__ = ["RunPhase", "RunState"]


class RunPhase(IntEnum):
    """The phases of a run, in their order; a run never returns to an earlier one."""

    SENDING = auto()  #: Rows are read and sent.
    SKIPPING = auto()  #: ``stop_after`` has passed: rows are still read, and none is sent.
    STOPPED = auto()  #: No further row is read or sent; what runs is followed to its end.
    LEFT = auto()  #: As ``STOPPED``, and the caller has left the run.


class RunState:
    """
    The phase of a run. Every change in the run, of the phase or of anything else, notifies all waiting coroutines.

    Args:
        submitter: Its ``closing`` flag ends the run.

    Attributes:
        reading: The scope in which rows are read and started.

        error: The error that ended the run, for the iterator.
    """

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter
        self._phase = RunPhase.SENDING
        self._changed = asyncio.Event()
        self.reading = anyio.CancelScope()
        self.error: Exception | None = None

    @property
    def phase(self) -> RunPhase:
        """The current phase."""
        return max(self._phase, RunPhase.STOPPED) if self.client_closing else self._phase

    @property
    def sends(self) -> bool:
        """True if rows may be sent."""
        return self.phase is RunPhase.SENDING

    @property
    def stopped(self) -> bool:
        """True if no further row is read or sent."""
        return self.phase >= RunPhase.STOPPED

    @property
    def client_closing(self) -> bool:
        """True if the client closes or is closed."""
        return self._submitter.closing

    def advance(self, phase: RunPhase, error: Exception | None = None) -> None:
        """
        Enter a phase, unless the run is already in it or in a later one.

        Args:
            phase: The phase.

            error: The reason, for the iterator; only the first error of a run is kept.
        """
        self._phase = max(self._phase, phase)
        self.error = self.error or error
        if self._phase >= RunPhase.STOPPED:
            self.reading.cancel()
        self.notify()

    def notify(self) -> None:
        """Wake every coroutine that waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self) -> None:
        """Wait until the next ``notify()``."""
        await self._changed.wait()
