"""The holds of shared runs of ``map()`` in SQLite: which worker yields the outcome of a row, and what was yielded."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from kie_async._core.lifecycle import Intent
from kie_async._io.journals import tables
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async.states import JobState

__all__ = ["end_hold", "find_unheld", "select_by_ids", "take_holds"]

#: The rows whose outcome no shared run has yielded, and those that may be sent anew.
_MAY_BE_HELD = "origin = own_origin() AND (yielded IS NOT state OR state = 'rejected')"


def select_by_ids(connection: sqlite3.Connection, job_ids: Collection[str]) -> list[Intent]:
    """Return the rows that have one of these ids."""
    found = [tables.select_one(connection, "id = ?", job_id) for job_id in job_ids]
    return [row for row in found if row is not None]


def find_unheld(
    connection: sqlite3.Connection, locks: ProcessLocks, job_ids: Collection[str]
) -> list[tuple[str, str | None]]:
    """Return the ids and holders of those of the rows that a shared run may hold now."""
    # An own row is held anew only if that changes something.
    query = (
        "SELECT holder FROM intents WHERE id = ?"  # noqa: S608
        f" AND (holder IS NOT ? OR yielded IS NOT NULL) AND {_MAY_BE_HELD}"
    )
    found = [(job_id, row[0]) for job_id in job_ids for row in connection.execute(query, (job_id, locks.name))]
    holders = {holder for _, holder in found}
    free = {holder for holder in holders if holder == locks.name or not locks.is_alive(holder)}
    return [(job_id, holder) for job_id, holder in found if holder in free]


def take_holds(connection: sqlite3.Connection, name: str, unheld: Collection[tuple[str, str | None]]) -> None:
    """Hold those of the rows that still have these holders."""
    take = (
        "UPDATE intents SET holder = ?, yielded = NULL, version = version + 1"  # noqa: S608
        f" WHERE id = ? AND holder IS ? AND {_MAY_BE_HELD}"
    )
    connection.executemany(take, [(name, job_id, holder) for job_id, holder in unheld])


def end_hold(connection: sqlite3.Connection, name: str, job_id: str, yielded: JobState | None) -> None:
    """End the hold of a row; see ``Journal.end_hold``."""
    if yielded is None:
        leave = "UPDATE intents SET holder = NULL, yielded = NULL, version = version + 1 WHERE id = ? AND holder = ?"
        connection.execute(leave, (job_id, name))
    else:  # also if another worker has taken this one for ended, and has taken its holds
        end = "UPDATE intents SET holder = ?, yielded = ?, version = version + 1 WHERE id = ?"
        connection.execute(end, (name, str(yielded), job_id))
