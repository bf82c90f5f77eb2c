"""
Group commit: one thread does all the work on an SQLite file; what comes in while it is busy is its next transaction.

A hundred moves at once cost one flush of the disk. Whoever waits may leave at any time: what was asked for is done all
the same, and whole.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import attrs

from kie_async.errors import KieError

__all__ = ["GroupCommit"]

_T = TypeVar("_T")

#: The part of an error code of SQLite that all its variants share.
_PRIMARY = 0xFF


@attrs.define(eq=False)
class _Work:
    """Something for the thread to do, how it ended, and who waits for it; *action* and *done* speak of one type."""

    action: Callable[[sqlite3.Connection], object]
    writes: bool
    done: asyncio.Future[Any]
    result: object = None
    error: Exception | None = None


class GroupCommit:
    """
    One connection and its thread, for one event loop.

    Args:
        connect: Opens the database; called in the thread.

        disconnect: Called in the thread after the connection is closed, and also if it could not be opened.

        unusable: Makes an error for callers of what is no ``KieError``.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], sqlite3.Connection],
        disconnect: Callable[[], None],
        unusable: Callable[[Exception], KieError],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._connect = connect
        self._disconnect = disconnect
        self._unusable = unusable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kie_async journal")
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[_Work] = []
        self._busy = False

    async def open(self) -> None:
        """Connect; whatever goes wrong, nothing stays open."""
        try:
            await self.loop.run_in_executor(self._thread, self._begin)
        except BaseException as error:
            self.abandon()
            if isinstance(error, (sqlite3.Error, OSError, ValueError)):
                raise self._unusable(error) from error
            raise

    async def close(self) -> None:
        """Do what is waiting, and disconnect; nothing may be asked for any more."""
        last, self._waiting = self._waiting, []
        await self.loop.run_in_executor(self._thread, self._end, last)
        self._tell(last)
        self._thread.shutdown(wait=False)

    def abandon(self) -> Future[None]:
        """Disconnect, although the loop has ended or the caller has left; the thread says when that is done."""
        done = self._thread.submit(self._end, [])
        self._thread.shutdown(wait=False)
        return done

    async def do(self, action: Callable[[sqlite3.Connection], _T], *, writes: bool) -> _T:
        """
        Run *action* in the thread, in a transaction with whatever else is waiting.

        Args:
            action: Is called with the connection, and a second time if the transaction that it was part of has failed
                and was undone.

            writes: Whether it writes; its result comes when that is on the disk.
        """
        done: asyncio.Future[_T] = self.loop.create_future()
        self._waiting.append(_Work(action, writes, done))
        if not self._busy:
            self._start()
        return await done

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        self._busy = True
        # The loop's own way of using a thread: virtual time stands still until it is done.
        running = self.loop.run_in_executor(self._thread, self._run, batch)
        running.add_done_callback(partial(self._tell, batch))

    def _tell(self, batch: list[_Work], _: object = None) -> None:
        for work in batch:
            if work.done.done():
                continue  # whoever asked has left
            if work.error is not None:
                work.done.set_exception(work.error)
            else:
                work.done.set_result(work.result)
        self._busy = False
        if self._waiting:
            self._start()

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._connection = self._connect()

    def _end(self, last: list[_Work]) -> None:
        try:
            if last:
                self._run(last)
            if self._connection is not None:
                self._connection.close()
        finally:
            self._connection = None
            self._disconnect()

    def _run(self, batch: list[_Work]) -> None:
        error = self._transact(batch)
        if error is None:
            return
        if len(batch) > 1 and not _locked(error):
            # One by one, so that what is wrong with one does no harm to another.
            for work in batch:
                self._run([work])
            return
        for work in batch:
            work.error = error if isinstance(error, KieError) else self._unusable(error)

    def _transact(self, batch: list[_Work]) -> Exception | None:
        """Do a batch in one transaction, and return what went wrong; then nothing of it is done."""
        connection = self._connection
        if connection is None:
            return sqlite3.ProgrammingError("it could not be opened")
        writes = any(work.writes for work in batch)
        try:
            if writes:
                # Deferred, a transaction fails at once where another process has written in between.
                connection.execute("BEGIN IMMEDIATE")
            for work in batch:
                work.result = work.action(connection)
            if writes:
                connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 (it goes to whoever waits)
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return error
        return None


def _locked(error: Exception) -> bool:
    """Whether another process has held the file for too long: nobody else need wait as long again."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & _PRIMARY == sqlite3.SQLITE_BUSY
