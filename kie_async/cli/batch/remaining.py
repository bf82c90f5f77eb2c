"""What a run has left to do: counted while the table is checked, by what the manifest and the journal know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from kie_async import JobInfo, Problem, Request
from kie_async._display import shown
from kie_async._settings import row_key
from kie_async.cli.batch.columns import KEY
from kie_async.cli.batch.entry import Entry, State
from kie_async.cli.batch.manifest import Manifest
from kie_async.cli.batch.prices import Kinds

__all__ = ["DOUBTED", "ENDED_WELL", "UNDER_WAY", "Tally", "by_row"]

#: What the journal says of a job that the service may be at work on, and of one that may have been paid.
UNDER_WAY = ("submitted", "stalled")
DOUBTED = ("sending", "in_doubt", "unresolved")
#: What it says of one that has its result.
ENDED_WELL = "succeeded"

#: What a row is whose job is that.
_STATES = {
    **dict.fromkeys(UNDER_WAY, State.RUNNING),
    **dict.fromkeys(DOUBTED, State.IN_DOUBT),
    ENDED_WELL: State.DONE,
}


def by_row(summaries: Iterable[JobInfo]) -> Mapping[str, JobInfo]:
    """
    Jobs that something was sent for, by the keys of their rows.

    Args:
        summaries: What the journal has of them, oldest first.
    """
    sent = [job for job in summaries if job.key is not None and job.state in _STATES]
    return {row_key(job.key or ""): job for job in sent}


@attrs.define(kw_only=True)
class Tally:
    """
    The rows of a table, counted by what is left to be done for them.

    Args:
        manifest: What is known of earlier runs; None for a folder without any.

        sent: The journal's jobs that the manifest may not know, by the keys of their rows.

        retries: How often a failed task is made again.

    Attributes:
        states: How many rows are done, running, or in doubt.

        left: How many may still cost something.

        kinds: Of which kinds those are.
    """

    manifest: Manifest | None = None
    sent: Mapping[str, JobInfo] = attrs.field(factory=dict)
    retries: int = 0
    states: Counter[State] = attrs.field(factory=Counter, init=False)
    left: int = attrs.field(default=0, init=False)
    kinds: Kinds = attrs.field(factory=Kinds, init=False)
    _met: set[str] = attrs.field(factory=set, init=False)

    @property
    def keyed(self) -> bool:
        """Whether rows are looked up, so that each needs its key and its hash."""
        return bool(self.sent) or (self.manifest is not None and len(self.manifest) > 0)

    def count(self, request: Request, key: str, input_hash: str) -> list[Problem]:
        """
        Count a row.

        Args:
            request: What it asks for.

            key: Its name; empty where nobody has made one.

            input_hash: The hash of what it asks for, likewise.

        Returns:
            What is wrong with it, after what was sent for it before.
        """
        entry = None if self.manifest is None or not key else self.manifest.entry(key)
        if entry is not None and entry.job_id is not None and entry.input_hash != input_hash:
            allowed = "what was sent under this key; another shot needs a key of its own"
            return [Problem(KEY, f"{shown(key)} with another content than before", allowed)]
        state = self._state(key, entry)
        if state is None:
            self.left += 1
            self.kinds.note(request)
        else:
            self.states[state] += 1
        return []

    def strays(self) -> list[JobInfo]:
        """The unfinished jobs whose rows are not in the table."""
        return [job for key, job in self.sent.items() if key not in self._met and job.state != ENDED_WELL]

    def _state(self, key: str, entry: Entry | None) -> State | None:
        """What became of a row that costs nothing any more; None for one that may."""
        if (job := self.sent.get(key)) is not None:
            self._met.add(key)
            return _STATES[job.state]
        if entry is None or entry.state == State.SKIPPED:
            return None
        if entry.state == State.FAILED and (entry.task_id is None or self.retries):
            return None
        return State(entry.state)
