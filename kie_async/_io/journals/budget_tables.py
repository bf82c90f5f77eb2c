"""
The named budgets in SQLite: their table, and every query as a function of a connection.

A budget's sums change in the transaction that changes a row which it pays for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence

import attrs

from kie_async._core import budget_ledger
from kie_async._core.lifecycle import Intent
from kie_async.budget import BudgetInfo

__all__ = ["SCHEMA", "check_create", "pay", "restore_budget", "select_budgets", "write_budget"]

SCHEMA = """
    CREATE TABLE budgets (
        origin TEXT NOT NULL,
        name TEXT NOT NULL,
        credits REAL NOT NULL,
        spent REAL NOT NULL,
        running REAL NOT NULL,
        held REAL NOT NULL,
        PRIMARY KEY (origin, name)
    ) WITHOUT ROWID;
"""

_COLUMNS = "name, credits, spent, running, held"
_SELECT = f"SELECT {_COLUMNS} FROM budgets WHERE origin = own_origin()"  # noqa: S608
_WRITE = f"INSERT OR REPLACE INTO budgets (origin, {_COLUMNS}) VALUES (own_origin(), ?, ?, ?, ?, ?)"  # noqa: S608


def select_budgets(connection: sqlite3.Connection) -> list[BudgetInfo]:
    """Return all budgets of the service, by name."""
    return [_to_info(found) for found in connection.execute(f"{_SELECT} ORDER BY name")]


def write_budget(
    connection: sqlite3.Connection,
    change: Callable[[BudgetInfo | None, str, float], BudgetInfo],
    name: str,
    credits: float,
) -> BudgetInfo:
    """
    Create or change the limit of a budget.

    Args:
        connection: The connection.

        change: Returns the new budget, given the present one, or None, with the name and the credits.

        name: The name.

        credits: The limit.
    """
    info = change(_find(connection, name), name, credits)
    connection.execute(_WRITE, attrs.astuple(info))
    return info


def restore_budget(connection: sqlite3.Connection, info: BudgetInfo) -> None:
    """Write a budget again that is gone, or whose limit was raised since; the restored rows pay for themselves."""
    found = _find(connection, info.name)
    if found is None:
        found = attrs.evolve(info, spent=0.0, running=0.0, held=0.0)
    connection.execute(_WRITE, attrs.astuple(attrs.evolve(found, credits=max(found.credits, info.credits))))


def pay(connection: sqlite3.Connection, before: Intent | None, row: Intent) -> None:
    """
    Change the budgets that pay for a row.

    Args:
        connection: The connection.

        before: The row before its change, if a budget paid for it.

        row: The row now.
    """
    for old, new in ((before, None), (None, row)):
        if (paid := old or new) is not None and paid.budget is not None:
            info = budget_ledger.changed_budget(_read(connection, paid.budget), old, new)
            connection.execute(_WRITE, attrs.astuple(info))


def check_create(connection: sqlite3.Connection, row: Intent, uncharged: Callable[[], Sequence[Intent]]) -> None:
    """
    Refuse a create for which its budget has no room.

    Args:
        connection: The connection; the budget has paid for the row already.

        row: The row of the job.

        uncharged: Returns the budget's rows that may have been paid and whose cost is not known.

    Raises:
        BudgetExceededError: If the create might exceed the budget; then roll back.
    """
    if row.budget is not None:
        others = uncharged() if row.price is None else ()
        budget_ledger.check_create(_read(connection, row.budget), row, others)


def _read(connection: sqlite3.Connection, name: str) -> BudgetInfo:
    # A file that went back may lack it. It is restored by the process that has opened it, and has no room until then.
    return _find(connection, name) or BudgetInfo(name=name, credits=0.0, spent=0.0, running=0.0, held=0.0)


def _find(connection: sqlite3.Connection, name: str) -> BudgetInfo | None:
    found = connection.execute(f"{_SELECT} AND name = ?", (name,)).fetchone()
    return None if found is None else _to_info(found)


def _to_info(values: Collection[object]) -> BudgetInfo:
    return BudgetInfo(**dict(zip(_COLUMNS.split(", "), values, strict=True)))  # type: ignore[arg-type]  # as the columns
