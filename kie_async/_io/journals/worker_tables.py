"""
The workers that share an SQLite file: the table, and its queries as functions of a connection.

A row only describes a worker. Its lock file tells whether it is alive; see ``ProcessLocks``.
"""

from __future__ import annotations

import sqlite3

from kie_async._io.journals.journal import load_worker
from kie_async._io.journals.process_locks import ProcessLocks
from kie_async.statistics import WorkerInfo

__all__ = ["SCHEMA", "select_workers", "write_heartbeat"]

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
"""


def write_heartbeat(
    connection: sqlite3.Connection, locks: ProcessLocks, host: str, pid: int, started_at: float, at: float, report: str
) -> list[WorkerInfo]:
    """Write the row of this worker, remove those of workers that have ended, and return those of ``select_workers``."""
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
