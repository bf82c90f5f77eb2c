"""
What a client takes from its surroundings: the wall clock, randomness and new ids.

All three come from the event loop where it offers them (``wall_time``, ``random``: the loop of ``virtual_time`` does),
so that a run in virtual time can be repeated to the letter. Everything else goes by ``loop.time()``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

__all__ = ["Runtime"]


class Runtime:
    """
    The wall clock, randomness and ids of one event loop.

    Args:
        loop: The loop that the client works in.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        #: Seconds since the epoch.
        self.wall: Callable[[], float] = getattr(loop, "wall_time", time.time)
        #: Where all randomness comes from.
        self.random: random.Random = getattr(loop, "random", None) or random.SystemRandom()
        #: The instant now, by the loop.
        self.now: Callable[[], float] = loop.time

    def new_id(self) -> str:
        """A new job id: ``kj_`` and 128 random bits in hex."""
        return f"kj_{self.random.getrandbits(128):032x}"
