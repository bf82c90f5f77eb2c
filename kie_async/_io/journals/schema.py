"""The journal's tables and the conversion of rows to and from them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from kie_async._core.lifecycle import Intent, SourceImage, encode_for_journal
from kie_async.errors import JournalError
from kie_async.states import JobState

__all__ = ["APPLICATION_ID", "COLUMNS", "VERSION", "prepare_file", "read_row", "written"]

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

#: How often a file is switched to WAL while others do the same: each of them is in the way once at most.
_TRIES = 100

#: The columns, in the order of the fields of a row.
COLUMNS = tuple(field.name for field in attrs.fields(Intent))
#: Those that hold a list of texts, as JSON.
_LISTS = frozenset({"duplicate_task_ids", "callback_task_ids"})


def prepare_file(connection: sqlite3.Connection, path: Path) -> None:
    """
    Create the tables in an empty file, in one transaction; leave a journal of this version as it is.

    Raises:
        JournalError: If the file is of a newer version, or is no journal, or lies where it cannot be shared safely.
    """
    _version(connection, path)  # before anything is changed
    if _to_wal(connection) != "wal":
        msg = f"{path} cannot be used safely (no WAL: a network drive?). Put the journal on a local disk."
        raise JournalError(msg)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _version(connection, path):
            for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        # Changes nothing, and fails where the file can only be read: now, and not at the first move.
        connection.execute("DELETE FROM intents WHERE 0")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _to_wal(connection: sqlite3.Connection) -> str:
    """Switch the file to WAL, and return the mode that it is in then."""
    for _ in range(_TRIES):
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError:
            # The switch does not wait for others who are making the file; a transaction does, as long as it may.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """
    Read the version of a file; 0 if it is empty.

    Raises:
        JournalError: If the file is of a newer version, or not a journal.
    """
    # In one transaction: another process may be making the file between two reads.
    alone = not connection.in_transaction
    if alone:
        connection.execute("BEGIN")
    try:
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        version = _pragma(connection, "user_version")
        mark = _pragma(connection, "application_id")
    finally:
        if alone:
            connection.execute("COMMIT")
    if mark != APPLICATION_ID and (mark or version or tables):
        msg = f"{path} is a database of something else. Give the journal another name."
        raise JournalError(msg)
    if version > VERSION:
        msg = f"{path} was written by a newer kie_async (schema {version}; this knows {VERSION}). Upgrade the package."
        raise JournalError(msg)
    return version


def read_row(values: Sequence[object]) -> Intent:
    """The row that a ``SELECT`` of all ``COLUMNS`` has found."""
    fields = dict(zip(COLUMNS, values, strict=True))
    fields["state"] = JobState(str(fields["state"]))
    fields["sources"] = tuple(SourceImage(**source) for source in json.loads(str(fields["sources"])))
    for name in _LISTS:
        fields[name] = tuple(json.loads(str(fields[name])))
    return Intent(**fields)  # type: ignore[arg-type]  # the columns are the fields


def written(fields: Mapping[str, object]) -> dict[str, object]:
    """Fields of a row as their columns hold them."""
    columns = dict(fields)
    if "sources" in columns:
        columns["sources"] = encode_for_journal([attrs.asdict(source) for source in columns["sources"]])  # type: ignore[attr-defined]  # a tuple of them
    for name in _LISTS & columns.keys():
        columns[name] = encode_for_journal(list(columns[name]))  # type: ignore[call-overload]  # a tuple of texts
    if "state" in columns:
        columns["state"] = str(columns["state"])
    return columns


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
