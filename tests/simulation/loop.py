"""
Simulated processes: event loops that share one virtual clock and one thread, and the scheduler that steps them.

A process is an event loop. Killing it means never to step it again: no ``finally`` runs, as with SIGKILL. Freezing it
means not to step it for a while. The scheduler picks the next loop, and the order of its ready task steps, by the seed;
the order of plain callbacks stays, because transports depend on it.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import socket
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

import anyio.to_thread
from anyio._backends._asyncio import WorkerThread

from kie_async.testing.clock import START, STEP, pending_tasks

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextvars import Context

    from anyio import CapacityLimiter

    from tests.simulation.pipes import Listener, Network, ProtocolFactory

__all__ = ["Scheduler", "SimLoop", "StuckError"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: The attempts to end a coroutine of a simulated process that is over.
_CLOSINGS = 5
#: The real time in seconds after which a real thread is looked at again, and how often.
_THREAD_WAIT, _THREAD_WAITS = 0.001, 10_000


class StuckError(AssertionError):
    """Raised when nothing can happen any more, or too much has happened, before the simulation has ended."""


class SimLoop(asyncio.BaseEventLoop):
    """
    The event loop of one simulated process.

    Args:
        scheduler: Steps the loop, and has the clock.

        name: The name of the process.

        seed: Seeds the randomness of the process and the order of its task steps.

        wall_offset: The error of its wall clock, in seconds.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[Any]
    _thread_id: int | None
    _asyncgen_firstiter_hook: Callable[[AsyncGenerator[object, object]], None]
    _asyncgen_finalizer_hook: Callable[[AsyncGenerator[object, object]], None]

    def __init__(self, scheduler: Scheduler, name: str, seed: str, *, wall_offset: float = 0.0) -> None:
        super().__init__()
        self.name = name
        self.random = Random(f"{seed} process")
        self.wall_offset = wall_offset
        #: Draws the seconds before and after a call of an executor; another number is the answer of a slow disk.
        self.disk_delays: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
        #: The instant until which the process is frozen.
        self.frozen_until = -math.inf
        self.unhandled: list[str] = []
        self._order = Random(f"{seed} order")
        self._scheduler = scheduler
        self.network: Network | None = None
        self._limiter: CapacityLimiter | None = None
        self._from_threads: deque[asyncio.Handle] = deque()
        #: The calls in executors that have not begun, by the futures of their results.
        self._of_threads: dict[asyncio.Future[Any], Callable[[], object]] = {}
        self._thread_id = 0  # it runs as long as it is not closed
        self.set_exception_handler(self._note_unhandled)
        self.create_task(self._find_limiter(), name="simulation: find anyio's thread limiter")

    # -- clocks -----------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the virtual instant, which all processes share."""
        return self._scheduler.now

    def wall_time(self) -> float:
        """Return the wall clock of this process, which may be wrong and may be stepped."""
        return START + self._scheduler.now + self.wall_offset

    def boot_time(self) -> float:
        """Return the clock of the host, which is never stepped."""
        return START + self._scheduler.now

    # -- the loop's own methods --------------------------------------------------------------------------------------

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call *callback* at the instant *when*, rounded up to the clock's resolution."""
        if when < math.inf:
            when = math.ceil(when / STEP) * STEP
        return super().call_at(when, callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call *callback* soon; from a thread, its turn comes when the scheduler looks for it."""
        handle = asyncio.Handle(callback, args, self, context)
        self._from_threads.append(handle)
        self._scheduler.thread_news.set()
        return handle

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 (the base class's)
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Call *func* in this thread after a drawn delay, and settle the future after another one."""
        future: asyncio.Future[T] = self.create_future()
        self._of_threads[future] = partial(func, *args)
        before, after = self.disk_delays()

        def act() -> None:
            del self._of_threads[future]
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 (it is for the caller)
                self.call_later(after, settle, error, None)
            else:
                self.call_later(after, settle, None, result)

        def settle(error: Exception | None, result: T | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast("T", result))

        self.call_later(before, act)
        return future

    def finish_threads(self) -> None:
        """Let the threads of a loop that is over end their calls, whose results are of no use."""
        for call in self._of_threads.values():
            with suppress(Exception):
                call()
        self._of_threads.clear()

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Find out if an address of the network accepts connections."""
        await self._net.dial(self, sock, address)

    async def create_connection(  # type: ignore[override]  # as aiohttp calls it
        self, protocol_factory: ProtocolFactory, *_: object, sock: socket.socket, **__: object
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect a socket that has been "connected" before."""
        return self._net.connect(self, protocol_factory, sock)

    async def create_server(  # type: ignore[override]  # as aiohttp and the fake call it
        self, protocol_factory: ProtocolFactory, host: str, port: int, **_: object
    ) -> Listener:
        """Accept connections to an address of the network."""
        return self._net.listen(self, protocol_factory, host, port)

    @property
    def _net(self) -> Network:
        assert self.network is not None, "this loop has no network"
        return self.network

    def close(self) -> None:
        """Close the loop, whatever its tasks do."""
        self._thread_id = None
        super().close()

    def _write_to_self(self) -> None:
        """Do nothing: there is no selector to wake."""

    def _process_events(self, event_list: object) -> None:
        """Do nothing: there is no input."""

    async def _find_limiter(self) -> None:
        # anyio finds its backend through the current task.
        self._limiter = anyio.to_thread.current_default_thread_limiter()
        self._limiter.total_tokens = 1  # the order in which several threads end would be real

    def _note_unhandled(self, _: object, context: dict[str, Any]) -> None:
        self.unhandled.append(f"{context.get('message')} {context.get('exception')!r}")

    # -- for the scheduler -------------------------------------------------------------------------------------------

    def waits_for_threads(self) -> bool:
        """Return True while a real thread of anyio works for this loop, and its result has not arrived."""
        if self._limiter is None or not self._limiter.borrowed_tokens or self._from_threads:
            return False
        # The end of a thread is a call, too.
        return any(one.queue.unfinished_tasks > one.stopping for one in self._workers())

    def _workers(self) -> list[WorkerThread]:
        return [one for one in threading.enumerate() if isinstance(one, WorkerThread) and one.loop is self]

    def next_timer(self) -> float:
        """Return the instant of the next timer, at most that of the end of a freeze; infinity if there is none."""
        timers = self._scheduled
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        at = 0.0 if self._ready or self._from_threads else timers[0]._when if timers else math.inf
        return max(at, self.frozen_until)

    def step(self) -> int:
        """Run what is ready; return the number of callbacks."""
        now, timers, ready = self.time(), self._scheduled, self._ready
        while self._from_threads:
            ready.append(self._from_threads.popleft())
        while timers and timers[0]._when <= now:
            handle = heapq.heappop(timers)
            handle._scheduled = False
            ready.append(handle)
        batch = list(ready)
        ready.clear()
        self._permute(batch)
        with self.running():
            for handle in batch:
                if not handle._cancelled:
                    handle._run()
        return len(batch)

    @contextmanager
    def running(self) -> Generator[None]:
        """Make this the running loop of the thread, within the context."""
        asyncio._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)

    def _permute(self, batch: list[asyncio.Handle]) -> None:
        """Permute the task steps among their places."""
        places = [index for index, handle in enumerate(batch) if _is_task_step(handle)]
        if len(places) > 1:
            steps = [batch[index] for index in places]
            self._order.shuffle(steps)
            for index, handle in zip(places, steps, strict=True):
                batch[index] = handle

    def leftovers(self) -> list[str]:
        """Describe the pending tasks."""
        return pending_tasks(self)

    def bury(self) -> None:
        """End the coroutines of a process that is over, outside of all tasks, when nothing looks at it any more."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            for _ in range(_CLOSINGS):
                with suppress(BaseException):  # it may wait again, or use what is gone
                    coroutine.close()
                    break
        for worker in self._workers():
            worker.stop()
        self._ready.clear()
        self._scheduled.clear()
        if not self.is_closed():
            self.close()


def _is_task_step(handle: asyncio.Handle) -> bool:
    callback = handle._callback  # type: ignore[attr-defined]
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


class Scheduler:
    """
    The clock of all processes, and the choice of the one that runs next.

    Args:
        seed: Seeds the choice.

        most_turns: The turns after which a simulation counts as endless.
    """

    def __init__(self, seed: str, *, most_turns: int = 5_000_000) -> None:
        self.now = 0.0
        self.turns = 0
        self.loops: list[SimLoop] = []
        self.thread_news = threading.Event()
        self._random = Random(f"{seed} scheduler")
        self._most_turns = most_turns

    def run(self, done: Callable[[], bool], *, until: float = math.inf) -> None:
        """
        Step the loops until *done* returns True, or the clock has reached *until*.

        Raises:
            StuckError: If nothing can happen any more.
        """
        while not done():
            self.turns += 1
            if self.turns > self._most_turns:
                msg = f"{self._most_turns} turns, and no end"
                raise StuckError(msg + self._waiting())
            now = self.now
            ready = [loop for loop in self.loops if loop.next_timer() <= now]
            if ready:
                loop = ready[0] if len(ready) == 1 else self._random.choice(ready)
                loop.step()
                self.now += STEP
                if loop.waits_for_threads():
                    self._wait_for_threads(loop)
                continue
            at = min((loop.next_timer() for loop in self.loops), default=math.inf)
            if at > until:
                self.now = max(self.now, until)
                return
            if at == math.inf:
                msg = "nothing can happen any more"
                raise StuckError(msg + self._waiting())
            self.now = at

    def _wait_for_threads(self, loop: SimLoop) -> None:
        """Wait in real time until the threads of a loop have told it of their ends."""
        for _ in range(_THREAD_WAITS):
            self.thread_news.wait(_THREAD_WAIT)
            self.thread_news.clear()
            if not loop.waits_for_threads():
                return
        msg = f"a thread of {loop.name} does not end"
        raise StuckError(msg + self._waiting())

    def _waiting(self) -> str:
        return "".join(f"\n  {loop.name}: {text}" for loop in self.loops for text in loop.leftovers())
