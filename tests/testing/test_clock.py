"""Virtual time: timers, input, threads, deadlocks and leftovers."""

from __future__ import annotations

import asyncio
import math
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import pytest
from aiohttp import ClientSession, ClientTimeout, web
from hypothesis import given
from hypothesis import strategies as st

from kie_async.testing.clock import START, STEP, DeadlockError, Loopback, VirtualLoop, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

T = TypeVar("T")

delays = st.floats(min_value=0.0, max_value=1e6)


def this_loop() -> VirtualLoop:
    """Return the running virtual loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def work_for_a_moment() -> str:
    """Block a thread for some real time."""
    done = threading.Event()
    threading.Timer(0.02, done.set).start()
    done.wait()
    return "done"


def run(main: Callable[[], Coroutine[object, object, T]], loop: VirtualLoop) -> T:
    """Run *main* on *loop* and close it."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())


# Timers.


@given(st.lists(delays, max_size=20))
def test_timer_fires_within_one_step(waits: list[float]) -> None:
    """A timer that fired early would repeat a decision."""

    async def main() -> list[tuple[float, float]]:
        loop = this_loop()
        due = [(loop.time() + wait) for wait in waits]
        fired: list[tuple[float, float]] = []

        def fire(when: float) -> None:
            fired.append((when, loop.time()))

        for when in due:
            loop.call_at(when, fire, when)
        await asyncio.sleep(2e6)
        return fired

    fired = virtual_time(main)

    assert len(waits) == len(fired)
    assert all(when <= at <= when + STEP for when, at in fired)


def test_timer_after_many_jumps_is_not_early() -> None:
    """Plain sums of floats drift: ``now + (when - now)`` is not always ``when``."""

    async def main() -> list[float]:
        loop = this_loop()
        early: list[float] = []

        def fire(when: float) -> None:
            if loop.time() < when:
                early.append(when)

        for _ in range(3000):
            loop.call_at(when := 10 ** loop.random.uniform(-5, 6), fire, when)
        await asyncio.sleep(2e6)
        return early

    assert virtual_time(main) == []


def test_fifteen_minutes_pass_in_a_few_turns() -> None:
    """The loop jumps when nothing is ready; turns are counted, since real time would prove nothing."""

    async def main() -> tuple[float, int]:
        before = this_loop().turns
        await asyncio.sleep(900)
        return this_loop().time(), this_loop().turns - before

    now, turns = virtual_time(main)

    assert 900 <= now < 900.001
    assert turns <= 3


@given(st.floats(min_value=1e-300, max_value=1e-9))
def test_tiny_delays_end(delay: float) -> None:
    """``now + delay == now`` must not loop forever at one instant."""

    async def main() -> float:
        loop = this_loop()
        await asyncio.sleep(1000.1)
        deadline = loop.time() + 20 * STEP
        while loop.time() < deadline:
            await asyncio.sleep(delay)
        return loop.time() - deadline

    assert virtual_time(main) < 2 * STEP


def test_busy_wait_on_the_clock_ends() -> None:
    """Every turn takes a step."""

    async def main() -> None:
        deadline = this_loop().time() + 0.001
        while this_loop().time() < deadline:
            await asyncio.sleep(0)

    virtual_time(main)


def test_timer_at_infinity_never_fires() -> None:
    """Infinity is valid for "never"."""

    async def main() -> float:
        never = this_loop().call_at(math.inf, pytest.fail)
        await asyncio.sleep(1)
        never.cancel()
        return this_loop().time()

    assert virtual_time(main) == pytest.approx(1, abs=1e-3)


def test_wall_clock_follows_virtual_time() -> None:
    """Signatures and expiry dates see the same time as timers."""

    async def main() -> float:
        await asyncio.sleep(86_400)
        return this_loop().wall_time()

    assert virtual_time(main) == pytest.approx(START + 86_400, abs=1e-3)
    assert virtual_time(main, start=1e9) == pytest.approx(1e9 + 86_400, abs=1e-3)


def test_seed_determines_the_randomness() -> None:
    """A failing run can be repeated with its seed."""

    async def main() -> float:
        return this_loop().random.random()

    assert virtual_time(main, seed=7) == virtual_time(main, seed=7)
    assert virtual_time(main, seed=7) != virtual_time(main, seed=8)


