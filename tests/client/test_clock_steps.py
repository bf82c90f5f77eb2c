"""The wall clock is set, the machine is suspended, the event loop is blocked: no deadline, limit or task is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from itertools import chain, repeat
from random import Random

import anyio
import pytest

from kie_async import KieError, RetryPolicy, TaskTimeoutError
from kie_async.testing import Fault, VirtualLoop
from tests import profile
from tests.helpers import Setup, assert_settled, client_and_fake, create_foreign_task, make_request

DAY, HOUR, BLOCKED = 86_400.0, 3600.0, 30.0
#: More than a window allows, so that some jobs wait while others are on the wire.
JOBS = 23


class JumpingLoop(VirtualLoop):
    """An event loop whose clocks can jump."""

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back; nothing else changes."""
        self._start += seconds

    def jump(self, seconds: float) -> None:
        """Let time pass in which the loop does not run."""
        self._now += seconds


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Select a loop whose clocks can jump."""
    return "asyncio", {"loop_factory": JumpingLoop}


async def run_jobs(setup: Setup) -> Counter[str]:
    """Generate all, and count the outcomes by their types."""
    told = Counter[str]()

    async def one(number: int) -> None:
        try:
            told[type(await setup.kie.generate(make_request(number))).__name__] += 1
        except KieError as error:
            told[type(error).__name__] += 1

    async with anyio.create_task_group() as group:
        for number in range(JOBS):
            group.start_soon(one, number)
    return told


@pytest.mark.parametrize("seconds", profile.sample([DAY, -DAY, 3.0, -3.0], check=0.5))
async def test_steps_of_the_wall_clock_move_no_deadline(seconds: float) -> None:
    """Neither the end of a wait, nor of a window, nor ``max_age``; every end is seen as soon as otherwise."""
    usual = await run_stepped(0.0)

    assert usual == pytest.approx(await run_stepped(seconds), abs=3.0)


async def run_stepped(seconds: float) -> list[float]:
    """Run all jobs, and one whose task does not end, while the clock is set three times; return when they ended."""
    loop, told = asyncio.get_running_loop(), list[float]()
    assert isinstance(loop, JumpingLoop)
    durations = chain(Random(1).choices((1.0, 20.0, 40.0), k=JOBS), repeat(1e6))
    options = {"retry": RetryPolicy(max_age=1000.0)}
    async with client_and_fake(client=options, duration=lambda *_: next(durations)) as setup:
        for delay in (5.0, 15.0, 100.0):
            loop.call_later(delay, loop.set_wall, seconds)
        began = anyio.current_time()
        assert {"Generation": JOBS} == await run_jobs(setup)
        told.append(anyio.current_time() - began)
        job = await setup.kie.submit(make_request(JOBS))
        with pytest.raises(TaskTimeoutError):
            await job
        told.append(anyio.current_time() - began)

        assert JOBS + 1 == len({row.id for row in await setup.rows()}) == len(setup.tasks)
        assert [] == setup.truth.rate_limited
        assert setup.truth.busiest_window(10.0) <= 20
        setup.fake.finish(setup.tasks[-1])
        await job.wait(timeout=1000.0)
        await assert_settled(setup.kie)
    return told


async def run_interrupted(turn: int, seconds: float) -> tuple[Counter[str], Counter[str]]:
    """Run all jobs on a loop that stands still in a turn; count the outcomes and the states in the end."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    async with client_and_fake(duration=6.0, latency=(0.02, 0.2)) as setup:
        loop.at_turn(loop.turns + turn, partial(loop.jump, seconds))
        told = await run_jobs(setup)
        await anyio.sleep(700.0)

        assert JOBS == told.total()
        assert [] == setup.truth.rate_limited
        assert setup.truth.busiest_window(10.0) <= 20
        await assert_settled(setup.kie)
        return told, Counter(await setup.states())


@pytest.mark.parametrize("turn", profile.sample(range(1, 401, 8), check=0.08))
async def test_blocked_event_loop_causes_no_doubt(turn: int) -> None:
    """Another part of the program blocks it for half a minute, at any turn."""
    assert ({"Generation": JOBS}, {"succeeded": JOBS}) == await run_interrupted(turn, BLOCKED)


@pytest.mark.parametrize("turn", profile.sample(range(1, 401, 8), check=0.08))
async def test_suspended_machine_exceeds_no_limit_and_loses_no_task(turn: int) -> None:
    """An hour passes at any turn: creates on the wire are in doubt at worst, and tasks that ended are seen to end."""
    told, states = await run_interrupted(turn, HOUR)

    assert {"Generation", "SubmitInDoubtError"} >= {*told}
    assert told["SubmitInDoubtError"] == states["unresolved"] <= 20
    assert JOBS == states["succeeded"] + states["unresolved"]


@pytest.mark.parametrize("whose", ["ours", "foreign"])
@pytest.mark.parametrize("ended", [True, False])
async def test_wait_that_was_suspended_past_max_age_polls_first(whose: str, *, ended: bool) -> None:
    """It ends with the result, or says that the task has not ended, also if no poll is answered."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    faults = [] if ended else [Fault("poll", "silence", between=(2 * HOUR, 4 * HOUR))]
    async with client_and_fake(duration=60.0, faults=faults) as setup:
        task = await create_foreign_task(setup.fake.url) if whose == "foreign" else None
        job = await setup.kie.submit(make_request()) if task is None else setup.kie.job(task)
        loop.call_later(10.0, loop.jump, 2 * HOUR)
        if ended:
            assert setup.tasks == [(await job.wait()).task_id]
        else:
            with pytest.raises(TaskTimeoutError):
                await job.wait()
        assert anyio.current_time() <= 2 * HOUR + 75.0
        if task is not None:
            del setup.truth.tasks[task]
