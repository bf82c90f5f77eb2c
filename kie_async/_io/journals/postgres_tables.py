"""
The queries of the journal in PostgreSQL.

A query is a generator: it yields statements, gets their rows, and returns its result. The first statements of
concurrent queries travel together, in one transaction and one round trip. A query that yields more of them must not
have changed anything by the first one: the rest runs in another transaction.
"""

# ruff: noqa: S608  (all names in the statements are ours; values are bound)

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias, TypeVar

import attrs

from kie_async._core import budget_ledger
from kie_async._core.budget_ledger import SeenPrices, may_cost_more
from kie_async._core.durations import Kind, ended_task
from kie_async._core.lifecycle import UNFINISHED, Intent
from kie_async._io.journals.rows import (
    COLUMNS,
    HAS_ENDED,
    INSERTED,
    IS_UNCHARGED,
    IS_UNFINISHED,
    in_states,
    keep_duplicates,
    to_columns,
    to_row,
)
from kie_async._keys import row_key
from kie_async.budget import BudgetInfo
from kie_async.states import JobState

_T = TypeVar("_T")

#: The text of a statement, and its parameters; those of ``PostgresSession`` are added.
Statement: TypeAlias = tuple[str, Mapping[str, object]]
Rows: TypeAlias = list[tuple[Any, ...]]
Query: TypeAlias = Generator[Statement, Rows, _T]


@attrs.frozen
class NotDone:
    """The result of reading back what was not committed."""


NOT_DONE = NotDone()

# In all statements ``kie.`` stands for the schema.
_COLUMNS = ", ".join(COLUMNS)
SELECT = f"SELECT {_COLUMNS} FROM kie.intents"
IS_HERE = "origin = %(own_origin)s"
#: The beginning of a statement that a crash may undo: its commit does not wait for the disk. It must read from *lazy*.
LAZY = "WITH lazy AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))"
ON_PAGE = "number > %(after)s ORDER BY number LIMIT %(limit)s"
KEEP_SECRET = (
    "INSERT INTO kie.callback_secrets VALUES (%(own_origin)s, %(own_account)s, %(own_callback_secret)s)"  # noqa: S105
    " ON CONFLICT DO NOTHING"
)
_INSERT = (
    f"INSERT INTO kie.intents ({', '.join(INSERTED)}) VALUES ({', '.join(f'%({name})s' for name in INSERTED)})"
    " ON CONFLICT (origin, key) DO NOTHING RETURNING number"
)
#: Of the rows in ``changed``.
_NOTE_DUPLICATES = (
    "INSERT INTO kie.duplicate_tasks SELECT given.task_id, id FROM changed,"
    " unnest(%(duplicates)s::text[]) AS given(task_id) ON CONFLICT (task_id) DO UPDATE SET job_id = EXCLUDED.job_id"
)
#: Others wait for these states.
_AWAITED = frozenset(JobState) - {JobState.INTENT, JobState.SENDING}

# -- rows --------------------------------------------------------------------------------------------------------------


def insert_row(intent: Intent) -> Query[Intent]:
    """Insert a row, or return the row that has its key already."""
    statement = _INSERT
    if intent.callback_url is not None:
        statement = f"WITH secret AS ({KEEP_SECRET}) {_INSERT}"
    columns = stored_columns(intent)
    while True:
        if added := (yield statement, columns):
            return attrs.evolve(intent, number=added[0][0])
        if (known := (yield from select_by_key(intent.key or ""))) is not None:
            return known  # otherwise it was deleted in between


def stored_columns(row: Intent) -> Mapping[str, object]:
    """Return the values of the columns of a row."""
    return _storable(to_columns({name: getattr(row, name) for name in INSERTED}))


