"""
The rows that a journal has acknowledged: what to write again if the journal has gone back in time.

A journal goes back when its database fails over to a standby that lags, or when a copy of its file is put in place. Its
rows then say that tasks were not sent which were sent and paid. What each process was told is written decides. See
docs/explanation/in-doubt.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import attrs

from kie_async._core.lifecycle import ENDED, Intent
from kie_async.budget import BudgetInfo

__all__ = ["KEPT_FOR", "AcknowledgedRows", "Repair", "Restoration", "repair"]

#: The time in seconds for which acknowledged rows are remembered: no standby that takes over lags that far.
KEPT_FOR = 600.0
#: The largest number of rows to remember of jobs that were never sent: a loss of these costs nothing.
MAX_UNSENT = 10_000


@attrs.frozen(kw_only=True)
class Repair:
    """
    A row that the journal has lost, in whole or in part.

    Attributes:
        present: The row in the journal; None if it is gone.

        row: The row to write.
    """

    present: Intent | None
    row: Intent


class AcknowledgedRows:
    """The latest version of each row that this process was told is written, for ten minutes."""

    def __init__(self) -> None:
        # Each with the instant of its acknowledgment, the oldest first.
        self._sent: dict[str, tuple[Intent, float]] = {}
        self._unsent: dict[str, tuple[Intent, float]] = {}
        self._ids: dict[str, str] = {}  # by the caller's keys

    def __len__(self) -> int:
        return len(self._sent) + len(self._unsent)

    def add(self, row: Intent, now: float) -> None:
        """
        Remember a row.

        Args:
            row: The row as written.

            now: The present instant, by a clock that never goes back, in seconds.
        """
        known = self.get(row.id)
        if known is not None and known.version > row.version:
            return
        self.discard(row.id)
        (self._sent if row.attempts else self._unsent)[row.id] = row, now
        if row.key is not None:
            self._ids[row.key] = row.id
        for rows in (self._sent, self._unsent):
            while rows and next(iter(rows.values()))[1] < now - KEPT_FOR:
                self.discard(next(iter(rows)))
        if len(self._unsent) > MAX_UNSENT:
            self.discard(next(iter(self._unsent)))

    def discard(self, job_id: str) -> None:
        """Forget a row, if it is remembered."""
        known = self._sent.pop(job_id, None) or self._unsent.pop(job_id, None)
        if known is not None and known[0].key is not None:
            self._ids.pop(known[0].key, None)

    def by_key(self, key: str) -> Intent | None:
        """Return the latest version of the row of a caller's key; None if it is not remembered."""
        return self.get(self._ids.get(key, ""))

    def get(self, job_id: str) -> Intent | None:
        """Return the latest version of a row; None if it is not remembered."""
        known = self._sent.get(job_id) or self._unsent.get(job_id)
        return None if known is None else known[0]

    def rows(self) -> list[Intent]:
        """Return all rows that are remembered."""
        return [row for rows in (self._sent, self._unsent) for row, _ in rows.values()]


def repair(acknowledged: Intent, present: Intent | None, *, forgotten_until: float) -> Repair | None:
    """
    Compare a row that was acknowledged with what the journal has of it.

    Args:
        acknowledged: The row as it was written.

        present: The row as the journal has it; None if it is gone.

        forgotten_until: The latest change of a row that ``forget`` has deleted, in seconds since the epoch. An ended
            row that is gone and no younger was deleted on purpose.

    Returns:
        What to write, or None if nothing that was acknowledged is missing.
    """
    if present is None:
        deleted = acknowledged.state in ENDED and acknowledged.updated_at <= forgotten_until
        return None if deleted else Repair(present=None, row=acknowledged)
    lost = [task_id for task_id in _tasks(acknowledged) if task_id not in _tasks(present)]
    if not lost and present.attempts >= acknowledged.attempts and present.version >= acknowledged.version:
        return None
    # If another process has sent the job again meanwhile, its attempt continues, and the lost task is a further one.
    sent_again = present.attempts > acknowledged.attempts or present.task_id not in (None, acknowledged.task_id)
    kept = present if sent_again else acknowledged
    further = dict.fromkeys((*kept.duplicate_task_ids, *lost, *_tasks(present)))
    row = attrs.evolve(
        kept,
        attempts=max(acknowledged.attempts, present.attempts),
        duplicate_task_ids=tuple(task_id for task_id in further if task_id != kept.task_id),
        number=present.number,
        version=max(acknowledged.version, present.version + 1),
    )
    return Repair(present=present, row=row)


