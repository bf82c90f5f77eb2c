"""
What survives: the rows of all intents, moved only by compare-and-set.

``MemoryJournal`` lives as long as its client: over several event loops, not over a crash.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypedDict, Unpack

import attrs

from kie_async._core.lifecycle import ENDED, Intent, IntentState, Source, may_move
from kie_async.errors import JournalError

__all__ = ["Changes", "Journal", "MemoryJournal"]


class Changes(TypedDict, total=False):
    """What may change in a row beside its state."""

    sources: tuple[Source, ...]
    input: str
    callback_url: str | None
    attempts: int
    suspect_attempts: int
    sending_at: float | None
    task_id: str | None
    accepted_at: float | None
    record: str | None
    credits: float | None
    error: str | None
    duplicates: tuple[str, ...]


class Journal(Protocol):
    """
    Where intents are written down.

    Every method raises ``JournalError`` if the journal cannot do what is asked; then nothing was changed.
    """

    async def add(self, intent: Intent) -> Intent:
        """
        Write a new row down and return it; if its key is there already, change nothing and return that row.
        """
        ...

    async def move(self, seen: Intent, state: IntentState, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        """
        Move a row to *state* if it still stands as it was seen: same state, same number of attempts.

        Args:
            seen: The row as the mover knows it.

            state: The new state.

            at: Now, in seconds since the epoch.

            **changes: What else changes, in the same write.

        Returns:
            The row as it is now, or None if somebody else had moved it.
        """
        ...

    async def note(self, intent_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        """
        Change a row without moving it; None if it is not there.
        """
        ...

    async def get(self, intent_id: str) -> Intent | None:
        """The row of an id."""
        ...

    async def by_key(self, key: str) -> Intent | None:
        """The row of a caller's key."""
        ...

    async def by_task(self, task_id: str) -> Intent | None:
        """The row of a taskId."""
        ...

    async def rows(self, states: Collection[IntentState] | None = None) -> Sequence[Intent]:
        """The rows in one of *states* (all, if None), oldest first."""
        ...

    async def forget(self, *, before: float) -> int:
        """Delete the ended rows that last changed before the instant *before*, and return how many."""
        ...


class MemoryJournal:
    """
    Rows in a dict.

    Args:
        keep_ended: How many ended rows without a key are kept; beyond that, the first to have ended are forgotten. Rows
            with a key stay until ``forget``: forgetting one would let the same key be paid again.
    """

    def __init__(self, *, keep_ended: int = 10_000) -> None:
        self._rows: dict[str, Intent] = {}
        self._by_key: dict[str, str] = {}
        self._by_task: dict[str, str] = {}
        self._ended: dict[str, None] = {}  # an ordered set
        self._keep_ended = keep_ended

    async def add(self, intent: Intent) -> Intent:
        if intent.key is not None and (known := self._by_key.get(intent.key)) is not None:
            return self._rows[known]
        if intent.id in self._rows:
            msg = f"{intent.id} is in the journal already."
            raise JournalError(msg, intent_id=intent.id)
        self._rows[intent.id] = intent
        if intent.key is not None:
            self._by_key[intent.key] = intent.id
        return intent

    async def move(self, seen: Intent, state: IntentState, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        row = self._rows.get(seen.id)
        if row is None or (row.state, row.attempts) != (seen.state, seen.attempts):
            return None
        if not may_move(row.state, state):
            msg = f"An intent cannot move from {row.state} to {state}. This is a bug: please report it."
            raise JournalError(msg, intent_id=row.id, task_id=row.task_id)
        return self._put(attrs.evolve(row, state=state, updated_at=at, **changes))

    async def note(self, intent_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        row = self._rows.get(intent_id)
        return None if row is None else self._put(attrs.evolve(row, updated_at=at, **changes))

    async def get(self, intent_id: str) -> Intent | None:
        return self._rows.get(intent_id)

    async def by_key(self, key: str) -> Intent | None:
        known = self._by_key.get(key)
        return None if known is None else self._rows[known]

    async def by_task(self, task_id: str) -> Intent | None:
        known = self._by_task.get(task_id)
        return None if known is None else self._rows[known]

    async def rows(self, states: Collection[IntentState] | None = None) -> Sequence[Intent]:
        return [row for row in self._rows.values() if states is None or row.state in states]

    async def forget(self, *, before: float) -> int:
        old = [row.id for row in self._rows.values() if row.state in ENDED and row.updated_at < before]
        for intent_id in old:
            self._drop(intent_id)
        return len(old)

    def _put(self, row: Intent) -> Intent:
        self._rows[row.id] = row
        for task_id in (row.task_id, *row.duplicates):
            if task_id is not None:
                self._by_task[task_id] = row.id
        if row.state in ENDED and row.key is None:
            self._ended[row.id] = None
            if len(self._ended) > self._keep_ended:
                self._drop(next(iter(self._ended)))
        else:
            self._ended.pop(row.id, None)
        return row

    def _drop(self, intent_id: str) -> None:
        self._ended.pop(intent_id, None)
        row = self._rows.pop(intent_id)
        if row.key is not None:
            del self._by_key[row.key]
        for task_id in (row.task_id, *row.duplicates):
            if task_id is not None:
                self._by_task.pop(task_id, None)
