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

#: The moves of a job after it was journaled: an unsent attempt, a sent one, and the task's end.
WAY = (S.SENDING, S.INTENT, S.SENDING, S.SUBMITTED, S.STALLED, S.SUCCEEDED)


class CheckpointingStore(SqliteStore):
    """A journal with another ``synchronous``, and with frequent checkpoints."""

    def __init__(self, path: str, synchronous: str) -> None:
        super().__init__(path)
        self._synchronous = synchronous

    def _connect(self, owners: ProcessLocks) -> sqlite3.Connection:
        connection = super()._connect(owners)
        if self._synchronous != "default":
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint = 40")
        return connection


def print_line(*words: object) -> None:
    """Print a line in one call."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def move_through(journal: SqliteStore, number: int) -> None:
    """Move a job from its intent to its end."""
    try:
        row = await journal.add(make_intent(number, credits=0.0))
        print_line(number, 0)
        for step, state in enumerate(WAY, 1):
            attempts = row.attempts + (state is S.SENDING)
            after = await journal.transition(row, state, at=float(step), attempts=attempts, credits=float(step))
            if after is None:
                raise AssertionError
            row = after
            print_line(number, step)
    except JournalError as error:
        print_line("failed", error)


async def main(path: str, synchronous: str = "default") -> None:
    """Move all jobs, four at a time, and close the journal."""
    journal = CheckpointingStore(path, synchronous)
    await journal.open()
    for first in range(0, JOBS, 4):
        async with asyncio.TaskGroup() as group:
            for number in range(first, min(first + 4, JOBS)):
                group.create_task(move_through(journal, number))
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
