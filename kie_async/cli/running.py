"""The runner of commands: event loop, interruption, error report and exit code."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import traceback
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import NoReturn

import anyio
import attrs
import typer

from kie_async import DownloadError, InvalidRequestError, JournalError, KieError, SubmitInDoubtError, TaskTimeoutError
from kie_async.cli.exit_codes import ExitCode, exit_code_of
from kie_async.cli.options import CommandJournal, JournalDatabase, select_journal
from kie_async.cli.output import Output, log_to
from kie_async.cli.session import Session

__all__ = ["GlobalOptions", "report_error", "run_command", "run_with_journal"]

#: The seconds that an interrupted event loop has for its end before the process exits.
_LOOP_EXIT_TIMEOUT = 0.5
#: The errors of an address that cannot be listened on; without a file's name, they have no other cause.
_UNBOUND = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


@attrs.frozen(kw_only=True)
class GlobalOptions:
    """
    The options of all commands.

    Attributes:
        verbose: True if the log and tracebacks are shown.

        allow_networks: Networks that results may be fetched from although they are not public.

        loop_factory: A factory of event loops; None for the platform's.

        early_handler: The handler of SIGINT until a command runs; None if the process has no such handler.
    """

    verbose: bool = False
    allow_networks: tuple[str, ...] = ()
    loop_factory: Callable[[], AbstractEventLoop] | None = None
    early_handler: Callable[[int, FrameType | None], NoReturn] | None = None


def run_command(
    context: typer.Context,
    command: Callable[[Session], Awaitable[ExitCode]],
    *,
    as_json: bool = False,
    journal: CommandJournal | None = None,
) -> None:
    """
    Run a command to its exit code.

    Args:
        context: The command's context; its object is the ``GlobalOptions``.

        command: The command.

        as_json: True if results are JSON.

        journal: The journal of the command's jobs; None for no journal.

    Raises:
        typer.Exit: Always, with the exit code.
    """
    options = context.ensure_object(GlobalOptions)
    session = Session(output=Output(as_json=as_json), journal=journal, allow_networks=options.allow_networks)
    if isinstance(journal, JournalDatabase) and journal.shows_secret:
        session.output.warn(
            "Other users of this machine can read a password in --journal. Set KIE_JOURNAL to the DSN instead: then the"
            " commands that are printed here need no --journal."
        )
    with log_to(session.output, verbose=options.verbose):
        raise typer.Exit(_run(options, session, command))


def run_with_journal(
    context: typer.Context,
    command: Callable[[Session], Awaitable[ExitCode]],
    *,
    as_json: bool,
    journal: str | None,
    no_journal: bool = False,
) -> None:
    """
    Run a command that uses a journal to its exit code.

    Args:
        context: The command's context.

        command: The command.

        as_json: True if results are JSON.

        journal: The value of the option ``--journal``.

        no_journal: The value of the option ``--no-journal``.

    Raises:
        typer.Exit: Always, with the exit code.
    """
    run_command(context, command, as_json=as_json, journal=None if no_journal else select_journal(journal))


def _run(options: GlobalOptions, session: Session, command: Callable[[Session], Awaitable[ExitCode]]) -> ExitCode:
    force_exit = threading.Timer(_LOOP_EXIT_TIMEOUT, os._exit, (ExitCode.INTERRUPTED,))
    force_exit.daemon = True
    hinted = False

    def print_hint_once() -> None:
        # A second Ctrl-C may arrive before the first has taken effect, or replace it.
        nonlocal hinted
        if not hinted:
            hinted = True
            session.output.info(f"Interrupted. {session.resume_hint()}")

    async def until_interrupted() -> ExitCode:
        try:
            code = await command(session)
        except anyio.get_cancelled_exc_class():
            print_hint_once()
            # A thread that resolves a host name cannot be interrupted, and the loop waits for its threads.
            force_exit.start()
            raise
        return ExitCode.FAILED if code is ExitCode.DONE and session.output.broken is not None else code

    try:
        if options.early_handler is not None and signal.getsignal(signal.SIGINT) is options.early_handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the loop turns it into a cancellation
        return anyio.run(until_interrupted, backend_options={"loop_factory": options.loop_factory})
    except KeyboardInterrupt:
        print_hint_once()
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 (every error becomes a message and an exit code)
        if options.verbose:
            session.output.info(traceback.format_exc())
        return report_error(session, error)
    finally:
        _cancel_exit(force_exit)


def _cancel_exit(force_exit: threading.Timer) -> None:
    """Wait for the threads that the interpreter would wait for; *force_exit* ends the process if one of them hangs."""
    others = (threading.current_thread(), threading.main_thread())
    for thread in threading.enumerate() if force_exit.is_alive() else ():
        if not thread.daemon and thread not in others:
            thread.join()
    force_exit.cancel()


def report_error(session: Session, error: Exception) -> ExitCode:
    """
    Print what went wrong and what to do next, and return the exit code.

    Args:
        session: The command's session; its client is closed.

        error: The error that has ended the command.
    """
    output = session.output
    match error:
        case InvalidRequestError() if error.problems:
            output.errors(error.problems)
            output.info("Nothing was sent.")
            return ExitCode.USAGE
        case KieError():
            return _report_kie_error(session, error)
        case OSError():
            filename = f": {error.filename}" if error.filename else ""
            output.error(f"{error.strerror or error}{filename}{_next_step(error)}")
            code = ExitCode.USAGE
        case _:
            output.error(f"{type(error).__name__}: {error}. This is a bug in kie-async; --verbose shows the traceback.")
            code = ExitCode.FAILED
    if session.resume_info is not None:
        output.info(session.resume_hint())
    return _unfinished_code(session) or code


def _next_step(error: OSError) -> str:
    """Return what helps if an address cannot be listened on."""
    unbound = isinstance(error, socket.gaierror) or error.errno in _UNBOUND
    return ". Choose another --port or --host." if unbound and not error.filename else ""


def _report_kie_error(session: Session, error: KieError) -> ExitCode:
    output, code = session.output, exit_code_of(error)
    if code is ExitCode.IN_DOUBT and session.resume_info is not None:
        session.resume_info.mark_in_doubt(error.job_id, ambiguous=not isinstance(error, SubmitInDoubtError))
    # The first two messages address programmers; for the command line, the resume hint follows instead.
    match error:
        case TaskTimeoutError():
            output.error(error.message.partition(". ")[0].removesuffix(".") + ".")
            code = _unfinished_code(session) or ExitCode.RETRY_LATER
        case SubmitInDoubtError():
            output.error(f"Job {error.job_id} is in doubt: no response has told whether it was accepted.")
        case JournalError():
            output.error(str(error))
            code = _unfinished_code(session) or code
        case _:
            output.error(str(error))
    if isinstance(error, DownloadError) and not error.worth_retrying and error.task_id is not None:
        output.info(f"The task is done: `kie-async status {error.task_id}` prints the URLs of its results.")
    if code in (ExitCode.IN_DOUBT, ExitCode.UNFINISHED) or isinstance(error, TaskTimeoutError):
        output.info(session.resume_hint())
    return code


def _unfinished_code(session: Session) -> ExitCode | None:
    """Return the exit code if the command leaves a job behind, else None."""
    jobs = session.resume_info
    if jobs is not None and jobs.may_be_paid:
        return ExitCode.IN_DOUBT
    return ExitCode.UNFINISHED if jobs is not None and jobs.resumable else None
