"""How a command runs: its coroutine from the first line to the exit code, whatever ends it."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable

import anyio
import attrs
import typer

from kie_async.cli import stop_before_anything
from kie_async.cli.error_report import conclude
from kie_async.cli.exit_codes import Exit
from kie_async.cli.journals import JournalFile
from kie_async.cli.log import log_to
from kie_async.cli.output import Output
from kie_async.cli.session import Session

__all__ = ["Invocation", "run"]

#: How long the event loop may take to end after all is said, in seconds.
_PATIENCE = 0.5


@attrs.frozen(kw_only=True)
class Invocation:
    """
    What was given for all commands.

    Attributes:
        verbose: Whether the log and tracebacks are shown.

        loop_factory: Makes the event loop; None for the platform's.
    """

    verbose: bool = False
    loop_factory: Callable[[], AbstractEventLoop] | None = None


def run(
    context: typer.Context,
    command: Callable[[Session], Awaitable[Exit]],
    *,
    as_json: bool = False,
    journal: JournalFile | None = None,
) -> None:
    """
    Run a command to its end.

    Args:
        context: The command's context; ``Invocation`` is its object.

        command: The command.

        as_json: Whether its results are JSON.

        journal: Where its jobs are written down; None for nowhere.

    Raises:
        typer.Exit: Always, with the exit code.
    """
    invocation = context.ensure_object(Invocation)
    session = Session(output=Output(as_json=as_json), journal=journal)
    with log_to(session.output, verbose=invocation.verbose):
        raise typer.Exit(_run(invocation, session, command))


def _run(invocation: Invocation, session: Session, command: Callable[[Session], Awaitable[Exit]]) -> Exit:
    impatience = threading.Timer(_PATIENCE, os._exit, (Exit.INTERRUPTED,))
    impatience.daemon = True
    goodbye = _Goodbye(session)

    async def until_interrupted() -> Exit:
        try:
            return await command(session)
        except anyio.get_cancelled_exc_class():
            goodbye.say()
            # A thread that looks a name up cannot be interrupted, and the loop waits for its threads.
            impatience.start()
            raise

    try:
        if signal.getsignal(signal.SIGINT) is stop_before_anything:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which the loop turns into a cancellation
        return anyio.run(until_interrupted, backend_options={"loop_factory": invocation.loop_factory})
    except KeyboardInterrupt:
        goodbye.say()
        return Exit.INTERRUPTED
    except BrokenPipeError:
        raise  # nobody reads the results any more: typer ends quietly
    except Exception as error:  # noqa: BLE001 (whatever it is, nobody wants to read a traceback unasked)
        if invocation.verbose:
            session.output.say(traceback.format_exc())
        return conclude(session, error)
    finally:
        impatience.cancel()


class _Goodbye:
    """What is said after an interruption, once: the second Ctrl-C may come before the first was obeyed, or instead."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._said = False

    def say(self) -> None:
        if self._said:
            return
        self._said = True
        self._session.output.say(f"Interrupted. {self._session.outlook()}")
