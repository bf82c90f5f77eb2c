"""
Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it.

Sockets, files and threads stay real, so the real client runs against ``FakeKie`` on the same loop, and a task of
fifteen minutes ends within milliseconds. Three rules keep that sound:

* **Input and output come first.** Time moves only when everything that was sent has arrived and nobody has anything to
  read or to write. Both ends of every connection must live on this loop: for a server or a process elsewhere, keep
  time still with ``freeze()``.
* **Time stands still while a thread works**: what went through ``run_in_executor`` (name look-ups too) or through
  anyio's default thread limiter (``anyio.to_thread``, ``anyio.Path``, ``anyio.open_file``) is waited for in real time.
  For threads that the loop cannot know of there is ``freeze()`` again.
* **Instants lie on a grid of 2⁻²⁰ s**, about a microsecond, where ``now + (when - now)`` is exactly ``when``: a timer
  never fires before its instant, and at most one step after it. A turn that does not jump costs one step, so that code
  which watches the clock without a timer gets on as well.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias, TypeVar, TypeVarTuple

from anyio.to_thread import current_default_thread_limiter

from kie_async.testing._leftovers import GeneratorWatch, pending_tasks
from kie_async.testing._loopback import Loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator
    from concurrent.futures import Future
    from contextvars import Context

    from anyio import CapacityLimiter

__all__ = ["DeadlockError", "VirtualLoop", "virtual_time"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Events: TypeAlias = list[tuple[selectors.SelectorKey, int]]
SelectorPoll: TypeAlias = Callable[[float | None], Events]

#: The grid of the clock, in seconds; a power of two, so that sums and differences of instants are exact.
STEP = 2.0**-20

#: What ``wall_time()`` starts with unless told otherwise: 2026-01-01T00:00:00Z.
START = 1_767_225_600.0

#: Past this many virtual seconds, a leap year, a wait has no end.
TIME_LIMIT = 366 * 86_400.0

#: How many turns tasks have to end that were cancelled, or told to end, in the last moment.
GRACE_TURNS = 5


class DeadlockError(RuntimeError):
    """Raised when virtual time has nothing left to wait for, or has passed its limit; it lists who waits where."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    An event loop on virtual time.

    Hand it to whatever makes loops: ``asyncio.Runner(loop_factory=VirtualLoop)``, or as anyio's pytest backend
    ``("asyncio", {"loop_factory": VirtualLoop})``. ``virtual_time()`` is the short way.

    Args:
        seed: Seeds ``random``.

        start: What ``wall_time()`` starts with, in seconds since the epoch.

        time_limit: How far virtual time may go, in seconds; past it a wait has no end, and ``DeadlockError`` is raised.

        input_timeout: How long real input is waited for when there is no timer to jump to, in real seconds; then
            ``DeadlockError`` is raised.

    Attributes:
        random: The randomness of this world; a client that runs on this loop takes its jitter and its ids from here.

        turns: How many turns the loop has taken.
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
        self._holds = 0
        self._limiter: CapacityLimiter | None = None
        self._default_threads: ThreadPoolExecutor | None = None
        self._at_turn: dict[int, list[Callable[[], object]]] = {}
        self._generators = GeneratorWatch()
        self._entered = False
        self._loopback = Loopback()
        self._real_selector = _Selector(self._turn)
        super().__init__(self._real_selector)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def wall_time(self) -> float:
        """Virtual seconds since the epoch: *start* plus ``time()``."""
        return self._start + self._now

    def at_turn(self, turn: int, callback: Callable[[], object]) -> None:
        """
        Call *callback* in the loop's *turn*-th turn, after what was due in that turn.

        A sweep over ``loop.turns + 1``, ``+ 2``, … disturbs a program at every point at which it can be disturbed.

        Args:
            turn: The turn, counted like ``turns``; it must not have been taken yet.

            callback: What to call; ``task.cancel``, for one.

        Raises:
            ValueError: If that turn is over.
        """
        if turn <= self.turns:
            msg = f"turn {turn} is over, the loop has taken {self.turns}"
            raise ValueError(msg)
        self._at_turn.setdefault(turn, []).append(callback)

    @contextmanager
    def freeze(self) -> Generator[None]:
        """Keep virtual time still: within it the loop waits for input in real time, and no timer fires."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    def leftovers(self) -> list[str]:
        """
        What still runs on this loop, one description each: tasks that are pending, async generators that are open.

        Call it where nothing should run any more; the task that calls it is left out.
        """
        return pending_tasks(self) + self._generators.open_generators()

    # What follows makes the loop's own methods fit virtual time.

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
        """Call *callback* at the instant *when*, rounded up to the clock's grid."""
        if when < self._time_limit:  # Neither infinity nor NaN can be rounded, and nobody will see them fire.
            when = math.ceil(when / STEP) * STEP
        return super().call_at(when, callback, *args, context=context)

    def set_default_executor(self, executor: ThreadPoolExecutor) -> None:  # type: ignore[override]  # as at run time
        """Use *executor* where ``run_in_executor`` is given none."""
        super().set_default_executor(executor)
        self._default_threads = executor

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call *func* in a thread, or wherever *executor* works; virtual time stands still until it is done."""
        work = (executor or self._threads()).submit(func, *args)
        answer = asyncio.wrap_future(work, loop=self)
        self._holds += 1
        # Asked for after wrap_future() did: the answer is on its way to the loop before time may move. And asked of the
        # work, not of the answer: a thread works on when its waiter is cancelled.
        work.add_done_callback(self._work_done)
        return answer

    def _threads(self) -> ThreadPoolExecutor:
        threads = self._default_threads
        if threads is None:
            threads = ThreadPoolExecutor(thread_name_prefix="virtual time")
            self.set_default_executor(threads)
        return threads

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002  # the base class's
        """Wait for the default executor's threads to end, in real time, without a *timeout*."""
        with self.freeze():
            await super().shutdown_default_executor()

    def _work_done(self, _work: Future[T]) -> None:
        with suppress(RuntimeError):  # The loop may be closed by now.
            self.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._holds -= 1

    async def _find_limiter(self) -> None:
        # anyio finds its backend by way of the current task, so this cannot be asked from within the selector.
        self._limiter = current_default_thread_limiter()

    def _held(self) -> bool:
        return self._holds > 0 or (self._limiter is not None and self._limiter.borrowed_tokens > 0)

    def _turn(self, poll: SelectorPoll, timeout: float | None) -> Events:
        """One turn: what the selector is asked instead of "wait until something arrives, at most *timeout* seconds"."""
        self.turns += 1
        if self._entered:
            self._entered = False
            self._generators.begin()
        hooked = self._call_hooks()
        events = poll(0)
        if not (events or hooked or timeout == 0):
            if self._held():
                events = poll(None)  # Whatever ends the hold comes through the loop, and so wakes it.
            elif not (events := self._arrived(poll)):
                return self._wait_for_input(poll) if timeout is None else self._jump(timeout)
        self._now += STEP
        return events

    def _call_hooks(self) -> bool:
        callbacks = self._at_turn.pop(self.turns, ()) if self._at_turn else ()
        for callback in callbacks:
            self.call_soon(callback)
        return bool(callbacks)

    def _arrived(self, poll: SelectorPoll) -> Events:
        if len(self._real_selector.get_map()) == 1:  # The loop's own wake-up pipe: nobody else can have sent anything.
            return []
        self._loopback.flush()
        return poll(0)

    def _jump(self, timeout: float) -> Events:
        self._now += timeout
        if self._now > self._time_limit:
            msg = (
                f"virtual time has passed its limit of {self._time_limit:g} s, so some wait has no end{self._waiting()}"
            )
            raise DeadlockError(msg)
        return []

    def _wait_for_input(self, poll: SelectorPoll) -> Events:
        if events := poll(self._input_timeout):
            return events
        # Whoever cleans up after this error is most likely stuck as well: let that be known without another wait.
        waited, self._input_timeout = self._input_timeout, 0.1
        msg = f"no timer to jump to, no thread at work, and no input for {waited:g} s of real time{self._waiting()}"
        raise DeadlockError(msg)

    def _waiting(self) -> str:
        return "".join(f"\n  {text}" for text in self.leftovers())


class _Selector(selectors.DefaultSelector):
    """The platform's selector, whose wait is the loop's *turn*."""

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
    Run *main* to its end on virtual time and return what it returns.

    Args:
        main: A coroutine function; the same one may be run again, under other seeds.

        *args: Its positional arguments.

        seed: Seeds all randomness: the same seed, the same run.

        start: What the wall clock shows at the start, in seconds since the epoch.

        time_limit: How far virtual time may go, in seconds.

    Returns:
        What *main* returned.

    Raises:
        DeadlockError: If *main* waits for something that cannot come.
        AssertionError: If *main* has ended well and left a task pending or an async generator open.

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
