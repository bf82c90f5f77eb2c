"""
The journal's tables in SQLite: their schema, and every query as a function of a connection.

Each function runs within a transaction or only reads, and blocks for no longer than the disk takes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from kie_async._core.lifecycle import ENDED, OPEN, Intent, SourceImage, encode_for_journal
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async.errors import JournalError
from kie_async.states import JobState

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "claim_rows",
    "count_orphans",
    "delete_ended",
    "find_changed",
    "has_keys",
    "insert_row",
    "prepare_file",
    "read_change_counter",
    "select_by_keys",
    "select_by_task",
    "select_named_by_callbacks",
    "select_one",
    "select_orphaned_send_times",
    "select_recent_successes",
    "select_rows",
    "update_row",
]

#: "kiej" in ASCII: marks the file as a journal of this package.
APPLICATION_ID = 0x6B69656A
#: The version of the schema, which the file carries as ``user_version``.
VERSION = 1
_SCHEMA = """
    CREATE TABLE intents (
        id TEXT PRIMARY KEY NOT NULL,
        model TEXT NOT NULL,
        input TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        sources TEXT NOT NULL,
        key TEXT UNIQUE,
        callback_url TEXT,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        ambiguous_attempts INTEGER NOT NULL,
        sending_at REAL,
        task_id TEXT,
        accepted_at REAL,
        record TEXT,
        credits REAL,
        error TEXT,
        duplicate_task_ids TEXT NOT NULL,
        callback_task_ids TEXT NOT NULL,
        owner TEXT
    );
    CREATE INDEX intents_by_task ON intents (task_id) WHERE task_id IS NOT NULL;
    CREATE INDEX intents_open ON intents (owner)
        WHERE state IN ('in_doubt', 'intent', 'sending', 'stalled', 'submitted');
    CREATE INDEX intents_named_by_callbacks ON intents (id) WHERE callback_task_ids <> '[]';
    CREATE TABLE duplicate_tasks (task_id TEXT PRIMARY KEY NOT NULL, job_id TEXT NOT NULL) WITHOUT ROWID;
