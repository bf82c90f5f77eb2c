"""The output of a command: results on standard output; messages, the log and progress on standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Protocol, TextIO

import anyio
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from kie_async import JSON

__all__ = ["Output", "ShowState", "escape_controls", "log_to", "show_progress"]

#: The width of a table in a pipe, which has no width of its own.
_PIPE_WIDTH = 120

#: The characters that move a terminal's cursor or turn text around; tabs and line ends are harmless.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_VERBOSE_FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"

_COLORS = {"generating": "cyan", "success": "green", "saved": "green", "fail": "red", "failed": "red"}


def escape_controls(text: str) -> str:
    r"""
    Escape control characters: file names and texts of the service may contain sequences that terminals obey.

    >>> escape_controls("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class Output:
    """
    The two output streams of one command.

    Args:
        as_json: True for results as JSON, one object a line, instead of text.

        out: The stream of results; None for standard output.

        err: The stream of messages and progress; None for standard error.
    """

    def __init__(self, *, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        # Evaluated at call time: tests and Python callers may have replaced the streams.
        self._out = out if out is not None else sys.stdout
        self._err = err if err is not None else sys.stderr
        self.messages: Console = Console(file=self._err, soft_wrap=True, highlight=False, markup=False, emoji=False)

    @property
    def interactive(self) -> bool:
        """True if messages go to a terminal that can redraw them."""
        return self._err.isatty() and not self.messages.is_dumb_terminal

    def result(self, text: str, fields: Mapping[str, JSON]) -> None:
        """
        Write one result.

        Args:
            text: The result for people and for ``$(...)``; may have several lines.

            fields: The result as JSON.
        """
        self._out.write(f"{json.dumps(fields)}\n" if self.as_json else f"{text}\n")
        self._out.flush()

    def table(self, table: RenderableType) -> None:
        """Print a table: among the results, or among the messages where results are JSON."""
        stream = self._err if self.as_json else self._out
        width = None if stream.isatty() else _PIPE_WIDTH
        Console(file=stream, width=width, highlight=False, emoji=False).print(table)
        stream.flush()

    def info(self, text: str) -> None:
        """Print a message."""
        self.messages.print(Text(escape_controls(text)))

    def warn(self, text: str) -> None:
        """Print a message about something that may cost money or time."""
        self.messages.print(Text.assemble(("warning: ", "bold yellow"), escape_controls(text)))

    def error(self, text: str) -> None:
        """Print an error message."""
        self.messages.print(Text.assemble(("error: ", "bold red"), escape_controls(text)))


@contextmanager
def log_to(output: Output, *, verbose: bool) -> Generator[None]:
    """
    Write the log among the messages while the context is open.

    Args:
        output: The command's output.

        verbose: True for all records; False for errors only, without tracebacks.
    """
    handler = _OutputHandler(output)
    handler.setLevel(logging.DEBUG if verbose else logging.ERROR)
    handler.setFormatter(logging.Formatter(_VERBOSE_FORMAT) if verbose else _ShortFormatter())
    package, root = logging.getLogger("kie_async"), logging.getLogger()
    level = package.level
    package.setLevel(logging.DEBUG if verbose else level)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        package.setLevel(level)


class _OutputHandler(logging.Handler):
    """A handler that writes above the progress display."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.info(self.format(record))


class _ShortFormatter(logging.Formatter):
    """A formatter that keeps the level and the message."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


class ShowState(Protocol):
    """A function that shows the state of a job."""

    def __call__(self, job: str, state: str, *, done: bool = False) -> None:
        """
        ShowState a state, unless it is shown already.

        Args:
            job: The job's name.

            state: The state; in the service's own words where it is the service's.

            done: True if the job's state is final.
        """
        ...


@contextmanager
def show_progress(output: Output) -> Generator[ShowState]:
    """
    ShowState each job's state while the context is open: redrawn on a terminal, one plain line a change elsewhere.

    Args:
        output: The command's output; progress is shown among the messages.
    """
    if not output.interactive:
        yield _PlainProgress(output)
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", style="bold", markup=False),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=output.messages) as display:
        yield _TerminalProgress(display)


class _PlainProgress:
    """A line for each change, with the seconds since the start."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._started_at = anyio.current_time()
        self._states: dict[str, str] = {}

    def __call__(self, job: str, state: str, *, done: bool = False) -> None:  # noqa: ARG002 (a line is never done)
        if self._states.get(job) != state:
            self._states[job] = state
            self._output.info(f"{anyio.current_time() - self._started_at:6.1f} s  {job}: {state}")


class _TerminalProgress:
    """A row for each job, with a spinner and a clock."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._rows: dict[str, TaskID] = {}

    def __call__(self, job: str, state: str, *, done: bool = False) -> None:
        if job not in self._rows:
            self._rows[job] = self._display.add_task(job, total=1, state="")
        color, text = _COLORS.get(state.partition(" ")[0]), escape(state)
        self._display.update(self._rows[job], state=f"[{color}]{text}[/]" if color else text, completed=int(done))
