"""
The workers that share a journal in PostgreSQL: their leases, and the jobs that they leave.

See ``postgres_tables`` for what a query is.
"""

# ruff: noqa: S608  (all names in the statements are ours; values are bound)

from __future__ import annotations

from collections.abc import Sequence

from kie_async._core.lifecycle import Intent
from kie_async._io.journals.journal import load_worker
from kie_async._io.journals.postgres_tables import IS_HERE, KEEP_SECRET, LAZY, ON_PAGE, SELECT, Query
from kie_async._io.journals.rows import COLUMNS, IS_OPEN, to_row
from kie_async.states import JobState
from kie_async.statistics import WorkerInfo

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
_IS_OPEN_HERE = f"{IS_OPEN} AND {IS_HERE}"
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
        f"SELECT {_WORKER} FROM kie.workers AS worker WHERE {IS_HERE} AND account_name = %(own_account_name)s"
        f" AND {_HAS_LEASE} AND report IS NOT NULL AND name <> %(own_name)s"
    )
    query = (
        f"{LAZY}, own AS ({own}), gone AS ({gone}), heard AS (SELECT pg_notify(%(own_name)s, '') FROM own, lazy)"
        f" SELECT {_WORKER} FROM own, heard UNION ALL {others} ORDER BY name"
    )
    values = {"host": host, "pid": pid, "started_at": started_at, "lease": lease, "report": report}
    return [load_worker(*row) for row in (yield query, values)]


def select_workers() -> Query[list[WorkerInfo]]:
    """Return the workers of this service and account name that are alive, by their names."""
    query = (
        f"SELECT {_WORKER} FROM kie.workers AS worker WHERE {IS_HERE} AND account_name = %(own_account_name)s"
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
    """Return the instants after *since* at which ended owners sent unfinished creates."""
    # A row in INTENT (again) was not sent, or was refused.
    where = f"{_IS_OPEN_HERE} AND state <> 'intent' AND sending_at > %(since)s AND {_IS_DEAD}"
    return [at for (at,) in (yield f"SELECT sending_at FROM kie.intents WHERE {where}", {"since": since})]


def select_older_callback_secrets() -> Query[list[bytes]]:
    """Return the secrets of callback tokens of other API keys of this service."""
    query = f"SELECT secret FROM kie.callback_secrets WHERE {IS_HERE} AND account <> %(own_account)s"
    return [bytes(secret) for (secret,) in (yield query, {})]


def take_over(
    job_ids: Sequence[str] | None, after: int, limit: int | None, *, adopt_key: bool, left_only: bool = False
) -> Query[list[Intent]]:
    """
    Take over rows (with these ids), oldest first, and return them.

    They are those of ended owners, and those of this API key that a worker with another key has adopted: it may not be
    able to see their tasks. Rows that another worker is taking are its. With *left_only*, they are only those of ended
    owners, and not those that were given up.
    """
    asked = "" if job_ids is None else "id = ANY(%(ids)s) AND "
    resumable = "true" if adopt_key else _IS_RESUMABLE
    own_key = "state NOT IN ('intent', 'sending') AND account = %(own_account)s"
    other = "owner IS NOT NULL" if left_only else f"({own_key} AND {_OF_OTHER_ACCOUNT})"
    orphans = (
        f"SELECT number FROM kie.intents WHERE {asked}{_IS_OPEN_HERE}"
        f" AND (({resumable} AND {_IS_DEAD}) {'AND' if left_only else 'OR'} {other}) AND {ON_PAGE}"
        " FOR UPDATE SKIP LOCKED"
    )
    account = "CASE state WHEN 'intent' THEN %(own_account)s ELSE account END"
    take = (
        f"WITH orphans AS ({orphans}), secret AS ({KEEP_SECRET}) UPDATE kie.intents SET owner = %(own_name)s,"
        f" account = {account}, version = version + 1 FROM orphans WHERE intents.number = orphans.number"
        f" RETURNING {', '.join(f'intents.{column}' for column in COLUMNS)}"
    )
    taken = yield take, {"ids": None if job_ids is None else list(job_ids), "after": after, "limit": limit}
    return sorted((to_row(row) for row in taken), key=lambda row: row.number)


def select_own(job_ids: Sequence[str] | None, after: int, limit: int | None) -> Query[list[Intent]]:
    """Return the open rows (with these ids) of this worker with larger numbers than *after*, oldest first."""
    asked = "" if job_ids is None else "id = ANY(%(ids)s) AND "
    values = {"ids": None if job_ids is None else list(job_ids), "after": after, "limit": limit}
    rows = yield f"{SELECT} WHERE {asked}owner = %(own_name)s AND {_IS_OPEN_HERE} AND {ON_PAGE}", values
    return [to_row(row) for row in rows]
