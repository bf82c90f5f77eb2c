"""
``GroupCommit``: one thread does all work of a journal on its database, and concurrent writes share a transaction.

Calls that arrive while the thread is busy form its next transaction, so that a hundred transitions at once cost one
flush of the disk.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import anyio.to_thread
import attrs

from kie_async._core.acknowledged import Repair, Restoration
from kie_async._io.runtime import OwnThread
from kie_async.errors import KieError

__all__ = ["Database", "GroupCommit", "JournalCall", "Writer", "ending_writers"]

_C = TypeVar("_C")
_T = TypeVar("_T")

#: The time in seconds that the end of the process waits for the writer of a journal that was not closed.
_END_TIMEOUT = 15.0


@attrs.define(eq=False)
class JournalCall(Generic[_C]):
    """A call for the thread, and its result; ``flush`` is False if a power cut may lose what it writes."""

    action: Callable[[_C], object]
    writes: bool
    flush: bool = True
    result: Any = None
    error: Exception | None = None


class Database(Protocol[_C]):
    """An open database; every method is called in the writer's thread."""

    def run(self, calls: Sequence[JournalCall[_C]], *, writes: bool) -> None:
        """
        Do calls and store their results, writes in one transaction.

        Raises:
            Exception: If one of them fails; then none of the writes is done.
        """
        ...

    def fails_all(self, error: Exception) -> bool:
        """Return True if *error* would meet each of the calls that were made together."""
        ...

    def close(self) -> None:
        """Close the database."""
        ...


class Writer(OwnThread, Generic[_C]):
    """
    The thread that has the database, as an executor for the event loop.

    It refers to nothing of an event loop, so that an abandoned journal is garbage.

    Args:
        place: The database.

        restoration: What the journal has acknowledged.

        disconnected: Called in the thread after the database is closed, or if it could not be opened.
    """

    def __init__(self, place: str, *, restoration: Restoration, disconnected: Callable[[], None]) -> None:
        self.place = place
        self.restoration = restoration
        #: The calls of the next batch.
        self.waiting: list[JournalCall[_C]] = []
        self._disconnected = disconnected
        self._database: Database[_C] | None = None
        super().__init__("kie_async journal")

    def end(self) -> None:
        """Let the thread do the waiting calls, disconnect and end; no call may follow."""
        self.submit(self.disconnect, self.waiting)
        self.shutdown()

    # -- in the thread ----------------------------------------------------------------------------------------------

    def connect(self, connect: Callable[[], Database[_C]]) -> None:
        """Open the database."""
        self._database = connect()

    def disconnect(self, last: list[JournalCall[_C]]) -> None:
        """Do the last calls, and close the database."""
        try:
            if last:
                self.run_batch(last)
            if self._database is not None:
                self._database.close()
        finally:
            self._database = None
            self._disconnected()

    def run_batch(self, batch: list[JournalCall[_C]]) -> None:
        """Do calls, the writes in one transaction, and store their results."""
        # First the writes, so that their transaction lasts for no read.
        for writes in (True, False):
            if calls := [call for call in batch if call.writes is writes]:
                self._run_together(calls, writes=writes)

    def _run_together(self, calls: list[JournalCall[_C]], *, writes: bool) -> None:
        database = self._database
        if database is None:
            for call in calls:
                call.error = OSError("it could not be opened")
            return
        self.restoration.begin()
        try:
            database.run(calls, writes=writes)
            (self.restoration.commit if writes else self.restoration.see)([call.result for call in calls])
        except Exception as error:  # noqa: BLE001 (it is delivered to the callers)
            if len(calls) > 1 and not database.fails_all(error):
                # One at a time, so that the error of one call does not affect the others.
                for call in calls:
                    self._run_together([call], writes=writes)
                return
            for call in calls:
                call.error = error


