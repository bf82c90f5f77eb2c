"""Where a command writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from kie_async import JSON

__all__ = ["Output", "plain"]

#: The width of a table in a pipe, where nobody says how wide it may be.
_PIPE_WIDTH = 120

#: What moves the cursor, or turns the text around it; tabs and the ends of lines are harmless.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    r"""
    A text that a terminal shows and does not obey: names of files and the service's words may hold anything.

    >>> plain("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class Output:
    """
    The two streams of one command.

    Args:
        as_json: Whether results are JSON, one object a line, instead of text.

        out: Where results go; by default standard output.

        err: Where messages and progress go; by default standard error.
    """

    def __init__(self, *, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        # Looked up now: tests, and whoever calls this from Python, may have replaced them.
        self._out = out if out is not None else sys.stdout
        self._err = err if err is not None else sys.stderr
        self.messages: Console = Console(file=self._err, soft_wrap=True, highlight=False, markup=False, emoji=False)

    @property
    def live(self) -> bool:
        """Whether somebody watches the messages on a terminal, so that they may move."""
        return self._err.isatty() and not self.messages.is_dumb_terminal

    def result(self, text: str, fields: Mapping[str, JSON]) -> None:
        """
        Write one result.

        Args:
            text: It, for people and for ``$(...)``; may have several lines.

            fields: It, as JSON.
        """
        self._out.write(f"{json.dumps(fields)}\n" if self.as_json else f"{text}\n")
        self._out.flush()

    def table(self, table: RenderableType) -> None:
        """Show a table: with the results, or with the messages where the results are JSON."""
        stream = self._err if self.as_json else self._out
        width = None if stream.isatty() else _PIPE_WIDTH
        Console(file=stream, width=width, highlight=False, emoji=False).print(table)
        stream.flush()

    def say(self, text: str) -> None:
        """Tell something."""
        self.messages.print(Text(plain(text)))

    def warn(self, text: str) -> None:
        """Tell something that may cost money or time."""
        self.messages.print(Text.assemble(("warning: ", "bold yellow"), plain(text)))

    def error(self, text: str) -> None:
        """Tell what went wrong."""
        self.messages.print(Text.assemble(("error: ", "bold red"), plain(text)))
