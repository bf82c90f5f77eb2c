"""Slots: first come, first served, lost by nobody who leaves, and overdrawn only by what runs already."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from kie_async._io.submitting.admission import Slots
from kie_async.testing import VirtualLoop


async def queued(slots: Slots, *names: str) -> dict[str, asyncio.Task[None]]:
    """Wait for slots, in this order."""
    tasks = {}
    for name in names:
        tasks[name] = asyncio.create_task(slots.acquire())
        await anyio.sleep(0.001)
    return tasks


def held(tasks: dict[str, asyncio.Task[None]]) -> str:
    return "".join(name for name, task in tasks.items() if task.done() and not task.cancelled())


async def test_slots_are_taken_in_order() -> None:
    slots = Slots(2)
    tasks = await queued(slots, *"abcde")
    assert ("ab", 2, 3) == (held(tasks), slots.taken, slots.waiting)
    for now_held in ("abc", "abcd", "abcde", "abcde", "abcde"):
        slots.release()
        await anyio.sleep(0.001)
        assert now_held == held(tasks)

    assert (0, 0) == (slots.taken, slots.waiting)


async def test_whoever_leaves_the_queue_holds_nobody_ready() -> None:
    slots = Slots(1)
    tasks = await queued(slots, *"abcd")
    tasks["b"].cancel()
    tasks["d"].cancel()
    slots.release()
    await anyio.sleep(0.001)

    assert ("ac", 1, 0) == (held(tasks), slots.taken, slots.waiting)


async def test_a_slot_that_nobody_has_cannot_be_given_back() -> None:
    slots = Slots(1)
    await slots.acquire()
    slots.release()

    with pytest.raises(ValueError, match="released twice"):
        slots.release()
    assert 0 == slots.taken


async def test_what_runs_already_is_counted_and_new_ones_wait_for_it() -> None:
    """A restart finds more tasks than there are slots: they are at the service, whether that is allowed or not."""
    slots = Slots(2)
    for _ in range(3):
        slots.occupy()
    tasks = await queued(slots, "a")
    assert ("", 3, 1) == (held(tasks), slots.taken, slots.waiting)
    slots.release()
    await anyio.sleep(0.001)
    assert "" == held(tasks)
    slots.release()
    await anyio.sleep(0.001)

    assert ("a", 2, 0) == (held(tasks), slots.taken, slots.waiting)


async def test_a_grant_that_meets_a_cancellation_goes_to_the_next() -> None:
    """In whichever turn of the loop the two meet."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    cancelled = 0
    for turn in range(1, 10):
        slots = Slots(1)
        tasks = await queued(slots, *"abc")
        loop.at_turn(loop.turns + 4, lambda slots=slots: slots.release())  # type: ignore[misc]  # its default
        loop.at_turn(loop.turns + turn, tasks["b"].cancel)
        for _ in range(20):
            await asyncio.sleep(0)
        if tasks["b"].cancelled():
            cancelled += 1
        else:
            slots.release()
            await asyncio.sleep(0)

        assert tasks["c"].done(), f"turn {turn}"
        assert (1, 0) == (slots.taken, slots.waiting)
    assert 3 <= cancelled <= 8


@pytest.mark.parametrize("seed", range(5))
async def test_in_a_storm_no_slot_is_lost_and_none_is_made(seed: int) -> None:
    rng = random.Random(seed)
    slots, running, most = Slots(4), 0, 0

    async def one(patience: float, seconds: float) -> None:
        nonlocal running, most
        with anyio.move_on_after(patience):
            await slots.acquire()
            running += 1
            most = max(most, running)
            try:
                await anyio.sleep(seconds)
            finally:
                running -= 1
                slots.release()

    async with anyio.create_task_group() as group:
        for _ in range(200):
            patience = rng.choice([1e6, 1e6, rng.choice([0.0, 1.0, 2.0, 5.0, 20.0])])
            group.start_soon(one, patience, rng.choice([1.0, 2.0, 3.0]))
            await anyio.sleep(rng.choice([0.0, 0.0, 0.0, 1.0]))

    assert 4 == most
    assert (0, 0, 0) == (running, slots.taken, slots.waiting)
