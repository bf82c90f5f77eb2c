"""
Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it.

Sockets, files and threads stay real. The real client runs against ``FakeKie`` on the same loop, and a task of fifteen
minutes ends within milliseconds. Three rules make that correct:

* **Input and output come first.** Time advances only when all sent data has arrived and nothing can be read or
  written. Both ends of every connection must be on this loop; for a server or process elsewhere, use ``freeze()``.
* **Time stands still while a thread works.** The loop waits in real time for calls of ``run_in_executor`` (name
  resolution too) and of anyio's default thread limiter (``anyio.to_thread``, ``anyio.Path``, ``anyio.open_file``). For
  other threads, use ``freeze()``.
* **Instants are multiples of 2⁻²⁰ s**, about a microsecond, so that ``now + (when - now)`` is exactly ``when``: a timer
  never fires before its instant, and at most one step after it. A turn without a jump takes one step, so that code
  that watches the clock without a timer makes progress.
"""

from __future__ import annotations

import asyncio
import math
import random
import select
import selectors
import socket
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import PurePath
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, TypeAlias, TypeVar, TypeVarTuple

from anyio.to_thread import current_default_thread_limiter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Generator
    from concurrent.futures import Future
    from contextvars import Context

    from anyio import CapacityLimiter

__all__ = ["DeadlockError", "Loopback", "VirtualLoop", "pending_tasks", "virtual_time"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Events: TypeAlias = list[tuple[selectors.SelectorKey, int]]
SelectorPoll: TypeAlias = Callable[[float | None], Events]

#: The resolution of the clock, in seconds; a power of two, so that sums and differences of instants are exact.
STEP = 2.0**-20

#: The default start of ``wall_time()``: 2026-01-01T00:00:00Z.
START = 1_767_225_600.0

#: The default limit of virtual time, in seconds: a leap year. A longer wait counts as endless.
TIME_LIMIT = 366 * 86_400.0

#: The number of turns in which tasks may end that were cancelled, or told to end, in the last moment.
GRACE_TURNS = 5

#: A handshake takes three hops, and after two of them one of its ends has something to do.
_ROUNDS = 2

#: The timeout of one datagram, in real milliseconds; it takes microseconds.
_DATAGRAM_TIMEOUT_MS = 1000


def pending_tasks(loop: asyncio.AbstractEventLoop) -> list[str]:
    """
    Describe the pending tasks of *loop* and the places where they wait.

    Args:
        loop: The loop; if it is running, the calling task is left out.

    Returns:
        A line for each task: ``"task NAME: outermost (file:line) > … > innermost (file:line)"``.
    """
    current = asyncio.current_task(loop) if loop.is_running() else None
    return sorted(_describe(task) for task in asyncio.all_tasks(loop) if task is not current)


def _describe(task: asyncio.Task[T]) -> str:
    frames: list[str] = []
    waits: object = task.get_coro()
    while (frame := getattr(waits, "cr_frame", None)) is not None:
        frames.append(f"{frame.f_code.co_qualname} ({PurePath(frame.f_code.co_filename).name}:{frame.f_lineno})")
        waits = getattr(waits, "cr_await", None)
    return f"task {task.get_name()}: {' > '.join(frames)}"


class Loopback:
    """
    A datagram socket that sends to itself, to find out when everything sent over the loopback interface has arrived.

    Most kernels deliver a packet for 127.0.0.1 before ``send`` returns; some use a kernel thread, which runs later
    under load. Packets are always delivered in order: when a datagram has come back, all data sent before has arrived.
    A round takes about 4 µs; ``sched_yield`` instead takes milliseconds on a busy machine (measured: 3.5 ms beside six
    spinning processes on two cores).
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.connect(self._socket.getsockname())
        self._socket.setblocking(False)  # noqa: FBT003  # a positional-only parameter
        self._arrival = select.poll()
        self._arrival.register(self._socket, select.POLLIN)

    def flush(self) -> None:
        """Return when everything that was sent before has arrived."""
        for _ in range(_ROUNDS):
            self._socket.send(b".")
            self._arrival.poll(_DATAGRAM_TIMEOUT_MS)
            self._socket.recv(1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class DeadlockError(RuntimeError):
    """Raised when virtual time has nothing to wait for, or has passed its limit; lists the waiting tasks."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    An event loop on virtual time.

    Use it as a loop factory: ``asyncio.Runner(loop_factory=VirtualLoop)``, or in anyio's pytest backend
    ``("asyncio", {"loop_factory": VirtualLoop})``. ``virtual_time()`` does so in one call.

    Args:
        seed: Seeds ``random``.

        start: The start of ``wall_time()``, in seconds since the epoch.

        time_limit: The limit of virtual time, in seconds; ``DeadlockError`` is raised beyond it.

        input_timeout: The timeout for real input when no timer is scheduled, in real seconds; then ``DeadlockError`` is
            raised.

    Attributes:
        random: The random generator of the loop; a client on this loop takes its jitter and its ids from it.

        turns: The number of turns (iterations) of the loop.
    """

    def __init__(
        self, *, seed: int = 0, start: float = START, time_limit: float = TIME_LIMIT, input_timeout: float = 5.0
    ) -> None:
        self.random: random.Random = random.Random(seed)
        self.turns: int = 0
        self._now = 0.0
        self._start = start
        self._time_limit = time_limit
        self._input_timeout = input_timeout
        self._freezes = 0
        self._limiter: CapacityLimiter | None = None
        self._default_threads: ThreadPoolExecutor | None = None
        self._at_turn: dict[int, list[Callable[[], object]]] = {}
        self._generators: weakref.WeakSet[AsyncGenerator[object, object]] = weakref.WeakSet()
        self._entered = False
        self._loopback = Loopback()
        self._real_selector = _Selector(self._turn)
        super().__init__(self._real_selector)

    def time(self) -> float:
        """Return the virtual seconds since the loop was created."""
        return self._now

    def wall_time(self) -> float:
        """Return the virtual seconds since the epoch: *start* plus ``time()``."""
        return self._start + self._now

    def at_turn(self, turn: int, callback: Callable[[], object]) -> None:
        """
        Call *callback* in the given turn of the loop, after the callbacks that are due in that turn.

        A sweep over ``loop.turns + 1``, ``+ 2``, … interrupts a program at every point at which it can be interrupted.

        Args:
            turn: The number of a future turn, counted like ``turns``.

            callback: The function to call, for example ``task.cancel``.

        Raises:
            ValueError: If that turn is over.
        """
        if turn <= self.turns:
            msg = f"Invalid turn {turn}: expected a number above {self.turns}, the current turn."
            raise ValueError(msg)
        self._at_turn.setdefault(turn, []).append(callback)

    @contextmanager
    def freeze(self) -> Generator[None]:
        """Stop virtual time within the context: the loop waits for input in real time, and no timer fires."""
        self._freezes += 1
        try:
            yield
        finally:
            self._freezes -= 1

    def leftovers(self) -> list[str]:
        """
        Describe the pending tasks and the open async generators of this loop, one line each.

        Call it when nothing should be running; the calling task is left out.
        """
        return pending_tasks(self) + sorted(
            f"async generator {generator.__qualname__}"
            for generator in self._generators
            # A compiled generator, such as Cython's, is not an AsyncGeneratorType and does not show its end.
            if isinstance(generator, AsyncGeneratorType) and generator.ag_frame is not None
        )

    # -- the loop's own methods, adapted to virtual time ---------------------------------------------------------

    def close(self) -> None:
        """Close the loop."""
        super().close()
        self._loopback.close()

    def run_forever(self) -> None:
        """Run until ``stop()`` is called."""
        self._entered = True
        if self._limiter is None:
            self.create_task(self._find_limiter(), name="virtual time: find anyio's thread limiter")
        super().run_forever()

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call *callback* at the instant *when*, rounded up to the clock's resolution."""
        if when < self._time_limit:  # Infinity and NaN cannot be rounded, and never fire.
            when = math.ceil(when / STEP) * STEP
        return super().call_at(when, callback, *args, context=context)

    def set_default_executor(self, executor: ThreadPoolExecutor) -> None:  # type: ignore[override]  # as at run time
        """Use *executor* by default in ``run_in_executor``."""
        super().set_default_executor(executor)
        self._default_threads = executor

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call *func* in *executor* or in a thread; virtual time stands still until it returns."""
        work = (executor or self._threads()).submit(func, *args)
        answer = asyncio.wrap_future(work, loop=self)
        self._freezes += 1
        # Registered after wrap_future() has registered its own callback: the result is on its way to the loop before
        # time advances. Registered on the work, not on the result: a thread continues when its waiter is cancelled.
        work.add_done_callback(self._work_done)
        return answer

    def _threads(self) -> ThreadPoolExecutor:
        threads = self._default_threads
        if threads is None:
            threads = ThreadPoolExecutor(thread_name_prefix="virtual time")
            self.set_default_executor(threads)
        return threads

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002  # the base class's
        """Wait in real time until the threads of the default executor end, without a *timeout*."""
        with self.freeze():
            await super().shutdown_default_executor()

    def _work_done(self, _work: Future[T]) -> None:
        with suppress(RuntimeError):  # The loop may be closed.
            self.call_soon_threadsafe(self._unfreeze)

    def _unfreeze(self) -> None:
        self._freezes -= 1

    async def _find_limiter(self) -> None:
        # anyio finds its backend through the current task, so the selector cannot call this.
        self._limiter = current_default_thread_limiter()

    def _frozen(self) -> bool:
        return self._freezes > 0 or (self._limiter is not None and self._limiter.borrowed_tokens > 0)

    def _turn(self, poll: SelectorPoll, timeout: float | None) -> Events:
        """Take one turn, in place of the selector's "wait for input, at most *timeout* seconds"."""
        self.turns += 1
        if self._entered:
            self._entered = False
            self._watch_generators()
        hooked = self._call_hooks()
        events = poll(0)
        if not (events or hooked or timeout == 0):
            if self._frozen():
                events = poll(None)  # The end of the freeze wakes the loop.
            elif not (events := self._arrived(poll)):
                return self._wait_for_input(poll) if timeout is None else self._jump(timeout)
        self._now += STEP
        return events

    def _watch_generators(self) -> None:
        """Remember, weakly, every async generator that the loop starts to iterate; call the loop's own hook too."""
        loops_hook = sys.get_asyncgen_hooks().firstiter

        def first_iteration(generator: AsyncGenerator[object, object]) -> None:
            self._generators.add(generator)
            if loops_hook is not None:
                loops_hook(generator)

        sys.set_asyncgen_hooks(firstiter=first_iteration)

    def _call_hooks(self) -> bool:
        callbacks = self._at_turn.pop(self.turns, ()) if self._at_turn else ()
        for callback in callbacks:
            self.call_soon(callback)
        return bool(callbacks)

    def _arrived(self, poll: SelectorPoll) -> Events:
        if len(self._real_selector.get_map()) == 1:  # Only the loop's own wake-up pipe: no data can be on its way.
            return []
        self._loopback.flush()
        return poll(0)

    def _jump(self, timeout: float) -> Events:
        self._now += timeout
        if self._now > self._time_limit:
            msg = f"virtual time has passed its limit of {self._time_limit:g} s, so a wait is endless{self._waiting()}"
            raise DeadlockError(msg)
        return []

    def _wait_for_input(self, poll: SelectorPoll) -> Events:
        if events := poll(self._input_timeout):
            return events
        # The cleanup after this error is probably stuck too: report that without another long wait.
        waited, self._input_timeout = self._input_timeout, 0.1
        msg = f"no timer, no working thread, and no input for {waited:g} s of real time{self._waiting()}"
        raise DeadlockError(msg)

    def _waiting(self) -> str:
        return "".join(f"\n  {text}" for text in self.leftovers())


class _Selector(selectors.DefaultSelector):
    """The platform's selector, whose wait is replaced by a turn of the virtual loop."""

    def __init__(self, turn: Callable[[SelectorPoll, float | None], Events]) -> None:
        super().__init__()
        self._turn = turn

    def select(self, timeout: float | None = None) -> Events:
        return self._turn(super().select, timeout)


def virtual_time(
    main: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    seed: int = 0,
    start: float = START,
    time_limit: float = TIME_LIMIT,
) -> T:
    """
    Run *main* on virtual time and return its result.

    Args:
        main: A coroutine function; it may be run again with other seeds.

        *args: Its positional arguments.

        seed: Seeds all randomness: equal seeds give equal runs.

        start: The start of the wall clock, in seconds since the epoch.

        time_limit: The limit of virtual time, in seconds.

    Returns:
        The result of *main*.

    Raises:
        DeadlockError: If *main* waits for something that cannot happen.

        AssertionError: If *main* returns and leaves a task pending or an async generator open.

    >>> import asyncio
    >>> async def main(minutes):
    ...     await asyncio.sleep(60 * minutes)
    ...     return round(asyncio.get_running_loop().time())
    >>> virtual_time(main, 15)
    900
    """

    async def run() -> T:
        result = await main(*args)
        for _ in range(GRACE_TURNS):
            await asyncio.sleep(0)
        if left := loop.leftovers():
            msg = "left behind:" + "".join(f"\n  {text}" for text in left)
            raise AssertionError(msg)
        return result

    loop = VirtualLoop(seed=seed, start=start, time_limit=time_limit)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(run())
