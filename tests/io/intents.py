"""Rows and stores for tests of journals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs

from kie_async._core.lifecycle import Intent, SourceFile
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PROMPT", "bring_to_state", "make_intent", "open_store", "without_owner"]


#: A canary, which must not be found in a journal of hashes.
PROMPT = "The canary turns its head"

#: The fields that change with a transition into a state.
_ALONG: dict[JobState, dict[str, Any]] = {
    JobState.SENDING: {"attempts": 1, "sending_at": 2.0},
    JobState.SUBMITTED: {"task_id": "a-task", "accepted_at": 3.0},
}

#: The shortest path from INTENT to each state.
_WAYS: dict[JobState, list[JobState]] = {
    JobState.INTENT: [],
    JobState.SENDING: [JobState.SENDING],
    JobState.SUBMITTED: [JobState.SENDING, JobState.SUBMITTED],
    JobState.SUCCEEDED: [JobState.SENDING, JobState.SUBMITTED, JobState.SUCCEEDED],
    JobState.FAILED: [JobState.SENDING, JobState.SUBMITTED, JobState.FAILED],
    JobState.STALLED: [JobState.SENDING, JobState.SUBMITTED, JobState.STALLED],
    JobState.REJECTED: [JobState.SENDING, JobState.REJECTED],
    JobState.IN_DOUBT: [JobState.SENDING, JobState.IN_DOUBT],
    JobState.UNRESOLVED: [JobState.SENDING, JobState.IN_DOUBT, JobState.UNRESOLVED],
    JobState.ABANDONED: [JobState.SENDING, JobState.IN_DOUBT, JobState.ABANDONED],
    JobState.CANCELLED: [JobState.CANCELLED],
}


def make_intent(number: int = 0, **fields: Any) -> Intent:
    """Return a new row."""
    made: dict[str, Any] = {
        "id": f"kj_{number:032x}",
        "model": "wan/2-2-a14b-image-to-video-turbo",
        "input": f'{{"image_url":"https://files.example.com/canary.png","prompt":"{PROMPT}, take {number}"}}',
        "fingerprint": f"{number:064x}",
        "created_at": 1.0,
        "updated_at": 1.0,
        "sources": (
            SourceFile(
                field="image_url",
                sha256="a" * 64,
                origin="/home/canary/cat.png",
                url="https://files.example.com/canary.png",
                usable_until=0.5,
            ),
        ),
    }
    return Intent(**{**made, **fields})


def without_owner(row: Intent | None) -> Intent | None:
    """Return a row without its owner, whose name differs in each run."""
    return None if row is None else attrs.evolve(row, owner=None)


async def bring_to_state(journal: Any, row: Intent, state: JobState, **changes: Any) -> Intent:
    """Change a new row to *state* by the shortest path; *changes* belong to the last transition."""
    way = _WAYS[state]
    for step in way:
        extra = {**_ALONG.get(step, {}), **(changes if step is way[-1] else {})}
        if "task_id" in extra and await journal.by_task("a-task") is not None and "task_id" not in changes:
            extra["task_id"] = f"task-of-{row.id}"
        after = await journal.transition(row, step, at=row.updated_at, **extra)
        assert after is not None
        row = after
    return row


@asynccontextmanager
async def open_store(path: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    """Yield an open journal on disk."""
    journal = SqliteStore(path, **options)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()
