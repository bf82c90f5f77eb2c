"""The semaphore of downloads: slots go to the earliest deadline, and none is lost."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
from hypothesis import given
from hypothesis import strategies as st

from kie_async._io.files.downloads import PrioritySemaphore
from kie_async.testing import virtual_time


async def hold(semaphore: PrioritySemaphore, deadline: float, order: list[float], seconds: float = 1.0) -> None:
    async with semaphore.hold(deadline):
        order.append(deadline)
        await anyio.sleep(seconds)


async def test_earliest_deadline_goes_first() -> None:
    semaphore = PrioritySemaphore(1)
    order: list[float] = []
    async with anyio.create_task_group() as group:
        for deadline in (9.0, 5.0, 7.0, 5.0, -1.0, 8.0):
            group.start_soon(hold, semaphore, deadline, order)
            await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.5)
        assert (1, 5) == (semaphore.taken, semaphore.waiting)

    assert [9.0, -1.0, 5.0, 5.0, 7.0, 8.0] == order
    assert (0, 0) == (semaphore.taken, semaphore.waiting)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5), st.none() | st.integers(0, 8)), max_size=30),
    st.integers(1, 4),
)
def test_cancellations_lose_no_slots(visits: list[tuple[int, int, int | None]], total: int) -> None:
    inside = most = served = 0
    semaphore = PrioritySemaphore(total)

    async def visit(deadline: int, seconds: int, timeout: int | None) -> None:
        nonlocal inside, most, served
        with anyio.move_on_after(timeout):
            async with semaphore.hold(deadline):
                inside += 1
                most = max(most, inside)
                try:
                    await anyio.sleep(seconds)
                    served += 1
                finally:
                    inside -= 1

    async def run_all() -> None:
        async with anyio.create_task_group() as group:
            for one in visits:
                group.start_soon(visit, *one)

    virtual_time(run_all)
    assert most <= total
    assert served >= sum(timeout is None for _, _, timeout in visits)
    assert (0, 0) == (semaphore.taken, semaphore.waiting)


async def test_slot_of_a_cancelled_waiter_is_passed_on() -> None:
    semaphore = PrioritySemaphore(1)
    order: list[float] = []
    first = asyncio.create_task(hold(semaphore, 1.0, order, 5.0))
    await anyio.lowlevel.checkpoint()
    second = asyncio.create_task(hold(semaphore, 2.0, order))
    third = asyncio.create_task(hold(semaphore, 3.0, order))
    await anyio.sleep(1.0)
    first.cancel()
    while semaphore.waiting == 2 and not first.done():
        await asyncio.sleep(0)
    second.cancel()  # its future is done, and it has not run yet
    await asyncio.wait([first, second, third])

    assert [1.0, 3.0] == order
    assert (0, 0) == (semaphore.taken, semaphore.waiting)


async def test_cancelled_waiters_are_removed() -> None:
    """A slot may be held for an hour while thousands of callers are cancelled."""
    semaphore = PrioritySemaphore(1)
    async with semaphore.hold(0.0), anyio.create_task_group() as group:
        for number in range(5000):
            group.start_soon(hold, semaphore, float(number), [])
        await anyio.sleep(1.0)
        assert 5000 == semaphore.waiting
        group.cancel_scope.cancel()
    assert 0 == semaphore.waiting
    assert len(semaphore._heap) < 10  # noqa: SLF001 (what is asked is whether anything is left)


def test_all_slots_are_free_in_the_next_loop() -> None:
    """A result can be saved long after its client is closed, in another ``asyncio.run``."""
    semaphore = PrioritySemaphore(1)
    held = semaphore.hold(0.0)

    async def hold_slot() -> None:
        await held.__aenter__()

    async def acquire() -> None:
        async with semaphore.hold(0.0):
            assert (1, 0) == (semaphore.taken, semaphore.waiting)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(hold_slot())
    loop.close()  # in the middle of it all, as after a KeyboardInterrupt
    virtual_time(acquire)
    assert 0 == semaphore.taken
