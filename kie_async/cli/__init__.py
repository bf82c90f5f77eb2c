"""The command line ``kie-async``: its entry point, which names the packages that are missing."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

__all__ = ["exit_before_start", "main"]

#: Packages of the extra ``cli``.
_EXTRA = ("typer", "rich")
_STDERR = 2


def main() -> None:
    """
    Run ``kie-async`` with the arguments of this process.

    Raises:
        SystemExit: Always, with a code of ``kie_async.cli.exit_codes``.
    """
    signal.signal(signal.SIGINT, exit_before_start)
    _prepare_streams()
    try:
        from kie_async.cli.app import app
        from kie_async.cli.running import GlobalOptions
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("kie-async needs typer and rich. Install them with: pip install 'kie-async[cli]'\n")
        raise SystemExit(2) from None
    try:
        app(prog_name="kie-async", obj=GlobalOptions(early_handler=exit_before_start))
    except OSError as error:  # the help cannot be written; a command reports its own errors
        msg = f"error: {error.strerror or error}"
        raise SystemExit(msg) from None


def _prepare_streams() -> None:
    """Escape what the locale cannot encode, and keep the places of closed streams from files that are opened later."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def exit_before_start(_signal: int, _frame: FrameType | None) -> NoReturn:
    """ExitCode on Ctrl-C while modules are imported and options are read; a running command handles it itself."""
    with suppress(AttributeError, OSError):  # a closed stream is None
        sys.stderr.write("Interrupted. Nothing was sent, and nothing was paid.\n")
    raise SystemExit(130)
