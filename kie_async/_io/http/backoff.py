"""The back-off rules, made of tenacity's, with randomness and the clock taken from outside."""

from __future__ import annotations

import random

from tenacity import AsyncRetrying, RetryCallState
from tenacity.wait import wait_base

__all__ = ["FullJitter", "pause_after"]

_NO_CALL = AsyncRetrying()


class FullJitter(wait_base):
    """
    A random share of another wait: "full jitter" as in AWS' note on back-off.

    tenacity's own ``wait_random_exponential`` draws from the module ``random``; this draws from *rng*.

    Args:
        ceiling: The wait of which a share is taken.

        rng: Where the share comes from.
    """

    def __init__(self, ceiling: wait_base, rng: random.Random) -> None:  # noqa: TID251 (the type; the generator is handed in)
        self._ceiling = ceiling
        self._rng = rng

    def __call__(self, retry_state: RetryCallState) -> float:
        return self._rng.uniform(0.0, self._ceiling(retry_state))


def pause_after(wait: wait_base, attempt: int) -> float:
    """
    How long *wait* says to wait after the *attempt*-th failure, in seconds, outside any retry loop.

    >>> from tenacity import wait_exponential
    >>> pause_after(wait_exponential(multiplier=1, max=10), 3)
    4
    """
    state = RetryCallState(_NO_CALL, None, (), {})
    state.attempt_number = attempt
    return wait(state)
