"""Ctrl-C, once and twice: what has begun ends first, unless the user has no time for that."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import anyio
import attrs
from anyio.abc import TaskStatus

from kie_async.cli.exit_codes import ExitCode

__all__ = ["Interruption"]

#: How long the process may take to end after the second Ctrl-C, in seconds; the journal can take it.
_PATIENCE = 1.5


@attrs.define(kw_only=True)
class Interruption:
    """
    What signals do while a run is under way; SIGTERM is as good as Ctrl-C.

    Args:
        drain: How long what has begun may take to end after the first one, in seconds.

        say: Takes what the user should know.

    Attributes:
        patient: The scope of what the first one bounds: it ends in *drain* seconds from then, or when it is cancelled.

        hurried: The scope of everything: the second one cancels it.

        came: How often it came.

        first: Set by the first one.
    """

    drain: float
    say: Callable[[str], None]
    patient: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    hurried: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    came: int = attrs.field(default=0, init=False)
    first: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _impatience: threading.Timer | None = attrs.field(default=None, init=False)

    async def watch(self, stop: Callable[[], None], *, task_status: TaskStatus[None]) -> None:
        """
        Wait for signals, until it is cancelled.

        Args:
            stop: Lets nothing new begin.

            task_status: Told when a signal would be noticed.
        """
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self.came += 1
                if self.came == 1:
                    self.say(
                        "Interrupted: nothing more is sent. What is on the wire or being saved has up to"
                        f" {self.drain:g} s to end; Ctrl-C again leaves at once."
                    )
                    self.patient.deadline = anyio.current_time() + self.drain
                    stop()
                    self.first.set()
                else:
                    # A disk or a name server that hangs must not hold anybody: the journal can take it.
                    self._impatience = threading.Timer(_PATIENCE, os._exit, (ExitCode.INTERRUPTED,))
                    self._impatience.daemon = True
                    self._impatience.start()
                    self.hurried.cancel()
                    return

    def over(self) -> None:
        """Nothing hangs any more."""
        if self._impatience is not None:
            self._impatience.cancel()