def update_row(
    job_id: str,
    fields: Mapping[str, object],
    seen: Intent | None = None,
    account_epoch: int | None = None,
    *,
    least_version: int = 0,
) -> Query[Intent | None]:
    """
    Change a row.

    Args:
        job_id: The row's id.

        fields: The new values.

        seen: Change the row only if it still has the state, the number of attempts and the owner of this one; if the
            new state is SENDING, only if this worker is the owner; and if the state is SENDING, only to a task that no
            other row of its service has.

        account_epoch: Change the row only if the account still has this epoch; None for any.

        least_version: Change the row only if its version is not less.

    Returns:
        The changed row, or None if nothing was changed.

    Raises:
        BudgetExceededError: If the new state is SENDING, and the row's budget has no room; then roll back.
    """
    if "duplicate_task_ids" in fields:
        fields = keep_duplicates(fields, (yield from _select_one("id = %(id)s FOR UPDATE", id=job_id)))
    columns = _storable(to_columns(fields))
    values: dict[str, object] = {
        **columns,
        "id": job_id,
        "epoch": account_epoch,
        "least_version": least_version,
    }
    if seen is not None:
        values |= {"seen_state": str(seen.state), "seen_attempts": seen.attempts, "seen_owner": seen.owner}
    duplicates: Collection[str] = fields.get("duplicate_task_ids", ())  # type: ignore[assignment]  # its type in Intent
    values["duplicates"] = list(duplicates)
    update = partial(
        _update,
        tuple(columns),
        fenced=seen is not None,
        sends=seen is not None and fields.get("state") is JobState.SENDING,
        binds=seen is not None and seen.state is JobState.SENDING and fields.get("task_id") is not None,
        has_epoch=account_epoch is not None,
        has_duplicates=bool(duplicates),
        notifies=fields.get("state") in _AWAITED or "callback_task_ids" in fields or fields.get("owner", "") is None,
    )
    if changed := (yield update(without_budget=True), values):
        return to_row(changed[0][: len(COLUMNS)])
    before = yield from _select_one("id = %(id)s FOR UPDATE", id=job_id)
    if before is None or (before.budget is None and fields.get("budget") is None):
        return None
    changed = yield update(without_budget=False), values
    if not changed:
        return None
    row = to_row(changed[0][: len(COLUMNS)])
    yield from pay(before, row)
    if fields.get("state") is JobState.SENDING and row.budget is not None:
        others = () if row.price is not None else (yield from select_uncharged(row.budget))
        budget_ledger.check_create((yield from _lock_budget(row.budget)), row, others)
    return row


@lru_cache(maxsize=256)
def _update(
    names: tuple[str, ...],
    *,
    without_budget: bool,
    fenced: bool,
    sends: bool,
    binds: bool,
    has_epoch: bool,
    has_duplicates: bool,
    notifies: bool,
) -> str:
    where = "id = %(id)s AND version >= %(least_version)s"
    if without_budget:
        where += " AND budget IS NULL"
        # A row that gets a budget is changed with it, under its lock.
        where += " AND %(budget)s::text IS NULL" if "budget" in names else ""
    if fenced:
        where += (
            " AND state = %(seen_state)s AND attempts = %(seen_attempts)s AND owner IS NOT DISTINCT FROM %(seen_owner)s"
        )
    if sends:
        where += " AND owner = %(own_name)s"
    if binds:
        other = "other.task_id = %(task_id)s AND other.id <> %(id)s AND other.origin = intents.origin"
        duplicate = "known.task_id = %(task_id)s AND known.job_id <> %(id)s AND other.origin = intents.origin"
        where += (
            f" AND NOT EXISTS (SELECT FROM kie.intents AS other WHERE {other})"
            " AND NOT EXISTS (SELECT FROM kie.duplicate_tasks AS known JOIN kie.intents AS other"
            f" ON other.id = known.job_id WHERE {duplicate})"
        )
    if has_epoch:
        where += (
            " AND (SELECT epoch FROM kie.accounts WHERE origin = %(own_origin)s AND name = %(own_account_name)s)"
            " = %(epoch)s"
        )
    assignments = ", ".join(f"{name} = %({name})s" for name in names)
    update = f"UPDATE kie.intents SET {assignments}, version = version + 1 WHERE {where} RETURNING {_COLUMNS}"
    parts = [f"changed AS ({update})"]
    if has_duplicates:
        parts.append(f"duplicate AS ({_NOTE_DUPLICATES})")
    if "account" in names:
        parts.append(f"secret AS ({KEEP_SECRET})")
    if len(parts) == 1 and not notifies:
        return update
    notify = ", pg_notify(%(own_channel)s, id)" if notifies else ""
    return f"WITH {', '.join(parts)} SELECT {_COLUMNS}{notify} FROM changed"


def note_duplicates(row: Intent) -> Query[None]:
    """Note the further tasks of a row, by which it is found."""
    changed = "WITH changed AS (SELECT %(id)s::text AS id)"
    yield f"{changed} {_NOTE_DUPLICATES}", {"id": row.id, "duplicates": list(row.duplicate_task_ids)}


