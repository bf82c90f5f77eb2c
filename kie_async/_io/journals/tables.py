"""
The journal's tables in SQLite: their schema, and every query as a function of a connection.

Each function runs within a transaction or only reads, and blocks for no longer than the disk takes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

import attrs

from kie_async._core.acknowledged import Restoration
from kie_async._core.budget_ledger import SeenPrices, may_cost_more
from kie_async._core.durations import Kind, ended_task
from kie_async._core.lifecycle import UNFINISHED, Intent
from kie_async._io.journals import budget_tables, worker_tables
from kie_async._io.journals.journal import Service
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async._io.journals.rows import (
    COLUMNS,
    HAS_ENDED,
    INSERTED,
    IS_OPEN,
    IS_UNCHARGED,
    IS_UNFINISHED,
    in_states,
    keep_duplicates,
    to_columns,
    to_row,
)
from kie_async._keys import row_key
from kie_async.errors import JournalError
from kie_async.states import JobState

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "bind_service",
    "count_orphans",
    "count_unsent_of_other_keys",
    "delete_ended",
    "find_changed",
    "find_left",
    "find_old",
    "find_orphans",
    "has_keys",
    "insert_row",
    "prepare_file",
    "read_change_counter",
    "read_forgotten_until",
    "read_identity",
    "select_by_key",
    "select_by_keys",
    "select_by_task",
    "select_keys",
    "select_named_by_callbacks",
    "select_older_callback_secrets",
    "select_one",
    "select_own",
    "select_recent_durations",
    "select_rows",
    "select_seen_prices",
    "select_uncharged",
    "take_over",
    "update_row",
]

#: "kiej" in ASCII: marks the file as a journal of this package.
APPLICATION_ID = 0x6B69656A
#: The version of the schema, which the file carries as ``user_version``.
VERSION = 1
_SCHEMA = """
    CREATE TABLE intents (
        number INTEGER PRIMARY KEY NOT NULL,
        id TEXT UNIQUE NOT NULL,
        origin TEXT NOT NULL,
        key TEXT,
        account TEXT NOT NULL,
        state TEXT NOT NULL,
        owner TEXT,
        holder TEXT,
        yielded TEXT,
        version INTEGER NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        model TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        price_class TEXT NOT NULL,
        budget TEXT,
        price REAL,
        attempts INTEGER NOT NULL,
        ambiguous_attempts INTEGER NOT NULL,
        sending_at REAL,
        task_id TEXT,
        accepted_at REAL,
        credits REAL,
        duplicate_task_ids TEXT NOT NULL,
        callback_task_ids TEXT NOT NULL,
        saved TEXT NOT NULL,
        callback_url TEXT,
        sources TEXT NOT NULL,
        error TEXT,
        input TEXT NOT NULL,
        record TEXT,
        UNIQUE (origin, key)
    );
    CREATE INDEX intents_by_task ON intents (task_id) WHERE task_id IS NOT NULL;
    CREATE INDEX intents_open ON intents (owner, origin, number)
        WHERE state IN ('in_doubt', 'intent', 'sending', 'stalled', 'submitted');
    CREATE INDEX intents_unfinished ON intents (number)
        WHERE state IN ('in_doubt', 'intent', 'sending', 'stalled', 'submitted', 'unresolved');
    CREATE INDEX intents_named_by_callbacks ON intents (number) WHERE callback_task_ids <> '[]';
    CREATE INDEX intents_by_price ON intents (price_class, origin, credits)
        WHERE state = 'succeeded' AND credits IS NOT NULL;
    CREATE INDEX intents_by_model_price ON intents (model, origin, credits)
        WHERE state = 'succeeded' AND credits IS NOT NULL;
    CREATE INDEX intents_uncharged ON intents (budget, price_class)
        WHERE budget IS NOT NULL AND (credits IS NULL OR state <> 'succeeded')
        AND (state <> 'failed' OR ambiguous_attempts > 0);
    CREATE TABLE duplicate_tasks (task_id TEXT PRIMARY KEY NOT NULL, job_id TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX duplicate_tasks_by_job ON duplicate_tasks (job_id);
    CREATE TABLE callback_secrets (
        origin TEXT NOT NULL, account TEXT NOT NULL, secret BLOB NOT NULL, PRIMARY KEY (origin, account)
    ) WITHOUT ROWID;
    CREATE TABLE identity AS SELECT lower(hex(randomblob(8))) AS id, 0.0 AS forgotten_until;
"""

#: The attempts to switch a file to WAL while other processes do the same: each of them interferes at most once.
_WAL_ATTEMPTS = 100

# All names in the statements are ours; values are bound.
_INSERT = f"INSERT INTO intents ({', '.join(INSERTED)}) VALUES ({', '.join('?' * len(INSERTED))})"  # noqa: S608
_REWRITE = f"UPDATE intents SET ({', '.join(INSERTED)}) = ({', '.join('?' * len(INSERTED))}) WHERE id = ?"  # noqa: S608
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM intents"  # noqa: S608
# The functions are those of ``bind_service``.
_IS_HERE = "origin = own_origin()"
#: The open rows of an owner at this service; then those of them that this process may resume, and the rest. The API key
#: of a row matters only until it is sent.
_OF_OWNER = f"owner IS ? AND {_IS_HERE} AND {IS_OPEN}"
_RESUMABLE = f"{_OF_OWNER} AND (state <> 'intent' OR account = own_account())"
_SENT_WITH_OWN_KEY = f"{_OF_OWNER} AND state NOT IN ('intent', 'sending') AND account = own_account()"
_UNSENT_OF_OTHER_KEY = f"{_OF_OWNER} AND state = 'intent' AND account <> own_account()"
_KEEP_SECRET = "INSERT OR IGNORE INTO callback_secrets VALUES (own_origin(), own_account(), own_callback_secret())"  # noqa: S105
_NOTE_FORGOTTEN = "UPDATE identity SET forgotten_until = max(forgotten_until, ?) WHERE rowid = 1"

#: A page of rows; -1 is no limit.
_PAGE = "number > ? ORDER BY number LIMIT ?"
_ALL = -1

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
            for statement in filter(
                None, map(str.strip, (_SCHEMA + budget_tables.SCHEMA + worker_tables.SCHEMA).split(";"))
            ):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        # Changes nothing, but fails on a read-only file: now, and not at the first transition.
        connection.execute("DELETE FROM intents WHERE 0")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def bind_service(connection: sqlite3.Connection, service: Service) -> None:
    """Define the functions by which the queries know whose jobs they concern."""
    for name, value in attrs.asdict(service).items():
        connection.create_function(f"own_{name}", 0, partial(_constant, value), deterministic=True)


def _constant(value: str | bytes) -> str | bytes:
    return value


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


def read_identity(connection: sqlite3.Connection) -> str:
    """Return the id that the file got when it was made."""
    return str(connection.execute("SELECT id FROM identity WHERE rowid = 1").fetchone()[0])


def read_forgotten_until(connection: sqlite3.Connection) -> float:
    """Return the latest change of a row that was deleted, in seconds since the epoch."""
    return float(connection.execute("SELECT forgotten_until FROM identity WHERE rowid = 1").fetchone()[0])


# -- rows --------------------------------------------------------------------------------------------------------------


def insert_row(connection: sqlite3.Connection, restoration: Restoration, intent: Intent) -> Intent:
    """Insert a row, or return the row that has its key already, or had it before the file went back."""
    lost = restoration.known_by_key(intent.key)
    if lost is not None and restoration.is_older(select_one(connection, "id = ?", lost.id), lost.id):
        _restore_rows(connection, restoration)
    if intent.key is not None and (known := select_by_key(connection, intent.key)) is not None:
        return known
    if intent.callback_url is not None:
        connection.execute(_KEEP_SECRET)
    columns = to_columns({name: getattr(intent, name) for name in INSERTED})
    added = connection.execute(_INSERT, [columns[name] for name in INSERTED])
    return attrs.evolve(intent, number=added.lastrowid or 0)


def update_row(
    connection: sqlite3.Connection,
    restoration: Restoration,
    job_id: str,
    fields: Mapping[str, object],
    seen: Intent | None = None,
    account_epoch: int | None = None,
) -> Intent | None:
    """
    Change a row; if the file has gone back, restore what it has lost first.

    Args:
        connection: The connection.

        restoration: What the file has acknowledged.

        job_id: The row's id.

        fields: The new values.

        seen: Change the row only if it still has the state and the number of attempts of this one, and, if that is
            SENDING, only to a task that no other row of its service has.

        account_epoch: Change the row only if the account's state has this epoch; None for any.

    Returns:
        The changed row, or None if nothing was changed.

    Raises:
        BudgetExceededError: If the new state is SENDING, and the row's budget has no room; then roll back.
    """
    if account_epoch is not None and not worker_tables.has_epoch(connection, account_epoch):
        return None
    update = partial(_update_row, connection, job_id, fields, seen, restoration.least_version(job_id, seen))
    if (row := update()) is None:
        if not restoration.is_older(select_one(connection, "id = ?", job_id), job_id, seen):
            return None
        _restore_rows(connection, restoration)
        row = update()
    return row


def _update_row(
    connection: sqlite3.Connection, job_id: str, fields: Mapping[str, object], seen: Intent | None, least_version: int
) -> Intent | None:
    if seen is not None and seen.state is JobState.SENDING and fields.get("task_id") is not None:
        other = select_by_task(connection, str(fields["task_id"]))
        if other is not None and other.id != job_id and other.origin == seen.origin:
            return None
    before = select_one(connection, "id = ? AND budget IS NOT NULL", job_id)
    if "duplicate_task_ids" in fields:
        fields = keep_duplicates(fields, select_one(connection, "id = ?", job_id))
    columns = to_columns(fields)
    assignments = ", ".join(f"{name} = ?" for name in columns)
    where, values = "id = ? AND version >= ?", list[object]([job_id, least_version])
    if seen is not None:
        where += " AND state = ? AND attempts = ? AND owner IS ?"
        values += [str(seen.state), seen.attempts, seen.owner]
    update = f"UPDATE intents SET {assignments}, version = version + 1 WHERE {where}"  # noqa: S608
    changed = connection.execute(update, (*columns.values(), *values))
    if not changed.rowcount:
        return None
    row = select_one(connection, "id = ?", job_id)
    if row is not None and row.budget is not None:
        budget_tables.pay(connection, before, row)
        if fields.get("state") is JobState.SENDING:
            budget_tables.check_create(connection, row, partial(select_uncharged, connection, row.budget))
    if "account" in fields:
        connection.execute(_KEEP_SECRET)
    if row is not None and "duplicate_task_ids" in fields:
        _note_duplicates(connection, row)
    return row


def _note_duplicates(connection: sqlite3.Connection, row: Intent) -> None:
    pairs = [(task_id, row.id) for task_id in row.duplicate_task_ids]
    connection.executemany("INSERT OR REPLACE INTO duplicate_tasks (task_id, job_id) VALUES (?, ?)", pairs)


def _restore_rows(connection: sqlite3.Connection, restoration: Restoration) -> None:
    found = (select_one(connection, "id = ?", row.id) for row in restoration.rows())
    present = {row.id: row for row in found if row is not None}
    for info in restoration.budgets():
        budget_tables.restore_budget(connection, info)
    for repair in restoration.compare(present, forgotten_until=read_forgotten_until(connection)):
        _write_row(connection, repair.present, repair.row)


def _write_row(connection: sqlite3.Connection, present: Intent | None, row: Intent) -> None:
    if present is None:
        taken = row.key is not None and select_by_key(connection, row.key) is not None
        row = attrs.evolve(row, key=None) if taken else row
    columns = to_columns({name: getattr(row, name) for name in INSERTED})
    values = [columns[name] for name in INSERTED]
    connection.execute(*((_INSERT, values) if present is None else (_REWRITE, (*values, row.id))))
    if row.callback_url is not None:
        connection.execute(_KEEP_SECRET)
    _note_duplicates(connection, row)
    budget_tables.pay(connection, present, row)


def find_old(connection: sqlite3.Connection, before: float, after: int, limit: int) -> tuple[list[str], int | None]:
    """
    Find ended rows that last changed before an instant.

    Args:
        connection: The connection.

        before: The instant.

        after: Only rows with a larger number.

        limit: The number of rows to examine.

    Returns:
        The ids of those rows, and the number of the last row examined; None if there was none.
    """
    query = f"SELECT number, id, {HAS_ENDED} AND updated_at < ? FROM intents WHERE {_PAGE}"  # noqa: S608
    rows = connection.execute(query, (before, after, limit)).fetchall()
    return [job_id for _, job_id, old in rows if old], rows[-1][0] if rows else None


def delete_ended(connection: sqlite3.Connection, before: float, job_ids: Collection[str]) -> int:
    """
    Delete those of the rows that have ended and last changed before an instant, and return their number.

    A job of ``map()`` stays while a retry of its row is unfinished or newer: without it, the row would be paid again.
    """
    delete = f"DELETE FROM intents WHERE id = ? AND {HAS_ENDED} AND updated_at < ?"  # noqa: S608
    deleted = 0
    for job_id in job_ids:
        row = select_one(connection, "id = ?", job_id)
        if row is not None and row.key is not None and _has_retry_since(connection, row.origin, row.key, before):
            continue
        if connection.execute(delete, (job_id, before)).rowcount:
            connection.execute("DELETE FROM duplicate_tasks WHERE job_id = ?", (job_id,))
            if row is not None:
                connection.execute(_NOTE_FORGOTTEN, (row.updated_at,))
            deleted += 1
    return deleted


def _has_retry_since(connection: sqlite3.Connection, origin: str, key: str, before: float) -> bool:
    retries = f"{row_key(key)}~retry"
    query = (
        "SELECT 1 FROM intents WHERE origin = ? AND key > ? AND key < ?"  # noqa: S608
        f" AND NOT ({HAS_ENDED} AND updated_at < ?) LIMIT 1"
    )
    # The colon follows the digits, so that all numbers are between.
    return connection.execute(query, (origin, retries, f"{retries}:", before)).fetchone() is not None


def select_one(connection: sqlite3.Connection, where: str, *values: object) -> Intent | None:
    """Return the first row that fulfills a condition, or None."""
    found = connection.execute(f"{_SELECT} WHERE {where} LIMIT 1", values).fetchone()
    return None if found is None else to_row(found)


def _select(connection: sqlite3.Connection, rest: str, *values: object) -> list[Intent]:
    return [to_row(found) for found in connection.execute(f"{_SELECT} {rest}", values)]


def select_by_task(connection: sqlite3.Connection, task_id: str) -> Intent | None:
    """Return the row of a task, or the row that has it as a duplicate; of two services, that of this one."""
    own = select_one(connection, f"task_id = ? ORDER BY {_IS_HERE} DESC", task_id)
    return own or select_one(connection, "id = (SELECT job_id FROM duplicate_tasks WHERE task_id = ?)", task_id)


def select_by_key(connection: sqlite3.Connection, key: str) -> Intent | None:
    """Return the row that has a caller's key at this service, or None."""
    return select_one(connection, f"{_IS_HERE} AND key = ?", key)


def select_by_keys(connection: sqlite3.Connection, keys: Collection[str]) -> list[Intent]:
    """Return the rows that have one of the callers' keys."""
    found = [select_by_key(connection, key) for key in keys]
    return [row for row in found if row is not None]


def has_keys(connection: sqlite3.Connection) -> bool:
    """Return True if any row has a caller's key."""
    query = f"SELECT max(key) FROM intents WHERE {_IS_HERE}"  # noqa: S608
    return connection.execute(query).fetchone()[0] is not None


def select_keys(connection: sqlite3.Connection, prefix: str, after: str, limit: int) -> list[tuple[str, JobState]]:
    """Return the callers' keys that begin with *prefix* and are greater than *after*, with the states of their rows."""
    query = (
        f"SELECT key, state FROM intents WHERE {_IS_HERE} AND key > ? AND key >= ? AND key < ? || CAST(x'ff' AS TEXT)"  # noqa: S608
        " ORDER BY key LIMIT ?"
    )
    found = connection.execute(query, (after, prefix, prefix, limit))
    return [(key, JobState(state)) for key, state in found]


def select_rows(
    connection: sqlite3.Connection, states: Collection[JobState] | None, after: int, limit: int | None
) -> list[Intent]:
    """Return the rows in one of *states* (None for all) with larger numbers than *after*, oldest first."""
    where = ""
    if states is not None:
        is_unfinished = f"{IS_UNFINISHED} AND " if UNFINISHED.issuperset(states) else ""  # for the index
        where = f"{is_unfinished}{in_states(states)} AND "
    return _select(connection, f"WHERE {where}{_PAGE}", after, _ALL if limit is None else limit)


def select_named_by_callbacks(connection: sqlite3.Connection, after: int, limit: int | None) -> list[Intent]:
    """Return the rows for which callbacks have named tasks that are not proved yet; see ``select_rows``."""
    # SQLite would choose the index of keys, whose first column is the origin.
    where = f"INDEXED BY intents_named_by_callbacks WHERE callback_task_ids <> '[]' AND {_IS_HERE} AND {_PAGE}"
    return _select(connection, where, after, _ALL if limit is None else limit)


def select_recent_durations(connection: sqlite3.Connection, limit: int) -> list[tuple[Kind, float]]:
    """Return kind and seconds of the latest rows whose task has ended; old rows of a large file are not searched."""
    recent = "number > (SELECT max(number) FROM intents) - 10000"
    # By the rows' own numbers: an index of their state would have to be sorted.
    query = (
        f"SELECT model, input, record FROM intents NOT INDEXED WHERE {recent} AND {_IS_HERE}"  # noqa: S608
        " AND state IN ('succeeded', 'failed') AND record IS NOT NULL ORDER BY number DESC LIMIT ?"
    )
    found = [ended_task(*values) for values in connection.execute(query, (limit,))]
    return [task for task in reversed(found) if task is not None]


def select_seen_prices(connection: sqlite3.Connection, model: str, price_class: str) -> SeenPrices:
    """Return the prices of a price class and of its model; indexes keep this fast."""
    charged = f"FROM intents WHERE {_IS_HERE} AND state = 'succeeded' AND credits IS NOT NULL AND"
    query = (
        f"SELECT (SELECT min(credits) {charged} price_class = ?), (SELECT max(credits) {charged} price_class = ?),"
        f" (SELECT max(credits) {charged} model = ?)"
    )
    return SeenPrices(*connection.execute(query, (price_class, price_class, model)).fetchone())


def select_uncharged(connection: sqlite3.Connection, budget: str) -> list[Intent]:
    """Return the rows of a named budget that may have been paid and whose cost is not known."""
    found = _select(connection, f"WHERE {_IS_HERE} AND budget = ? AND {IS_UNCHARGED}", budget)
    return [row for row in found if may_cost_more(row)]


def find_changed(connection: sqlite3.Connection, seen: Collection[Intent]) -> dict[str, Intent | None]:
    """Return the rows whose version differs from *seen*, by their ids."""
    query = "SELECT 1 FROM intents WHERE id = ? AND version = ?"
    changed = [row.id for row in seen if connection.execute(query, (row.id, row.version)).fetchone() is None]
    return {job_id: select_one(connection, "id = ?", job_id) for job_id in changed}


# -- owners ------------------------------------------------------------------------------------------------------------


def _owners(connection: sqlite3.Connection) -> Iterator[str | None]:
    # From each name to the next one by the index: DISTINCT would read all open rows.
    first = f"SELECT owner FROM intents WHERE {IS_OPEN} ORDER BY owner LIMIT 1"  # noqa: S608
    later = f"SELECT min(owner) FROM intents WHERE {IS_OPEN} AND owner > ?"  # noqa: S608
    found = connection.execute(first).fetchone()
    while found is not None:
        (name,) = found
        yield name
        (following,) = connection.execute(later, (name or "",)).fetchone()
        found = None if following is None else (following,)


def _dead_owners(connection: sqlite3.Connection, locks: ProcessLocks) -> list[str | None]:
    return [name for name in _owners(connection) if not locks.is_alive(name)]


def count_orphans(connection: sqlite3.Connection, locks: ProcessLocks) -> dict[JobState, int]:
    """Count the open rows whose owner is not alive and that this process may resume, by state."""
    counts: dict[JobState, int] = {}
    query = f"SELECT state, count(*) FROM intents WHERE {_RESUMABLE} GROUP BY state"  # noqa: S608
    for name in _dead_owners(connection, locks):
        for state, count in connection.execute(query, (name,)):
            counts[JobState(state)] = counts.get(JobState(state), 0) + count
    return counts


def count_unsent_of_other_keys(connection: sqlite3.Connection, locks: ProcessLocks) -> int:
    """Count the unsent rows whose owner is not alive and that were journaled with another API key."""
    query = f"SELECT count(*) FROM intents WHERE {_UNSENT_OF_OTHER_KEY}"  # noqa: S608
    return sum(int(connection.execute(query, (name,)).fetchone()[0]) for name in _dead_owners(connection, locks))


def select_older_callback_secrets(connection: sqlite3.Connection) -> list[bytes]:
    """Return the secrets of callback tokens of other API keys of this service."""
    query = f"SELECT secret FROM callback_secrets WHERE {_IS_HERE} AND account <> own_account()"  # noqa: S608
    return [secret for (secret,) in connection.execute(query)]


def find_orphans(
    connection: sqlite3.Connection,
    locks: ProcessLocks,
    job_ids: Collection[str] | None,
    after: int,
    limit: int | None,
    *,
    adopt_key: bool,
) -> list[tuple[int, str | None]]:
    """
    Return the numbers and owners of rows (with these ids) to resume, oldest first.

    They are those of ended owners, and those of this API key that a process with another key has adopted: it may not be
    able to see their tasks.
    """
    found: list[tuple[int, str | None]] = []
    for name in _owners(connection):
        if not locks.is_alive(name):
            resumable = _OF_OWNER if adopt_key else _RESUMABLE
        elif _account_of_owner(name) != _account_of_owner(locks.name):
            resumable = _SENT_WITH_OWN_KEY
        else:
            continue
        if job_ids is None:
            query = f"SELECT number FROM intents WHERE {resumable} AND {_PAGE}"  # noqa: S608
            page = connection.execute(query, (name, after, _ALL if limit is None else limit))
            found += [(number, name) for (number,) in page]
        else:
            query = f"SELECT number FROM intents WHERE id = ? AND {resumable}"  # noqa: S608
            found += [(row[0], name) for job_id in job_ids for row in connection.execute(query, (job_id, name))]
    found.sort(key=lambda orphan: orphan[0])
    return found[:limit]


def find_left(
    connection: sqlite3.Connection, locks: ProcessLocks, limit: int, *, adopt_key: bool
) -> list[tuple[int, str | None]]:
    """Return the numbers and owners of rows to resume whose owner has ended; not of those that were given up."""
    query = f"SELECT number FROM intents WHERE {_OF_OWNER if adopt_key else _RESUMABLE} AND {_PAGE}"  # noqa: S608
    names = [name for name in _dead_owners(connection, locks) if name is not None]
    found = [(int(number), name) for name in names for (number,) in connection.execute(query, (name, 0, limit))]
    return [*sorted(found)[:limit]]


def _account_of_owner(name: str | None) -> str:
    return (name or "").rpartition("-")[0]


def take_over(
    connection: sqlite3.Connection, locks: ProcessLocks, orphans: Collection[tuple[int, str | None]]
) -> list[Intent]:
    """Take over those of the rows that still have these owners, and return them."""
    account = "CASE state WHEN 'intent' THEN own_account() ELSE account END"
    take = f"UPDATE intents SET owner = ?, account = {account}, version = version + 1 WHERE number = ? AND {_OF_OWNER}"  # noqa: S608
    connection.execute(_KEEP_SECRET)
    taken = [number for number, name in orphans if connection.execute(take, (locks.name, number, name)).rowcount]
    return [row for number in taken for row in _select(connection, "WHERE number = ?", number)]


def select_own(
    connection: sqlite3.Connection, name: str, job_ids: Collection[str] | None, after: int, limit: int | None
) -> list[Intent]:
    """Return the open rows (with these ids) of an owner with larger numbers than *after*, oldest first."""
    if job_ids is None:
        return _select(connection, f"WHERE {_OF_OWNER} AND {_PAGE}", name, after, _ALL if limit is None else limit)
    found = [select_one(connection, f"id = ? AND {_OF_OWNER}", job_id, name) for job_id in job_ids]
    return sorted((row for row in found if row is not None), key=lambda row: row.number)[:limit]
