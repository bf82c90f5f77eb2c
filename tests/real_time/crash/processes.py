"""Starts programs in new processes, forked from one that has imported everything and opened nothing."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import TypeVarTuple

import anyio

__all__ = ["TIMEOUT", "run", "start", "wait"]

Ts = TypeVarTuple("Ts")

#: The timeout of a process, in seconds; a longer run is a hang.
TIMEOUT = 60.0

_SERVER = multiprocessing.get_context("forkserver")


def start(program: Callable[[*Ts], None], *args: *Ts) -> ForkServerProcess:
    """Start *program* in a new process."""
    # The fork server imports the program once for all processes; only the first call has an effect.
    _SERVER.set_forkserver_preload([program.__module__])
    process = _SERVER.Process(target=program, args=args)
    process.start()
    return process


async def wait(process: ForkServerProcess) -> int | None:
    """
    Wait until a process has ended.

    Returns:
        Its exit code, ``-signal`` if a signal has killed it; None if it hung and was killed.
    """
    with anyio.move_on_after(TIMEOUT):
        await anyio.wait_readable(process.sentinel)
    code = process.exitcode
    if code is None:
        process.kill()
    process.join()
    process.close()
    return code


async def run(program: Callable[[*Ts], None], *args: *Ts) -> int | None:
    """Start *program* in a new process and wait until it has ended; see ``wait``."""
    return await wait(start(program, *args))
