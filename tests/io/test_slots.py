"""Test slots: granted in order, not lost by cancelled waiters, and exceeded only by running tasks."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from kie_async._io.submitting.admission import Slots
from kie_async.testing import VirtualLoop


async def queue_waiters(slots: Slots, *names: str) -> dict[str, asyncio.Task[None]]:
    """Start waiters in this order."""
    tasks = {}
    for name in names:
        tasks[name] = asyncio.create_task(slots.acquire())
        await anyio.sleep(0.001)
    return tasks


def granted_names(tasks: dict[str, asyncio.Task[None]]) -> str:
    return "".join(name for name, task in tasks.items() if task.done() and not task.cancelled())


async def test_slots_are_granted_in_order() -> None:
    slots = Slots(2)
    tasks = await queue_waiters(slots, *"abcde")
    assert ("ab", 2, 3) == (granted_names(tasks), slots.taken, slots.waiting)
    for now_held in ("abc", "abcd", "abcde", "abcde", "abcde"):
        slots.release()
        await anyio.sleep(0.001)
        assert now_held == granted_names(tasks)

    assert (0, 0) == (slots.taken, slots.waiting)


async def test_cancelled_waiter_blocks_no_other() -> None:
    slots = Slots(1)
    tasks = await queue_waiters(slots, *"abcd")
    tasks["b"].cancel()
    tasks["d"].cancel()
    slots.release()
    await anyio.sleep(0.001)

    assert ("ac", 1, 0) == (granted_names(tasks), slots.taken, slots.waiting)


async def test_double_release_is_refused() -> None:
    slots = Slots(1)
    await slots.acquire()
    slots.release()

    with pytest.raises(ValueError, match="released twice"):
        slots.release()
    assert 0 == slots.taken


async def test_running_tasks_occupy_slots_beyond_the_limit() -> None:
    """After a restart there may be more running tasks than slots; new tasks wait until fewer run."""
    slots = Slots(2)
    for _ in range(3):
        slots.occupy()
    tasks = await queue_waiters(slots, "a")
    assert ("", 3, 1) == (granted_names(tasks), slots.taken, slots.waiting)
    slots.release()
    await anyio.sleep(0.001)
    assert "" == granted_names(tasks)
    slots.release()
    await anyio.sleep(0.001)

    assert ("a", 2, 0) == (granted_names(tasks), slots.taken, slots.waiting)


async def test_slot_granted_while_cancelled_goes_to_the_next() -> None:
    """In whichever turn of the loop the two coincide."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    cancelled = 0
    for turn in range(1, 10):
        slots = Slots(1)
        tasks = await queue_waiters(slots, *"abc")
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
async def test_no_slot_is_lost_or_created_in_a_storm(seed: int) -> None:
    rng = random.Random(seed)
    slots, running, most = Slots(4), 0, 0

    async def hold_slot(timeout: float, seconds: float) -> None:
        nonlocal running, most
        with anyio.move_on_after(timeout):
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
            timeout = rng.choice([1e6, 1e6, rng.choice([0.0, 1.0, 2.0, 5.0, 20.0])])
            group.start_soon(hold_slot, timeout, rng.choice([1.0, 2.0, 3.0]))
            await anyio.sleep(rng.choice([0.0, 0.0, 0.0, 1.0]))

    assert 4 == most
    assert (0, 0, 0) == (running, slots.taken, slots.waiting)
