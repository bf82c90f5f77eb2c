"""The semaphore of downloads: slots go to the earliest deadline, and none is lost."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
from hypothesis import given
from hypothesis import strategies as st

from kie_async._io.files.downloads import PrioritySemaphore
from kie_async.testing import virtual_time


async def hold(places: PrioritySemaphore, until: float, order: list[float], seconds: float = 1.0) -> None:
    async with places.hold(until):
        order.append(until)
        await anyio.sleep(seconds)


async def test_earliest_deadline_goes_first() -> None:
    places = PrioritySemaphore(1)
    order: list[float] = []
    async with anyio.create_task_group() as group:
        for until in (9.0, 5.0, 7.0, 5.0, -1.0, 8.0):
            group.start_soon(hold, places, until, order)
            await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.5)
        assert (1, 5) == (places.taken, places.waiting)

    assert [9.0, -1.0, 5.0, 5.0, 7.0, 8.0] == order
    assert (0, 0) == (places.taken, places.waiting)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5), st.none() | st.integers(0, 8)), max_size=30),
    st.integers(1, 4),
)
def test_cancellations_lose_no_slots(visits: list[tuple[int, int, int | None]], total: int) -> None:
    inside = most = served = 0
    places = PrioritySemaphore(total)

    async def visit(until: int, seconds: int, patience: int | None) -> None:
        nonlocal inside, most, served
        with anyio.move_on_after(patience):
            async with places.hold(until):
                inside += 1
                most = max(most, inside)
                try:
                    await anyio.sleep(seconds)
                    served += 1
                finally:
                    inside -= 1

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for one in visits:
                group.start_soon(visit, *one)

    virtual_time(all_of_them)
    assert most <= total
    assert served >= sum(patience is None for _, _, patience in visits)
    assert (0, 0) == (places.taken, places.waiting)


async def test_slot_of_a_cancelled_waiter_is_passed_on() -> None:
    places = PrioritySemaphore(1)
    order: list[float] = []
    first = asyncio.create_task(hold(places, 1.0, order, 5.0))
    await anyio.lowlevel.checkpoint()
    second = asyncio.create_task(hold(places, 2.0, order))
    third = asyncio.create_task(hold(places, 3.0, order))
    await anyio.sleep(1.0)
    first.cancel()
    while places.waiting == 2 and not first.done():
        await asyncio.sleep(0)
    second.cancel()  # its future is done, and it has not run yet
    await asyncio.wait([first, second, third])

    assert [1.0, 3.0] == order
    assert (0, 0) == (places.taken, places.waiting)


async def test_cancelled_waiters_are_removed() -> None:
    """A slot may be held for an hour while thousands of callers are cancelled."""
    places = PrioritySemaphore(1)
    async with places.hold(0.0), anyio.create_task_group() as group:
        for number in range(5000):
            group.start_soon(hold, places, float(number), [])
        await anyio.sleep(1.0)
        assert 5000 == places.waiting
        group.cancel_scope.cancel()
    assert 0 == places.waiting
    assert len(places._heap) < 10  # noqa: SLF001 (what is asked is whether anything is left)


def test_all_slots_are_free_in_the_next_loop() -> None:
    """A result can be saved long after its client is closed, in another ``asyncio.run``."""
    places = PrioritySemaphore(1)
    held = places.hold(0.0)

    async def hold_on() -> None:
        await held.__aenter__()

    async def take() -> None:
        async with places.hold(0.0):
            assert (1, 0) == (places.taken, places.waiting)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(hold_on())
    loop.close()  # in the middle of it all, as after a KeyboardInterrupt
    virtual_time(take)
    assert 0 == places.taken
