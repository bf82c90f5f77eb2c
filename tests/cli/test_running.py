"""How a command runs to its exit code."""

from __future__ import annotations

import io
import logging
import signal
from collections.abc import Iterator

import anyio
import pytest

from kie_async import TransportError
from kie_async.cli import exit_before_start
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.output import Output, log_to
from kie_async.cli.session import Session
from tests.cli.helpers import run_in_session


@pytest.fixture(autouse=True)
def own_signal_handler() -> Iterator[None]:
    """The handler of Ctrl-C is the test's business, and nobody's afterwards."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


async def interrupted(session: Session) -> ExitCode:
    """A command whose user loses patience."""
    session.track_job("t1")
    signal.raise_signal(signal.SIGINT)
    await anyio.sleep(3600.0)
    return ExitCode.DONE


def test_ctrl_c_ends_a_command_with_130_and_says_how_to_go_on() -> None:
    ended = run_in_session(interrupted)

    assert (130, "") == (ended.code, ended.out)
    assert 1 == ended.err.count("Interrupted. Task t1 continues at the service. To resume: kie-async wait t1")


def test_ctrl_c_is_the_loops_business_once_a_command_runs() -> None:
    """The handler for the time before it, which knows of no job, is gone."""
    signal.signal(signal.SIGINT, exit_before_start)

    assert "kie-async wait t1" in run_in_session(interrupted).err


def test_a_second_ctrl_c_does_not_wait_and_says_it_too() -> None:
    async def impatient(session: Session) -> ExitCode:
        session.track_job("t1")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return ExitCode.DONE

    ended = run_in_session(impatient)

    assert (130, 1) == (ended.code, ended.err.count("kie-async wait t1"))


def test_ctrl_c_before_a_command_runs_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        exit_before_start(signal.SIGINT, None)

    assert (130, "Interrupted. Nothing was sent, and nothing was paid.\n") == (
        caught.value.code,
        capsys.readouterr().err,
    )


async def broken(session: Session) -> ExitCode:
    """A command with a bug, in the middle of a job."""
    session.track_job("t1")
    msg = "no such thing"
    raise KeyError(msg)


def test_a_bug_is_one_line_and_forgets_no_task() -> None:
    ended = run_in_session(broken)

    assert 4 == ended.code, "the task exists"
    assert "error: KeyError: 'no such thing'. This is a bug" in ended.err
    assert "kie-async wait t1" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("error", [KeyError("no such thing"), TransportError("No answer.")])
def test_verbose_shows_the_traceback(error: Exception) -> None:
    async def failing(_session: Session) -> ExitCode:
        raise error

    assert "Traceback" in run_in_session(failing, verbose=True).err


def test_what_the_system_refuses_is_one_line() -> None:
    async def failing(_session: Session) -> ExitCode:
        raise FileNotFoundError(2, "No such file or directory", "cat.png")

    assert (2, "error: No such file or directory: cat.png\n") == (
        run_in_session(failing).code,
        run_in_session(failing).err,
    )


def test_a_full_disk_does_not_forget_what_was_paid() -> None:
    async def failing(session: Session) -> ExitCode:
        session.track_job("t1")
        raise OSError(28, "No space left on device")

    ended = run_in_session(failing)

    assert (4, True) == (ended.code, "kie-async wait t1" in ended.err)


def test_a_bug_before_there_is_a_job_is_a_bug() -> None:
    async def failing(_session: Session) -> ExitCode:
        msg = "no such thing"
        raise KeyError(msg)

    assert 1 == run_in_session(failing).code


def test_a_reader_that_has_gone_is_no_bug() -> None:
    """``kie-async demo | head`` ends quietly."""

    async def writing(_session: Session) -> ExitCode:
        raise BrokenPipeError(32, "Broken pipe")

    ended = run_in_session(writing)

    assert (1, "") == (ended.code, ended.err)


def test_a_command_that_pays_nothing_says_so_when_it_is_interrupted() -> None:
    async def asking(_session: Session) -> ExitCode:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep(3600.0)
        return ExitCode.DONE

    assert "Interrupted. Nothing was paid.\n" == run_in_session(asking).err


def test_the_log_shows_errors_in_one_line_unless_more_is_asked_for() -> None:
    log, err = logging.getLogger("kie_async.test"), io.StringIO()
    output = Output(out=io.StringIO(), err=err)
    with log_to(output, verbose=False):
        log.warning("not this")
        log.error("but this", exc_info=ValueError("without its traceback"))
    with log_to(output, verbose=True):
        log.debug("and this")
    log.error("nobody listens any more")

    assert "error: but this" == err.getvalue().splitlines()[0]
    assert err.getvalue().endswith("kie_async.test DEBUG: and this\n")
    assert 2 == len(err.getvalue().splitlines())
