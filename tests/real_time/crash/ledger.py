"""Holds the journal against the service's truth, and both against what callers were told."""

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

#: Where a job may stand when everybody has gone home.
_SETTLED = frozenset({"succeeded", "failed", "rejected", "cancelled", "in_doubt", "unresolved", "abandoned"})
_DOUBTFUL = frozenset({"in_doubt", "unresolved", "abandoned"})

#: How a wait may end; a time-out is no end.
ENDS = frozenset({"Generation", "TaskFailedError", "SubmitInDoubtError", "InvalidRequestError", "ServerError"})


@attrs.frozen(kw_only=True)
class Audit:
    """
    What is wrong, one line each.

    Attributes:
        paid_twice: Intents with more than one task.

        lost: Tasks that were paid for and that nobody knows.

        untrue: Whatever else the journal, the callers and the service do not agree about.
    """

    paid_twice: list[str] = attrs.field(factory=list)
    lost: list[str] = attrs.field(factory=list)
    untrue: list[str] = attrs.field(factory=list)

    @property
    def findings(self) -> list[str]:
        """All of them."""
        return self.paid_twice + self.lost + self.untrue


def read_rows(journal: Path) -> dict[str, dict[str, JSON]]:
    """
    The rows of a journal by their ids, read without the package's help.

    Raises:
        AssertionError: If the file is damaged.
    """
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        connection.row_factory = sqlite3.Row
        assert [("ok",)] == [tuple(row) for row in connection.execute("PRAGMA integrity_check")]
        return {row["id"]: dict(row) for row in connection.execute("SELECT * FROM intents")}
    finally:
        connection.close()


def audit(truth: Truth, journal: Path, told: Iterable[Mapping[str, JSON]]) -> Audit:
    """
    Find what must not be.

    Args:
        truth: The service's.

        journal: The file, after all processes have ended.

        told: What the callers were told, in all processes.
    """
    rows, told, found = read_rows(journal), list(told), Audit()
    by_prompt = {_prompt(json.loads(str(row["input"]))): row for row in rows.values()}
    named = {str(row["task_id"]): row for row in rows.values() if row["task_id"] is not None}
    reported = {entry["job"] for entry in told if entry["told"] == "SubmitInDoubtError"}
    tasks: dict[str, list[str]] = defaultdict(list)
    for task in truth.created:
        wish = _prompt(task.input)
        tasks[wish].append(task.task_id)
        row = by_prompt.get(wish)
        if row is None:
            found.lost.append(f"task {task.task_id} ({wish}) has no row")
        elif task.task_id not in named and not (row["state"] in _DOUBTFUL and row["id"] in reported):
            found.lost.append(f"task {task.task_id} ({wish}) is not in its row, which is {row['state']}")
    found.paid_twice.extend(f"{wish} has {len(ids)} tasks" for wish, ids in tasks.items() if len(ids) > 1)
    for row in rows.values():
        if row["state"] not in _SETTLED:
            found.untrue.append(f"{row['id']} is still {row['state']}")
        elif row["state"] in ("succeeded", "failed"):
            ended = truth.tasks.get(str(row["task_id"]))
            if ended is None or _prompt(ended.input) != _prompt(json.loads(str(row["input"]))):
                found.untrue.append(f"{row['id']} has the task of somebody else")
            elif (ended.failure is None) != (row["state"] == "succeeded"):
                found.untrue.append(f"{row['id']} is {row['state']}, and its task is not")
    for entry in told:
        found.untrue.extend(_unkept(entry, rows))
    return found


def _unkept(entry: Mapping[str, JSON], rows: Mapping[str, Mapping[str, JSON]]) -> Iterable[str]:
    """What is no longer true of what a caller was told."""
    if entry["told"] == "log":
        yield f"logged: {entry['message']}"
    if "job" not in entry:
        return
    row = rows.get(str(entry["job"]))
    if row is None:
        yield f"{entry['job']} was {entry['told']}, and is not in the journal"
    elif entry["told"] in ("Generation", "TaskFailedError") and row["state"] not in ("succeeded", "failed"):
        yield f"{entry['job']} had ended ({entry['told']}), and is {row['state']}"
    elif entry.get("task") is not None and entry["task"] != row["task_id"]:
        yield f"{entry['job']} had task {entry['task']}, and has {row['task_id']}"
    if entry["told"] not in ENDS | {"journaled"}:
        yield f"the wait for {entry['job']} ended with {entry['told']}: {entry.get('message')}"


def _prompt(given: object) -> str:
    return str(given.get("prompt")) if isinstance(given, Mapping) else ""
