"""
The workers that share an SQLite file, and the states of their accounts: the tables, and queries of a connection.

The row of a worker only describes it. Its lock file tells whether it is alive; see ``ProcessLocks``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from kie_async._io.journals.journal import AccountChange, load_worker
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async.statistics import WorkerInfo

__all__ = ["SCHEMA", "change_account", "has_epoch", "select_workers", "write_heartbeat"]

_T = TypeVar("_T")

SCHEMA = """
    CREATE TABLE workers (
        name TEXT PRIMARY KEY NOT NULL,
        origin TEXT NOT NULL,
        account_name TEXT NOT NULL,
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        started_at REAL NOT NULL,
        heartbeat_at REAL NOT NULL,
        report TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE accounts (
        origin TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY (origin, name)
    ) WITHOUT ROWID;
"""
_OF_ACCOUNT = "origin = own_origin() AND name = own_account_name()"


def write_heartbeat(
    connection: sqlite3.Connection,
    locks: ProcessLocks,
    new_name: str,
    host: str,
    pid: int,
    started_at: float,
    at: float,
    report: str,
) -> list[WorkerInfo]:
    """
    Write the row of this worker, remove those of workers that have ended, and return those of ``select_workers``.

    If its lock file was removed, other workers take it for ended: it enters under *new_name*.
    """
    if not locks.own_file_exists():
        locks.enter_anew(new_name)
    insert = "INSERT OR REPLACE INTO workers VALUES (?, own_origin(), own_account_name(), ?, ?, ?, ?, ?)"
    connection.execute(insert, (locks.name, host, pid, started_at, at, report))
    names = [str(name) for (name,) in connection.execute("SELECT name FROM workers")]
    ended = [(name,) for name in names if not locks.is_alive(name)]
    connection.executemany("DELETE FROM workers WHERE name = ?", ended)
    return select_workers(connection, locks)


def select_workers(connection: sqlite3.Connection, locks: ProcessLocks) -> list[WorkerInfo]:
    """Return the workers of this service and account name that are alive, by their names."""
    query = (
        "SELECT name, host, pid, started_at, heartbeat_at, report FROM workers"
        " WHERE origin = own_origin() AND account_name = own_account_name() ORDER BY name"
    )
    found = [load_worker(*values) for values in connection.execute(query)]
    return [worker for worker in found if locks.is_alive(worker.name)]


def change_account(
    connection: sqlite3.Connection,
    change: Callable[[str | None, float], tuple[str | None, int, _T]],
    shared: Callable[[], float],
    loop_time: Callable[[], float],
) -> AccountChange[_T]:
    """Change the state of this account; see ``Journal.change_account``."""
    found = connection.execute(f"SELECT state FROM accounts WHERE {_OF_ACCOUNT}").fetchone()  # noqa: S608
    earliest, now = loop_time(), shared()
    latest = loop_time()
    text, epoch, result = change(None if found is None else str(found[0]), now)
    if text is not None:
        connection.execute(
            "INSERT INTO accounts VALUES (own_origin(), own_account_name(), 1, ?, ?)"
            " ON CONFLICT (origin, name) DO UPDATE SET"
            " version = version + 1, epoch = excluded.epoch, state = excluded.state",
            (epoch, text),
        )
    return AccountChange(result, now, earliest, latest)


def has_epoch(connection: sqlite3.Connection, epoch: int) -> bool:
    """Return True if the state of this account has an epoch."""
    query = f"SELECT 1 FROM accounts WHERE {_OF_ACCOUNT} AND epoch = ?"  # noqa: S608
    return connection.execute(query, (epoch,)).fetchone() is not None
