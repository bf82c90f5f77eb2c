"""The figures of a fleet, from the log of the service and the journal."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from statistics import fmean
from typing import TYPE_CHECKING, Any

import attrs

from kie_async.testing.truth import busiest_window
from tests.fleet.worker import SENDER, prompt

if TYPE_CHECKING:
    from kie_async.testing import Truth
    from kie_async.testing.faults import Call

__all__ = [
    "Arrival",
    "Figures",
    "SenderLog",
    "contradictions",
    "created_between",
    "paid_twice",
    "read_rows",
    "unfinished",
]

#: The states of a job in which nothing more happens.
_ENDED = frozenset({"succeeded", "failed", "rejected", "cancelled", "unresolved", "abandoned"})


class SenderLog:
    """
    The senders of create requests, in the order of arrival: the condition of a fault that never happens.

    The service's own log has no headers.

    Attributes:
        on_arrival: Called with the sender of a create request, before the service performs the request.
    """

    def __init__(self) -> None:
        self.on_arrival: Callable[[str], None] = lambda _: None
        self._senders: list[tuple[bytes, str]] = []

    def __call__(self, call: Call) -> bool:
        """Log a create request; return False."""
        self._senders.append((call.body, call.headers.get(SENDER, "")))
        self.on_arrival(self._senders[-1][1])
        return False

    def arrivals(self, truth: Truth) -> list[Arrival]:
        """Return all create requests."""
        found = []
        for post, (body, worker) in zip(truth.create_requests, self._senders, strict=True):
            assert json.loads(body) == post.body
            found.append(Arrival(post.at, worker, post.task_id))
        return found


@attrs.frozen
class Arrival:
    """
    A create request that has arrived.

    Attributes:
        at: The instant by the monotonic clock, in seconds.

        worker: The name of the worker that sent it.

        task_id: The task that it created; None if the request was refused.
    """

    at: float
    worker: str
    task_id: str | None


@attrs.frozen(kw_only=True)
class Figures:
    """
    The use of the account.

    Attributes:
        created: The number of tasks.

        refused: The number of refused create requests.

        busiest: The largest number of create requests in any window.

        used: The rate of creates after the first window, in percent of the limit; NaN for less than two windows.

        shares: The creates of each worker from the second window on, as long as all workers had some left.

        paid_twice: The number of tasks that were paid beside the first of their job.
    """

    created: int
    refused: int
    busiest: int
    used: float
    shares: Sequence[int]
    paid_twice: int

    @property
    def spread(self) -> float:
        """The difference between the largest and the smallest share, in percent of their mean."""
        return 100 * (max(self.shares) - min(self.shares)) / fmean(self.shares) if any(self.shares) else float("nan")

    @classmethod
    def of(cls, arrivals: Sequence[Arrival], truth: Truth, *, limit: int, window: float) -> Figures:
        """
        Compute the figures.

        Args:
            arrivals: The create requests.

            truth: The service's log.

            limit: The number of creates that a window allows.

            window: The length of the window, in seconds.
        """
        admitted = [one for one in arrivals if one.task_id is not None]
        # A last burst that is not full proves nothing.
        whole = len(admitted) // limit * limit
        used = float("nan")
        if whole > limit:
            used = 100 * (whole - limit) / (admitted[whole - 1].at - admitted[limit - 1].at) / (limit / window)
        return cls(
            created=len(admitted),
            refused=len(truth.rate_limited),
            busiest=busiest_window((one.at for one in arrivals), window),
            used=used,
            shares=_shares(admitted, window),
            paid_twice=len(paid_twice(truth)),
        )


def _shares(admitted: Sequence[Arrival], window: float) -> list[int]:
    """Count the creates of each worker from the second window on, up to the first worker's last create."""
    last = {one.worker: one.at for one in admitted}
    counted = Counter(one.worker for one in admitted if admitted[0].at + window <= one.at <= min(last.values()))
    return sorted(counted[worker] for worker in last)


def created_between(arrivals: Iterable[Arrival], begin: float, end: float) -> list[Arrival]:
    """Return the creates that were admitted in an interval, half-open as a window is."""
    return [one for one in arrivals if one.task_id is not None and begin <= one.at < end]


def paid_twice(truth: Truth) -> list[str]:
    """Return the prompts of the tasks that were paid beside the first of their job."""
    prompts = Counter(str(task.input.get("prompt")) for task in truth.created)
    return list((prompts - Counter(set(prompts))).elements())


def contradictions(rows: Mapping[str, dict[str, Any]], truth: Truth) -> list[str]:
    """
    Return what is wrong in the journal of a fleet whose jobs have ended.

    A create whose sender was killed may be in doubt, and without a callback its job is unresolved in the end. Each
    other job has succeeded with its own task.

    Args:
        rows: The rows by key.

        truth: The service's log, of tasks that do not fail.
    """
    found = [f"paid twice: {text}" for text in paid_twice(truth)]
    tasks = {str(task.input.get("prompt")): task.task_id for task in truth.created}
    for key, row in rows.items():
        own = tasks.get(prompt(key))
        if row["state"] not in ("succeeded", "unresolved"):
            found.append(f"{key} is {row['state']}")
        elif row["task_id"] != own and row["state"] == "succeeded":
            found.append(f"{key} has the task {row['task_id']}, and {own} is its own")
    found += [f"{text} has no row" for text in tasks.keys() - {prompt(key) for key in rows}]
    return found


def read_rows(journal: str, origin: str, schema: str = "kie_async") -> dict[str, dict[str, Any]]:
    """
    Return the rows of a journal by their keys, without the package's code.

    Args:
        journal: The path of the journal, or its DSN.

        origin: The service of the rows.

        schema: The schema of the journal, if it is in PostgreSQL.
    """
    query = "SELECT * FROM intents WHERE origin = ?"
    if "://" not in journal:
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return {row["key"]: dict(row) for row in connection.execute(query, (origin,))}
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(journal, autocommit=True, row_factory=dict_row, prepare_threshold=None) as postgres:
        table = psycopg.sql.Identifier(schema, "intents")
        statement = psycopg.sql.SQL("SELECT * FROM {} WHERE origin = %s").format(table)
        return {row["key"]: row for row in postgres.execute(statement, (origin,))}


def unfinished(rows: Iterable[dict[str, Any]], owners: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows that have not ended, of certain owners or of all."""
    return [row for row in rows if row["state"] not in _ENDED and (owners is None or row["owner"] in owners)]
