"""
What is asked of the journal's tables, as functions of a connection.

Each is called within a transaction, or reads only; none waits for anything but the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from kie_async._core.lifecycle import ENDED, OPEN, Intent
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async._io.journals.schema import COLUMNS, read_row, written
from kie_async.states import JobState

__all__ = [
    "add",
    "by_keys",
    "by_task",
    "changed",
    "claim",
    "forget",
    "has_keys",
    "many",
    "move",
    "note",
    "one",
    "orphans",
    "paid",
    "rows_named_by_callbacks",
    "sent_by_the_dead",
    "version",
]

_INSERT = f"INSERT INTO intents ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 (ours)
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM intents"  # noqa: S608


def add(intent: Intent, connection: sqlite3.Connection) -> Intent:
    """Write a row down, or find the one that has its key."""
    if intent.key is not None and (known := one("key = ?", (intent.key,), connection)) is not None:
        return known
    columns = written({name: getattr(intent, name) for name in COLUMNS})
    connection.execute(_INSERT, [columns[name] for name in COLUMNS])
    return intent


def move(seen: Intent, fields: Mapping[str, object], connection: sqlite3.Connection) -> Intent | None:
    """Change a row if state and attempts are still as they were seen."""
    found = "id = ? AND state = ? AND attempts = ?"
    return _change(seen.id, found, (seen.id, str(seen.state), seen.attempts), fields, connection)


def note(job_id: str, fields: Mapping[str, object], connection: sqlite3.Connection) -> Intent | None:
    """Change a row, whatever its state."""
    return _change(job_id, "id = ?", (job_id,), fields, connection)


def one(where: str, values: tuple[object, ...], connection: sqlite3.Connection) -> Intent | None:
    """The row that fulfils a condition."""
    found = connection.execute(f"{_SELECT} WHERE {where} LIMIT 1", values).fetchone()
    return None if found is None else read_row(found)


def by_task(task_id: str, connection: sqlite3.Connection) -> Intent | None:
    """The row of a taskId, or the one that it is a duplicate of."""
    own = one("task_id = ?", (task_id,), connection)
    return own or one("id = (SELECT job_id FROM duplicate_tasks WHERE task_id = ?)", (task_id,), connection)


def by_keys(keys: Collection[str], connection: sqlite3.Connection) -> list[Intent]:
    """The rows of callers' keys."""
    found = [one("key = ?", (key,), connection) for key in keys]
    return [row for row in found if row is not None]


def has_keys(connection: sqlite3.Connection) -> bool:
    """Whether any row has a caller's key."""
    return connection.execute("SELECT 1 FROM intents WHERE key IS NOT NULL LIMIT 1").fetchone() is not None


def many(states: Collection[JobState] | None, connection: sqlite3.Connection) -> list[Intent]:
    """The rows in one of *states*, oldest first."""
    where = "" if states is None else f" WHERE {_in(states)}"
    return [read_row(values) for values in connection.execute(f"{_SELECT}{where} ORDER BY rowid")]


def rows_named_by_callbacks(connection: sqlite3.Connection) -> list[Intent]:
    """The rows for which callbacks have named tasks that are not proved yet, oldest first."""
    found = connection.execute(f"{_SELECT} WHERE callback_task_ids <> '[]' ORDER BY rowid")
    return [read_row(values) for values in found]


def changed(seen: Collection[Intent], connection: sqlite3.Connection) -> dict[str, Intent | None]:
    """Which rows no longer stand as they were seen: their state, attempts, last change or owner is another one."""
    stands = "id = ? AND state = ? AND attempts = ? AND updated_at = ? AND owner IS ?"
    query = f"SELECT 1 FROM intents WHERE {stands}"  # noqa: S608 (ours)
    moved = [
        row.id
        for row in seen
        if connection.execute(query, (row.id, str(row.state), row.attempts, row.updated_at, row.owner)).fetchone()
        is None
    ]
    return {job_id: one("id = ?", (job_id,), connection) for job_id in moved}