"""

#: The attempts to switch a file to WAL while other processes do the same: each of them interferes at most once.
_WAL_ATTEMPTS = 100

#: The columns, in the order of the fields of a row.
_COLUMNS = tuple(field.name for field in attrs.fields(Intent))
#: The columns that hold a list of strings, as JSON.
_LISTS = frozenset({"duplicate_task_ids", "callback_task_ids"})


def _in(states: Collection[JobState]) -> str:
    names = ", ".join(f"'{state}'" for state in sorted(states))
    return f"state IN ({names})"


# All names in the statements are ours; values are bound.
_INSERT = f"INSERT INTO intents ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM intents"  # noqa: S608
_IS_OPEN, _HAS_ENDED = _in(OPEN), _in(ENDED)

# -- the file ----------------------------------------------------------------------------------------------------------


def prepare_file(connection: sqlite3.Connection, path: Path) -> None:
    """
    Create the tables in an empty file, in one transaction; leave a journal of this version unchanged.

    Raises:
        JournalError: If the file is of a newer version, is not a journal, or is on a drive where it cannot be shared
            safely.
    """
    _read_version(connection, path)  # before anything is changed
    if _switch_to_wal(connection) != "wal":
        msg = f"{path} cannot be used safely (no WAL: a network drive?). Put the journal on a local disk."
        raise JournalError(msg)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _read_version(connection, path):
            for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        # Changes nothing, but fails on a read-only file: now, and not at the first transition.
        connection.execute("DELETE FROM intents WHERE 0")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _switch_to_wal(connection: sqlite3.Connection) -> str:
    """Switch the file to WAL, and return the journal mode that it has then."""
    for _ in range(_WAL_ATTEMPTS):
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError:
            # The switch does not wait for other processes that create the file; a transaction does, up to the timeout.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _read_version(connection: sqlite3.Connection, path: Path) -> int:
    """
    Read the version of a file; 0 if it is empty.

    Raises:
        JournalError: If the file is of a newer version, or not a journal.
    """
    # In one transaction: another process may be creating the tables between two reads.
    alone = not connection.in_transaction
    if alone:
        connection.execute("BEGIN")
    try:
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        mark = int(connection.execute("PRAGMA application_id").fetchone()[0])
    finally:
        if alone:
            connection.execute("COMMIT")
    if mark != APPLICATION_ID and (mark or version or tables):
        msg = f"{path} is not a journal but another database. Use another file name for the journal."
        raise JournalError(msg)
    if version > VERSION:
        msg = f"{path} was written by a newer kie_async (schema {version}; this knows {VERSION}). Upgrade the package."
        raise JournalError(msg)
    return version


def read_change_counter(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has written."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


# -- rows --------------------------------------------------------------------------------------------------------------


def insert_row(connection: sqlite3.Connection, intent: Intent) -> Intent:
    """Insert a row, or return the row that has its key already."""
    if intent.key is not None and (known := select_one(connection, "key = ?", intent.key)) is not None:
        return known
    columns = _to_columns({name: getattr(intent, name) for name in _COLUMNS})
    connection.execute(_INSERT, [columns[name] for name in _COLUMNS])
    return intent


def update_row(
    connection: sqlite3.Connection, job_id: str, fields: Mapping[str, object], seen: Intent | None = None
) -> Intent | None:
    """
    Change a row.

    Args:
        connection: The connection.

        job_id: The row's id.

        fields: The new values.

        seen: Change the row only if it still has the state and the number of attempts of this one.

    Returns:
        The changed row, or None if nothing was changed.
    """
    columns = _to_columns(fields)
    assignments = ", ".join(f"{name} = ?" for name in columns)
    where, values = "id = ?", list[object]([job_id])
    if seen is not None:
        where, values = "id = ? AND state = ? AND attempts = ?", [job_id, str(seen.state), seen.attempts]
    changed = connection.execute(f"UPDATE intents SET {assignments} WHERE {where}", (*columns.values(), *values))  # noqa: S608
    if not changed.rowcount:
        return None
    row = select_one(connection, "id = ?", job_id)
    if row is not None and "duplicate_task_ids" in fields:
        pairs = [(task_id, job_id) for task_id in row.duplicate_task_ids]
        connection.executemany("INSERT OR REPLACE INTO duplicate_tasks (task_id, job_id) VALUES (?, ?)", pairs)
    return row


def delete_ended(connection: sqlite3.Connection, before: float) -> int:
    """Delete the ended rows that last changed before an instant, and return their number."""
    old = f"{_HAS_ENDED} AND updated_at < ?"
    ids = f"SELECT id FROM intents WHERE {old}"  # noqa: S608
    connection.execute(f"DELETE FROM duplicate_tasks WHERE job_id IN ({ids})", (before,))  # noqa: S608
    return connection.execute(f"DELETE FROM intents WHERE {old}", (before,)).rowcount  # noqa: S608


def select_one(connection: sqlite3.Connection, where: str, *values: object) -> Intent | None:
    """Return the first row that fulfills a condition, or None."""
    found = connection.execute(f"{_SELECT} WHERE {where} LIMIT 1", values).fetchone()
    return None if found is None else _to_row(found)


def _select(connection: sqlite3.Connection, rest: str, *values: object) -> list[Intent]:
    return [_to_row(found) for found in connection.execute(f"{_SELECT} {rest}", values)]


def select_by_task(connection: sqlite3.Connection, task_id: str) -> Intent | None:
    """Return the row of a task, or the row that has it as a duplicate."""
    own = select_one(connection, "task_id = ?", task_id)
    return own or select_one(connection, "id = (SELECT job_id FROM duplicate_tasks WHERE task_id = ?)", task_id)


def select_by_keys(connection: sqlite3.Connection, keys: Collection[str]) -> list[Intent]:
    """Return the rows that have one of the callers' keys."""
    found = [select_one(connection, "key = ?", key) for key in keys]
    return [row for row in found if row is not None]


def has_keys(connection: sqlite3.Connection) -> bool:
    """Return True if any row has a caller's key."""
    return connection.execute("SELECT 1 FROM intents WHERE key IS NOT NULL LIMIT 1").fetchone() is not None


def select_rows(connection: sqlite3.Connection, states: Collection[JobState] | None) -> list[Intent]:
    """Return the rows in one of *states* (None for all), oldest first."""
    return _select(connection, "ORDER BY rowid" if states is None else f"WHERE {_in(states)} ORDER BY rowid")


def select_named_by_callbacks(connection: sqlite3.Connection) -> list[Intent]:
    """Return the rows for which callbacks have named tasks that are not proved yet, oldest first."""
    return _select(connection, "WHERE callback_task_ids <> '[]' ORDER BY rowid")