def read_back_row(job_id: str) -> Query[Intent | NotDone]:
    """Return the row that was added, or ``NOT_DONE``."""
    return (yield from select_one(job_id)) or NOT_DONE


def read_back_transition(wanted: Intent) -> Query[Intent | NotDone]:
    """
    Return the row that was changed, or ``NOT_DONE``; it waits for a transaction that is about to change it.

    Args:
        wanted: The row as it is if the transition was committed.
    """
    row = yield from _select_one("id = %(id)s FOR UPDATE", id=wanted.id)
    done = row is not None and (row.state, row.attempts, row.owner, row.task_id, row.updated_at) == (
        wanted.state,
        wanted.attempts,
        wanted.owner,
        wanted.task_id,
        wanted.updated_at,
    )
    return row if done and row is not None else NOT_DONE


def find_old(before: float, after: int, limit: int) -> Query[tuple[list[str], int | None]]:
    """
    Find ended rows that last changed before an instant.

    Args:
        before: The instant.

        after: Only rows with a larger number.

        limit: The number of rows to examine.

    Returns:
        The ids of those rows, and the number of the last row examined; None if there was none.
    """
    page = f"SELECT number, id, {HAS_ENDED} AND updated_at < %(before)s AS old FROM kie.intents WHERE {ON_PAGE}"
    query = f"SELECT coalesce(array_agg(id) FILTER (WHERE old), '{{}}'), max(number) FROM ({page}) AS page"
    rows = yield query, {"before": before, "after": after, "limit": limit}
    return rows[0]


def delete_ended(before: float, job_ids: Collection[str]) -> Query[int]:
    """
    Delete those of the rows that have ended and last changed before an instant, and return their number.

    A job of ``map()`` stays while a retry of its row is unfinished or newer: without it, the row would be paid again.
    """
    rows = yield "SELECT id, origin, key FROM kie.intents WHERE id = ANY(%(ids)s)", {"ids": list(job_ids)}
    retries = [None if key is None else f"{row_key(key)}~retry" for _, _, key in rows]
    is_old = f"{HAS_ENDED} AND updated_at < %(before)s"
    gone = (
        "DELETE FROM kie.intents"
        " USING unnest(%(ids)s::text[], %(origins)s::text[], %(first)s::text[], %(last)s::text[])"
        f" AS given(id, of_origin, first, last) WHERE intents.id = given.id AND {is_old} AND NOT EXISTS (SELECT FROM"
        " kie.intents AS retry WHERE retry.origin = of_origin AND retry.key > first AND retry.key < last"
        f" AND NOT ({is_old})) RETURNING intents.id, updated_at"
    )
    delete = (
        f"WITH gone AS ({gone}),"
        " duplicates AS (DELETE FROM kie.duplicate_tasks WHERE job_id IN (SELECT id FROM gone)),"
        " noted AS (UPDATE kie.meta SET forgotten_until ="
        " greatest(forgotten_until, (SELECT max(updated_at) FROM gone)))"
        " SELECT FROM gone"
    )
    values = {
        "before": before,
        "ids": [job_id for job_id, _, _ in rows],
        "origins": [origin for _, origin, _ in rows],
        "first": retries,
        # The colon follows the digits, so that all numbers are between.
        "last": [None if first is None else f"{first}:" for first in retries],
    }
    return len((yield delete, values))


def delete_unsent(job_id: str) -> Query[None]:
    """Delete a row that was never sent and is still this worker's: its caller has got an error."""
    where = "id = %(id)s AND state = 'intent' AND attempts = 0 AND owner = %(own_name)s"
    yield f"DELETE FROM kie.intents WHERE {where}", {"id": job_id}


def _select_one(where: str, **values: object) -> Query[Intent | None]:
    found = yield f"{SELECT} WHERE {where}", values
    return to_row(found[0]) if found else None


def select_one(job_id: str) -> Query[Intent | None]:
    """Return the row with an id, or None."""
    return _select_one("id = %(id)s", id=job_id)


