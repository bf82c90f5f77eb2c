"""
The rows that a journal has acknowledged: what to write again if the journal has gone back in time.

A journal goes back when its database fails over to a standby that lags, or when a copy of its file is put in place. Its
rows then say that tasks were not sent which were sent and paid. What each process was told is written decides. See
docs/explanation/in-doubt.md.
"""

from __future__ import annotations

import attrs

from kie_async._core.lifecycle import ENDED, Intent

__all__ = ["KEPT_FOR", "AcknowledgedRows", "Repair", "repair"]

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
        for rows in (self._sent, self._unsent):
            while rows and next(iter(rows.values()))[1] < now - KEPT_FOR:
                del rows[next(iter(rows))]
        if len(self._unsent) > MAX_UNSENT:
            del self._unsent[next(iter(self._unsent))]

    def discard(self, job_id: str) -> None:
        """Forget a row, if it is remembered."""
        self._sent.pop(job_id, None)
        self._unsent.pop(job_id, None)

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