def forget(before: float, connection: sqlite3.Connection) -> int:
    """Delete the ended rows that last changed before an instant."""
    old = f"{_in(ENDED)} AND updated_at < ?"
    # The states are ours.
    connection.execute(f"DELETE FROM duplicate_tasks WHERE job_id IN (SELECT id FROM intents WHERE {old})", (before,))  # noqa: S608
    return connection.execute(f"DELETE FROM intents WHERE {old}", (before,)).rowcount  # noqa: S608


def paid(model: str, most: int, connection: sqlite3.Connection) -> list[Intent]:
    """Some of the latest rows of a model that have succeeded; old ones are not looked for in a large file."""
    recent = "rowid > (SELECT max(rowid) FROM intents) - 10000"
    where = f"{recent} AND model = ? AND state = 'succeeded' AND credits IS NOT NULL"
    found = connection.execute(f"{_SELECT} WHERE {where} ORDER BY rowid DESC LIMIT ?", (model, most))
    return [read_row(values) for values in found]


def version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection has written."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def orphans(owners: ProcessLocks, connection: sqlite3.Connection) -> dict[JobState, int]:
    """How many open rows have no owner that is alive."""
    counts: dict[JobState, int] = {}
    for name in _dead(owners, connection):
        query = f"SELECT state, count(*) FROM intents WHERE owner IS ? AND {_in(OPEN)} GROUP BY state"  # noqa: S608
        for state, count in connection.execute(query, (name,)):
            counts[JobState(state)] = counts.get(JobState(state), 0) + count
    return counts


def sent_by_the_dead(owners: ProcessLocks, since: float, connection: sqlite3.Connection) -> list[float]:
    """When dead owners have sent what is unfinished, after an instant; by an index, whatever the file holds."""
    # What is an intent (again) was not sent, or was refused.
    query = f"SELECT sending_at FROM intents WHERE owner IS ? AND {_in(OPEN)} AND state <> 'intent' AND sending_at > ?"  # noqa: S608
    return [at for name in _dead(owners, connection) for (at,) in connection.execute(query, (name, since))]


def claim(owners: ProcessLocks, job_ids: Collection[str] | None, connection: sqlite3.Connection) -> list[Intent]:
    """Take over the open rows (of these) that dead owners have left; return all (of these) that are ours then."""
    dead = _dead(owners, connection)
    mine = f"owner = ? AND {_in(OPEN)}"
    take = f"UPDATE intents SET owner = ? WHERE owner IS ? AND {_in(OPEN)}"  # noqa: S608
    if job_ids is None:
        connection.executemany(take, [(owners.name, name) for name in dead])
        for name in dead:
            if name is not None:
                owners.bury(name)
        return [read_row(row) for row in connection.execute(f"{_SELECT} WHERE {mine} ORDER BY rowid", (owners.name,))]
    connection.executemany(f"{take} AND id = ?", [(owners.name, name, asked) for name in dead for asked in job_ids])
    found = [one(f"id = ? AND {mine}", (job_id, owners.name), connection) for job_id in job_ids]
    return [row for row in found if row is not None]


def _change(
    job_id: str,
    where: str,
    values: tuple[object, ...],
    fields: Mapping[str, object],
    connection: sqlite3.Connection,
) -> Intent | None:
    columns = written(fields)
    assignments = ", ".join(f"{name} = ?" for name in columns)
    # The names are those of our fields.
    changed = connection.execute(f"UPDATE intents SET {assignments} WHERE {where}", (*columns.values(), *values))  # noqa: S608
    if not changed.rowcount:
        return None
    row = one("id = ?", (job_id,), connection)
    if row is not None and "duplicate_task_ids" in fields:
        pairs = [(task_id, job_id) for task_id in row.duplicate_task_ids]
        connection.executemany("INSERT OR REPLACE INTO duplicate_tasks (task_id, job_id) VALUES (?, ?)", pairs)
    return row


def _dead(owners: ProcessLocks, connection: sqlite3.Connection) -> Sequence[str | None]:
    names = connection.execute(f"SELECT DISTINCT owner FROM intents WHERE {_in(OPEN)}")  # noqa: S608
    return [name for (name,) in names.fetchall() if not owners.alive(name)]


def _in(states: Collection[JobState]) -> str:
    names = ", ".join(f"'{state}'" for state in sorted(states))
    return f"state IN ({names})"
