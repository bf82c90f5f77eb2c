"""The holds of shared runs of ``map()`` in PostgreSQL; see ``share_tables``, and ``postgres_tables`` for queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kie_async._core.lifecycle import Intent
from kie_async._io.journals.postgres_tables import Query
from kie_async._io.journals.postgres_workers import is_alive
from kie_async._io.journals.rows import COLUMNS, to_row
from kie_async.states import JobState

__all__ = ["end_hold", "find_unheld", "select_by_ids", "take_holds"]

#: The rows whose outcome no shared run has yielded, and those that may be sent anew.
_MAY_BE_HELD = "origin = %(own_origin)s AND (yielded IS DISTINCT FROM state OR state = 'rejected')"


def select_by_ids(job_ids: Collection[str]) -> Query[list[Intent]]:
    """Return the rows that have one of these ids."""
    query = f"SELECT {', '.join(COLUMNS)} FROM kie.intents WHERE id = ANY(%(ids)s)"  # noqa: S608
    return [to_row(row) for row in (yield query, {"ids": list(job_ids)})]


def find_unheld(job_ids: Collection[str]) -> Query[dict[str, str | None]]:
    """Return the ids of those of the rows that a shared run may hold now, and their holders."""
    # An own row is held anew only if that changes something.
    query = (
        "SELECT id, holder FROM kie.intents WHERE id = ANY(%(ids)s)"  # noqa: S608
        f" AND (holder IS DISTINCT FROM %(own_name)s OR yielded IS NOT NULL) AND {_MAY_BE_HELD}"
    )
    found: dict[str, str | None] = dict((yield query, {"ids": list(job_ids)}))
    free: set[str | None] = set()
    for holder in set(found.values()):
        own = yield "SELECT %(holder)s::text = %(own_name)s", {"holder": holder}
        if own[0][0] or not (yield from is_alive(holder)):
            free.add(holder)
    return {job_id: holder for job_id, holder in found.items() if holder in free}


def take_holds(unheld: Mapping[str, str | None]) -> Query[None]:
    """Hold those of the rows that still have these holders; a row that another worker is changing is left out."""
    free = (
        "SELECT number FROM kie.intents JOIN unnest(%(ids)s::text[], %(holders)s::text[]) AS unheld (id, holder)"  # noqa: S608
        f" ON intents.id = unheld.id WHERE intents.holder IS NOT DISTINCT FROM unheld.holder AND {_MAY_BE_HELD}"
        " FOR UPDATE OF intents SKIP LOCKED"
    )
    take = (
        f"WITH free AS ({free}) UPDATE kie.intents SET holder = %(own_name)s, yielded = NULL, version = version + 1"  # noqa: S608
        " FROM free WHERE intents.number = free.number"
    )
    yield take, {"ids": list(unheld), "holders": list(unheld.values())}


def end_hold(job_id: str, yielded: JobState | None) -> Query[None]:
    """End the hold of a row; see ``Journal.end_hold``."""
    if yielded is None:
        leave = (
            "UPDATE kie.intents SET holder = NULL, yielded = NULL, version = version + 1"
            " WHERE id = %(id)s AND holder = %(own_name)s"
        )
        yield leave, {"id": job_id}
    else:  # also if another worker has taken this one for ended, and has taken its holds
        end = (
            "UPDATE kie.intents SET holder = %(own_name)s, yielded = %(yielded)s, version = version + 1"
            " WHERE id = %(id)s"
        )
        yield end, {"id": job_id, "yielded": str(yielded)}
