"""How a command runs: its coroutine from the first line to the exit code, whatever ends it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
import attrs
import typer

from kie_async import InvalidRequestError, KieError, SubmitInDoubtError, TaskTimeoutError
from kie_async.cli import stop_before_anything
from kie_async.cli.exits import Exit, exit_of
from kie_async.cli.output import Output
from kie_async.cli.session import Session

__all__ = ["Invocation", "conclude", "run"]

#: How long the event loop may take to end after all is said, in seconds.
_PATIENCE = 0.5

_FULL = "%(asctime)s %(name)s %(levelname)s: %(message)s"


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


def run(context: typer.Context, command: Callable[[Session], Awaitable[Exit]], *, as_json: bool = False) -> None:
    """
    Run a command to its end.

    Args:
        context: The command's context; ``Invocation`` is its object.

        command: The command.

        as_json: Whether its results are JSON.

    Raises:
        typer.Exit: Always, with the exit code.
    """
    invocation = context.ensure_object(Invocation)
    session = Session(output=Output(as_json=as_json))
    with _log_to(session.output, verbose=invocation.verbose):
        raise typer.Exit(_run(invocation, session, command))


def _run(invocation: Invocation, session: Session, command: Callable[[Session], Awaitable[Exit]]) -> Exit:
    output = session.output
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
    except KieError as error:
        return conclude(session, error)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        output.error(f"{error.strerror or error}{where}")
        return Exit.USAGE
    except Exception as error:  # noqa: BLE001 (whatever it is, nobody wants to read a traceback unasked)
        output.error(f"{type(error).__name__}: {error}. This is a bug of kie-async; --verbose shows where.")
        if invocation.verbose:
            output.say(traceback.format_exc())
        output.say(session.outlook())
        return Exit.REFUSED
    finally:
        impatience.cancel()


def conclude(session: Session, error: KieError) -> Exit:
    """
    Tell what has gone wrong and what may be done next.

    Args:
        session: The command's session; its client is closed.

        error: What the command has ended with.

    Returns:
        The exit code.
    """
    output, code = session.output, exit_of(error)
    if isinstance(error, InvalidRequestError) and error.problems:
        for problem in error.problems:
            output.error(str(problem))
        output.say("Nothing was sent.")
        return code
    if isinstance(error, TaskTimeoutError) and session.trail is not None and session.trail.task_id is None:
        code = Exit.IN_DOUBT if session.trail.unanswered or session.trail.unclear else Exit.NO_ANSWER
    # The sentences of these two are for programmers: the outlook says the same for the command line.
    if isinstance(error, SubmitInDoubtError):
        output.error(f"No answer has told whether job {error.intent_id} was accepted.")
    elif isinstance(error, TaskTimeoutError):
        output.error(error.message.partition(". ")[0] + ".")
    else:
        output.error(str(error))
    if code in (Exit.IN_DOUBT, Exit.NOT_YET):
        output.say(session.outlook())
    return code


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


@contextmanager
def _log_to(output: Output, *, verbose: bool) -> Generator[None]:
    """Send the log to the messages: errors only, in one line each, unless more was asked for."""
    handler = logging.StreamHandler(output.messages.file)
    handler.setLevel(logging.DEBUG if verbose else logging.ERROR)
    handler.setFormatter(logging.Formatter(_FULL) if verbose else _OneLine())
    package, root = logging.getLogger("kie_async"), logging.getLogger()
    level = package.level
    package.setLevel(logging.DEBUG if verbose else level)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        package.setLevel(level)


class _OneLine(logging.Formatter):
    """The message alone."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"
