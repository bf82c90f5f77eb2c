"""Where the log goes while a command runs: among its messages."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from kie_async.cli.output import Output

__all__ = ["log_to"]

_FULL = "%(asctime)s %(name)s %(levelname)s: %(message)s"


@contextmanager
def log_to(output: Output, *, verbose: bool) -> Generator[None]:
    """
    Send the log to the messages for as long as the context is open.

    Args:
        output: Where they go.

        verbose: Whether everything is shown; else errors alone, without tracebacks.
    """
    handler = _Handler(output)
    handler.setLevel(logging.DEBUG if verbose else logging.ERROR)
    handler.setFormatter(logging.Formatter(_FULL) if verbose else _Short())
    package, root = logging.getLogger("kie_async"), logging.getLogger()
    level = package.level
    package.setLevel(logging.DEBUG if verbose else level)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        package.setLevel(level)


class _Handler(logging.Handler):
    """Writes above the progress, if that moves."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.say(self.format(record))


class _Short(logging.Formatter):
    """The level and the message."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"
