"""
A process that moves jobs through a journal and prints a line for each move that was acknowledged.

``python -m tests.system_tools.journal_writer PATH [SYNCHRONOUS]``. A line holds the number of a job and the number of
its move, which is also in the row as ``credits``. A job whose move fails prints ``failed`` and the error, and stops.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from kie_async import JournalError
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from tests.io.intents import make_intent

if TYPE_CHECKING:
    import sqlite3

    from kie_async._io.journals.process_locks import ProcessLocks

S = JobState

JOBS = 12

#: What happens to a job after it was written down: an attempt that was not sent, one that was, and the task's end.
WAY = (S.SENDING, S.INTENT, S.SENDING, S.SUBMITTED, S.STALLED, S.SUCCEEDED)


class Syncing(SqliteStore):
    """A journal with another ``synchronous``, and with checkpoints so often that a short run has some."""

    def __init__(self, path: str, synchronous: str) -> None:
        super().__init__(path)
        self._synchronous = synchronous

    def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
        connection = super()._connect(owners)
        if self._synchronous != "as it is":
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint = 40")
        return connection


def say(*words: object) -> None:
    """One line, in one call."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def move_through(journal: SqliteStore, number: int) -> None:
    """One job, from its intent to its end."""
    try:
        row = await journal.add(make_intent(number, credits=0.0))
        say(number, 0)
        for step, state in enumerate(WAY, 1):
            attempts = row.attempts + (state is S.SENDING)
            after = await journal.transition(row, state, at=float(step), attempts=attempts, credits=float(step))
            if after is None:
                raise AssertionError
            row = after
            say(number, step)
    except JournalError as error:
        say("failed", error)


async def main(path: str, synchronous: str = "as it is") -> None:
    """All jobs, four at a time; then the journal is closed."""
    journal = Syncing(path, synchronous)
    await journal.open()
    for first in range(0, JOBS, 4):
        async with asyncio.TaskGroup() as group:
            for number in range(first, min(first + 4, JOBS)):
                group.create_task(move_through(journal, number))
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
