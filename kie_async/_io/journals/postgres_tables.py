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
from kie_async._io.journals.journal import load_worker
from kie_async._io.journals.rows import (
    COLUMNS,
    HAS_ENDED,
    INSERTED,
    IS_OPEN,
    IS_UNCHARGED,
    IS_UNFINISHED,
    in_states,
    to_columns,
    to_row,
)
from kie_async._keys import row_key
from kie_async.budget import BudgetInfo
from kie_async.states import JobState
from kie_async.statistics import WorkerInfo

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
_SELECT = f"SELECT {_COLUMNS} FROM kie.intents"
_IS_HERE = "origin = %(own_origin)s"
_PAGE = "number > %(after)s ORDER BY number LIMIT %(limit)s"
_KEEP_SECRET = (
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
        statement = f"WITH secret AS ({_KEEP_SECRET}) {_INSERT}"
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
        tells=fields.get("state") in _AWAITED or "callback_task_ids" in fields or fields.get("owner", "") is None,
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
    tells: bool,
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
        parts.append(f"secret AS ({_KEEP_SECRET})")
    if len(parts) == 1 and not tells:
        return update
    told = ", pg_notify(%(own_channel)s, id)" if tells else ""
    return f"WITH {', '.join(parts)} SELECT {_COLUMNS}{told} FROM changed"


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
    page = f"SELECT number, id, {HAS_ENDED} AND updated_at < %(before)s AS old FROM kie.intents WHERE {_PAGE}"
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
    """Delete a row that was never sent and is still this worker's: its caller was told that it was not written."""
    where = "id = %(id)s AND state = 'intent' AND attempts = 0 AND owner = %(own_name)s"
    yield f"DELETE FROM kie.intents WHERE {where}", {"id": job_id}


def _select_one(where: str, **values: object) -> Query[Intent | None]:
    found = yield f"{_SELECT} WHERE {where}", values
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
        f"SELECT {_COLUMNS} FROM ({of_task} UNION ALL {of_duplicate}) AS found ORDER BY place, {_IS_HERE} DESC LIMIT 1"
    )
    found = yield query, {"id": task_id}
    return to_row(found[0]) if found else None


def select_by_key(key: str) -> Query[Intent | None]:
    """Return the row that has a caller's key at this service, or None."""
    return _select_one(f"{_IS_HERE} AND key = %(key)s", key=key)


def select_by_keys(keys: Sequence[str]) -> Query[list[Intent]]:
    """Return the rows that have one of the callers' keys."""
    query = f"{_SELECT} WHERE {_IS_HERE} AND key = ANY(%(keys)s)"
    rows = {row.key: row for row in map(to_row, (yield query, {"keys": list(keys)}))}
    return [rows[key] for key in keys if key in rows]


def has_keys() -> Query[bool]:
    """Return True if any row has a caller's key."""
    rows = yield f"SELECT FROM kie.intents WHERE {_IS_HERE} AND key IS NOT NULL LIMIT 1", {}
    return bool(rows)


