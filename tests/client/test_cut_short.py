"""A start or a close that is cancelled, or a loop that ends under it: the journal is released however it ends."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import ClientClosedError, JournalError, KieClient, KieError, Statistics
from kie_async._io.journals.memory import MemoryJournal
from kie_async.states import JobState
from kie_async.testing import FakeKie, VirtualLoop, virtual_time
from tests.helpers import KEY, JournalClient, make_request

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


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, VirtualLoop], ids=["asyncio", "virtual time"])
def test_next_use_works_after_a_closed_loop(tmp_path: Path, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A real loop releases the journal when it is closed; on virtual time, the next use does."""
    kie = KieClient(KEY, journal=tmp_path / "kie.db")

    async def enter() -> None:
        await kie.__aenter__()

    for _ in range(3):
        loop = make_loop()
        loop.run_until_complete(enter())
        loop.close()
        if make_loop is asyncio.new_event_loop:
            assert 0 == open_journals()
    assert Statistics() == kie.statistics()
    virtual_time(kie.aclose)

    assert 0 == open_journals()
    assert [] == virtual_time(owners_of, tmp_path / "kie.db")


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, VirtualLoop], ids=["asyncio", "virtual time"])
def test_loop_that_stands_still_is_replaced(tmp_path: Path, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Its client works in the next loop; if it runs again, everything in it ends."""
    kie, first = KieClient(KEY, journal=tmp_path / "kie.db"), make_loop()
    first.run_until_complete(kie.jobs())
    assert 1 == len(virtual_time(owners_of, tmp_path / "kie.db"))
    virtual_time(kie.aclose)

    assert [] == virtual_time(owners_of, tmp_path / "kie.db")
    for _ in range(5):
        first.run_until_complete(asyncio.sleep(0))
    assert set() == asyncio.all_tasks(first)
    first.close()


class FailingJournal(MemoryJournal):
    """A journal that fails in an unforeseen way when a taskId is bound."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def transition(
        self, seen: Any, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Any
    ) -> Any:
        if state is JobState.SUBMITTED:
            raise self.error
        return await super().transition(seen, state, at=at, account_epoch=account_epoch, **changes)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cannot schedule new futures after shutdown"),
        OSError("gone"),
        MemoryError(),
        asyncio.CancelledError(),
        JournalError("full"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_received_task_id_is_logged(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever prevents that it is journaled: the task is paid."""
    async with FakeKie() as fake:
        async with JournalClient(KEY, base_url=fake.url, journal=FailingJournal(error)) as kie:
            with anyio.move_on_after(30.0), suppress(KieError):
                await kie.submit(make_request())
        (task_id,) = fake.truth.tasks

    assert task_id in caplog.text
