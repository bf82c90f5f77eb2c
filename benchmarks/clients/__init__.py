"""
Clients of generation services, one adapter per module; each runs in its own process against the same stub.

An adapter has a function ``connect(url, interval)``: an async context manager that returns a coroutine function. That
function runs one job, polled every *interval* seconds (None for the client's default), and returns its result's URL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

__all__ = ["PROMPT", "Generate"]

#: Runs the job with a number and returns the URL of its result.
Generate: TypeAlias = Callable[[int], Awaitable[str]]

PROMPT = "The cat turns its head, looks into the camera and yawns; slow push in, soft morning light. Take {}"
