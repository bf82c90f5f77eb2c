"""Wait times between retries, with injected randomness and clock."""

from __future__ import annotations

import random

from tenacity import AsyncRetrying, RetryCallState
from tenacity.wait import wait_base

__all__ = ["FullJitter", "pause_after"]

_NO_CALL = AsyncRetrying()


class FullJitter(wait_base):
    """
    A random share of another wait: "full jitter" of AWS's article on backoff.

    tenacity's own ``wait_random_exponential`` uses the module ``random``; this uses *rng*.

    Args:
        ceiling: The wait to take a share of.

        rng: The source of randomness.
    """

    def __init__(self, ceiling: wait_base, rng: random.Random) -> None:  # noqa: TID251 (the type; the generator is injected)
        self._ceiling = ceiling
        self._rng = rng

    def __call__(self, retry_state: RetryCallState) -> float:
        return self._rng.uniform(0.0, self._ceiling(retry_state))


def pause_after(wait: wait_base, attempt: int) -> float:
    """
    Return the seconds to wait after the n-th failed attempt, outside any retry loop.

    >>> from tenacity import wait_exponential
    >>> pause_after(wait_exponential(multiplier=1, max=10), 3)
    4
    """
    state = RetryCallState(_NO_CALL, None, (), {})
    state.attempt_number = attempt
    return wait(state)
