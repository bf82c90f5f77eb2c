"""Timers on real loops: asyncio's and uvloop's, whose timer handles differ."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest
import uvloop

from kie_async._io.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_past_instants_run_before_future_ones(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """For a past instant, uvloop makes no timer; more timers are scheduled meanwhile."""
    done: list[str] = []

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        timers = Timers(asyncio.get_running_loop())
        over = asyncio.Event()
        timers.at(now - 1.0, partial(done.append, "past"))
        timers.at(now + 0.02, over.set)
        timers.at(now + 0.01, partial(done.append, "soon"))
        timers.at(now - 2.0, partial(done.append, "long past"))
        await over.wait()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())

    assert ["long past", "past", "soon"] == done
