"""A start or a close that is cancelled, or a loop that ends under it: the journal is released however it ends."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import ClientClosedError, KieClient
from kie_async.testing import FakeKie, VirtualLoop, virtual_time
from tests.helpers import KEY, make_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def the_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def open_journals() -> int:
    """Count the threads of open journals; one that has disconnected ends at once."""
    threads = [thread for thread in threading.enumerate() if thread.name == "kie_async journal"]
    for thread in threads:
        thread.join(5.0)
    return sum(thread.is_alive() for thread in threads)


async def cancelled_at(turn: int, call: Callable[[], Awaitable[object]], *, twice: bool = False) -> bool:
    """Call in a task of its own, and cancel that in a turn of the loop; return True if it was cancelled."""
    task = asyncio.ensure_future(call())
    await asyncio.sleep(0)  # it has begun
    for number in range(2 if twice else 1):
        the_loop().at_turn(the_loop().turns + turn + number, task.cancel)
    await asyncio.wait([task])
    return task.cancelled()


async def owners_of(path: Path) -> list[str]:
    return [lock.name async for lock in anyio.Path(f"{path}.owners").iterdir()]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("on_wire", [False, True])
def test_close_cancelled_at_every_turn_releases(tmp_path: Path, *, on_wire: bool, twice: bool) -> None:
    async def main(turn: int) -> bool:
        path = tmp_path / f"{turn}.db"
        async with FakeKie(create_seconds=1.0 if on_wire else 0.0, duration=100.0) as fake:
            kie = KieClient(KEY, base_url=fake.url, journal=path)
            job = await kie.submit(make_request(), wait=not on_wire)
            if on_wire:
                await anyio.sleep(0.5)
            cancelled = await cancelled_at(turn, kie.aclose, twice=twice)

            assert [] == await owners_of(path)
            assert 0 == open_journals()
            with pytest.raises(ClientClosedError):
                await job
            async with KieClient(KEY, base_url=fake.url, journal=path) as other:
                assert [job.id] == [found.id for found in await other.recover()]
            return cancelled

    for turn in range(1, 200):
        if not virtual_time(main, turn):
            break
    assert turn > 3


def test_start_cancelled_at_every_turn_releases(tmp_path: Path) -> None:
    async def main(turn: int) -> bool:
        path = tmp_path / f"{turn}.db"
        async with FakeKie() as fake:
            kie = KieClient(KEY, base_url=fake.url, journal=path)
            cancelled = await cancelled_at(turn, kie.__aenter__)
            if cancelled:
                assert [] == (await owners_of(path) if path.exists() else [])
                assert 0 == open_journals()
                with pytest.raises(ClientClosedError):
                    await kie.credits()
            await kie.aclose()
            async with kie:
                await kie.credits()
            return cancelled

    for turn in range(1, 200):
        if not virtual_time(main, turn):
            break
    assert turn > 2
