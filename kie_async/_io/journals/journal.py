"""What every journal can do: keep the rows of intents, and move them only by compare-and-set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypedDict, Unpack

from kie_async._core.lifecycle import Intent, SourceImage
from kie_async.errors import JournalError
from kie_async.states import JobState

__all__ = ["Changes", "Journal", "illegal_move"]


class Changes(TypedDict, total=False):
    """What may change in a row beside its state."""

    sources: tuple[SourceImage, ...]
    input: str
    callback_url: str | None
    attempts: int
    ambiguous_attempts: int
    sending_at: float | None
    task_id: str | None
    accepted_at: float | None
    record: str | None
    credits: float | None
    error: str | None
    duplicate_task_ids: tuple[str, ...]
    callback_task_ids: tuple[str, ...]


class Journal(Protocol):
    """
    Where intents are written down.

    Every method raises ``JournalError`` if the journal cannot do what is asked; then nothing was changed.
    """

    @property
    def durable(self) -> bool:
        """Whether rows outlive the process."""
        ...

    async def open(self) -> None:
        """Be ready; called before anything else, once by each client in each event loop."""
        ...

    async def close(self) -> None:
        """Write what is on its way, and let go of what is open; called once for each ``open``."""
        ...

    async def add(self, intent: Intent) -> Intent:
        """
        Write a new row down and return it; if its key is there already, change nothing and return that row.
        """
        ...

    async def move(self, seen: Intent, state: JobState, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
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

    async def note(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        """
        Change a row without moving it; None if it is not there.
        """
        ...

    async def get(self, job_id: str) -> Intent | None:
        """The row of an id."""
        ...

    async def by_key(self, key: str) -> Intent | None:
        """The row of a caller's key."""
        ...

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        """The rows of callers' keys, of those that have one."""
        ...

    async def has_keys(self) -> bool:
        """Whether any row has a caller's key, or had one and was let go."""
        ...

    async def let_go(self, keys: Collection[str]) -> Sequence[str]:
        """Which of these callers' keys had rows that were let go, so that nothing more is known of them."""
        ...

    async def by_task(self, task_id: str) -> Intent | None:
        """The row of a taskId."""
        ...

    async def rows(self, states: Collection[JobState] | None = None) -> Sequence[Intent]:
        """The rows in one of *states* (all, if None), oldest first."""
        ...

    async def rows_named_by_callbacks(self) -> Sequence[Intent]:
        """The rows for which callbacks have named tasks that are not proved yet, oldest first."""
        ...

    async def changed(self, seen: Collection[Intent]) -> Mapping[str, Intent | None]:
        """
        Which rows no longer stand as they were seen.

        Args:
            seen: Rows as the caller knows them.

        Returns:
            By their ids, the rows that another move, note or owner has changed, as they are now; None for one that is
            gone.
        """
        ...

    async def forget(self, *, before: float) -> int:
        """Delete the ended rows that last changed before the instant *before*, and return how many."""
        ...

    async def release(self, job_id: str) -> None:
        """
        Say that the caller of a row that has ended has had its result.

        A journal that must not grow may let such rows go, the oldest first; their keys are not paid again all the same.
        """
        ...

    async def paid(self, model: str, most: int) -> Sequence[Intent]:
        """Rows of a model that have succeeded, with what they have cost: some of the latest, at most *most*."""
        ...

    def owns(self, row: Intent) -> bool:
        """Whether a row is this process's to work on."""
        ...

    async def alive(self, row: Intent) -> bool:
        """Whether the owner of a row is alive, be it this process or another one."""
        ...

    async def claim(self, job_ids: Collection[str] | None = None) -> Sequence[Intent]:
        """
        Take over open rows whose owner is dead.

        Args:
            job_ids: Only these; None for all.

        Returns:
            The open rows (of these) that are this process's now, oldest first, whether they were before or not.
        """
        ...

    async def orphans(self) -> Mapping[JobState, int]:
        """How many open rows have no owner that is alive, by state."""
        ...

    async def sent_by_the_dead(self, *, since: float) -> Sequence[float]:
        """
        When the unfinished creates were sent that owners have sent who are not alive.

        Args:
            since: Only those after this instant, in seconds since the epoch.
        """
        ...

    async def version(self) -> int:
        """A number that changes when another process has written."""
        ...


def illegal_move(row: Intent, state: JobState) -> JournalError:
    """The error for a move that the table of moves does not have."""
    msg = f"An intent cannot move from {row.state} to {state}. This is a bug: please report it."
    return JournalError(msg, job_id=row.id, task_id=row.task_id)