def _tasks(row: Intent) -> tuple[str, ...]:
    """Return all tasks that are known to be those of a job."""
    return (*filter(None, (row.task_id,)), *row.duplicate_task_ids)


def _items(result: object) -> Iterable[object]:
    if isinstance(result, Mapping):
        return result.values()
    return result if isinstance(result, (list, tuple)) else (result,)


class Restoration:
    """
    The acknowledged rows of one journal, and the repairs of a transaction until it is committed.

    The writer's thread uses it below all calls, so that a journal that has gone back in time is repaired before any job
    is claimed or sent by its rows.
    """

    def __init__(self) -> None:
        #: The present instant by the loop's clock.
        self.instant = 0.0
        self._rows = AcknowledgedRows()
        self._budgets: dict[str, BudgetInfo] = {}
        self._written: list[Repair] = []
        self._committed: list[Repair] = []

    def rows(self) -> Sequence[Intent]:
        """Return the rows that must be in the journal."""
        return self._rows.rows()

    def budgets(self) -> Sequence[BudgetInfo]:
        """Return the budgets that must be in the journal: with these limits, or higher ones."""
        return list(self._budgets.values())

    def known_by_key(self, key: str | None) -> Intent | None:
        """Return the acknowledged row of a caller's key, or None."""
        return None if key is None else self._rows.by_key(key)

    def least_version(self, job_id: str, seen: Intent | None = None) -> int:
        """Return the version that a row had at least: when this process last wrote it, or when it was *seen*."""
        return max(row.version if row is not None else 0 for row in (self._rows.get(job_id), seen))

    def is_older(self, present: Intent | None, job_id: str, seen: Intent | None = None) -> bool:
        """
        Return True if a row is older than it was; then all rows must be restored.

        Args:
            present: The row that the journal has; None if it is gone.

            job_id: Its id.

            seen: The row as it was read earlier; if the journal has an older one, this one is restored.
        """
        if seen is not None and present is not None and seen.version > present.version:
            self._rows.add(seen, self.instant)
        known = self._rows.get(job_id)
        return known is not None and repair(known, present, forgotten_until=0.0) is not None

    def compare(self, present: Mapping[str, Intent], *, forgotten_until: float) -> Sequence[Repair]:
        """
        Return what the journal lacks of the acknowledged rows; the caller writes it in the running transaction.

        Args:
            present: The rows that the journal has of them, by id.

            forgotten_until: See ``repair``.
        """
        rows = sorted(self._rows.rows(), key=lambda row: row.number)  # rows that are gone get new numbers
        compared = (repair(row, present.get(row.id), forgotten_until=forgotten_until) for row in rows)
        found = [one for one in compared if one is not None]
        self._written += found
        return found

    def begin(self) -> None:
        """Drop the repairs of a transaction that was rolled back."""
        self._written.clear()

    def commit(self, results: Iterable[object]) -> None:
        """
        Remember what was committed.

        Args:
            results: The results of the calls; the rows among them were written.
        """
        self._committed += self._written
        self.acknowledge([one.row for one in self._written])
        self._written.clear()
        for result in results:
            found = _items(result)
            self.acknowledge(row for row in found if isinstance(row, Intent))
            self._budgets.update((info.name, info) for info in found if isinstance(info, BudgetInfo))

    def see(self, results: Iterable[object]) -> None:
        """
        Remember what others have made of the remembered rows: that a job has ended, after which it may be deleted.

        Args:
            results: The results of calls that read; the rows among them are in the journal.
        """
        found = chain.from_iterable(map(_items, results))
        self.acknowledge(row for row in found if isinstance(row, Intent) and self._rows.get(row.id) is not None)

    def acknowledge(self, rows: Iterable[Intent]) -> None:
        """Remember rows that are written."""
        for row in rows:
            self._rows.add(row, self.instant)

    def take_repairs(self) -> Sequence[Repair]:
        """Return the committed repairs that were not taken yet."""
        repairs, self._committed = self._committed, []
        return repairs
