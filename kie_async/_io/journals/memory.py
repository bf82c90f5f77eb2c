"""``MemoryJournal``: rows that live as long as their client: over several event loops, not over a crash."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Unpack

import attrs

from kie_async._core.lifecycle import ENDED, OPEN, Intent, can_follow
from kie_async._core.occurrences import Occurrences, short_hash
from kie_async._io.journals.journal import Changes, illegal_move
from kie_async.errors import JournalError, KeyConflictError
from kie_async.states import JobState

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """
    Rows in a dict.

    Args:
        keep_ended: How many ended rows are kept that nobody will ask for by a key: those without one, and those that
            are released. Beyond that, the first to have ended are forgotten. Other rows with a key stay until
            ``forget``. Of a released key its hash stays, in 13 bytes, so that it is refused and not paid again.
    """

    def __init__(self, *, keep_ended: int = 10_000) -> None:
        self._rows: dict[str, Intent] = {}
        self._by_key: dict[str, str] = {}
        self._by_task: dict[str, str] = {}
        self._ended: dict[str, None] = {}  # an ordered set
        self._keep_ended = keep_ended
        self._let_go = Occurrences()

    #: Whether rows outlive the process.
    durable = False

    async def open(self) -> None:
        """Nothing is to be opened."""

    async def close(self) -> None:
        """The rows stay: the next event loop goes on with them."""

    async def add(self, intent: Intent) -> Intent:
        if intent.key is not None and (known := await self.by_key(intent.key)) is not None:
            return known
        if intent.id in self._rows:
            msg = f"{intent.id} is in the journal already."
            raise JournalError(msg, job_id=intent.id)
        self._rows[intent.id] = intent
        if intent.key is not None:
            self._by_key[intent.key] = intent.id
        return intent

    async def move(self, seen: Intent, state: JobState, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        if not can_follow(seen.state, state):
            raise illegal_move(seen, state)
        row = self._rows.get(seen.id)
        if row is None or (row.state, row.attempts) != (seen.state, seen.attempts):
            return None
        return self._put(attrs.evolve(row, state=state, updated_at=at, **changes))

    async def note(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        row = self._rows.get(job_id)
        return None if row is None else self._put(attrs.evolve(row, updated_at=at, **changes))

    async def get(self, job_id: str) -> Intent | None:
        return self._rows.get(job_id)

    async def by_key(self, key: str) -> Intent | None:
        known = self._by_key.get(key)
        if known is None and short_hash(key) in self._let_go:
            msg = (
                f"The key {key!r} has ended earlier in this process, and is not paid again; the journal in memory keeps"
                f" the last {self._keep_ended} only. Use KieClient(journal='kie.db') to have the result again."
            )
            raise KeyConflictError(msg)
        return None if known is None else self._rows[known]

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        return [self._rows[self._by_key[key]] for key in keys if key in self._by_key]

    async def has_keys(self) -> bool:
        return bool(self._by_key) or len(self._let_go) > 0

    async def let_go(self, keys: Collection[str]) -> Sequence[str]:
        return [key for key in keys if key not in self._by_key and short_hash(key) in self._let_go]

    async def by_task(self, task_id: str) -> Intent | None:
        known = self._by_task.get(task_id)
        return None if known is None else self._rows[known]

    async def rows(self, states: Collection[JobState] | None = None) -> Sequence[Intent]:
        return [row for row in self._rows.values() if states is None or row.state in states]

    async def rows_named_by_callbacks(self) -> Sequence[Intent]:
        return [row for row in self._rows.values() if row.callback_task_ids]

    async def changed(self, seen: Collection[Intent]) -> Mapping[str, Intent | None]:
        now = {row.id: self._rows.get(row.id) for row in seen}
        return {row.id: now[row.id] for row in seen if now[row.id] != row}

    async def forget(self, *, before: float) -> int:
        old = [row.id for row in self._rows.values() if row.state in ENDED and row.updated_at < before]
        for job_id in old:
            self._drop(job_id)
        return len(old)

    async def release(self, job_id: str) -> None:
        row = self._rows.get(job_id)
        if row is not None and row.state in ENDED:
            self._may_go(row)

    async def paid(self, model: str, most: int) -> Sequence[Intent]:
        found = (
            row
            for row in reversed(self._rows.values())
            if row.model == model and row.state is JobState.SUCCEEDED and row.credits is not None
        )
        return list(islice(found, most))

    def owns(self, row: Intent) -> bool:  # noqa: ARG002 (the same for all rows)
        """Whether a row is this process's: always."""
        return True

    async def alive(self, row: Intent) -> bool:  # noqa: ARG002 (the same for all rows)
        """Whether the owner of a row is alive: this process is."""
        return True

    async def claim(self, job_ids: Collection[str] | None = None) -> Sequence[Intent]:
        """The open rows; there are no other owners."""
        return [row for row in await self.rows(OPEN) if job_ids is None or row.id in job_ids]

    async def orphans(self) -> Mapping[JobState, int]:
        """Nothing is left behind by others."""
        return {}

    async def sent_by_the_dead(self, *, since: float) -> Sequence[float]:  # noqa: ARG002 (nobody)
        """Nothing was sent by others."""
        return ()

    async def version(self) -> int:
        """No other process writes."""
        return 0

    def _put(self, row: Intent) -> Intent:
        self._rows[row.id] = row
        for task_id in (row.task_id, *row.duplicate_task_ids):
            if task_id is not None:
                self._by_task[task_id] = row.id
        if row.state in ENDED and row.key is None:
            self._may_go(row)
        elif row.state not in ENDED:
            self._ended.pop(row.id, None)
        return row

    def _may_go(self, row: Intent) -> None:
        self._ended[row.id] = None
        if len(self._ended) > self._keep_ended:
            first = self._rows[next(iter(self._ended))]
            self._drop(first.id)
            if first.key is not None:
                self._let_go.add(short_hash(first.key))

    def _drop(self, job_id: str) -> None:
        self._ended.pop(job_id, None)
        row = self._rows.pop(job_id)
        if row.key is not None:
            del self._by_key[row.key]
        for task_id in (row.task_id, *row.duplicate_task_ids):
            if task_id is not None:
                self._by_task.pop(task_id, None)
