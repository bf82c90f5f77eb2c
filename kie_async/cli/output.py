"""
The output of a command: results on standard output; messages, the log and progress on standard error.

All that a command prints goes through ``Output``. It escapes what a terminal would obey, and it never raises: a closed
pipe, a full disk or a character that the locale does not have must not end a command that has paid.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO, cast

import anyio
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from kie_async import JSON

__all__ = ["Output", "ShowState", "escape_controls", "log_to", "show_progress"]

#: The width of a table in a pipe, which has no width of its own.
_PIPE_WIDTH = 120

#: The characters that move a terminal's cursor, end a line, turn text around, are invisible, or have no encoding. Tabs
#: are harmless. The zero-width joiner and non-joiner stay: emoji and Persian need them.
_CONTROLS = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)

#: The maximum number of errors of one kind that are printed.
_MOST_ERRORS = 50

_VERBOSE_FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"

_COLORS = {"generating": "cyan", "success": "green", "saved": "green", "fail": "red", "failed": "red"}


def escape_controls(text: str) -> str:
    r"""
    Escape control characters: file names and texts of the service may contain sequences that terminals obey.

    >>> escape_controls("a\x1b[2Jb\nc")
    'a\\x1b[2Jb\\nc'
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class _Stream(io.TextIOBase):
    """
    A text stream that never raises.

    Characters that it cannot encode are escaped, and after the first error of the system it drops what is written.

    Args:
        stream: The stream; None for one that was closed before the process began.

    Attributes:
        error: The error, or None.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error: Exception | None = OSError(errno.EBADF, os.strerror(errno.EBADF)) if stream is None else None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property in place of an attribute
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Return True if the stream is a terminal."""
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def write(self, text: str, /) -> int:
        """Write *text*."""
        encodable = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        self._attempt(lambda stream: stream.write(encodable))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, action: Callable[[TextIO], object]) -> None:
        if self._stream is None or self.error is not None:
            return
        try:
            action(self._stream)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.error = error
            with suppress(OSError, ValueError):
                # The interpreter flushes the stream at its end, and what is buffered would fail again.
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


class _SafeConsole(Console):
    """A console that escapes control characters in whatever it prints, and takes no text for markup."""

    def __init__(self, stream: _Stream, *, width: int | None = None, soft_wrap: bool = False) -> None:
        super().__init__(
            file=cast("TextIO", stream), width=width, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything into segments without control characters, except those of the console's own."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment("\n".join(map(escape_controls, segment.text.split("\n"))), segment.style)


class Output:
    """
    The two output streams of one command. Its methods do not raise.

    Args:
        as_json: True for results as JSON, one object a line, instead of text.

        out: The stream of results; None for standard output.

        err: The stream of messages and progress; None for standard error.

    Attributes:
        broken: The error that kept a result from being written, or None. The result is then among the messages; after
            ``BrokenPipeError`` it is not: its reader has gone.
    """

    def __init__(self, *, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        # Evaluated at call time: tests and Python callers may have replaced the streams.
        self._out = _Stream(out if out is not None else sys.stdout)
        self._err = _Stream(err if err is not None else sys.stderr)
        self.messages: Console = _SafeConsole(self._err, soft_wrap=True)
        self.broken: Exception | None = None

    @property
    def interactive(self) -> bool:
        """True if messages go to a terminal that can redraw them."""
        return self._err.isatty() and not self.messages.is_dumb_terminal

    def result(self, text: str | Sequence[str], fields: Mapping[str, JSON]) -> None:
        """
        Write one result.

        Args:
            text: The result for people and for ``$(...)``: a line, or several.

            fields: The result as JSON.
        """
        if self.as_json:
            lines = [json.dumps(fields).replace("\x7f", "\\u007f")]
        else:
            lines = [escape_controls(line) for line in ([text] if isinstance(text, str) else text)]
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()
        if self._out.error is not None:
            self._show_lost(lines, self._out.error)

    def _show_lost(self, lines: Iterable[str], error: Exception) -> None:
        is_first, self.broken = self.broken is None, error
        if isinstance(error, BrokenPipeError):
            return  # `kie-async ls | head` ends silently
        if is_first:
            self.error(
                f"Standard output cannot be written ({getattr(error, 'strerror', None) or error}). The command goes on,"
                " and its results follow here."
            )
        for line in lines:
            self.info(line)

    def table(self, table: RenderableType) -> None:
        """Print a table: among the results, or among the messages where results are JSON."""
        stream = self._err if self.as_json else self._out
        _SafeConsole(stream, width=None if stream.isatty() else _PIPE_WIDTH).print(table)
        stream.flush()

    def info(self, text: str) -> None:
        """Print a message; its lines after the first are indented, so that none passes for another message."""
        self._print(Text(), text)

    def warn(self, text: str) -> None:
        """Print a message about something that may cost money or time."""
        self._print(Text("warning: ", "bold yellow"), text)

    def error(self, text: str) -> None:
        """Print an error message."""
        self._print(Text("error: ", "bold red"), text)

    def errors(self, errors: Iterable[object]) -> int:
        """Print an error message for each of *errors*, but at most 50, and return their number."""
        count = 0
        for count, error in enumerate(errors, 1):
            if count <= _MOST_ERRORS:
                self.error(str(error))
        if count > _MOST_ERRORS:
            self.info(f"… and {count - _MOST_ERRORS:,} more.")
        return count

    def _print(self, mark: Text, text: str) -> None:
        self.messages.print(Text.assemble(mark, "\n  ".join(map(escape_controls, text.split("\n")))))


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
        Show a state, unless it is shown already.

        Args:
            job: The job's name.

            state: The state; in the service's own words where it is the service's.

            done: True if the job's state is final.
        """
        ...


@contextmanager
def show_progress(output: Output) -> Generator[ShowState]:
    """
    Show each job's state while the context is open: redrawn on a terminal, one plain line a change elsewhere.

    Args:
        output: The command's output; progress is shown among the messages.
    """
    if not output.interactive:
        yield _PlainProgress(output)
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", style="bold", markup=False),
        _StateColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=output.messages) as display:
        yield _TerminalProgress(display)


class _StateColumn(ProgressColumn):
    """The state of a job, in its color."""

    def render(self, task: Task) -> Text:
        """Return the state of a row."""
        state = str(task.fields["state"])
        return Text(escape_controls(state), _COLORS.get(state.partition(" ")[0], ""))


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
            self._rows[job] = self._display.add_task(escape_controls(job), total=1, state="")
        self._display.update(self._rows[job], state=state, completed=int(done))
