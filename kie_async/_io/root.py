"""
The root task: owns the one task group in which everything of a client runs, in one event loop.

A task group must be entered and left by the same task, and callers come and go; so the group belongs to a task of its
own, the only one that is made without an owner.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

import anyio

from kie_async._core.outcomes import closed_error

__all__ = ["Root"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")
_log = logging.getLogger("kie_async")


class Root:
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
        self._up: asyncio.Future[None] = loop.create_future()
        self._group: anyio.abc.TaskGroup | None = None
        # An empty context: what a web framework keeps for one request must not be inherited by what outlives it.
        self._context = contextvars.Context()
        self._context.run(_say_that_this_is_asyncio)
        self.children = 0
        self.task = loop.create_task(self._run(), name="kie_async root", context=self._context)

    @property
    def running(self) -> bool:
        """Whether children can be started."""
        return self._group is not None

    async def up(self) -> None:
        """Wait until children can be started; raises what ``enter`` raised."""
        await asyncio.shield(self._up)

    def start(self, child: Callable[[*_Args], Awaitable[None]], *args: *_Args) -> None:
        """
        Run ``child(*args)`` in the group; what it raises is logged, and touches no other child.

        Raises:
            ClientClosedError: If the root task ends, or has ended.
        """
        if self._group is None:
            raise closed_error()
        self.children += 1
        self._context.copy().run(self._group.start_soon, self._guard, child, args)

    async def run(self, action: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
        """
        Run ``action(*args)`` in the group and wait for it: it goes through to its end if the caller leaves.

        For what writes to the journal first and does something about it then: both, or neither.

        Raises:
            ClientClosedError: If the root task ends.
        """
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        self.start(_settle, done, action, args)
        return await asyncio.shield(done)

    async def end(self) -> None:
        """
        Cancel the children and wait until all is left.
        """
        self._stop.set()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        try:
            await self._enter()
            async with anyio.create_task_group() as group:
                self._group = group
                self._up.set_result(None)
                try:
                    await self._stop.wait()
                finally:
                    self._group = None
                    self._ending()
                    group.cancel_scope.cancel()
        except Exception as error:  # the caller who waits for up() is told
            if self._up.done():
                raise
            self._up.set_exception(error)
        finally:
            if not self._up.done():
                self._up.cancel()
            with anyio.CancelScope(shield=True):
                await self._leave()

    async def _guard(self, child: Callable[[*_Args], Awaitable[None]], args: tuple[*_Args]) -> None:
        try:
            await child(*args)
        except Exception:  # noqa: BLE001 (one child's bug must not end all others)
            _log.exception("A task of the client has failed. This is a bug: please report it.")
        finally:
            self.children -= 1


def _say_that_this_is_asyncio() -> None:
    """
    Let anyio know where it is when it is called by a timer.

    Where sniffio is installed, as with many other SDKs, anyio asks it; and sniffio by itself sees asyncio only in a
    task.
    """
    with suppress(ImportError):
        from sniffio import current_async_library_cvar

        current_async_library_cvar.set("asyncio")


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