def select_keys(prefix: str, after: str, limit: int) -> Query[list[tuple[str, JobState]]]:
    """Return the callers' keys that begin with *prefix* and are greater than *after*, with the states of their rows."""
    query = (
        f"SELECT key, state FROM kie.intents WHERE {_IS_HERE} AND key > %(after)s AND key >= %(prefix)s"
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
    rows = yield f"{_SELECT} WHERE {where}{_PAGE}", {"after": after, "limit": limit}
    return [to_row(row) for row in rows]


def select_named_by_callbacks(after: int, limit: int | None) -> Query[list[Intent]]:
    """Return the rows for which callbacks have named tasks that are not proved yet; see ``select_rows``."""
    where = f"callback_task_ids <> '[]' AND {_IS_HERE} AND {_PAGE}"
    rows = yield f"{_SELECT} WHERE {where}", {"after": after, "limit": limit}
    return [to_row(row) for row in rows]


def select_recent_durations(limit: int) -> Query[list[tuple[Kind, float]]]:
    """Return kind and seconds of the latest rows whose task has ended; old rows of a large table are not searched."""
    query = (
        "SELECT model, input, record FROM kie.intents WHERE number > (SELECT max(number) FROM kie.intents) - 10000"
        f" AND {_IS_HERE} AND state IN ('succeeded', 'failed') AND record IS NOT NULL ORDER BY number DESC"
        " LIMIT %(limit)s"
    )
    found = [ended_task(*values) for values in (yield query, {"limit": limit})]
    return [task for task in reversed(found) if task is not None]


def select_seen_prices(model: str, price_class: str) -> Query[SeenPrices]:
    """Return the prices of a price class and of its model; indexes keep this fast."""
    charged = f"FROM kie.intents WHERE {_IS_HERE} AND state = 'succeeded' AND credits IS NOT NULL AND"
    query = (
        f"SELECT (SELECT min(credits) {charged} price_class = %(price_class)s),"
        f" (SELECT max(credits) {charged} price_class = %(price_class)s),"
        f" (SELECT max(credits) {charged} model = %(model)s)"
    )
    rows = yield query, {"model": model, "price_class": price_class}
    return SeenPrices(*rows[0])


def select_uncharged(budget: str) -> Query[list[Intent]]:
    """Return the rows of a named budget that may have been paid and whose cost is not known."""
    rows = yield f"{_SELECT} WHERE {_IS_HERE} AND budget = %(budget)s AND {IS_UNCHARGED}", {"budget": budget}
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
    rows = yield f"SELECT {_BUDGET} FROM kie.budgets WHERE {_IS_HERE} ORDER BY name", {}
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
    query = f"SELECT {_BUDGET} FROM kie.budgets WHERE {_IS_HERE} AND name = %(name)s FOR UPDATE"
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


# -- workers -----------------------------------------------------------------------------------------------------------

#: The present instant by the server's clock; within a statement it stands still.
_NOW = "extract(epoch FROM statement_timestamp())::double precision"
_IS_STEADY = (
    f"EXISTS (SELECT FROM kie.workers AS me WHERE me.name = %(own_name)s"
    f" AND {_NOW} - me.heartbeat_at BETWEEN 0 AND 1.5 * %(own_heartbeat)s"
    f" AND {_NOW} - me.steady_since >= 1.5 * %(own_heartbeat)s)"
)
# If the server's clock is stepped, all leases seem to end, or to last for hours: so both sides are compared. A worker
# whose own heartbeats were missing until now takes no lease for expired: the others may have been away like itself.
_HAS_LEASE = f"abs({_NOW} - worker.heartbeat_at) < worker.lease"
_OWNER_LIVES = f"worker.name = intents.owner AND ({_HAS_LEASE} OR NOT {_IS_STEADY})"
_IS_DEAD = f"NOT EXISTS (SELECT FROM kie.workers AS worker WHERE {_OWNER_LIVES})"
_OF_OTHER_ACCOUNT = (
    f"EXISTS (SELECT FROM kie.workers AS worker WHERE {_OWNER_LIVES} AND worker.account <> %(own_account)s)"
)
_IS_OPEN_HERE = f"{IS_OPEN} AND {_IS_HERE}"
#: The API key of a row matters only until it is sent.
_IS_RESUMABLE = "(state <> 'intent' OR account = %(own_account)s)"
_WORKER = "name, host, pid, started_at, heartbeat_at, report"


def write_heartbeat(
    host: str, pid: int, started_at: float, lease: float, report: str | None
) -> Query[list[WorkerInfo]]:
    """
    Write the row of this worker, which extends its lease, and return those of ``select_workers``.

    Args:
        host: The name of the machine.

        pid: The id of the process.

        started_at: The time at which the journal was opened.

        lease: The duration of the lease, in seconds.

        report: The text of its figures; None before the first heartbeat.
    """
    own = (
        "INSERT INTO kie.workers AS worker VALUES (%(own_name)s, %(own_origin)s, %(own_account)s, %(own_account_name)s,"
        f" %(host)s, %(pid)s, %(started_at)s, {_NOW}, {_NOW}, %(lease)s, %(report)s) ON CONFLICT (name) DO UPDATE SET"
        " heartbeat_at = EXCLUDED.heartbeat_at, report = EXCLUDED.report, lease = EXCLUDED.lease, steady_since ="
        f" CASE WHEN {_NOW} - worker.heartbeat_at BETWEEN 0 AND 1.5 * %(own_heartbeat)s THEN worker.steady_since"
        f" ELSE EXCLUDED.steady_since END RETURNING {_WORKER}"
    )
    # Long after their end: until then their names tell people who had the jobs.
    gone = f"DELETE FROM kie.workers AS worker WHERE {_NOW} - heartbeat_at > 60 * lease AND {_IS_STEADY}"
    others = (
        f"SELECT {_WORKER} FROM kie.workers AS worker WHERE {_IS_HERE} AND account_name = %(own_account_name)s"
        f" AND {_HAS_LEASE} AND report IS NOT NULL AND name <> %(own_name)s"
    )
    query = (
        f"WITH own AS ({own}), gone AS ({gone}), heard AS (SELECT pg_notify(%(own_name)s, '') FROM own)"
        f" SELECT {_WORKER} FROM own, heard UNION ALL {others} ORDER BY name"
    )
    values = {"host": host, "pid": pid, "started_at": started_at, "lease": lease, "report": report}
    return [load_worker(*row) for row in (yield query, values)]


def select_workers() -> Query[list[WorkerInfo]]:
    """Return the workers of this service and account name that are alive, by their names."""
    query = (
        f"SELECT {_WORKER} FROM kie.workers AS worker WHERE {_IS_HERE} AND account_name = %(own_account_name)s"
        f" AND {_HAS_LEASE} AND report IS NOT NULL ORDER BY name"
    )
    return [load_worker(*row) for row in (yield query, {})]


def ping() -> Query[None]:
    """Ask for nothing: the answer shows that the connection works."""
    yield "SELECT", {}


def delete_worker() -> Query[None]:
    """Delete the row of this worker: other workers may claim its jobs at once."""
    yield "DELETE FROM kie.workers WHERE name = %(own_name)s", {}


def is_alive(owner: str | None) -> Query[bool]:
    """Return True if an owner is alive; None, which is not a name, is never alive."""
    query = f"SELECT {_IS_DEAD} FROM (SELECT %(owner)s::text AS owner) AS intents"
    rows = yield query, {"owner": owner}
    return not rows[0][0]


def has_expired_owners() -> Query[bool]:
    """Return True if leases of owners of open rows have expired that this worker takes for alive, as it was away."""
    owned = f"SELECT FROM kie.intents WHERE owner = worker.name AND {_IS_OPEN_HERE}"
    expired = f"SELECT FROM kie.workers AS worker WHERE NOT {_HAS_LEASE} AND EXISTS ({owned})"
    rows = yield f"SELECT EXISTS ({expired}) AND NOT {_IS_STEADY}", {}
    return bool(rows[0][0])


def count_orphans() -> Query[dict[JobState, int]]:
    """Count the open rows whose owner is not alive and that this worker may resume, by state."""
    where = f"{_IS_OPEN_HERE} AND {_IS_RESUMABLE} AND {_IS_DEAD}"
    rows = yield f"SELECT state, count(*) FROM kie.intents WHERE {where} GROUP BY state", {}
    return {JobState(state): count for state, count in rows}


def count_unsent_of_other_keys() -> Query[int]:
    """Count the unsent rows whose owner is not alive and that were journaled with another API key."""
    where = f"{_IS_OPEN_HERE} AND state = 'intent' AND account <> %(own_account)s AND {_IS_DEAD}"
    rows = yield f"SELECT count(*) FROM kie.intents WHERE {where}", {}
    return int(rows[0][0])


def select_orphaned_send_times(since: float) -> Query[list[float]]:
    """Return the instants after *since* at which dead owners sent unfinished creates."""
    # A row in INTENT (again) was not sent, or was refused.
    where = f"{_IS_OPEN_HERE} AND state <> 'intent' AND sending_at > %(since)s AND {_IS_DEAD}"
    return [at for (at,) in (yield f"SELECT sending_at FROM kie.intents WHERE {where}", {"since": since})]


def select_older_callback_secrets() -> Query[list[bytes]]:
    """Return the secrets of callback tokens of other API keys of this service."""
    query = f"SELECT secret FROM kie.callback_secrets WHERE {_IS_HERE} AND account <> %(own_account)s"
    return [bytes(secret) for (secret,) in (yield query, {})]


def take_over(
    job_ids: Sequence[str] | None, after: int, limit: int | None, *, adopt_key: bool, left_only: bool = False
) -> Query[list[Intent]]:
    """
    Take over rows (with these ids), oldest first, and return them.

    They are those of dead owners, and those of this API key that a worker with another key has adopted: it may not be
    able to see their tasks. Rows that another worker is taking are its. With *left_only*, they are only those of dead
    owners, and not those that were given up.
    """
    asked = "" if job_ids is None else "id = ANY(%(ids)s) AND "
    resumable = "true" if adopt_key else _IS_RESUMABLE
    own_key = "state NOT IN ('intent', 'sending') AND account = %(own_account)s"
    other = "owner IS NOT NULL" if left_only else f"({own_key} AND {_OF_OTHER_ACCOUNT})"
    orphans = (
        f"SELECT number FROM kie.intents WHERE {asked}{_IS_OPEN_HERE}"
        f" AND (({resumable} AND {_IS_DEAD}) {'AND' if left_only else 'OR'} {other}) AND {_PAGE}"
        " FOR UPDATE SKIP LOCKED"
    )
    account = "CASE state WHEN 'intent' THEN %(own_account)s ELSE account END"
    take = (
        f"WITH orphans AS ({orphans}), secret AS ({_KEEP_SECRET}) UPDATE kie.intents SET owner = %(own_name)s,"
        f" account = {account}, version = version + 1 FROM orphans WHERE intents.number = orphans.number"
        f" RETURNING {', '.join(f'intents.{column}' for column in COLUMNS)}"
    )
    taken = yield take, {"ids": None if job_ids is None else list(job_ids), "after": after, "limit": limit}
    return sorted((to_row(row) for row in taken), key=lambda row: row.number)


def select_own(job_ids: Sequence[str] | None, after: int, limit: int | None) -> Query[list[Intent]]:
    """Return the open rows (with these ids) of this worker with larger numbers than *after*, oldest first."""
    asked = "" if job_ids is None else "id = ANY(%(ids)s) AND "
    values = {"ids": None if job_ids is None else list(job_ids), "after": after, "limit": limit}
    rows = yield f"{_SELECT} WHERE {asked}owner = %(own_name)s AND {_IS_OPEN_HERE} AND {_PAGE}", values
    return [to_row(row) for row in rows]


def _storable(columns: dict[str, object]) -> dict[str, object]:
    """Replace U+0000, which a text of PostgreSQL cannot hold, in a reason that the service has given."""
    if isinstance(error := columns.get("error"), str) and "\0" in error:
        columns["error"] = error.replace("\0", "\ufffd")
    return columns