def select_by_task(task_id: str) -> Query[Intent | None]:
    """Return the row of a task, or the row that has it as a duplicate; of two services, that of this one."""
    of_task = f"SELECT 1 AS place, {_COLUMNS} FROM kie.intents WHERE task_id = %(id)s"
    of_duplicate = (
        f"SELECT 2, {_COLUMNS} FROM kie.intents WHERE id ="
        " (SELECT job_id FROM kie.duplicate_tasks AS known WHERE known.task_id = %(id)s)"
    )
    query = (
        f"SELECT {_COLUMNS} FROM ({of_task} UNION ALL {of_duplicate}) AS found ORDER BY place, {IS_HERE} DESC LIMIT 1"
    )
    found = yield query, {"id": task_id}
    return to_row(found[0]) if found else None


def select_by_key(key: str) -> Query[Intent | None]:
    """Return the row that has a caller's key at this service, or None."""
    return _select_one(f"{IS_HERE} AND key = %(key)s", key=key)


def select_by_keys(keys: Sequence[str]) -> Query[list[Intent]]:
    """Return the rows that have one of the callers' keys."""
    query = f"{SELECT} WHERE {IS_HERE} AND key = ANY(%(keys)s)"
    rows = {row.key: row for row in map(to_row, (yield query, {"keys": list(keys)}))}
    return [rows[key] for key in keys if key in rows]


def has_keys() -> Query[bool]:
    """Return True if any row has a caller's key."""
    rows = yield f"SELECT FROM kie.intents WHERE {IS_HERE} AND key IS NOT NULL LIMIT 1", {}
    return bool(rows)


def select_keys(prefix: str, after: str, limit: int) -> Query[list[tuple[str, JobState]]]:
    """Return the callers' keys that begin with *prefix* and are greater than *after*, with the states of their rows."""
    query = (
        f"SELECT key, state FROM kie.intents WHERE {IS_HERE} AND key > %(after)s AND key >= %(prefix)s"
        " AND key < %(prefix)s || repeat(chr(1114111), 513) AND starts_with(key, %(prefix)s)"
        " ORDER BY key LIMIT %(limit)s"
    )
    rows = yield query, {"prefix": prefix, "after": after, "limit": limit}
    return [(key, JobState(state)) for key, state in rows]


def select_rows(states: Collection[JobState] | None, after: int, limit: int | None) -> Query[list[Intent]]:
    """Return the rows in one of *states* (None for all) with larger numbers than *after*, oldest first."""
    where = ""
    if states is not None:
        is_unfinished = f"{IS_UNFINISHED} AND " if UNFINISHED.issuperset(states) else ""  # for the index
        where = f"{is_unfinished}{in_states(states) if states else 'false'} AND "
    rows = yield f"{SELECT} WHERE {where}{ON_PAGE}", {"after": after, "limit": limit}
    return [to_row(row) for row in rows]


def select_named_by_callbacks(after: int, limit: int | None) -> Query[list[Intent]]:
    """Return the rows for which callbacks have named tasks that are not proved yet; see ``select_rows``."""
    where = f"callback_task_ids <> '[]' AND {IS_HERE} AND {ON_PAGE}"
    rows = yield f"{SELECT} WHERE {where}", {"after": after, "limit": limit}
    return [to_row(row) for row in rows]


def select_recent_durations(limit: int) -> Query[list[tuple[Kind, float]]]:
    """Return kind and seconds of the latest rows whose task has ended; old rows of a large table are not searched."""
    query = (
        "SELECT model, input, record FROM kie.intents WHERE number > (SELECT max(number) FROM kie.intents) - 10000"
        f" AND {IS_HERE} AND state IN ('succeeded', 'failed') AND record IS NOT NULL ORDER BY number DESC"
        " LIMIT %(limit)s"
    )
    found = [ended_task(*values) for values in (yield query, {"limit": limit})]
    return [task for task in reversed(found) if task is not None]


def select_seen_prices(model: str, price_class: str) -> Query[SeenPrices]:
    """Return the prices of a price class and of its model; indexes keep this fast."""
    charged = f"FROM kie.intents WHERE {IS_HERE} AND state = 'succeeded' AND credits IS NOT NULL AND"
    query = (
        f"SELECT (SELECT min(credits) {charged} price_class = %(price_class)s),"
        f" (SELECT max(credits) {charged} price_class = %(price_class)s),"
        f" (SELECT max(credits) {charged} model = %(model)s)"
    )
    rows = yield query, {"model": model, "price_class": price_class}
    return SeenPrices(*rows[0])


def select_uncharged(budget: str) -> Query[list[Intent]]:
    """Return the rows of a named budget that may have been paid and whose cost is not known."""
    rows = yield f"{SELECT} WHERE {IS_HERE} AND budget = %(budget)s AND {IS_UNCHARGED}", {"budget": budget}
    return [row for row in map(to_row, rows) if may_cost_more(row)]


