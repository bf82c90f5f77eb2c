"""
The queries that write rows in PostgreSQL only if no older rows than the acknowledged ones are there; else restore them.

After a failover to a standby that lagged, the journal says that tasks were not sent which were sent and paid.
"""

# ruff: noqa: S608  (all names in the statements are ours; values are bound)

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kie_async._core.acknowledged import Restoration
from kie_async._core.lifecycle import Intent
from kie_async._io.journals import postgres_tables as tables
from kie_async._io.journals.postgres_tables import Query
from kie_async._io.journals.rows import COLUMNS, INSERTED, to_row

__all__ = ["add_row", "change_row", "read_forgotten_until", "restore_rows"]

#: Workers restore one after another, because several may know the same row.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('kie_async restoration'), hashtext(%(own_channel)s))"
_REWRITE = (
    f"UPDATE kie.intents SET ({', '.join(INSERTED)}) = ({', '.join(f'%({name})s' for name in INSERTED)})"
    " WHERE id = %(id)s"
)


def add_row(restoration: Restoration, intent: Intent) -> Query[Intent]:
    """Insert a row, or return the row that has its key already, or had it before the journal went back."""
    lost = restoration.known_by_key(intent.key)
    if lost is not None:
        yield "SELECT", {}  # all that follows is one transaction
        if restoration.is_older((yield from tables.select_one(lost.id)), lost.id):
            yield from restore_rows(restoration)
    return (yield from tables.insert_row(intent))


def change_row(
    restoration: Restoration,
    job_id: str,
    fields: Mapping[str, object],
    seen: Intent | None = None,
    account_epoch: int | None = None,
) -> Query[Intent | None]:
    """Change a row; see ``update_row``. If it is older than it was, restore all rows first."""
    least_version = restoration.least_version(job_id, seen)
    row = yield from tables.update_row(job_id, fields, seen, account_epoch, least_version=least_version)
    if row is None and restoration.is_older((yield from tables.select_one(job_id)), job_id, seen):
        yield from restore_rows(restoration)
        row = yield from tables.update_row(job_id, fields, seen, account_epoch, least_version=least_version)
    return row


def read_forgotten_until() -> Query[float]:
    """Return the latest change of a row that was deleted, in seconds since the epoch."""
    ((forgotten_until,),) = yield "SELECT forgotten_until FROM kie.meta", {}
    return float(forgotten_until)


def restore_rows(restoration: Restoration) -> Query[None]:
    """Write again what the journal lacks of the acknowledged rows, in the running transaction."""
    ids = [row.id for row in restoration.rows()]
    yield _LOCK, {}
    found = yield f"SELECT {', '.join(COLUMNS)} FROM kie.intents WHERE id = ANY(%(ids)s) FOR UPDATE", {"ids": ids}
    forgotten_until = yield from read_forgotten_until()
    for info in restoration.budgets():
        yield from tables.restore_budget(info)
    present = {row.id: row for row in map(to_row, found)}
    repairs = restoration.compare(present, forgotten_until=forgotten_until)
    for repair in repairs:
        yield from _write_row(repair.present, repair.row)
    yield (
        "SELECT pg_notify(%(own_channel)s, id) FROM unnest(%(ids)s::text[]) AS given(id)",
        {"ids": [repair.row.id for repair in repairs]},
    )


def _write_row(present: Intent | None, row: Intent) -> Query[None]:
    if present is None:
        written = yield from tables.insert_row(row)
        if written.id != row.id:  # another job has got its key meanwhile
            row = attrs.evolve(row, key=None)
            yield from tables.insert_row(row)
    else:
        yield _REWRITE, tables.stored_columns(row)
    if row.duplicate_task_ids:
        yield from tables.note_duplicates(row)
    yield from tables.pay(present, row)