class GroupCommit(Generic[_C]):
    """
    The calls of one event loop to a writer: those that arrive while it is busy form its next transaction.

    Args:
        writer: The thread.

        to_error: Converts an error that is not a ``KieError`` into one.

        on_restored: Called with the rows that were written again because the journal had gone back in time.

        on_busy: Called before the thread begins to use the database, or None.

        on_idle: Called when the thread does not use it any more, or None.
    """

    def __init__(
        self,
        writer: Writer[_C],
        *,
        to_error: Callable[[Exception], KieError],
        on_restored: Callable[[Sequence[Repair]], None],
        on_busy: Callable[[], None] | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._to_error = to_error
        self._on_restored = on_restored
        self._on_busy = on_busy
        self._on_idle = on_idle
        self._futures: dict[JournalCall[_C], asyncio.Future[Any]] = {}
        self._busy = False
        self._ending: asyncio.Future[None] | None = None
        # Without it, a journal that is never closed would keep its lock, and its jobs, for as long as the process.
        self._end = weakref.finalize(self, writer.end)
        self._end.atexit = False  # see _end_writers()

    async def open(self, connect: Callable[[], Database[_C]]) -> None:
        """
        Connect; after an error nothing stays open.

        Args:
            connect: Opens the database; called in the thread.
        """
        try:
            await self._loop.run_in_executor(self._writer, self._writer.connect, connect)
        except BaseException as error:
            self._end()
            if isinstance(error, Exception) and not isinstance(error, KieError):
                raise self._to_error(error) from error
            raise
        if self._on_idle is not None and not self._busy:
            self._on_idle()

    @property
    def closed(self) -> bool:
        """True once no call may follow."""
        return self._writer.ending

    async def close(self) -> None:
        """Do the waiting calls, then disconnect; in another event loop, too, if this one is over."""
        self.release()
        if self._ending is not None and self._loop is asyncio.get_running_loop():
            await asyncio.wait([self._ending])
        else:
            await anyio.to_thread.run_sync(self._writer.join)

    def release(self) -> None:
        """Begin to close: let the thread do the waiting calls and disconnect."""
        if self.closed:
            return
        if self._loop.is_closed():
            self._end()
            return
        self._end.detach()
        last, self._writer.waiting = self._writer.waiting, []
        self._ending = self._loop.run_in_executor(self._writer, self._writer.disconnect, last)
        self._ending.add_done_callback(partial(self._deliver, last))
        self._writer.shutdown()

    async def run(self, action: Callable[[_C], _T], *, writes: bool, flush: bool = True) -> _T:
        """
        Run *action* in the thread, in one transaction with the other waiting calls.

        Args:
            action: Called in the thread, and a second time if its transaction has failed and was rolled back.

            writes: True if it writes; its result is returned once it is on the disk.

            flush: False if a power cut may lose what it writes; then it alone causes no flush of the disk.
        """
        return await self.start(action, writes=writes, flush=flush)

    def start(self, action: Callable[[_C], _T], *, writes: bool, flush: bool = True) -> asyncio.Future[_T]:
        """Let the thread run *action*, and return the future of its result; see ``run``."""
        done: asyncio.Future[_T] = self._loop.create_future()
        call = JournalCall(action, writes, flush)
        self._futures[call] = done
        self._writer.waiting.append(call)
        if not self._busy:
            if self._on_busy is not None:
                self._on_busy()
            self._start_batch()
        return done

    def _start_batch(self) -> None:
        batch, self._writer.waiting = self._writer.waiting, []
        self._busy = True
        self._writer.restoration.instant = self._loop.time()
        # The loop's executor, because virtual time stands still until it is done.
        running = self._loop.run_in_executor(self._writer, self._writer.run_batch, batch)
        running.add_done_callback(partial(self._deliver, batch))

    def _deliver(self, batch: list[JournalCall[_C]], _: object = None) -> None:
        for call in batch:
            done = self._futures.pop(call)
            if done.done():
                continue  # its caller was cancelled
            if call.error is not None:
                done.set_exception(call.error if isinstance(call.error, KieError) else self._to_error(call.error))
            else:
                done.set_result(call.result)
        self._busy = False
        if repairs := self._writer.restoration.take_repairs():
            self._on_restored(repairs)
        if self._writer.waiting:
            self._start_batch()
        elif self._on_idle is not None and not self.closed:
            self._on_idle()


def _writers() -> list[Writer[Any]]:
    return [thread for thread in threading.enumerate() if isinstance(thread, Writer)]


def ending_writers() -> list[Writer[Any]]:
    """Return the writers that are about to end."""
    return [writer for writer in _writers() if writer.ending]


def _end_writers() -> None:
    """End all writers: a transition that waits in one is written, such as the taskId of a paid task."""
    writers = _writers()
    for writer in writers:
        writer.end()
    for writer in writers:
        writer.join(_END_TIMEOUT)


atexit.register(_end_writers)