# Input and output.


async def exchanges(count: int, latency: float, timeout: float) -> list[float]:
    """Make *count* requests over real sockets to a handler that takes *latency*; return their durations."""

    async def handler(_request: web.Request) -> web.Response:
        await asyncio.sleep(latency)
        return web.Response(body=b"x" * 50_000)

    async def exchange(at: float) -> float:
        await asyncio.sleep(at)
        began = this_loop().time()
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            assert len(await response.read()) == 50_000
        return this_loop().time() - began

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with ClientSession(timeout=ClientTimeout(total=timeout)) as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(exchange(0.37 * number)) for number in range(count)]
        return [task.result() for task in tasks]
    finally:
        await runner.cleanup()


async def test_bytes_arrive_before_time_advances() -> None:
    """A request that arrived late would time out, or take longer than its handler."""
    took = await exchanges(count=300, latency=5.0, timeout=5.1)

    assert all(5.0 <= seconds < 5.001 for seconds in took)


def test_flush_waits_for_earlier_packets() -> None:
    """The loop checks for input only then."""
    loopback = Loopback()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        with receiver:
            for _ in range(500):
                sender.send(b"!")
                loopback.flush()
                assert select.select([receiver], (), (), 0)[0]
                receiver.recv(1)
    loopback.close()


def test_same_program_gives_the_same_run() -> None:
    """Turns and instants repeat, over real sockets too."""

    async def main() -> tuple[list[float], int]:
        return await exchanges(count=50, latency=1.0, timeout=2.0), this_loop().turns

    assert virtual_time(main) == virtual_time(main)


# Threads.


async def in_loop_executor() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, work_for_a_moment)


async def in_own_executor() -> str:
    with ThreadPoolExecutor(1) as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, work_for_a_moment)


async def in_anyio_thread() -> str:
    return await anyio.to_thread.run_sync(work_for_a_moment)


async def in_foreign_thread() -> str:
    loop = this_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def work() -> None:
        result = work_for_a_moment()
        loop.call_soon_threadsafe(answer.set_result, result)

    with loop.freeze():
        threading.Thread(target=work).start()
        return await answer


@pytest.mark.parametrize("work", [in_loop_executor, in_own_executor, in_anyio_thread, in_foreign_thread])
async def test_time_stops_while_a_thread_works(work: Callable[[], Coroutine[object, object, str]]) -> None:
    """A timeout around work in a thread does not fire because the thread is slow."""
    with anyio.fail_after(0.001):
        assert await work() == "done"


async def test_time_stops_during_name_resolution() -> None:
    """The loop resolves names in a thread."""
    with anyio.fail_after(0.001):
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 80, family=socket.AF_INET)


async def test_time_stands_still_for_files(tmp_path: Path) -> None:
    """``anyio.Path`` works in anyio's threads."""
    with anyio.fail_after(0.01):
        await anyio.Path(tmp_path / "file").write_bytes(b"content")
        assert await anyio.Path(tmp_path / "file").read_bytes() == b"content"


async def test_abandoned_thread_still_stops_time() -> None:
    """Cancelling the wait does not stop the thread."""
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    done: list[str] = []

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        done.append(work_for_a_moment())

    waiter = loop.run_in_executor(None, work)
    await started.wait()
    waiter.cancel()
    await asyncio.sleep(1000)

    assert done == ["done"]


async def test_timers_wait_for_threads() -> None:
    """The result of a thread precedes any timer that was scheduled after its start."""
    order: list[str] = []
    this_loop().call_later(0.001, order.append, "timer")
    order.append(await in_anyio_thread())
    await asyncio.sleep(1)

    assert order == ["done", "timer"]


def test_end_waits_for_executor_threads() -> None:
    """Closing the loop joins them in real time instead of jumping to the timeout of the join."""
    done: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, lambda: done.append(work_for_a_moment())).add_done_callback(
            str
        )
        await asyncio.sleep(0)

    virtual_time(main)

    assert done == ["done"]


# Ends.