def find_changed(seen: Collection[Intent]) -> Query[dict[str, Intent | None]]:
    """Return the rows whose version differs from *seen*, by their ids."""
    columns = ", ".join(f"found.{name}" for name in COLUMNS)
    query = (
        f"SELECT given.id, {columns} FROM unnest(%(ids)s::text[], %(versions)s::bigint[]) AS given(id, version)"
        " LEFT JOIN kie.intents AS found ON found.id = given.id WHERE found.version IS DISTINCT FROM given.version"
    )
    rows = yield query, {"ids": [row.id for row in seen], "versions": [row.version for row in seen]}
    return {job_id: None if values[0] is None else to_row(values) for job_id, *values in rows}


# -- budgets -----------------------------------------------------------------------------------------------------------

_BUDGET = "name, credits, spent, running, held"
_WRITE_BUDGET = (
    f"INSERT INTO kie.budgets (origin, {_BUDGET})"
    " VALUES (%(own_origin)s, %(name)s, %(credits)s, %(spent)s, %(running)s, %(held)s) ON CONFLICT (origin, name)"
    " DO UPDATE SET (credits, spent, running, held) ="
    " (EXCLUDED.credits, EXCLUDED.spent, EXCLUDED.running, EXCLUDED.held)"
)


def select_budgets() -> Query[list[BudgetInfo]]:
    """Return all budgets of the service, by name."""
    rows = yield f"SELECT {_BUDGET} FROM kie.budgets WHERE {IS_HERE} ORDER BY name", {}
    return [_to_info(row) for row in rows]


def write_budget(
    change: Callable[[BudgetInfo | None, str, float], BudgetInfo], name: str, credits: float
) -> Query[BudgetInfo]:
    """
    Create or change the limit of a budget.

    Args:
        change: Returns the new budget, given the present one, or None, with the name and the credits.

        name: The name.

        credits: The limit.
    """
    yield "SELECT", {}  # all that follows is one transaction
    yield "SELECT pg_advisory_xact_lock(hashtext('kie_async budget'), hashtext(%(name)s))", {"name": name}
    found = yield from _read_budget(name)
    info = change(found, name, credits)
    yield _WRITE_BUDGET, attrs.asdict(info)
    return info


def restore_budget(info: BudgetInfo) -> Query[None]:
    """Write a budget again that is gone, or whose limit was raised since; the restored rows pay for themselves."""
    found = (yield from _read_budget(info.name)) or attrs.evolve(info, spent=0.0, running=0.0, held=0.0)
    yield _WRITE_BUDGET, attrs.asdict(attrs.evolve(found, credits=max(found.credits, info.credits)))


def _read_budget(name: str) -> Query[BudgetInfo | None]:
    query = f"SELECT {_BUDGET} FROM kie.budgets WHERE {IS_HERE} AND name = %(name)s FOR UPDATE"
    found = yield query, {"name": name}
    return _to_info(found[0]) if found else None


def _to_info(values: tuple[Any, ...]) -> BudgetInfo:
    return BudgetInfo(**dict(zip(_BUDGET.split(", "), values, strict=True)))


def _lock_budget(name: str) -> Query[BudgetInfo]:
    # A journal that went back may lack it. The worker that has opened it restores it; it has no room until then.
    return (yield from _read_budget(name)) or BudgetInfo(name=name, credits=0.0, spent=0.0, running=0.0, held=0.0)


def pay(before: Intent | None, row: Intent) -> Query[None]:
    """Change the budgets that pay for a row, which may be new; their rows are locked in one order."""
    old = None if before is None else before.budget
    for name in sorted({budget for budget in (old, row.budget) if budget is not None}):
        info = yield from _lock_budget(name)
        if old == name:
            info = budget_ledger.changed_budget(info, before, None)
        if row.budget == name:
            info = budget_ledger.changed_budget(info, None, row)
        yield _WRITE_BUDGET, attrs.asdict(info)


def _storable(columns: dict[str, object]) -> dict[str, object]:
    """Replace U+0000, which a text of PostgreSQL cannot hold, in a reason that the service has given."""
    if isinstance(error := columns.get("error"), str) and "\0" in error:
        columns["error"] = error.replace("\0", "\ufffd")
    return columns
