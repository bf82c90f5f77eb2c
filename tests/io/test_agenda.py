"""One heap and one timer: everything happens at its instant, in order, unless it was called off."""

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


async def test_actions_happen_at_their_instants_and_in_order(timers: Timers) -> None:
    """Of equal instants, the first asked for goes first."""
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


async def test_what_is_past_happens_at_the_next_turn_and_not_at_once(timers: Timers) -> None:
    done: list[str] = []
    timers.at(-5.0, partial(done.append, "past"))
    timers.at(anyio.current_time(), partial(done.append, "now"))
    assert [] == done
    await anyio.sleep(0.001)

    assert ["past", "now"] == done


async def test_what_is_called_off_does_not_happen(timers: Timers) -> None:
    """Neither alone, nor first, nor from within another action of the same instant."""
    done: list[int] = []
    entries: list[Timer] = [timers.at(5.0, partial(done.append, number)) for number in range(5)]
    entries[0].cancel()
    timers.at(4.0, entries[1].cancel)
    entries[2].cancel()
    entries[2].cancel()
    victim = timers.at(5.0, partial(done.append, 99))
    timers.at(5.0, lambda: None)
    entries[3].action = victim.cancel
    await anyio.sleep(10.0)

    assert [4] == done
    assert 0 == len(timers)


async def test_an_action_may_plan_more(timers: Timers) -> None:
    """Earlier than all that is planned, too."""
    done: list[float] = []

    def again(times: int) -> None:
        done.append(round(anyio.current_time(), 3))
        if times:
            timers.at(anyio.current_time() + 1.0, partial(again, times - 1))

    timers.at(100.0, partial(again, 0))
    timers.at(1.0, partial(again, 3))
    await anyio.sleep(200.0)

    assert [1.0, 2.0, 3.0, 4.0, 100.0] == done


async def test_a_closed_agenda_does_nothing_any_more(timers: Timers) -> None:
    done: list[int] = []
    timers.at(1.0, partial(done.append, 1))
    timers.close()
    timers.at(2.0, partial(done.append, 2))
    await anyio.sleep(10.0)

    assert [] == done
    assert 0 == len(timers)


async def test_an_action_may_close_the_agenda(timers: Timers) -> None:
    done: list[int] = []
    timers.at(1.0, timers.close)
    timers.at(1.0, partial(done.append, 1))
    await anyio.sleep(10.0)

    assert [] == done


def test_an_action_that_fails_stops_no_other() -> None:
    """Its error is the loop's to report."""
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
        return super().call_at(when, *args, **how)  # type: ignore[arg-type]  # handed through


def test_a_hundred_thousand_plans_are_one_timer() -> None:
    """A timer of the loop for each job would be most of what a large batch costs."""

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
    """So that a plan is one object, and no closure; what was called off or done holds nothing any more."""
    done: list[tuple[int, str]] = []
    kept = timers.at(1.0, lambda number, word: done.append((number, word)), 1, "a")
    gone = timers.at(1.0, lambda number, word: done.append((number, word)), 2, "b")
    gone.cancel()
    assert () == gone.arguments
    await anyio.sleep(2.0)

    assert [(1, "a")] == done
    assert () == kept.arguments


async def test_what_was_called_off_is_let_go_before_its_instant(timers: Timers) -> None:
    """Deadlines are an hour away and most are called off: what ended long ago must not be kept that long."""
    done: list[int] = []
    for number in range(1000):
        timers.at(2.0 + number % 7, done.append, number)
        timers.at(3600.0, done.append, -1).cancel()
        timers.at(1.0, done.append, -2).cancel()
    assert 1000 == len(timers)
    assert timers.held <= 2000
    for _ in range(5000):
        timers.at(3600.0, done.append, -1).cancel()
    assert timers.held <= 2000
    await anyio.sleep(10.0)

    assert [number for _, number in sorted((2.0 + number % 7, number) for number in range(1000))] == done
    assert 0 == len(timers)
    for _ in range(2000):
        timers.at(3600.0, done.append, -1).cancel()
    assert timers.held <= 100


async def test_calling_off_what_a_closed_agenda_held_changes_nothing(timers: Timers) -> None:
    entry = timers.at(1.0, timers.close)
    timers.close()
    entry.cancel()

    assert (0, 0) == (len(timers), timers.held)
