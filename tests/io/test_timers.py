"""One heap and one timer of the loop: each action runs at its instant, in order, unless it was cancelled."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async._io.timers import Timers
from kie_async.testing import VirtualLoop

if TYPE_CHECKING:
    from kie_async._io.timers import Timer


@pytest.fixture
async def timers() -> Timers:
    return Timers(asyncio.get_running_loop())


async def test_actions_run_at_their_instants_in_order(timers: Timers) -> None:
    """Of equal instants, the first scheduled runs first."""
    rng = random.Random(1)
    wanted = [(rng.choice([1.0, 2.5, 7.0]), number) for number in range(200)]
    done: list[tuple[float, int]] = []
    for at, number in wanted:
        timers.at(at, lambda at=at, number=number: done.append((at, number)))  # type: ignore[misc]  # its defaults
    seen_at: list[float] = []
    for at in (1.0, 2.5, 7.0):
        timers.at(at, lambda: seen_at.append(anyio.current_time()))
    assert 203 == len(timers)
    await anyio.sleep(10.0)

    assert sorted(wanted) == done
    assert all(0.0 <= seen - at < 1e-3 for seen, at in zip(seen_at, (1.0, 2.5, 7.0), strict=True))
    assert 0 == len(timers)


async def test_a_past_instant_runs_at_the_next_turn(timers: Timers) -> None:
    done: list[str] = []
    timers.at(-5.0, partial(done.append, "past"))
    timers.at(anyio.current_time(), partial(done.append, "now"))
    assert [] == done
    await anyio.sleep(0.001)

    assert ["past", "now"] == done


async def test_a_cancelled_timer_does_not_run(timers: Timers) -> None:
    """Cancel one that is first, one that is not, and one from an action of the same instant."""
    done: list[int] = []
    scheduled: list[Timer] = [timers.at(5.0, partial(done.append, number)) for number in range(5)]
    scheduled[0].cancel()
    timers.at(4.0, scheduled[1].cancel)
    scheduled[2].cancel()
    scheduled[2].cancel()
    victim = timers.at(5.0, partial(done.append, 99))
    timers.at(5.0, lambda: None)
    scheduled[3].action = victim.cancel
    await anyio.sleep(10.0)

    assert [4] == done
    assert 0 == len(timers)


async def test_an_action_may_schedule_more(timers: Timers) -> None:
    """Also earlier than everything that is scheduled."""
    done: list[float] = []

    def reschedule(times: int) -> None:
        done.append(round(anyio.current_time(), 3))
        if times:
            timers.at(anyio.current_time() + 1.0, partial(reschedule, times - 1))

    timers.at(100.0, partial(reschedule, 0))
    timers.at(1.0, partial(reschedule, 3))
    await anyio.sleep(200.0)

    assert [1.0, 2.0, 3.0, 4.0, 100.0] == done


async def test_closed_timers_run_nothing(timers: Timers) -> None:
    done: list[int] = []
    timers.at(1.0, partial(done.append, 1))
    timers.close()
    timers.at(2.0, partial(done.append, 2))
    await anyio.sleep(10.0)

    assert [] == done
    assert 0 == len(timers)


async def test_an_action_may_close_the_timers(timers: Timers) -> None:
    done: list[int] = []
    timers.at(1.0, timers.close)
    timers.at(1.0, partial(done.append, 1))
    await anyio.sleep(10.0)

    assert [] == done


def test_a_failing_action_stops_no_other() -> None:
    """The loop reports its error."""
    failed: list[str] = []
    done: list[int] = []

    def fail() -> None:
        msg = "a bug"
        raise ValueError(msg)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failed.append(str(context.get("exception"))))
        timers = Timers(loop)
        for number in range(3):
            timers.at(1.0, partial(done.append, number))
            timers.at(1.0, fail)
        timers.at(2.0, partial(done.append, 9))
        await asyncio.sleep(5.0)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())

    assert [0, 1, 2, 9] == done
    assert 3 * ["a bug"] == failed


class CountingLoop(VirtualLoop):
    """A loop that counts its timers."""

    timers = 0

    def call_at(self, when: float, *args: object, **how: object) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, *args, **how)  # type: ignore[arg-type]  # passed through


def test_100_000_timers_use_one_timer_of_the_loop() -> None:
    """One timer of the loop for each job would be most of the cost of a large batch."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        timers = Timers(loop)
        before = loop.timers
        for number in range(100_000):
            timers.at(10.0 + number, timers.close)
        set_up = loop.timers - before
        timers.close()
        return set_up

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        assert 1 == runner.run(main())


async def test_an_action_gets_its_arguments(timers: Timers) -> None:
    """A timer that has run or was cancelled keeps no arguments."""
    done: list[tuple[int, str]] = []
    kept = timers.at(1.0, lambda number, word: done.append((number, word)), 1, "a")
    gone = timers.at(1.0, lambda number, word: done.append((number, word)), 2, "b")
    gone.cancel()
    assert () == gone.arguments
    await anyio.sleep(2.0)

    assert [(1, "a")] == done
    assert () == kept.arguments


async def test_cancelled_timers_are_released_early(timers: Timers) -> None:
    """Deadlines are an hour away and most are cancelled; they must not be kept that long."""
    done: list[int] = []
    for number in range(1000):
        timers.at(2.0 + number % 7, done.append, number)
        timers.at(3600.0, done.append, -1).cancel()
        timers.at(1.0, done.append, -2).cancel()
    assert 1000 == len(timers)
    assert timers.heap_size <= 2000
    for _ in range(5000):
        timers.at(3600.0, done.append, -1).cancel()
    assert timers.heap_size <= 2000
    await anyio.sleep(10.0)

    assert [number for _, number in sorted((2.0 + number % 7, number) for number in range(1000))] == done
    assert 0 == len(timers)
    for _ in range(2000):
        timers.at(3600.0, done.append, -1).cancel()
    assert timers.heap_size <= 100


async def test_cancel_after_close_changes_nothing(timers: Timers) -> None:
    timer = timers.at(1.0, timers.close)
    timers.close()
    timer.cancel()

    assert (0, 0) == (len(timers), timers.heap_size)
