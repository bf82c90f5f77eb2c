"""
``Runtime``, the clocks, randomness and ids of an engine, ``Supervisor``, the owner of its tasks, and ``OwnThread``.

The event loop provides clocks and randomness if it has ``wall_time`` and ``random``, and ``boot_time`` for a clock that
is never set, as loops in virtual time do, so that a run there can be repeated exactly. Everything else goes by
``loop.time()``.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

import anyio

from kie_async._core.job_errors import closed_error
from kie_async.errors import KieError

__all__ = ["OwnThread", "Runtime", "Supervisor", "run_all", "run_apart"]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Args = TypeVarTuple("_Args")
_log = logging.getLogger("kie_async")

#: The attempts to end a coroutine of a closed loop: each ends one wait, and it may wait once more to clean up.
_CLOSINGS = 5
#: The delay of a timer that never fires, in seconds: fifty years.
_NEVER = 1.5e9


def _since_boot() -> float:
    """Return the seconds since the host was started, those in which it was suspended included."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Runtime:
    """
    The clocks, randomness and ids of one event loop.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        #: Return the seconds since the epoch.
        self.wall: Callable[[], float] = getattr(loop, "wall_time", time.time)
        #: The source of all randomness.
        self.random: random.Random = getattr(loop, "random", None) or random.SystemRandom()
        #: Return the instant now, by the loop's clock.
        self.now: Callable[[], float] = loop.time
        #: Return the seconds of a clock that all processes of the host share, and which is never set.
        self.shared: Callable[[], float] = getattr(loop, "boot_time", getattr(loop, "wall_time", _since_boot))

    def new_id(self) -> str:
        """Return a new job id: ``kj_`` and 128 random bits in hex."""
        return f"kj_{self.random.getrandbits(128):032x}"


class Supervisor:
    """
    The root task of a client in one event loop, and its children.

    Callers end at any time, so their tasks cannot own what outlives them: the supervisor's root task is the only one
    without an owner. Children must be cheap, since there is one for each create and each poll. So a child is an asyncio
    task with one anyio scope, through which the supervisor cancels it and which respects shields. An anyio task group
    takes three times as long to start a task, and cannot start one from a timer while sniffio is installed. The tasks
    do not come from the loop's task factory: an eager one would run a child within ``start``, and the root task before
    the client is built.

    Args:
        loop: The event loop.

        enter: Called by the root task before any child runs.

        ending: Called by the root task before it ends the children; nothing must be started after that.

        leave: Called by the root task after all children have ended, for whatever reason.

        abandon: Called in place of ``ending`` and ``leave`` if the root task is destroyed, because the loop is over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        enter: Callable[[], Awaitable[None]],
        ending: Callable[[], None],
        leave: Callable[[], Awaitable[None]],
        abandon: Callable[[], None],
    ) -> None:
        self._enter = enter
        self._ending = ending
        self._leave = leave
        self._abandon = abandon
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scopes: set[anyio.CancelScope] = set()
        # An empty context: a child outlives the web request that starts it and must not inherit its state.
        self._context = contextvars.Context()
        self._loop = loop
        self._never: weakref.ref[asyncio.TimerHandle] | None = None
        #: True while children can be started.
        self.running: bool = False
        self.task: asyncio.Task[None] = asyncio.Task(
            self._run(), loop=loop, name="kie_async supervisor", context=self._context
        )
        if not hasattr(loop, "wall_time"):  # virtual time would run to that timer
            self._never = weakref.ref(loop.call_later(_NEVER, _LoopEnd(loop, weakref.ref(self))))
        self.task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  (see abandon())

    @property
    def children(self) -> int:
        """The number of children."""
        return len(self._tasks)

    async def wait_ready(self) -> None:
        """Wait until children can be started; raise what ``enter`` raised."""
        if not self.running:
            await asyncio.shield(self._ready)

    def start(self, child: Callable[[*_Args], Awaitable[None]], *args: *_Args) -> None:
        """
        Run ``child(*args)`` in a task of its own; an error is logged and affects no other child.

        Raises:
            ClientClosedError: If the supervisor ends, or has ended.
        """
        if not self.running:
            raise closed_error()
        task = asyncio.Task(self._guard(child, args), loop=self._loop, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, action: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
        """
        Run ``action(*args)`` as a child and wait for it; it continues to its end if the caller is cancelled.

        It is for actions that write to the journal and then act on it: both, or neither.

        Returns:
            The action's result.

        Raises:
            ClientClosedError: If the supervisor ends.
        """
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve_error)
        self.start(_settle, done, action, args)
        return await asyncio.shield(done)

    def handle_closed_loop(self) -> None:
        """Abandon everything: the event loop was closed without ending its tasks."""
        self._abandon()

    def stop(self) -> None:
        """Let the root task end, and its children before it."""
        self._stop.set()

    async def end_all(self) -> None:
        """Cancel the children and wait until ``leave`` has returned, also if the caller is cancelled meanwhile."""
        self.stop()
        await _wait_all({self.task})

    def abandon(self) -> None:
        """
        End without the event loop, which is over.

        The coroutines of a closed loop end here, outside of all tasks. Otherwise the garbage collector would end them
        within any task, and their cancel scopes would become that task's.
        """
        self.running = False
        if not self._loop.is_closed():
            self.stop()  # if the loop runs again, everything ends
            return
        running = asyncio._get_running_loop()  # noqa: SLF001
        asyncio._set_running_loop(None)  # noqa: SLF001
        try:
            for task in (*self._tasks, self.task):
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
                for _ in range(_CLOSINGS):
                    with suppress(Exception):  # it cannot do what needs the loop, or waits again
                        task.get_coro().close()
                        break
        finally:
            asyncio._set_running_loop(running)  # noqa: SLF001
        self._tasks.clear()

    async def _run(self) -> None:
        try:
            await self._live()
        except GeneratorExit:
            self._abandon()  # nothing can be awaited
            raise

    async def _live(self) -> None:
        try:
            await self._enter()
            self.running = True
            self._ready.set_result(None)
            await self._stop.wait()
        except asyncio.CancelledError:
            await self._end()
            raise
        except Exception as error:  # noqa: BLE001 (for the callers of wait_ready())
            self._ready.set_exception(error)
            await self._end()
        else:
            await self._end()

    async def _end(self) -> None:
        self.running = False
        if self._never is not None and (timer := self._never()) is not None:
            timer.cancel()
        if not self._ready.done():
            self._ready.set_exception(closed_error())
            self._ready.exception()  # there may be no caller
        self._ending()
        for scope in list(self._scopes):
            scope.cancel()
        await run_all(lambda: _wait_all(self._tasks), self._leave)

    async def _guard(self, child: Callable[[*_Args], Awaitable[None]], args: tuple[*_Args]) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if not self.running:
                scope.cancel()  # it was started just before the end
            try:
                await child(*args)
            except Exception:  # noqa: BLE001 (a bug in one child must not end the others)
                if self._loop.is_closed():
                    return  # it could not end in order; see abandon()
                _log.exception("A task of the client has failed. This is a bug: please report it.")
            finally:
                self._scopes.discard(scope)


