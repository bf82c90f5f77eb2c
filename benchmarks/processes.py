"""A service in a process of its own, so that its cost is not measured as the client's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["service"]


@contextmanager
def service(*arguments: str) -> Iterator[str]:
    """
    Run Python with *arguments*, and kill it at the end.

    Args:
        *arguments: The arguments of ``python``: a program that prints its URL when it serves, and serves from then on.

    Yields:
        The URL.
    """
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # ours
        if process.stdout is None:
            raise AssertionError
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()
