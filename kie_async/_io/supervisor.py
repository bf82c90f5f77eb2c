"""
The root task: owns all tasks of a client in one event loop, its children.

Callers come and go, so their tasks cannot own what outlives them; the root task is the only one without an owner. There
is a child for each create and for each look, so they must be cheap: a child is a task of asyncio's with one scope of
anyio's, by which the root ends it and which honours shields. A task group of anyio's takes three times as long to start
one, and can start none from a timer where sniffio is installed, which sees asyncio only in a task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import anyio

from kie_async._core.job_errors import closed_error

__all__ = ["Supervisor"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")
_log = logging.getLogger("kie_async")


class Supervisor:
    """
    Starts children, and ends them all.

    Args:
        loop: The loop to run in.

        enter: Called by the root task before any child runs.

        ending: Called by the root task before it ends its children; nothing must be started after that.

        leave: Called by the root task after all children have ended, whatever ended them.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        enter: Callable[[], Awaitable[None]],
        ending: Callable[[], None],
        leave: Callable[[], Awaitable[None]],
    ) -> None:
        self._enter = enter
        self._ending = ending
        self._leave = leave
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scopes: set[anyio.CancelScope] = set()
        # An empty context: what a web framework keeps for one request must not be inherited by what outlives it.
        self._context = contextvars.Context()
        self._loop = loop
        #: Whether children can be started.
        self.running = False
        self.task = loop.create_task(self._run(), name="kie_async root", context=self._context)

    @property
    def children(self) -> int:
        """How many there are."""
        return len(self._tasks)

    async def wait_ready(self) -> None:
        """Wait until children can be started; raises what ``enter`` raised."""
        if not self.running:
            await asyncio.shield(self._ready)

    def start(self, child: Callable[[*_Args], Awaitable[None]], *args: *_Args) -> None:
        """
        Run ``child(*args)`` in a task of its own; what it raises is logged, and touches no other child.

        Raises:
            ClientClosedError: If the root task ends, or has ended.
        """
        if not self.running:
            raise closed_error()
        task = self._loop.create_task(self._guard(child, args), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, action: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
        """
        Run ``action(*args)`` as a child and wait for it: it goes through to its end if the caller leaves.

        For what writes to the journal first and does something about it then: both, or neither.

        Raises:
            ClientClosedError: If the root task ends.
        """
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        self.start(_settle, done, action, args)
        return await asyncio.shield(done)

    async def end_all(self) -> None:
        """
        Cancel the children and wait until all is left.
        """
        self._stop.set()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        try:
            await self._enter()
            self.running = True
            self._ready.set_result(None)
            try:
                await self._stop.wait()
            finally:
                self.running = False
                self._ending()
                await self._end_children()
        except Exception as error:  # the caller who waits for up() is told
            if self._ready.done():
                raise
            self._ready.set_exception(error)
        finally:
            if not self._ready.done():
                self._ready.cancel()
            with anyio.CancelScope(shield=True):
                await self._leave()

    async def _end_children(self) -> None:
        for scope in list(self._scopes):
            scope.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _guard(self, child: Callable[[*_Args], Awaitable[None]], args: tuple[*_Args]) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if not self.running:
                scope.cancel()  # the end has come before the beginning
            try:
                await child(*args)
            except Exception:  # noqa: BLE001 (one child's bug must not end all others)
                _log.exception("A task of the client has failed. This is a bug: please report it.")
            finally:
                self._scopes.discard(scope)


async def _settle(done: asyncio.Future[_T], action: Callable[[*_Args], Awaitable[_T]], args: tuple[*_Args]) -> None:
    try:
        done.set_result(await action(*args))
    except Exception as error:  # noqa: BLE001 (it is for whoever waits)
        done.set_exception(error)
    finally:
        if not done.done():
            done.set_exception(closed_error())


def _retrieve(done: asyncio.Future[_T]) -> None:
    """Look at the outcome, so that nobody is told that nobody has."""
    if not done.cancelled():
        done.exception()
