"""The command line, ``kie-async``: its entry point, which says how to install what is missing."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

__all__ = ["main", "stop_before_anything"]

#: What the extra ``cli`` brings.
_EXTRA = ("typer", "rich")


def main() -> None:
    """
    Run ``kie-async`` with the arguments of this process.

    Raises:
        SystemExit: Always, with one of the codes of ``kie_async.cli.exit_codes``.
    """
    signal.signal(signal.SIGINT, stop_before_anything)
    try:
        from kie_async.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("kie-async needs typer and rich. Install them with: pip install 'kie-async[cli]'\n")
        raise SystemExit(2) from None
    app(prog_name="kie-async")


def stop_before_anything(_signal: int, _frame: FrameType | None) -> NoReturn:
    """What Ctrl-C does while modules are imported and options are read; a command that runs has its own way."""
    sys.stderr.write("Interrupted. Nothing was sent, and nothing was paid.\n")
    raise SystemExit(130)
