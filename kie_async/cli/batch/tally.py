"""What a run has left to do: counted while the table is checked, by what the manifest and the journal know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from kie_async import JobSummary, Request
from kie_async.cli.batch.entry import State
from kie_async.cli.batch.keys import RETRY
from kie_async.cli.batch.manifest import Manifest
from kie_async.cli.batch.prices import Kinds

__all__ = ["DOUBTED", "ENDED_WELL", "UNDER_WAY", "Tally", "by_row"]

#: What the journal says of a job that the service may be at work on, and of one that may have been paid.
UNDER_WAY = ("submitted", "stalled")
DOUBTED = ("sending", "in_doubt", "unknown")
#: What it says of one that has its result.
ENDED_WELL = "succeeded"


def by_row(summaries: Iterable[JobSummary]) -> Mapping[str, JobSummary]:
    """
    Jobs that something was sent for, by the keys of their rows.

    Args:
        summaries: What the journal has of them, oldest first.
    """
    paid = (*UNDER_WAY, *DOUBTED, ENDED_WELL)
    sent = [job for job in summaries if job.key is not None and job.state in paid]
    return {RETRY.sub("", job.key or ""): job for job in sent}


@attrs.define(kw_only=True)
class Tally:
    """
    The rows of a table, counted by what is left to be done for them.

    Args:
        manifest: What is known of earlier runs; None for a folder without any.

        sent: The journal's unfinished jobs, by the keys of their rows.

        retries: How often a failed task is made again.

    Attributes:
        states: How many rows are done, running, or in doubt.

        left: How many may still cost something.

        kinds: Of which kinds those are.
    """

    manifest: Manifest | None = None
    sent: Mapping[str, JobSummary] = attrs.field(factory=dict)
    retries: int = 0
    states: Counter[State] = attrs.field(factory=Counter, init=False)
    left: int = attrs.field(default=0, init=False)
    kinds: Kinds = attrs.field(factory=Kinds, init=False)
    _met: set[str] = attrs.field(factory=set, init=False)

    @property
    def keyed(self) -> bool:
        """Whether rows are looked up, so that each needs its key."""
        return bool(self.sent) or (self.manifest is not None and len(self.manifest) > 0)

    def note(self, request: Request, key: str | None) -> None:
        """
        Count a row.

        Args:
            request: What it asks for.

            key: Its name; None where nobody has made one.
        """
        state = None if key is None else self._state(key)
        if state is None:
            self.left += 1
            self.kinds.note(request)
        else:
            self.states[state] += 1

    def strays(self) -> list[JobSummary]:
        """The unfinished jobs whose rows are not in the table."""
        return [job for key, job in self.sent.items() if key not in self._met]

    def _state(self, key: str) -> State | None:
        """What became of a row that costs nothing any more; None for one that may."""
        if (job := self.sent.get(key)) is not None:
            self._met.add(key)
            return State.RUNNING if job.state in UNDER_WAY else State.IN_DOUBT
        entry = None if self.manifest is None else self.manifest.entry(key)
        if entry is None or entry.state == State.SKIPPED:
            return None
        if entry.state == State.FAILED and (entry.task_id is None or self.retries):
            return None
        return State(entry.state)
