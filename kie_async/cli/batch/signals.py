"""Handle Ctrl-C: the first one drains the run, the second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import anyio
import attrs
from anyio.abc import TaskStatus

from kie_async.cli.exit_codes import ExitCode

__all__ = ["SignalHandler"]

#: The time that the process may take to end after the second Ctrl-C, in seconds, before it is forced to exit.
_FORCED_EXIT_DELAY = 1.5


@attrs.define(kw_only=True)
class SignalHandler:
    """
    Handles signals during a run; SIGTERM, and SIGHUP of a terminal that has gone, count as Ctrl-C.

    Args:
        drain: The time that requests and downloads may take to end after the first signal, in seconds.

        say: Prints a message to the user.

    Attributes:
        drain_scope: The scope that the first signal bounds: it ends *drain* seconds later, or when it is cancelled.

        abort_scope: The scope of the whole run: the second signal cancels it.

        count: The number of signals so far.

        stopping: Set by the first signal.
    """

    drain: float
    say: Callable[[str], None]
    drain_scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    abort_scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    count: int = attrs.field(default=0, init=False)
    stopping: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _forced_exit: threading.Timer | None = attrs.field(default=None, init=False)

    async def handle_signals(self, stop: Callable[[], None], *, task_status: TaskStatus[None]) -> None:
        """
        Handle signals until cancelled.

        Args:
            stop: Stops the submission of further rows.

            task_status: Notified once signals are received.
        """
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it
            numbers.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for _ in signals:
                self.count += 1
                if self.count == 1:
                    self.say(
                        f"Interrupted: nothing more is sent. Open requests and downloads have up to {self.drain:g} s to"
                        " end; Ctrl-C again leaves at once."
                    )
                    self.drain_scope.deadline = anyio.current_time() + self.drain
                    stop()
                    self.stopping.set()
                else:
                    # A disk or a name server that hangs must not delay the exit: the journal survives it.
                    self._forced_exit = threading.Timer(_FORCED_EXIT_DELAY, os._exit, (ExitCode.INTERRUPTED,))
                    self._forced_exit.daemon = True
                    self._forced_exit.start()
                    self.abort_scope.cancel()
                    return

    def cancel_forced_exit(self) -> None:
        """Cancel the forced exit: the run has ended in time."""
        if self._forced_exit is not None:
            self._forced_exit.cancel()