class OwnThread(threading.Thread, Executor):
    """
    A thread as an executor, for what must always be used in the same thread, such as an SQLite connection.

    It is a plain thread: the interpreter ends those of ``ThreadPoolExecutor`` with the main thread, while another
    thread's event loop may need it, and waits for what hangs in them. A call in it is done as a whole, even if its
    caller is cancelled.

    Args:
        name: The name of the thread.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        #: True once it is to end.
        self.ending: bool = False
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.start()

    def submit(self, call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call *call* in the thread, after the calls before it."""
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()  # it cannot be cancelled
        self._calls.put(partial(_call, future, partial(call, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """End the thread after the calls that were submitted."""
        self.ending = True
        self._calls.put(None)

    def run(self) -> None:
        """Make the calls."""
        while (call := self._calls.get()) is not None:
            call()
            del call  # it would be kept until the next one


def _call(future: Future[_T], call: Callable[[], _T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 (it is for the caller)
        future.set_exception(error)


class _LoopEnd:
    """
    The callback of a timer that never fires. The loop alone owns it, so that it is destroyed when the loop is closed.

    Args:
        loop: The event loop.

        supervisor: The supervisor to tell.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, supervisor: weakref.ref[Supervisor]) -> None:
        self._loop = loop
        self._supervisor = supervisor

    def __call__(self) -> None:
        """Do nothing."""

    def __del__(self) -> None:
        supervisor = self._supervisor()
        if supervisor is not None and self._loop.is_closed():
            supervisor.handle_closed_loop()


async def _settle(done: asyncio.Future[_T], action: Callable[[*_Args], Awaitable[_T]], args: tuple[*_Args]) -> None:
    try:
        done.set_result(await action(*args))
    except Exception as error:  # noqa: BLE001 (it is for the caller)
        done.set_exception(error)
    finally:
        if not done.done():
            done.set_exception(closed_error())


def _retrieve_error(done: asyncio.Future[Any]) -> None:
    """Retrieve the error, so that asyncio does not log "exception was never retrieved"."""
    if not done.cancelled():
        done.exception()


async def run_apart(action: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
    """
    Run ``action(*args)`` in a task of its own, which ends before this call does, also if the caller is cancelled.

    Neither the caller's cancellation nor a ``KieError`` carries frames of the action, whose variables may be secret.

    Returns:
        The action's result.
    """
    task = asyncio.Task(_await(action, args), loop=asyncio.get_running_loop())
    task.add_done_callback(_retrieve_error)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        task.cancel()
        await _wait_all((task,))
        raise
    if task.cancelled():
        raise asyncio.CancelledError  # result() would raise the one that has passed the action's frames
    error = found = task.exception()
    if not isinstance(error, KieError):
        return task.result()
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
    try:
        raise error  # result() would attach the frames again
    finally:
        del error  # it refers to this frame


async def _await(action: Callable[[*_Args], Awaitable[_T]], args: tuple[*_Args]) -> _T:
    return await action(*args)


async def run_all(*steps: Callable[[], Awaitable[object]]) -> None:
    """Run every step, also after an error or a cancellation of an earlier one, which is raised at the end."""
    failure: BaseException | None = None
    for step in steps:
        try:
            await step()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (it is raised)
            failure = failure or error
    if failure is not None:
        raise failure


async def _wait_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait until all tasks have ended; a cancellation is raised after that."""
    cancelled: asyncio.CancelledError | None = None
    while waiting := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
