"""Compares the journal with the service's log, and both with the outcomes that callers received."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from kie_async import JSON
    from kie_async.testing import Truth

__all__ = ["Audit", "audit", "read_rows"]

#: The states of a job in which nothing more happens.
_SETTLED = frozenset({"succeeded", "failed", "rejected", "cancelled", "in_doubt", "unresolved", "abandoned"})
_DOUBTFUL = frozenset({"in_doubt", "unresolved", "abandoned"})

#: The outcomes of a wait; a timeout is not one of them.
ENDS = frozenset({"Generation", "TaskFailedError", "SubmitInDoubtError", "InvalidRequestError", "ServerError"})


@attrs.frozen(kw_only=True)
class Audit:
    """
    The errors that were found, one line each.

    Attributes:
        paid_twice: Jobs with more than one task.

        lost: Charged tasks that are missing in the journal.

        inconsistent: Other differences between the journal, the callers and the service.
    """

    paid_twice: list[str] = attrs.field(factory=list)
    lost: list[str] = attrs.field(factory=list)
    inconsistent: list[str] = attrs.field(factory=list)

    @property
    def findings(self) -> list[str]:
        """All errors."""
        return self.paid_twice + self.lost + self.inconsistent


def read_rows(journal: Path | str, schema: str = "") -> dict[str, dict[str, JSON]]:
    """
    Return the rows of a journal, a file or a schema of a DSN, by id, without the package's code.

    Raises:
        AssertionError: If the file is damaged.
    """
    if isinstance(journal, str):
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(journal, row_factory=dict_row) as postgres:
            table = psycopg.sql.Identifier(schema, "intents")
            rows = postgres.execute(psycopg.sql.SQL("SELECT * FROM {}").format(table)).fetchall()
        return {row["id"]: row for row in rows}
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        connection.row_factory = sqlite3.Row
        assert [("ok",)] == [tuple(row) for row in connection.execute("PRAGMA integrity_check")]
        return {row["id"]: dict(row) for row in connection.execute("SELECT * FROM intents")}
    finally:
        connection.close()


def audit(truth: Truth, journal: Path | str, events: Iterable[Mapping[str, JSON]], schema: str = "") -> Audit:
    """
    Find errors.

    Args:
        truth: The service's log.

        journal: The file or the DSN, after all processes have ended.

        events: The events of all processes.

        schema: The schema of a journal in PostgreSQL.
    """
    rows, events, found = read_rows(journal, schema), list(events), Audit()
    by_prompt = {_prompt(json.loads(str(row["input"]))): row for row in rows.values()}
    named = {str(row["task_id"]): row for row in rows.values() if row["task_id"] is not None}
    reported = {entry["job"] for entry in events if entry["event"] == "SubmitInDoubtError"}
    tasks: dict[str, list[str]] = defaultdict(list)
    for task in truth.created:
        shot = _prompt(task.input)
        tasks[shot].append(task.task_id)
        row = by_prompt.get(shot)
        if row is None:
            found.lost.append(f"task {task.task_id} ({shot}) has no row")
        elif task.task_id not in named and not (row["state"] in _DOUBTFUL and row["id"] in reported):
            found.lost.append(f"task {task.task_id} ({shot}) is not in its row, which is {row['state']}")
    found.paid_twice.extend(f"{shot} has {len(ids)} tasks" for shot, ids in tasks.items() if len(ids) > 1)
    for row in rows.values():
        if row["state"] not in _SETTLED:
            found.inconsistent.append(f"{row['id']} is still {row['state']}")
        elif row["state"] in ("succeeded", "failed"):
            ended = truth.tasks.get(str(row["task_id"]))
            if ended is None or _prompt(ended.input) != _prompt(json.loads(str(row["input"]))):
                found.inconsistent.append(f"{row['id']} has the task of another job")
            elif (ended.failure is None) != (row["state"] == "succeeded"):
                found.inconsistent.append(f"{row['id']} is {row['state']}, and its task is not")
    for entry in events:
        found.inconsistent.extend(_check_promise(entry, rows))
    return found


def _check_promise(entry: Mapping[str, JSON], rows: Mapping[str, Mapping[str, JSON]]) -> Iterable[str]:
    """Find events that contradict the journal."""
    if entry["event"] == "log":
        yield f"logged: {entry['message']}"
    if "job" not in entry:
        return
    row = rows.get(str(entry["job"]))
    if row is None:
        yield f"{entry['job']} was {entry['event']}, and is not in the journal"
    elif entry["event"] in ("Generation", "TaskFailedError") and row["state"] not in ("succeeded", "failed"):
        yield f"{entry['job']} had ended ({entry['event']}), and is {row['state']}"
    elif entry.get("task") is not None and entry["task"] != row["task_id"]:
        yield f"{entry['job']} had task {entry['task']}, and has {row['task_id']}"
    if entry["event"] not in ENDS | {"journaled"}:
        yield f"the wait for {entry['job']} ended with {entry['event']}: {entry.get('message')}"


def _prompt(given: object) -> str:
    return str(given.get("prompt")) if isinstance(given, Mapping) else ""
