"""
Clients of generation services, one adapter a file; each runs in a process of its own against the same stub.

An adapter has a function ``connect(url, interval)``: an async context manager that gives a coroutine function, which
does one job, polled each *interval* seconds (None for the client's own default), and returns the URL of its result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

__all__ = ["PROMPT", "Generate"]

#: Does the job of a number and returns the URL of its result.
Generate: TypeAlias = Callable[[int], Awaitable[str]]

PROMPT = "The cat turns its head, looks into the camera and yawns; slow push in, soft morning light. Take {}"
