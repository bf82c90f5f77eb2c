"""The runner of commands: interruption, error report and exit code."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator

import anyio
import pytest

from kie_async import TransportError
from kie_async.cli import exit_before_start
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.output import Output, log_to
from kie_async.cli.session import Session
from tests.cli.helpers import broken_stream, run_in_session


@pytest.fixture(autouse=True)
def restore_signal_handler() -> Iterator[None]:
    """Restore the handler of Ctrl-C after each test."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


async def interrupted_command(session: Session) -> ExitCode:
    """Raise SIGINT in a command that tracks a task."""
    session.track_job("t1")
    signal.raise_signal(signal.SIGINT)
    await anyio.sleep(3600.0)
    return ExitCode.DONE


def test_ctrl_c_exits_130_and_prints_how_to_resume() -> None:
    result = run_in_session(interrupted_command)

    assert (130, "") == (result.code, result.out)
    assert 1 == result.err.count("Interrupted. Task t1 continues at the service. To resume: kie-async wait t1")


def test_running_command_replaces_the_early_handler() -> None:
    """The early handler does not know the job."""
    signal.signal(signal.SIGINT, exit_before_start)

    assert "kie-async wait t1" in run_in_session(interrupted_command).err


def test_second_ctrl_c_prints_the_hint_once() -> None:
    async def impatient(session: Session) -> ExitCode:
        session.track_job("t1")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return ExitCode.DONE

    result = run_in_session(impatient)

    assert (130, 1) == (result.code, result.err.count("kie-async wait t1"))


def test_ctrl_c_before_a_command_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        exit_before_start(signal.SIGINT, None)

    assert (130, "Interrupted. Nothing was sent, and nothing was paid.\n") == (
        caught.value.code,
        capsys.readouterr().err,
    )


async def broken_command(session: Session) -> ExitCode:
    """Raise an unexpected error in a command that tracks a task."""
    session.track_job("t1")
    msg = "no such thing"
    raise KeyError(msg)


def test_bug_prints_one_line_and_the_resume_hint() -> None:
    result = run_in_session(broken_command)

    assert 4 == result.code, "the task exists"
    assert "error: KeyError: 'no such thing'. This is a bug" in result.err
    assert "kie-async wait t1" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("error", [KeyError("no such thing"), TransportError("No answer.")])
def test_verbose_prints_the_traceback(error: Exception) -> None:
    async def failing(_session: Session) -> ExitCode:
        raise error

    assert "Traceback" in run_in_session(failing, verbose=True).err


def test_os_error_is_one_line() -> None:
    async def failing(_session: Session) -> ExitCode:
        raise FileNotFoundError(2, "No such file or directory", "cat.png")

    assert (2, "error: No such file or directory: cat.png\n") == (
        run_in_session(failing).code,
        run_in_session(failing).err,
    )


def test_full_disk_prints_the_resume_hint() -> None:
    async def failing(session: Session) -> ExitCode:
        session.track_job("t1")
        raise OSError(28, "No space left on device")

    result = run_in_session(failing)

    assert (4, True) == (result.code, "kie-async wait t1" in result.err)


def test_bug_without_a_job_exits_1() -> None:
    async def failing(_session: Session) -> ExitCode:
        msg = "no such thing"
        raise KeyError(msg)

    assert 1 == run_in_session(failing).code


def test_closed_pipe_is_silent() -> None:
    """``kie-async demo | head`` ends silently."""

    async def writing(session: Session) -> ExitCode:
        session.output = Output(out=broken_stream(32), err=sys.stderr)
        session.output.result(["one", "two"], {})
        session.output.result("three", {})
        return ExitCode.DONE

    result = run_in_session(writing)

    assert (1, "") == (result.code, result.err)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT])
def test_unwritable_results_are_printed_among_the_messages(number: int) -> None:
    """The command goes on, and its exit code tells that standard output lacks results."""

    async def writing(session: Session) -> ExitCode:
        session.output = Output(out=broken_stream(number), err=sys.stderr)
        session.output.result("cat.mp4", {})
        session.output.result("dog.mp4", {})
        return ExitCode.DONE

    result = run_in_session(writing)

    assert (1, "") == (result.code, result.out)
    assert result.err.splitlines()[1:] == ["cat.mp4", "dog.mp4"]
    assert 1 == result.err.count(f"error: Standard output cannot be written ({os.strerror(number)})")


def test_worse_exit_code_stays_when_results_cannot_be_written() -> None:
    async def writing(session: Session) -> ExitCode:
        session.output = Output(out=broken_stream(errno.ENOSPC), err=sys.stderr)
        session.output.result("cat.mp4", {})
        return ExitCode.IN_DOUBT

    assert 3 == run_in_session(writing).code


def test_interrupted_command_without_jobs() -> None:
    async def asking(_session: Session) -> ExitCode:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep(3600.0)
        return ExitCode.DONE

    assert "Interrupted. Nothing was paid.\n" == run_in_session(asking).err


def test_log_shows_errors_only_unless_verbose() -> None:
    log, err = logging.getLogger("kie_async.test"), io.StringIO()
    output = Output(out=io.StringIO(), err=err)
    with log_to(output, verbose=False):
        log.warning("not this")
        log.error("but this", exc_info=ValueError("without its traceback"))
    with log_to(output, verbose=True):
        log.debug("and this")
    log.error("no handler is left")

    assert "error: but this" == err.getvalue().splitlines()[0]
    assert err.getvalue().endswith("kie_async.test DEBUG: and this\n")
    assert 2 == len(err.getvalue().splitlines())