def test_deadlock_error_names_the_waiting_task() -> None:

    async def forgotten() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forgotten(), name="the forgotten one")

    with pytest.raises(DeadlockError, match=r"no timer(.|\n)*the forgotten one: .*forgotten \(test_clock.*Event.wait"):
        run(main, VirtualLoop(input_timeout=0.01))


def test_idle_connections_do_not_hide_a_deadlock() -> None:
    """Idle sockets do not make the loop wait forever."""

    async def main() -> None:
        async def wait_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.read()
            finally:
                writer.close()

        server = await asyncio.start_server(wait_and_close, "127.0.0.1", 0)
        async with server:
            await wait_and_close(*await asyncio.open_connection(*server.sockets[0].getsockname()))

    with pytest.raises(DeadlockError):
        run(main, VirtualLoop(input_timeout=0.01))


def test_late_input_is_not_a_deadlock() -> None:
    """Without a timer, the loop waits for real input for a while."""

    async def main() -> str:
        loop = this_loop()
        answer: asyncio.Future[str] = loop.create_future()
        threading.Timer(0.02, loop.call_soon_threadsafe, (answer.set_result, "late")).start()
        return await answer

    assert run(main, VirtualLoop()) == "late"


def test_periodic_program_reaches_the_time_limit() -> None:
    """A periodic timer must not keep a stuck program alive."""

    async def main() -> None:
        while True:
            await asyncio.sleep(30)

    with pytest.raises(DeadlockError, match=r"limit of 3600 s(.|\n)*main"):
        virtual_time(main, time_limit=3600)


# Turns.


async def several_waits() -> str:
    await asyncio.sleep(1)
    await asyncio.sleep(0)
    await asyncio.sleep(1)
    return "end"


async def test_task_can_be_cancelled_at_every_turn() -> None:
    """Sweeps rely on this: a cancel in any turn before the last has an effect."""
    loop = this_loop()
    ends: list[str] = []
    for turn in range(1, 20):
        task = asyncio.ensure_future(several_waits())
        loop.at_turn(loop.turns + turn, task.cancel)
        [end] = await asyncio.gather(task, return_exceptions=True)
        ends.append(end if isinstance(end, str) else "cancelled")
        await asyncio.sleep(1)

    first_untouched = ends.index("end")
    assert first_untouched > 3
    assert ends == ["cancelled"] * first_untouched + ["end"] * (len(ends) - first_untouched)


async def test_past_turn_is_refused() -> None:
    """A callback that never runs would make a sweep meaningless."""
    with pytest.raises(ValueError, match="expected a number above"):
        this_loop().at_turn(this_loop().turns, pytest.fail)


# virtual_time().


def test_virtual_time_passes_arguments_and_results() -> None:

    async def divide(dividend: int, divisor: int) -> float:
        await asyncio.sleep(1)
        return dividend / divisor

    assert virtual_time(divide, 6, 3) == 2.0
    with pytest.raises(ZeroDivisionError):
        virtual_time(divide, 6, 0)


def test_virtual_time_refuses_pending_tasks() -> None:
    """A leaked task is a bug in the program."""

    async def leaked() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        tasks.append(asyncio.ensure_future(leaked()))

    tasks: list[asyncio.Future[None]] = []
    with pytest.raises(AssertionError, match=r"left behind:\n  task .*leaked"):
        virtual_time(main)


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


def test_virtual_time_refuses_open_generators() -> None:
    """Its cleanup would run at an arbitrary time, or never."""

    async def main() -> None:
        generators.append(numbers())
        await anext(generators[0])

    generators: list[AsyncIterator[int]] = []
    with pytest.raises(AssertionError, match="async generator numbers"):
        virtual_time(main)


def test_virtual_time_accepts_ended_generators() -> None:
    """Finished generators may still be referenced."""

    async def main() -> list[int]:
        generators.append(numbers())
        return [number async for number in generators[0]]

    generators: list[AsyncIterator[int]] = []
    assert virtual_time(main) == [1, 2]


def test_tasks_cancelled_at_the_end_may_finish() -> None:
    """They have a few turns to end."""

    async def main() -> None:
        asyncio.ensure_future(several_waits()).cancel()

    virtual_time(main)
