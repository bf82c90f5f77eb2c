"""Finds what still runs on an event loop: pending tasks, open async generators."""

from __future__ import annotations

import asyncio
import sys
import weakref
from pathlib import PurePath
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["GeneratorWatch", "pending_tasks"]

T = TypeVar("T")


def pending_tasks(loop: asyncio.AbstractEventLoop) -> list[str]:
    """
    Which tasks of *loop* are not done, and where each of them waits.

    Args:
        loop: The loop; when it runs, the calling task is left out.

    Returns:
        One line a task, by name: ``"task NAME: outermost (file:line) > … > innermost (file:line)"``.
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


class GeneratorWatch:
    """Remembers, weakly, the async generators that a loop has begun to iterate."""

    def __init__(self) -> None:
        self._generators: weakref.WeakSet[AsyncGenerator[object, object]] = weakref.WeakSet()

    def begin(self) -> None:
        """Watch from now on; to be called within a running loop, whose own hook is called as before."""
        loops_hook = sys.get_asyncgen_hooks().firstiter

        def first_iteration(generator: AsyncGenerator[object, object]) -> None:
            self._generators.add(generator)
            if loops_hook is not None:
                loops_hook(generator)

        sys.set_asyncgen_hooks(firstiter=first_iteration)

    def open_generators(self) -> list[str]:
        """Which of them have neither ended nor been closed, one line each."""
        return sorted(
            f"async generator {generator.__qualname__}"
            for generator in self._generators
            # A compiled generator, Cython's for one, is no AsyncGeneratorType and does not show whether it has ended.
            if isinstance(generator, AsyncGeneratorType) and generator.ag_frame is not None
        )