def select_recent_successes(connection: sqlite3.Connection, model: str, limit: int) -> list[Intent]:
    """Return some of the latest rows of a model that have succeeded; old rows of a large file are not searched."""
    recent = "rowid > (SELECT max(rowid) FROM intents) - 10000"
    where = f"{recent} AND model = ? AND state = 'succeeded' AND credits IS NOT NULL"
    return _select(connection, f"WHERE {where} ORDER BY rowid DESC LIMIT ?", model, limit)


def find_changed(connection: sqlite3.Connection, seen: Collection[Intent]) -> dict[str, Intent | None]:
    """Return the rows whose state, attempts, last change or owner differ from *seen*, by their ids."""
    same = "id = ? AND state = ? AND attempts = ? AND updated_at = ? AND owner IS ?"
    query = f"SELECT 1 FROM intents WHERE {same}"  # noqa: S608
    changed = [
        row.id
        for row in seen
        if connection.execute(query, (row.id, str(row.state), row.attempts, row.updated_at, row.owner)).fetchone()
        is None
    ]
    return {job_id: select_one(connection, "id = ?", job_id) for job_id in changed}


# -- owners ------------------------------------------------------------------------------------------------------------


def _dead_owners(connection: sqlite3.Connection, locks: ProcessLocks) -> list[str | None]:
    names = connection.execute(f"SELECT DISTINCT owner FROM intents WHERE {_IS_OPEN}")  # noqa: S608
    return [name for (name,) in names.fetchall() if not locks.is_alive(name)]


def count_orphans(connection: sqlite3.Connection, locks: ProcessLocks) -> dict[JobState, int]:
    """Count the open rows whose owner is not alive, by state."""
    counts: dict[JobState, int] = {}
    query = f"SELECT state, count(*) FROM intents WHERE owner IS ? AND {_IS_OPEN} GROUP BY state"  # noqa: S608
    for name in _dead_owners(connection, locks):
        for state, count in connection.execute(query, (name,)):
            counts[JobState(state)] = counts.get(JobState(state), 0) + count
    return counts


def select_orphaned_send_times(connection: sqlite3.Connection, locks: ProcessLocks, since: float) -> list[float]:
    """Return the instants after *since* at which dead owners sent unfinished creates; an index keeps this fast."""
    # A row in INTENT (again) was not sent, or was refused.
    query = f"SELECT sending_at FROM intents WHERE owner IS ? AND {_IS_OPEN} AND state <> 'intent' AND sending_at > ?"  # noqa: S608
    return [at for name in _dead_owners(connection, locks) for (at,) in connection.execute(query, (name, since))]


def claim_rows(connection: sqlite3.Connection, locks: ProcessLocks, job_ids: Collection[str] | None) -> list[Intent]:
    """Take over the open rows (with these ids) of dead owners; return all open rows (with these ids) owned then."""
    dead = _dead_owners(connection, locks)
    mine = f"owner = ? AND {_IS_OPEN}"
    take = f"UPDATE intents SET owner = ? WHERE owner IS ? AND {_IS_OPEN}"  # noqa: S608
    if job_ids is None:
        connection.executemany(take, [(locks.name, name) for name in dead])
        for name in dead:
            if name is not None:
                locks.remove_dead(name)
        return _select(connection, f"WHERE {mine} ORDER BY rowid", locks.name)
    connection.executemany(f"{take} AND id = ?", [(locks.name, name, job_id) for name in dead for job_id in job_ids])
    found = [select_one(connection, f"id = ? AND {mine}", job_id, locks.name) for job_id in job_ids]
    return [row for row in found if row is not None]


# -- conversion --------------------------------------------------------------------------------------------------------


def _to_row(values: Collection[object]) -> Intent:
    fields = dict(zip(_COLUMNS, values, strict=True))
    fields["state"] = JobState(str(fields["state"]))
    fields["sources"] = tuple(SourceImage(**source) for source in json.loads(str(fields["sources"])))
    for name in _LISTS:
        fields[name] = tuple(json.loads(str(fields[name])))
    return Intent(**fields)  # type: ignore[arg-type]  # the columns are the fields


def _to_columns(fields: Mapping[str, object]) -> dict[str, object]:
    columns = dict(fields)
    if "sources" in columns:
        columns["sources"] = encode_for_journal([attrs.asdict(source) for source in columns["sources"]])  # type: ignore[attr-defined]  # a tuple of them
    for name in _LISTS & columns.keys():
        columns[name] = encode_for_journal(columns[name])
    if "state" in columns:
        columns["state"] = str(columns["state"])
    return columns
