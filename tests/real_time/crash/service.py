"""The service that the processes use; it refuses some shots and loses some responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import attrs

from kie_async.testing import FakeKie, Fault
from tests.real_time.crash.programs import prompt

if TYPE_CHECKING:
    from kie_async.testing.faults import Call
    from kie_async.testing.task_api import Duration

__all__ = ["is_shot", "service"]

_seeds = count(1)


def _mixed(_model: str, rng: Random) -> float:
    """Draw a duration: some tasks have ended at the first poll, others have not."""
    return rng.choice((0.0, 0.2))


@asynccontextmanager
async def service(*faults: Fault, duration: Duration = _mixed) -> AsyncIterator[FakeKie]:
    """
    Run a service without a rate limit.

    Args:
        *faults: More faults besides the usual ones.

        duration: See ``FakeKie``.
    """
    usual = (
        Fault("create", "code", code=429, when=is_shot(3), times=1),
        Fault("create", "code", code=500, when=is_shot(5), times=1),
        Fault("create", "reset", after=True, when=is_shot(7), times=1),
        Fault("create", "reset", after=True, when=is_shot(8), times=1),
        Fault("create", "code", code=422, when=is_shot(10), times=1),
    )
    async with FakeKie(
        seed=next(_seeds),
        limit=1000,
        queries_per_second=1e6,
        duration=duration,
        fail_rate=0.1,
        credits=1e9,
        faults=(*faults, *usual),
    ) as fake:
        yield fake


def is_shot(number: int) -> _BodyContains:
    """Return a predicate that is true for the create requests of a shot."""
    return _BodyContains(prompt(number).encode())


@attrs.frozen
class _BodyContains:
    """A predicate that is true for calls with a text in their body."""

    text: bytes

    def __call__(self, call: Call) -> bool:
        return self.text in call.body
